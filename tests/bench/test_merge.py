"""Records of several machines come together in one report: from stores and exports, each once, nothing changed."""

import gzip
import sqlite3
from contextlib import closing

import msgspec
import pytest
from tests.bench.samples import LAPTOP, laptop_sweep, latencies, record, server_sweep
from tests.bench.test_report import Outline

from wattwerk import export
from wattwerk.bench.campaign import gather
from wattwerk.bench.report import render_report
from wattwerk.bench.report.figures import sections
from wattwerk.bench.summary import summarise
from wattwerk.errors import ConfigError, StoreError
from wattwerk.records import to_json
from wattwerk.store import MIGRATIONS, Store


@pytest.fixture
def laptop_db(tmp_path):
    """Return a store with the laptop's records."""
    path = tmp_path / "laptop" / "records.db"
    with Store(path) as store:
        for each in laptop_sweep(batches=(1,)):
            store.add(each)
    return path


def _export(path, records, packed=False):
    data = export.encode(records, "json")
    path.write_bytes(gzip.compress(data) if packed else data)
    return str(path)


def test_stores_and_exports_come_together_each_record_once(tmp_path, laptop_db):
    """A store, an export and a packed export give all their records; those that are in two of them only once."""
    laptop, server = laptop_sweep(batches=(1,)), server_sweep()
    files = [
        str(laptop_db),
        _export(tmp_path / "server.json", server),
        _export(tmp_path / "both.json.gz", [*server, *laptop], packed=True),
    ]
    found = gather(files, files=True)
    assert len(found) == len(laptop) + len(server)
    assert {each.id for each in found} == {each.id for each in (*laptop, *server)}


def test_an_older_store_is_read_and_left_as_it_is(tmp_path):
    """A store of the first layout gives its records; not a byte of it changes, and nothing is left beside it."""
    path = tmp_path / "old" / "records.db"
    path.parent.mkdir()
    kept = record(figures=latencies(1e-3, 1))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(MIGRATIONS[0][0])
        connection.execute("PRAGMA user_version = 1")
        connection.execute("INSERT INTO records VALUES (?, ?)", (kept.id, to_json(kept).decode()))
        connection.commit()
    before = path.read_bytes()
    path.parent.chmod(0o555)
    assert gather([str(path)], files=True) == [kept]
    path.parent.chmod(0o755)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_store_that_is_being_written_gives_what_is_stored(laptop_db):
    """A record that another process has just stored, and that waits in SQLite's log, is there too."""
    fresh = record("resnet-50", figures=latencies(1e-3, 1))
    with Store(laptop_db) as store:
        store.add(fresh)
        assert fresh in gather([str(laptop_db)], files=True)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, ConfigError, "cannot read"),
        (b"no records", ConfigError, "holds no wattwerk records"),
        (b"\x1f\x8bbroken", ConfigError, "cannot be unpacked"),
        (b"SQLite format 3\0broken", StoreError, "cannot be read"),
    ],
)
def test_a_missing_or_foreign_file_is_named(tmp_path, content, error, message):
    """What is no file of records is named with a remedy, and is not taken for an id."""
    path = tmp_path / "records"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message) as told:
        gather([str(path)], files=True)
    assert str(path) in told.value.message
    assert told.value.remedy


@pytest.mark.parametrize(("version", "message"), [(0, "without wattwerk records"), (999, "newer wattwerk")])
def test_another_programs_data_base_is_refused_and_left_alone(tmp_path, version, message):
    """An SQLite file without records, and a store of a newer wattwerk, are refused and not changed."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE {'records' if version else 'songs'} (id TEXT, body TEXT)")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=message):
        gather([str(path)])
    assert path.read_bytes() == before


def test_machines_are_told_apart_everywhere():
    """With two machines each chart names both, or is of one and says so; table and key name both."""
    laptop = laptop_sweep(batches=(1, 8))
    other = [
        msgspec.structs.replace(
            each, id=each.id[::-1], platform=msgspec.structs.replace(LAPTOP, label="desk", os="Windows")
        )
        for each in laptop
    ]
    both = [*laptop, *other]
    page = Outline(render_report(both))
    assert "Machine" in page.text
    key = "".join(page.text).partition("Key")[0]
    for label in ("desk", "office-laptop"):
        assert f"{label} · torch" in key
        assert page.text.count(label) >= len(laptop)
    charts = [chart for section in sections(both) for chart in section.charts]
    assert charts
    for chart in charts:
        told = msgspec.json.encode(chart.spec).decode()
        of_one = "desk" in chart.title or "office-laptop" in chart.title
        by_system = "Windows" in told and "Linux" in told  # the chart of operating systems is about nothing else
        assert of_one or by_system or ("desk" in told and "office-laptop" in told), chart.title
    assert all("desk" in c.configuration or "laptop" in c.configuration for c in summarise(both).models[0].choices)


def test_two_machines_of_one_name_are_told_apart_by_what_differs():
    """Two machines that call themselves the same differ by system; one of them on two kernels stays one."""
    linux = record(figures=latencies(1e-3, 1))
    updated = record(batch=2, figures=latencies(1e-3, 1), platform=msgspec.structs.replace(LAPTOP, kernel="6.13.0"))
    windows = record(batch=4, figures=latencies(1e-3, 1), platform=msgspec.structs.replace(LAPTOP, os="Windows 11"))
    page = Outline(render_report([linux, updated, windows]))
    assert "Machine: office-laptop (Linux)" in page.text
    assert "Machine: office-laptop (Windows 11)" in page.text
    assert "Machine: office-laptop" in Outline(render_report([linux, updated])).text
