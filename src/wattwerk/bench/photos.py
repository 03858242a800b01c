"""The photos that a pipeline begins with: JPEG files in memory, since that is what cameras and data sets give."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from wattwerk.errors import ConfigError, UnavailableError

REMEDY: Final = 'pip install "wattwerk[pipeline]"'
#: Endings of files that are taken for photos.
#: Endings of files that are taken for photos.
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
#: Photos in scikit-image's wheel; its data/README says whose they are: public domain, CC0, or free to use.
_SHIPPED: Final = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png",
                   "rocket.jpg")  # fmt: skip
_QUALITY: Final = 92  # of a photo that is encoded here: what cameras call fine
_ORIENTATION: Final = 0x0112


class Photo(NamedTuple):
    """One photo.

    Attributes:
        name: Its file's name.
        data: A JPEG file, upright and RGB.
        width: In pixels.
        height: In pixels.
    """

    name: str
    data: bytes
    width: int
    height: int


class Photos(NamedTuple):
    """What was found.

    Attributes:
        photos: The usable ones, in the order of their names.
        refused: A line for each file that is no usable photo, with the reason.
    """

    photos: tuple[Photo, ...]
    refused: tuple[str, ...]


def pillow() -> Any:
    """Return ``PIL.Image``.

    Raises:
        UnavailableError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UnavailableError("a pipeline needs Pillow, which is not installed", REMEDY) from error
    return Image


def load(folder: str | None) -> Photos:
    """Read all photos of a folder, or those that scikit-image brings along.

    Args:
        folder: The folder; its sub-folders are not looked into. None for those of scikit-image.

    Raises:
        ConfigError: The folder does not exist or has no usable photo.
        UnavailableError: Pillow is missing, or scikit-image where no folder is given.
    """
    pillow()
    paths = _shipped() if folder is None else _in(Path(folder).expanduser())
    photos, refused = [], []
    for path in paths:
        found = read(path)
        photos.append(found) if isinstance(found, Photo) else refused.append(found)
    if not photos:
        told = f" ({'; '.join(refused[:3])})" if refused else ""
        raise ConfigError(
            f"no usable photo in {folder or 'scikit-image'}{told}", f"give a folder with {', '.join(sorted(SUFFIXES))}"
        )
    return Photos(tuple(photos), tuple(refused))


def batch_at(photos: Sequence[Photo], index: int, size: int) -> list[Photo]:
    """Return the batch of a number: the photos go round, so that two batches in a row do not begin alike."""
    start = index * size
    return [photos[(start + position) % len(photos)] for position in range(size)]


def _shipped() -> list[Path]:
    found = importlib.util.find_spec("skimage")  # importing it would take a second, and packages that are not needed
    places = list(found.submodule_search_locations or ()) if found else []
    paths = [Path(place) / "data" / name for place in places for name in _SHIPPED]
    there = [path for path in paths if path.is_file()]
    if not there:
        raise UnavailableError(
            "there are no photos: scikit-image, which brings some along, is not installed",
            f"{REMEDY}, or give a folder with --images",
        )
    return there


def _in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise ConfigError(f"cannot read the folder {folder} ({error.strerror})", "check --images") from error


def read(path: Path, quality: int = _QUALITY, subsampling: int = -1) -> Photo | str:
    """Return a photo, or why the file is none; everything but an upright RGB JPEG is made one.

    Args:
        path: The file.
        quality: Of a JPEG file that is made here, 1 to 100.
        subsampling: Of its colours, as Pillow numbers it: 0 keeps them whole, -1 is the encoder's choice.

    Raises:
        UnavailableError: Pillow is missing.
    """
    image = pillow()
    from PIL import ImageOps

    try:
        data = path.read_bytes()
        with image.open(io.BytesIO(data)) as opened:
            turned = opened.getexif().get(_ORIENTATION, 1) != 1
            plain = opened.format == "JPEG" and opened.mode == "RGB" and not turned
            opened.load()  # a file that is cut off is found out here, not while something is timed
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:  # a damaged file raises whatever its decoder comes upon
        return f"{path.name}: {' '.join(str(error).split())[:120] or type(error).__name__}"
    if not plain:
        stream = io.BytesIO()
        upright.save(stream, "JPEG", quality=quality, subsampling=subsampling)
        data = stream.getvalue()
    return Photo(path.name, data, *upright.size)
