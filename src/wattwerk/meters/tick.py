"""Catching the moment at which a counter moves.

A counter that moves ten times a second and is read ten times a second is read up to a tenth of a second late. The lock
learns when it moves, wakes shortly before, and reads it every two milliseconds until it has moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

_POLL_S: Final = 0.002
_GUARD_MIN_NS: Final = 6_000_000
_RETRY_NS: Final = 1_000_000_000


class Edge(NamedTuple):
    """What a search for an edge found.

    Attributes:
        time_ns: When the counter was read last.
        unmoved_ns: When it was last seen with the value before; the edge lies between the two.
        value: What it shows.
        moved: Whether it moved at all.
    """

    time_ns: int
    unmoved_ns: int
    value: float
    moved: bool


class TickLock:
    """Follow the ticks of one counter.

    Args:
        read: Returns the counter's value, cheaply.
        tick_ns: How often it moves, about.
        period_ns: How often samples are wanted; a sample near a tick is moved onto it.
        clock: Returns the time in nanoseconds.
        sleep: Sleeps for seconds.
    """

    def __init__(
        self,
        read: Callable[[], float],
        tick_ns: int,
        period_ns: int,
        clock: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._read = read
        self._tick_ns = tick_ns
        self._period_ns = period_ns
        self._clock = clock
        self._sleep = sleep
        self._guard_ns = _GUARD_MIN_NS
        self._edge_ns: int | None = None
        self._retry_ns = 0
        self._value = float("nan")
        self._seen_ns = 0

    def plan(self, due_ns: int) -> tuple[int, bool]:
        """Return when to wake for the sample due then, and whether to look for an edge."""
        if self._edge_ns is None:
            return due_ns, due_ns >= self._retry_ns
        if due_ns + self._period_ns // 2 < self._edge_ns + self._tick_ns:
            return due_ns, False  # samples are faster than ticks: this one lies between two of them
        ticks = max(1, round((due_ns - self._edge_ns) / self._tick_ns))
        if ticks > 1:
            self._value = float("nan")  # it has moved meanwhile, which is not the edge that is sought
        return self._edge_ns + ticks * self._tick_ns - self._guard_ns, True

    def search(self) -> Edge:
        """Read until the counter moves, for one and a half ticks at most."""
        begin_ns, early = self._clock(), False
        deadline_ns = begin_ns + self._tick_ns * 3 // 2
        while True:
            before_ns = self._clock()
            value = self._read()
            time_ns = self._clock()
            known, unmoved_ns = self._value == self._value, self._seen_ns
            if known and value != self._value:
                missed = not early or time_ns - begin_ns > self._tick_ns * 3 // 4
                return self._found(Edge(time_ns, unmoved_ns, value, True), missed)
            early, self._value, self._seen_ns = True, value, before_ns
            if time_ns > deadline_ns:
                # a dead counter is not worth polling all the time
                self._edge_ns, self._retry_ns = None, time_ns + _RETRY_NS
                return Edge(time_ns, before_ns, value, False)
            self._sleep(_POLL_S)

    def _found(self, edge: Edge, missed: bool) -> Edge:
        """Note the edge; wake earlier next time if the expected one came too soon, else bit by bit later."""
        if missed and self._edge_ns is not None:
            self._guard_ns = min(self._guard_ns * 2, self._tick_ns // 2)
        else:
            self._guard_ns = max(_GUARD_MIN_NS, self._guard_ns * 15 // 16)
        self._edge_ns, self._value, self._seen_ns = edge.time_ns, edge.value, edge.time_ns
        return edge

    def observe(self, time_ns: int, value: float) -> int:
        """Note a value that was read without a search, and return when the one before was last seen."""
        unmoved_ns = self._seen_ns or time_ns
        self._value, self._seen_ns = value, time_ns
        return unmoved_ns

    def forget(self) -> None:
        """Drop the phase, as after a pause."""
        self._edge_ns, self._retry_ns = None, 0
