"""What all charts of the report share: units, colours, axes, error bars, and texts that plotly can take.

Colours are written as tokens (``@fp32``, ``@text``): the page replaces them by those of the light or dark theme when
it draws. All text is escaped, because plotly reads a little HTML in labels and names of models come from strangers.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, Final

from wattwerk.bench.labels import PRECISIONS
from wattwerk.language import SEPARATORS, current
from wattwerk.units import UNITS, format_value, unit_of

Spec = dict[str, Any]

_FACTORS: Final = {"": 1.0, "n": 1e-9, "µ": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "triangle-down")
#: hatching means one thing only in the whole report: this value comes from a model
HATCH: Final = "/"


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


def base_layout(title: str) -> Spec:
    """Return a layout without a key, that neither zooms nor drags; ``title`` stands at the horizontal axis."""
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
        "margin": {"l": 60, "r": 12, "t": 8, "b": 49},  # what axes take: with less plotly draws twice
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


def errors(values: Sequence[tuple[float, float | None, float | None]], factor: float, colour: str) -> Spec:
    """Return error bars from values with their lower and upper ends."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [short(((high if high is not None else value) - value) / factor) for value, _, high in values],
        "arrayminus": [short((value - (low if low is not None else value)) / factor) for value, low, _ in values],
        "color": colour,
        "thickness": 1.3,
        "width": 4,
        "visible": any(low is not None or high is not None for _, low, high in values),
    }


def cut(text: str, longest: int) -> str:
    """Shorten a group's name to what a phone can show; the hover text and the table have it in full.

    It is cut in the middle: names of lanes begin with the machine and end with what sets neighbours apart.
    """
    head = longest // 2
    return text if len(text) <= longest else f"{text[:head].rstrip()}…{text[-(longest - head - 1) :].lstrip()}"


def lines(texts: Sequence[str]) -> str:
    """Return lines of text for plotly."""
    return "<br>".join(html.escape(text) for text in texts)


def short(value: float) -> float:
    """Round to six significant digits: more cannot be seen and would only make the page larger."""
    return float(f"{value:.6g}")
