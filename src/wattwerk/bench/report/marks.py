"""Bars and curves from records: one for each lane and precision, with what is told on pointing at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wattwerk.bench.labels import Names, is_modelled, lane_order, on_accelerator, provenance_words, times
from wattwerk.bench.report.bars import Bar, Tick, bar_chart
from wattwerk.bench.report.base import SYMBOLS, colour_of
from wattwerk.bench.report.curves import Curve, Point, curve_chart
from wattwerk.bench.report.section import Chart
from wattwerk.language import recorded, t
from wattwerk.metering.statistics import Ratio
from wattwerk.records import Figure, Record, Status
from wattwerk.units import format_value

Groups = dict[str, list[Record]]
BarGroups = list[tuple[str, list[Bar]]]
Bounds = Callable[[Record], tuple[float | None, float | None]]


def lane_symbols(records: Sequence[Record], names: Names) -> dict[str, str]:
    """Return the marker of every lane (a runtime with what sets it apart), the same in every chart."""
    lanes = sorted({names.lane(record) for record in records}, key=lane_order)
    return {lane: SYMBOLS[index % len(SYMBOLS)] for index, lane in enumerate(lanes)}


def one_each(records: Sequence[Record], names: Names) -> list[Record]:
    """Return the newest record of every lane and precision, valid ones first."""
    found: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=lambda record: (record.status is Status.OK, record.finished_at)):
        found[names.lane(record), record.setup.precision] = record
    return list(found.values())


def smallest_batch(records: Sequence[Record], *figures: str) -> tuple[int | None, list[Record]]:
    """Return the smallest batch size with all of some figures, and the records that have them there."""
    known = [record for record in records if all(record.value(figure) is not None for figure in figures)]
    batch = min((record.setup.batch or 1 for record in known), default=None)
    return batch, [record for record in known if (record.setup.batch or 1) == batch]


# --- bars -------------------------------------------------------------------------------------------------------------


def grouped(records: Sequence[Record], names: Names, bars: Callable[[Record], list[Bar]]) -> BarGroups:
    """Return bars grouped by lane, in the order of the precisions."""
    groups: dict[str, list[Bar]] = {}
    for record in sorted(records, key=lambda r: lane_order(names.lane(r), r.setup.precision)):
        groups.setdefault(names.lane(record), []).extend(bars(record))
    return list(groups.items())


def bars_of(
    title: str,
    records: Sequence[Record],
    names: Names,
    figure: str,
    axis: str,
    *,
    bounds: Bounds | None = None,
    ticks: Sequence[Tick] = (),
    beside: BarGroups | None = None,
) -> Chart | None:
    """Return one bar for every lane and precision; None where no record has the figure.

    Args:
        title: The chart's title.
        records: Of one model and one batch size.
        names: What they are called.
        figure: Name of the figure.
        axis: What the axis shows.
        bounds: Ends of the error bar, where they are not the figure's own bounds.
        ticks: Further marks on the rows.
        beside: Groups of bars that come from elsewhere and stand below.
    """
    mine = [record for record in one_each(records, names) if record.value(figure) is not None]
    if not mine:
        return None
    groups = grouped(mine, names, lambda record: [bar_of(record, figure, names, bounds)]) + (beside or [])
    return Chart(title, bar_chart(groups, figure, title=axis, ticks=ticks), bar_alt(groups, axis))


def bar_of(record: Record, figure: str, names: Names, bounds: Bounds | None = None, label: str | None = None) -> Bar:
    """Return a record's figure as a bar; an invalid record's is pale and says so."""
    told = record.figures[figure]
    low, high = bounds(record) if bounds else (told.low, told.high)
    invalid = record.status is Status.INVALID
    value = format_value(figure, told.value)
    return Bar(
        label=label or record.setup.precision,
        value=told.value or 0.0,
        low=low,
        high=high,
        colour=colour_of(record.setup.precision),
        text=t("{value} invalid", value=value) if invalid else value,
        hover=hover(record, figure, told, names),
        modelled=is_modelled(told),
        faded=invalid,
    )


def hover(record: Record, figure: str, told: Figure, names: Names) -> list[str]:
    """Return what is shown on pointing at a mark."""
    lines = [
        names.configuration(record),
        t(
            "{value} ({provenance})",
            value=format_value(figure, told.value),
            provenance=provenance_words(told.provenance),
        ),
    ]
    if told.low is not None and told.high is not None:
        lines.append(
            t("from {low} to {high}", low=format_value(figure, told.low), high=format_value(figure, told.high))
        )
    if figure.startswith("latency"):
        tails = ((t("median"), "latency_p50_s"), ("p99", "latency_p99_s"), (t("std"), "latency_std_s"))
        lines += [f"{word} {format_value(name, record.value(name))}" for word, name in tails if record.value(name)]
    return (
        [*lines, t("invalid: {reason}", reason=recorded(record.reason))] if record.status is Status.INVALID else lines
    )


def bar_alt(groups: Sequence[tuple[str, Sequence[Bar]]], axis: str) -> str:
    """Say in a sentence what a bar chart shows."""
    bars = [(lane, bar) for lane, group in groups for bar in group if not bar.secondary]
    (low_lane, low), (high_lane, high) = (f(bars, key=lambda pair: pair[1].value) for f in (min, max))
    told = [t("Bar chart, {axis}: bars: {count}.", axis=axis, count=len(bars))]
    told += [t("Hatched bars are modelled.")] if any(bar.modelled for _, bar in bars) else []
    told += [t("Outlined bars are published by others.")] if any(bar.published for _, bar in bars) else []
    told.append(
        t(
            "Smallest {low} ({low_name}), largest {high} ({high_name}).",
            low=low.text,
            low_name=f"{low_lane} {low.label}",
            high=high.text,
            high_name=f"{high_lane} {high.label}",
        )
    )
    return " ".join(told)


def gains_of(
    title: str,
    axis: str,
    records: Sequence[Record],
    names: Names,
    gain: Callable[[Record], Ratio | None],
    *,
    modelled: bool = False,
) -> Chart | None:
    """Return bars of how many times better than the default each lane and precision is; None for fewer than two."""
    gains = {record.id: ratio for record in one_each(records, names) if (ratio := gain(record))}
    mine = [record for record in records if record.id in gains]
    if len(mine) < 2:  # the default alone is no comparison
        return None
    groups = grouped(mine, names, lambda record: [_gain_bar(record, gains[record.id], names, modelled)])
    spec = bar_chart(groups, "x_ratio", title=axis, reference=1.0, unit="×")
    return Chart(title, spec, bar_alt(groups, axis))


def _gain_bar(record: Record, ratio: Ratio, names: Names, modelled: bool) -> Bar:
    return Bar(
        label=record.setup.precision,
        value=ratio.value,
        low=ratio.low,
        high=ratio.high,
        colour=colour_of(record.setup.precision),
        text=times(ratio.value),
        hover=[names.configuration(record), f"{times(ratio.value)}, {significance_words(ratio)}"],
        modelled=modelled,
    )


def significance_words(ratio: Ratio) -> str:
    """Return whether a ratio differs from one, in words."""
    words = {True: t("significant"), False: t("no significant difference"), None: t("significance unknown")}
    return words[ratio.significant]


# --- curves -----------------------------------------------------------------------------------------------------------


def curves_of(groups: Groups, names: Names, figure: str, axis: str, extra: str = "") -> list[Chart]:
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
            at_batch = t("{title} · batch {batch}", title=title, batch=batches.pop())
            chart = bars_of(at_batch, mine, names, figure, axis)
            charts += [chart] if chart else []
        elif batches:
            curves = [_curve(name, group, names, figure, symbols) for name, group in series(mine, names).items()]
            spec = curve_chart(curves, figure, title=axis, logarithmic=logarithmic)
            charts.append(Chart(title, spec, curve_alt(curves, figure, axis)))
    return charts


def series(records: Sequence[Record], names: Names) -> dict[str, list[Record]]:
    """Return lane and precision -> its records; one for each batch size, valid and newer ones before others."""
    found: dict[str, dict[int, Record]] = {}
    for record in sorted(records, key=lambda r: lane_order(names.lane(r), r.setup.precision)):
        found.setdefault(f"{names.lane(record)} {record.setup.precision}", {})
    for record in sorted(records, key=lambda record: (record.status is Status.OK, record.finished_at)):
        found[f"{names.lane(record)} {record.setup.precision}"][record.setup.batch or 1] = record
    return {name: list(group.values()) for name, group in found.items()}


def _curve(name: str, records: Sequence[Record], names: Names, figure: str, symbols: dict[str, str]) -> Curve:
    points = [point_of(record, figure, names, record.setup.batch or 1) for record in records]
    modelled = any(is_modelled(record.figures[figure]) for record in records)
    return Curve(name, colour_of(records[0].setup.precision), symbols[names.lane(records[0])], modelled, points)


def point_of(record: Record, figure: str, names: Names, place: int) -> Point:
    """Return a record's figure as a point of a curve at a batch size or number of streams."""
    told = record.figures[figure]
    return Point(
        batch=place,
        value=told.value or 0.0,
        low=told.low,
        high=told.high,
        hover=hover(record, figure, told, names),
        invalid=record.status is Status.INVALID,
    )


def curve_alt(curves: Sequence[Curve], figure: str, axis: str) -> str:
    """Say in a sentence what a chart of curves over batch size shows."""
    best, point = max(((curve, point) for curve in curves for point in curve.points), key=lambda pair: pair[1].value)
    told = [t("Line chart, {axis} over batch size: lines: {count}.", axis=axis, count=len(curves))]
    told += [t("Dashed lines are modelled.")] if any(curve.modelled for curve in curves) else []
    value = format_value(figure, point.value)
    told.append(t("Highest {value} ({name} at batch {batch}).", value=value, name=best.name, batch=point.batch))
    return " ".join(told)


def why_none(groups: Groups, *figures: str) -> str:
    """Return why no record has a figure, in the words of the records themselves."""
    reasons = {
        figure.note
        for records in groups.values()
        for record in records
        for name in figures
        if (figure := record.figures.get(name)) and figure.note and figure.value is None
    }
    if reasons:
        return t("Not available: {reasons}.", reasons="; ".join(map(recorded, sorted(reasons))))
    return t("These records have no such figures.")
