"""How many bytes a model will take at given QPs, without packing it: entropies of a sample of each tensor's levels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from wattwerk.codec.allocate_sensitivity import QP_DENSITY, Arrays, floats
from wattwerk.codec.quantisation import step_size

SAMPLE = 1 << 15  # values of a tensor that are looked at; enough for a tenth of a bit and a search that takes no time
HEADER_BYTES = 24  # of a data unit, beside the tensor's name
UNIFORM_BITS = (0.0, 0.7, 1.24, 1.94, 2.8, 3.4, 4.4, 6.4)  # entropy of uniform quantisation with the same step
DEPENDENT_FACTORS = (1.0, 1.14, 1.30, 1.44, 1.58, 1.70, 1.84, 1.88)
SMALLEST_BITS = 0.01  # of a weight where all levels are zero: what an adaptive coder comes down to


class SizeModel:
    """Estimates of a model's packed size.

    Entropies are computed once for each tensor and QP and kept. Dependent quantisation offers at each place only half
    of the levels, so a weight takes the bits of a coarser step: nearly twice as coarse where there are many levels, the
    same where nearly all are zero. The factors between were measured with the coder on normal and Laplace values.

    Args:
        arrays: The model.
        dependent: Dependent quantisation.
    """

    def __init__(self, arrays: Arrays, *, dependent: bool = True) -> None:
        self._arrays = floats(arrays)
        self._samples = {name: _sample(value) for name, value in self._arrays.items()}
        self._dependent = dependent
        others = sum(value.nbytes for name, value in arrays.items() if name not in self._arrays)
        self._fixed = others + sum(HEADER_BYTES + len(name.encode()) for name in arrays)
        self._bits: dict[tuple[str, int], float] = {}

    def bytes(self, tensor_qp: Mapping[str, int]) -> float:
        """Return the estimated size of the stream with these QPs by name."""
        return self._fixed + sum(self.tensor_bytes(name, tensor_qp[name]) for name in self._arrays)

    def tensor_bytes(self, name: str, qp: int) -> float:
        """Return the estimated payload of a tensor."""
        key = name, qp
        if key not in self._bits:
            sample, step = self._samples[name], step_size(qp, QP_DENSITY)
            bits = _bits_of_a_value(sample, step)
            if self._dependent:
                bits = _bits_of_a_value(sample, step * float(np.interp(bits, UNIFORM_BITS, DEPENDENT_FACTORS)))
            self._bits[key] = bits
        return self._bits[key] * self._arrays[name].size / 8


def _sample(value: NDArray[np.floating]) -> NDArray[np.float64]:
    flat = value.reshape(-1)
    return np.asarray(flat[:: max(1, flat.size // SAMPLE)], dtype=np.float64)


def _bits_of_a_value(sample: NDArray[np.float64], step: float) -> float:
    """Return the entropy of a sample's levels in bits a value.

    Where levels are so many that most occur once, a histogram knows less than the coder pays: there the entropy grows
    by one bit with each halving of the step, from the finest step that the sample still resolves.
    """
    spread = float(np.sqrt(np.mean(np.square(sample))))
    resolved = spread * 16 / max(len(sample), 1) ** 0.5
    coarse = max(step, resolved)
    if coarse <= 0:
        return SMALLEST_BITS
    counts = np.unique(np.rint(sample / coarse), return_counts=True)[1]
    share = counts / counts.sum()
    bits = float(-(share * np.log2(share)).sum())
    # Miller and Madow: a histogram of few values underestimates the entropy by about half a bit a level over the sample
    bits += (len(counts) - 1) / (2 * len(sample) * np.log(2))
    return float(max(bits + np.log2(coarse / step), SMALLEST_BITS))
