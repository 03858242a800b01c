"""Write the report: one HTML file that holds everything, opens offline and is safe to pass on.

plotly.js and the records lie in the page compressed, so that five hundred records stay well below 5 MB; the browser
unpacks them (``DecompressionStream``: Chrome 80, Firefox 113, Safari 16.4). Without it, or without scripts, the words
and the table of all records remain.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final

import msgspec

from wattwerk import export
from wattwerk.bench.naming import machines_told_apart, told_apart
from wattwerk.bench.report.figures import is_plottable, sections
from wattwerk.bench.report.page import page, script_texts
from wattwerk.bench.report.published import ipa_study
from wattwerk.bench.report.values import file_name, table_of
from wattwerk.bench.summary import summarise
from wattwerk.errors import ConfigError
from wattwerk.records import Record

#: what stands at the beginning and at the end of plotly.js, within the frame of a module
_BEGIN: Final = '"use strict";var Plotly='
_END: Final = "}));"


def write_report(
    records: Sequence[Record],
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    default: Record | None = None,
    with_study: bool = False,
) -> None:
    """Write one self-contained HTML file about records.

    Args:
        records: Records of kind ``bench``; failed and invalid ones are shown as such.
        path: The file to write; an existing one is replaced in one step.
        title: The heading; None names the models.
        default: The configuration that gains are counted from, as in ``summary.summarise``.
        with_study: Whether the values that the Fraunhofer IPA study published are laid beside.

    Raises:
        ConfigError: There is no record, none has a figure that can be drawn, or the file cannot be written.
    """
    text = render_report(records, title=title, default=default, with_study=with_study)
    export.write(text.encode(), Path(path))


def render_report(
    records: Sequence[Record], *, title: str | None = None, default: Record | None = None, with_study: bool = False
) -> str:
    """Return the report as HTML text; see ``write_report``.

    Raises:
        ConfigError: There is no record, or none has a figure that can be drawn.
    """
    records = [record for record in records if record.kind == "bench"]
    if not records:
        raise ConfigError("there is no record to report on", "run `wattwerk bench MODEL` first")
    if not any(is_plottable(record) for record in records):
        reason = next((record.reason for record in records if record.reason), "no latency was recorded")
        raise ConfigError(
            f"none of {len(records)} records has a figure to draw ({reason})",
            "see `wattwerk results show ID` for why each failed",
        )
    named = shown_records(records)
    shown = sections(named, default=default, published=ipa_study() if with_study else ())
    specs = [
        chart.spec
        | {
            "title": f"{section.title}: {chart.title}",
            "table": table_of(chart.spec),
            "file": file_name(section, chart, number),
        }
        for number, (section, chart) in enumerate(
            ((section, chart) for section in shown for chart in section.charts), 1
        )
    ]
    parts = {
        "style": _data("report.css"),
        "script": _data("report.js"),
        "specs": _safe_json(specs),
        "texts": _safe_json(script_texts()),
        "plotly": _packed(_plotly().encode()),
        "records": _packed(msgspec.json.encode(list(records))),
    }
    return page(named, summarise(records, default=default), shown, title=title, parts=parts)


def shown_records(records: Sequence[Record]) -> list[Record]:
    """Return the records of kind ``bench`` as a report names them: models and machines told apart."""
    return machines_told_apart(told_apart([record for record in records if record.kind == "bench"]))


def _plotly() -> str:
    """Return plotly.js as a function that is called where it stands, without the frame that makes a module of it.

    A browser first skims a function that is passed on and reads it again when it is called. Of a megabyte of code that
    was a third of the time until plotly stands.

    Source: the basic bundle (bars, points, lines) of plotly.js 4.1.1, unchanged from the package
    plotly.js-basic-dist-min on npm; MIT licence.
    """
    text = _data("plotly-basic.min.js")
    licence, _, _ = text.partition("*/")
    return f"{licence}*/\n(() => {{\n{text[text.index(_BEGIN) : text.rindex(_END)]}}})();\n"


def _data(name: str) -> str:
    return resources.files("wattwerk.bench.report").joinpath("data", name).read_text(encoding="utf-8")


def _packed(data: bytes) -> str:
    """Compress for a page; base64 has no letter that HTML could misread, and no time stamp makes equal input equal."""
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def _safe_json(value: object) -> str:
    """Write JSON that can stand in a script element: no ``<`` that could end it, no separator that breaks lines."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
