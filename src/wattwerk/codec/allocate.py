"""Rate allocation: which QP each tensor gets, so that a model takes the fewest bytes for its quality.

Three questions, one answer (`Allocation`), whose ``tensor_qp`` is an option of `wattwerk.codec.pack`:

- `for_quality`: near-lossless, balanced or small;
- `for_size`: the best that fits into so many bytes;
- `for_accuracy`: the smallest that loses no more than so much of what an evaluation function returns.

All three vary one number, the mean QP, while the differences between tensors come from sensitivities
(`allocate_sensitivity`): from the tensors' sizes by default, measured where a callable that runs the model
on samples is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from wattwerk.codec.allocate_calibration import calibrated
from wattwerk.codec.allocate_sensitivity import (
    QP_DENSITY,
    Arrays,
    Outputs,
    allocate,
    data_free,
    floats,
    quantised,
    softmax_divergence,
)
from wattwerk.codec.allocate_size import SizeModel
from wattwerk.codec.quantisation import qp_range
from wattwerk.errors import ConfigError

Quality = Literal["near-lossless", "balanced", "small"]

# log2 of root mean square over step, averaged over all weights: what is left of each weight in bits
BITS_OF_QUALITY: Mapping[Quality, float] = {"near-lossless": 6.0, "balanced": 4.5, "small": 3.0}
# mean Kullback-Leibler divergence from the original's outputs in nats
DIVERGENCE_OF_QUALITY: Mapping[Quality, float] = {"near-lossless": 0.001, "balanced": 0.01, "small": 0.1}

CLOSE_ENOUGH = 0.995  # of the target size: the search ends
FILLED = 0.9  # of the bytes left over are spent, since what is spent is an estimate

Pack = Callable[[Mapping[str, int]], int]
"""Packs with these QPs by name and returns the bytes."""


class Allocation(msgspec.Struct, frozen=True):
    """QPs for all tensors.

    Attributes:
        tensor_qp: By name, for the option of the same name; at density 2.
        base: Their mean over all elements, before rounding.
        size_bytes: What the packer gave, or an estimate.
        packed: Whether the size comes from the packer.
        divergence: From the original's outputs, where it was measured.
        score: What the evaluation function gave, where there was one.
    """

    tensor_qp: dict[str, int]
    base: float
    size_bytes: int
    packed: bool = False
    divergence: float | None = None
    score: float | None = None


class Calibration(msgspec.Struct, frozen=True):
    """How to judge a model by samples.

    Attributes:
        outputs: Runs the model with given arrays on the samples and returns logits (samples, classes). The codec brings
            no runtime: this is where PyTorch or ONNX Runtime come in.
        divergence: Of two outputs (reference, other), in nats.
        trust: Weight of the measurement beside the data-free rule; None takes the best on the samples.
    """

    outputs: Outputs
    divergence: Callable[[NDArray[Any], NDArray[Any]], float] = softmax_divergence
    trust: float | None = None


def for_quality(
    arrays: Arrays, quality: Quality, *, calibration: Calibration | None = None, dependent: bool = True
) -> Allocation:
    """Allocate for a named quality.

    Without samples the quality is a signal-to-step ratio of the weights; with samples it is a divergence from the
    original's outputs: 0.001, 0.01 and 0.1 nats.

    Raises:
        ConfigError: The quality has another name, or the model cannot be quantised.
    """
    if quality not in BITS_OF_QUALITY:
        raise ConfigError(f"unknown quality {quality!r}", f"use one of {', '.join(BITS_OF_QUALITY)}")
    start = _start(arrays, BITS_OF_QUALITY[quality])
    search = _Search(arrays, start, calibration, dependent)
    if calibration is None:
        return search.allocation(start)
    limit = DIVERGENCE_OF_QUALITY[quality]
    reference = calibration.outputs(arrays)

    def good(base: float) -> bool:
        return search.divergence(base, reference) <= limit

    base = _coarsest(good, start)
    return msgspec.structs.replace(search.allocation(base), divergence=search.divergence(base, reference))


def for_size(
    arrays: Arrays,
    target_bytes: int,
    *,
    pack: Pack | None = None,
    calibration: Calibration | None = None,
    dependent: bool = True,
    most_packs: int = 6,
) -> Allocation:
    """Allocate so that the model fits into a number of bytes, as near below it as ``most_packs`` tries allow.

    Args:
        arrays: The model.
        target_bytes: Size of the whole stream.
        pack: Packs with given QPs; without it, the size is an estimate.
        calibration: Samples, for measured sensitivities.
        dependent: Dependent quantisation.
        most_packs: Calls of ``pack`` while the mean QP is searched for, which ends earlier within half a percent of the
            target; one more fills the rest.

    Raises:
        ConfigError: Even the coarsest quantisation is too large.
    """
    if most_packs < 1:
        raise ConfigError(f"{most_packs} packings are not possible", "use 1 or more")
    draft = _Search(arrays, _start(arrays, BITS_OF_QUALITY["balanced"]), None, dependent)
    start = draft.base_for(target_bytes)
    search = draft if calibration is None else _Search(arrays, start, calibration, dependent)
    if pack is None:
        found = search.allocation(search.base_for(target_bytes))
        return _fits(found, target_bytes)
    return _fits(search.packed(pack, target_bytes, most_packs), target_bytes)


def for_accuracy(
    arrays: Arrays,
    max_loss: float,
    evaluate: Callable[[Arrays], float],
    *,
    calibration: Calibration | None = None,
    dependent: bool = True,
) -> Allocation:
    """Allocate for the smallest size that costs at most so much accuracy.

    ``evaluate`` is called about ten times, with the arrays that decoding would give. Accuracy need not fall evenly, so
    what is returned was itself evaluated.

    Args:
        arrays: The model.
        max_loss: How much smaller the score may be than the original's, in the score's unit.
        evaluate: Returns the score of a model, larger being better.
        calibration: Samples, for measured sensitivities.
        dependent: Dependent quantisation.

    Raises:
        ConfigError: ``max_loss`` is negative, or no quantisation keeps the accuracy.
    """
    if max_loss < 0:
        raise ConfigError(f"a largest loss of {max_loss} is not possible", "use 0 or more")
    start = _start(arrays, BITS_OF_QUALITY["balanced"])
    search = _Search(arrays, start, calibration, dependent)
    floor = evaluate(arrays) - max_loss
    scores: dict[float, float] = {}

    def good(base: float) -> bool:
        scores[base] = evaluate(search.decoded(base))
        return scores[base] >= floor

    base = _coarsest(good, start)
    return msgspec.structs.replace(search.allocation(base), score=scores[base])


class _Search:
    """One model's sizes and errors as functions of the mean QP."""

    def __init__(self, arrays: Arrays, start: float, calibration: Calibration | None, dependent: bool) -> None:
        self._arrays, self._dependent, self._calibration = arrays, dependent, calibration
        self._sensitivities = data_free(arrays)
        self._sizes = SizeModel(arrays, dependent=dependent)
        if calibration is not None:
            self._sensitivities = calibrated(
                arrays,
                calibration.outputs,
                start,
                divergence=calibration.divergence,
                trust=calibration.trust,
                dependent=dependent,
            )

    def qps(self, base: float) -> dict[str, int]:
        return allocate(self._sensitivities, self._arrays, base)

    def size(self, base: float) -> float:
        return self._sizes.bytes(self.qps(base))

    def allocation(self, base: float) -> Allocation:
        return Allocation(tensor_qp=self.qps(base), base=base, size_bytes=round(self.size(base)))

    def decoded(self, base: float) -> dict[str, NDArray[Any]]:
        return quantised(self._arrays, self.qps(base), dependent=self._dependent)

    def divergence(self, base: float, reference: NDArray[Any]) -> float:
        assert self._calibration is not None
        return self._calibration.divergence(reference, self._calibration.outputs(self.decoded(base)))

    def base_for(self, target_bytes: float) -> float:
        """Return the finest mean QP whose estimated size fits."""
        low, high = qp_range(QP_DENSITY)
        return _bisect(lambda base: self.size(base) <= target_bytes, float(high), float(low), 0.05)

    def packed(self, pack: Pack, target_bytes: int, tries: int) -> Allocation:
        """Return the largest packing that fits, or the smallest one if none does."""
        tried: list[Allocation] = []
        base = self.base_for(target_bytes)
        for _ in range(tries):
            qps = self.qps(base)
            if any(qps == each.tensor_qp for each in tried):
                break
            tried.append(Allocation(tensor_qp=qps, base=base, size_bytes=pack(qps), packed=True))
            if CLOSE_ENOUGH * target_bytes <= tried[-1].size_bytes <= target_bytes:
                break
            base = self._next(tried, target_bytes)
        fitting = [each for each in tried if each.size_bytes <= target_bytes]
        if not fitting:
            return min(tried, key=_size)
        best = max(fitting, key=_size)
        return best if best.size_bytes >= CLOSE_ENOUGH * target_bytes else self._fill(best, pack, target_bytes)

    def _fill(self, fitting: Allocation, pack: Pack, target_bytes: int) -> Allocation:
        """Spend what a fitting allocation leaves: some tensors, the largest first, get a QP less as long as it fits.

        Tensors of one size change their QPs together and a large one changes much, so the mean QP alone leaves gaps.
        """
        qps = dict(fitting.tensor_qp)
        left = (target_bytes - fitting.size_bytes) * FILLED
        lowest = qp_range(QP_DENSITY)[0]
        gains = {
            name: self._sizes.tensor_bytes(name, qp - 1) - self._sizes.tensor_bytes(name, qp)
            for name, qp in qps.items()
        }
        for name in sorted(qps, key=lambda name: -gains[name]):
            if gains[name] <= left and qps[name] > lowest:
                qps[name] -= 1
                left -= max(gains[name], 0.0)
        filled = msgspec.structs.replace(fitting, tensor_qp=qps, size_bytes=pack(qps))
        return filled if fitting.size_bytes < filled.size_bytes <= target_bytes else fitting

    def _next(self, tried: list[Allocation], target_bytes: int) -> float:
        """Return the base to try next: between two tries if they enclose the target, else by the corrected estimate."""
        above = [each for each in tried if each.size_bytes > target_bytes]
        below = [each for each in tried if each.size_bytes <= target_bytes]
        if above and below:
            fine, coarse = min(above, key=_size), max(below, key=_size)
            logs = np.log([coarse.size_bytes, target_bytes * (1 + CLOSE_ENOUGH) / 2, fine.size_bytes])
            share = float(np.clip((logs[1] - logs[0]) / (logs[2] - logs[0]), 0.1, 0.9))
            return coarse.base + share * (fine.base - coarse.base)
        last = tried[-1]
        return self.base_for(target_bytes * self.size(last.base) / last.size_bytes * (1 + CLOSE_ENOUGH) / 2)


def _size(allocation: Allocation) -> int:
    return allocation.size_bytes


def _fits(found: Allocation, target_bytes: int) -> Allocation:
    if found.size_bytes > target_bytes:
        raise ConfigError(
            f"the model does not fit into {target_bytes} bytes (the smallest found are {found.size_bytes})",
            "allow more bytes, or reduce the model first",
        )
    return found


def _start(arrays: Arrays, bits: float) -> float:
    """Return the mean QP at which a weight's root mean square is 2^bits steps, in the mean of the logarithms."""
    sizes, logs = [], []
    for value in floats(arrays).values():
        square = float(np.mean(np.square(value, dtype=np.float64)))
        if square > 0:
            sizes.append(value.size)
            logs.append(0.5 * np.log2(square))
    low, high = qp_range(QP_DENSITY)
    mean = float(np.average(logs, weights=sizes)) if sizes else 0.0
    return float(np.clip((mean - bits) * (1 << QP_DENSITY), low, high))


def _coarsest(good: Callable[[float], bool], start: float, tolerance: float = 0.5) -> float:
    """Return the largest base found that is good, from strides of two octaves around a start and then halving.

    Raises:
        ConfigError: Not even the finest one is good.
    """
    low, high = qp_range(QP_DENSITY)
    stride = 2.0 * (1 << QP_DENSITY)
    base = start
    if good(base):
        while base < high and good(min(base + stride, high)):
            base = min(base + stride, float(high))
        return base if base >= high else _bisect(good, base, min(base + stride, float(high)), tolerance)
    while base > low:
        base = max(base - stride, float(low))
        if good(base):
            return _bisect(good, base, min(base + stride, start), tolerance)
    raise ConfigError("no quantisation is fine enough", "allow a larger loss")


def _bisect(good: Callable[[float], bool], inside: float, outside: float, tolerance: float) -> float:
    """Return the last good point on the way from ``inside``, taken as good, to ``outside``."""
    while abs(outside - inside) > tolerance:
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if good(middle) else (inside, middle)
    return inside
