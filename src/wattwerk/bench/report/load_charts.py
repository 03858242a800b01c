"""What was found under a load, and with several streams at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from wattwerk.bench.labels import (
    EnergyBasis,
    Names,
    by_model,
    common_basis,
    energy_on,
    is_modelled,
    lane_order,
    scenario_of,
    streams_of,
)
from wattwerk.bench.load import SCENARIOS
from wattwerk.bench.report.bars import Bar, Tick, bar_chart
from wattwerk.bench.report.base import colour_of
from wattwerk.bench.report.curves import Curve, curve_chart
from wattwerk.bench.report.energy_charts import energy_bars
from wattwerk.bench.report.marks import (
    BarGroups,
    Groups,
    bar_alt,
    bar_of,
    grouped,
    lane_symbols,
    one_each,
    point_of,
)
from wattwerk.bench.report.section import Chart, Section
from wattwerk.language import t
from wattwerk.records import Record, Status
from wattwerk.units import format_value

_PERCENTILES: Final = ("p50", "p90", "p99")


# --- load scenarios ---------------------------------------------------------------------------------------------------


def loads(records: Sequence[Record]) -> Section | None:
    """Return latencies, rates and energies under a load; None where no record is one of a load.

    Args:
        records: Records of all kinds of runs that ended well or invalid.
    """
    loaded = [record for record in records if scenario_of(record)]
    if not loaded:
        return None
    names = Names(loaded, without=("scenario",))
    charts = [chart for model, mine in by_model(loaded).items() for chart in _load_charts(model, mine, names)]
    return Section(
        "loads",
        t("Under a load"),
        t(
            "LoadGen's scenarios. Latency of a query by percentile; diamond: the limit, at the percentile that has to "
            "keep it. The load found: what the model kept up with. Energy for one sample; a query of multi-stream has "
            "several. Pale, invalid: LoadGen's verdict or the limit was not kept."
        ),
        tuple(charts),
        t("No run under a load gave figures."),
    )


def scenario_words(scenario: str) -> str:
    """Return what a scenario is called."""
    words = {
        "single-stream": t("single-stream"),
        "multi-stream": t("multi-stream"),
        "server": t("server"),
        "offline": t("offline"),
    }
    return words.get(scenario, scenario)


def _load_charts(model: str, records: Sequence[Record], names: Names) -> list[Chart]:
    scenarios = [scenario for scenario in SCENARIOS if any(scenario_of(record) == scenario for record in records)]
    newest: dict[str, list[Record]] = {
        scenario: one_each([r for r in records if scenario_of(r) == scenario], names) for scenario in scenarios
    }
    charts = [_latencies(model, scenario, mine, names) for scenario, mine in newest.items()]
    everything = [record for mine in newest.values() for record in mine]
    return [chart for chart in (*charts, _rates(model, newest, names), _energies(model, everything, names)) if chart]


def _latencies(model: str, scenario: str, records: Sequence[Record], names: Names) -> Chart | None:
    """Return the percentiles of a scenario's queries with the limit as a mark."""
    groups: BarGroups = []
    ticks = []
    for record in sorted(records, key=lambda r: lane_order(names.lane(r), r.setup.precision)):
        group = f"{names.lane(record)} {record.setup.precision}"
        kept = record.setup.protocol.get("latency_percentile")
        labels = dict.fromkeys([*_PERCENTILES, *([f"p{kept:g}"] if isinstance(kept, int | float) else [])])
        bars = [
            bar_of(record, f"query_{label}_s", names, label=label)
            for label in sorted(labels)
            if record.value(f"query_{label}_s") is not None
        ]
        if not bars:
            continue
        groups.append((group, bars))
        limit = record.setup.protocol.get("latency_limit_s")
        if isinstance(limit, int | float) and isinstance(kept, int | float) and f"p{kept:g}" in {b.label for b in bars}:
            words = t("limit at {percentile} %", percentile=f"{kept:g}")
            ticks.append(Tick((group, f"p{kept:g}"), float(limit), words, "diamond", "limit_s"))
    if not groups:
        return None
    axis = t("latency of a query")
    title = t("{model} · {scenario} · latency", model=model, scenario=scenario_words(scenario))
    return Chart(title, bar_chart(groups, "query_p50_s", title=axis, ticks=ticks), bar_alt(groups, axis))


def _rate_figure(record: Record) -> str:
    return "target_queries_per_s" if scenario_of(record) == "server" else "samples_per_s"


def _rates(model: str, newest: dict[str, list[Record]], names: Names) -> Chart | None:
    """Return the samples per second of each scenario: for ``server`` the highest load found."""
    groups: BarGroups = []
    for scenario, records in newest.items():
        known = [record for record in records if record.value(_rate_figure(record)) is not None]
        for lane, bars in grouped(known, names, lambda record: [bar_of(record, _rate_figure(record), names)]):
            groups.append((f"{scenario_words(scenario)} · {lane}", bars))
    if not groups:
        return None
    axis = t("samples per second")
    title = t("{model} · load found", model=model)
    return Chart(title, bar_chart(groups, "samples_per_s", title=axis), bar_alt(groups, axis))


def _energies(model: str, records: Sequence[Record], names: Names) -> Chart | None:
    basis = common_basis(records)
    if basis is None:
        return None
    groups: BarGroups = []
    for scenario in SCENARIOS:
        known = [r for r in records if scenario_of(r) == scenario and energy_on(r, basis)]
        for lane, bars in grouped(known, names, lambda record: _sample_energy(record, basis, names)):
            groups.append((f"{scenario_words(scenario)} · {lane}", bars))
    if not groups:
        return None
    axis = t("energy for one sample")
    title = t("{model} · energy · {basis}", model=model, basis=basis.words)
    return Chart(title, bar_chart(groups, basis.gross, title=axis), bar_alt(groups, axis))


def _sample_energy(record: Record, basis: EnergyBasis, names: Names) -> list[Bar]:
    """Return gross and net energy of a sample; pointing at it tells that of a query."""
    bars = energy_bars(record, basis, names, label=record.setup.precision)
    query = f"{basis.prefix}_energy_per_query_j"
    if record.value(query) is None:
        return bars
    told = t("{value} for one query", value=format_value(query, record.value(query)))
    return [msgspec.structs.replace(bars[0], hover=[*bars[0].hover, told]), *bars[1:]]


# --- several streams --------------------------------------------------------------------------------------------------


def streams(groups: Groups) -> Section | None:
    """Return latency, throughput and energy over the number of streams; None where all ran alone.

    Args:
        groups: Model -> its records without a load scenario.
    """
    charts: list[Chart] = []
    everything = [record for records in groups.values() for record in records]
    if not any(streams_of(record) > 1 for record in everything):
        return None
    for model, records in groups.items():
        names = Names(records, without=("streams",))
        lines = _stream_lines(records, names)
        basis = common_basis([record for line in lines.values() for record in line])
        figures = [("latency_p50_s", t("median latency")), ("throughput_per_s", t("samples per second, all streams"))]
        figures += [(basis.gross, t("energy per inference"))] if basis else []
        charts += [
            chart for figure, axis in figures if (chart := _stream_chart(model, figure, axis, lines, names)) is not None
        ]
    return Section(
        "streams",
        t("Several streams at once"),
        t("Sessions of one model that run at the same time on one device, each without a pause."),
        tuple(charts),
        t("No device ran the same configuration with several numbers of streams."),
    )


def _stream_lines(records: Sequence[Record], names: Names) -> dict[str, list[Record]]:
    """Return lane, precision and batch -> the newest record for each number of streams, where there are several."""
    found: dict[str, dict[int, Record]] = {}
    order = sorted(records, key=lambda record: (record.status is Status.OK, record.finished_at))
    several = len({record.setup.batch for record in records}) > 1
    for record in order:
        setup = record.setup
        batch = t("batch {batch}", batch=setup.batch) if several else ""
        name = " ".join(filter(None, (names.lane(record), setup.precision, batch)))
        found.setdefault(name, {})[streams_of(record)] = record
    return {name: list(mine.values()) for name, mine in sorted(found.items()) if len(mine) > 1}


def _stream_chart(model: str, figure: str, axis: str, lines: dict[str, list[Record]], names: Names) -> Chart | None:
    symbols = lane_symbols([record for line in lines.values() for record in line], names)
    curves = []
    for name, records in lines.items():
        known = [record for record in records if record.value(figure) is not None]
        if len(known) < 2:
            continue
        points = [point_of(record, figure, names, streams_of(record)) for record in known]
        modelled = any(is_modelled(record.figures[figure]) for record in known)
        colour = colour_of(known[0].setup.precision)
        curves.append(Curve(name, colour, symbols[names.lane(known[0])], modelled, points))
    if not curves:
        return None
    spec = curve_chart(curves, figure, title=axis, logarithmic=False, over=t("number of streams"))
    told = t("Line chart, {axis} over the number of streams: lines: {count}.", axis=axis, count=len(curves))
    return Chart(t("{model} · {axis}", model=model, axis=axis), spec, told)
