"""Processing on the GPU that runs the model: photos go up as bytes, and only results come down."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from wattwerk.bench import processing_arrays as arrays
from wattwerk.bench.photos import Photo, pillow
from wattwerk.bench.processing_base import Processor, Result, Segments, Top, boxes_and_scores, map_dtype, nearest, place
from wattwerk.catalog.processing import Processing


class OnDevice(Processor):
    """Decode on the threads of the CPU; resize, normalise and post-process in torch on a device.

    It needs neither OpenCV nor torchvision. Photos are decoded by simplejpeg where it is installed, else by Pillow.

    Args:
        facts: What the model wants and gives.
        shape: The input of one sample.
        batch: Photos in one iteration.
        threads: Threads that decode.
        device: As torch names it.
    """

    takes_tensors: ClassVar[bool] = True

    def __init__(self, facts: Processing, shape: tuple[int, ...], batch: int, threads: int, device: str) -> None:
        import torch

        super().__init__(facts, shape, batch, threads)
        self._torch, self._device = torch, torch.device(device)
        self._pool = ThreadPoolExecutor(threads, "photos") if threads > 1 and batch > 1 else None
        self._decode = _decoder()
        mean, std = np.array(facts.mean), np.array(facts.std)
        self._scale = self._column(1 / (255 * std))
        self._shift = self._column(-mean / std)
        self._staged: tuple[list[int], list[Photo]] = ([], [])
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def _column(self, values: npt.NDArray[np.float64]) -> Any:
        return self._torch.tensor(values, dtype=self._torch.float32, device=self._device).reshape(3, 1, 1)

    @property
    def place(self) -> str:
        """The device."""
        return str(self._device)

    def stage(self, photos: Sequence[Photo]) -> None:
        """Decode photos one behind the other into pinned memory, those of a size side by side."""
        order = sorted(range(len(photos)), key=lambda index: photos[index][2:])
        sorted_photos = [photos[index] for index in order]
        sizes = [photo.width * photo.height * 3 for photo in sorted_photos]
        ends = np.cumsum(sizes)
        if self._bytes.numel() < ends[-1]:
            pinned = self._device.type == "cuda"
            self._bytes = self._torch.empty(int(ends[-1]), dtype=self._torch.uint8, pin_memory=pinned)
        whole = self._bytes.numpy()
        targets = [whole[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        list((self._pool.map if self._pool else map)(self._decode, sorted_photos, targets))
        self._staged = order, sorted_photos

    def unload(self, out: Any) -> None:
        """Send the bytes up, resize and normalise them there, and wait until that is done."""
        order, photos = self._staged
        with self._torch.inference_mode():
            used = sum(photo.width * photo.height * 3 for photo in photos)
            pixels = self._bytes[:used].to(self._device, non_blocking=True)
            begin = position = 0
            while position < len(photos):
                count = sum(photo[2:] == photos[position][2:] for photo in photos[position:])
                length = count * photos[position].width * photos[position].height * 3
                self._fill(pixels[begin : begin + length], photos[position], order[position : position + count], out)
                begin, position = begin + length, position + count
        self._wait()

    def preprocess(self, photos: Sequence[Photo], out: Any) -> None:
        """Decode here, and do the rest on the device."""
        self.stage(photos)
        self.unload(out)

    def _fill(self, pixels: Any, photo: Photo, positions: list[int], out: Any) -> None:
        """Make the inputs of photos of one size."""
        where = place(photo, self.facts, self.height, self.width)
        images = pixels.reshape(len(positions), photo.height, photo.width, 3).permute(0, 3, 1, 2).float()
        # Pillow ends at 0 and 255 after each axis, which only a cubic filter goes beyond
        steps = [(where.height, where.width)]
        for size in [(photo.height, where.width), *steps] if self.facts.filter == "bicubic" else steps:
            images = self._torch.nn.functional.interpolate(
                images, size=size, mode=self.facts.filter, antialias=True, align_corners=False
            ).clamp_(0, 255)
        rows, columns = (
            slice(where.top, where.top + where.used_height),
            slice(where.left, where.left + where.used_width),
        )
        shown = images[
            :, :, where.skip_y : where.skip_y + where.used_height, where.skip_x : where.skip_x + where.used_width
        ]
        ready = shown.round_().mul_(self._scale).add_(self._shift)
        if self.facts.resize == "letterbox":
            out[positions] = (self.facts.fill * self._scale + self._shift).to(out.dtype)
        if positions == list(range(positions[0], positions[0] + len(positions))):
            out[positions[0] : positions[0] + len(positions), :, rows, columns] = ready.to(out.dtype)
            return
        for position, image in zip(positions, ready, strict=True):
            out[position, :, rows, columns] = image.to(out.dtype)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.synchronize(self._device)

    def postprocess(self, outputs: Sequence[Any], photos: Sequence[Photo]) -> list[Result]:
        """Turn outputs on the device into results; labels and scores are chosen there, a few boxes come down."""
        with self._torch.inference_mode():
            if self.facts.layout == "logits":
                return self._tops(outputs[0])
            if self.facts.layout == "map":
                return self._maps(outputs[0], photos)
            found = self._queries(*outputs) if self.facts.layout == "queries" else self._places(outputs)
            return list(arrays.finished(*found, photos, self.facts, (self.height, self.width)))

    def _tops(self, logits: Any) -> list[Result]:
        chances = logits.float().softmax(dim=1)
        scores, labels = (each.cpu().numpy() for each in chances.topk(min(self.facts.top_count, chances.shape[1])))
        return [Top(*each) for each in zip(labels, scores, strict=True)]

    def _maps(self, logits: Any, photos: Sequence[Photo]) -> list[Result]:
        kind = self._torch.uint8 if self.facts.labels_count <= 256 else self._torch.int16
        labels = logits.argmax(dim=1).to(kind)
        found = []
        for image, photo in zip(labels, photos, strict=True):
            sides = zip(image.shape, (photo.height, photo.width), strict=True)
            rows, columns = (self._torch.from_numpy(nearest(*each)).to(self._device) for each in sides)
            found.append(image[:, columns][rows])
        return [Segments(each.cpu().numpy().astype(map_dtype(self.facts), copy=False)) for each in found]

    def _queries(self, logits: Any, boxes: Any) -> tuple[Any, Any, Any, Any]:
        scores, labels = logits.float().softmax(dim=-1)[..., :-1].max(dim=-1)
        packed = self._torch.cat((boxes.float(), scores[..., None], labels[..., None].float()), dim=-1)
        down = packed.cpu().numpy()  # once for all: whatever asks for a number waits for the device
        images, index = np.nonzero(down[..., 4] > self.facts.score_least_ratio)
        return _apart(images, down[images, index])

    def _places(self, outputs: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
        boxes, scores = boxes_and_scores(outputs)
        best, labels = scores.float().max(dim=1)
        images, index = (best > self.facts.score_least_ratio).nonzero(as_tuple=True)
        chosen = best[images, index], labels[images, index].float(), images.float()
        packed = self._torch.cat((boxes[images, :, index].float(), *(each[:, None] for each in chosen)), dim=1)
        down = packed.cpu().numpy()
        return _apart(down[:, 6].astype(np.int64), down)

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


def _apart(images: Any, rows: npt.NDArray[np.float32]) -> tuple[Any, Any, Any, Any]:
    """Return image, corners, score and label of rows of centre, size, score and label."""
    return images, arrays.corners(rows[:, :4]), rows[:, 4], rows[:, 5].astype(np.int64)


def _decoder() -> Any:
    """Return what decodes a photo into memory."""
    try:
        import simplejpeg
    except ImportError:
        image = pillow()

        def by_pillow(photo: Photo, target: npt.NDArray[np.uint8]) -> None:
            with image.open(io.BytesIO(photo.data)) as opened:
                target.reshape(photo.height, photo.width, 3)[:] = np.asarray(opened.convert("RGB"))

        return by_pillow

    def by_simplejpeg(photo: Photo, target: npt.NDArray[np.uint8]) -> None:
        simplejpeg.decode_jpeg(photo.data, buffer=target)

    return by_simplejpeg
