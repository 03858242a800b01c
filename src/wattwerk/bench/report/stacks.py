"""Rows of bars that are made of parts, as plain plotly specifications."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final

import msgspec

from wattwerk.bench.report.bars import Bar, Tick, bar_chart
from wattwerk.bench.report.base import Spec, lines, short

_KEY_PX: Final = 30


class Part(msgspec.Struct, frozen=True):
    """One part of a bar: a name that the chart's key explains, its value, a colour token."""

    name: str
    value: float
    colour: str
    hover: Sequence[str] = ()


class Stack(msgspec.Struct, frozen=True):
    """A bar, of which ``bar.value`` is the sum of the parts; without parts it is drawn as it is."""

    bar: Bar
    parts: Sequence[Part] = ()


def stack_chart(
    groups: Sequence[tuple[str, Sequence[Stack]]], figure: str, *, title: str, ticks: Sequence[Tick] = ()
) -> Spec:
    """Return horizontal bars in labelled groups, each made of parts, with a key of the parts above.

    Args:
        groups: Pairs of group label and its bars.
        figure: Name of the figure, for the unit.
        title: What the axis shows.
        ticks: Further marks on the rows.
    """
    plain = [(label, [stack.bar for stack in stacks]) for label, stacks in groups]
    spec = bar_chart(plain, figure, title=title, ticks=ticks)
    whole, *rest = spec["data"]
    stacks = [stack for _, group in groups for stack in group]
    factor = _factor(stacks, whole["x"])
    spec["data"] = [*_part_traces(stacks, whole["y"], factor), *_whole_traces(stacks, whole), *rest]
    spec["layout"] |= {
        "showlegend": True,
        "legend": {
            "orientation": "h",
            "xref": "container",
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yanchor": "bottom",
            "itemclick": False,
            "itemdoubleclick": False,
            "font": {"size": 12},
        },
    }
    spec["layout"]["margin"] = spec["layout"]["margin"] | {"t": _KEY_PX}
    return spec | {"height": spec["height"] + _KEY_PX}


def _factor(stacks: Sequence[Stack], drawn: Sequence[float]) -> float:
    """Return by what the axis divides: what the bars' values became."""
    return next((stack.bar.value / x for stack, x in zip(stacks, drawn, strict=True) if x), 1.0)


def _part_traces(stacks: Sequence[Stack], rows: Sequence[float], factor: float) -> list[Spec]:
    """Return one trace for each name of a part, each part beginning where the one before it ends."""
    placed: dict[str, list[tuple[float, float, Part, Bar]]] = {}
    for stack, row in zip(stacks, rows, strict=True):
        begin = 0.0
        for part in stack.parts:
            placed.setdefault(part.name, []).append((row, begin, part, stack.bar))
            begin += part.value
    return [_part_trace(name, mine, factor) for name, mine in placed.items()]


def _part_trace(name: str, placed: Sequence[tuple[float, float, Part, Bar]], factor: float) -> Spec:
    return {
        "type": "bar",
        "orientation": "h",
        "name": html.escape(name),
        "x": [short(part.value / factor) for _, _, part, _ in placed],
        "base": [short(begin / factor) for _, begin, _, _ in placed],
        "y": [row for row, _, _, _ in placed],
        "width": 0.58,
        "marker": {
            "color": placed[0][2].colour,
            "opacity": [0.5 if bar.faded else 1 for _, _, _, bar in placed],
            "line": {"color": "@surface", "width": 1},
        },
        "hovertext": [lines(part.hover) for _, _, part, _ in placed],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "showlegend": True,
    }


def _whole_traces(stacks: Sequence[Stack], whole: Spec) -> list[Spec]:
    """Return the bars without parts as they were."""
    kept = [index for index, stack in enumerate(stacks) if not stack.parts]
    if not kept:
        return []

    def chosen(values: Sequence[object]) -> list[object]:
        return [values[index] for index in kept]

    marker, line = whole["marker"], whole["marker"]["line"]
    return [
        whole
        | {key: chosen(whole[key]) for key in ("x", "y", "width", "hovertext")}
        | {"error_x": {"visible": False}}
        | {
            "marker": {
                "color": chosen(marker["color"]),
                "opacity": chosen(marker["opacity"]),
                "line": line | {"color": chosen(line["color"])},
            }
        }
    ]
