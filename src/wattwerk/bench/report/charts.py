"""The two kinds of chart of the report, as plain plotly specifications: rows of bars, and curves over batch size.

Colours are written as tokens (``@fp32``, ``@text``): the page replaces them by those of the light or dark theme when
it draws. All text is escaped, because plotly reads a little HTML in labels and names of models come from strangers.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from wattwerk.bench.labels import PRECISIONS
from wattwerk.language import SEPARATORS, current, t
from wattwerk.units import UNITS, format_value, unit_of

Spec = dict[str, Any]

_FACTORS: Final = {"": 1.0, "n": 1e-9, "µ": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "triangle-down")
#: hatching means one thing only in the whole report: this value comes from a model
HATCH: Final = "/"

_ROW_PX: Final = 30
_FRAME_PX: Final = 64


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One bar.

    Attributes:
        label: Text at the axis.
        value: Value in SI units.
        low: Lower end of its error bar.
        high: Upper end of its error bar.
        colour: A token.
        text: The value in words, written behind the bar.
        hover: Lines shown on pointing at it.
        modelled: Drawn hatched.
        faded: Drawn pale: an invalid record, or the second value of a pair.
        secondary: Belongs below the bar before it, thinner, without a row of its own.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    colour: str
    text: str
    hover: Sequence[str] = ()
    modelled: bool = False
    faded: bool = False
    secondary: bool = False


class Tick(msgspec.Struct, frozen=True):
    """A mark on a bar's row: ``open`` ones are drawn as an outline."""

    row_label: tuple[str, str]
    value: float
    name: str
    symbol: str


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


def colour_of(precision: str) -> str:
    """Return the colour token of a precision, the same in every chart."""
    return f"@{precision}" if precision in PRECISIONS else "@other"


def axis_unit(figure: str, largest: float) -> tuple[float, str]:
    """Return by what to divide an axis's values, and the unit to write at it.

    Args:
        figure: The figure's name.
        largest: The largest absolute value on the axis.
    """
    symbol = UNITS[unit_of(figure)][0]
    if symbol == "%":
        return 0.01, "%"
    unit = format_value(figure, largest).partition(" ")[2] if largest else symbol
    return _FACTORS[unit.removesuffix(symbol)], unit


def bar_chart(
    groups: Sequence[tuple[str, Sequence[Bar]]],
    figure: str,
    *,
    title: str,
    ticks: Sequence[Tick] = (),
    reference: float | None = None,
    unit: str | None = None,
) -> Spec:
    """Return horizontal bars in labelled groups; names stand above their bars, so that a phone has room for both.

    Args:
        groups: Pairs of group label and its bars.
        figure: Name of the figure, for the unit.
        title: What the axis shows.
        ticks: Further marks on the rows.
        reference: Value of a vertical line.
        unit: The unit to write, where the figure's own does not fit; values are then not scaled.
    """
    rows, headers, places = _layout(groups)
    ends = [max(bar.value, bar.high or bar.value) for _, bar in rows] + [tick.value for tick in ticks]
    starts = [min(0.0, bar.value, bar.low if bar.low is not None else 0.0) for _, bar in rows]
    factor, unit = axis_unit(figure, max(map(abs, (*ends, *starts)))) if unit is None else (1.0, unit)
    longest = max(len(bar.text) for _, bar in rows)
    span = max(*ends, 1e-12) / factor
    room = {"low": _short(min(starts) / factor * 1.1), "high": _short(span), "text_px": 14 + 7 * longest}
    layout = _base_layout(f"{title} ({unit})" if unit else title)
    layout["xaxis"] |= {
        "range": [min(starts) / factor * 1.1, span * (1.12 + 0.032 * longest)],
        "tickformat": "~s" if span >= 10_000 else "",
    }
    layout["yaxis"] |= {
        "range": [places + 0.1, -0.6],
        "tickvals": [row for row, bar in rows if not bar.secondary],
        "ticktext": [html.escape(bar.label) for _, bar in rows if not bar.secondary],
        "showgrid": False,
        "zeroline": False,
    }
    layout["annotations"] = [_header(place, text) for place, text in headers]
    if reference is not None:
        layout["shapes"] = [_reference_line(reference / factor)]
    positions = {(group, bar.label): row for (group, _), (row, bar) in zip(_flat(groups), rows, strict=True)}
    data = [_bars(rows, factor), _bar_texts(rows, factor, reference or 0.0), *_ticks(ticks, positions, factor)]
    return {"data": data, "layout": layout, "height": round(_ROW_PX * (places + 0.7) + _FRAME_PX), "room": room}


def _flat(groups: Sequence[tuple[str, Sequence[Bar]]]) -> list[tuple[str, Bar]]:
    return [(label, bar) for label, bars in groups for bar in bars]


def _layout(
    groups: Sequence[tuple[str, Sequence[Bar]]],
) -> tuple[list[tuple[float, Bar]], list[tuple[float, str]], float]:
    """Give each bar and each group's name a place from top to bottom; return also the last place."""
    rows: list[tuple[float, Bar]] = []
    headers: list[tuple[float, str]] = []
    place = 0.0
    for label, bars in groups:
        headers.append((place, label))
        place += 0.85
        for bar in bars:
            rows.append((place - 0.5 if bar.secondary else place, bar))
            place += 0.5 if bar.secondary else 1.0
        place += 0.1
    return rows, headers, place - 0.4


def _bars(rows: Sequence[tuple[float, Bar]], factor: float) -> Spec:
    bars = [bar for _, bar in rows]
    colours = [bar.colour for bar in bars]
    pattern = {
        "shape": [HATCH if bar.modelled else "" for bar in bars],
        "fillmode": "replace",
        "solidity": 0.4,
        "size": 6,
    }
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [_short(bar.value / factor) for bar in bars],
        "y": [round(row, 3) for row, _ in rows],
        "width": [0.36 if bar.secondary else 0.58 for bar in bars],
        "marker": {
            "color": colours,
            "opacity": [0.5 if bar.faded else 1 for bar in bars],
            "line": {"color": colours, "width": 1.2},
        },
        "error_x": _errors([(bar.value, bar.low, bar.high) for bar in bars], factor, "@muted"),
        "hovertext": [_lines(bar.hover) for bar in bars],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "showlegend": False,
    }
    if any(bar.modelled for bar in bars):
        trace["marker"]["pattern"] = pattern  # type: ignore[index]
    return trace


def _bar_texts(rows: Sequence[tuple[float, Bar]], factor: float, beyond: float) -> Spec:
    """Write the values behind the error bars and the line of reference, which would run through them otherwise."""
    return {
        "type": "scatter",
        "mode": "text",
        "x": [_short(max(bar.value, bar.high or bar.value, beyond) / factor) for _, bar in rows],
        # the row above is close to a second value's
        "y": [round(row + (0.08 if bar.secondary else 0.0), 3) for row, bar in rows],
        "text": [f" {html.escape(bar.text)}" for _, bar in rows],
        "textposition": "middle right",
        "textfont": {"size": 12, "color": "@text"},
        "hoverinfo": "skip",
        "showlegend": False,
        "cliponaxis": False,
    }


def _ticks(ticks: Sequence[Tick], positions: dict[tuple[str, str], float], factor: float) -> list[Spec]:
    """Return one trace for each name of tick."""
    traces = []
    for name, symbol in dict.fromkeys((tick.name, tick.symbol) for tick in ticks):
        mine = [tick for tick in ticks if tick.name == name]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [_short(tick.value / factor) for tick in mine],
                "y": [round(positions[tick.row_label] + (0.17 if symbol == "circle" else -0.17), 3) for tick in mine],
                "marker": {
                    "symbol": symbol,
                    "size": 8,
                    "color": "@surface",
                    "line": {"color": "@text", "width": 1.6},
                },
                "hovertext": [f"{name}: {format_value('x_w', tick.value)}" for tick in mine],
                "hovertemplate": "%{hovertext}<extra></extra>",
                "showlegend": False,
            }
        )
    return traces


def curve_chart(curves: Sequence[Curve], figure: str, *, title: str, logarithmic: bool) -> Spec:
    """Return curves over batch size on a log2 axis.

    Args:
        curves: The series; those from a model are dashed with open markers and carry their bounds.
        figure: Name of the figure, for the unit.
        title: What the vertical axis shows.
        logarithmic: Whether the vertical axis is logarithmic.
    """
    batches = sorted({point.batch for curve in curves for point in curve.points})
    values = [point.high or point.value for curve in curves for point in curve.points]
    lows = [point.low if point.low and point.low > 0 else point.value for curve in curves for point in curve.points]
    factor, unit = axis_unit(figure, max(values))
    layout = _base_layout(t("batch size"))
    ticks = [2**power for power in range(int(math.log2(batches[0])), math.ceil(math.log2(batches[-1])) + 1)]
    margin = 0.06 * max(1.0, math.log10(batches[-1] / batches[0]))
    layout["xaxis"] |= {
        "type": "log",
        "range": [math.log10(batches[0]) - margin, math.log10(batches[-1]) + margin],
        "tickvals": ticks,
        "ticktext": [str(tick) for tick in ticks],
        "tickangle": 0,
    }
    scale = t(", log") if logarithmic else ""
    layout["yaxis"] |= {"title": {"text": f"{title} ({unit}{scale})", "standoff": 8}}
    if logarithmic:
        edges = math.log10(min(lows) / factor), math.log10(max(values) / factor)
        layout["yaxis"] |= {
            "type": "log",
            "range": [edges[0] - 0.08, edges[1] + 0.08],
            "dtick": "D2",
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
        "x": [_short(point.batch * 2**shift) for point in points],
        "y": [_short(point.value / factor) for point in points],
        "line": {"color": curve.colour, "width": 2, "dash": "dash" if curve.modelled else "solid"},
        "marker": {
            "symbol": ["x-thin-open" if p.invalid else curve.symbol + ("-open" if open_ else "") for p in points],
            "size": 8,
            "color": curve.colour,
            "line": {"width": 1.6 if open_ else 0, "color": curve.colour},
        },
        "error_y": _errors([(point.value, point.low, point.high) for point in points], factor, f"{curve.colour}/90")
        | {"width": 3},
        "hovertext": [_lines(point.hover) for point in points],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "showlegend": False,
    }


def _errors(values: Sequence[tuple[float, float | None, float | None]], factor: float, colour: str) -> Spec:
    return {
        "type": "data",
        "symmetric": False,
        "array": [_short(((high if high is not None else value) - value) / factor) for value, _, high in values],
        "arrayminus": [_short((value - (low if low is not None else value)) / factor) for value, low, _ in values],
        "color": colour,
        "thickness": 1.3,
        "width": 4,
        "visible": any(low is not None or high is not None for _, low, high in values),
    }


def _base_layout(title: str) -> Spec:
    axis = {
        "gridcolor": "@grid",
        "zerolinecolor": "@axis",
        "linecolor": "@axis",
        "fixedrange": True,
        "automargin": True,
    }
    return {
        "xaxis": axis | {"title": {"text": title, "standoff": 10}, "nticks": 6},
        "yaxis": dict(axis),
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "@text"},
        "hoverlabel": {
            "bgcolor": "@surface",
            "bordercolor": "@axis",
            "font": {"color": "@text", "size": 13},
            "align": "left",
        },
        "separators": SEPARATORS[current()],
        "showlegend": False,
        "barmode": "overlay",
        "hovermode": "closest",
        "dragmode": False,
    }


def _header(place: float, text: str) -> Spec:
    return {
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "y": place,
        "yref": "y",
        "yanchor": "middle",
        "text": f"<b>{html.escape(_cut(text))}</b>",
        "showarrow": False,
        "font": {"size": 13, "color": "@text"},
        "bgcolor": "@surface",
        "borderpad": 1,
    }


def _reference_line(x: float) -> Spec:
    return {
        "type": "line",
        "x0": x,
        "x1": x,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "layer": "above",
        "line": {"color": "@text", "width": 1.2, "dash": "dot"},
    }


def _cut(text: str, longest: int = 44) -> str:
    """Shorten a group's name to what a phone can show; the hover text and the table have it in full."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _lines(lines: Sequence[str]) -> str:
    return "<br>".join(html.escape(line) for line in lines)


def _short(value: float) -> float:
    """Round to six significant digits: more cannot be seen and would only make the page larger."""
    return float(f"{value:.6g}")
