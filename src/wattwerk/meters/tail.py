"""The samples of a running recorder, read as they come: from the file that the sampling process writes.

A reader has a place of its own in that file, so that several of them and ``Recorder.trace`` do not disturb each other,
also in threads of their own, and a long recording costs a reader no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from wattwerk.meters.base import Channel
from wattwerk.meters.trace import Trace

_MOST_ROWS: Final = 100_000


class Tail:
    """Reads what was sampled since it last looked.

    Args:
        path: The file of rows.
        row_type: Its layout.
        channels: The columns.
        locked: The counter whose ticks the samples follow.
        slow: Channels of slow meters.
        skip: Whether to begin with what comes from now on, instead of with the first sample.
    """

    def __init__(
        self,
        path: Path,
        row_type: np.dtype[np.void],
        channels: Sequence[Channel],
        locked: str | None = None,
        slow: Sequence[str] = (),
        *,
        skip: bool = False,
    ) -> None:
        self._file = path.open("rb")
        self._row_type = row_type
        self.channels = tuple(channels)
        self.locked, self.slow = locked, tuple(slow)
        self._read = path.stat().st_size // row_type.itemsize if skip else 0

    def read(self) -> Trace:
        """Return the samples since the last call, in the order of their times; empty if there are none.

        A sample of a slow meter can be older than those of the call before. At most 100,000 samples come at once.
        """
        self._file.seek(self._read * self._row_type.itemsize)
        data = self._file.read(_MOST_ROWS * self._row_type.itemsize)
        rows: np.ndarray[Any, Any] = np.frombuffer(data, self._row_type, len(data) // self._row_type.itemsize)
        self._read += len(rows)
        return self.trace_of(rows)

    def trace_of(self, rows: np.ndarray[Any, Any]) -> Trace:
        """Return rows as a trace, sorted by time."""
        rows = rows[np.argsort(rows["time_ns"], kind="stable")]
        return Trace(self.channels, rows["time_ns"], rows["values"], rows["unmoved_ns"], self.locked, self.slow)

    def no_rows(self) -> Trace:
        """Return a trace of no samples, for what it says about channels."""
        return self.trace_of(np.empty(0, self._row_type))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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
