"""What is true of a data set's photos, in the numbers of one model; every mistake in it is found before measuring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from wattwerk.bench.dataset import TASKS, Dataset, annotations_of
from wattwerk.bench.photos import pillow
from wattwerk.catalog.classes import Classes, classes_of
from wattwerk.catalog.models import CatalogModel
from wattwerk.catalog.processing import Processing
from wattwerk.errors import ConfigError, WattwerkError

#: Value of a mask that says nothing; the usual one of PASCAL VOC, Cityscapes and ADE20K.
IGNORED: Final = 255


class Truth(msgspec.Struct, frozen=True):
    """What is true of the photos of a data set, for one model.

    Attributes:
        labels: Of a classification: the label of each photo.
        masks: Of a segmentation: the file of each photo's labels.
        content: Of a detection: the annotations, with the model's labels as categories.
        images: Of a detection: the id of each photo in the annotations.
    """

    labels: tuple[int, ...] = ()
    masks: tuple[Path, ...] = ()
    content: dict[str, Any] | None = None
    images: tuple[int, ...] = ()

    @property
    def known(self) -> bool:
        """Whether anything is."""
        return bool(self.labels or self.masks or self.content is not None)


def truth_of(dataset: Dataset, facts: Processing, model: CatalogModel) -> Truth:
    """Return what is true of the photos in the model's own labels.

    Raises:
        ConfigError: The data set is one for another task, or has classes that the model does not have.
    """
    if dataset.layout == "plain":
        return Truth()
    if TASKS[dataset.layout] != facts.task:
        raise ConfigError(
            f"{dataset.reference} is a data set of {TASKS[dataset.layout]}, {model.name} is a model of {facts.task}",
            "give a data set of its task, or a folder of photos without labels",
        )
    try:
        if dataset.layout == "coco":
            return _boxes(dataset, facts)
        if dataset.layout == "masks":
            return _masks(dataset, facts)
        words = [item.truth for item in dataset.items]
        labels = _labels(dict.fromkeys(words), classes_of(facts))
        return Truth(labels=tuple(labels[word] for word in words))
    except WattwerkError as error:
        raise type(error)(f"{dataset.reference} for {model.name}: {error.message}", error.remedy) from error


def _labels(words: dict[str, None], classes: Classes) -> dict[str, int]:
    return {word: classes.label(word) for word in words}


def _masks(dataset: Dataset, facts: Processing) -> Truth:
    paths = tuple(Path(item.truth) for item in dataset.items)
    for path in paths:
        values = np.unique(read_mask(path))
        beyond = values[(values >= facts.labels_count) & (values != IGNORED)]
        if len(beyond):
            raise ConfigError(
                f"{path} has the label {beyond[0]}, the model has 0 to {facts.labels_count - 1}",
                f"write the model's labels, and {IGNORED} where nothing is known",
            )
    return Truth(masks=paths)


def read_mask(path: Path) -> npt.NDArray[np.int64]:
    """Return the label of each pixel, int64 ``(height, width)``.

    Raises:
        ConfigError: The file is no picture of indices.
    """
    try:
        with pillow().open(path) as opened:
            if opened.mode not in ("L", "P", "I;16", "I"):
                raise ConfigError(
                    f"{path} has colours ({opened.mode}), no labels", "write a PNG of one channel, or with a palette"
                )
            return np.array(opened).astype(np.int64)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the mask {path} ({error})", "write it as PNG") from error


def _boxes(dataset: Dataset, facts: Processing) -> Truth:
    assert dataset.annotations is not None
    content = annotations_of(dataset.annotations)
    images = tuple(int(item.truth) for item in dataset.items)
    there = set(images)
    labels = _category_labels(content["categories"], facts)
    boxes = [box for box in content["annotations"] if int(box["image_id"]) in there]
    if unknown := sorted({int(box["category_id"]) for box in boxes} - set(labels)):
        raise ConfigError(
            f"{dataset.annotations} has boxes of the category {unknown[0]}, which it does not list", "correct it"
        )
    return Truth(
        content={
            "images": [image for image in content["images"] if int(image["id"]) in there],
            "categories": [{"id": label, "name": str(label)} for label in sorted(set(labels.values()))],
            "annotations": [_box(box, number, labels) for number, box in enumerate(boxes, start=1)],
        },
        images=images,
    )


def _box(box: dict[str, Any], number: int, labels: dict[int, int]) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": int(box["image_id"]),
        "category_id": labels[int(box["category_id"])],
        "bbox": [float(side) for side in box["bbox"]],
        "area": float(box.get("area", box["bbox"][2] * box["bbox"][3])),
        "iscrowd": int(box.get("iscrowd", 0)),
    }


def _category_labels(categories: Sequence[dict[str, Any]], facts: Processing) -> dict[int, int]:
    """Return category -> the model's label: by name where the model's are known, else in the order of the ids.

    Raises:
        ConfigError: A name is unknown, or there are more categories than labels.
    """
    if facts.classes:
        classes = classes_of(facts)
        return {int(each["id"]): classes.label(str(each["name"])) for each in categories}
    numbers = sorted(int(each["id"]) for each in categories)
    if len(numbers) != facts.labels_count:
        raise ConfigError(
            f"there are {len(numbers)} categories and the model has {facts.labels_count} labels",
            "say what its labels are called, under `classes` in its .processing.toml (docs/accuracy.md)",
        )
    return {number: label for label, number in enumerate(numbers)}
