"""Processing as people write it first: Pillow, one photo after the other, loops over queries, places and boxes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from wattwerk.bench.photos import Photo, pillow
from wattwerk.bench.processing_base import (
    Detections,
    Floats,
    Placement,
    Processor,
    Result,
    Segments,
    Top,
    boxes_and_scores,
    map_dtype,
    place,
)

Box = tuple[float, float, float, float]
#: score, place in the output, label, box in pixels of the photo
Found = tuple[float, int, int, Box]

_NO_AREA: Final = 1e-9


class Sequential(Processor):
    """One photo after the other, on one thread of the CPU."""

    def preprocess(self, photos: Sequence[Photo], out: Any) -> None:
        """Decode, resize, crop and normalise each photo, and stack them at the end."""
        np.stack([self._input_of(photo) for photo in photos], out=out)

    def _input_of(self, photo: Photo) -> Floats:
        image = pillow()
        where = place(photo, self.facts, self.height, self.width)
        filter_ = {"bilinear": image.Resampling.BILINEAR, "bicubic": image.Resampling.BICUBIC}[self.facts.filter]
        with image.open(io.BytesIO(photo.data)) as opened:
            picture = opened.convert("RGB").resize((where.width, where.height), filter_)
        if self.facts.resize == "crop":
            picture = picture.crop((where.skip_x, where.skip_y, where.skip_x + self.width, where.skip_y + self.height))
        if self.facts.resize == "letterbox":
            canvas = image.new("RGB", (self.width, self.height), (self.facts.fill,) * 3)
            canvas.paste(picture, (where.left, where.top))
            picture = canvas
        mean, std = np.array(self.facts.mean, np.float32), np.array(self.facts.std, np.float32)
        pixels: Floats = (np.asarray(picture, dtype=np.float32) / 255.0 - mean) / std
        return pixels.transpose(2, 0, 1)

    def postprocess(self, outputs: Sequence[Any], photos: Sequence[Photo]) -> list[Result]:
        """Turn the outputs of one image after the other into results."""
        layout = self.facts.layout
        if layout == "logits":
            return [self._top(logits) for logits in outputs[0]]
        if layout == "map":
            return [self._segments(logits, photo) for logits, photo in zip(outputs[0], photos, strict=True)]
        if layout == "queries":
            return [self._queries(*each) for each in zip(*outputs, photos, strict=True)]
        return [self._places(*each) for each in zip(*boxes_and_scores(outputs), photos, strict=True)]

    def _top(self, logits: Floats) -> Top:
        chances = _softmax(logits)
        order = np.argsort(-chances, kind="stable")[: self.facts.top_count]
        return Top(order.astype(np.int64), chances[order])

    def _segments(self, logits: Floats, photo: Photo) -> Segments:
        image = pillow()
        labels = logits.argmax(axis=0).astype(np.uint8 if self.facts.labels_count <= 256 else np.int32)
        resized = image.fromarray(labels).resize((photo.width, photo.height), image.Resampling.NEAREST)
        return Segments(np.array(resized).astype(map_dtype(self.facts)))

    def _queries(self, logits: Floats, boxes: Floats, photo: Photo) -> Detections:
        found: list[Found] = []
        for index in range(len(logits)):
            chances = _softmax(logits[index])[:-1]  # the last one means that there is no object
            label = int(chances.argmax())
            if chances[label] > self.facts.score_least_ratio:
                x, y, width, height = (float(value) for value in boxes[index])
                box = _corners(x, y, width, height)
                box = (box[0] * photo.width, box[1] * photo.height, box[2] * photo.width, box[3] * photo.height)
                found.append((float(chances[label]), index, label, box))
        return self._told(found, photo)

    def _places(self, boxes: Floats, scores: Floats, photo: Photo) -> Detections:
        where = place(photo, self.facts, self.height, self.width)
        found: list[Found] = []
        for index in range(scores.shape[1]):
            label = int(scores[:, index].argmax())
            score = float(scores[label, index])
            if score > self.facts.score_least_ratio:
                found.append((score, index, label, _corners(*(float(value) for value in boxes[:, index]))))
        found.sort(key=lambda one: (-one[0], one[1]))
        kept: list[Found] = []
        for one in found:
            rivals = (other for other in kept if other[2] == one[2])
            if all(overlap(one[3], other[3]) <= self.facts.overlap_most_ratio for other in rivals):
                kept.append(one)
        return self._told([(*one[:3], _back(one[3], where, photo)) for one in kept], photo)

    def _told(self, found: list[Found], photo: Photo) -> Detections:
        found = sorted(found, key=lambda one: (-one[0], one[1]))[: self.facts.detections_most_count]
        limits = (photo.width, photo.height, photo.width, photo.height)
        boxes = [[min(max(v, 0.0), limit) for v, limit in zip(one[3], limits, strict=True)] for one in found]
        return Detections(
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array([one[0] for one in found], np.float32),
            np.array([one[2] for one in found], np.int64),
        )


def overlap(first: Box, second: Box) -> float:
    """Return the intersection of two boxes over their union."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / max(areas[0] + areas[1] - shared, _NO_AREA)


def _corners(x: float, y: float, width: float, height: float) -> Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _back(box: Box, where: Placement, photo: Photo) -> Box:
    """Return a box of the input as one of the photo."""
    scale_x, scale_y = photo.width / where.width, photo.height / where.height
    left, top = (box[0] - where.left) * scale_x, (box[1] - where.top) * scale_y
    return left, top, (box[2] - where.left) * scale_x, (box[3] - where.top) * scale_y


def _softmax(logits: Floats) -> Floats:
    powers: Floats = np.exp(logits - logits.max())
    chances: Floats = powers / powers.sum()
    return chances
