"""How far a meter lags behind a reference, and how much of it it sees: a fit over a grid of delays and windows.

A slow meter's value is old when it is read: it was averaged, smoothed, kept until the next one, and sent. All of that
together is taken as a smoothing of the first order and a window of the past, whose centre is ``delay_s`` before the
read. For each delay and each such shape on a grid, what the reference would look like is compared with the readings by
least squares, with an offset and a linear drift; what explains most is the estimate, the delay refined between the
grid's points by a parabola. The confidence interval comes from drawing the parts of the recording anew, with
replacement (block bootstrap).

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 8.6 (moving blocks). The rest is ours.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from wattwerk.errors import MeasurementError

DELAY_STEP_S: Final = 0.1
EARLIEST_S: Final = -1.0  # a reference may lag, too: then the delay is below 0, which is told

#: Time constants of smoothing that are tried, in seconds.
SMOOTHINGS_S: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5)

_WINDOWS: Final = 8
_FINER: Final = 5
_NEAR: Final = (
    22  # fine steps on either side, which is more than four of the standard deviations that they are used for
)
_FINE_S: Final = 0.02
_LEAST_READINGS: Final = 20
_LEAST_BLOCKS: Final = 8
_DRAWS: Final = 200
_Z: Final = 2.6  # instead of Student's 2.1: the blocks are few, and a window is never exactly a rectangle
_OWN_RATIO: Final = 0.02  # of the window: what its shape, which is none of those that are tried, may add
_LEAST_FIT: Final = 0.5
_MOST_DRIFT: Final = 0.5
_COARSE: Final = 0.25

Floats = npt.NDArray[np.float64]


class Reference(NamedTuple):
    """What a meter is compared with, as an energy that only grows.

    Attributes:
        time_s: float64 (points,), growing.
        energy_j: float64 (points,): since some moment; between two points the power is constant. Of a load sequence,
            seconds under load.
    """

    time_s: Floats
    energy_j: Floats

    def means(self, since_s: Floats, until_s: Floats) -> Floats:
        """Return the mean power of intervals, in the shape of their ends."""
        at_ends = np.interp(until_s, self.time_s, self.energy_j) - np.interp(since_s, self.time_s, self.energy_j)
        result: Floats = at_ends / (until_s - since_s)
        return result

    def smoothed(self, time_constant_s: float) -> Reference:
        """Return what a smoothing of the first order makes of it, as many sensors smooth."""
        if not time_constant_s:
            return self
        time_s = np.arange(self.time_s[0], self.time_s[-1] + _FINE_S, _FINE_S)
        energy_j = np.interp(time_s, self.time_s, self.energy_j)
        power_w = np.diff(energy_j) / _FINE_S
        keep = math.exp(-_FINE_S / time_constant_s)
        followed = [0.0]
        for each in power_w.tolist():
            followed.append(each + (followed[-1] - each) * keep)
        # what went in and has not come out yet is the filter's own: time constant x its present value
        return Reference(time_s, energy_j - time_constant_s * np.array(followed))


class Readings(NamedTuple):
    """What a meter said.

    Attributes:
        since_s: float64 (readings,): begin of what a value covers; of a gauge the moment of the read.
        until_s: float64 (readings,): its end, likewise.
        power_w: float64 (readings,): the value, of a counter its mean power between two reads.
        step_w: By how much a value changes at least when it moves; 0 if that is too little to matter.
        slack_s: Half of what a read takes: at which moment of it the value was taken is not known.
    """

    since_s: Floats
    until_s: Floats
    power_w: Floats
    step_w: float = 0.0
    slack_s: float = 0.0


class Fit(msgspec.Struct, frozen=True):
    """What was estimated; each ``low`` and ``high`` are the 95 % confidence interval.

    Attributes:
        delay_s: How old a value is when it is read, on average: what ``latency_s`` says.
        delay_low_s: Lower bound.
        delay_high_s: Upper bound.
        window_s: Over how long a time a value spreads: the meter's averaging, and how long it keeps a value.
        gain_ratio: Watts more at the meter for a watt more of the reference; of a load sequence, the step in watts.
        gain_low_ratio: Lower bound.
        gain_high_ratio: Upper bound.
        offset_w: What the meter shows where the reference has no power.
        step_w: How far the meter's power moved with the reference's.
        noise_w: Standard deviation of what is left.
        drift_w: How much the meter's base power changed from the beginning to the end.
        fit_ratio: Share of the meter's variance that the reference explains.
        readings_count: Readings used.
        doubts: Why it is not to be trusted, in words; empty if it is.
    """

    delay_s: float
    delay_low_s: float
    delay_high_s: float
    window_s: float
    gain_ratio: float
    gain_low_ratio: float
    gain_high_ratio: float
    offset_w: float
    step_w: float
    noise_w: float
    drift_w: float
    fit_ratio: float
    readings_count: int
    doubts: list[str] = []

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.doubts


class _Shape(NamedTuple):
    """How a meter may blur what it measures: the reference smoothed, and a window of it."""

    reference: Reference
    smoothing_s: float
    window_s: float

    def seen(self, readings: Readings, delay_s: Floats) -> Floats:
        """Return what a meter of this shape would show: float64 (delays, readings) for delays (delays, 1)."""
        centre_s, half_s = delay_s - self.smoothing_s, self.window_s / 2
        return self.reference.means(readings.since_s - centre_s - half_s, readings.until_s - centre_s + half_s)

    @property
    def spread_s(self) -> float:
        """The length of the window that would spread as much."""
        return math.sqrt(self.window_s**2 + 12 * self.smoothing_s**2)


class _Grid(NamedTuple):
    """Sums over each block of readings for each shape and delay; the readings without mean and drift.

    Attributes:
        delays_s: float64 (delays,).
        counts: float64 (blocks,): readings.
        y, yy: float64 (blocks,): sums of the meter's power, and of its square.
        x, xx, xy: float64 (shapes x delays, blocks): likewise of the reference's.
    """

    delays_s: Floats
    counts: Floats
    y: Floats
    yy: Floats
    x: Floats
    xx: Floats
    xy: Floats


def fit(readings: Readings, reference: Reference, phase_s: float, latest_s: float = 10.0, seed: int = 0) -> Fit:
    """Estimate how far a meter lags behind a reference, and its gain.

    Args:
        readings: The meter's.
        reference: What it is compared with; readings too near to its ends to be compared with it are left out.
        phase_s: How long the load was on, or off, at a time on average, in seconds.
        latest_s: The longest delay that is looked for, in seconds.
        seed: For drawing blocks.

    Raises:
        MeasurementError: There are too few readings to estimate anything.
    """
    delays_s = np.arange(EARLIEST_S, latest_s + DELAY_STEP_S / 2, DELAY_STEP_S)
    windows_s = np.geomspace(0.05, max(1.5 * phase_s, 0.2), _WINDOWS)
    smoothings_s = [each for each in SMOOTHINGS_S if each <= phase_s / 2]
    reach_s = windows_s[-1] / 2 + smoothings_s[-1]
    usable = _usable(readings, reference, latest_s + reach_s, EARLIEST_S - reach_s)
    count = len(usable.power_w)
    if count < _LEAST_READINGS:
        raise MeasurementError(
            f"{count} readings are too few to compare with the load", "use more or longer pulses; see the faults"
        )
    blocks = max(_LEAST_BLOCKS, round((usable.until_s[-1] - usable.until_s[0]) / (2 * phase_s)))
    smooth = [(reference.smoothed(each), each) for each in smoothings_s]
    shapes = [_Shape(*each, float(window_s)) for each in smooth for window_s in windows_s]
    grid = _grid(usable, shapes, delays_s, blocks)
    draws = np.random.default_rng(seed).multinomial(blocks, np.full(blocks, 1 / blocks), _DRAWS).astype(np.float64)
    best, drawn = _best(grid, np.ones((1, blocks))), _best(grid, draws)
    if np.std(drawn.delay_s) < DELAY_STEP_S:  # the data know it better than the grid
        near_s = best.delay_s[0] + np.arange(-_NEAR, _NEAR + 1) * (DELAY_STEP_S / _FINER)
        grid = _grid(usable, shapes, near_s, blocks)
        best, drawn = _best(grid, np.ones((1, blocks))), _best(grid, draws)
    return _fitted(usable, shapes[best.shape[0]], best, drawn, phase_s, latest_s)


def _usable(readings: Readings, reference: Reference, back_s: float, ahead_s: float) -> Readings:
    inside = (readings.since_s - back_s >= reference.time_s[0]) & (readings.until_s - ahead_s <= reference.time_s[-1])
    inside &= np.isfinite(readings.power_w)
    return readings._replace(
        since_s=readings.since_s[inside], until_s=readings.until_s[inside], power_w=readings.power_w[inside]
    )


def _without_drift(rows: Floats, time_s: Floats) -> Floats:
    """Take mean and linear drift out of rows: float64 (…, readings)."""
    basis = np.stack([np.ones_like(time_s), time_s - time_s.mean()])
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    result: Floats = rows - (rows @ basis.T) @ basis
    return result


def _grid(readings: Readings, shapes: list[_Shape], delays_s: Floats, blocks: int) -> _Grid:
    time_s = (readings.since_s + readings.until_s) / 2
    ends = np.linspace(time_s[0], time_s[-1], blocks + 1)[1:-1]
    edges = np.concatenate([[0], np.searchsorted(time_s, ends)]).astype(np.intp)
    filled = np.diff(np.append(edges, len(time_s))) > 0  # reduceat gives one value for an empty block, not 0

    def sums(rows: Floats) -> Floats:
        found: Floats = np.where(filled, np.add.reduceat(rows, np.minimum(edges, len(time_s) - 1), axis=-1), 0.0)
        return found

    y = _without_drift(readings.power_w[None], time_s)[0]
    found: list[tuple[Floats, Floats, Floats]] = []
    for shape in shapes:  # one after the other: all at once would take hundreds of megabytes
        x = _without_drift(shape.seen(readings, delays_s[:, None]), time_s)
        found.append((sums(x), sums(x * x), sums(x * y)))
    return _Grid(delays_s, sums(np.ones_like(y)), sums(y), sums(y * y), *map(np.concatenate, zip(*found, strict=True)))


class _Best(NamedTuple):
    """For each drawing: float64 (drawings,)."""

    delay_s: Floats
    shape: npt.NDArray[np.intp]
    gain: Floats
    fit: Floats


def _best(grid: _Grid, weights: Floats) -> _Best:
    """Return delay, shape and gain that explain most, for each drawing of blocks: weights (drawings, blocks)."""
    count = weights @ grid.counts
    y, x = weights @ grid.y, weights @ grid.x.T
    yy = weights @ grid.yy - y**2 / count
    xx = np.maximum(weights @ grid.xx.T - x**2 / count[:, None], 1e-300)
    xy = weights @ grid.xy.T - x * y[:, None] / count[:, None]
    explained = np.where(xy > 0, xy**2 / xx, 0.0)
    rows = np.arange(len(weights))
    cell = explained.argmax(axis=1)
    shape, place = np.divmod(cell, len(grid.delays_s))
    profile = explained.reshape(len(weights), -1, len(grid.delays_s)).max(axis=1)
    step_s = grid.delays_s[1] - grid.delays_s[0]
    delay_s = grid.delays_s[place] + step_s * _vertex(profile, rows, place)
    fit_ratio = np.divide(explained[rows, cell], yy, out=np.zeros_like(yy), where=yy > 0)
    return _Best(delay_s, shape, xy[rows, cell] / xx[rows, cell], fit_ratio)


def _vertex(profile: Floats, rows: npt.NDArray[np.intp], place: npt.NDArray[np.intp]) -> Floats:
    """Return where the parabola through a maximum and its neighbours is highest, from -0.5 to 0.5 steps off."""
    inner = np.clip(place, 1, profile.shape[1] - 2)
    left, middle, right = profile[rows, inner - 1], profile[rows, inner], profile[rows, inner + 1]
    bend = left - 2 * middle + right
    off = np.divide(left - right, 2 * bend, out=np.zeros_like(bend), where=bend < 0)
    result: Floats = np.where(place == inner, np.clip(off, -0.5, 0.5), 0.0)
    return result


def _fitted(readings: Readings, shape: _Shape, best: _Best, drawn: _Best, phase_s: float, latest_s: float) -> Fit:
    delay_s, gain = float(best.delay_s[0]), float(best.gain[0])
    random_s = math.hypot(float(np.std(drawn.delay_s)), _own_error_s(readings, phase_s, shape.spread_s))
    half_s = _Z * random_s + readings.slack_s
    own_gain = _OWN_RATIO * gain * min(1.0, shape.spread_s / phase_s)  # a blurred pulse looks lower than it was
    half_gain = _Z * math.hypot(float(np.std(drawn.gain)), own_gain)
    x = shape.seen(readings, np.array([[delay_s]]))[0]
    time_s = (readings.since_s + readings.until_s) / 2
    rest = readings.power_w - gain * x
    slope, offset = np.polyfit(time_s - time_s.mean(), rest, 1)
    low, high = np.percentile(x, [5, 95])
    found = Fit(
        delay_s=delay_s,
        delay_low_s=delay_s - half_s,
        delay_high_s=delay_s + half_s,
        window_s=shape.spread_s,
        gain_ratio=gain,
        gain_low_ratio=gain - half_gain,
        gain_high_ratio=gain + half_gain,
        offset_w=float(offset),
        step_w=gain * float(high - low),
        noise_w=float(np.std(_without_drift(rest[None], time_s))),
        drift_w=float(slope * (time_s[-1] - time_s[0])),
        fit_ratio=float(best.fit[0]),
        readings_count=len(time_s),
    )
    return msgspec.structs.replace(found, doubts=_doubts(found, readings, phase_s, latest_s))


def _own_error_s(readings: Readings, phase_s: float, window_s: float) -> float:
    """Return what a delay is uncertain by, even if all blocks agree: the distance of readings, and the window's shape.

    An edge is known to lie between two readings, evenly; there are as many edges as phases.
    """
    edges = max(1.0, (readings.until_s[-1] - readings.since_s[0]) / phase_s)
    spacing_s = float(np.median(np.diff((readings.since_s + readings.until_s) / 2)))
    return math.hypot(spacing_s / math.sqrt(12 * edges), _OWN_RATIO * window_s)


def _doubts(found: Fit, readings: Readings, phase_s: float, latest_s: float) -> list[str]:
    if found.fit_ratio < _LEAST_FIT or found.gain_low_ratio <= 0:
        return [
            f"too little contrast: the load explains {found.fit_ratio:.0%} of the meter's changes "
            f"({found.step_w:.3g} W against {found.noise_w:.3g} W of noise): use a heavier load, or keep the rest idle"
        ]
    doubts = []
    if abs(found.drift_w) > _MOST_DRIFT * found.step_w:
        doubts.append(f"the base power drifted by {found.drift_w:.3g} W: let the machine become warm, then try again")
    if found.delay_high_s >= latest_s:
        doubts.append(f"the delay is beyond the range of {latest_s:g} s: look for a longer one")
    if found.delay_high_s < 0:
        doubts.append("the meter is ahead of the reference, so that lags itself: choose another reference")
    if found.window_s > 1.25 * phase_s:
        doubts.append(f"the meter averages over {found.window_s:.2g} s or longer: use longer pulses")
    if (half_s := (found.delay_high_s - found.delay_low_s) / 2) > _COARSE * phase_s:
        doubts.append(f"the delay is uncertain by {half_s:.2g} s: use more pulses")
    if readings.step_w > _COARSE * found.step_w:
        doubts.append(f"the meter moves in steps of {readings.step_w:.3g} W: use a heavier load or longer pulses")
    return doubts
