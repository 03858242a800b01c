"""Lines that wait for a server that is away: in memory, or in a file that outlives the process."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from wattwerk.errors import ConfigError

#: Texts that are sent together when a server is back.
_TOGETHER: Final = 64


class Spool:
    """Keeps texts of lines in order, up to a bound beyond which the oldest give way.

    Several processes may use one file: what one of them left behind, another one sends. Sent twice a point is still one
    point, since a database tells points by measurement, tags and time.

    Args:
        path: The file; None keeps everything in memory.
        most_bytes: The bound, of the text.

    Attributes:
        lost_count: Lines that gave way.
        last_error: Why lines could not be kept, in words.

    Raises:
        ConfigError: The file cannot be used.
    """

    def __init__(self, path: Path | None, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.kept = path is not None
        self.lost_count = 0
        self.last_error = ""
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._store = sqlite3.connect(
                path or ":memory:", isolation_level=None, check_same_thread=False, timeout=10.0
            )
            self._store.execute("PRAGMA auto_vacuum = FULL")
            self._store.execute("CREATE TABLE IF NOT EXISTS waiting (id INTEGER PRIMARY KEY, size, count, text)")
            self._measure()
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"the spool {path} cannot be used ({error})", "remove it, or choose another") from error

    def _measure(self) -> None:
        asked = self._store.execute("SELECT coalesce(sum(size), 0), coalesce(sum(count), 0) FROM waiting")
        self._size, self._count = asked.fetchone()

    @property
    def count(self) -> int:
        """Lines that wait."""
        return int(self._count)

    def add(self, text: str) -> None:
        """Keep lines; those that the disk does not take are lost and counted."""
        size, count = len(text.encode()), text.count("\n")
        try:
            self._store.execute("INSERT INTO waiting (size, count, text) VALUES (?, ?, ?)", (size, count, text))
        except sqlite3.Error as error:
            self.lost_count += count
            self.last_error = f"the spool: {error}"
            return
        self._size, self._count = self._size + size, self._count + count
        while self._size > self._most_bytes and self._count > count:
            self._give_way()

    def _give_way(self) -> None:
        before = self._count
        self._store.execute("DELETE FROM waiting WHERE id = (SELECT min(id) FROM waiting)")
        self._measure()
        self.lost_count += max(0, before - self._count)

    def first(self) -> list[tuple[int, str]]:
        """Return the oldest texts, each with its number; empty if none waits."""
        return self._store.execute("SELECT id, text FROM waiting ORDER BY id LIMIT ?", (_TOGETHER,)).fetchall()

    def remove(self, numbers: list[int]) -> None:
        """Forget texts that were sent or given up."""
        self._store.executemany("DELETE FROM waiting WHERE id = ?", [(number,) for number in numbers])
        self._measure()

    def close(self) -> int:
        """Close it.

        Returns:
            Lines that are lost with it: those in memory; a file keeps its own.
        """
        lost = 0 if self.kept else self.count
        self._store.close()
        return lost
