"""The timed loops: nothing but the call and the clock runs inside them."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Python's garbage collector out of a timed loop."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def time_calls(call: Callable[[], object], count: int) -> array[int]:
    """Call ``count`` times and return each call's duration in nanoseconds."""
    clock = perf_counter_ns
    durations = array("q", bytes(8 * count))
    for index in range(count):
        start = clock()
        call()
        durations[index] = clock() - start
    return durations


def run_for(call: Callable[[], object], duration_s: float, least: int) -> tuple[int, array[int]]:
    """Call without a pause for a duration, and at least a number of times.

    Returns:
        The start, and the end of every call, in nanoseconds of ``perf_counter_ns``.
    """
    clock = perf_counter_ns
    ends: array[int] = array("q")
    append = ends.append
    start = clock()
    deadline = start + round(duration_s * 1e9)
    end = start
    while end < deadline or len(ends) < least:
        call()
        end = clock()
        append(end)
    return start, ends
