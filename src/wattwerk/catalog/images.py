"""Inputs for a benchmark: seeded images that look like normalised photographs, and plain numbers for anything else."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

_COARSEST = 8  # the largest structures span an eighth of the image


def sample_images(shape: tuple[int, int, int], number: int, seed: int) -> npt.NDArray[np.float32]:
    """Draw images whose energy falls with the spatial frequency, as in photographs, with mean 0 and deviation 1.

    Args:
        shape: ``(channels, height, width)``.
        number: How many images.
        seed: The seed; the first images of a longer series are those of a shorter one.

    Returns:
        float32 ``(number, channels, height, width)``.
    """
    return np.stack([_image(shape, np.random.default_rng([seed, index])) for index in range(number)])


def _image(shape: tuple[int, int, int], stream: np.random.Generator) -> npt.NDArray[np.float32]:
    channels, height, width = shape
    image = np.zeros(shape, np.float32)
    cells = _COARSEST
    while cells < 2 * max(height, width):
        grid = stream.standard_normal((channels, min(cells, height), min(cells, width)), np.float32)
        rows = np.arange(height) * grid.shape[1] // height
        columns = np.arange(width) * grid.shape[2] // width
        image += grid[:, rows[:, None], columns[None, :]] / cells**0.5
        cells *= 2
    image += stream.standard_normal((channels, 1, 1), np.float32) / _COARSEST**0.5
    deviation = float(image.std())
    normalised: npt.NDArray[np.float32] = (image - image.mean()) / np.float32(deviation or 1.0)
    return normalised


def sample_numbers(name: str, shape: tuple[int, ...], dtype: str, number: int, seed: int) -> npt.NDArray[np.generic]:
    """Draw plain inputs: standard-normal floats, zeros and ones for integers (valid as ids, masks and sizes).

    Args:
        name: The input's name; it chooses the stream of random numbers.
        shape: The shape of one sample.
        dtype: The numpy dtype's name.
        number: How many samples.
        seed: The seed.

    Returns:
        An array ``(number, *shape)``.
    """
    stream = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if np.issubdtype(np.dtype(dtype), np.floating):
        return stream.standard_normal((number, *shape)).astype(dtype)
    return stream.integers(0, 2, (number, *shape)).astype(dtype)
