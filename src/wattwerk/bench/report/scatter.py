"""Points over two quantities, as plain plotly specifications: a front of the best, and a roof over all."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence
from typing import Final

import msgspec

from wattwerk.bench.report.base import Spec, axis_unit, base_layout, errors, lines, short

#: letters of a line of the key
_LINE_LENGTH: Final = 42


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """One point.

    Attributes:
        name: What the key calls it.
        x: Value on the horizontal axis, in SI units.
        y: Value on the vertical axis.
        x_low: Lower end of its horizontal error bar.
        x_high: Upper end.
        y_low: Lower end of its vertical error bar.
        y_high: Upper end.
        colour: A token.
        symbol: Marker.
        hover: Lines shown on pointing at it.
        modelled: Drawn open.
        chosen: Drawn larger, and told in the key.
    """

    name: str
    x: float
    y: float
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None
    colour: str
    symbol: str
    hover: Sequence[str] = ()
    modelled: bool = False
    chosen: bool = True


class Axis(msgspec.Struct, frozen=True):
    """What an axis shows: a figure's name, which gives the unit, and words."""

    figure: str
    title: str


def logarithmic(values: Sequence[float]) -> bool:
    """Tell whether values span so much that a plain axis would hide the small ones."""
    return bool(values) and min(values) > 0 and max(values) > 20 * min(values)


def scaled(axis: Axis, values: Sequence[float], *, log: bool) -> tuple[float, Spec]:
    """Return by what to divide values, and the axis for plotly, a little wider than the values.

    Args:
        axis: What it shows.
        values: All values on it.
        log: Whether it is logarithmic.
    """
    # on a logarithmic axis the middle chooses the unit: the largest would make the small ones a row of zeros
    factor, unit = axis_unit(axis.figure, math.sqrt(min(values) * max(values)) if log else max(values))
    low, high = min(values) / factor, max(values) / factor
    told: Spec = {"title": {"text": f"{axis.title} ({unit})" if unit else axis.title, "standoff": 8}}
    if log:
        edges = math.log10(low), math.log10(high)
        room = 0.06 * max(0.5, edges[1] - edges[0])
        span = edges[1] - edges[0]
        told |= {"type": "log", "range": [edges[0] - room, edges[1] + room]}
        # where the axis may hold but one of 1, 2 and 5 plotly chooses
        told |= {"dtick": 1 if span > 1.5 else "D2"} if span >= 0.7 else {"nticks": 6}
        told["tickformat"] = "~s" if low >= 1 else "~g"
    else:
        room = 0.08 * (high - low or high or 1.0)
        told |= {"range": [low - room, high + room], "nticks": 6}
    return factor, told


def front_chart(marks: Sequence[Mark], x: Axis, y: Axis) -> Spec:
    """Return points of which the chosen ones are joined by steps and explained in a key below.

    Args:
        marks: The points; the chosen ones are the front, where nothing is better in both quantities.
        x: The horizontal axis; less is better.
        y: The vertical axis; more is better.
    """
    log = logarithmic([mark.x for mark in marks])
    x_factor, x_axis = scaled(
        x, [value for mark in marks for value in (mark.x, mark.x_low or mark.x, mark.x_high or mark.x)], log=log
    )
    ends = [end for mark in marks for end in (mark.y, mark.y_low or mark.y, mark.y_high or mark.y)]
    y_factor, y_axis = scaled(y, ends, log=False)
    layout = base_layout("")
    layout["xaxis"] |= x_axis
    layout["yaxis"] |= y_axis
    front = sorted((mark for mark in marks if mark.chosen), key=lambda mark: mark.x)
    data = [_steps(front, x_factor, y_factor)] if len(front) > 1 else []
    data += [_trace(mark, x_factor, y_factor) for mark in (*front, *(m for m in marks if not m.chosen))]
    layout |= {
        "showlegend": True,
        "legend": {
            "orientation": "v",
            "x": 0,
            "xanchor": "left",
            "y": -0.22,
            "yanchor": "top",
            "itemclick": False,
            "itemdoubleclick": False,
        },
    }
    return {"data": data, "layout": layout, "height": 340 + sum(4 + 17 * len(_wrapped(mark.name)) for mark in front)}


def _wrapped(name: str) -> list[str]:
    """Break a name into lines that a phone has room for; plotly would cut it off."""
    return textwrap.wrap(name, _LINE_LENGTH)


def _steps(front: Sequence[Mark], x_factor: float, y_factor: float) -> Spec:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [short(mark.x / x_factor) for mark in front],
        "y": [short(mark.y / y_factor) for mark in front],
        "line": {"color": "@muted", "width": 1.4, "shape": "hv"},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _trace(mark: Mark, x_factor: float, y_factor: float) -> Spec:
    """Return one point; each is a trace of its own, so that the key has a line for it."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "<br>".join(html.escape(line) for line in _wrapped(mark.name)),
        "x": [short(mark.x / x_factor)],
        "y": [short(mark.y / y_factor)],
        "error_x": _bounds(mark.x, mark.x_low, mark.x_high, x_factor, mark.colour),
        "error_y": _bounds(mark.y, mark.y_low, mark.y_high, y_factor, mark.colour),
        "marker": {
            "symbol": mark.symbol + ("-open" if mark.modelled else ""),
            "size": 12 if mark.chosen else 8,
            "color": mark.colour,
            "opacity": 1 if mark.chosen else 0.55,
            "line": {"width": 1.8 if mark.modelled else 0, "color": mark.colour},
        },
        "hovertext": [lines(mark.hover)],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "showlegend": mark.chosen,
    }


def _bounds(value: float, low: float | None, high: float | None, factor: float, colour: str) -> Spec:
    return errors([(value, low, high)], factor, f"{colour}/90")
