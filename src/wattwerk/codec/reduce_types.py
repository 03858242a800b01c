"""What a reduction pass works on: parameters by name, each an array or something smaller that stands for one.

A pass takes a dict of parameters and returns another one; it never changes the arrays that it was given. Beside plain
arrays a dict may hold, after some passes,

- `Decomposed`: a weight as the product of two smaller matrices. The stream carries it with the decomposition syntax:
  G and H are coded as two tensors, ``rank`` is ``g.shape[1]``, ``g_number_of_rows`` is ``g.shape[0]``, and the shape
  beside them is that of the whole weight.
- `Scaled`: a weight and one factor for each of its output rows. The stream carries it as a block with local scaling.
- `Clustered`: indices into a codebook of integers. The stream carries it with the codebook syntax.
- `Levels`: integers on the grid of a quantisation parameter. The stream carries it as a tensor that is already
  quantised, so that dependent quantisation is off for it.

All of them have ``shape`` and ``restore()``; `restore` below does the same for whatever a dict may hold.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from wattwerk.codec.data_unit import Codebook
from wattwerk.codec.quantisation import qp_range, step_size
from wattwerk.errors import ConfigError

QP_DENSITY = 2  # four quantisation parameters to an octave, as the reference encoder uses

FloatArray: TypeAlias = NDArray[np.floating[Any]]


class Decomposed(msgspec.Struct, frozen=True, eq=False):
    """A weight W ≈ G · H.

    Attributes:
        g: float (rows, rank), rows being the weight's first dimension.
        h: float (rank, columns), columns being the product of its other dimensions.
        shape: Shape of the weight.
    """

    g: FloatArray
    h: FloatArray
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Return the rank, which is the number of columns of G."""
        return int(self.g.shape[1])

    def restore(self) -> FloatArray:
        """Return the product in the weight's shape."""
        return (self.g @ self.h).reshape(self.shape)


class Scaled(msgspec.Struct, frozen=True, eq=False):
    """A weight with one factor for each output row.

    Attributes:
        weight: float (rows, …), as it is to be coded.
        scale: float (rows,), which the decoder multiplies in.
    """

    weight: FloatArray
    scale: FloatArray

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the weight's shape."""
        return self.weight.shape

    def restore(self) -> FloatArray:
        """Return the scaled weight."""
        return self.weight * row_factors(self.scale, self.weight.ndim)  # type: ignore[no-any-return]


class Clustered(msgspec.Struct, frozen=True, eq=False):
    """A tensor as indices into a codebook.

    Attributes:
        indices: int32, in the tensor's shape, from 0 to the codebook's size - 1. What is coded as a level is the index
            minus ``codebook.zero``.
        codebook: Strictly ascending integers; a value is the entry times the step.
        qp: Quantisation parameter that gives the step.
    """

    indices: NDArray[np.int32]
    codebook: Codebook
    qp: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the tensor's shape."""
        return self.indices.shape

    def restore(self) -> FloatArray:
        """Return the values as float32."""
        entries = np.asarray(self.codebook.entries, dtype=np.float64)
        return (entries * step_size(self.qp, QP_DENSITY)).astype(np.float32)[self.indices]


class Levels(msgspec.Struct, frozen=True, eq=False):
    """A tensor as integers on a uniform grid.

    Attributes:
        levels: int32, in the tensor's shape; a value is the level times the step.
        qp: Quantisation parameter that gives the step.
    """

    levels: NDArray[np.int32]
    qp: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the tensor's shape."""
        return self.levels.shape

    def restore(self) -> FloatArray:
        """Return the values as float32."""
        return (self.levels * step_size(self.qp, QP_DENSITY)).astype(np.float32)


Parameter: TypeAlias = "NDArray[Any] | Decomposed | Scaled | Clustered | Levels"
Parameters: TypeAlias = dict[str, Parameter]


class Reduction(Protocol):
    """One pass over the parameters of a model."""

    def __call__(self, parameters: Mapping[str, Parameter]) -> Parameters:
        """Return the reduced parameters, in the same order."""
        ...


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which tensors a pass touches.

    Attributes:
        only: Patterns (``fnmatch``) of names; one has to match.
        skip: Patterns of names that are left alone.
    """

    only: tuple[str, ...] = ("*",)
    skip: tuple[str, ...] = ()

    def takes(self, name: str, parameter: Parameter) -> bool:
        """Tell whether it is a float array of two or more dimensions with elements, and selected by name."""
        return (
            isinstance(parameter, np.ndarray)
            and parameter.ndim > 1
            and parameter.size > 0
            and np.issubdtype(parameter.dtype, np.floating)
            and self.names(name)
        )

    def names(self, name: str) -> bool:
        """Tell whether the patterns select a name."""
        chosen = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.only)
        return chosen and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.skip)

    def weights(self, parameters: Mapping[str, Parameter]) -> dict[str, FloatArray]:
        """Return the selected arrays."""
        return {
            name: value
            for name, value in parameters.items()
            if isinstance(value, np.ndarray) and self.takes(name, value)
        }


def restore(parameters: Mapping[str, Parameter]) -> dict[str, NDArray[Any]]:
    """Return plain arrays: what a decoder gives if nothing is lost after the passes."""
    return {name: value if isinstance(value, np.ndarray) else value.restore() for name, value in parameters.items()}


def qp_at_least(step: float, density: int = QP_DENSITY) -> int:
    """Return the smallest QP whose step is at least a given one.

    Raises:
        ConfigError: The step is not positive and finite, or no QP is that coarse.
    """
    if not (step > 0 and math.isfinite(step)):
        raise ConfigError(f"a quantisation step of {step} is not possible", "use a positive one")
    mantissa, exponent = math.frexp(step)  # step = mantissa · 2^exponent, mantissa from 0.5 to below 1
    steps = 1 << density
    offset = math.ceil((2 * mantissa - 1) * steps)
    qp = ((exponent - 1) << density) + offset
    lowest, highest = qp_range(density)
    if qp > highest:
        raise ConfigError(
            f"a quantisation step of {step:g} is too coarse", f"scale the tensor; the largest QP is {highest}"
        )
    return max(qp, lowest)


def row_factors(factors: NDArray[Any], ndim: int) -> NDArray[Any]:
    """Return one factor a row in a shape that broadcasts over (rows, …)."""
    return factors.reshape((-1,) + (1,) * (ndim - 1))


def check_share(name: str, value: float) -> None:
    """Refuse a share outside of [0, 1].

    Raises:
        ConfigError: It is outside.
    """
    if not 0.0 <= value <= 1.0:
        raise ConfigError(f"{name} {value} is not possible", "use a share from 0 to 1")
