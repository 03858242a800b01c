"""Sensitivities measured with samples: each tensor is quantised alone, and the model's outputs are compared.

Few samples are noisy, and what a tensor does alone is not all that it does beside others. So the measurement is mixed
with the data-free rule, in the proportion that gives the least divergence at equal size on the samples
(benchmarks/codec_rate_allocation.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wattwerk.codec.allocate_sensitivity import (
    Arrays,
    Outputs,
    allocate,
    data_free,
    floats,
    probes,
    quantised,
    softmax_divergence,
    squared_error,
)
from wattwerk.codec.allocate_size import SizeModel

SMALLEST_DIVERGENCE = 1e-12  # below it, single precision has no more to say
TRUSTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # weights of the measurement that are tried
TRIALS = (-4.0, 0.0, 4.0)  # from the mean QP: a single quantisation is also a matter of luck
NOISE = 0.05  # how much less the logarithm of the divergence has to be than the rule alone gives; 0.5 % of the bytes

Divergence = Callable[[NDArray[Any], NDArray[Any]], float]


def calibrated(
    arrays: Arrays,
    outputs: Outputs,
    base: float,
    *,
    divergence: Divergence = softmax_divergence,
    trust: float | None = None,
    dependent: bool = True,
) -> dict[str, float]:
    """Measure the sensitivity of every float tensor.

    Each weight is quantised alone, and so are vectors of the same kind together if they are many. That takes one call
    of ``outputs`` for each, so as many as there are weights and some more; finding the trust takes fifteen.

    Args:
        arrays: The model.
        outputs: Runs the model with these arrays on the samples: logits (samples, classes).
        base: Mean QP to measure at; near the one that tensors will have, because the divergence is not linear.
        divergence: Of outputs (reference, other).
        trust: Weight of the measurement beside the data-free rule, in the logarithm; None takes the one that gives the
            least divergence on the samples at equal size.
        dependent: Measure with dependent quantisation.

    Raises:
        ConfigError: The outputs are not finite or change their shape.
    """
    rule, reference = data_free(arrays), outputs(arrays)

    def divergent(tensor_qp: Mapping[str, int]) -> tuple[float, Mapping[str, NDArray[Any]]]:
        noisy = quantised(arrays, tensor_qp, dependent=dependent)
        return max(divergence(reference, outputs(noisy)), SMALLEST_DIVERGENCE), noisy

    start = allocate(rule, arrays, base)
    found: dict[str, float] = {}
    for group in probes(arrays):
        moved, noisy = divergent({name: start[name] for name in group})
        error = sum(squared_error(arrays[name], noisy[name]) for name in group)
        if error > 0:
            found |= dict.fromkeys(group, moved / error)
    if trust is not None or not found:
        return _mixed(found, rule, arrays, trust or 0.0)
    sizes = SizeModel(arrays, dependent=dependent)
    values = sum(value.size for value in floats(arrays).values())

    def cost(trust: float) -> float:
        """Logarithm of the divergence at equal size: with each bit of a weight it falls to a quarter."""
        mixed = _mixed(found, rule, arrays, trust)
        qps = [allocate(mixed, arrays, base + trial) for trial in TRIALS]
        costs = [math.log(divergent(qp)[0]) + 2 * math.log(2) * 8 * sizes.bytes(qp) / values for qp in qps]
        return math.fsum(costs) / len(costs) + (NOISE if trust else 0.0)

    return _mixed(found, rule, arrays, min(TRUSTS, key=cost))


def _mixed(found: Mapping[str, float], rule: dict[str, float], arrays: Arrays, trust: float) -> dict[str, float]:
    """Mix measurement and rule geometrically, after bringing the rule to the measurement's scale."""
    if not found:
        return rule
    sizes = np.array([arrays[name].size for name in found], dtype=np.float64)
    offset = np.average([np.log(found[name] / rule[name]) for name in found], weights=sizes)
    scaled = {name: float(np.log(value) + offset) for name, value in rule.items()}
    logs = {name: trust * float(np.log(found[name])) + (1 - trust) * scaled[name] for name in found}
    return {name: float(np.exp(logs.get(name, scaled[name]))) for name in rule}
