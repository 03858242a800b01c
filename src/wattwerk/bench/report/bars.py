"""Rows of bars, as plain plotly specifications."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final

import msgspec

from wattwerk.bench.report.base import HATCH, Spec, axis_unit, base_layout, cut, errors, lines, short
from wattwerk.units import format_value

ROW_PX: Final = 30
#: of a group's name and a label at the axis together: what a phone can show
_LINE_LETTERS: Final = 42
#: between the parts of a lane's name
_PART: Final = " · "
FRAME_PX: Final = 64
#: between a mark and the text behind it; plotly drops plain spaces at the beginning
_MARK_ROOM: Final = "\u2002\u2009"


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
        published: Somebody else's value: an outline only.
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
    published: bool = False


class Tick(msgspec.Struct, frozen=True):
    """A mark on a bar's row; ``figure`` is a name with its unit."""

    row_label: tuple[str, str]
    value: float
    name: str
    symbol: str
    figure: str = "x_w"


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
    room = {"low": short(min(starts) / factor * 1.1), "high": short(span), "text_px": 22 + 7 * longest}
    layout = base_layout(f"{title} ({unit})" if unit else title)
    layout["xaxis"] |= {
        "range": [min(starts) / factor * 1.1, span * (1.12 + 0.032 * longest)],
        "tickformat": "~s" if span >= 10_000 else "",
    }
    layout["margin"]["l"] = 8  # the page knows how wide the labels are
    layout["yaxis"] |= {
        "range": [places + 0.1, -0.6],
        "tickvals": [row for row, bar in rows if not bar.secondary],
        "ticktext": [html.escape(bar.label) for _, bar in rows if not bar.secondary],
        "showgrid": False,
        "zeroline": False,
    }
    room_letters = _LINE_LETTERS - max(len(bar.label) for _, bar in rows)
    layout["annotations"] = [
        _header(place, text) for (place, _), text in zip(headers, _short_names(groups, room_letters), strict=True)
    ]
    if reference is not None:
        layout["shapes"] = [_reference_line(reference / factor)]
    positions = {(group, bar.label): row for (group, _), (row, bar) in zip(_flat(groups), rows, strict=True)}
    beyond: dict[float, float] = {}
    for tick in ticks:
        row = positions[tick.row_label]
        beyond[row] = max(beyond.get(row, 0.0), tick.value)
    data = [_bars(rows, factor), _bar_texts(rows, factor, reference or 0.0, beyond), *_ticks(ticks, positions, factor)]
    return {"data": data, "layout": layout, "height": round(ROW_PX * (places + 0.7) + FRAME_PX), "room": room}


def _short_names(groups: Sequence[tuple[str, Sequence[Bar]]], longest: int) -> list[str]:
    """Return the groups' names; where one is too long, all without the parts that they share, and then cut."""
    names = [label for label, _ in groups]
    if max(map(len, names)) <= longest:
        return names
    own = [set(label.split(_PART)) for label, bars in groups if not all(bar.published for bar in bars)]
    shared = set.intersection(*own) if own else set()
    shorter = [_PART.join(part for part in name.split(_PART) if part not in shared) or name for name in names]
    return [cut(name, longest) for name in shorter]


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


def has_published(spec: Spec) -> bool:
    """Tell whether a chart has bars that somebody else published: outlines, filled with the surface alone."""
    return any("@surface" in trace["marker"]["color"] for trace in spec["data"] if trace["type"] == "bar")


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
        "x": [short(bar.value / factor) for bar in bars],
        "y": [round(row, 3) for row, _ in rows],
        "width": [0.36 if bar.secondary else 0.58 for bar in bars],
        "marker": {
            "color": ["@surface" if bar.published else bar.colour for bar in bars],
            "opacity": [0.5 if bar.faded else 1 for bar in bars],
            "line": {"color": colours, "width": 1.2},
        },
        "error_x": errors([(bar.value, bar.low, bar.high) for bar in bars], factor, "@muted"),
        "hovertext": [lines(bar.hover) for bar in bars],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "showlegend": False,
    }
    if any(bar.modelled for bar in bars):
        trace["marker"]["pattern"] = pattern  # type: ignore[index]
    return trace


def _bar_texts(rows: Sequence[tuple[float, Bar]], factor: float, reference: float, marks: dict[float, float]) -> Spec:
    """Write the values behind error bars, marks and the line of reference, which would run through them otherwise.

    Args:
        rows: Place and bar.
        factor: By what the axis divides.
        reference: Value of the line of reference.
        marks: Place -> the mark of that row that is furthest right.
    """
    own = [max(bar.value, bar.high or bar.value, reference) for _, bar in rows]
    span = max([*own, *marks.values(), 1e-12])
    # a mark far to the right leaves room for the text before it, on a phone too
    near = [
        marks.get(row, 0.0) if (marks.get(row, 0.0) - end) / span < (8 * len(bar.text) + 20) / 160 else 0.0
        for end, (row, bar) in zip(own, rows, strict=True)
    ]
    ends = [max(pair) for pair in zip(own, near, strict=True)]
    # a mark is so wide that its half reaches into the text
    behind = [mark > end - 0.04 * span and mark > 0 for end, mark in zip(ends, near, strict=True)]
    return {
        "type": "scatter",
        "mode": "text",
        "x": [short(end / factor) for end in ends],
        # the row above is close to a second value's
        "y": [round(row + (0.08 if bar.secondary else 0.0), 3) for row, bar in rows],
        "text": [
            f"{_MARK_ROOM if mark else ' '}{html.escape(bar.text)}" for mark, (_, bar) in zip(behind, rows, strict=True)
        ],
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
                "x": [short(tick.value / factor) for tick in mine],
                "y": [round(positions[tick.row_label] + (0.17 if symbol == "circle" else -0.17), 3) for tick in mine],
                "marker": {
                    "symbol": symbol,
                    "size": 8,
                    "color": "@surface",
                    "line": {"color": "@text", "width": 1.6},
                },
                "hovertext": [f"{name}: {format_value(tick.figure, tick.value)}" for tick in mine],
                "hovertemplate": "%{hovertext}<extra></extra>",
                "showlegend": False,
            }
        )
    return traces


def _header(place: float, text: str) -> Spec:
    return {
        "xref": "paper",
        "x": 0,
        "xanchor": "left",
        "y": place,
        "yref": "y",
        "yanchor": "middle",
        "text": f"<b>{html.escape(text)}</b>",
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
