"""The statistics agree with published tables, closed forms and simulation."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattwerk.metering.statistics import (
    Estimate,
    describe,
    drift,
    geometric_mean,
    mean_interval,
    median_interval,
    percentiles,
    ratio_of,
    t_probability,
    t_quantile,
    welch,
)

# 97.5 % and 99.5 % quantiles of Student's t as printed in statistical tables
PRINTED = [
    (0.975, 1, 12.706),
    (0.975, 2, 4.303),
    (0.975, 4, 2.776),
    (0.975, 9, 2.262),
    (0.975, 30, 2.042),
    (0.975, 120, 1.980),
    (0.995, 3, 5.841),
    (0.995, 10, 3.169),
    (0.95, 5, 2.015),
]
finite = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(("probability", "freedom", "expected"), PRINTED)
def test_quantiles_of_t_agree_with_printed_tables(probability, freedom, expected):
    """The quantiles are those of the printed tables, to their last digit."""
    assert t_quantile(probability, freedom) == pytest.approx(expected, abs=5.1e-4)


@given(st.floats(0.001, 0.999))
def test_quantiles_of_t_with_one_and_two_degrees_of_freedom_have_their_closed_form(probability):
    """With one degree of freedom t is Cauchy's distribution, with two it has an algebraic form."""
    assert t_quantile(probability, 1) == pytest.approx(math.tan(math.pi * (probability - 0.5)), rel=1e-9, abs=1e-9)
    alpha = 4 * probability * (1 - probability)
    closed = 2 * (probability - 0.5) * math.sqrt(2 / alpha)
    assert t_quantile(probability, 2) == pytest.approx(closed, rel=1e-9, abs=1e-9)


@given(st.floats(0.0005, 0.9995), st.floats(0.5, 1e5))
def test_quantile_and_probability_are_inverse_and_symmetric(probability, freedom):
    """The probability of a quantile is what was asked for, and quantiles are symmetric about zero."""
    value = t_quantile(probability, freedom)
    assert t_probability(value, freedom) == pytest.approx(probability, abs=1e-10)
    assert t_quantile(1 - probability, freedom) == pytest.approx(-value, rel=1e-6, abs=1e-9)


@given(st.floats(0.01, 0.99))
def test_t_becomes_normal(probability):
    """With very many degrees of freedom t is the normal distribution."""
    assert t_quantile(probability, 1e7) == pytest.approx(NormalDist().inv_cdf(probability), abs=1e-5)


@pytest.mark.parametrize(("probability", "freedom"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_impossible_quantiles_are_refused(probability, freedom):
    """A probability of 0 or 1, or no degree of freedom, has no quantile."""
    with pytest.raises(ValueError, match="no quantile"):
        t_quantile(probability, freedom)


def test_percentiles_interpolate_linearly():
    """The method is Hyndman and Fan's type 7: the 25th percentile of 1, 2, 3, 4 is 1.75."""
    assert percentiles([4, 1, 3, 2], [0, 25, 50, 100]) == pytest.approx((1.0, 1.75, 2.5, 4.0))


@given(st.lists(finite, min_size=1, max_size=60))
def test_description_is_ordered(samples):
    """Percentiles lie in order between the extremes, and bounds enclose their value."""
    told = describe(samples)
    ladder = [told.min, told.p50.value, told.p90, told.p95, told.p99, told.max]
    slack = 1e-9 * max(1.0, abs(told.max), abs(told.min))
    assert all(a <= b + slack for a, b in itertools.pairwise(ladder))
    for estimate in (told.mean, told.p50):
        assert estimate.low is None or estimate.low <= estimate.value + slack
        assert estimate.high is None or estimate.high >= estimate.value - slack


@pytest.mark.parametrize("samples", [[], [1.0, float("nan")], [float("inf")]])
def test_samples_that_say_nothing_are_refused(samples):
    """No samples, or samples that are no numbers, are an error and not a figure."""
    with pytest.raises(ValueError, match="sample"):
        describe(samples)


def test_mean_interval_of_five_windows_uses_four_degrees_of_freedom():
    """For 1..5 the half-width is 2.776 * sqrt(2.5 / 5) = 1.963, and one window has no interval."""
    told = mean_interval([1, 2, 3, 4, 5])
    assert told.high - told.value == pytest.approx(2.776 * math.sqrt(0.5), abs=1e-3)
    assert mean_interval([3.0]) == Estimate(3.0)


def test_mean_interval_covers_the_truth_in_95_of_100_cases():
    """In 2,000 simulated sets of five windows the interval holds the true mean about 95 % of the time."""
    rng = np.random.default_rng(1)
    told = [mean_interval(rng.normal(10, 2, 5)) for _ in range(2000)]
    covered = np.mean([e.low <= 10 <= e.high for e in told])
    assert 0.935 < covered < 0.965


def _correlated(rng, count, memory):
    noise = rng.normal(size=count)
    values = np.empty(count)
    values[0] = noise[0] / math.sqrt(1 - memory**2)
    for i in range(1, count):
        values[i] = memory * values[i - 1] + noise[i]
    return np.exp(0.1 * values)


@pytest.mark.parametrize(("memory", "least"), [(0.0, 0.94), (0.5, 0.90)])
def test_median_interval_covers_the_truth_also_for_correlated_latencies(memory, least):
    """The interval holds the true median of skewed latencies, independent or remembering the previous one.

    Without the widening, a memory of 0.5 leaves only about 74 % covered.
    """
    rng = np.random.default_rng(2)
    told = [median_interval(_correlated(rng, 200, memory)) for _ in range(600)]
    covered = np.mean([e.low is not None and e.low <= 1 <= e.high for e in told])
    assert covered > least


def test_median_of_few_samples_has_no_interval():
    """Five samples cannot bound a median at 95 %, so no bounds are claimed."""
    assert median_interval([1, 2, 3, 4, 5]) == Estimate(3.0)


def test_welch_agrees_with_an_independent_implementation():
    """The p-value is the one that scipy 1.17 gives (``ttest_ind(equal_var=False)``: t = -2.853, 27.89 degrees)."""
    a1 = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4]
    a2 = [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 30.5, 24.4]
    told = welch(a1, a2)
    assert told.value == pytest.approx(-2.833, abs=0.002)
    assert told.significant
    assert told.high < 0
    assert told.p_value == pytest.approx(0.008071938, rel=1e-6)


def test_welch_rarely_finds_a_difference_that_is_not_there():
    """Equal means with unequal variances are called different in about 5 % of 1,000 simulations."""
    rng = np.random.default_rng(3)
    found = np.mean([welch(rng.normal(5, 1, 5), rng.normal(5, 3, 8)).significant for _ in range(1000)])
    assert found < 0.075


def test_welch_of_constant_sides_and_of_single_samples():
    """Two constant sides differ exactly or not at all; one sample is not enough."""
    assert welch([2, 2], [1, 1]).significant
    assert not welch([2, 2], [2, 2]).significant
    with pytest.raises(ValueError, match="two samples"):
        welch([1], [1, 2])


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0.001, 0.5), st.floats(0.001, 0.5))
def test_ratio_is_antisymmetric(a, b, spread_a, spread_b):
    """Swapping the sides inverts the ratio and its bounds, and never changes the verdict."""
    first = Estimate(a, a * (1 - spread_a), a * (1 + spread_a))
    second = Estimate(b, b * (1 - spread_b), b * (1 + spread_b))
    forth, back = ratio_of(first, second), ratio_of(second, first)
    assert forth.value * back.value == pytest.approx(1)
    assert forth.low * back.high == pytest.approx(1)
    assert forth.significant == back.significant


def test_ratio_finds_what_the_intervals_show():
    """A factor of two with bounds of 1 % is significant, 1 % with bounds of 5 % is not, no bounds: unknown."""
    assert ratio_of(Estimate(2, 1.98, 2.02), Estimate(1, 0.99, 1.01)).significant is True
    assert ratio_of(Estimate(1.01, 0.96, 1.06), Estimate(1, 0.95, 1.05)).significant is False
    assert ratio_of(Estimate(2), Estimate(1, 0.9, 1.1)).significant is None


def test_ratio_of_net_energies_that_reach_below_zero():
    """Where an interval reaches zero there is no interval of the ratio, yet a clear difference is still found."""
    told = ratio_of(Estimate(10, 9, 11), Estimate(0.1, -0.5, 0.7))
    assert (told.low, told.high, told.significant) == (None, None, True)
    with pytest.raises(ValueError, match="denominator"):
        ratio_of(Estimate(1), Estimate(0))


def test_drift_measures_the_change_over_the_series():
    """Windows that rise evenly from 95 to 105 drift by 10 %; equal ones do not drift."""
    assert drift([95, 97.5, 100, 102.5, 105]).ratio == pytest.approx(0.1)
    assert drift([95, 97.5, 100, 102.5, 105]).significant
    assert not drift([0.1 + 0.2] * 5).significant
    assert drift([1.0, 1.1]).significant is False


def test_drift_is_rarely_seen_in_noise():
    """Five windows of pure noise show a significant drift in about 5 % of 1,000 simulations."""
    rng = np.random.default_rng(4)
    found = np.mean([drift(rng.normal(100, 1, 5)).significant for _ in range(1000)])
    assert 0.02 < found < 0.08


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20), st.floats(0.1, 10))
def test_geometric_mean_scales_and_inverts(values, factor):
    """It scales with its values, and the mean of the inverses is the inverse of the mean."""
    mean = geometric_mean(values)
    assert geometric_mean(v * factor for v in values) == pytest.approx(mean * factor)
    assert geometric_mean(1 / v for v in values) == pytest.approx(1 / mean)


def test_geometric_mean_of_nothing_or_zero_is_refused():
    """No value, or one that is not positive, has no geometric mean."""
    for values in ([], [1.0, 0.0]):
        with pytest.raises(ValueError, match=r"sample|positive"):
            geometric_mean(values)
