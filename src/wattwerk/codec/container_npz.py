"""NumPy's .npz archives, read and written array by array."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wattwerk.codec.container_types import ModelFile, Restored, appearing, check_dtype, damaged, file_bytes, unreadable
from wattwerk.codec.elements import Array


def open_npz(path: Path) -> ModelFile:
    """Open an archive of arrays; objects in it are refused.

    Raises:
        ConfigError: The file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:  # NumPy leaves it open on errors
            names = list(archive.files)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
        raise damaged(path, "npz", error) from error
    return ModelFile(path, "npz", file_bytes(path), len(names), {}, lambda: _tensors(path, names))


def _tensors(path: Path, names: list[str]) -> Iterator[tuple[str, Array]]:
    with np.load(path, allow_pickle=False) as archive:
        for name in names:
            array = _read(path, archive, name)
            check_dtype(path, name, array.dtype.name)
            yield name, array


def _read(path: Path, archive: Any, name: str) -> Array:
    try:
        return np.asarray(archive[name])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise damaged(path, "npz", error) from error


def write_npz(path: Path, restored: Restored) -> None:
    """Write an archive, one array in memory at a time; bfloat16, which it cannot hold, becomes float32.

    Args:
        path: The file; it appears when it is complete.
        restored: The arrays.

    Raises:
        ConfigError: The file cannot be written.
    """
    with appearing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, array in restored.tensors:
            plain = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(plain), allow_pickle=False)
