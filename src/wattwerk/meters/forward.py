"""A running recorder's samples on their way to databases, listeners and files, while it records.

Each sink has a thread and a place in the recorder's file of its own: one that is slow or away delays neither the
measurement nor another sink, and what it has not taken yet is not lost.

Beside the samples (``line_protocol``) a sink gets, each time:

    wattwerk_total,host=edge1,run=0a1b,scope=system energy_j=412.5,gap_s=0.0,power_w=41.3 1764000000123456789
    wattwerk_state,host=edge1,run=0a1b faults_count=0.0,lost_count=0.0 1764000000123456789

A total adds up nothing that overlaps (``totals``), so that a dashboard need not add anything.
"""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, Self

import msgspec

from wattwerk.errors import ConfigError
from wattwerk.meters.line_protocol import Clock, Point, batches, channel_points, line_of, points
from wattwerk.meters.recorder import Recorder
from wattwerk.meters.sinks import Sink
from wattwerk.meters.totals import Running
from wattwerk.meters.trace import Trace
from wattwerk.records import new_id

TOTAL_MEASUREMENT: Final = "wattwerk_total"
STATE_MEASUREMENT: Final = "wattwerk_state"

_JUMP_NS: Final = 1_000_000_000
_END_S: Final = 30.0


class SinkState(msgspec.Struct, frozen=True):
    """How a sink does.

    Attributes:
        name: What it is called in the configuration.
        sent_count: Lines handed to it, those that wait or were lost included.
        waiting_count: Lines that wait.
        lost_count: Lines that were given up.
        error: What is wrong, in words; empty if nothing is.
    """

    name: str
    sent_count: int
    waiting_count: int
    lost_count: int
    error: str


class Forwarder:
    """Streams what a recorder records; a context from its start to its end, inside that of the recorder.

    Args:
        recorder: A running one.
        sinks: Name -> where lines go; they are closed at the end.
        tags: Added to every line; ``host`` and ``run`` are added where they are not given.
        interval_s: How often lines are sent.
        total: The channels that make up the system's total, as for ``totals.totals_of``.

    Attributes:
        tags: What every line carries.

    Raises:
        ConfigError: The interval or a tag cannot be used, or as for ``totals_of``.
    """

    def __init__(
        self,
        recorder: Recorder,
        sinks: Mapping[str, Sink],
        *,
        tags: Mapping[str, str] | None = None,
        interval_s: float = 1.0,
        total: Sequence[str] = (),
    ) -> None:
        if not 0.05 <= interval_s <= 3600:
            raise ConfigError(f"forwarding every {interval_s:g} s", "use 0.05 to 3600 s")
        self.tags = {"host": socket.gethostname(), "run": new_id(), **(tags or {})}
        line_of(Point("check", self.tags, {"a": 0.0}, 0))
        self._stop = threading.Event()
        self._feeds = [
            _Feed(name, sink, recorder, self.tags, interval_s, Running(recorder.channels, total), self._stop)
            for name, sink in sinks.items()
        ]

    def __enter__(self) -> Self:
        for feed in self._feeds:
            feed.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def states(self) -> list[SinkState]:
        """Return how each sink does."""
        return [feed.state() for feed in self._feeds]

    def faults(self) -> list[str]:
        """Return what is wrong with the sinks, in words."""
        return [fault for feed in self._feeds for fault in feed.faults()]

    def stop(self) -> None:
        """Send what was recorded until now, and close the sinks; one that hangs is left behind."""
        self._stop.set()
        for feed in self._feeds:
            feed.join(_END_S)


class _Feed(threading.Thread):
    """Feeds one sink."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        recorder: Recorder,
        tags: dict[str, str],
        interval_s: float,
        running: Running,
        stop: threading.Event,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._sink, self._recorder, self._tags = sink, recorder, tags
        self._interval_s, self._running, self._ending = interval_s, running, stop
        self._tail = recorder.follow()
        self._clock = Clock.now()
        self._sent_count = 0
        self._jumps: list[str] = []
        self._behind = False
        self._failure = ""

    def run(self) -> None:
        try:
            self._send(channel_points(self._tail.no_rows(), self._clock.unix_ns, self._tags))
            while not self._ending.wait(self._interval_s):
                self._pass_on()
            self._pass_on()
        except Exception as error:  # whatever it is, it must not end unseen
            self._failure = f"forwarding ended: {type(error).__name__}: {error}"
        finally:
            self._tail.close()
            self._sink.close()

    def _pass_on(self) -> None:
        self._watch_clock()
        while len((trace := self._tail.read()).time_ns):
            self._running.add(trace)
            self._send(chain(points(trace, self._clock, self._tags), self._summary(trace)))

        self._recorder.check()

    def _send(self, found: Iterator[Point]) -> None:
        for text in batches(map(line_of, found)):
            self._sink.write(text)
            self._sent_count += text.count("\n")

    def _summary(self, trace: Trace) -> Iterator[Point]:
        newest_ns = int(trace.time_ns[-1])
        unix_ns = self._clock.unix(newest_ns)
        for scope, total in self._running.totals(newest_ns).items():
            fields = {"energy_j": total.energy_j, "gap_s": total.gap_s}
            if math.isfinite(total.power_w):
                fields["power_w"] = total.power_w
            yield Point(TOTAL_MEASUREMENT, {**self._tags, "scope": scope}, fields, unix_ns)
        state = {"faults_count": float(len(self._recorder.faults)), "lost_count": float(self._sink.lost_count)}
        yield Point(STATE_MEASUREMENT, self._tags, state, unix_ns)

    def _watch_clock(self) -> None:
        """Follow a clock that went ahead, as after the machine slept; one that was set back is only told.

        A clock that time servers only slow down or speed up needs nothing: the recorder's clock goes with it.
        """
        now = Clock.now()
        ahead_ns = now.unix_ns - self._clock.unix(now.perf_ns)
        if ahead_ns > _JUMP_NS:
            self._jumps.append(f"the time of day went ahead by {ahead_ns / 1e9:.0f} s: there is a gap")
            self._clock = now
        elif ahead_ns < -_JUMP_NS and not self._behind:
            self._behind = True
            self._jumps.append(f"the time of day was set back by {-ahead_ns / 1e9:.0f} s: the old one is kept")

    def state(self) -> SinkState:
        sink = self._sink
        return SinkState(self.name, self._sent_count, sink.waiting_count, sink.lost_count, sink.last_error)

    def faults(self) -> list[str]:
        """Return what is wrong, in words."""
        name, sink = f"sink {self.name}", self._sink
        lost = f", {sink.lost_count} were lost" if sink.lost_count else ""
        missed = self._tail.lost
        told = []
        if sink.waiting_count or sink.lost_count:
            told = [f"{name}: {sink.waiting_count} lines wait{lost} ({sink.last_error})"]
        elif sink.last_error:
            told = [f"{name}: {sink.last_error}"]
        return told + [
            f"{name}: {text}"
            for text in [
                *self._jumps,
                self._failure,
                f"{missed} samples were gone before they were sent" * bool(missed),
            ]
            if text
        ]
