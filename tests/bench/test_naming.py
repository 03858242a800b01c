"""Two model files of one name stay two models wherever records are shown together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.bench.samples import latencies, record

from wattwerk import terminal
from wattwerk.bench.compare import compare
from wattwerk.bench.naming import told_apart
from wattwerk.bench.report import render_report
from wattwerk.bench.summary import summarise
from wattwerk.catalog.models import bare_subject
from wattwerk.records import Record


def of_file(path: str, digest: str, median_s: float = 1e-3, group: str = "aaaaaaaaaaaa") -> Record:
    """Return a record of an ONNX file."""
    plain = record("model", figures=latencies(median_s, 1), group=group)
    protocol = plain.setup.protocol | {"configuration": json.dumps({"model": path})}
    return replace(
        plain,
        id=f"{digest}{group}"[:12],
        subject=replace(plain.subject, name="model", digest=digest * 16),
        setup=replace(plain.setup, protocol=protocol),
    )


TWO = [of_file("nets/a/model.onnx", "aaaa"), of_file("nets/b/model.onnx", "bbbb", 2e-3)]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ([("a/model.onnx", "aaaa"), ("b/model.onnx", "bbbb")], ["a/model", "b/model"]),
        ([("x\\a\\model.onnx", "aaaa"), ("y/a/model.onnx", "bbbb")], ["x/a/model", "y/a/model"]),
        ([("a/model.onnx", "aaaa"), ("b/model.onnx", "aaaa")], ["model", "model"]),
        ([("model.onnx", "aaaa"), ("model.onnx", "bbbb")], ["model (aaaaaa)", "model (bbbbbb)"]),
        ([("model.onnx", "aaaa"), ("old/model.onnx", "bbbb")], ["model", "old/model"]),
        ([("a/model.onnx", "aaaa"), ("b/model.onnx", "bbbb"), ("b/model.onnx", "")], ["a/model", "b/model", "b/model"]),
        ([("", ""), ("model.onnx", "bbbb")], ["model", "model (bbbbbb)"]),
    ],
)
def test_names_are_as_long_as_needed(files: list[tuple[str, str]], names: list[str]) -> None:
    """Another path tells two contents apart; one content is one model; one path with two contents shows the digests."""
    assert [each.subject.name for each in told_apart([of_file(*file) for file in files])] == names


def test_summary_report_and_table_show_both() -> None:
    """Neither file's records are mixed with the other's: two models in the summary, both names in report and table."""
    assert [model.model for model in summarise(TWO).models] == ["a/model", "b/model"]
    page = render_report(TWO)
    assert "a/model" in page
    assert "b/model" in page
    cells = terminal.records_table(TWO, with_id=False).columns[0].cells
    assert [str(cell) for cell in cells] == ["a/model", "b/model"]


def test_comparison_matches_content_then_path() -> None:
    """Each file is compared with its own earlier state, on another path by its content; never with its namesake."""
    moved = [of_file("elsewhere/q/model.onnx", "bbbb", 2e-3, "b" * 12), of_file("w/model.onnx", "aaaa", 1e-3, "b" * 12)]
    rows = compare(TWO, moved).rows
    assert [(row.a_id, row.b_id) for row in rows] == [(TWO[0].id, moved[1].id), (TWO[1].id, moved[0].id)]
    assert all(row.speed_up is not None and row.speed_up.value == pytest.approx(1) for row in rows)
    again = [of_file("nets/b/model.onnx", "dddd", 2e-3, "b" * 12), of_file("nets/a/model.onnx", "cccc", 1e-3, "b" * 12)]
    assert [row.speed_up.value for row in compare(TWO, again).rows if row.speed_up] == pytest.approx([1, 1])
    one = compare(TWO[:1] * 2, [of_file("nets/a/model.onnx", "cccc", 1e-3, "b" * 12)] * 2)
    assert len(one.rows) == 1


def test_a_file_that_fails_keeps_its_name(tmp_path: Path) -> None:
    """A model that cannot be loaded is recorded under its file's name and digest, as one that can be."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x")
    subject = bare_subject(str(path))
    assert (subject.name, len(subject.digest)) == ("model", 64)
    assert bare_subject(str(tmp_path / "gone.onnx")).digest == ""
    assert bare_subject("package.module:factory").name == "package.module:factory"
