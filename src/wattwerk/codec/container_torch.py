"""PyTorch state dicts (.pt, .pth, .bin), read without running any code that a file may bring."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from wattwerk.codec.container_types import (
    ModelFile,
    Restored,
    appearing,
    check_dtype,
    damaged,
    file_bytes,
    unreadable,
)
from wattwerk.codec.elements import Array
from wattwerk.errors import ConfigError, UnavailableError

MODULES = "modules"  # key of the text that holds the versions of the modules, which PyTorch keeps beside the tensors


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise UnavailableError(
            f"{path} is a file of PyTorch, which is not installed", "pip install 'wattwerk[torch]'"
        ) from error
    return torch


def open_state_dict(path: Path) -> ModelFile:
    """Open a state dict.

    Raises:
        ConfigError: The file is damaged, or holds other things than tensors by name.
        UnavailableError: PyTorch is missing.
    """
    torch = _torch(path)
    state = _load(torch, path)
    _check(torch, path, state)
    modules = getattr(state, "_metadata", None)
    return ModelFile(
        path=path,
        kind="state_dict",
        size_bytes=file_bytes(path),
        count=len(state),
        metadata={MODULES: msgspec.json.encode(modules).decode()} if modules else {},
        read=lambda: _tensors(torch, state),
    )


def _load(torch: Any, path: Path) -> Any:
    try:
        mapped = zipfile.is_zipfile(path)  # the older form cannot be mapped into memory
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path} is no state dict: it is damaged or needs code of its own",
            "save the tensors alone: torch.save(model.state_dict(), …)",
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise damaged(path, "PyTorch", error) from error


def _check(torch: Any, path: Path, state: Any) -> None:
    if not isinstance(state, dict):
        raise ConfigError(f"{path} holds a {type(state).__name__} and no state dict", "save model.state_dict()")
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and isinstance(name, str):
            _check_tensor(torch, path, name, value)
            continue
        inner = f'["{name}"]' if isinstance(value, dict) else "[…]"
        raise ConfigError(
            f"{path} holds {name!r}, which is no tensor but {type(value).__name__}",
            f'save the state dict alone: torch.save(torch.load("{path.name}"){inner}, …)',
        )


def _check_tensor(torch: Any, path: Path, name: str, value: Any) -> None:
    if value.layout != torch.strided or value.is_quantized:
        raise ConfigError(f"tensor {name!r} in {path} is sparse or quantised", "convert it to a plain tensor")
    check_dtype(path, name, str(value.dtype).removeprefix("torch."))


def _tensors(torch: Any, state: Any) -> Iterator[tuple[str, Array]]:
    for name, value in state.items():
        yield name, _to_numpy(torch, value)


def _to_numpy(torch: Any, value: Any) -> Array:
    value = value.detach().contiguous()
    if value.dtype != torch.bfloat16:
        return np.asarray(value.numpy())
    import ml_dtypes

    return np.asarray(value.view(torch.int16).numpy()).view(ml_dtypes.bfloat16)


def write_state_dict(path: Path, restored: Restored) -> None:
    """Write a state dict.

    Args:
        path: The file; it appears when it is complete.
        restored: The tensors; all of them are in memory at once.

    Raises:
        ConfigError: The file cannot be written.
        UnavailableError: PyTorch is missing.
    """
    torch = _torch(path)
    state: Any = OrderedDict((name, _from_numpy(torch, array)) for name, array in restored.tensors)
    if modules := restored.texts("state_dict").get(MODULES):
        state._metadata = _versions(path, modules)
    with appearing(path) as partial, partial.open("wb") as file:
        torch.save(state, file)


def _versions(path: Path, text: str) -> OrderedDict[str, dict[str, Any]]:
    try:
        return OrderedDict(msgspec.json.decode(text, type=dict[str, dict[str, Any]]))
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"{path} cannot be written: the versions of its modules are damaged ({error})", "unpack to .safetensors"
        ) from error


def _from_numpy(torch: Any, array: Array) -> Any:
    array = np.array(array, order="C")  # PyTorch warns about arrays that cannot be written to
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
