from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from wattwerk import export
from wattwerk.errors import ConfigError
from wattwerk.records import Record, Subject, measured, unavailable

Make = Callable[..., Record]


def test_json_goes_round(tmp_path: Path, make_record: Make) -> None:
    """Exported JSON reads back as the same records."""
    records = [make_record("1" * 12), make_record("2" * 12)]
    path = tmp_path / "r.json"
    export.write(export.encode(records, "json"), path)
    assert export.read(path) == records


def test_a_single_record_and_a_bench_answer_are_read_too(tmp_path: Path, make_record: Make) -> None:
    """What `results show --json` and `bench --json` print can be compared and reported."""
    plain = json.loads(export.encode([make_record()], "json"))
    (tmp_path / "one.json").write_text(json.dumps(plain[0]))
    (tmp_path / "answer.json").write_text(json.dumps({"sweep": "x", "records": plain}))
    assert export.read(tmp_path / "one.json") == export.read(tmp_path / "answer.json") == [make_record()]


def test_csv_has_a_column_for_value_bounds_and_provenance(make_record: Make) -> None:
    """Every record is a row, every figure four columns, and missing figures are empty, not zero."""
    records = [
        make_record("1" * 12, figures={"latency_p50_s": measured(0.5, 0.4, 0.6)}),
        make_record("2" * 12, figures={"wall_power_w": unavailable("no meter")}),
    ]
    rows = list(csv.DictReader(io.StringIO(export.encode(records, "csv").decode())))
    assert rows[0]["latency_p50_s"] == "0.5"
    assert rows[0]["latency_p50_s.low"] == "0.4"
    assert rows[1]["latency_p50_s"] == ""
    assert rows[1]["wall_power_w.provenance"] == "unavailable"


def test_csv_does_not_carry_formulas(make_record: Make) -> None:
    """A model's name that a spreadsheet would run as a formula is made harmless."""
    rows = list(csv.DictReader(io.StringIO(
        export.encode([make_record(subject=Subject("=cmd|' /C calc'!A0"))], "csv").decode())))  # fmt: skip
    assert rows[0]["model"].startswith("'=")


def test_parquet_reads_back(tmp_path: Path, make_record: Make) -> None:
    """Parquet has the same rows as CSV."""
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "r.parquet"
    export.write(export.encode([make_record()], "parquet"), path)
    assert parquet.read_table(path).to_pylist() == export.rows([make_record()])


def test_no_records_still_make_a_file() -> None:
    """An empty store exports as empty files, not as an error."""
    assert json.loads(export.encode([], "json")) == []
    assert export.encode([], "csv").decode() == "id\n"


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"records": 3}', "\x00\x01", "[" * 100_000])
def test_a_file_without_records_is_a_clear_error(tmp_path: Path, text: str) -> None:
    """The error names the file."""
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x\.json"):
        export.read(path)


def test_a_missing_file_and_an_unknown_format_are_clear_errors(tmp_path: Path) -> None:
    """Bad input is named, with a remedy."""
    with pytest.raises(ConfigError, match="cannot read"):
        export.read(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="json, csv, parquet"):
        export.encode([], "xml")
    with pytest.raises(ConfigError, match="cannot write"):
        export.write(b"", tmp_path / "no folder" / "x.json")
