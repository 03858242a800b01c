"""The samples of a running recorder, read as they come: from the files that the sampling process writes.

A reader has a place of its own in them, so that several of them and ``Recorder.trace`` do not disturb each other,
also in threads of their own, and a long recording costs a reader no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from wattwerk.meters.base import Channel
from wattwerk.meters.row_file import SEGMENT_BYTES, oldest_segment, segment_path, segment_rows
from wattwerk.meters.trace import Trace

_MOST_ROWS: Final = 100_000

Rows = np.ndarray[Any, Any]


def row_type(columns: int) -> np.dtype[np.void]:
    """Return ``protocol.row_format`` as numpy reads it."""
    return np.dtype([("time_ns", "<i8"), ("unmoved_ns", "<i8"), ("values", "<f8", (columns,))])


class RowReader:
    """Reads rows in their order, each once.

    Args:
        path: What the files' names begin with.
        columns: Values of a row.
        segment_bytes: Size of a file, as its writer knows it.
        skip: Whether to begin with what comes from now on, instead of with the first row.

    Attributes:
        row_type: The layout of a row.
        lost: Rows that were removed before they were read.
    """

    def __init__(self, path: Path, columns: int, segment_bytes: int = SEGMENT_BYTES, *, skip: bool = False) -> None:
        self.row_type = row_type(columns)
        self.lost = 0
        self._path = path
        self._each = segment_rows(columns, segment_bytes)
        self._file: BinaryIO | None = None
        self._at = 0
        self._at = self.written() if skip else 0

    def written(self) -> int:
        """Return how many rows were written so far."""
        number = self._at // self._each
        newest = oldest_segment(self._path, number)
        while newest is not None:
            number, newest = newest, oldest_segment(self._path, newest + 1)
        try:
            size_bytes = segment_path(self._path, number).stat().st_size
        except FileNotFoundError:
            return self._at
        return number * self._each + size_bytes // self.row_type.itemsize

    def read(self, most: int = _MOST_ROWS) -> Rows:
        """Return the rows since the last call, at most so many."""
        found: list[Rows] = []
        while most > 0 and (file := self._current()) is not None:
            place = self._at % self._each
            file.seek(place * self.row_type.itemsize)
            data = file.read(min(most, self._each - place) * self.row_type.itemsize)
            # only whole rows: the last one may be half written
            rows: Rows = np.frombuffer(data, self.row_type, len(data) // self.row_type.itemsize)
            found.append(rows)
            self._at += len(rows)
            most -= len(rows)
            if self._at % self._each or not len(rows):
                break
            self.close()  # it is full, and all of it was read
        return np.concatenate(found) if found else np.empty(0, self.row_type)

    def _current(self) -> BinaryIO | None:
        """Return the file of the next row, or of the oldest one that is left; None if there is nothing yet."""
        if self._file is None:
            number = oldest_segment(self._path, self._at // self._each)
            if number is None:
                return None
            first = number * self._each
            self.lost += max(0, first - self._at)
            self._at = max(self._at, first)
            try:
                self._file = segment_path(self._path, number).open("rb")
            except FileNotFoundError:  # removed just now
                return self._current()
        return self._file

    def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Tail:
    """Reads what was sampled since it last looked.

    Args:
        rows: Reads the rows.
        channels: The columns.
        locked: The counter whose ticks the samples follow.
        slow: Channels of slow meters.
    """

    def __init__(
        self, rows: RowReader, channels: Sequence[Channel], locked: str | None = None, slow: Sequence[str] = ()
    ) -> None:
        self._rows = rows
        self.channels = tuple(channels)
        self.locked, self.slow = locked, tuple(slow)

    @property
    def lost(self) -> int:
        """Samples that were removed before they were read, where the recorder keeps them for a time only."""
        return self._rows.lost

    def read(self) -> Trace:
        """Return the samples since the last call, in the order of their times; empty if there are none.

        A sample of a slow meter can be older than those of the call before. At most 100,000 samples come at once.
        """
        return self.trace_of(self._rows.read())

    def trace_of(self, rows: Rows) -> Trace:
        """Return rows as a trace, sorted by time."""
        rows = rows[np.argsort(rows["time_ns"], kind="stable")]
        return Trace(self.channels, rows["time_ns"], rows["values"], rows["unmoved_ns"], self.locked, self.slow)

    def no_rows(self) -> Trace:
        """Return a trace of no samples, for what it says about channels."""
        return self.trace_of(np.empty(0, self._rows.row_type))

    def close(self) -> None:
        """Close the file."""
        self._rows.close()


def joined(first: Trace, second: Trace, since_ns: int = 0) -> Trace:
    """Return the samples of two traces of the same channels from a time on, in the order of their times."""
    times = np.concatenate([first.time_ns, second.time_ns])
    order = np.argsort(times, kind="stable")
    order = order[np.searchsorted(times[order], since_ns) :]
    values, unmoved = (
        np.concatenate([first.values, second.values]),
        np.concatenate([first.unmoved_ns, second.unmoved_ns]),
    )
    return Trace(second.channels, times[order], values[order], unmoved[order], second.locked, second.slow)
