"""A folder of photos with what is true of them: how it is laid out is found out, a mixture is refused."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from wattwerk.bench.photos import SUFFIXES
from wattwerk.errors import ConfigError

Layout = Literal["classes", "labels", "coco", "masks", "plain"]

#: layout -> the task whose models it says something of; photos alone say something of all
TASKS: Final[dict[Layout, str]] = {
    "classes": "classification",
    "labels": "classification",
    "coco": "detection",
    "masks": "segmentation",
    "plain": "",
}
_WORDS: Final[dict[Layout, str]] = {
    "classes": "folders of classes",
    "labels": "a labels file",
    "coco": "COCO annotations",
    "masks": "masks",
    "plain": "photos without labels",
}
_IMAGES: Final = "images"
_MASKS: Final = "masks"
_ANNOTATIONS: Final = "annotations"
_DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}
_SHOWN: Final = 3  # names in an error message
_HINT: Final = "docs/accuracy.md shows how a data set can be laid out"


class Item(NamedTuple):
    """One photo and what is true of it.

    Attributes:
        path: The photo.
        truth: A class in words, the path of a mask, the photo's id in the annotations; empty where nothing is known.
    """

    path: Path
    truth: str


class Dataset(msgspec.Struct, frozen=True):
    """A data set on disk.

    Attributes:
        reference: What it was read from.
        layout: How it is laid out.
        items: Its photos, in the order of their names.
        annotations: The file of COCO annotations.
        left_out: A line for each kind of thing that was left out.
    """

    reference: str
    layout: Layout
    items: tuple[Item, ...]
    annotations: Path | None = None
    left_out: tuple[str, ...] = ()


def read(reference: str, limit: int | None = None) -> Dataset:
    """Read a data set: a folder, or the file of labels or annotations in it.

    Args:
        reference: The folder or file.
        limit: Photos at most, evenly spread over all of them; None for all.

    Raises:
        ConfigError: It does not exist, has no photo, mixes layouts, or says something of photos that are not there.
    """
    path = Path(reference).expanduser()
    if not path.exists():
        raise ConfigError(f"there is no folder {path}", "check the path")
    found = _of_file(path, reference) if path.is_file() else _of_folder(path, reference)
    if not found.items:
        raise ConfigError(f"there is no photo in {path}", f"use {', '.join(sorted(SUFFIXES))}; {_HINT}")
    return msgspec.structs.replace(found, items=spread(found.items, limit))


def spread(items: Sequence[Any], limit: int | None) -> tuple[Any, ...]:
    """Return at most so many, evenly spread."""
    if limit is None or limit >= len(items):
        return tuple(items)
    return tuple(items[index * len(items) // limit] for index in range(limit))


def _of_file(path: Path, reference: str) -> Dataset:
    if path.suffix.lower() == ".json":
        folder = path.parent.parent if path.parent.name == _ANNOTATIONS else path.parent
        return _coco(path, folder, reference)
    if path.suffix.lower() in (*_DELIMITERS, ".txt"):
        return _labels(path, path.parent, reference)
    raise ConfigError(f"{path} is neither a folder nor a .csv, .tsv, .txt or .json file", _HINT)


def _of_folder(folder: Path, reference: str) -> Dataset:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"cannot read the folder {folder} ({error.strerror})", "check the path") from error
    annotations = [each for place in (folder, folder / _ANNOTATIONS) for each in _files(place, {".json"})]
    tables = [each for each in _files(folder, {*_DELIMITERS, ".txt"}) if each.stem.lower() not in ("readme", "license")]
    masks = _files(folder / _MASKS, {".png"})
    own = {_IMAGES, _MASKS, _ANNOTATIONS, *(_split(each) for each in annotations)}
    classes = [each for each in entries if each.is_dir() and each.name not in own and _files(each, SUFFIXES)]
    beside = _files(folder, SUFFIXES) or _files(folder / _IMAGES, SUFFIXES)
    signs: dict[Layout, bool] = {
        "classes": bool(classes),
        "labels": bool(tables),
        "coco": bool(annotations),
        "masks": bool(masks),
    }
    found = [layout for layout, there in signs.items() if there]
    if classes and beside:
        found.append("plain")
    if len(found) > 1:
        words = " and ".join(_WORDS[layout] for layout in found)
        raise ConfigError(f"{folder} mixes {words}", f"keep one layout in a folder, or name the file; {_HINT}")
    if annotations:
        return _coco(_single(annotations, folder), folder, reference)
    if tables:
        return _labels(_single(tables, folder), folder, reference)
    if masks:
        return _masked(masks, folder, reference)
    if classes:
        pairs = [Item(path, each.name) for each in classes for path in _files(each, SUFFIXES)]
        return Dataset(reference, "classes", tuple(pairs))
    return Dataset(reference, "plain", tuple(Item(path, "") for path in beside))


def _files(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    wanted = frozenset(suffixes)
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in wanted and path.is_file())


def _single(files: Sequence[Path], folder: Path) -> Path:
    if len(files) > 1:
        raise ConfigError(
            f"{folder} has several: {_shown(file.name for file in files)}", "name one of them in place of the folder"
        )
    return files[0]


def _split(annotations: Path) -> str:
    """Return the folder of photos that COCO's own files go with: ``val2017`` of ``instances_val2017.json``."""
    return annotations.stem.rpartition("_")[2]


def _shown(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")


def _where(folder: Path, names: Sequence[str], more: Sequence[str] = ()) -> dict[str, Path]:
    """Return name -> path of photos that a file speaks of: in the folder itself or in one of those that are usual.

    Raises:
        ConfigError: Some are in none.
    """
    places = [folder, folder / _IMAGES, *(folder / name for name in more)]
    found = {name: path for name in names for place in places if (path := place / name).is_file()}
    if absent := [name for name in names if name not in found]:
        raise ConfigError(
            f"{len(absent)} of {len(names)} photos are not in {folder} ({_shown(absent)})",
            f"put them there or into its folder {_IMAGES}, or take their lines out",
        )
    return found


def _labels(table: Path, folder: Path, reference: str) -> Dataset:
    rows = _rows(table)
    names = [name for name, _ in rows]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"{table} names photos twice ({_shown(twice)})", "keep one line for each")
    paths = _where(folder, names)
    items = sorted(Item(paths[name], label) for name, label in rows)
    there = {path for place in (folder, folder / _IMAGES) for path in _files(place, SUFFIXES)}
    without = len(there - set(paths.values()))
    left_out = (f"{without} photos in {folder} have no line in {table.name}",) if without else ()
    return Dataset(reference, "labels", tuple(items), left_out=left_out)


def _rows(table: Path) -> list[tuple[str, str]]:
    """Return file names and labels; a first line that names no photo is a heading."""
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {table} ({error})", "write it as text, a file name and a label a line"
        ) from error
    delimiter = _DELIMITERS.get(table.suffix.lower())
    if delimiter == "," and lines and ";" in lines[0] and "," not in lines[0]:
        delimiter = ";"  # as spreadsheets write it where the comma is the decimal mark
    cells = csv.reader(lines, delimiter=delimiter) if delimiter else (line.split(maxsplit=1) for line in lines)
    rows = [[cell.strip() for cell in row] for row in cells if any(cell.strip() for cell in row)]
    if rows and Path(rows[0][0]).suffix.lower() not in SUFFIXES:
        rows = rows[1:]
    if wrong := [row for row in rows if len(row) < 2 or not row[1]]:
        raise ConfigError(f"a line of {table} has no label: {' '.join(wrong[0])!r}", "write a file name and a label")
    return [(row[0], row[1]) for row in rows]


def _masked(masks: Sequence[Path], folder: Path, reference: str) -> Dataset:
    photos = {path.stem: path for place in (folder, folder / _IMAGES) for path in _files(place, SUFFIXES)}
    if absent := [mask.name for mask in masks if mask.stem not in photos]:
        raise ConfigError(
            f"{len(absent)} of {len(masks)} masks have no photo ({_shown(absent)})",
            f"put a photo of the same name into {folder / _IMAGES}",
        )
    without = len(photos) - len(masks)
    left_out = (f"{without} photos in {folder} have no mask",) if without else ()
    items = tuple(Item(photos[mask.stem], str(mask)) for mask in masks)
    return Dataset(reference, "masks", items, left_out=left_out)


def _coco(annotations: Path, folder: Path, reference: str) -> Dataset:
    content = annotations_of(annotations)
    names = {str(image["file_name"]): str(image["id"]) for image in content["images"]}
    paths = _where(folder, list(names), (_split(annotations),))
    items = tuple(sorted(Item(paths[name], number) for name, number in names.items()))
    return Dataset(reference, "coco", items, annotations)


def annotations_of(path: Path) -> dict[str, Any]:
    """Return COCO annotations as plain values.

    Raises:
        ConfigError: The file holds none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for image in content["images"]:
            _ = image["file_name"], int(image["id"])
        for box in content["annotations"]:
            _ = int(box["image_id"]), int(box["category_id"]), [float(side) for side in box["bbox"]]
        for category in content["categories"]:
            _ = int(category["id"]), str(category["name"])
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror})", "check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        told = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{path} holds no boxes in COCO's form ({told})", "it needs images, annotations with bbox, and categories"
        ) from error
    return dict(content)
