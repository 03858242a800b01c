"""Curves over batch size, as plain plotly specifications."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import msgspec

from wattwerk.bench.report.base import Spec, axis_unit, base_layout, errors, lines, short
from wattwerk.language import t


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One point of a curve over batch size."""

    batch: int
    value: float
    low: float | None = None
    high: float | None = None
    hover: Sequence[str] = ()
    invalid: bool = False


class Curve(msgspec.Struct, frozen=True):
    """One series over batch size."""

    name: str
    colour: str
    symbol: str
    modelled: bool
    points: Sequence[Point]


def curve_chart(
    curves: Sequence[Curve], figure: str, *, title: str, logarithmic: bool, over: str | None = None
) -> Spec:
    """Return curves over batch size on a log2 axis.

    Args:
        curves: The series; those from a model are dashed with open markers and carry their bounds.
        figure: Name of the figure, for the unit.
        title: What the vertical axis shows.
        logarithmic: Whether the vertical axis is logarithmic.
        over: What the horizontal axis shows; None for the batch size.
    """
    batches = sorted({point.batch for curve in curves for point in curve.points})
    values = [point.high or point.value for curve in curves for point in curve.points]
    lows = [point.low if point.low and point.low > 0 else point.value for curve in curves for point in curve.points]
    factor, unit = axis_unit(figure, max(values))
    layout = base_layout(over or t("batch size"))
    ticks = [2**power for power in range(int(math.log2(batches[0])), math.ceil(math.log2(batches[-1])) + 1)]
    margin = 0.06 * max(1.0, math.log10(batches[-1] / batches[0]))
    layout["xaxis"] |= {
        "type": "log",
        "range": [math.log10(batches[0]) - margin, math.log10(batches[-1]) + margin],
        "tickvals": ticks,
        "ticktext": [str(tick) for tick in ticks],
        "tickangle": 0,
    }
    named = t("{title} ({unit}, log)", title=title, unit=unit) if logarithmic else f"{title} ({unit})"
    layout["yaxis"] |= {"title": {"text": named, "standoff": 8}}
    if logarithmic:
        edges = math.log10(min(lows) / factor), math.log10(max(values) / factor)
        layout["yaxis"] |= {
            "type": "log",
            "range": [edges[0] - 0.08, edges[1] + 0.08],
            # where the axis may hold but one of 1, 2 and 5 plotly chooses
            **({"dtick": "D2"} if edges[1] - edges[0] >= 0.7 else {"nticks": 6}),
            "tickformat": "~s" if min(values) / factor >= 1 else "~g",  # no "500m" for a half
        }
    else:
        layout["yaxis"] |= {"rangemode": "tozero", "tickformat": "~s" if max(values) / factor >= 10_000 else ""}
    # at most a sixth of an octave, less where the axis spans few of them
    step = min(0.16, 0.025 * max(1.0, math.log2(batches[-1] / batches[0]))) / max(1, len(curves) - 1)
    data = [_curve(curve, factor, (index - (len(curves) - 1) / 2) * step) for index, curve in enumerate(curves)]
    return {"data": data, "layout": layout, "height": 340}


def _curve(curve: Curve, factor: float, shift: float) -> Spec:
    """Return one trace; ``shift`` moves it sideways by a part of an octave, so that error bars stay apart."""
    points = sorted(curve.points, key=lambda point: point.batch)
    open_ = curve.modelled
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": html.escape(curve.name),
        "x": [short(point.batch * 2**shift) for point in points],
        "y": [short(point.value / factor) for point in points],
        "customdata": [point.batch for point in points],  # without the shift
        "line": {"color": curve.colour, "width": 2, "dash": "dash" if curve.modelled else "solid"},
        "marker": {
            "symbol": ["x-thin-open" if p.invalid else curve.symbol + ("-open" if open_ else "") for p in points],
            "size": 8,
            "color": curve.colour,
            "line": {"width": 1.6 if open_ else 0, "color": curve.colour},
        },
        "error_y": errors([(point.value, point.low, point.high) for point in points], factor, f"{curve.colour}/90")
        | {"width": 3},
        "hovertext": [lines(point.hover) for point in points],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "showlegend": False,
    }
