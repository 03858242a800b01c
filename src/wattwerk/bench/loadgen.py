"""Run MLPerf LoadGen over timed calls, with our own times of every sample beside LoadGen's.

LoadGen's clock is the system's clock of day, the recorder's is ``perf_counter_ns``. One is mapped onto the other by
what both saw: LoadGen stamps a sample as complete while our call that reports it runs, so that each sample bounds the
difference of the clocks from both sides.
"""

from __future__ import annotations

import queue
import threading
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import numpy as np

from wattwerk.bench.loadgen_log import SampleTimes, Times
from wattwerk.bench.timing import quiet
from wattwerk.errors import MeasurementError

_SEGMENT: Final = 20  # samples that bound the clocks' difference, at the beginning and at the end
_STEP_NS: Final = 1_000_000
_STEP_RATIO: Final = 1e-3  # a clock that is slewed changes by 0.05 % at most


class System:
    """The system under test: timed calls for some batch sizes, run one after the other, first come, first served.

    As soon as a call has ended everything that waits, up to the largest size, runs in the smallest size that holds it;
    places that stay empty run too. Nothing waits for company.

    Args:
        lg: The module of LoadGen.
        calls: Batch size -> timed call.
        queued: Whether queries can come while one runs; they are run by a thread of their own then.

    Attributes:
        issued_ns: When each sample was handed over, in nanoseconds of ``perf_counter_ns``.
        before_ns: When it was done, before LoadGen was told.
        after_ns: The same after LoadGen was told.
        sizes: How many calls of each size ran.
    """

    def __init__(self, lg: Any, calls: Mapping[int, Callable[[], object]], queued: bool) -> None:
        self._lg = lg
        self._calls = dict(sorted(calls.items()))
        self._largest = max(calls)
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True) if queued else None
        self._error: Exception | None = None
        self.issued_ns: array[int] = array("q")
        self.before_ns: array[int] = array("q")
        self.after_ns: array[int] = array("q")
        self.sizes = dict.fromkeys(self._calls, 0)

    def __enter__(self) -> Self:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread:
            self._queue.put(None)
            self._thread.join()

    def issue(self, samples: Sequence[Any]) -> None:
        """Take over samples; LoadGen calls this."""
        now = perf_counter_ns()
        for _ in samples:
            self.issued_ns.append(now)
        if self._thread:
            for sample in samples:
                self._queue.put(sample.id)
            return
        for first in range(0, len(samples), self._largest):
            self._serve([sample.id for sample in samples[first : first + self._largest]])

    def check(self) -> None:
        """Raise what went wrong in a call; LoadGen itself cannot pass it on."""
        if self._error:
            raise self._error

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            ids = [first]
            while len(ids) < self._largest and not self._queue.empty():
                waiting = self._queue.get()
                if waiting is None:
                    self._queue.put(None)
                    break
                ids.append(waiting)
            self._serve(ids)

    def _serve(self, ids: Sequence[int]) -> None:
        size = next(size for size in self._calls if size >= len(ids))
        try:
            if self._error is None:
                self._calls[size]()
        except Exception as error:  # the rest is reported as done, so that LoadGen comes to its end
            self._error = error
        self.sizes[size] += 1
        responses = [self._lg.QuerySampleResponse(each, 0, 0) for each in ids]
        before = perf_counter_ns()
        self._lg.QuerySamplesComplete(responses)
        after = perf_counter_ns()
        for _ in ids:
            self.before_ns.append(before)
            self.after_ns.append(after)


def run(lg: Any, system: System, settings: Any, folder: Path, *, trace: bool) -> None:
    """Let LoadGen run its load, and leave its logs in a folder.

    The sample library has one sample, since every call runs the inputs that lie on the device.

    Args:
        lg: The module of LoadGen.
        system: What runs the samples.
        settings: LoadGen's settings.
        folder: Where its logs go; it is made.
        trace: Whether the times of every sample are logged too.

    Raises:
        Exception: What a timed call raised.
    """
    folder.mkdir(parents=True, exist_ok=True)
    output = lg.LogOutputSettings()
    output.outdir = str(folder)
    logs = lg.LogSettings()
    logs.log_output = output
    logs.enable_trace = trace
    sut = lg.ConstructSUT(system.issue, lambda: None)
    library = lg.ConstructQSL(1, 1, lambda _: None, lambda _: None)
    try:
        with quiet(), system:
            lg.StartTestWithLogSettings(sut, library, settings, logs, str(folder / "audit.config"))
    finally:
        lg.DestroyQSL(library)
        lg.DestroySUT(sut)
    system.check()


class Clock(msgspec.Struct, frozen=True):
    """How LoadGen's clock is mapped onto ``perf_counter_ns``: a straight line through two points.

    Attributes:
        known_ns: LoadGen's time at the beginning and at the end.
        offset_ns: What has to be added there.
        slack_ns: By how much that can be wrong.
    """

    known_ns: tuple[int, int]
    offset_ns: tuple[float, float]
    slack_ns: float

    def map(self, times_ns: Times) -> Times:
        """Return times of ``perf_counter_ns`` for times of LoadGen."""
        return times_ns + np.rint(np.interp(times_ns, self.known_ns, self.offset_ns)).astype(np.int64)


def clock_of(times: SampleTimes, before_ns: Sequence[int], after_ns: Sequence[int]) -> Clock:
    """Return the mapping of the clocks.

    Args:
        times: LoadGen's times of every sample.
        before_ns: Our times before LoadGen was told of each, in the same order.
        after_ns: The same afterwards.

    Raises:
        MeasurementError: The numbers of samples differ, or a clock was set during the run.
    """
    if not len(times.complete_ns) == len(before_ns) == len(after_ns):
        raise MeasurementError(
            f"LoadGen tells {len(times.complete_ns)} samples, {len(before_ns)} were run", "measure again"
        )
    low = np.asarray(before_ns, np.int64) - times.complete_ns
    high = np.asarray(after_ns, np.int64) - times.complete_ns
    ends = (slice(None, _SEGMENT), slice(-_SEGMENT, None))
    bounds = [(int(low[part].max()), int(high[part].min())) for part in ends]
    offsets = tuple((a + b) / 2 for a, b in bounds)
    first, last = int(times.complete_ns[:_SEGMENT].max()), int(times.complete_ns[-_SEGMENT:].max())
    if abs(offsets[1] - offsets[0]) > _STEP_NS + _STEP_RATIO * (last - first):
        raise MeasurementError("the system's clock was set while LoadGen ran", "measure again")
    slack = max(abs(b - a) / 2 for a, b in bounds)
    return Clock((first, max(last, first + 1)), (offsets[0], offsets[1]), slack)


def latencies_ns(times: SampleTimes, clock: Clock, system: System, *, due: bool) -> tuple[Times, Times]:
    """Return how long each query took by our own times, in the order of the queries: at least, and at most.

    A query takes from its issue, or where arrivals are random from when it was due, to the end of its last sample. At
    least: from when it was handed to us until before we told LoadGen. At most: from when LoadGen let go of it until
    LoadGen had been told. Both are the same but for where this process had to wait in between.

    Args:
        times: LoadGen's times; only the queries and when each was due or issued are used.
        clock: Maps LoadGen's clock.
        system: What ran the samples, with our own times.
        due: Whether latency counts from when a query was due.
    """
    let_go = clock.map(times.due_ns if due else times.issued_ns)
    handed = let_go if due else np.asarray(system.issued_ns, np.int64)
    _, first, query = np.unique(times.query, return_index=True, return_inverse=True)

    def ends(stamps: Sequence[int]) -> Times:
        found = np.full(len(first), np.iinfo(np.int64).min)
        np.maximum.at(found, query, np.asarray(stamps, np.int64))
        return found

    return ends(system.before_ns) - handed[first], ends(system.after_ns) - let_go[first]


def percentile_ns(latencies: Times, percent: float) -> float:
    """Return a percentile as LoadGen takes it: the value with that share of the others below it, none in between.

    Source: ``results.cc`` of LoadGen.
    """
    ordered = np.sort(latencies)
    return float(ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)])
