from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattwerk.errors import ConfigError, MeasurementError
from wattwerk.meters.base import Channel
from wattwerk.meters.trace import Trace
from wattwerk.records import Provenance, Scope

S = 1_000_000_000
COUNTER = Channel(name="gpu0_energy_j", form="counter", scope=Scope.ACCELERATOR, tick_s=0.1)
SMOOTH = Channel(name="cpu0_energy_j", form="counter", scope=Scope.CPU_PACKAGE)
GAUGE = Channel(name="gpu0_power_w", form="gauge", scope=Scope.ACCELERATOR)


class Profile:
    """A power over ten seconds of which the integral is known: levels held for a second or more, joined by ramps."""

    def __init__(self, levels_w: list[float], ramp_s: float) -> None:
        hold_s = 10 / len(levels_w)
        starts = np.arange(len(levels_w)) * hold_s
        self.at_s = np.concatenate([[start, start + hold_s - ramp_s] for start in starts])
        self.power = np.repeat(levels_w, 2)
        area = np.diff(self.at_s) * (self.power[1:] + self.power[:-1]) / 2
        self.area = np.concatenate([[0.0], np.cumsum(area)])

    def power_w(self, time_s: np.ndarray) -> np.ndarray:
        """Return the true power."""
        return np.interp(time_s, self.at_s, self.power)

    def energy_j(self, time_s: np.ndarray | float) -> np.ndarray:
        """Return the true energy since the beginning."""
        time_s = np.asarray(time_s, float)
        k = np.clip(np.searchsorted(self.at_s, time_s, "right") - 1, 0, len(self.at_s) - 1)
        since = time_s - self.at_s[k]
        return self.area[k] + since * (self.power[k] + self.power_w(time_s)) / 2


profiles = st.builds(
    Profile,
    st.lists(st.floats(20, 700), min_size=1, max_size=8),
    st.floats(1e-6, 0.4),  # from what is as good as a step to a slow ramp
)
intervals = st.tuples(st.floats(1.0, 4.5), st.floats(4.6, 8.8))
seeds = st.integers(0, 2**32 - 1)


def kept(count: int, rng: np.random.Generator, lose: float) -> np.ndarray:
    """Lose samples, but never more than two in a row."""
    keep = rng.random(count) >= lose
    for i in range(2, count):
        keep[i] |= not (keep[i - 1] or keep[i - 2])
    return keep


def ticked(profile: Profile, seed: int, locked: bool, lose: float = 0.0) -> Trace:
    """Record a counter whose ticks come every 97 to 103 ms, either locked to them within 2 ms or every 100 ms."""
    rng = np.random.default_rng(seed)
    ticks = rng.random() * 0.1 + np.cumsum(rng.uniform(0.097, 0.103, 96))
    shown = profile.energy_j(ticks)
    if locked:
        time_s = ticks + rng.uniform(0, 0.002, len(ticks))
        unmoved_s, values = time_s - 0.002, shown
    else:
        time_s = np.arange(0.15, 9.6, 0.1) + rng.uniform(0, 0.005)
        unmoved_s, values = time_s, np.concatenate([[0.0], shown])[np.searchsorted(ticks, time_s, "right")]
    keep = kept(len(time_s), rng, lose)
    # 10**15 ns is eleven days since boot: float64 seconds would no longer do
    times, unmoved = (10**15 + np.round(t * S).astype(np.int64)[keep] for t in (time_s, unmoved_s))
    return Trace([COUNTER], times, values[keep, None], unmoved, COUNTER.name if locked else None)


def ns(time_s: float) -> int:
    """Return a time as the trace counts it."""
    return 10**15 + round(time_s * S)


@settings(max_examples=150, deadline=None)
@given(profiles, intervals, seeds, st.booleans(), st.sampled_from([0.0, 0.2]))
def test_bounds_of_a_ticking_counter_hold_the_truth(
    profile: Profile, interval: tuple[float, float], seed: int, locked: bool, lose: float
) -> None:
    """Steps, ramps, jittered ticks and lost samples: the true energy lies within the bounds, the estimate too."""
    start, end = interval
    energy = ticked(profile, seed, locked, lose).energy("gpu0_energy_j", ns(start), ns(end))
    truth = float(profile.energy_j(end) - profile.energy_j(start))
    assert energy.low_j - 1e-5 <= truth <= energy.high_j + 1e-5
    assert energy.low_j <= energy.value_j <= energy.high_j


@settings(max_examples=100, deadline=None)
@given(profiles, intervals, seeds, st.sampled_from([0.0, 0.2]))
def test_bounds_of_an_integrated_gauge_hold_the_truth(
    profile: Profile, interval: tuple[float, float], seed: int, lose: float
) -> None:
    """A power gauge, integrated: the true energy lies within the bounds, and it is called derived."""
    rng = np.random.default_rng(seed)
    time_s = np.cumsum(rng.uniform(0.09, 0.11, 100))
    time_s = time_s[kept(100, rng, lose)]
    trace = Trace([GAUGE], [ns(t) for t in time_s], profile.power_w(time_s)[:, None])
    energy = trace.energy("gpu0_power_w", ns(interval[0]), ns(interval[1]))
    truth = float(profile.energy_j(interval[1]) - profile.energy_j(interval[0]))
    # a ramp's corner between two samples may overshoot neither of them: levels are held on both sides
    assert energy.low_j - 1e-5 <= truth <= energy.high_j + 1e-5
    assert energy.provenance is Provenance.DERIVED


@settings(max_examples=150, deadline=None)
@given(profiles, st.floats(1.0, 8.0), st.floats(0.03, 0.5), seeds)
def test_bounds_of_a_counter_whose_reads_were_held_up_hold_the_truth(
    profile: Profile, start: float, length: float, seed: int
) -> None:
    """Every third read takes up to 15 ms, nobody knows when in it the value was taken: the bounds hold."""
    rng = np.random.default_rng(seed)
    began_s = np.cumsum(rng.uniform(0.02, 0.03, 360))
    took_s = rng.uniform(0, 0.015, 360) * (rng.random(360) < 1 / 3)
    values = profile.energy_j(began_s + took_s * rng.random(360))
    trace = Trace([SMOOTH], [ns(t) for t in began_s + took_s], values[:, None], [ns(t) for t in began_s])
    energy = trace.energy("cpu0_energy_j", ns(start), ns(start + length))
    truth = float(profile.energy_j(start + length) - profile.energy_j(start))
    assert energy.low_j - 1e-5 <= truth <= energy.high_j + 1e-5


@settings(max_examples=50, deadline=None)
@given(profiles, intervals)
def test_a_smooth_counter_is_exact_at_its_samples(profile: Profile, interval: tuple[float, float]) -> None:
    """Between two samples of a counter without ticks the energy is their difference, and bounds shrink to it."""
    time_s = np.round(np.linspace(0, 9.5, 96), 9)
    trace = Trace([SMOOTH], [ns(t) for t in time_s], profile.energy_j(time_s)[:, None])
    i, j = int(interval[0] * 10), int(interval[1] * 10)
    energy = trace.energy("cpu0_energy_j", ns(time_s[i]), ns(time_s[j]))
    truth = float(profile.energy_j(time_s[j]) - profile.energy_j(time_s[i]))
    assert energy.value_j == pytest.approx(truth, rel=1e-9)
    assert energy.high_j - energy.low_j < 1e-6 * truth
    assert energy.provenance is Provenance.MEASURED


@settings(max_examples=50, deadline=None)
@given(profiles, seeds, st.lists(st.floats(1.0, 8.8), min_size=3, max_size=3, unique=True))
def test_energy_is_additive(profile: Profile, seed: int, cuts: list[float]) -> None:
    """The energies of two adjoining intervals add up to that of both."""
    a, b, c = (ns(cut) for cut in sorted(cuts))
    if not a < b < c:
        return
    trace = ticked(profile, seed, locked=True)
    parts = trace.energy("gpu0_energy_j", a, b).value_j + trace.energy("gpu0_energy_j", b, c).value_j
    assert parts == pytest.approx(trace.energy("gpu0_energy_j", a, c).value_j, rel=1e-9, abs=1e-6)


def test_locking_narrows_the_bounds() -> None:
    """At a steady 300 W eight seconds are known to 0.3 % when locked to ticks, and less well when not."""
    profile = Profile([300.0], 0.1)
    widths = []
    for locked in (True, False):
        energy = ticked(profile, 1, locked).energy("gpu0_energy_j", ns(1), ns(9))
        assert energy.value_j == pytest.approx(2400, rel=0.02)
        widths.append(energy.high_j - energy.low_j)
    assert widths[0] < 0.003 * 2400
    assert widths[1] > 5 * widths[0]


def test_accuracy_widens_the_bounds() -> None:
    """A sensor that is known to 5 % gives bounds 5 % apart on either side."""
    channel = Channel(name="wall_energy_j", form="counter", scope=Scope.WALL, accuracy_ratio=0.05)
    trace = Trace([channel], [0, S, 2 * S], [[0.0], [10.0], [20.0]])
    energy = trace.energy("wall_energy_j", 0, 2 * S)
    assert (energy.low_j, energy.value_j, energy.high_j) == pytest.approx((19.0, 20.0, 21.0))
    assert energy.mean_power_w == pytest.approx(10.0)


def test_modelled_bounds_come_from_their_own_channels() -> None:
    """A modelled counter takes its bounds from the channels that it names."""
    names = {"low": "cpu_energy_low_j", "high": "cpu_energy_high_j"}
    channels = [Channel(name="cpu_energy_j", form="counter", provenance=Provenance.MODELLED, **names)]
    channels += [Channel(name=name, form="counter", provenance=Provenance.MODELLED) for name in names.values()]
    trace = Trace(channels, [0, S], [[0, 0, 0], [10, 5, 30]])
    energy = trace.energy("cpu_energy_j", 0, S)
    assert (energy.low_j, energy.value_j, energy.high_j) == pytest.approx((5, 10, 30))
    assert energy.provenance is Provenance.MODELLED


@pytest.mark.parametrize(("start", "end"), [(-1, 2 * S), (0, 10 * S), (2 * S, S), (S, S)])
@pytest.mark.parametrize("column", ["cpu0_energy_j", "gpu0_power_w"])
def test_an_uncovered_interval_is_refused(column: str, start: int, end: int) -> None:
    """Outside of the samples, backwards or empty: an error instead of a guess."""
    trace = Trace([SMOOTH, GAUGE], np.arange(5) * S, np.ones((5, 2)) * np.arange(5)[:, None])
    with pytest.raises(MeasurementError):
        trace.energy(column, start, end)


def test_a_counter_that_is_reset_is_refused() -> None:
    """A counter that falls inside the interval was reset; outside of it, that does not matter."""
    trace = Trace([SMOOTH], np.arange(6) * S, [[5.0], [6.0], [0.0], [1.0], [2.0], [3.0]])
    with pytest.raises(MeasurementError, match="backwards"):
        trace.energy("cpu0_energy_j", 0, 3 * S)
    assert trace.energy("cpu0_energy_j", 3 * S, 5 * S).value_j == pytest.approx(2.0)


def test_a_gap_in_a_gauge_is_refused_and_a_lost_sample_noted() -> None:
    """One missing sample is a note, a long silence an error: nobody knows the power meanwhile."""
    times = np.delete(np.arange(100), [50])
    trace = Trace([GAUGE], times * S // 10, np.full((len(times), 1), 7.0))
    energy = trace.energy("gpu0_power_w", 0, 9 * S)
    assert energy.note == "1 samples are missing"
    assert energy.value_j == pytest.approx(63)
    silent = np.delete(np.arange(100), np.arange(40, 60))
    with pytest.raises(MeasurementError, match="gap"):
        Trace([GAUGE], silent * S // 10, np.full((len(silent), 1), 7.0)).energy("gpu0_power_w", 0, 9 * S)


def test_nan_is_skipped() -> None:
    """A value that a meter did not give takes part in nothing."""
    trace = Trace([SMOOTH, GAUGE], [0, S, 2 * S], [[0, 1], [np.nan, np.nan], [4, 3]])
    assert trace.energy("cpu0_energy_j", 0, 2 * S).value_j == pytest.approx(4)
    assert trace.mean("gpu0_power_w", 0, 2 * S) == pytest.approx(2)
    assert trace.last("gpu0_power_w", 0, S) == 1


def test_questions_about_values() -> None:
    """Mean, extremes, last, union, rate and edges answer for the interval asked for."""
    trace = Trace([SMOOTH, GAUGE], np.arange(5) * S, [[0, 1], [0, 2], [3, 8], [3, 4], [9, 6]])
    assert trace.maximum("gpu0_power_w", 0, 4 * S) == 8
    assert trace.minimum("gpu0_power_w", S, 4 * S) == 2
    assert trace.last("gpu0_power_w") == 6
    assert trace.union("gpu0_power_w", 2 * S, 3 * S) == 12
    assert trace.mean("gpu0_power_w", S, 3 * S) == pytest.approx(5.5)
    assert trace.mean("gpu0_power_w", 2 * S, 9 * S) == pytest.approx(6)
    assert trace.rate("cpu0_energy_j", 0, 4 * S) == pytest.approx(2.25)
    assert trace.edges("cpu0_energy_j", 0, 3 * S).tolist() == [2 * S]


def test_wrong_questions_are_refused() -> None:
    """An unknown channel, a gauge's rate, a counter's mean, an interval without a sample."""
    trace = Trace([SMOOTH, GAUGE], [0, S], [[0, 1], [1, 2]])
    for ask in (
        lambda: trace.energy("gpu7_energy_j", 0, S),
        lambda: trace.rate("gpu0_power_w", 0, S),
        lambda: trace.mean("cpu0_energy_j", 0, S),
        lambda: trace.last("gpu0_power_w", 10, 20),
    ):
        with pytest.raises(MeasurementError):
            ask()


def test_find_goes_by_scope_and_by_words() -> None:
    """``power_w`` is not found where ``average_power_w`` is asked for, and scopes are kept apart."""
    trace = Trace([SMOOTH, GAUGE], [], [])
    assert trace.find(scope=Scope.ACCELERATOR) == [GAUGE]
    assert trace.find(suffix="energy_j") == [SMOOTH]
    assert trace.find(suffix="nergy_j") == []
    assert trace.find() == [SMOOTH, GAUGE]


def test_json_round_trip() -> None:
    """A trace read back from JSON is the same, NaN included; what is no trace is refused."""
    trace = ticked(Profile([100, 300], 0.1), 3, locked=True)
    trace.values[5, 0] = np.nan
    again = Trace.from_json(trace.to_json())
    assert again.channels == trace.channels
    assert again.locked == trace.locked
    np.testing.assert_array_equal(again.time_ns, trace.time_ns)
    np.testing.assert_array_equal(again.values, trace.values)
    with pytest.raises(ConfigError, match="not a recorded trace"):
        Trace.from_json(b"{}")
