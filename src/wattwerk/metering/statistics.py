"""The statistics behind the figures: percentiles, intervals, comparisons, drift. Needs numpy only.

Choices that a reader should know:

- Percentiles interpolate linearly between order statistics (type 7 of Hyndman and Fan, numpy's default).
- The interval of a mean is Student's; energy windows are few, so the normal quantile would be too narrow.
- The interval of a median comes from order statistics and is widened by the serial correlation of the samples:
  latencies of one run are not independent, and an interval that ignores that finds differences in noise.
- Two records are compared by their summaries alone (value, low, high), so a record never has to carry its raw samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

Samples = Sequence[float] | npt.NDArray[np.float64]

CONFIDENCE: Final = 0.95
_Z: Final = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
#: fewer samples than this cannot bound a median at 95 %: the extremes of five miss it with probability 2 / 2**5 = 6 %
_MEDIAN_COUNT_MIN: Final = 6


class Estimate(msgspec.Struct, frozen=True):
    """A value with its 95 % confidence interval; no bounds where the samples cannot give any."""

    value: float
    low: float | None = None
    high: float | None = None


class Distribution(msgspec.Struct, frozen=True):
    """What a set of samples looks like, in the samples' unit.

    Attributes:
        count: Number of samples.
        mean: Arithmetic mean, with its interval.
        std: Standard deviation with ``count - 1`` degrees of freedom; 0 for one sample.
        p50: Median, with its interval.
        p90: 90th percentile.
        p95: 95th percentile.
        p99: 99th percentile.
        min: Smallest sample.
        max: Largest sample.
    """

    count: int
    mean: Estimate
    std: float
    p50: Estimate
    p90: float
    p95: float
    p99: float
    min: float
    max: float


class Difference(msgspec.Struct, frozen=True):
    """The difference of two means, first minus second, with its interval and two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float
    significant: bool


class Ratio(msgspec.Struct, frozen=True):
    """The ratio of two estimates; ``significant`` is None where one of them has no interval."""

    value: float
    low: float | None = None
    high: float | None = None
    significant: bool | None = None


class Drift(msgspec.Struct, frozen=True):
    """The linear trend over a series: the change from its first to its last point as a fraction of its mean."""

    ratio: float
    significant: bool


def percentiles(samples: Samples, levels_percent: Sequence[float]) -> tuple[float, ...]:
    """Return percentiles by linear interpolation between order statistics (Hyndman and Fan's type 7).

    Args:
        samples: At least one finite value.
        levels_percent: Levels from 0 to 100.

    Raises:
        ValueError: There is no sample, or one is not finite.
    """
    return tuple(float(value) for value in np.percentile(_checked(samples), levels_percent))


def describe(samples: Samples) -> Distribution:
    """Describe samples in their order of measurement.

    Raises:
        ValueError: There is no sample, or one is not finite.
    """
    values = _checked(samples)
    p90, p95, p99 = percentiles(values, (90, 95, 99))
    return Distribution(
        count=values.size,
        mean=mean_interval(values),
        std=_std(values),
        p50=median_interval(values),
        p90=p90,
        p95=p95,
        p99=p99,
        min=float(values.min()),
        max=float(values.max()),
    )


def mean_interval(samples: Samples) -> Estimate:
    """Return the mean with Student's 95 % interval; without bounds for a single sample.

    Raises:
        ValueError: There is no sample, or one is not finite.
    """
    values = _checked(samples)
    mean = float(values.mean())
    if values.size < 2:
        return Estimate(mean)
    half = t_quantile(0.5 + CONFIDENCE / 2, values.size - 1) * _std(values) / math.sqrt(values.size)
    return Estimate(mean, mean - half, mean + half)


def median_interval(samples: Samples) -> Estimate:
    """Return the median with a 95 % interval of order statistics, widened by serial correlation.

    No bounds are given where fewer than six independent samples' worth of information is there.

    Args:
        samples: In their order of measurement; the order carries the correlation.

    Raises:
        ValueError: There is no sample, or one is not finite.
    """
    values = _checked(samples)
    median = float(np.median(values))
    effective_count = values.size / _median_inflation(values, median)
    if effective_count < _MEDIAN_COUNT_MIN:
        return Estimate(median)
    half = _Z * 0.5 / math.sqrt(effective_count)
    ordered = np.sort(values)
    # ranks are rounded outwards: an interval that is a little too wide is honest, one too narrow is not
    low = max(0, math.floor(values.size * (0.5 - half)) - 1)
    high = min(values.size - 1, math.ceil(values.size * (0.5 + half)))
    return Estimate(median, float(ordered[low]), float(ordered[high]))


def _median_inflation(values: npt.NDArray[np.float64], median: float) -> float:
    """Return by how much serial correlation inflates the variance of the share of samples below the median.

    Method: batch means. Blocks of about the square root of the count are long against the usual correlation, so the
    variance between their means shows it; independent samples give 1.
    """
    block_size = math.isqrt(values.size)
    count = values.size // block_size
    below = (values[: count * block_size] < median).astype(np.float64).reshape(count, block_size)
    share = float(below.mean())
    if count < 2 or not 0 < share < 1:
        return 1.0
    between = float(below.mean(axis=1).var(ddof=1))
    return max(1.0, between * block_size / (share * (1 - share)))


def welch(first: Samples, second: Samples) -> Difference:
    """Compare two means without assuming equal variances (Welch's test, 95 %).

    Raises:
        ValueError: A side has fewer than two samples, or one is not finite.
    """
    a, b = _checked(first), _checked(second)
    if min(a.size, b.size) < 2:
        raise ValueError("a comparison of means needs two samples on each side")
    value = float(a.mean() - b.mean())
    part_a, part_b = _std(a) ** 2 / a.size, _std(b) ** 2 / b.size
    error = math.sqrt(part_a + part_b)
    if error == 0:
        return Difference(value, value, value, float(value == 0), value != 0)
    # written with shares of the sum, because squares of tiny variances underflow
    share_a, share_b = part_a / (part_a + part_b), part_b / (part_a + part_b)
    freedom = 1 / (share_a**2 / (a.size - 1) + share_b**2 / (b.size - 1))
    half = t_quantile(0.5 + CONFIDENCE / 2, freedom) * error
    p_value = 2 * (1 - t_probability(abs(value) / error, freedom))
    return Difference(value, value - half, value + half, p_value, p_value < 1 - CONFIDENCE)


def ratio_of(numerator: Estimate, denominator: Estimate) -> Ratio:
    """Return numerator over denominator with a 95 % interval, from the summaries of two independent measurements.

    The intervals' half-widths are taken as 1.96 standard errors of the logarithm. Where an interval was Student's, its
    half-width is larger than that, so the answer errs on the side of "not significant".

    Args:
        numerator: A positive estimate; bounds that reach zero leave the ratio without an interval.
        denominator: Likewise.

    Raises:
        ValueError: The denominator is zero.
    """
    if denominator.value == 0:
        raise ValueError("a ratio needs a denominator other than zero")
    value = numerator.value / denominator.value
    errors = [_log_error(numerator), _log_error(denominator)]
    known = [error for error in errors if error is not None]
    if len(known) < 2:
        return Ratio(value, significant=_significant_difference(numerator, denominator))
    half = _Z * math.hypot(*known)
    low, high = value * math.exp(-half), value * math.exp(half)
    return Ratio(value, low, high, not low <= 1 <= high)


def _log_error(estimate: Estimate) -> float | None:
    """Return the standard error of the logarithm; None where there is no interval or it reaches zero."""
    if estimate.low is None or estimate.high is None or estimate.low <= 0:
        return None
    # the wider side counts: a skewed interval must not look better than it is
    wider = max(math.log(estimate.high / estimate.value), math.log(estimate.value / estimate.low))
    return wider / _Z


def _significant_difference(first: Estimate, second: Estimate) -> bool | None:
    """Tell whether two estimates differ, by their half-widths; None where one has no interval."""
    errors = [_half_width(estimate) for estimate in (first, second)]
    known = [error for error in errors if error is not None]
    return abs(first.value - second.value) > math.hypot(*known) if len(known) == 2 else None


def _half_width(estimate: Estimate) -> float | None:
    if estimate.low is None or estimate.high is None:
        return None
    return max(estimate.high - estimate.value, estimate.value - estimate.low)


def drift(window_means: Samples) -> Drift:
    """Return the linear trend over windows in their order, and whether it differs from zero at 95 %.

    A steady change (heat, a filling cache, another tenant) makes the mean depend on when it was taken; five windows
    cannot show a small trend, so the caller also sets a limit on the ratio itself.

    Args:
        window_means: One mean for each window, in time order.

    Raises:
        ValueError: There is no window, one is not finite, or their mean is zero.
    """
    values = _checked(window_means)
    mean = float(values.mean())
    if mean == 0:
        raise ValueError("the drift of a series with mean zero is undefined")
    if values.size < 3:
        return Drift(float(values[-1] - values[0]) / abs(mean), False)
    steps = np.arange(values.size) - (values.size - 1) / 2
    slope = float(steps @ values / (steps @ steps))
    residual = values - mean - slope * steps
    error = math.sqrt(float(residual @ residual) / (values.size - 2) / float(steps @ steps))
    limit = t_quantile(0.5 + CONFIDENCE / 2, values.size - 2) * error
    # equal windows leave a slope of rounding errors: a change below one part in a billion is none
    significant = abs(slope) > limit and abs(slope) > 1e-9 * abs(mean)
    return Drift(slope * (values.size - 1) / abs(mean), significant)


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean, the right mean of ratios.

    Raises:
        ValueError: There is no value, or one is not positive.
    """
    checked = _checked(list(values))
    if checked.min() <= 0:
        raise ValueError("a geometric mean needs positive values")
    return float(np.exp(np.log(checked).mean()))


def t_probability(t: float, freedom: float) -> float:
    """Return the probability that Student's t is at most ``t``.

    Args:
        t: Any real number.
        freedom: Degrees of freedom, more than 0; need not be whole.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.1 and 26.5.27.
    """
    if t == 0:
        return 0.5
    square = t * t
    # the smaller of the two arguments keeps its digits: 1 - x would lose them
    tail = (
        0.5 * _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + square))
        if square >= freedom
        else 0.5 * (1 - _incomplete_beta(0.5, freedom / 2, square / (freedom + square)))
    )
    return 1 - tail if t > 0 else tail


def t_quantile(probability: float, freedom: float) -> float:
    """Return the value that Student's t stays below with a probability.

    Args:
        probability: Between 0 and 1, both excluded.
        freedom: Degrees of freedom, more than 0; need not be whole.

    Raises:
        ValueError: An argument is out of range.
    """
    if not (0 < probability < 1 and freedom > 0):
        raise ValueError(f"no quantile for probability {probability} and {freedom} degrees of freedom")
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    high = 1.0
    while t_probability(high, freedom) < probability and high < 1e300:
        high *= 2
    low = 0.0
    for _ in range(200):  # bisection cannot fail, and a hundred cheap steps are enough for every digit of a double
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_probability(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b).

    Source: continued fraction 26.5.8 of Abramowitz and Stegun, evaluated by the modified Lentz algorithm.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on this side only
        return 1 - _incomplete_beta(b, a, 1 - x)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(logarithm) / (a * _beta_fraction(a, b, x))


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Return 1 + d1/(1 + d2/(1 + …)), the continued fraction of the incomplete beta function."""
    tiny = 1e-300
    fraction, c, d = 1.0, 1.0, 0.0
    for step in range(1, 2000):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + term * d or tiny)
        c = 1 + term / c or tiny
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return fraction


def _std(values: npt.NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) if values.size > 1 else 0.0


def _checked(samples: Samples) -> npt.NDArray[np.float64]:
    values = np.asarray(samples, dtype=np.float64).ravel()
    if values.size == 0:
        raise ValueError("there are no samples")
    if not np.isfinite(values).all():
        raise ValueError("a sample is not finite")
    return values
