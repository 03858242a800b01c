"""Low-rank decomposition: a weight as the product of two smaller matrices, where that saves parameters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wattwerk.codec.reduce_types import Decomposed, FloatArray, Parameter, Parameters, Selection, check_share
from wattwerk.errors import ConfigError


class Decompose(Selection, frozen=True, kw_only=True):
    """Replace weights W (rows, …) by G · H of a lower rank (truncated singular value decomposition).

    The truncation is the best approximation of its rank in the sense of squared error (Eckart-Young). G and H share the
    singular values evenly, so that both have the same norm and one quantisation step suits both.

    Attributes:
        energy: Share of the squared norm that has to stay; the rank follows. Give this or ``size``.
        size: Share of the parameters that G and H may have together; the rank follows.
        saving: A tensor is decomposed only if this share of its parameters falls away.
    """

    energy: float | None = None
    size: float | None = None
    saving: float = 0.1

    def __post_init__(self) -> None:
        """Check that one of the two criteria is given, and that it is a share."""
        if (self.energy is None) == (self.size is None):
            raise ConfigError("the rank follows from either the energy or the size", "give one of energy and size")
        check_share("energy", 1.0 if self.energy is None else self.energy)
        check_share("size", 1.0 if self.size is None else self.size)
        check_share("saving", self.saving)

    def __call__(self, parameters: Mapping[str, Parameter]) -> Parameters:
        """Return the parameters, some of them as `Decomposed`."""
        result = dict(parameters)
        for name, weight in self.weights(parameters).items():
            rows, columns = len(weight), weight.size // len(weight)
            if min(rows, columns) > 1 and self._largest_rank(rows, columns) > 0:
                result[name] = self._decompose(weight)
        return result

    def _largest_rank(self, rows: int, columns: int) -> int:
        """Return the largest rank that still saves the asked-for share."""
        return int((1.0 - self.saving) * rows * columns / (rows + columns))

    def _decompose(self, weight: FloatArray) -> Parameter:
        matrix = np.asarray(weight, dtype=np.float64).reshape(len(weight), -1)
        u, s, v = np.linalg.svd(matrix, full_matrices=False)
        rank = self._rank(s, *matrix.shape)
        if rank > self._largest_rank(*matrix.shape):
            return weight
        root = np.sqrt(s[:rank])
        return Decomposed(
            g=np.ascontiguousarray((u[:, :rank] * root).astype(weight.dtype)),
            h=np.ascontiguousarray((root[:, None] * v[:rank]).astype(weight.dtype)),
            shape=weight.shape,
        )

    def _rank(self, singular: FloatArray, rows: int, columns: int) -> int:
        if self.size is not None:
            return max(1, int(self.size * rows * columns / (rows + columns)))
        kept = np.cumsum(singular**2)
        if kept[-1] == 0.0:
            return 1
        # the last sum is the whole; searching below it by an ulp or two keeps energy 1 from going past the end
        return int(np.searchsorted(kept, float(self.energy or 0.0) * kept[-1] * (1 - 1e-12))) + 1
