"""From readings to energy, with bounds: counters that move in ticks, and power gauges.

Between two readings only their difference is known. The bounds rest on one assumption, the same for both kinds:
between two readings the power stays between the smallest and the largest of the powers around them. It holds for ramps
and single steps; pulses much shorter than the distance of the readings average out within them. Of a counter only mean
powers between readings are known, so that a ripple is allowed for on top. A gauge knows nothing of a burst that falls
between two of its readings: tests/meters/test_uncertainty.py says how often the bounds hold nevertheless.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wattwerk.errors import MeasurementError

RIPPLE_RATIO = 0.05  # by which the power is taken to leave the mean powers around it

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]


class Bounded(NamedTuple):
    """A value with its bounds, the number of readings behind it, and what to know about it."""

    value: float
    low: float
    high: float
    samples: int
    note: str | None = None


class Anchors(NamedTuple):
    """Points of a counter: at some time in ``(earliest, latest]`` it reached ``value``.

    Attributes:
        earliest_ns: int64 (points,).
        latest_ns: int64 (points,).
        value: float64 (points,), growing.
        spacing_s: What two points are apart at least; 0 if unknown.
    """

    earliest_ns: Times
    latest_ns: Times
    value: Floats
    spacing_s: float


def counted(anchors: Anchors, start_ns: int, end_ns: int, name: str) -> Bounded:
    """Return how much a counter grew over an interval.

    Raises:
        MeasurementError: The points do not reach around the interval, or the counter ran backwards.
    """
    # relative to the start, in seconds: float64 holds nanoseconds of a day, not those of a year
    earliest = (anchors.earliest_ns - start_ns) / 1e9
    latest = (anchors.latest_ns - start_ns) / 1e9
    middle = (earliest + latest) / 2
    end_s = (end_ns - start_ns) / 1e9
    if len(middle) < 2 or middle[0] > 0 or middle[-1] < end_s:
        raise MeasurementError(f"{name} was not recorded over the whole interval", "record longer on both sides of it")
    first, last = np.searchsorted(middle, 0, "right") - 1, np.searchsorted(middle, end_s, "left")
    if np.any(np.diff(anchors.value[first : last + 1]) < 0):
        raise MeasurementError(f"{name} ran backwards: it was reset", "measure again")
    slowest, fastest = _powers(earliest, latest, anchors)
    ends = [_at(x, middle, (latest - earliest) / 2, anchors.value, slowest, fastest) for x in (0.0, end_s)]
    low, high = max(0.0, ends[1].low - ends[0].high), ends[1].high - ends[0].low
    inside = int(np.count_nonzero((middle >= 0) & (middle <= end_s)))
    return Bounded(ends[1].value - ends[0].value, low, high, inside)


def _powers(earliest: Floats, latest: Floats, anchors: Anchors) -> tuple[Floats, Floats]:
    """Return the least and the most power between each two points, neighbours included: float64 (points - 1,)."""
    grown = np.diff(anchors.value)
    longest = np.maximum(latest[1:] - earliest[:-1], 1e-9)
    shortest = np.maximum(np.maximum(earliest[1:] - latest[:-1], anchors.spacing_s), 1e-9)
    slowest = _neighbours(grown / longest, np.minimum) * (1 - RIPPLE_RATIO)
    return slowest, _neighbours(grown / shortest, np.maximum) * (1 + RIPPLE_RATIO)


def _neighbours(values: Floats, pick: np.ufunc) -> Floats:
    padded = np.concatenate([values[:1], values, values[-1:]])
    result: Floats = pick(pick(padded[:-2], padded[1:-1]), padded[2:])
    return result


def _at(x: float, middle: Floats, slack: Floats, value: Floats, slowest: Floats, fastest: Floats) -> Bounded:
    """Return the counter's true value at a time, with bounds."""
    k = int(np.clip(np.searchsorted(middle, x, "right") - 1, 0, len(middle) - 2))
    since, until = x - middle[k], middle[k + 1] - x
    margin = fastest[k] * max(slack[k], slack[k + 1])
    low = max(value[k] + slowest[k] * since, value[k + 1] - fastest[k] * until) - margin
    high = min(value[k] + fastest[k] * since, value[k + 1] - slowest[k] * until) + margin
    estimate = float(np.interp(x, middle[k : k + 2], value[k : k + 2]))
    return Bounded(estimate, min(float(low), estimate), max(float(high), estimate), 0)


def integrated(times: Times, values: Floats, start_ns: int, end_ns: int, name: str, gap: int) -> Bounded:
    """Return a gauge's integral over an interval, by trapezoids.

    Args:
        times: int64 (samples,).
        values: float64 (samples,), finite.
        start_ns: Start of the interval.
        end_ns: End of the interval.
        name: The gauge, for the error's text.
        gap: How many usual distances between samples may pass without one.

    Raises:
        MeasurementError: The samples do not reach around the interval, or too many are missing in a row.
    """
    if len(times) < 2 or times[0] > start_ns or times[-1] < end_ns:
        raise MeasurementError(f"{name} was not recorded over the whole interval", "record longer on both sides of it")
    first, last = np.searchsorted(times, start_ns, "right") - 1, np.searchsorted(times, end_ns, "left")
    at_s = (times[first : last + 1] - start_ns) / 1e9
    value = values[first : last + 1]
    steps, usual = np.diff(at_s), float(np.median(np.diff(times))) / 1e9
    if np.any(steps > gap * usual):
        raise MeasurementError(
            f"{name} has a gap of {steps.max():.2g} s", "measure again; look at the recorder's faults"
        )
    begin, end = np.maximum(at_s[:-1], 0), np.minimum(at_s[1:], (end_ns - start_ns) / 1e9)
    width = end - begin
    total = float(np.sum(width * np.interp((begin + end) / 2, at_s, value)))
    low = float(np.sum(width * np.minimum(value[:-1], value[1:])))
    high = float(np.sum(width * np.maximum(value[:-1], value[1:])))
    lost = int(np.sum(np.maximum(np.round(steps / usual) - 1, 0)))
    note = f"{lost} samples are missing" if lost else None
    return Bounded(
        total, min(low, total), max(high, total), int(np.count_nonzero((at_s >= 0) & (at_s <= end[-1]))), note
    )
