"""Processing with well-kept kernels: simplejpeg and OpenCV into memory that is kept, numpy over the whole batch."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from wattwerk.bench import processing_arrays as arrays
from wattwerk.bench.photos import REMEDY, Photo, pillow
from wattwerk.bench.processing_base import Floats, Placement, Processor, Result, Segments, map_dtype, nearest, place
from wattwerk.catalog.processing import Processing
from wattwerk.errors import UnavailableError

Bytes = npt.NDArray[np.uint8]


def opencv() -> Any:
    """Return OpenCV.

    Raises:
        UnavailableError: It is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UnavailableError("vectorised processing needs OpenCV, which is not installed", REMEDY) from error
    return cv2


def jpeg_decoder() -> Callable[..., Any]:
    """Return simplejpeg's decoder.

    Raises:
        UnavailableError: It is not installed.
    """
    try:
        import simplejpeg
    except ImportError as error:
        raise UnavailableError("vectorised processing needs simplejpeg, which is not installed", REMEDY) from error
    decoder: Callable[..., Any] = simplejpeg.decode_jpeg
    return decoder


def thread_count(asked: int | None) -> int:
    """Return how many threads may work at once: as many as the runtime was given, or else all that there are."""
    return asked or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


class Scratch(threading.local):
    """Memory that each thread keeps from photo to photo, by what it is for and its shape."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, tuple[int, ...]], npt.NDArray[Any]] = {}

    def get(self, purpose: str, *shape: int, dtype: type[Any] = np.uint8) -> npt.NDArray[Any]:
        """Return memory of a shape; what stood in it is still there."""
        found = self._kept.get((purpose, shape))
        if found is None:
            found = self._kept[purpose, shape] = np.empty(shape, dtype)
        return found


class Vectorised(Processor):
    """Photos in parallel on the threads of the CPU, outputs over the whole batch at once."""

    def __init__(self, facts: Processing, shape: tuple[int, ...], batch: int, threads: int) -> None:
        super().__init__(facts, shape, batch, threads)
        self._image, self._cv2, self._decode = pillow(), opencv(), jpeg_decoder()
        self._own_threads = self._cv2.getNumThreads()
        self._cv2.setNumThreads(1 if batch > 1 else threads)  # photos run in parallel already
        self._pool = ThreadPoolExecutor(threads, "photos") if threads > 1 and batch > 1 else None
        self._scratch = Scratch()
        mean, std = np.array(facts.mean, np.float64), np.array(facts.std, np.float64)
        self._scale = (1 / (255 * std)).astype(np.float32)
        self._shift = (-mean / std).astype(np.float32)
        self._staged: Floats | None = None
        self._work: dict[str, npt.NDArray[Any]] = {}

    def preprocess(self, photos: Sequence[Photo], out: Any) -> None:
        """Decode, resize and normalise photos straight into the input."""
        if self._pool is None:
            for index, photo in enumerate(photos):
                self._fill(photo, out[index])
        else:
            list(self._pool.map(self._fill, photos, out))

    def _fill(self, photo: Photo, out: Floats) -> None:
        """Make the input (3, height, width) of one photo."""
        where = place(photo, self.facts, self.height, self.width)
        pixels = self._decode(photo.data, buffer=self._scratch.get("decoded", photo.height, photo.width, 3))
        rows = slice(where.top, where.top + where.used_height)
        columns = slice(where.left, where.left + where.used_width)
        self._put(pixels, where, out[:, rows, columns])
        if self.facts.resize == "letterbox":
            self._fill_borders(out, rows, columns)

    def _put(self, pixels: Bytes, where: Placement, out: Floats) -> None:
        """Put the part of the resized photo that the input shows into it.

        OpenCV's bilinear filter is Pillow's where it enlarges. It has no antialiased one that is Pillow's where it
        shrinks, and another cubic one, so there it is Pillow's own, of the visible part only. What is enlarged is
        normalised before, when it is small.
        """
        height, width, _ = pixels.shape
        whole = (where.used_height, where.used_width) == (where.height, where.width)
        if where.height < height or where.width < width or self.facts.filter != "bilinear":
            self._normalise(self._by_pillow(pixels, where), out)
            return
        planes = self._scratch.get("normalised", 3, height, width, dtype=np.float32)
        self._normalise(pixels, planes)
        for channel, plane in enumerate(planes):
            target = out[channel] if whole else self._scratch.get("all", where.height, where.width, dtype=np.float32)
            self._cv2.resize(plane, (where.width, where.height), dst=target, interpolation=self._cv2.INTER_LINEAR)
            if not whole:
                rows, columns = slice(where.skip_y, None), slice(where.skip_x, None)
                out[channel] = target[rows, columns][: where.used_height, : where.used_width]

    def _by_pillow(self, pixels: Bytes, where: Placement) -> Bytes:
        height, width, _ = pixels.shape
        scale_x, scale_y = width / where.width, height / where.height
        right, bottom = where.skip_x + where.used_width, where.skip_y + where.used_height
        box = (where.skip_x * scale_x, where.skip_y * scale_y, right * scale_x, bottom * scale_y)
        filter_ = getattr(self._image.Resampling, self.facts.filter.upper())
        picture = self._image.fromarray(pixels).resize((where.used_width, where.used_height), filter_, box)
        return np.asarray(picture)

    def _normalise(self, pixels: Bytes, out: Floats) -> None:
        """Turn bytes (height, width, 3) into numbers (3, height, width)."""
        height, width, _ = pixels.shape
        planes = [self._scratch.get(f"plane {channel}", height, width) for channel in range(3)]
        self._cv2.split(pixels, planes)
        for channel, plane in enumerate(planes):
            np.copyto(out[channel], plane)  # quicker than to multiply bytes
            np.multiply(out[channel], self._scale[channel], out=out[channel])
            np.add(out[channel], self._shift[channel], out=out[channel])

    def _fill_borders(self, out: Floats, rows: slice, columns: slice) -> None:
        for channel in range(3):
            grey = self.facts.fill * self._scale[channel] + self._shift[channel]
            out[channel, : rows.start] = out[channel, rows.stop :] = grey
            out[channel, :, : columns.start] = out[channel, :, columns.stop :] = grey

    def stage(self, photos: Sequence[Photo]) -> None:
        """Make the whole input, in memory of its own."""
        if self._staged is None:
            self._staged = np.empty((self.batch, 3, self.height, self.width), np.float32)
        self.preprocess(photos, self._staged)

    def unload(self, out: Any) -> None:
        """Copy what was staged into the input."""
        assert self._staged is not None
        np.copyto(out, self._staged)

    def postprocess(self, outputs: Sequence[Any], photos: Sequence[Photo]) -> list[Result]:
        """Turn the outputs of the whole batch into results."""
        if self.facts.layout == "logits":
            return list(arrays.tops(outputs[0], self.facts.top_count, self._work))
        if self.facts.layout == "map":
            return self._maps(outputs[0], photos)
        return list(arrays.detections(outputs, photos, self.facts, (self.height, self.width), self._work))

    def _maps(self, logits: Floats, photos: Sequence[Photo]) -> list[Result]:
        """Return the label of each pixel of each photo, images in parallel."""

        def one(pair: tuple[Floats, Photo]) -> Segments:
            labels = arrays.labels_of_map(pair[0], map_dtype(self.facts))
            columns = nearest(labels.shape[1], pair[1].width)
            # columns first: the map is small, and then whole rows are copied
            return Segments(labels.take(columns, axis=1).take(nearest(labels.shape[0], pair[1].height), axis=0))

        pairs = zip(logits, photos, strict=True)
        return list(map(one, pairs) if self._pool is None else self._pool.map(one, pairs))

    def close(self) -> None:
        """End the threads and give OpenCV its own number of threads back."""
        if self._pool is not None:
            self._pool.shutdown()
        self._cv2.setNumThreads(self._own_threads)
