"""Which charts a report shows, and from which figures of which records each is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from wattwerk.bench.labels import (
    EnergyBasis,
    Names,
    by_model,
    common_basis,
    energy_on,
    estimate,
    is_modelled,
    on_accelerator,
    precision_order,
    provenance_words,
    ranked,
    scope_words,
    start_of,
    times,
    without_load,
)
from wattwerk.bench.report.charts import SYMBOLS, Bar, Curve, Point, Spec, Tick, bar_chart, colour_of, curve_chart
from wattwerk.language import recorded, t
from wattwerk.metering.statistics import Estimate, Ratio, ratio_of
from wattwerk.records import Figure, Record, Status
from wattwerk.units import format_value

POWER_PREFIXES: Final = ("wall", "node", "board", "gpu", "cpu", "dram")
EFFICIENCIES: Final = ("accelerator_efficiency_per_s_per_w", "system_efficiency_per_s_per_w")


class Chart(msgspec.Struct, frozen=True):
    """One chart.

    Attributes:
        title: What it is about: the model, and what else sets it apart from its neighbours.
        spec: Data, layout and height for plotly, with colour tokens.
        alt: What it shows, in a sentence.
    """

    title: str
    spec: Spec
    alt: str


class Section(msgspec.Struct, frozen=True):
    """Charts that belong together; ``note`` says why there are none."""

    key: str
    title: str
    intro: str
    charts: tuple[Chart, ...]
    note: str = ""


def sections(records: Sequence[Record], *, default: Record | None = None) -> tuple[Section, ...]:
    """Return the sections of charts in reading order.

    Invalid records are drawn pale and marked; records without figures are left to the table.

    Args:
        records: Records of kind ``bench``.
        default: The configuration that gains are counted from, as in ``summary.summarise``.
    """
    shown = [record for record in without_load(records) if record.status in (Status.OK, Status.INVALID)]
    names = Names(shown)
    groups = by_model(shown)
    return (
        _latency(groups, names),
        _throughput(groups, names),
        _efficiency(groups, names),
        _comparison(groups, names, default),
        _power(groups, names),
        _energy(groups, names),
    )


def lane_symbols(records: Sequence[Record], names: Names) -> dict[str, str]:
    """Return the marker of every lane (a runtime with what sets it apart), the same in every chart."""
    lanes = sorted({names.lane(record) for record in records})
    return {lane: SYMBOLS[index % len(SYMBOLS)] for index, lane in enumerate(lanes)}


def is_plottable(record: Record) -> bool:
    """Tell whether a record has anything that a chart can show."""
    return record.status in (Status.OK, Status.INVALID) and any(
        record.value(name) is not None for name in ("latency_mean_s", "latency_p50_s", "throughput_per_s")
    )


# --- sections ---------------------------------------------------------------------------------------------------------


def _latency(groups: dict[str, list[Record]], names: Names) -> Section:
    charts = []
    for model, records in groups.items():
        batch = min((r.setup.batch or 1 for r in records if r.value("latency_mean_s") is not None), default=None)
        mine = [r for r in records if r.setup.batch == batch]
        title = f"{model} · {_batch_words(batch)}"
        chart = _bars(title, mine, names, "latency_mean_s", t("latency of one iteration"), _deviation)
        charts += [chart] if chart else []
    return Section(
        "latency",
        t("Latency by model and platform"),
        t(
            "Mean time of one iteration at the smallest batch size; "
            "the error bar is one standard deviation to each side."
        ),
        tuple(charts),
        _why_none(groups, "latency_mean_s"),
    )


def _deviation(record: Record) -> tuple[float | None, float | None]:
    mean, std = record.value("latency_mean_s"), record.value("latency_std_s")
    return (None, None) if mean is None or std is None else (max(0.0, mean - std), mean + std)


def _throughput(groups: dict[str, list[Record]], names: Names) -> Section:
    return Section(
        "throughput",
        t("Throughput over batch size"),
        t("Samples per second in the energy windows, where the model runs without a pause."),
        tuple(_curves(groups, names, "throughput_per_s", t("samples per second"))),
        _why_none(groups, "throughput_per_s"),
    )


def _efficiency(groups: dict[str, list[Record]], names: Names) -> Section:
    words = dict(zip(EFFICIENCIES, (t("by accelerator"), t("by system")), strict=True))
    charts = [
        chart for figure in EFFICIENCIES for chart in _curves(groups, names, figure, t("efficiency"), words[figure])
    ]
    charts.sort(key=lambda chart: chart.title.partition(" · ")[0])  # a model's two charts stand side by side
    return Section(
        "efficiency",
        t("Efficiency over batch size"),
        t(
            "Samples per second for each watt, which is samples per joule: "
            "by accelerator alone, and by the whole system."
        ),
        tuple(charts),
        _why_none(groups, "system_efficiency_per_s_per_w"),
    )


def _comparison(groups: dict[str, list[Record]], names: Names, default: Record | None) -> Section:
    charts = []
    for model, records in groups.items():
        start = start_of(ranked(records), default)
        if start is None:
            continue
        mine = [record for record in ranked(records) if record.setup.batch == start.setup.batch]
        if len(mine) < 2:
            continue
        basis = common_basis(mine)
        faster = t("{model} · speed-up", model=model)
        charts.append(_gains(faster, t("times faster"), mine, names, lambda r, s=start: _speed_up(s, r)))  # type: ignore[misc]
        if basis:
            told = t("{model} · energy saving ({basis})", model=model, basis=basis.words)
            gain = _saving(start, basis)
            charts.append(_gains(told, t("times less energy"), mine, names, gain, modelled=basis.modelled))
    return Section(
        "comparison",
        t("Precision and runtime compared"),
        t(
            "How many times better than the default configuration at the same batch size; the dotted line is the "
            "default, the error bar the 95 % interval. Invalid configurations are not ranked and not shown."
        ),
        tuple(chart for chart in charts if chart),
        t("There is only one configuration at the default's batch size, so there is nothing to compare it with."),
    )


def _speed_up(start: Record, record: Record) -> Ratio | None:
    above, below = estimate(start, "latency_p50_s"), estimate(record, "latency_p50_s")
    return ratio_of(above, below) if above and below and below.value else None


def _saving(start: Record, basis: EnergyBasis) -> Callable[[Record], Ratio | None]:
    def gain(record: Record) -> Ratio | None:
        above, below = energy_on(start, basis), energy_on(record, basis)
        if not above or not below or not below.value:
            return None
        return _model_ratio(above, below) if basis.modelled else ratio_of(above, below)

    return gain


def _model_ratio(above: Estimate, below: Estimate) -> Ratio:
    """Return a ratio with all that the bounds of a model allow; they are no confidence intervals."""
    value = above.value / below.value
    if None in (above.low, above.high, below.low, below.high) or not below.low or below.low <= 0:
        return Ratio(value)
    return Ratio(value, above.low / below.high, above.high / below.low)  # type: ignore[operator]


def _power(groups: dict[str, list[Record]], names: Names) -> Section:
    charts = []
    for model, records in groups.items():
        for prefix in POWER_PREFIXES:
            mine = [r for r in records if r.value(f"{prefix}_power_w") is not None]
            batch = _most_common_batch(mine)
            mine = [r for r in mine if r.setup.batch == batch]
            title = f"{model} · {scope_words(prefix)} · {_batch_words(batch)}"
            ticks = _idle_ticks(mine, names, prefix)
            chart = _bars(title, mine, names, f"{prefix}_power_w", t("mean power"), ticks=ticks)
            charts += [chart] if chart else []
    return Section(
        "power",
        t("Power by scope, idle and loaded"),
        t(
            "Bars: mean power while the model runs. Diamond: model loaded, nothing running. Circle: machine idle. "
            "Scopes that overlap are never summed."
        ),
        tuple(charts),
        _why_none(groups, "gpu_power_w", "cpu_power_w"),
    )


def _batch_words(batch: int | None) -> str:
    return t("batch {batch}", batch=batch)


def _most_common_batch(records: Sequence[Record]) -> int | None:
    """Return the batch size that most records have, the largest of equals."""
    counts = Counter(record.setup.batch or 1 for record in records)
    return max(counts, key=lambda batch: (counts[batch], batch), default=None)


def _idle_ticks(records: Sequence[Record], names: Names, prefix: str) -> list[Tick]:
    kinds = (("loaded_idle", t("model loaded, idle"), "diamond"), ("idle", t("machine idle"), "circle"))
    return [
        Tick((names.lane(record), record.setup.precision), value, words, symbol)
        for record in _one_each(records, names)
        for kind, words, symbol in kinds
        if (value := record.value(f"{kind}_{prefix}_power_w")) is not None
    ]


def _energy(groups: dict[str, list[Record]], names: Names) -> Section:
    charts = []
    for model, records in groups.items():
        basis = common_basis(records)
        if basis is None:
            continue
        rows: dict[tuple[str, str], Record] = {}
        for record in sorted(
            records, key=lambda record: (record.status is not Status.OK, _energy_value(record, basis))
        ):
            if energy_on(record, basis):
                rows.setdefault((names.lane(record), record.setup.precision), record)
        groups_of_bars = _grouped(list(rows.values()), names, lambda r, b=basis: _energy_bars(r, b, names))  # type: ignore[misc]
        axis = t("energy per inference")
        spec = bar_chart(groups_of_bars, basis.gross, title=axis)
        charts.append(Chart(f"{model} · {basis.words}", spec, _bar_alt(groups_of_bars, axis)))
    return Section(
        "energy",
        t("Energy per inference"),
        t(
            "At the batch size that needs the least (b32: batch 32). Upper bar: gross. Lower, pale bar: net, without "
            "what the machine draws with the model loaded and nothing running. "
            "Error bars: 95 % interval or model bounds."
        ),
        tuple(charts),
        _why_none(groups, "gpu_energy_per_inference_j", "cpu_energy_per_inference_j"),
    )


def _energy_value(record: Record, basis: EnergyBasis) -> float:
    value = energy_on(record, basis)
    return value.value if value else 0.0


def _energy_bars(record: Record, basis: EnergyBasis, names: Names) -> list[Bar]:
    label = f"{record.setup.precision} b{record.setup.batch}"
    gross = _bar(record, basis.gross, names, label=label)
    if record.value(basis.net) is None:
        return [gross]
    net = _bar(record, basis.net, names, label=label)
    return [gross, msgspec.structs.replace(net, secondary=True, faded=True, text=t("{value} net", value=net.text))]


# --- bars and curves from records -------------------------------------------------------------------------------------


def _one_each(records: Sequence[Record], names: Names) -> list[Record]:
    """Return the newest record of every lane and precision, valid ones first."""
    found: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=lambda record: (record.status is Status.OK, record.finished_at)):
        found[names.lane(record), record.setup.precision] = record
    return list(found.values())


def _grouped(
    records: Sequence[Record], names: Names, bars: Callable[[Record], list[Bar]]
) -> list[tuple[str, list[Bar]]]:
    """Return bars grouped by lane, in the order of the precisions."""
    groups: dict[str, list[Bar]] = {}
    for record in sorted(records, key=lambda r: (names.lane(r), precision_order(r.setup.precision))):
        groups.setdefault(names.lane(record), []).extend(bars(record))
    return list(groups.items())


def _bars(
    title: str,
    records: Sequence[Record],
    names: Names,
    figure: str,
    axis: str,
    bounds: Callable[[Record], tuple[float | None, float | None]] | None = None,
    ticks: Sequence[Tick] = (),
) -> Chart | None:
    """Return one bar for every lane and precision; None where no record has the figure."""
    mine = [record for record in _one_each(records, names) if record.value(figure) is not None]
    if not mine:
        return None
    groups = _grouped(mine, names, lambda record: [_bar(record, figure, names, bounds)])
    return Chart(title, bar_chart(groups, figure, title=axis, ticks=ticks), _bar_alt(groups, axis))


def _bar(
    record: Record,
    figure: str,
    names: Names,
    bounds: Callable[[Record], tuple[float | None, float | None]] | None = None,
    label: str | None = None,
) -> Bar:
    told = record.figures[figure]
    low, high = bounds(record) if bounds else (told.low, told.high)
    invalid = record.status is Status.INVALID
    return Bar(
        label=label or record.setup.precision,
        value=told.value or 0.0,
        low=low,
        high=high,
        colour=colour_of(record.setup.precision),
        text=format_value(figure, told.value) + (f" {t('invalid')}" if invalid else ""),
        hover=_hover(record, figure, told, names),
        modelled=is_modelled(told),
        faded=invalid,
    )


def _hover(record: Record, figure: str, told: Figure, names: Names) -> list[str]:
    """Return what is shown on pointing at a mark."""
    lines = [names.configuration(record), f"{format_value(figure, told.value)} ({provenance_words(told.provenance)})"]
    if told.low is not None and told.high is not None:
        low, high = format_value(figure, told.low), format_value(figure, told.high)
        lines.append(t("from {low} to {high}", low=low, high=high))
    if figure.startswith("latency"):
        tails = ((t("median"), "latency_p50_s"), ("p99", "latency_p99_s"), (t("std"), "latency_std_s"))
        lines += [f"{word} {format_value(name, record.value(name))}" for word, name in tails if record.value(name)]
    if record.status is Status.INVALID:
        lines.append(t("invalid: {reason}", reason=recorded(record.reason)))
    return lines


def _bar_alt(groups: Sequence[tuple[str, Sequence[Bar]]], axis: str) -> str:
    """Say in a sentence what a bar chart shows."""
    bars = [(lane, bar) for lane, group in groups for bar in group if not bar.secondary]
    told = [t("Bar chart, {axis}: {count} configurations.", axis=axis, count=len(bars))]
    if any(bar.modelled for _, bar in bars):
        told.append(t("Hatched bars are modelled."))
    (low_lane, low), (high_lane, high) = (f(bars, key=lambda pair: pair[1].value) for f in (min, max))
    least, most = f"{low.text} ({low_lane} {low.label})", f"{high.text} ({high_lane} {high.label})"
    return " ".join([*told, t("Smallest {least}, largest {most}.", least=least, most=most)])


def _curves(groups: dict[str, list[Record]], names: Names, figure: str, axis: str, extra: str = "") -> list[Chart]:
    """Return one chart for each model; bars where a model has a single batch size, because a point is no curve."""
    everything = [record for records in groups.values() for record in records]
    symbols = lane_symbols(everything, names)
    values = [value for record in everything if (value := record.value(figure))]
    logarithmic = bool(values) and max(values) > 20 * min(values) > 0
    charts = []
    for model, records in groups.items():
        mine = [
            r for r in records if r.value(figure) is not None and (on_accelerator(r) or "accelerator" not in figure)
        ]
        batches = {record.setup.batch for record in mine}
        title = " · ".join(filter(None, (model, extra)))
        if len(batches) == 1:
            chart = _bars(f"{title} · {_batch_words(batches.pop())}", mine, names, figure, axis)
            charts += [chart] if chart else []
        elif batches:
            curves = [_curve(name, group, names, figure, symbols) for name, group in _series(mine, names).items()]
            spec = curve_chart(curves, figure, title=axis, logarithmic=logarithmic)
            charts.append(Chart(title, spec, _curve_alt(curves, figure, axis)))
    return charts


def _series(records: Sequence[Record], names: Names) -> dict[str, list[Record]]:
    """Return lane and precision -> its records; one for each batch size, valid and newer ones before others."""
    found: dict[str, dict[int, Record]] = {}
    for record in sorted(records, key=lambda r: (names.lane(r), precision_order(r.setup.precision))):
        found.setdefault(f"{names.lane(record)} {record.setup.precision}", {})
    for record in sorted(records, key=lambda record: (record.status is Status.OK, record.finished_at)):
        found[f"{names.lane(record)} {record.setup.precision}"][record.setup.batch or 1] = record
    return {name: list(group.values()) for name, group in found.items()}


def _curve(name: str, records: Sequence[Record], names: Names, figure: str, symbols: dict[str, str]) -> Curve:
    points = [
        Point(
            batch=record.setup.batch or 1,
            value=told.value or 0.0,
            low=told.low,
            high=told.high,
            hover=_hover(record, figure, told, names),
            invalid=record.status is Status.INVALID,
        )
        for record in records
        for told in [record.figures[figure]]
    ]
    modelled = any(is_modelled(record.figures[figure]) for record in records)
    return Curve(name, colour_of(records[0].setup.precision), symbols[names.lane(records[0])], modelled, points)


def _curve_alt(curves: Sequence[Curve], figure: str, axis: str) -> str:
    """Say in a sentence what a chart of curves shows."""
    best, point = max(((curve, point) for curve in curves for point in curve.points), key=lambda pair: pair[1].value)
    told = [t("Line chart, {axis} over batch size: {count} configurations.", axis=axis, count=len(curves))]
    if any(curve.modelled for curve in curves):
        told.append(t("Dashed lines are modelled."))
    highest = format_value(figure, point.value)
    told.append(t("Highest {value} ({name} at batch {batch}).", value=highest, name=best.name, batch=point.batch))
    return " ".join(told)


def _gains(
    title: str,
    axis: str,
    records: Sequence[Record],
    names: Names,
    gain: Callable[[Record], Ratio | None],
    *,
    modelled: bool = False,
) -> Chart | None:
    """Return bars of how many times better than the default each lane and precision is."""
    gains = {record.id: ratio for record in _one_each(records, names) if (ratio := gain(record))}
    mine = [record for record in records if record.id in gains]
    if not mine:
        return None
    groups = _grouped(mine, names, lambda record: [_gain_bar(record, gains[record.id], names, modelled)])
    spec = bar_chart(groups, "x_ratio", title=axis, reference=1.0, unit="×")
    return Chart(title, spec, _bar_alt(groups, axis))


def _gain_bar(record: Record, ratio: Ratio, names: Names, modelled: bool) -> Bar:
    verdict = {True: t("significant"), False: t("no significant difference"), None: t("significance unknown")}
    return Bar(
        label=record.setup.precision,
        value=ratio.value,
        low=ratio.low,
        high=ratio.high,
        colour=colour_of(record.setup.precision),
        text=times(ratio.value),
        hover=[names.configuration(record), f"{times(ratio.value)}, {verdict[ratio.significant]}"],
        modelled=modelled,
    )


def _why_none(groups: dict[str, list[Record]], *figures: str) -> str:
    """Return why no record has a figure, in the words of the records themselves."""
    reasons = {
        figure.note
        for records in groups.values()
        for record in records
        for name in figures
        if (figure := record.figures.get(name)) and figure.note and figure.value is None
    }
    if not reasons:
        return t("These records have no such figures.")
    return t("Not available: {reasons}.", reasons="; ".join(map(recorded, sorted(reasons))))
