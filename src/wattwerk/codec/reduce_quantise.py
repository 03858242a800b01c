"""Passes that quantise before coding: codebooks by weighted k-means, a uniform grid of some bits, and local scaling.

The coder quantises uniformly by itself; these passes are for what it does not do: levels at any distance from each
other, a number of levels that suits an integer runtime, and rows that get the right length back after quantisation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from wattwerk.codec.data_unit import Codebook
from wattwerk.codec.quantisation import step_size
from wattwerk.codec.reduce_types import (
    QP_DENSITY,
    Clustered,
    FloatArray,
    Levels,
    Parameter,
    Parameters,
    Scaled,
    Selection,
    qp_at_least,
)
from wattwerk.errors import ConfigError

GRID_LEVELS = (
    4095  # how finely k-means sees the values, on each side of zero: finer moves no centre by more than 1/8190 of it
)
MAX_CLUSTERS = 1024


class KMeans(Selection, frozen=True, kw_only=True):
    """Replace each weight by an index into a codebook (Lloyd's algorithm on the line, deterministic).

    The values are counted on a fine grid first, so that the time depends on the grid and not on the number of weights;
    the codebook's entries are integers on the same grid, as the stream wants them.

    Attributes:
        clusters: Size of the codebook, at most; what stays empty is dropped.
        rate: Price of a bit in squared errors, in units of the mean squared error of equally many uniform levels.
            0 minimises the error alone; above it frequent entries win weights (entropy-constrained quantisation).
        iterations: Most steps of the algorithm; it ends when nothing moves.
    """

    clusters: int = 16
    rate: float = 0.0
    iterations: int = 100

    def __post_init__(self) -> None:
        """Check the size and the price."""
        if not 1 <= self.clusters <= MAX_CLUSTERS:
            raise ConfigError(f"a codebook of {self.clusters} entries is not possible", f"use 1 to {MAX_CLUSTERS}")
        if self.rate < 0:
            raise ConfigError(f"rate {self.rate} is not possible", "use 0 or more")

    def __call__(self, parameters: Mapping[str, Parameter]) -> Parameters:
        """Return the parameters, the selected ones as `Clustered`."""
        return dict(parameters) | {name: self._cluster(weight) for name, weight in self.weights(parameters).items()}

    def _cluster(self, weight: FloatArray) -> Clustered:
        largest = float(np.abs(weight).max())
        qp = qp_at_least(largest / GRID_LEVELS) if largest > 0 else 0
        grid = np.rint(np.asarray(weight, np.float64) / step_size(qp, QP_DENSITY)).astype(np.int32)
        values, inverse, counts = np.unique(grid, return_inverse=True, return_counts=True)
        owner, centres = lloyd(values, counts, self.clusters, self.rate, self.iterations)
        entries = np.rint(centres).astype(np.int64)
        entries, renamed = np.unique(entries, return_inverse=True)
        indices = renamed[owner][inverse].reshape(weight.shape).astype(np.int32)
        return Clustered(indices=indices, codebook=make_codebook(entries), qp=qp)


class Uniform(Selection, frozen=True, kw_only=True):
    """Quantise to a symmetric uniform grid of some bits a tensor.

    The step is the smallest one of the stream's that reaches the largest magnitude without clipping, so up to a fifth
    of the range may stay unused.

    Attributes:
        bits: Levels go from -(2^(bits-1) - 1) to 2^(bits-1) - 1.
    """

    bits: int = 8

    def __post_init__(self) -> None:
        """Check the bits."""
        if not 2 <= self.bits <= 16:
            raise ConfigError(f"{self.bits} bits are not possible", "use 2 to 16")

    def __call__(self, parameters: Mapping[str, Parameter]) -> Parameters:
        """Return the parameters, the selected ones as `Levels`."""
        return dict(parameters) | {name: self._quantise(weight) for name, weight in self.weights(parameters).items()}

    def _quantise(self, weight: FloatArray) -> Levels:
        largest = float(np.abs(weight).max())
        qp = qp_at_least(largest / (2 ** (self.bits - 1) - 1)) if largest > 0 else 0
        return Levels(levels=_levels(weight, qp), qp=qp)


class LocalScale(Selection, frozen=True, kw_only=True):
    """Give each output row of a quantised weight the factor that brings it nearest to what it was.

    The factor is the least-squares one, ⟨w, q⟩ / ⟨q, q⟩, so that no row is further away than without it. No data is
    needed; training the factors afterwards gains more, and starts from here.

    Attributes:
        qp: Quantisation parameter of the weights. They come back on its grid, so that coding them with it
            (without dependent quantisation) loses nothing more.
    """

    qp: int = -20

    def __call__(self, parameters: Mapping[str, Parameter]) -> Parameters:
        """Return the parameters, the selected ones as `Scaled`."""
        result = dict(parameters)
        for name, weight in self.weights(parameters).items():
            quantised = (_levels(weight, self.qp) * step_size(self.qp, QP_DENSITY)).astype(weight.dtype)
            result[name] = Scaled(weight=quantised, scale=least_squares_scale(weight, quantised))
        return result


def least_squares_scale(weight: FloatArray, quantised: FloatArray) -> FloatArray:
    """Return the factor of each row (rows,) that minimises |w - factor · q|²; 1 for rows of zeros.

    Args:
        weight: float (rows, …), the original.
        quantised: The same shape, what decoding gives.
    """
    w, q = (np.asarray(array, np.float64).reshape(len(array), -1) for array in (weight, quantised))
    energy = np.einsum("rc,rc->r", q, q)
    factors = np.divide(np.einsum("rc,rc->r", w, q), energy, out=np.ones(len(w)), where=energy > 0)
    return factors.astype(weight.dtype)  # type: ignore[no-any-return]


def lloyd(
    values: NDArray[np.integer], counts: NDArray[np.integer], clusters: int, rate: float = 0.0, iterations: int = 100
) -> tuple[NDArray[np.intp], FloatArray]:
    """Cluster counted values on a line.

    Starts where companding theory puts the levels of a fine quantiser (density to the power of a third), so no chance
    is involved. Without a rate, an assignment is two sorted lists merged; with one, a table of costs.

    Args:
        values: Distinct, ascending.
        counts: How often each occurs.
        clusters: Most centres.
        rate: See `KMeans`.
        iterations: Most steps.

    Returns:
        The centre's index for each value, and the centres, ascending; none is empty.

    Source: S. Lloyd, Least squares quantization in PCM (1982); P. Chou et al., Entropy-constrained vector
    quantization (1989).
    """
    centres = _companded(values, counts, clusters)
    price = rate * float(values[-1] - values[0]) ** 2 / (12.0 * clusters**2)
    share = np.full(len(centres), 1.0 / len(centres))
    for _ in range(iterations):
        owner = _assign(values, centres, price * -np.log2(share))
        weight = np.bincount(owner, counts, len(centres))
        used = weight > 0
        moved = np.bincount(owner, counts * values.astype(np.float64), len(centres))[used] / weight[used]
        done = len(moved) == len(centres) and np.array_equal(moved, centres)
        centres, share = moved, weight[used] / weight.sum()
        if done:
            break
    owner = _assign(values, centres, price * -np.log2(share))
    used, owner = np.unique(owner, return_inverse=True)
    return owner, centres[used]


def _companded(values: NDArray[np.integer], counts: NDArray[np.integer], clusters: int) -> FloatArray:
    if len(values) <= clusters:
        return values.astype(np.float64)
    gaps = np.gradient(values.astype(np.float64))
    mass = np.cumsum((counts / gaps) ** (1 / 3) * gaps)
    places = (np.arange(clusters) + 0.5) / clusters * mass[-1]
    return np.unique(values[np.searchsorted(mass, places)]).astype(np.float64)


def _assign(values: NDArray[np.integer], centres: FloatArray, costs: FloatArray) -> NDArray[np.intp]:
    if not costs.any():
        return np.searchsorted((centres[1:] + centres[:-1]) / 2, values, side="right").astype(np.intp)
    # one row a value: at most 8191 × 1024 costs
    nearest: NDArray[np.intp] = np.argmin((values[:, None] - centres[None, :]) ** 2 + costs[None, :], axis=1)
    return nearest


def make_codebook(entries: NDArray[np.integer]) -> Codebook:
    """Return the codebook of ascending integers: level 0 is the entry nearest to zero, gaps have the cheapest order."""
    zero = int(np.argmin(np.abs(entries)))
    gaps = np.diff(entries) - 1
    order = min(range(16), key=lambda k: sum(_exp_golomb_bits(int(gap), k) for gap in gaps))
    return Codebook(order=order, zero=zero, entries=tuple(int(entry) for entry in entries))


def _exp_golomb_bits(value: int, order: int) -> int:
    """Return the length of the stream's variable-length code ue(order)."""
    bits = order + 1
    while value >= 1 << order:
        value -= 1 << order
        order += 1
        bits += 2
    return bits


def _levels(weight: FloatArray, qp: int) -> NDArray[np.int32]:
    levels: NDArray[np.int32] = np.rint(np.asarray(weight, np.float64) / step_size(qp, QP_DENSITY)).astype(np.int32)
    return levels
