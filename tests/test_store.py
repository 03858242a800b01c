from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wattwerk.errors import ConfigError, StoreError
from wattwerk.records import Record, measured, new_id, to_json
from wattwerk.store import MIGRATIONS, Store

Make = Callable[..., Record]


def test_a_record_comes_back_as_it_went_in(tmp_path: Path, make_record: Make) -> None:
    """A stored record equals the one that is read back, also by another connection."""
    record = make_record()
    with Store(tmp_path / "a.db") as store:
        store.add(record)
    with Store(tmp_path / "a.db") as store:
        assert store.records() == [record]


def test_records_of_a_group_come_oldest_first(tmp_path: Path, make_record: Make) -> None:
    """Records are filtered by their group and sorted by time."""
    late = make_record("1" * 12, started_at="2026-02-01T00:00:00.000+00:00")
    early = make_record("2" * 12, started_at="2026-01-01T00:00:00.000+00:00")
    other = make_record("3" * 12, group="b" * 12)
    with Store(tmp_path / "a.db") as store:
        for record in (late, other, early):
            store.add(record)
        assert store.records("a" * 12) == [early, late]


@pytest.mark.parametrize("reference", ["1111", "111111111111"])
def test_first_digits_find_a_record(tmp_path: Path, make_record: Make, reference: str) -> None:
    """The first digits of an id are enough if they fit only one."""
    with Store(tmp_path / "a.db") as store:
        store.add(make_record("1" * 12))
        store.add(make_record("2" * 12))
        assert [r.id for r in store.find(reference)] == ["1" * 12]
        assert len(store.find("aaa")) == 2
        assert len(store.find("last")) == 2


@pytest.mark.parametrize("reference", ["ffff", "%", "_", "", "'; DROP TABLE records; --"])
def test_a_reference_that_means_nothing_is_an_error(tmp_path: Path, make_record: Make, reference: str) -> None:
    """An unknown id, a wildcard or an injection finds nothing and says so."""
    with Store(tmp_path / "a.db") as store:
        store.add(make_record("1" * 12, group="2" * 12))
        store.add(make_record("3" * 12, group="4" * 12))
        with pytest.raises(ConfigError):
            store.find(reference)
        assert len(store.records()) == 2


def test_an_ambiguous_reference_is_an_error(tmp_path: Path, make_record: Make) -> None:
    """Digits that fit two records are refused rather than guessed."""
    with Store(tmp_path / "a.db") as store:
        store.add(make_record("12" + "0" * 10))
        store.add(make_record("12" + "1" * 10))
        with pytest.raises(ConfigError, match="more digits"):
            store.find("12")


def test_a_full_disk_loses_nothing_and_leaves_no_half_record(tmp_path: Path, make_record: Make) -> None:
    """SQLite's own "disk full" becomes a clear error; earlier records stay, the store goes on when there is room."""
    with Store(tmp_path / "a.db") as store:
        store.add(make_record("1" * 12))
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        big = make_record("2" * 12, reason="x" * 200_000)
        with pytest.raises(StoreError, match="free some disk space"):
            store.add(big)
        assert [r.id for r in store.records()] == ["1" * 12]
        store._connection.execute("PRAGMA max_page_count = 1000000")
        store.add(big)
    with Store(tmp_path / "a.db") as store:
        assert len(store.records()) == 2


def test_an_older_store_migrates(tmp_path: Path, make_record: Make) -> None:
    """A file of the first layout keeps its records and gets what came later."""
    path = tmp_path / "old.db"
    old = sqlite3.connect(path)
    for statement in MIGRATIONS[0]:
        old.execute(statement)
    old.execute("INSERT INTO records VALUES (?, ?)", ("1" * 12, to_json(make_record("1" * 12)).decode()))
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    with Store(path) as store:
        assert [r.id for r in store.records()] == ["1" * 12]
        store.add_plan("a" * 12, "{}")
        assert [p.id for p in store.plans()] == ["a" * 12]
        assert store._version() == len(MIGRATIONS)


def test_a_newer_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A file of a layout that is not known yet is neither changed nor opened."""
    path = tmp_path / "new.db"
    new = sqlite3.connect(path)
    new.execute("CREATE TABLE future (x)")
    new.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    new.commit()
    new.close()
    with pytest.raises(StoreError, match="upgrade wattwerk"):
        Store(path)
    left = sqlite3.connect(path)
    assert left.execute("SELECT name FROM sqlite_master").fetchall() == [("future",)]
    left.close()


@pytest.mark.parametrize(
    "content", [b"not a database at all, only text" * 200, b"SQLite format 3\x00" + b"\xff" * 5000]
)
def test_an_unreadable_store_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    """A file that is no store, or a broken one, gives one clear line and is not touched."""
    path = tmp_path / "bad.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"move it away|restore a backup"):
        Store(path)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    """A home below a plain file names the remedy."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="WATTWERK_HOME"):
        Store(tmp_path / "file" / "records.db")


def test_deleting_takes_whole_ids_only(tmp_path: Path, make_record: Make) -> None:
    """Deleting removes what is named and reports how many there were."""
    with Store(tmp_path / "a.db") as store:
        store.add(make_record("1" * 12))
        store.add(make_record("2" * 12))
        assert store.delete(["1" * 12, "f" * 12, "2"]) == 1
        assert [r.id for r in store.records()] == ["2" * 12]


def test_deleting_all_records_of_a_sweep_forgets_its_plan(tmp_path: Path, make_record: Make) -> None:
    """The plan stays as long as there is a record of the sweep; other plans stay anyhow."""
    with Store(tmp_path / "a.db") as store:
        for plan in ("a" * 12, "b" * 12):
            store.add_plan(plan, "{}")
        store.add(make_record("1" * 12))
        store.add(make_record("2" * 12))
        store.delete(["1" * 12])
        assert {p.id for p in store.plans()} == {"a" * 12, "b" * 12}
        store.delete(["2" * 12])
        assert {p.id for p in store.plans()} == {"b" * 12}


def test_an_older_store_knows_which_sweeps_are_finished(tmp_path: Path, make_record: Make) -> None:
    """A plan of the second layout is finished if each configuration has a record; a broken one does not hinder."""
    path = tmp_path / "old.db"
    old = sqlite3.connect(path)
    for statement in (*MIGRATIONS[0], *MIGRATIONS[1]):
        old.execute(statement)
    old.execute("INSERT INTO records VALUES (?, ?)", ("1" * 12, to_json(make_record("1" * 12)).decode()))
    for plan, body in (("a" * 12, '{"configurations": [{}]}'), ("b" * 12, '{"configurations": [{}]}'), ("c" * 12, "{")):
        old.execute("INSERT INTO plans VALUES (?, '2026-01-01', ?)", (plan, body))
    old.execute("PRAGMA user_version = 2")
    old.commit()
    old.close()
    with Store(path) as store:
        assert {p.id[0]: p.finished_at for p in store.plans()} == {"a": "2026-01-01", "b": None, "c": None}


def _write_many(path: Path, record: Record, count: int) -> None:
    from msgspec.structs import replace

    with Store(path) as store:
        for _ in range(count):
            store.add(replace(record, id=new_id()))


def test_several_processes_write_at_once(tmp_path: Path, make_record: Make) -> None:
    """Four processes that write into one fresh store at the same time lose nothing."""
    path = tmp_path / "shared.db"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(path, make_record(), 25)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0, 0]
    with Store(path) as store:
        assert len(store.records()) == 100


def test_a_fresh_store_can_be_opened_by_several_at_once(tmp_path: Path) -> None:
    """SQLite refuses a second one that turns write-ahead logging on at the same moment; the store tries again."""
    with ThreadPoolExecutor(4) as pool:
        for number in range(100):
            start = threading.Barrier(4)

            def opened(path: Path, start: threading.Barrier = start) -> None:
                start.wait()
                Store(path).close()

            list(pool.map(opened, [tmp_path / f"{number}.db"] * 4))


def test_a_figure_name_without_a_unit_is_refused(make_record: Make) -> None:
    """Every figure's name ends in a unit."""
    with pytest.raises(ValueError, match="no known unit"):
        make_record(figures={"latency": measured(1.0)})
