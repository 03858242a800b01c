"""What all kinds of model files have in common: tensors by name, texts beside them, and how files appear."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import msgspec

from wattwerk.codec.elements import SIZES, Array
from wattwerk.errors import ConfigError

Pairs: TypeAlias = Iterable[tuple[str, Array]]

OWN = "wattwerk."  # texts whose keys start like this are ours and go into no file but a stream


class TensorInfo(msgspec.Struct, frozen=True):
    """A tensor without its values.

    Attributes:
        name: Its name.
        dtype: Name of its element type.
        shape: Its shape.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


class ModelFile(msgspec.Struct, frozen=True):
    """A model file that was looked into; its tensors are read when they are asked for.

    Attributes:
        path: The file, or the folder of its parts.
        kind: ``safetensors``, ``state_dict``, ``onnx`` or ``npz``.
        size_bytes: Of all its parts.
        count: Number of tensors.
        metadata: Texts that restore what is no tensor.
        read: Yields names and arrays, one after the other.
    """

    path: Path
    kind: str
    size_bytes: int
    count: int
    metadata: dict[str, str]
    read: Callable[[], Iterator[tuple[str, Array]]]


class Restored(msgspec.Struct, frozen=True):
    """Tensors on their way into a model file.

    Attributes:
        infos: All of them, in order.
        tensors: Yields names and arrays in the same order.
        kind: Kind of file that they came from; None if it is not known.
        metadata: Texts that came with them.
    """

    infos: Sequence[TensorInfo]
    tensors: Pairs
    kind: str | None = None
    metadata: dict[str, str] = {}

    @classmethod
    def of(cls, arrays: dict[str, Array], kind: str | None = None, metadata: dict[str, str] | None = None) -> Restored:
        """Return arrays that are in memory."""
        infos = [TensorInfo(name, array.dtype.name, array.shape) for name, array in arrays.items()]
        return cls(infos, arrays.items(), kind, metadata or {})

    def texts(self, kind: str) -> dict[str, str]:
        """Return the texts that belong into a file of some kind: those of a file of the same kind."""
        found = self.metadata if self.kind == kind else {}
        return {key: text for key, text in found.items() if not key.startswith(OWN)}


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; the file takes its place when the block ends well, and leaves nothing otherwise.

    Raises:
        ConfigError: The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> ConfigError:
    """Return the error of a file that cannot be written."""
    return ConfigError(f"cannot write {path} ({error.strerror or error})", "check folder, permission and free space")


def unreadable(path: Path, error: OSError) -> ConfigError:
    """Return the error of a file that cannot be read."""
    return ConfigError(f"cannot read {path} ({error.strerror or error})", "check path and permission")


def damaged(path: Path, kind: str, error: Exception) -> ConfigError:
    """Return the error of a file that is not what its name says."""
    reason = " ".join(str(error).split())[:200]
    return ConfigError(f"{path} is no {kind} file ({reason})", "check or export the file again")


def check_dtype(path: Path, name: str, dtype: str) -> None:
    """Refuse an element type that a stream cannot carry.

    Raises:
        ConfigError: It is one.
    """
    if dtype not in SIZES:
        raise ConfigError(
            f"tensor {name!r} in {path} has the element type {dtype}", f"convert it to one of {', '.join(SIZES)}"
        )


def file_bytes(*paths: Path) -> int:
    """Return the size of files together."""
    return sum(os.stat(path).st_size for path in paths)
