"""The store that keeps records: one SQLite file; what was stored is never lost.

Every record is one transaction, so that a crash or a full disk leaves no half record. Several processes may write at
once. An older file is migrated when it is opened; a newer one is refused and left alone.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from wattwerk.config import home
from wattwerk.errors import ConfigError, StoreError
from wattwerk.records import Record, from_json, now, to_json

#: Step N brings a file of layout N to layout N + 1; steps are only ever added.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    ("CREATE TABLE records (id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID",),
    (
        "CREATE INDEX records_by_time ON records (json_extract(body, '$.started_at'))",
        "CREATE INDEX records_by_group ON records (json_extract(body, '$.group'))",
        "CREATE TABLE plans (id TEXT PRIMARY KEY, created_at TEXT NOT NULL, body TEXT NOT NULL) WITHOUT ROWID",
    ),
    (
        "ALTER TABLE plans ADD COLUMN finished_at TEXT",
        # of the sweeps before this step those are finished that have a record for every configuration
        "UPDATE plans SET finished_at = created_at WHERE CASE WHEN json_valid(body) THEN "
        "json_array_length(body, '$.configurations') <= (SELECT COUNT(*) FROM records "
        "WHERE json_extract(records.body, '$.group') = plans.id) END",
    ),
)

_MAGIC: Final = b"SQLite format 3\0"
_WAIT_S: Final = 30.0


class Plan(msgspec.Struct, frozen=True):
    """The plan of a sweep, kept so that an interrupted one can go on.

    Attributes:
        id: The sweep's id, which its records carry as ``group``.
        created_at: ISO 8601 in UTC.
        body: The plan itself as JSON; the room that wrote it knows its form.
        finished_at: When the sweep was done, also if its records were deleted later; None for one that was cut off or
            still runs.
    """

    id: str
    created_at: str
    body: str
    finished_at: str | None = None


class Store:
    """Records and plans in one SQLite file.

    Args:
        path: The file; None stands for ``records.db`` in ``config.home()``.

    Raises:
        StoreError: The file cannot be opened, is no store, or was written by a newer wattwerk.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "records.db"
        with self._clear_errors():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(
                    f"cannot create {self.path.parent} ({error.strerror})", "set WATTWERK_HOME to a writable folder"
                ) from error
            self._connection = sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None)
            self._write_ahead()
            self._connection.execute("PRAGMA synchronous = FULL")
            self._migrate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add(self, *records: Record) -> None:
        """Store a record, or several that belong together: all of them are on the disk when the call returns, or none.

        Raises:
            StoreError: The disk is full or the file is locked for too long; earlier records are untouched.
        """
        with self._transaction():
            rows = [(record.id, to_json(record).decode()) for record in records]
            self._connection.executemany("INSERT INTO records VALUES (?, ?)", rows)

    def records(self, group: str | None = None) -> list[Record]:
        """Return the records, oldest first; of one sweep or series if ``group`` is given."""
        where, values = ("WHERE json_extract(body, '$.group') = ?", (group,)) if group else ("", ())
        order = "ORDER BY json_extract(body, '$.started_at'), id"
        return [from_json(body) for (body,) in self._rows(f"SELECT body FROM records {where} {order}", values)]

    def find(self, reference: str) -> list[Record]:
        """Return the records that a person means: of a record's or a sweep's id or its first digits, or ``last``.

        Raises:
            ConfigError: Nothing is meant, or more than one.
        """
        if reference == "last":
            newest = self._rows("SELECT json_extract(body, '$.group') FROM records "
                                "ORDER BY json_extract(body, '$.started_at') DESC LIMIT 1")  # fmt: skip
            if not newest:
                raise ConfigError("the store holds no record", "run `wattwerk bench mobilenet-v2` first")
            return self.records(newest[0][0])
        pattern = (reference.lower().replace("%", "").replace("_", "") + "%",)
        found = self._rows("SELECT id FROM records WHERE id LIKE ?", pattern) if reference else []
        groups = self._rows("SELECT DISTINCT json_extract(body, '$.group') FROM records "
                            "WHERE json_extract(body, '$.group') LIKE ?", pattern) if reference else []  # fmt: skip
        if len(found) + len(groups) == 0:
            raise ConfigError(f"no record or sweep {reference!r}", "`wattwerk results list` shows them")
        if len(found) + len(groups) > 1:
            raise ConfigError(f"{reference!r} fits {len(found) + len(groups)} records or sweeps", "give more digits")
        if groups:
            return self.records(groups[0][0])
        return [from_json(body) for (body,) in self._rows("SELECT body FROM records WHERE id = ?", found[0])]

    def delete(self, ids: Iterable[str]) -> int:
        """Delete records by their whole ids and return how many there were.

        The plan of a sweep that loses its last record so goes too: what was thrown away is not taken up again.
        """
        count = 0
        with self._transaction():
            for record_id in ids:
                where = "WHERE id = ?"
                query = f"SELECT json_extract(body, '$.group') FROM records {where}"
                for (group,) in self._connection.execute(query, (record_id,)).fetchall():
                    count += self._connection.execute(f"DELETE FROM records {where}", (record_id,)).rowcount
                    self._connection.execute(
                        "DELETE FROM plans WHERE id = ? AND NOT EXISTS "
                        "(SELECT 1 FROM records WHERE json_extract(records.body, '$.group') = plans.id)",
                        (group,),
                    )
        return count

    def add_plan(self, plan_id: str, body: str) -> None:
        """Keep the plan of a sweep."""
        with self._transaction():
            self._connection.execute(
                "INSERT INTO plans (id, created_at, body) VALUES (?, ?, ?)", (plan_id, now(), body)
            )

    def finish_plan(self, plan_id: str) -> None:
        """Note that a sweep is done, so that nothing of it is measured again."""
        with self._transaction():
            self._connection.execute("UPDATE plans SET finished_at = ? WHERE id = ?", (now(), plan_id))

    def plans(self) -> list[Plan]:
        """Return the plans, newest first."""
        query = "SELECT id, created_at, body, finished_at FROM plans ORDER BY created_at DESC"
        return [Plan(*row) for row in self._rows(query)]

    def _rows(self, query: str, values: Iterable[object] = ()) -> list[tuple[str, ...]]:
        with self._clear_errors():
            return self._connection.execute(query, tuple(values)).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._clear_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK") if self._connection.in_transaction else None
                raise
            self._connection.execute("COMMIT")

    def _write_ahead(self) -> None:
        """Turn write-ahead logging on; SQLite answers busy at once, without waiting, when two processes do that."""
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self) -> None:
        if self._version() == len(MIGRATIONS):
            return
        with self._transaction():  # a second process may have migrated while this one waited: look again inside
            version = self._version()
            if version > len(MIGRATIONS):
                raise StoreError(f"{self.path} was written by a newer wattwerk (layout {version})", "upgrade wattwerk")
            for step in MIGRATIONS[version:]:
                for statement in step:
                    self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"the store {self.path} failed ({error})", _remedy(error)) from error


def is_store(path: Path) -> bool:
    """Tell whether a file is an SQLite file, as stores are."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def read_records(path: Path) -> list[Record]:
    """Return the records of a store that another wattwerk wrote; the file stays as it is.

    It is copied first, as one state of it even while somebody writes: an older layout is migrated in the copy.

    Args:
        path: The file.

    Raises:
        StoreError: The file cannot be read, is no store, or was written by a newer wattwerk.
    """
    with tempfile.TemporaryDirectory(prefix="wattwerk-") as folder:
        copy = Path(folder) / "records.db"
        try:
            _copy(path, copy)
        except sqlite3.Error as error:
            raise StoreError(f"the store {path} cannot be read ({error})", _remedy(error)) from error
        with Store(copy) as store:
            return store.records()


def _copy(path: Path, copy: Path) -> None:
    """Copy a store through SQLite, which takes in what waits in its log; write nothing beside the original."""
    waiting = any(path.with_name(f"{path.name}{ending}").exists() for ending in ("-wal", "-journal"))
    how = "mode=ro" if waiting else "immutable=1"  # without a log nobody writes, so no lock is needed
    uri = f"{path.absolute().as_uri()}?{how}"
    with closing(sqlite3.connect(uri, uri=True, timeout=_WAIT_S)) as source, closing(sqlite3.connect(copy)) as target:
        found = source.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'records'").fetchone()
        if not found:
            raise StoreError(f"{path} is an SQLite file without wattwerk records", "name a records.db of wattwerk")
        version = int(source.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise StoreError(f"{path} was written by a newer wattwerk (layout {version})", "upgrade wattwerk")
        source.backup(target)


def _remedy(error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return "check the file"
    remedies = {
        sqlite3.SQLITE_FULL: "free some disk space; what was stored before is safe",
        sqlite3.SQLITE_BUSY: "another process holds it: try again when that one has ended",
        sqlite3.SQLITE_NOTADB: "it is no SQLite file: move it away or set WATTWERK_HOME to another folder",
        sqlite3.SQLITE_CORRUPT: "it is damaged: restore a backup, or move it away and start afresh",
        sqlite3.SQLITE_READONLY: "make it writable or set WATTWERK_HOME to a writable folder",
        sqlite3.SQLITE_CANTOPEN: "check the path and its permissions, or set WATTWERK_HOME to a writable folder",
    }
    return remedies.get(code & 0xFF, "check the file and its folder")
