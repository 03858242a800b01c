"""The dashboard: every query in it is asked of a real data base that a recorder filled, and gives the right number.

Grafana itself is not started here. Its JSON is compared with the types that Grafana publishes of its schema.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.meters.influxd import INFLUXD, Influxd
from tests.meters.prometheus import Scraper, needs_prometheus

from wattwerk.errors import ConfigError
from wattwerk.meters.account import AccountConfig
from wattwerk.meters.dashboard import dashboard
from wattwerk.meters.exporter import serve
from wattwerk.meters.forward import Forwarder
from wattwerk.meters.live import Live
from wattwerk.meters.recorder import MeterSpec, Recorder
from wattwerk.meters.sinks import open_sink

FAKE = "wattwerk.testing:FakeMeter"
SPECS = [
    MeterSpec(FAKE, {"prefix": "plug", "scope": "wall", "base_w": 400.0}),
    MeterSpec(FAKE, {"prefix": "gpu0", "scope": "accelerator", "base_w": 250.0}),
    MeterSpec(FAKE, {"prefix": "cpu0", "scope": "cpu_package", "base_w": 60.0, "fail_after": 5}),
]
ACCOUNT = AccountConfig(carbon_g_per_kwh=400.0, tariff_per_kwh=0.5, currency="USD", pue=1.5)


def read(data_base: str, account: AccountConfig | None = None) -> dict[str, Any]:
    """Return a dashboard."""
    found: dict[str, Any] = json.loads(dashboard(data_base, account))  # type: ignore[arg-type]
    return found


def lost(ours: Any, theirs: Any, place: str = "") -> Iterator[str]:
    """Yield what is in one JSON value and not, or not the same, in another."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            yield from lost(value, theirs[key], f"{place}.{key}") if key in theirs else [f"{place}.{key}"]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(*pair, f"{place}[{number}]")
    elif ours != theirs:
        yield place


@pytest.mark.parametrize("data_base", ["influxdb", "prometheus"])
def test_grafanas_own_types_know_every_field(data_base: str) -> None:
    """Read into the types that Grafana generates of its dashboard schema and written again, nothing is missing."""
    pytest.importorskip("grafana_foundation_sdk")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    ours = read(data_base)
    assert list(lost(ours, json.loads(JSONEncoder().encode(Dashboard.from_json(ours))))) == []


@pytest.mark.parametrize("data_base", ["influxdb", "prometheus"])
def test_panels_have_their_places(data_base: str) -> None:
    """Panels fill rows of 24 columns without covering each other; numbers are unique; each variable used is there."""
    made = read(data_base)
    taken: set[tuple[int, int]] = set()
    for panel in made["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
    assert len(taken) == 24 * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in made["panels"])
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(made["panels"])))
    used -= {"timeFilter", "tag_host", "tag_scope", "col"}
    assert used == {variable["name"] for variable in made["templating"]["list"]}


def test_what_the_fields_begin_with() -> None:
    """Carbon intensity, price and PUE are those of [account], with their sources; without it, named presets."""

    def fields(made: dict[str, Any]) -> dict[str, str]:
        return {v["name"]: v["query"] for v in made["templating"]["list"] if v["type"] == "textbox"}

    assert fields(read("influxdb", ACCOUNT)) == {"carbon_g_per_kwh": "400", "price_per_kwh": "0.5", "pue": "1.5"}
    plain = read("influxdb", AccountConfig())
    assert fields(plain) == {"carbon_g_per_kwh": "358.93", "price_per_kwh": "0.1902", "pue": "1"}
    about = {panel["title"]: panel["description"] for panel in plain["panels"]}
    assert "EEKI report" in about["CO2 (modelled)"]
    assert "Eurostat" in about["Cost (modelled)"]
    units = {panel["title"]: panel["fieldConfig"]["defaults"]["unit"] for panel in read("influxdb", ACCOUNT)["panels"]}
    assert units["Cost (modelled)"].strip() == "currency:USD"


def test_no_other_data_base() -> None:
    """A data base that there is no dashboard for is an error that names those."""
    with pytest.raises(ConfigError, match="did you mean 'influxdb'"):
        dashboard("influx")  # type: ignore[arg-type]


def interpolated(text: str, start_ms: int, end_ms: int) -> str:
    """Return a query as Grafana sends it to InfluxDB, with all machines and runs chosen."""
    values = {
        "$timeFilter": f"time >= {start_ms}ms and time <= {end_ms}ms",
        "$__interval": "1s",
        "$host": ".*",
        "$run": ".*",
        "$carbon_g_per_kwh": "400",
        "$price_per_kwh": "0.5",
        "$pue": "1.5",
    }
    for name, value in values.items():
        text = text.replace(name, value)
    assert "$" not in text.replace("$/", "")
    return text


@pytest.mark.skipif(INFLUXD is None, reason="needs influxd (Debian: apt-get install influxdb)")
def test_every_query_of_influxdb(tmp_path: Path) -> None:
    """Filled by a recorder, a real InfluxDB gives each panel its number, and the wall alone is the system.

    The wall draws 400 W, of which 250 W and 60 W are accelerator and processor; the processor's meter falls silent.
    """
    with Influxd(tmp_path) as server:
        server.query("CREATE DATABASE power")
        start_ms = time.time_ns() // 10**6 - 100
        with Recorder(SPECS) as recorder:
            sinks = {"influx": open_sink(f"{server.url}/write?db=power")}
            with Forwarder(recorder, sinks, tags={"host": "edge1", "run": "r1"}, interval_s=0.2):
                time.sleep(3.2)
        end_ms = time.time_ns() // 10**6
        made = read("influxdb", ACCOUNT)
        found = {
            panel["title"]: server.query(interpolated(panel["targets"][0]["query"], start_ms, end_ms), "power")
            for panel in made["panels"]
        }
        for variable in made["templating"]["list"]:
            if variable["type"] == "query":
                values = server.query(interpolated(variable["query"], 0, 0), "power")[0]["values"]
                assert [value for _, value in values] == [{"host": "edge1", "run": "r1"}[variable["name"]]]
        rows = server.query("SELECT last(energy_j), first(energy_j) FROM wattwerk_total WHERE scope='system'", "power")
    one = {title: series[0]["values"][-1][1] for title, series in found.items()}
    assert one["Power of the system"] == 400
    energy_j = rows[0]["values"][0][1] - rows[0]["values"][0][2]
    assert 400 * 1.5 < energy_j < 400 * (end_ms - start_ms) / 1000
    expected = ACCOUNT.account(energy_j)
    assert one["Energy of the system"] * 3600 == pytest.approx(energy_j)
    assert one["CO2 (modelled)"] == pytest.approx(expected["co2_g"].value)
    assert one["Cost (modelled)"] == pytest.approx(expected["cost_usd"].value)
    scopes = {series["tags"]["scope"]: values_of(series) for series in found["Power by scope"]}
    assert {scope: max(values) for scope, values in scopes.items()} == {
        "system": 400, "wall": 400, "accelerator": 250, "cpu_package": pytest.approx(60)
    }  # fmt: skip
    channels = found["Power by channel"][0]
    assert channels["columns"] == ["time", "mean_cpu0_power_w", "mean_gpu0_power_w", "mean_plug_power_w"]
    assert [max(v for row in channels["values"] if (v := row[place]) is not None) for place in (1, 2, 3)] == [
        60,
        250,
        400,
    ]
    assert None in [row[1] for row in channels["values"]]  # of the silent meter: a gap, not its last value
    assert {series["tags"]["scope"] for series in found["Energy so far by scope"]} == set(scopes)
    so_far = {series["tags"]["scope"]: max(values_of(series)) for series in found["Energy so far by scope"]}
    assert so_far["system"] == so_far["wall"] == pytest.approx(rows[0]["values"][0][1] / 3600)
    gaps = {series["tags"]["scope"]: max(values_of(series)) for series in found["Gaps by scope"]}
    silent_s = gaps.pop("cpu_package")
    assert gaps == {"system": 0, "wall": 0, "accelerator": 0}
    assert 2 < silent_s < (end_ms - start_ms) / 1000
    assert found["Faults"][0]["columns"] == ["time", "faults", "lost lines"]
    assert [value for row in found["Faults"][0]["values"] if (value := row[1]) is not None][-1] == 1


def values_of(series: dict[str, Any]) -> list[float]:
    """Return the values of a series that are there."""
    return [row[1] for row in series["values"] if row[1] is not None]


@needs_prometheus
def test_every_query_of_prometheus(tmp_path: Path) -> None:
    """Scraped from a recorder, a real Prometheus gives each panel its number."""
    pytest.importorskip("prometheus_client")
    with (
        Recorder(SPECS[:2]) as recorder,
        Live(recorder) as live,
        contextlib.closing(serve(recorder, live, port=0)) as exporter,
        Scraper(tmp_path, exporter.port) as scraper,
    ):
        scraper.wait_for("count_over_time(wattwerk_total_energy_joules_total[4s]) >= 8")
        found = {}
        for panel in read("prometheus", ACCOUNT)["panels"]:
            text = panel["targets"][0]["expr"].replace("$instance", ".*").replace("$__range", "4s")
            for name, value in (("$carbon_g_per_kwh", "400"), ("$price_per_kwh", "0.5"), ("$pue", "1.5")):
                text = text.replace(name, value)
            found[panel["title"]] = {
                one["metric"].get("channel", one["metric"].get("scope", "")): float(one["value"][1])
                for one in scraper.ask(text)
            }
    assert found["Power of the system"] == {"system": 400}
    assert found["Energy of the system"]["system"] == pytest.approx(400 * 4 / 3600, rel=0.15)
    kwh = found["Energy of the system"]["system"] / 1000
    assert found["CO2 (modelled)"]["system"] == pytest.approx(kwh * 1.5 * 400, rel=0.05)
    assert found["Cost (modelled)"]["system"] == pytest.approx(kwh * 1.5 * 0.5, rel=0.05)
    assert found["Power by scope"] == {"system": 400, "wall": 400, "accelerator": 250}
    assert found["Power by channel"] == {"plug_power_w": 400, "gpu0_power_w": 250}
    assert found["Energy so far by scope"]["system"] == pytest.approx(found["Energy so far by scope"]["wall"])
    assert found["Gaps by scope"] == {"system": 0, "wall": 0, "accelerator": 0}
    assert found["Faults"] == {"": 0}
