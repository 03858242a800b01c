"""How much a tensor's quantisation error matters: divergence of a model's outputs for each unit of squared error.

The bits of a model are least at a given divergence if the step of a tensor of sensitivity s is proportional to 1 / √s:
each bit then buys the same. Twice the sensitivity means a QP lower by 2.

Without data, s = 1 / n for a tensor of n elements. It says that small tensors serve many places or lie where all passes
through. Of a dozen rules made of size, fan-in, norms and batch-norm statistics it was the best on three trained
networks, with 60 to 80 % of what measured sensitivities bring; on two others it took 11 and 22 % of the bytes away.
With data, each tensor is quantised alone and the outputs are compared (`allocate_calibration`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wattwerk.codec import _native
from wattwerk.codec.quantisation import fitting_qp, qp_range, step_size
from wattwerk.errors import ConfigError

QP_DENSITY = 2
MANY_VECTORS = 16  # above this number, vectors of the same kind (bias, running_var, …) are probed together
VECTOR_QP = -75  # of vectors in the reference encoder

Arrays = Mapping[str, NDArray[Any]]
Outputs = Callable[[Arrays], NDArray[Any]]


def data_free(arrays: Arrays) -> dict[str, float]:
    """Return the sensitivity of every float tensor, up to a common factor, from its size alone."""
    return {name: 1.0 / value.size for name, value in floats(arrays).items()}


def probes(arrays: Arrays) -> list[list[str]]:
    """Return what is quantised together in one probe: weights alone, many vectors by the end of their name."""
    weights = [name for name, value in floats(arrays).items() if value.ndim > 1]
    vectors = [name for name, value in floats(arrays).items() if value.ndim <= 1]
    if len(vectors) <= MANY_VECTORS:
        return [[name] for name in weights + vectors]
    kinds: dict[str, list[str]] = {}
    owners = {name.rpartition(".")[0] for name in weights}
    for name in vectors:
        layer, _, kind = name.rpartition(".")
        kinds.setdefault(f"{kind} {layer in owners}", []).append(name)
    return [[name] for name in weights] + list(kinds.values())


def floats(arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return the tensors that are quantised: float ones with elements.

    Raises:
        ConfigError: Something is no array, such as what a reduction pass made of one.
    """
    found = {}
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray):
            raise ConfigError(
                f"{name} is no array but {type(value).__name__}", "leave it out, or allocate before reducing"
            )
        if value.size and np.issubdtype(value.dtype, np.floating):
            found[name] = value
    return found


def quantised(arrays: Arrays, tensor_qp: Mapping[str, int], *, dependent: bool = True) -> dict[str, NDArray[Any]]:
    """Return what decoding gives if the named tensors are coded with these QPs; all others stay exact.

    Raises:
        ConfigError: A tensor has NaN or infinity.
    """
    result = dict(arrays)
    for name, qp in tensor_qp.items():
        result[name] = _quantised(name, arrays[name], qp, dependent)
    return result


def _quantised(name: str, value: NDArray[Any], qp: int, dependent: bool) -> NDArray[Any]:
    flat = np.ascontiguousarray(value, dtype=np.float32).reshape(-1)
    largest = float(np.abs(flat).max())
    if not np.isfinite(largest):
        raise ConfigError(f"{name} has NaN or infinity", "correct the model, or leave this tensor out")
    width = value.size // len(value) if value.ndim > 1 else 1
    step = step_size(fitting_qp(qp, QP_DENSITY, largest), QP_DENSITY)
    levels = _native.quantise(flat, width=width, step=step, dependent=dependent)
    return _native.dequantise(levels, step).reshape(value.shape).astype(value.dtype)


def squared_error(original: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the sum of squared differences."""
    return float(np.sum((np.asarray(original, np.float64) - other) ** 2))


def softmax_divergence(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the mean Kullback-Leibler divergence in nats of two batches of logits (samples, classes).

    Raises:
        ConfigError: Logits are not finite or the shapes differ.
    """
    p, q = _log_softmax(reference, reference.shape), _log_softmax(other, reference.shape)
    return float(np.mean(np.sum(np.exp(p) * (p - q), axis=-1)))


def sigmoid_divergence(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the mean Kullback-Leibler divergence in nats where every logit is a yes-or-no of its own.

    Raises:
        ConfigError: Logits are not finite or the shapes differ.
    """
    p, q = _checked(reference, reference.shape), _checked(other, reference.shape)
    yes = 1.0 / (1.0 + np.exp(-np.clip(p, -700, 700)))
    both = yes * (np.logaddexp(0, -q) - np.logaddexp(0, -p)) + (1 - yes) * (np.logaddexp(0, q) - np.logaddexp(0, p))
    return float(np.mean(np.sum(both, axis=-1)))


def _log_softmax(logits: NDArray[Any], shape: Iterable[int]) -> NDArray[np.float64]:
    values = _checked(logits, shape)
    values = values - values.max(axis=-1, keepdims=True)
    return values - np.log(np.sum(np.exp(values), axis=-1, keepdims=True))  # type: ignore[no-any-return]


def _checked(logits: NDArray[Any], shape: Iterable[int]) -> NDArray[np.float64]:
    values = np.asarray(logits, dtype=np.float64)
    if values.shape != tuple(shape) or values.ndim < 1:
        raise ConfigError(
            f"outputs have the shape {values.shape} instead of {tuple(shape)}", "return the same samples each time"
        )
    if not np.isfinite(values).all():
        raise ConfigError("outputs are not all finite", "return logits, not probabilities, and check the model")
    return values


def allocate(sensitivities: Mapping[str, float], arrays: Arrays, base: float) -> dict[str, int]:
    """Return a QP for every float tensor: base - 2 log2(sensitivity), rounded.

    Vectors of positive numbers, such as variances, may span orders of magnitude, and their smallest elements count as
    much as the largest: their step is at most a quarter of the smallest one, down to the reference's QP of -75.

    Args:
        sensitivities: Up to a common factor, by name.
        arrays: The model: the base is the mean QP over its elements before rounding and clipping.
        base: Mean QP.
    """
    names = list(floats(arrays))
    if not names:
        return {}
    logs = np.log2([sensitivities[name] for name in names])
    mean = np.average(logs, weights=[arrays[name].size for name in names])
    low, high = qp_range(QP_DENSITY)
    qps = np.clip(np.rint(base - 2 * (logs - mean)), low, high)
    return {name: min(int(qp), _finest_needed(arrays[name])) for name, qp in zip(names, qps, strict=True)}


def _finest_needed(value: NDArray[Any]) -> int:
    smallest = float(value.min())
    if value.ndim > 1 or smallest <= 0:
        return qp_range(QP_DENSITY)[1]
    return max(int(np.floor((1 << QP_DENSITY) * np.log2(smallest / 4))), VECTOR_QP)
