"""Passes that set weights to zero: single ones (sparsification) or whole output rows (structured pruning).

Zeros of single weights cost fewer bits because the significance flags become predictable; a zeroed row costs one flag,
because the stream skips it. Rows stay in place: removing them would change the shapes of the layers around them.

A small weight is not always an unimportant one, so scores can come from outside: gradients, |weight · gradient|, or the
relevance that an attribution method gives. The codec computes none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wattwerk.codec.reduce_types import FloatArray, Parameter, Parameters, Selection, check_share, row_factors
from wattwerk.errors import ConfigError

Scores: TypeAlias = "Mapping[str, NDArray[Any]] | Callable[[str, FloatArray], NDArray[Any]]"


class Sparsify(Selection, frozen=True, kw_only=True):
    """Set the share of weights with the smallest magnitudes to zero.

    Attributes:
        sparsity: Share of the weights that are zero afterwards, at least; those that already are count.
        scope: Whether each tensor gets this share, or all of them together, so that tensors of small weights get more.
    """

    sparsity: float
    scope: Literal["tensor", "model"] = "tensor"

    def __post_init__(self) -> None:
        """Check the share."""
        check_share("sparsity", self.sparsity)

    def __call__(self, parameters: Mapping[str, Parameter]) -> Parameters:
        """Return the parameters with zeros."""
        scores = {name: np.abs(weight) for name, weight in self.weights(parameters).items()}
        return _without_lowest(parameters, scores, self.sparsity, self.scope)


class SparsifyByScore(Selection, frozen=True, kw_only=True):
    """Set the share of weights with the lowest scores to zero.

    Attributes:
        sparsity: Share of the weights that are zero afterwards, at least.
        scores: Name -> scores in the tensor's shape, or a callable that returns them for a name and its weights. Their
            magnitude counts. Tensors without scores are left alone.
        times_weight: Multiply the scores by the weights first: gradients become first-order changes of the loss.
        scope: Each tensor by itself, or all together: scores of one loss are comparable between tensors.
    """

    sparsity: float
    scores: Any
    times_weight: bool = False
    scope: Literal["tensor", "model"] = "model"

    def __post_init__(self) -> None:
        """Check the share."""
        check_share("sparsity", self.sparsity)

    def __call__(self, parameters: Mapping[str, Parameter]) -> Parameters:
        """Return the parameters with zeros.

        Raises:
            ConfigError: Scores have another shape than their tensor, or are not finite.
        """
        scores = _scores(self.weights(parameters), self.scores, self.times_weight)
        return _without_lowest(parameters, scores, self.sparsity, self.scope)


class PruneRows(Selection, frozen=True, kw_only=True):
    """Set the output rows (filters, neurons) with the lowest scores to zero.

    Attributes:
        share: Share of each tensor's rows that become zero, rounded down.
        norm: What a row is judged by without scores: the sum of magnitudes, or the root of the sum of squares.
        scores: As for `SparsifyByScore`; a row is judged by the sum of its weights' scores. Without them: the norm.
        with_bias: Zero the same entries of ``<layer>.bias``, so that the neuron is silent and not constant.
        keep: Rows that stay in every tensor, whatever the share.
    """

    share: float
    norm: Literal["l1", "l2"] = "l2"
    scores: Any = None
    with_bias: bool = True
    keep: int = 1

    def __post_init__(self) -> None:
        """Check the share."""
        check_share("share", self.share)

    def __call__(self, parameters: Mapping[str, Parameter]) -> Parameters:
        """Return the parameters with zeroed rows.

        Raises:
            ConfigError: Scores have another shape than their tensor, or are not finite.
        """
        result = dict(parameters)
        for name, judged in self._judged(self.weights(parameters)).items():
            rows = _lowest_rows(judged, self.share, self.keep)
            for key in (name, _bias_of(name) if self.with_bias else name):
                value = result.get(key)
                if isinstance(value, np.ndarray) and len(value) == len(judged):
                    result[key] = value * row_factors(~rows, value.ndim).astype(value.dtype)
        return result

    def _judged(self, weights: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        if self.scores is not None:
            scores = _scores(weights, self.scores, times_weight=False)
            return {name: score.reshape(len(score), -1).sum(axis=1) for name, score in scores.items()}
        order = 1 if self.norm == "l1" else 2
        flat = {name: np.asarray(weight, np.float64).reshape(len(weight), -1) for name, weight in weights.items()}
        return {name: np.linalg.norm(weight, ord=order, axis=1) for name, weight in flat.items()}


def _bias_of(name: str) -> str:
    stem = name.removesuffix("weight")
    return f"{stem}bias" if stem != name else f"{name}.bias"


def _lowest_rows(judged: FloatArray, share: float, keep: int) -> NDArray[np.bool_]:
    count = max(0, min(int(share * len(judged)), len(judged) - keep))
    rows = np.zeros(len(judged), dtype=np.bool_)
    rows[np.argsort(judged, kind="stable")[:count]] = True
    return rows


def _scores(weights: Mapping[str, FloatArray], source: Scores, times_weight: bool) -> dict[str, FloatArray]:
    found = {}
    for name, weight in weights.items():
        if not callable(source) and name not in source:
            continue
        score = np.asarray(source(name, weight) if callable(source) else source[name], dtype=np.float64)
        if score.shape != weight.shape:
            raise ConfigError(
                f"scores of {name} have the shape {score.shape}, its weights {weight.shape}", "give one score a weight"
            )
        if not np.isfinite(score).all():
            raise ConfigError(f"scores of {name} are not all finite", "remove NaN and infinities")
        found[name] = np.abs(score * weight) if times_weight else np.abs(score)
    return found


def _without_lowest(
    parameters: Mapping[str, Parameter], scores: Mapping[str, FloatArray], share: float, scope: str
) -> Parameters:
    if not scores:
        return dict(parameters)
    if scope == "model":
        masks = _split(_lowest(np.concatenate([score.ravel() for score in scores.values()]), share), scores)
    else:
        masks = {name: _lowest(score.ravel(), share) for name, score in scores.items()}
    result = dict(parameters)
    for name, mask in masks.items():
        zeroed = np.array(parameters[name])
        zeroed[mask.reshape(zeroed.shape)] = 0
        result[name] = zeroed
    return result


def _lowest(scores: FloatArray, share: float) -> NDArray[np.bool_]:
    """Mark exactly ⌈share · n⌉ scores; among equal ones those that come first."""
    mask = np.zeros(scores.size, dtype=np.bool_)
    count = int(np.ceil(share * scores.size - 1e-9))
    if count == 0:
        return mask
    threshold = np.partition(scores, count - 1)[count - 1]
    mask[scores < threshold] = True
    ties = np.flatnonzero(scores == threshold)
    mask[ties[: count - int(mask.sum())]] = True
    return mask


def _split(mask: NDArray[np.bool_], scores: Mapping[str, FloatArray]) -> dict[str, NDArray[np.bool_]]:
    ends = np.cumsum([score.size for score in scores.values()])
    return dict(zip(scores, np.split(mask, ends[:-1]), strict=True))
