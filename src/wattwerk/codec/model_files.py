"""What packing and unpacking of files share: progress, a stream's first words, bases, errors that name the file."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np

from wattwerk.codec.container_types import OWN, unreadable
from wattwerk.codec.containers import open_model
from wattwerk.codec.elements import Array
from wattwerk.codec.parameter_sets import ModelParameterSet
from wattwerk.codec.tensor_decoding import Budget
from wattwerk.codec.unpacking import unpack_file, walk
from wattwerk.errors import BitstreamError, ConfigError

Tell: TypeAlias = Callable[[str, float], None]
"""Called with what is done at the moment, and which share of it is done."""

ENDING = ".nnc"
BASE = f"{OWN}base"  # key of the text that tells which base an update belongs to


class Head(msgspec.Struct, frozen=True):
    """What stands before a stream's first tensor.

    Attributes:
        kind: Kind of file that the tensors came from; None where it does not tell.
        metadata: Texts that came with them.
        update: Whether tensors are differences to a base.
    """

    kind: str | None
    metadata: dict[str, str]
    update: bool


def nothing(what: str, share: float) -> None:
    """Tell nobody."""
    del what, share


class Share:
    """Progress in bytes, told as a share."""

    def __init__(self, tell: Tell, what: str, total: int, sizes: Mapping[str, int] | None = None) -> None:
        self._tell, self._what, self._total, self._sizes, self._done = tell, what, max(total, 1), sizes, 0

    def __call__(self, name: str, size: int) -> None:
        """Count a tensor: the size that is given, or the one that is known by its name."""
        self._done += size if self._sizes is None else self._sizes[name]
        self._tell(self._what, min(1.0, self._done / self._total))


def check_places(source: Path, target: Path) -> None:
    """Refuse an output that is a folder or the input itself.

    Raises:
        ConfigError: It is.
    """
    if target.is_dir() or (target.exists() and source.exists() and target.samefile(source)):
        raise ConfigError(f"{target} is the input or a folder", "give another --output")


def read_arrays(path: Path) -> dict[str, Array]:
    """Return all tensors of a model file or a stream.

    Raises:
        ConfigError: It cannot be read.
        BitstreamError: The stream is damaged.
    """
    if path.suffix != ENDING:
        return dict(open_model(path).read())
    with about(path):
        return unpack_file(path)


def digest(arrays: Mapping[str, Array]) -> str:
    """Return a text that tells tensors of other names, types, shapes or values apart."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        state.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return state.hexdigest()[:32]


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Name a stream's file in errors about it."""
    try:
        yield
    except BitstreamError as error:
        remedy = error.remedy or "get the file again, it is damaged"
        raise BitstreamError(f"{path}: {error.message}", remedy) from error
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}", "check the path") from error


def read_head(path: Path) -> Head:
    """Return what stands before a stream's first tensor.

    Raises:
        ConfigError: The file cannot be read.
        BitstreamError: It is no stream.
    """
    kind, metadata, update = None, None, False
    try:
        with path.open("rb") as file:
            steps = walk(file, Budget(0, sys.maxsize))  # nothing is decoded, however large it would be
            for step, _ in zip(steps, range(3), strict=False):  # start, parameter set, first note
                if isinstance(step.unit, ModelParameterSet):
                    update = step.context.parent_signalling
                if step.coded is not None:
                    break
                if step.note is not None:
                    kind, metadata = step.note.container, step.note.metadata
    except BitstreamError as error:
        raise BitstreamError(f"{path} is no NNC stream: {error.message}", "give one, or get it again") from error
    except OSError as error:
        raise unreadable(path, error) from error
    return Head(kind, metadata or {}, update)
