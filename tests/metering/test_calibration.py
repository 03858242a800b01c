from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from wattwerk.errors import ConfigError, MeasurementError
from wattwerk.metering.calibration import Fit, Readings, Reference, fit
from wattwerk.metering.load import phases_s


class Case(NamedTuple):
    """A simulated recording, and what is true of it."""

    readings: Readings
    reference: Reference
    phase_s: float
    delay_s: float
    gain_ratio: float


def sequence(seed: int, pulses: int = 12) -> tuple[Reference, float]:
    """Return the seconds under load over time, with rests around the pulses, and the mean length of a phase."""
    lengths = phases_s(pulses, 2.0, 7.0, seed)
    at = np.concatenate([[0.0, 15.0], 15.0 + np.cumsum(lengths)])
    at[-1] += 15.0
    on = np.arange(len(at) - 1) % 2 == 1
    return Reference(at, np.concatenate([[0.0], np.cumsum(on * np.diff(at))])), float(np.mean(lengths))


def case(seed: int) -> Case:
    """Return a meter of random delay, renewal, averaging, smoothing, noise, digits, drift and pace, and lost reads.

    Half of them are compared with a noisy counter in ticks of 0.1 s, the others with the load's own times.
    """
    random = np.random.default_rng(seed)
    load, phase_s = sequence(seed)
    step_w, gain = random.uniform(20, 300), random.uniform(0.9, 1.6)
    renewed_s = random.choice([0.0, 0.1, 0.5, 1.0, 2.0])
    averaged_s = renewed_s * random.integers(0, 2)
    lag_s = random.choice([0.0, random.uniform(0.05, 1.2)])
    pace_s = random.choice([0.1, 0.303, 1.0])
    reads = np.arange(1.0, load.time_s[-1], pace_s) + random.uniform(0, pace_s)
    reads = np.sort(reads + random.normal(0, 0.02 * pace_s, len(reads)))[random.random(len(reads)) > 0.02]
    taken = reads - random.uniform(0, 6)
    if renewed_s:
        begin = random.uniform(0, renewed_s)
        taken = np.floor((taken - begin) / renewed_s) * renewed_s + begin
    true = lagging(load, lag_s)
    share = true.means(taken - max(averaged_s, 1e-3), taken)
    power = random.uniform(5, 100) + gain * step_w * share
    power += random.uniform(-0.2, 0.2) * step_w * reads / reads[-1] + random.normal(0, 0.3 * step_w, len(reads)) * (
        random.random()
    )
    digit = random.choice([0.01, 0.1, 1.0])
    reference = Reference(load.time_s, step_w * load.energy_j)
    if random.random() < 0.5:
        ticks = np.arange(0, load.time_s[-1], 0.1)
        noise = np.cumsum(random.normal(0, 0.002 * step_w, len(ticks)))
        reference = Reference(ticks, step_w * np.interp(ticks, *load) + 5 * ticks + noise)
    delay_s = float(np.mean(reads - taken)) + averaged_s / 2 + lag_s
    return Case(Readings(reads, reads, np.round(power / digit) * digit), reference, phase_s, delay_s, gain)


def lagging(load: Reference, lag_s: float) -> Reference:
    """Return what a sensor that smooths over a time constant sees: convolved with an exponential, step by step."""
    if not lag_s:
        return load
    step_s = 0.01
    time_s = np.arange(-20.0, load.time_s[-1] + step_s, step_s)
    power = np.diff(np.interp(time_s, *load), prepend=0.0) / step_s
    kernel = np.exp(-np.arange(0, 8 * lag_s, step_s) / lag_s)
    seen = np.convolve(power, kernel / kernel.sum())[: len(time_s)]
    return Reference(time_s, np.cumsum(seen) * step_s)


def share_covered(seeds: range) -> tuple[float, float, float]:
    """Return how often delay and gain lie in their intervals, of what is trusted, and how often that is."""
    delays, gains, trusted = [], [], []
    for seed in seeds:
        one = case(seed)
        found = fit(one.readings, one.reference, one.phase_s)
        trusted.append(found.trusted)
        if found.trusted:
            delays.append(found.delay_low_s <= one.delay_s <= found.delay_high_s)
            gains.append(found.gain_low_ratio <= one.gain_ratio <= found.gain_high_ratio)
    return float(np.mean(delays)), float(np.mean(gains)), float(np.mean(trusted))


@pytest.mark.slow
def test_the_interval_holds_the_truth() -> None:
    """Of 40 random meters nearly all are calibrated, and delay and gain lie in their intervals in at least 95 %."""
    delays, gains, trusted = share_covered(range(40))
    assert delays >= 0.95
    assert gains >= 0.95
    assert trusted >= 0.95


def simple(
    *, delay_s: float = 1.3, step_w: float = 100.0, noise_w: float = 2.0, drift_w: float = 0.0, window_s: float = 0.05
) -> Fit:
    """Return the fit of one plain meter, read every 0.3 s."""
    load, phase_s = sequence(1)
    random = np.random.default_rng(7)
    reads = np.arange(1.0, load.time_s[-1], 0.3)
    share = load.means(reads - delay_s - window_s / 2, reads - delay_s + window_s / 2)
    drift = drift_w * (reads - reads[0]) / (reads[-1] - reads[0])
    power = 40.0 + step_w * share + drift + random.normal(0, noise_w, len(reads))
    return fit(Readings(reads, reads, power), load, phase_s)


def test_finer_than_the_readings() -> None:
    """Read every 0.3 s, the delay is known to within 0.1 s; step and offset are those of the meter."""
    found = simple()
    assert found.trusted
    assert found.delay_high_s - found.delay_low_s < 0.2
    assert found.delay_s == pytest.approx(1.3, abs=0.05)
    assert found.gain_ratio == pytest.approx(100.0, rel=0.02)
    assert found.offset_w == pytest.approx(40.0, abs=1.0)
    assert 1.5 < found.noise_w < 4.0  # with what the readings at the edges are off


@pytest.mark.parametrize(
    ("meter", "doubt"),
    [
        ({"step_w": 0.0}, "too little contrast"),
        ({"step_w": 10.0, "noise_w": 30.0}, "too little contrast"),
        ({"step_w": -100.0}, "too little contrast"),
        ({"drift_w": 80.0}, "the base power drifted by"),
        ({"delay_s": 10.2}, "beyond the range of 10 s"),
        ({"delay_s": -0.8}, "ahead of the reference"),
        ({"window_s": 8.0}, "averages over"),
    ],
)
def test_what_is_not_to_be_trusted(meter: dict[str, float], doubt: str) -> None:
    """No contrast, noise, a drift, a delay beyond the range or below 0, and too slow a sensor are told."""
    assert any(doubt in text for text in simple(**meter).doubts)


def test_a_random_walk_is_not_a_response() -> None:
    """Powers that wander by themselves are never taken for a response to the load."""
    load, phase_s = sequence(2)
    reads = np.arange(1.0, load.time_s[-1], 0.3)
    for seed in range(12):
        power = 300 + np.cumsum(np.random.default_rng(seed).normal(0, 3, len(reads)))
        assert not fit(Readings(reads, reads, power), load, phase_s).trusted


def test_a_counter_is_fitted_by_what_it_grew() -> None:
    """Mean powers between reads of a counter give delay and gain as momentary powers do."""
    load, phase_s = sequence(3)
    reads = np.arange(1.0, load.time_s[-1], 0.5)
    counted = np.round((30 * reads + 90 * np.interp(reads - 0.7, *load)) / 2) * 2
    found = fit(Readings(reads[:-1], reads[1:], np.diff(counted) / 0.5, 4.0), load, phase_s)
    assert found.trusted
    assert found.delay_low_s <= 0.7 <= found.delay_high_s
    assert found.gain_ratio == pytest.approx(90.0, rel=0.05)


def test_coarse_steps_are_told() -> None:
    """A meter whose steps are a large part of the load's is not to be trusted."""
    load, phase_s = sequence(3)
    reads = np.arange(1.0, load.time_s[-1], 0.5)
    power = np.round((30 + 60 * load.means(reads - 0.71, reads - 0.7)) / 50) * 50
    assert any(
        "moves in steps of 50 W" in text for text in fit(Readings(reads, reads, power, 50.0), load, phase_s).doubts
    )


def test_too_few_readings() -> None:
    """A meter that hardly answered cannot be calibrated, and the error says so."""
    load, phase_s = sequence(1)
    reads = np.linspace(30, 60, 10)
    with pytest.raises(MeasurementError, match="10 readings are too few"):
        fit(Readings(reads, reads, reads), load, phase_s)


@pytest.mark.parametrize("plan", [(5, 1.0, 2.0), (8, 0.0, 2.0), (8, 2.0, 1.0), (8, 1.0, float("nan"))])
def test_plans_that_are_not_possible(plan: tuple[int, float, float]) -> None:
    """Few pulses and lengths that make no sense are refused."""
    with pytest.raises(ConfigError):
        phases_s(*plan, seed=0)
