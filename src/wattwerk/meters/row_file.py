"""The samples on their way from the sampling process: rows in files of a bounded size, of which the old ones may go.

``rows.000000``, ``rows.000001``, … have the same number of rows each, so that a row's number says where it stands.
Where the recorder keeps samples for a time only, the writer removes older files; a reader that was not quick enough
goes on with the oldest one that is left, and counts what it missed. It imports no numpy: the sampling process uses it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO, Final

from wattwerk.meters import protocol

#: Size of a file: 45 minutes of 16 channels at 10 Hz.
SEGMENT_BYTES: Final = 4_000_000

_LEAST_ROWS: Final = 16


def segment_rows(columns: int, segment_bytes: int = SEGMENT_BYTES) -> int:
    """Return how many rows a file has."""
    return max(_LEAST_ROWS, segment_bytes // protocol.row_format(columns).size)


def segment_path(path: Path, number: int) -> Path:
    """Return the file of a number, from 0."""
    return path.with_name(f"{path.name}.{number:06d}")


def oldest_segment(path: Path, number: int) -> int | None:
    """Return the number of the oldest file that is there, from a number on; None if there is none."""
    found = (int(each.suffix[1:]) for each in path.parent.glob(f"{path.name}.*") if each.suffix[1:].isdigit())
    return min((each for each in found if each >= number), default=None)


class RowFile:
    """Files that only grow by whole rows, even where the disk is full for a while.

    Args:
        path: What the files' names begin with.
        columns: Values of a row.
        keep_s: How long rows are kept at least, in seconds; None for ever.
        segment_bytes: Size of a file.

    Attributes:
        columns: Values of a row.
        lost: Rows that could not be written.
    """

    def __init__(
        self, path: Path, columns: int, keep_s: float | None = None, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self._path = path
        self._keep_ns = None if keep_s is None else round(keep_s * 1e9)
        self._format = protocol.row_format(columns)
        self._each = segment_rows(columns, segment_bytes)
        self._guard = threading.Lock()
        self._rows = 0
        self._full: deque[tuple[int, Path]] = deque()
        self.columns = columns
        self.lost = 0
        self._file = self._open(0)

    def _open(self, number: int) -> BinaryIO:
        return open(segment_path(self._path, number), "wb", buffering=0)

    def append(self, time_ns: int, unmoved_ns: int, values: list[float]) -> None:
        """Write one row; a row that does not fit is counted, and its place is used for the next one."""
        row = self._format.pack(time_ns, unmoved_ns, *values)
        with self._guard:
            try:
                self._file.seek(self._rows % self._each * len(row))
                complete = self._file.write(row) == len(row)
                if complete and (self._rows + 1) % self._each == 0:
                    self._turn((self._rows + 1) // self._each)
            except OSError:
                complete = False
            self._rows += complete
            self.lost += not complete
            self._remove_old()

    def close(self) -> None:
        """Close the file that is open."""
        self._file.close()

    def _turn(self, number: int) -> None:
        """Go on with the next file; the one before is full."""
        file = self._open(number)
        self._file.close()
        self._file = file
        self._full.append((time.perf_counter_ns(), segment_path(self._path, number - 1)))

    def _remove_old(self) -> None:
        while self._keep_ns is not None and self._full and time.perf_counter_ns() - self._full[0][0] > self._keep_ns:
            try:
                self._full[0][1].unlink(missing_ok=True)
            except OSError:  # Windows, while somebody reads it
                return
            self._full.popleft()
