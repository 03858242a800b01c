"""Arrays of every kind that the tests of the codec share."""

from __future__ import annotations

from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


def weights(seed: int = 0) -> Arrays:
    """Return a small model: float32 weights and biases, with rows of zeros, and a counter."""
    rng = np.random.default_rng(seed)
    convolution = rng.normal(0, 0.05, (24, 5, 3, 3)).astype(np.float32)
    convolution[7] = 0
    return {
        "conv.weight": convolution,
        "conv.bias": rng.normal(0, 0.1, 24).astype(np.float32),
        "linear.weight": rng.normal(0, 0.1, (33, 50)).astype(np.float32),
        "column": rng.normal(0, 1, (40, 1)).astype(np.float32),
        "row": rng.normal(0, 1, (1, 40)).astype(np.float32),
        "größe.β": rng.normal(0, 1, (2, 3)).astype(np.float32),
        "zeros": np.zeros((16, 16), np.float32),
        "steps": np.array(1234, np.int64),
    }


def every_type() -> Arrays:
    """Return one tensor for each way to travel: types, ranges, no dimensions, no elements, NaN."""
    rng = np.random.default_rng(1)
    integers = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64)
    arrays: Arrays = {f"limits of {np.dtype(t).name}": _limits(t) for t in integers}
    arrays |= {f"small {np.dtype(t).name}": np.arange(24, dtype=t).reshape(2, 3, 4) for t in integers}
    arrays |= {
        "truth": rng.random((5, 7)) < 0.5,
        "half": rng.normal(0, 1, (4, 9)).astype(np.float16),
        "half limits": np.array([65504, -65504, 6e-8, 0], np.float16),
        "double": rng.normal(0, 1, (4, 9)),
        "double beyond float32": np.array([1e300, -1e-300, 0.1]),
        "scalar": np.array(0.5, np.float32),
        "scalar truth": np.array(True),
        "nothing": np.zeros((0, 3), np.float64),
        "nothing at all": np.zeros((0,), np.uint8),
        "not finite": np.array([[np.nan, np.inf], [-np.inf, -0.0]], np.float32),
        "not finite half": np.array([np.nan, 1], np.float16),
        "": np.array([1, 2], np.float32),
        "big endian": np.array([1.5, -2.5], ">f4"),
        "transposed": rng.normal(0, 1, (9, 4)).astype(np.float32).T,
    }
    return arrays


def _limits(dtype: type[Any]) -> np.ndarray[Any, Any]:
    info = np.iinfo(dtype)
    return np.array([info.min, info.max, 0, 1], dtype)


def is_exact(name: str, array: np.ndarray[Any, Any]) -> bool:
    """Whether a tensor of `every_type` travels without any loss."""
    return array.dtype.kind in "iub" or "finite" in name or "beyond" in name or array.size == 0
