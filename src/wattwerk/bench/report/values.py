"""The values of a chart as a table: what a CSV file of it holds, taken from what is drawn.

The numbers are those of the axes, in the axes' units, which stand in the headings; they have a decimal point in every
language, so that programs can read them.
"""

from __future__ import annotations

import csv
import html
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, Final

from wattwerk.bench.report.base import Spec
from wattwerk.bench.report.section import Chart, Section
from wattwerk.language import t

Row = list[str | float | None]

#: first letters that a spreadsheet takes for a formula
_FORMULA: Final = ("=", "+", "-", "@")
_PLAIN_LETTERS: Final = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})


def table_of(spec: Spec) -> dict[str, Any]:
    """Return ``head``, a list of texts, and ``rows``, lists of texts and numbers; columns without content are left out.

    Args:
        spec: A chart's specification.
    """
    layout = spec["layout"]
    x, y = (_title(layout[axis]) for axis in ("xaxis", "yaxis"))
    lying = any(trace.get("orientation") == "h" for trace in spec["data"])
    value, other = (x, t("bar")) if lying else (y, x)
    unit = _unit(value)
    head = [t("group"), t("series"), other, value, t("lower bound") + unit, t("upper bound") + unit]
    # of the other axis, where a point has a bar along it
    name = other.removesuffix(_unit(other))
    head += [t("{axis}: lower bound", axis=name) + _unit(other), t("{axis}: upper bound", axis=name) + _unit(other)]
    head += [t("modelled"), t("as shown")]
    written = _written(spec["data"]) if lying else []
    rows = [row for trace in spec["data"] for row in _rows(trace, layout, lying, written)]
    used = [index for index in range(len(head)) if any(row[index] not in (None, "") for row in rows)]
    return {"head": [head[index] for index in used], "rows": [[row[index] for index in used] for row in rows]}


def _unit(title: str) -> str:
    """Return the unit at the end of an axis's title, with its parentheses: `` (ms)``."""
    found = re.search(r" \(([^(),]+)(,[^()]*)?\)$", title)
    return f" ({found[1]})" if found else ""


def _written(traces: Sequence[Spec]) -> list[str]:
    """Return what stands behind bars; it says what a second bar is, and which value is invalid."""
    return [str(text).strip() for trace in traces if trace.get("mode") == "text" for text in trace["text"]]


def csv_of(table: dict[str, Any]) -> str:
    """Return a table as CSV, with a decimal point and commas between."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([table["head"], *table["rows"]])
    return text.getvalue()


def _title(axis: Spec) -> str:
    title = axis.get("title", "")
    return _plain(str(title.get("text", "") if isinstance(title, dict) else title))


def _plain(text: str) -> str:
    """Return a text without plotly's marks, and without what a spreadsheet would take for a formula."""
    told = html.unescape(re.sub(r"<[^>]*>", " ", text)).strip()
    return f"'{told}" if told.startswith(_FORMULA) else told


def _rows(trace: Spec, layout: Spec, lying: bool, written: Sequence[str]) -> Iterator[Row]:
    """Yield a row for each mark of a trace: names, place, value, bounds of both, modelled or not, as written."""
    if trace.get("hoverinfo") == "skip" or "x" not in trace or "y" not in trace:
        return
    values, places = (trace["x"], trace["y"]) if lying else (trace["y"], trace.get("customdata") or trace["x"])
    ends = _error_bar(trace.get("error_x" if lying else "error_y", {}), values)
    across = _error_bar({} if lying else trace.get("error_x", {}), trace["x"])
    texts = written if trace.get("type") == "bar" and len(written) == len(values) else []
    marks = zip_longest(places, values, ends, across, _modelled(trace), texts)
    for place, value, along, beside, modelled, text in marks:
        if value is None:
            continue
        group, label = _row_names(float(place), layout) if lying else ("", _plain(place) if _is_text(place) else place)
        yield [
            group,
            _plain(str(trace.get("name") or "")),
            label,
            value,
            *along,
            *beside,
            t("yes") if modelled else "",
            _plain(text or ""),
        ]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _error_bar(bar: Spec, values: Sequence[float | None]) -> list[tuple[float | None, float | None]]:
    """Return the ends of each mark's error bar; None where there is none."""
    if not bar.get("visible", True):
        return [(None, None)] * len(values)
    above, below = bar.get("array") or [], bar.get("arrayminus") or bar.get("array") or []
    return [
        (None, None) if value is None else _ends(value, less, more)
        for value, less, more in itertools.islice(zip_longest(values, below, above), len(values))
    ]


def _ends(value: float, less: float | None, more: float | None) -> tuple[float | None, float | None]:
    """Return the ends of an error bar; None where there is none."""
    if not less and not more:
        return None, None
    return float(f"{value - (less or 0):.6g}"), float(f"{value + (more or 0):.6g}")


def _modelled(trace: Spec) -> list[bool]:
    """Tell for each mark whether it is modelled: hatched, dashed, or a single open marker."""
    count = len(trace["x"])
    marker = trace.get("marker", {})
    shape = marker.get("pattern", {}).get("shape", "") if isinstance(marker, dict) else ""
    opened = trace.get("mode") == "markers" and str(marker.get("symbol", "")).endswith("-open")
    if isinstance(shape, list):
        return [bool(each) for each in shape]
    return [bool(shape) or opened or trace.get("line", {}).get("dash") == "dash"] * count


def _row_names(place: float, layout: Spec) -> tuple[str, str]:
    """Return group and label of a row of bars: the nearest header above it, and the nearest label."""
    axis = layout["yaxis"]
    headers = [each for each in layout.get("annotations", []) if each.get("yref") == "y" and each["y"] <= place]
    group = max(headers, key=lambda each: float(each["y"]))["text"] if headers else ""
    labels = list(zip(axis.get("tickvals", []), axis.get("ticktext", []), strict=True))
    # a thinner bar stands below the one that it belongs to, and a mark on a row close to its middle
    label = min(labels, key=lambda each: abs(float(each[0]) + 0.1 - place))[1] if labels else str(place)
    return _plain(str(group)), _plain(str(label))


def file_name(section: Section, chart: Chart, number: int) -> str:
    """Return the name of a chart's files without their ending: ``03-latency-by-model-and-platform-resnet-50``."""
    told = f"{section.title} {chart.title}".lower().translate(_PLAIN_LETTERS)
    return f"{number:02}-{'-'.join(re.findall(r'[a-z0-9]+', told))}"[:100].rstrip("-")
