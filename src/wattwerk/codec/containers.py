"""Model files in and out: safetensors, PyTorch state dicts, ONNX, .npz, and packed streams themselves.

    model = open_model("model.safetensors")              write_model("copy.pt", Restored.of(arrays))
    data = pack(model.read(), container=model.kind, metadata=model.metadata)

`open_model` reads nothing but names, types and shapes where the kind of file allows it; tensors come one by one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from wattwerk.codec.container_npz import open_npz, write_npz
from wattwerk.codec.container_onnx import open_onnx, write_onnx
from wattwerk.codec.container_safetensors import open_safetensors, write_safetensors
from wattwerk.codec.container_torch import open_state_dict, write_state_dict
from wattwerk.codec.container_types import ModelFile, Restored, TensorInfo
from wattwerk.errors import ConfigError

__all__ = ["ENDINGS", "ModelFile", "Restored", "TensorInfo", "ending_of", "open_model", "write_model"]

#: ending -> kind; the first one of a kind is the one that it gets
ENDINGS: Mapping[str, str] = {
    ".safetensors": "safetensors",
    ".pt": "state_dict",
    ".pth": "state_dict",
    ".bin": "state_dict",
    ".onnx": "onnx",
    ".npz": "npz",
}
_OPEN: Mapping[str, Callable[[Path], ModelFile]] = {
    "safetensors": open_safetensors,
    "state_dict": open_state_dict,
    "onnx": open_onnx,
    "npz": open_npz,
}
_WRITE: Mapping[str, Callable[[Path, Restored], None]] = {
    "safetensors": write_safetensors,
    "state_dict": write_state_dict,
    "onnx": write_onnx,
    "npz": write_npz,
}


def open_model(path: str | os.PathLike[str]) -> ModelFile:
    """Open a model file, by its ending; a folder or an index (.json) stands for the shards of a safetensors model.

    Raises:
        ConfigError: There is no such file, it is damaged, or its kind is not known.
        UnavailableError: A package to read it with is missing.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"there is no file {path}", "check the path")
    if path.is_dir() or path.suffix == ".json":
        return open_safetensors(path)
    return _OPEN[_kind(path)](path)


def write_model(path: str | os.PathLike[str], restored: Restored) -> None:
    """Write a model file, by its ending; it appears when it is complete, and what was there before is then replaced.

    Args:
        path: The file.
        restored: The tensors.

    Raises:
        ConfigError: The kind is not known, cannot hold the tensors, or the file cannot be written.
        UnavailableError: A package to write it with is missing.
    """
    path = Path(path)
    _WRITE[_kind(path)](path, restored)


def ending_of(kind: str | None) -> str:
    """Return the ending of a kind of file; that of safetensors where the kind is not known."""
    return next((ending for ending, known in ENDINGS.items() if known == kind), ".safetensors")


def _kind(path: Path) -> str:
    kind = ENDINGS.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(
            f"{path} is no kind of model file that is known", f"use a name that ends in {', '.join(ENDINGS)}"
        )
    return kind
