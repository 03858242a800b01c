"""Records as files: JSON keeps everything; CSV and Parquet have one row a record and one column a figure."""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from wattwerk.errors import ConfigError, StoreError, UnavailableError
from wattwerk.records import Record, from_json

FORMATS: Final = ("json", "csv", "parquet")

_GZIP: Final = b"\x1f\x8b"

Row = dict[str, Any]


def rows(records: Sequence[Record]) -> list[Row]:
    """Return flat rows, all with the same keys in the same order.

    A figure ``latency_p50_s`` gives the columns ``latency_p50_s`` (the value), ``latency_p50_s.low``,
    ``latency_p50_s.high`` and ``latency_p50_s.provenance``.
    """
    flat = [_row(record) for record in records]
    keys = {key: None for row in flat for key in row}
    return [{key: row.get(key) for key in keys} for row in flat]


def _row(record: Record) -> Row:
    row: Row = {
        "id": record.id,
        "kind": record.kind,
        "group": record.group,
        "status": record.status.value,
        "reason": record.reason,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "model": record.subject.name,
        "platform": record.platform.label,
        "runtime": record.setup.runtime,
        "precision": record.setup.precision,
        "batch": record.setup.batch,
        "device": record.setup.device,
        "threads": record.setup.threads,
        "effective_precision": record.setup.effective.get("precision"),
        "quick": record.setup.protocol.get("quick"),
    }
    for name, figure in record.figures.items():
        row[name] = figure.value
        row[f"{name}.low"] = figure.low
        row[f"{name}.high"] = figure.high
        row[f"{name}.provenance"] = figure.provenance.value
    return row


def encode(records: Sequence[Record], form: str) -> bytes:
    """Write records in one of ``FORMATS``.

    Raises:
        ConfigError: The format is unknown.
        UnavailableError: Parquet was asked for and pyarrow is not installed.
    """
    if form == "json":
        return msgspec.json.format(msgspec.json.encode(list(records)), indent=2) + b"\n"
    if form == "csv":
        return _csv(rows(records))
    if form == "parquet":
        return _parquet(rows(records))
    raise ConfigError(f"unknown format {form!r}", f"use one of {', '.join(FORMATS)}")


def _csv(flat: Sequence[Row]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(flat[0]) if flat else ["id"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in flat)
    return text.getvalue().encode()


def _plain(value: Any) -> Any:
    """Keep a spreadsheet from running a text as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def _parquet(flat: Sequence[Row]) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UnavailableError("Parquet needs pyarrow", 'pip install "wattwerk[parquet]"') from error
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(flat)), sink)
    return bytes(sink.getvalue().to_pybytes())


def write(data: bytes, path: Path) -> None:
    """Write a file as a whole or not at all.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} is no name of a file", "name a file in a folder you may write") from error
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise ConfigError(f"cannot write {path} ({error.strerror})", "name a file in a folder you may write") from error


def read(path: Path) -> list[Record]:
    """Read records from a JSON file that ``encode`` wrote, or one with a single record; it may be packed by gzip.

    Raises:
        ConfigError: The file cannot be read or holds no records.
    """
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
        parts = msgspec.json.decode(data, type=list[msgspec.Raw] | dict[str, msgspec.Raw])
        if isinstance(parts, dict):  # a whole answer of `wattwerk bench --json`, or one record
            parts = (
                msgspec.json.decode(parts["records"], type=list[msgspec.Raw])
                if "records" in parts
                else [msgspec.Raw(data)]
            )
        return [from_json(bytes(part)) for part in parts]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} cannot be unpacked ({error})", "copy the file again") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror})", "check the path") from error
    except (msgspec.DecodeError, StoreError, RecursionError) as error:
        raise ConfigError(
            f"{path} holds no wattwerk records ({error})", "export them with `wattwerk results export`"
        ) from error
