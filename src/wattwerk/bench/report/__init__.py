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

import msgspec

from wattwerk import export
from wattwerk.bench.naming import machines_told_apart, told_apart
from wattwerk.bench.report.figures import is_plottable, sections
from wattwerk.bench.report.page import page, script_texts
from wattwerk.bench.report.published import ipa_study
from wattwerk.bench.report.values import file_name, table_of
from wattwerk.bench.summary import summarise
from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.records import Record


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
        UnavailableError: plotly is not installed.
    """
    text = render_report(records, title=title, default=default, with_study=with_study)
    export.write(text.encode(), Path(path))


def render_report(
    records: Sequence[Record], *, title: str | None = None, default: Record | None = None, with_study: bool = False
) -> str:
    """Return the report as HTML text; see ``write_report``.

    Raises:
        ConfigError: There is no record, or none has a figure that can be drawn.
        UnavailableError: plotly is not installed.
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
        "plotly": _packed(_plotly()),
        "records": _packed(msgspec.json.encode(list(records))),
    }
    return page(named, summarise(records, default=default), shown, title=title, parts=parts)


def shown_records(records: Sequence[Record]) -> list[Record]:
    """Return the records of kind ``bench`` as a report names them: models and machines told apart."""
    return machines_told_apart(told_apart([record for record in records if record.kind == "bench"]))


def _plotly() -> bytes:
    """Return plotly.js; imported here, because it is only needed for a report."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UnavailableError("plotly is not installed", "pip install plotly") from error
    return str(get_plotlyjs()).encode()


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
