"""Figures of accuracy: top-k here, the others by pycocotools' successor and scikit-learn; each says its bounds if any.

A share of photos has the bounds of Wilson's interval. Means over classes have none: photos, not classes, are drawn, and
an interval by resampling would take longer than the model.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from wattwerk.bench.accuracy_truth import IGNORED
from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.records import Figure, measured, unavailable

REMEDY: Final = 'pip install "wattwerk[accuracy]"'
_CONFIDENCE: Final = 0.95
_DETECTIONS_COUNT: Final = 100  # of a photo, as COCO's rules have it
_BOX: Final = 4


class Boxes(NamedTuple):
    """Detections of one photo: boxes float32 ``(n, 4)`` as corners in pixels, scores ``(n,)``, labels ``(n,)``."""

    corners: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


def share(hits: int, count: int, note: str | None = None) -> Figure:
    """Return a share of photos with the bounds of Wilson's interval.

    Raises:
        UnavailableError: SciPy is missing.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927) 209–212.
    """
    try:
        from scipy.stats import binomtest
    except ImportError as error:
        raise UnavailableError("the interval of a share needs SciPy, which is not installed", REMEDY) from error
    bounds = binomtest(hits, count).proportion_ci(_CONFIDENCE, method="wilson")
    return measured(hits / count, float(bounds.low), float(bounds.high), note=note)


def top_share(tops: Sequence[npt.NDArray[np.int64]], labels: Sequence[int], count: int) -> Figure:
    """Return the share of photos whose label is among the likeliest ``count``."""
    hits = sum(label in top[:count] for top, label in zip(tops, labels, strict=True))
    return share(hits, len(labels))


def mean_precision(content: dict[str, Any], images: Sequence[int], found: Sequence[Boxes]) -> tuple[Figure, Figure]:
    """Return COCO's mean average precision over IoU 0.5 to 0.95, and that at 0.5.

    Args:
        content: The truth as COCO annotations; its categories are the model's labels.
        images: The id of each photo.
        found: What was detected on each.

    Raises:
        UnavailableError: faster-coco-eval is missing.

    Source: COCO detection evaluation, metrics AP and AP at IoU 0.50, 100 detections a photo, all areas.
    """
    if not content["annotations"]:
        return (nothing := unavailable("there is no box to be found in these photos")), nothing
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise UnavailableError("mAP needs faster-coco-eval, which is not installed", REMEDY) from error
    rows = [row for image, boxes in zip(images, found, strict=True) for row in _rows(image, boxes)]
    if not rows:
        return (zero := measured(0.0, note="nothing was detected")), zero
    with contextlib.redirect_stdout(io.StringIO()):  # it would tell what it does
        truth = COCO(content)
        evaluation = COCOeval_faster(truth, truth.loadRes(rows), "bbox")
        evaluation.run()
    return measured(float(evaluation.stats[0])), measured(float(evaluation.stats[1]))


def _rows(image: int, boxes: Boxes) -> Iterable[dict[str, Any]]:
    order = np.argsort(-boxes.scores, kind="stable")[:_DETECTIONS_COUNT]
    for index in order:
        left, top, right, bottom = (float(side) for side in boxes.corners[index])
        yield {
            "image_id": image,
            "category_id": int(boxes.labels[index]),
            "bbox": [left, top, right - left, bottom - top],
            "score": float(boxes.scores[index]),
        }


def as_annotations(images: Sequence[int], found: Sequence[Boxes], least: float, labels: int) -> dict[str, Any]:
    """Return detections as if they were the truth: those that score more than a threshold.

    Args:
        images: The id of each photo.
        found: What was detected on each.
        least: The score that a detection has to have more than.
        labels: Labels of the model.
    """
    kept = [
        row for image, boxes in zip(images, found, strict=True) for row in _rows(image, boxes) if row["score"] > least
    ]
    return {
        "images": [{"id": image} for image in images],
        "categories": [{"id": label, "name": str(label)} for label in range(labels)],
        "annotations": [
            {**row, "id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
            for number, row in enumerate(kept, start=1)
        ],
    }


class Overlap:
    """How far maps of labels cover each other, photo by photo.

    Args:
        labels: Labels of the model.
    """

    def __init__(self, labels: int) -> None:
        self._labels = labels
        self._pairs = np.zeros((labels, labels), np.int64)

    def add(self, truth: npt.NDArray[Any], found: npt.NDArray[Any], name: str) -> None:
        """Count the pixels of one photo.

        Args:
            truth: The label of each pixel, ``(height, width)``; ``IGNORED`` says nothing.
            found: Likewise.
            name: The photo, for the error.

        Raises:
            ConfigError: The two are of different sizes.
        """
        if truth.shape != found.shape:
            raise ConfigError(
                f"the mask of {name} has {truth.shape[1]} × {truth.shape[0]} pixels, the photo "
                f"{found.shape[1]} × {found.shape[0]}",
                "give masks of the photos' size",
            )
        known = truth != IGNORED
        index = truth[known].astype(np.int64) * self._labels + found[known]
        self._pairs += np.bincount(index, minlength=self._labels**2).reshape(self._pairs.shape)

    def mean(self) -> Figure:
        """Return the mean over the labels that occur of intersection over union, all pixels of all photos together.

        Raises:
            UnavailableError: scikit-learn is missing.
        """
        try:
            from sklearn.metrics import jaccard_score
        except ImportError as error:
            raise UnavailableError("mIoU needs scikit-learn, which is not installed", REMEDY) from error
        truth, found = np.nonzero(self._pairs)
        if not len(truth):
            return unavailable("no pixel of these photos has a label")
        # pairs of labels with their number of pixels instead of millions of pixels one by one
        weights = self._pairs[truth, found]
        return measured(float(jaccard_score(truth, found, average="macro", sample_weight=weights)))
