"""Quantisation parameters (QP) and step sizes.

A QP counts steps on a logarithmic scale: with the density d there are 2^d of them for each doubling of the step size.
Source: ISO/IEC 15938-17, clause on the quantisation step size.
"""

from __future__ import annotations

import math

LARGEST_LEVEL = (1 << 31) - 1024  # leaves room for rounding and for the trellis


def step_size(qp: int, density: int) -> float:
    """Return the step size that a QP stands for.

    Raises:
        OverflowError: It is larger than any float.
    """
    per_octave = 1 << density
    return math.ldexp(per_octave + (qp & (per_octave - 1)), (qp >> density) - density)


def qp_range(density: int) -> tuple[int, int]:
    """Return the smallest and the largest QP that a tensor can have."""
    half = 1 << (5 + density)
    return -half, half - 1


def fitting_qp(qp: int, density: int, largest: float) -> int:
    """Return the QP, or the smallest larger one with which the largest value still has a 32-bit level.

    Args:
        qp: The QP that is asked for.
        density: Its density.
        largest: Largest absolute value of the tensor.

    Raises:
        OverflowError: No QP is large enough.
    """
    if largest / step_size(qp, density) <= LARGEST_LEVEL:
        return qp
    per_octave = 1 << density
    smallest_step = largest / LARGEST_LEVEL
    octave = math.floor(math.log2(smallest_step))
    fitting = math.ceil(octave * per_octave + smallest_step * per_octave / math.ldexp(1.0, octave) - per_octave)
    if fitting > qp_range(density)[1]:
        raise OverflowError(f"no QP of density {density} is large enough for the value {largest:g}")
    return fitting
