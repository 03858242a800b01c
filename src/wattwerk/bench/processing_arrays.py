"""Post-processing over a whole batch in numpy: top labels, DETR's queries, YOLO's places, suppression, maps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from wattwerk.bench.photos import Photo
from wattwerk.bench.processing_base import Detections, Floats, Top, boxes_and_scores, place
from wattwerk.catalog.processing import Processing

Doubles = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Work = dict[str, npt.NDArray[Any]]

_NO_AREA = 1e-9


def _kept(work: Work, name: str, like: Floats) -> Floats:
    """Return memory of the shape of an array, the same one in every call."""
    found = work.get(name)
    if found is None or found.shape != like.shape:
        found = work[name] = np.empty_like(like, dtype=np.float32)
    return found


def _powers(logits: Floats, work: Work) -> Floats:
    """Return e to the logits over the last axis, each row relative to its largest, in memory that is kept."""
    powers = _kept(work, "powers", logits)
    np.subtract(logits, logits.max(axis=-1, keepdims=True), out=powers)
    return np.exp(powers, out=powers)


def tops(logits: Floats, count: int, work: Work) -> list[Top]:
    """Return the likeliest labels of logits (batch, labels), equal ones in the order of the labels."""
    count = min(count, logits.shape[1])
    powers = _powers(logits, work)
    sums = powers.sum(axis=1, keepdims=True)
    limit = -np.partition(-powers, count - 1, axis=1)[:, count - 1 : count]
    rows, labels = np.nonzero(powers >= limit)  # more than count where labels tie
    order = np.lexsort((labels, -powers[rows, labels], rows))
    rows, labels = rows[order], labels[order]
    starts = np.searchsorted(rows, np.arange(len(logits)))
    return [
        Top(labels[start : start + count], powers[index, labels[start : start + count]] / sums[index])
        for index, start in enumerate(starts)
    ]


def labels_of_map(logits: Floats, dtype: type[Any]) -> npt.NDArray[Any]:
    """Return the largest label of each pixel of logits (labels, height, width); the lowest one of equal ones.

    A running maximum reads the logits once, in the order in which they lie; numpy's argmax over the first axis jumps.
    """
    best = np.array(logits[0])
    labels = np.zeros(best.shape, dtype)
    better = np.empty(best.shape, np.bool_)
    for label in range(1, len(logits)):
        np.greater(logits[label], best, out=better)
        np.copyto(best, logits[label], where=better)
        labels[better] = label
    return labels


def detections(
    outputs: Sequence[Any], photos: Sequence[Photo], facts: Processing, size: tuple[int, int], work: Work
) -> list[Detections]:
    """Return the detections of a batch, in pixels of the photos.

    Args:
        outputs: As ``Processing.layout`` says.
        photos: The photos.
        facts: What the model gives.
        size: Height and width of the input.
        work: Memory that is kept from call to call.
    """
    if facts.layout == "queries":
        images, boxes, scores, labels = queries(outputs[0], outputs[1], facts.score_least_ratio, work)
    else:
        all_boxes, all_scores = boxes_and_scores(outputs)
        images, boxes, scores, labels = places(all_boxes, all_scores, facts.score_least_ratio, work)
    return finished(images, boxes, scores, labels, photos, facts, size)


def finished(
    images: Whole, boxes: Doubles, scores: Floats, labels: Whole,
    photos: Sequence[Photo], facts: Processing, size: tuple[int, int],
) -> list[Detections]:  # fmt: skip
    """Suppress boxes that overlap, turn the rest into pixels of the photos, and part them by photo.

    Args:
        images: The photo of each candidate, int64 ``(n,)``, ascending.
        boxes: Its corners, float64 ``(n, 4)``: in [0, 1] of ``queries``, in pixels of the input of ``places``.
        scores: Its score, float32 ``(n,)``.
        labels: Its label, int64 ``(n,)``.
        photos: The photos.
        facts: What the model gives.
        size: Height and width of the input.
    """
    order = np.lexsort((-scores, images))  # stable: of equal scores the one that came first goes first
    if facts.layout == "places":
        groups = images[order] * facts.labels_count + labels[order]
        order = order[suppressed(boxes[order], groups, facts.overlap_most_ratio)]
    images = images[order]
    moved = _in_photos(boxes[order], images, photos, facts, size)
    starts = np.searchsorted(images, np.arange(len(photos) + 1))
    told = [order[a : min(b, a + facts.detections_most_count)] for a, b in pairwise(starts)]
    return [
        Detections(moved[start : start + len(mine)], scores[mine], labels[mine])
        for start, mine in zip(starts, told, strict=False)
    ]


def queries(logits: Floats, boxes: Floats, least: float, work: Work) -> tuple[Whole, Doubles, Floats, Whole]:
    """Return what DETR found: image, corners in [0, 1], score and label of each query that scores more than ``least``.

    Args:
        logits: float32 ``(batch, queries, labels + 1)``; the last label is "no object".
        boxes: float32 ``(batch, queries, 4)``: centre and size.
        least: The threshold.
        work: Memory that is kept from call to call.
    """
    powers = _powers(logits, work)
    labels = powers[..., :-1].argmax(axis=-1)
    scores = np.take_along_axis(powers, labels[..., None], -1)[..., 0] / powers.sum(axis=-1)
    images, index = np.nonzero(scores > least)
    return images, corners(boxes[images, index]), scores[images, index], labels[images, index]


def places(boxes: Floats, scores: Floats, least: float, work: Work) -> tuple[Whole, Doubles, Floats, Whole]:
    """Return what YOLO found: image, corners in pixels, score and label of each place that scores more than ``least``.

    Args:
        boxes: float32 ``(batch, 4, places)``: centre and size.
        scores: float32 ``(batch, labels, places)``.
        least: The threshold.
        work: Memory that is kept from call to call.
    """
    best = _kept(work, "best", scores[:, 0])
    np.max(scores, axis=1, out=best)
    images, index = np.nonzero(best > least)
    labels = scores[images, :, index].argmax(axis=1)  # of the few that are left
    return images, corners(boxes[images, :, index]), best[images, index], labels


def corners(boxes: Floats) -> Doubles:
    """Return left, top, right, bottom of centres and sizes ``(n, 4)``, in double precision as a Python loop has."""
    centre, half = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64) / 2
    return np.concatenate((centre - half, centre + half), axis=1)


def suppressed(boxes: Doubles, groups: Whole, most: float) -> Whole:
    """Return the places of the boxes that stay: of two of a group that overlap too much, only the one that comes first.

    All groups at once: each round keeps the first box left in every group and drops what overlaps it, so that there are
    as many rounds as the largest group keeps boxes, whatever the number of photos and labels.

    Args:
        boxes: Corners, float64 ``(n, 4)``, the highest score of a group first.
        groups: The group of each box, int64 ``(n,)``: photo and label.
        most: Overlap (intersection over union) up to which both stay.

    Returns:
        int64 ``(kept,)``, ascending.
    """
    left = np.argsort(groups, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[Whole] = []
    while left.size:
        begins = np.concatenate(([True], np.diff(groups[left]) != 0))
        first = left[begins][np.cumsum(begins) - 1]  # the first of the group that each one belongs to
        kept.append(left[begins])
        left = left[~begins & (_overlaps(boxes, areas, left, first) <= most)]
    return np.sort(np.concatenate(kept)) if kept else np.empty(0, np.int64)


def _overlaps(boxes: Doubles, areas: Doubles, some: Whole, others: Whole) -> Doubles:
    """Return the intersection over union of pairs of boxes."""
    a, b = boxes[some], boxes[others]
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.maximum(sides, 0.0).prod(axis=1)
    ratios: Doubles = shared / np.maximum(areas[some] + areas[others] - shared, _NO_AREA)
    return ratios


def _in_photos(
    boxes: Doubles, images: Whole, photos: Sequence[Photo], facts: Processing, size: tuple[int, int]
) -> Floats:
    """Turn corners into pixels of the photos, and cut off what lies outside."""
    sizes = np.array([photo[2:] for photo in photos], np.float64)  # width, height
    if facts.layout == "queries":
        moved = boxes * np.tile(sizes, 2)[images]
    else:
        where = [place(photo, facts, *size) for photo in photos]
        begin = np.tile(np.array([(each.left, each.top) for each in where], np.float64), 2)
        scale = np.tile(sizes / np.array([(each.width, each.height) for each in where], np.float64), 2)
        moved = (boxes - begin[images]) * scale[images]
    return np.clip(moved, 0.0, np.tile(sizes, 2)[images]).astype(np.float32)
