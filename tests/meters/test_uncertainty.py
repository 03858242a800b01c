"""How often the true energy lies within the stated bounds: traces of which the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wattwerk.meters.base import Channel
from wattwerk.meters.energy import Floats
from wattwerk.meters.trace import Trace
from wattwerk.records import Scope

GAUGE = Channel(name="gauge_power_w", form="gauge", scope=Scope.WALL)
TICKING = Channel(name="ticking_energy_j", form="counter", scope=Scope.WALL, tick_s=0.1)
SMOOTH = Channel(name="smooth_energy_j", form="counter", scope=Scope.WALL)
CHANNELS = (GAUGE, TICKING, SMOOTH)
CASES = 2500  # of each kind, 10,000 in all
STEP_S, LENGTH_S = 0.001, 6.0
TIME_S = np.arange(round(LENGTH_S / STEP_S)) * STEP_S


def steps(rng: np.random.Generator) -> Floats:
    """One to seven jumps between powers of 5 to 400 W."""
    edges = np.sort(rng.uniform(0, LENGTH_S, rng.integers(1, 8)))
    levels: Floats = rng.uniform(5, 400, len(edges) + 1)
    return levels[np.searchsorted(edges, TIME_S)]


def ramps(rng: np.random.Generator) -> Floats:
    """A broken line with two to five corners."""
    corners = np.sort(np.concatenate([[0, LENGTH_S], rng.uniform(0, LENGTH_S, rng.integers(2, 6))]))
    return np.interp(TIME_S, corners, rng.uniform(5, 400, len(corners)))


def bursts(rng: np.random.Generator) -> Floats:
    """Up to six bursts of 20 ms to 2 s over a constant power."""
    power = np.full(len(TIME_S), rng.uniform(5, 100))
    for _ in range(rng.integers(1, 7)):
        start = rng.uniform(0, LENGTH_S)
        power[(start <= TIME_S) & (start + 10 ** rng.uniform(-1.7, 0.3) > TIME_S)] = rng.uniform(100, 400)
    return power


def wander(rng: np.random.Generator) -> Floats:
    """A power that wanders at random, from one millisecond to the next."""
    return rng.uniform(5, 100) + 0.5 * np.abs(np.cumsum(rng.standard_normal(len(TIME_S))))


def case(rng: np.random.Generator, power: Floats) -> tuple[Trace, float, float, float]:
    """Return a trace at 10 Hz with jitter and lost samples, an interval of 0.5 to 4 s, and its true energy."""
    energy = np.concatenate([[0.0], np.cumsum(power) * STEP_S])
    edges = np.arange(len(energy)) * STEP_S
    times = 0.1 + 0.1 * np.arange(59) + rng.uniform(-0.03, 0.03, 59) * rng.integers(0, 2)
    times = times[rng.random(59) >= rng.choice([0, 0.05, 0.1])]
    ticked, counted = (np.interp(at, edges, energy) for at in (np.floor(times / 0.1) * 0.1, times))
    start = rng.uniform(0.5, 1.2)
    end = start + 10 ** rng.uniform(math.log10(0.5), math.log10(4))
    truth = float(np.interp(end, edges, energy) - np.interp(start, edges, energy))
    seen = power[(times / STEP_S).astype(int)]
    trace = Trace(CHANNELS, np.round(times * 1e9).astype(np.int64), np.stack([seen, ticked, counted], axis=1))
    return trace, start, end, truth


@pytest.mark.parametrize(
    ("make", "least_share"),
    [
        (steps, (0.99, 0.99, 0.99)),
        (ramps, (0.99, 0.99, 0.99)),
        (wander, (0.95, 0.99, 0.95)),
        (bursts, (0.90, 0.99, 0.95)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_truth_lies_within_the_bounds(make, least_share):
    """Gauge, counter with ticks and counter without: within the bounds in 95 % of the cases and more.

    Only of short bursts a gauge misses some altogether, which no sample tells of: 90 %.
    """
    rng = np.random.default_rng(0)
    held, widths = np.zeros(3), np.zeros(3)
    for _ in range(CASES):
        trace, start, end, truth = case(rng, make(rng))
        for index, channel in enumerate(CHANNELS):
            found = trace.energy(channel.name, round(start * 1e9), round(end * 1e9))
            held[index] += found.low_j - 1e-6 <= truth <= found.high_j + 1e-6
            widths[index] += (found.high_j - found.low_j) / truth
    assert np.all(held / CASES >= least_share), held / CASES
    assert np.all(widths / CASES < 1.0)
