"""What all ways of processing photos share: where a photo lies in the input, what a result is, and the interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from wattwerk.bench.photos import Photo, pillow
from wattwerk.catalog.processing import Processing

Floats = npt.NDArray[np.float32]

#: What a pixel may differ by between two ways, in levels of 255: every resize rounds to whole levels, once an axis.
TOLERANCE_LEVELS: Final = 1.01


class Top(NamedTuple):
    """Result of a classification: the likeliest labels int64 ``(k,)`` and their probabilities float32 ``(k,)``."""

    labels: npt.NDArray[np.int64]
    scores: Floats


class Detections(NamedTuple):
    """Result of a detection, the highest score first.

    Attributes:
        boxes: float32 ``(n, 4)``: left, top, right, bottom in pixels of the photo.
        scores: float32 ``(n,)``.
        labels: int64 ``(n,)``.
    """

    boxes: Floats
    scores: Floats
    labels: npt.NDArray[np.int64]


class Segments(NamedTuple):
    """Result of a segmentation: the label of each pixel of the photo, uint8 or int16 ``(height, width)``."""

    labels: npt.NDArray[Any]


Result = Top | Detections | Segments


class Placement(NamedTuple):
    """Where a photo lies in the input.

    Attributes:
        width: Of the whole photo after the resize, in pixels.
        height: Likewise.
        skip_x: Columns of it that a crop leaves out on the left.
        skip_y: Rows of it that a crop leaves out above.
        left: Where it begins in the input.
        top: Likewise.
        used_width: Columns of it that are in the input.
        used_height: Rows, likewise.
    """

    width: int
    height: int
    skip_x: int
    skip_y: int
    left: int
    top: int
    used_width: int
    used_height: int


def place(photo: Photo, facts: Processing, height: int, width: int) -> Placement:
    """Return where a photo lies in an input of a height and width."""
    if facts.resize == "crop":
        short = facts.short_side or max(height, width)
        scale = short / min(photo.width, photo.height)
        wide, high = (short if side == min(photo[2:]) else int(side * scale) for side in photo[2:])
        return Placement(wide, high, (wide - width) // 2, (high - height) // 2, 0, 0, width, height)
    if facts.resize == "stretch":
        return Placement(width, height, 0, 0, 0, 0, width, height)
    scale = min(width / photo.width, height / photo.height)
    wide, high = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    return Placement(wide, high, 0, 0, (width - wide) // 2, (height - high) // 2, wide, high)


class Processor(ABC):
    """One way of making inputs of photos and results of outputs.

    Args:
        facts: What the model wants and gives.
        shape: The input of one sample: ``(3, height, width)``.
        batch: Photos in one iteration.
        threads: Threads that may work at once.

    Attributes:
        takes_tensors: Whether it works on torch tensors, where the runtime shares such; else on numpy arrays.
    """

    takes_tensors: ClassVar[bool] = False

    def __init__(self, facts: Processing, shape: tuple[int, ...], batch: int, threads: int) -> None:
        self.facts, self.batch, self.threads = facts, batch, threads
        _, self.height, self.width = shape

    @property
    def place(self) -> str:
        """Where it works: ``cpu``, or a device."""
        return "cpu"

    @abstractmethod
    def preprocess(self, photos: Sequence[Photo], out: Any) -> None:
        """Decode, resize and normalise photos.

        Args:
            photos: As many as the batch has.
            out: float32 ``(batch, 3, height, width)``: a numpy array, or a torch tensor on its device.
        """

    @abstractmethod
    def postprocess(self, outputs: Sequence[Any], photos: Sequence[Photo]) -> list[Result]:
        """Turn the model's outputs into one result for each photo.

        Args:
            outputs: In the order of the model; numpy arrays, or torch tensors.
            photos: The photos that they belong to.
        """

    def stage(self, photos: Sequence[Photo]) -> None:
        """Do the part of ``preprocess`` that needs no device, into memory of its own, for ``unload``."""
        raise NotImplementedError

    def unload(self, out: Any) -> None:
        """Do the rest of ``preprocess`` with what was staged last."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027 - most have nothing to release
        """Release threads."""


def boxes_and_scores(outputs: Sequence[Any]) -> tuple[Any, Any]:
    """Return boxes (batch, 4, places) and scores (batch, labels, places), whether they come as two outputs or one."""
    if len(outputs) == 2:
        return outputs[0], outputs[1]
    return outputs[0][:, :4], outputs[0][:, 4:]


@lru_cache(maxsize=1024)
def nearest(before: int, after: int) -> npt.NDArray[np.int32]:
    """Return for each pixel of an axis which one it is before a resize to the nearest, int32 ``(after,)``.

    Pillow itself is asked: where a centre falls between two pixels, its rounding decides.
    """
    image = pillow()
    ramp = image.fromarray(np.arange(before, dtype=np.int32)[None])
    taken: npt.NDArray[np.int32] = np.array(ramp.resize((after, 1), image.Resampling.NEAREST), np.int32)
    return taken.reshape(after)


def map_dtype(facts: Processing) -> type[Any]:
    """Return the smallest dtype that holds all labels of a map."""
    return np.uint8 if facts.labels_count <= 256 else np.int16
