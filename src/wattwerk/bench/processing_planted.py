"""Objects put into the outputs of a detector with seeded weights, which would find nothing and leave nothing to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from wattwerk.bench.processing_base import boxes_and_scores
from wattwerk.catalog.processing import Processing

#: Objects of an image: the mean of the photos of COCO.
#: Source: Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014, section 5.1 (7.7 instances an image).
OBJECTS_COUNT: Final = 8
#: Neighbouring places that see the same object, so that suppression has work to do.
_ECHOES_COUNT: Final = 9


def planted(outputs: Sequence[Any], facts: Processing, shape: tuple[int, ...], seed: int) -> list[Any]:
    """Return copies of a detector's outputs with ``OBJECTS_COUNT`` objects in each image.

    Args:
        outputs: As ``Processing.layout`` says, numpy arrays or torch tensors; they stay as they are.
        facts: What the model gives.
        shape: The input of one sample.
        seed: The seed.

    Returns:
        Arrays or tensors like the outputs, on the same device.
    """
    arrays = [np.array(_on_host(output), np.float32) for output in outputs]
    stream = np.random.default_rng(seed)
    (_queries if facts.layout == "queries" else _places)(arrays, facts, shape, stream)
    return [_like(array, output) for array, output in zip(arrays, outputs, strict=True)]


def _on_host(output: Any) -> Any:
    return output if isinstance(output, np.ndarray) else output.detach().float().cpu().numpy()


def _like(array: Any, output: Any) -> Any:
    return array if isinstance(output, np.ndarray) else output.new_tensor(array)


def _queries(arrays: list[Any], facts: Processing, _: tuple[int, ...], stream: np.random.Generator) -> None:
    logits, boxes = arrays
    for image in range(len(logits)):
        chosen = stream.choice(logits.shape[1], min(OBJECTS_COUNT, logits.shape[1]), replace=False)
        # 8 above all others is a score of more than 0.9 among some hundred labels
        labels = stream.integers(0, facts.labels_count, len(chosen))
        logits[image, chosen, labels] = logits[image, chosen].max(axis=-1) + 8 + stream.random(len(chosen))
        boxes[image, chosen, 2:] = stream.uniform(0.05, 0.5, (len(chosen), 2))
        boxes[image, chosen, :2] = stream.uniform(0.25, 0.75, (len(chosen), 2))


def _places(arrays: list[Any], facts: Processing, shape: tuple[int, ...], stream: np.random.Generator) -> None:
    boxes, scores = boxes_and_scores(arrays)
    size = np.array([shape[2], shape[1]])
    count = scores.shape[2]
    echoes = min(_ECHOES_COUNT, max(1, count // OBJECTS_COUNT))
    for image in range(len(scores)):
        chosen = stream.choice(count, OBJECTS_COUNT * echoes, replace=count < OBJECTS_COUNT)
        for places in chosen.reshape(OBJECTS_COUNT, echoes):
            centre, extent = stream.uniform(0.2, 0.8, 2) * size, stream.uniform(0.1, 0.4, 2) * size
            shift = stream.normal(0, 0.05, (echoes, 2)) * extent
            boxes[image, :, places] = np.concatenate((centre + shift, np.tile(extent, (echoes, 1))), axis=1)
            scores[image, stream.integers(0, facts.labels_count), places] = stream.uniform(0.3, 0.95, echoes)
