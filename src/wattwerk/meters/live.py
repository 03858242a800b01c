"""What a running recorder says now: the newest samples, power now and energy so far, with totals."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Self

from wattwerk.meters.recorder import Recorder
from wattwerk.meters.tail import joined
from wattwerk.meters.totals import Running, Total
from wattwerk.meters.trace import Trace


class Live:
    """Follows a recorder, for a view or an endpoint; may be asked from several threads.

    Args:
        recorder: A running one.
        keep_s: How long samples are kept, in seconds.
        total: The channels that make up the total, as for ``totals.totals_of``.

    Attributes:
        running: Energy so far and power now, as of the last ``update``.

    Raises:
        ConfigError: As for ``totals_of``.
        MeasurementError: The recorder does not run.
    """

    def __init__(self, recorder: Recorder, *, keep_s: float = 60.0, total: Sequence[str] = ()) -> None:
        self.running = Running(recorder.channels, total)
        self._recorder = recorder
        self._tail = recorder.follow()
        self._keep_ns = round(keep_s * 1e9)
        self._guard = threading.Lock()
        self._trace = self._tail.read()
        self.running.add(self._trace)

    def update(self) -> Trace:
        """Take in what was sampled since the last call, and return the newest samples.

        Raises:
            MeasurementError: The sampling process ended by itself.
        """
        self._recorder.check()
        with self._guard:
            new = self._tail.read()
            while len(new.time_ns):
                self.running.add(new)
                self._trace = joined(self._trace, new, time.perf_counter_ns() - self._keep_ns)
                new = self._tail.read()
            return self._trace

    def totals(self) -> dict[str, Total]:
        """Return the totals now: name of a scope, or ``system`` -> total."""
        self.update()
        with self._guard:
            return self.running.totals(time.perf_counter_ns())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the recorder's file go."""
        with self._guard:
            self._tail.close()
