"""A dashboard for Grafana, ready to import: power per channel and in total, energy, CO2, cost, gaps and faults.

It reads what ``forward`` writes to InfluxDB, in InfluxQL, or what ``exporter`` tells Prometheus. Nothing is added up in
a query: totals that count nothing twice are written as such, and each run of each machine stays apart.

Source: Grafana documentation, dashboard JSON model, InfluxDB and Prometheus data sources, variables, custom units;
InfluxData, InfluxQL reference.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from wattwerk.errors import ConfigError
from wattwerk.meters.account import AccountConfig, configured
from wattwerk.meters.account_data import Factor, preset
from wattwerk.registry import suggestion

DataBase = Literal["influxdb", "prometheus"]

_SCHEMA_VERSION: Final = 36
_COLUMNS: Final = 24
_CHOSEN: Final = '"host" =~ /^$host$/ AND "run" =~ /^$run$/ AND $timeFilter'
_INSTANCE: Final = 'instance=~"$instance"'

_CO2: Final = "/ 3600000 * $pue * $carbon_g_per_kwh"
_COST: Final = "/ 3600000 * $pue * $price_per_kwh"


class _Query(NamedTuple):
    """A question, and what its series are called."""

    text: str
    legend: str


class _Panel(NamedTuple):
    """A panel, with its question to InfluxDB and to Prometheus."""

    title: str
    kind: Literal["stat", "timeseries"]
    width: int
    height: int
    unit: str
    about: str
    influxdb: list[_Query]
    prometheus: list[_Query]


def _grown(factor: str) -> tuple[list[_Query], list[_Query]]:
    """Ask how much energy of the system a range took, in joules times a factor."""
    influx = (
        f'SELECT (last("energy_j") - first("energy_j")) {factor} FROM "wattwerk_total"'
        f' WHERE "scope" = \'system\' AND {_CHOSEN} GROUP BY "host", "run"'
    )
    prometheus = f'increase(wattwerk_total_energy_joules_total{{scope="system",{_INSTANCE}}}[$__range]) {factor}'
    return [_Query(influx, "$tag_host")], [_Query(prometheus, "{{instance}}")]


def _over_time(field: str, pick: str, legend: str, more: str = "") -> _Query:
    return _Query(
        f'SELECT {pick}("{field}"){more} FROM "wattwerk_total" WHERE {_CHOSEN}'
        ' GROUP BY time($__interval), "scope", "host", "run" fill(null)',
        legend,
    )


def _system_panels(account: AccountConfig, currency: str) -> list[_Panel]:
    return [
        _Panel(
            "Power of the system", "stat", 6, 5, "watt",
            "Newest value. The system is what lies inside nothing else that is measured, or the parts that were named.",
            [_Query(
                f'SELECT last("power_w") FROM "wattwerk_total" WHERE "scope" = \'system\' AND {_CHOSEN}'
                ' GROUP BY "host", "run"', "$tag_host"
            )],
            [_Query(f'wattwerk_total_power_watts{{scope="system",{_INSTANCE}}}', "{{instance}}")],
        ),
        _Panel(
            "Energy of the system", "stat", 6, 5, "watth",
            "In the chosen time, as far as it is known: gaps are not filled.",
            *_grown("/ 3600"),
        ),
        _Panel(
            "CO2 (modelled)", "stat", 6, 5, "massg",
            f"Energy of the system × PUE × carbon intensity: {_carbon(account).text()}. Change it above.",
            *_grown(_CO2),
        ),
        _Panel(
            "Cost (modelled)", "stat", 6, 5, f"currency:{currency} ",
            f"Energy of the system × PUE × price: {_price(account).text()}. Change it above.",
            *_grown(_COST),
        ),
    ]  # fmt: skip


def _course_panels() -> list[_Panel]:
    scope = "{{instance}} {{scope}}"
    return [
        _Panel(
            "Power by scope", "timeseries", 24, 8, "watt",
            "Scopes overlap: the wall contains the accelerator. They are not to be added up.",
            [_over_time("power_w", "mean", "$tag_host $tag_scope")],
            [_Query(f"wattwerk_total_power_watts{{{_INSTANCE}}}", scope)],
        ),
        _Panel(
            "Power by channel", "timeseries", 24, 9, "watt",
            "Each measuring channel. Channels overlap: some lie inside others, some tell the same thing twice.",
            [_Query(
                f'SELECT mean(/power_w$/) FROM "wattwerk" WHERE {_CHOSEN}'
                ' GROUP BY time($__interval), "host", "run" fill(null)', "$tag_host $col"
            )],
            [_Query(f"wattwerk_power_watts{{{_INSTANCE}}}", "{{instance}} {{channel}}")],
        ),
        _Panel(
            "Energy so far by scope", "timeseries", 12, 8, "watth",
            "Since each recording began. Scopes overlap and are not to be added up.",
            [_over_time("energy_j", "last", "$tag_host $tag_scope", " / 3600")],
            [_Query(f"wattwerk_total_energy_joules_total{{{_INSTANCE}}} / 3600", scope)],
        ),
        _Panel(
            "Gaps by scope", "timeseries", 6, 8, "s",
            "Time since the recording began of which no energy is known.",
            [_over_time("gap_s", "max", "$tag_host $tag_scope")],
            [_Query(f"wattwerk_total_gap_seconds{{{_INSTANCE}}}", scope)],
        ),
        _Panel(
            "Faults", "timeseries", 6, 8, "none",
            "Faults of meters that the recorder tells; lines that a sink gave up.",
            [_Query(
                f'SELECT max("faults_count") AS "faults", max("lost_count") AS "lost lines" FROM "wattwerk_state"'
                f' WHERE {_CHOSEN} GROUP BY time($__interval), "host", "run" fill(null)', "$tag_host $col"
            )],
            [_Query(f"wattwerk_faults_count{{{_INSTANCE}}}", "{{instance}} faults")],
        ),
    ]  # fmt: skip


def _carbon(account: AccountConfig) -> Factor:
    return account.carbon_factor() or preset("carbon", "eeki-report")


def _price(account: AccountConfig) -> Factor:
    return account.tariff_factor() or preset("tariff", "nonhousehold-eu")


def dashboard(data_base: DataBase = "influxdb", account: AccountConfig | None = None) -> bytes:
    """Return a dashboard as JSON that Grafana imports.

    Carbon intensity, price and PUE are fields at the top of the dashboard. They begin with what ``account`` says, and
    where it says nothing with the presets ``eeki-report`` and ``nonhousehold-eu``; their panels name the source.

    Args:
        data_base: ``influxdb`` (1.x, and 2.x with a bucket that is mapped to a database) or ``prometheus``.
        account: By default the section ``[account]`` of ``config.toml``.

    Raises:
        ConfigError: There is no such dashboard, or the section cannot be used.
    """
    if data_base not in get_args(DataBase):
        raise ConfigError(f"there is no dashboard for {data_base!r}", suggestion(data_base, list(get_args(DataBase))))
    account = account or configured()
    currency = _price(account).unit.partition("/")[0]
    made = {
        "uid": f"wattwerk-{data_base}",
        "title": "wattwerk",
        "description": "Power, energy, CO2 and cost, as wattwerk measures them.",
        "tags": ["energy", "wattwerk"],
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": _SCHEMA_VERSION,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables(data_base, account, currency)},
        "panels": _placed([*_system_panels(account, currency), *_course_panels()], data_base),
    }
    return msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n"


def _placed(panels: list[_Panel], data_base: DataBase) -> list[dict[str, Any]]:
    """Put panels side by side, as many to a row as fit."""
    placed, x, y = [], 0, 0
    for number, panel in enumerate(panels, 1):
        place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
        placed.append(_panel(number, panel, data_base, place))
        x += panel.width
        if x >= _COLUMNS:
            x, y = 0, y + panel.height
    return placed


def _panel(number: int, panel: _Panel, data_base: DataBase, place: dict[str, int]) -> dict[str, Any]:
    source = {"type": data_base, "uid": "${source}"}
    queries = panel.influxdb if data_base == "influxdb" else panel.prometheus
    defaults: dict[str, Any] = {"unit": panel.unit, "noValue": "no value"}
    if panel.kind == "timeseries":
        # a line over more than ten seconds without a value would be a value that nobody measured
        defaults["custom"] = {"lineWidth": 1, "fillOpacity": 0, "showPoints": "auto", "spanNulls": 10000}
        options: dict[str, Any] = {
            "legend": {
                "displayMode": "table",
                "placement": "right",
                "showLegend": True,
                "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    else:
        options = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "graphMode": "none"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [_target(letter, query, source) for letter, query in zip("ABCD", queries, strict=False)],
    }


def _target(letter: str, query: _Query, source: dict[str, str]) -> dict[str, Any]:
    if source["type"] == "prometheus":
        return {"refId": letter, "datasource": source, "expr": query.text, "legendFormat": query.legend}
    return {
        "refId": letter,
        "datasource": source,
        "query": query.text,
        "rawQuery": True,
        "resultFormat": "time_series",
        "alias": query.legend,
    }


def _variables(data_base: DataBase, account: AccountConfig, currency: str) -> list[dict[str, Any]]:
    source = {"type": "datasource", "name": "source", "label": "Data source", "query": data_base}
    if data_base == "influxdb":
        chosen = [
            _choice("host", "Machine", data_base, 'SHOW TAG VALUES FROM "wattwerk" WITH KEY = "host"'),
            _choice(
                "run", "Run", data_base, 'SHOW TAG VALUES FROM "wattwerk" WITH KEY = "run" WHERE "host" =~ /^$host$/'
            ),
        ]
    else:
        chosen = [_choice("instance", "Machine", data_base, "label_values(wattwerk_power_watts, instance)")]
    return [
        source,
        *chosen,
        _field("carbon_g_per_kwh", "g CO2 per kWh", _carbon(account).value),
        _field("price_per_kwh", f"{currency} per kWh", _price(account).value),
        _field("pue", "PUE", account.pue_factor().value),
    ]


def _choice(name: str, label: str, data_base: DataBase, query: str) -> dict[str, Any]:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": {"type": data_base, "uid": "${source}"},
        "query": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _field(name: str, label: str, value: float) -> dict[str, Any]:
    text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return {
        "type": "textbox",
        "name": name,
        "label": label,
        "query": text,
        "current": {"text": text, "value": text},
        "options": [{"text": text, "value": text, "selected": True}],
    }
