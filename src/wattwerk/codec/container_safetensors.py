"""Safetensors: read tensor by tensor, also from several shards; written one at a time in one pass.

A file is a header of JSON, which tells each tensor's type, shape and place, and the tensors' bytes without gaps.
Source: safetensors format, https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from wattwerk.codec.container_types import (
    ModelFile,
    Restored,
    TensorInfo,
    appearing,
    check_dtype,
    damaged,
    file_bytes,
    unreadable,
)
from wattwerk.codec.elements import SIZES, Array
from wattwerk.errors import BitstreamError, ConfigError, UnavailableError

INDEX = "model.safetensors.index.json"
ENDING = ".safetensors"
CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
_NAMES = {code: name for name, code in CODES.items()}
_ALIGNMENT = 8
_MAPPED_BYTES = 1 << 26  # of a file that may be read before it is opened anew, which lets go of the pages


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


class _Shard(msgspec.Struct, frozen=True):
    """One file: its tensors in the order in which they lie there, and its texts."""

    path: Path
    infos: tuple[TensorInfo, ...]
    metadata: dict[str, str]


def open_safetensors(path: Path) -> ModelFile:
    """Open a file, an index of several, or a folder with either.

    Raises:
        ConfigError: A part is missing or damaged, or a tensor's type is not known.
        UnavailableError: The package safetensors is missing.
    """
    shards = [_look_into(part) for part in _parts(path)]
    if path.is_dir() or path.suffix == ".json":
        _check_index(path, shards)
    metadata: dict[str, str] = {}
    for shard in reversed(shards):
        metadata |= shard.metadata
    return ModelFile(
        path=path,
        kind="safetensors",
        size_bytes=file_bytes(*(shard.path for shard in shards)),
        count=sum(len(shard.infos) for shard in shards),
        metadata=metadata,
        read=lambda: _tensors(shards),
    )


def _parts(path: Path) -> list[Path]:
    if path.is_dir():
        if (path / INDEX).is_file():
            return _parts(path / INDEX)
        parts = sorted(path.glob(f"*{ENDING}"))
        if not parts:
            raise ConfigError(f"there is no {ENDING} file in {path}", "give the file itself")
        return parts
    if path.suffix == ".json":
        names = dict.fromkeys(_weight_map(path).values())
        for name in names:
            if Path(name).name != name:
                raise ConfigError(f"{path} names a part outside of its folder: {name}", "keep all parts beside it")
        return [path.parent / name for name in names]
    return [path]


def _weight_map(path: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Index).weight_map
    except msgspec.DecodeError as error:
        raise damaged(path, "safetensors index", error) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _check_index(path: Path, shards: Sequence[_Shard]) -> None:
    found: dict[str, Path] = {}
    for shard in shards:
        for info in shard.infos:
            if info.name in found:
                raise ConfigError(
                    f"{found[info.name].name} and {shard.path.name} in {path} both have a tensor {info.name!r}",
                    "give the file that is meant",
                )
            found[info.name] = shard.path
    index = path / INDEX if path.is_dir() else path
    missing = [name for name in (_weight_map(index) if index.is_file() else {}) if name not in found]
    if missing:
        raise ConfigError(f"{index} lists a tensor that is nowhere: {missing[0]!r}", "download all parts again")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16)
        import safetensors
    except ImportError as error:
        raise UnavailableError("reading safetensors needs a package", "pip install 'wattwerk[weights]'") from error
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            yield file
    except OSError as error:
        raise unreadable(path, error) from error
    except safetensors.SafetensorError as error:
        raise damaged(path, "safetensors", error) from error


def _look_into(path: Path) -> _Shard:
    if not path.is_file():
        raise ConfigError(f"there is no file {path}", "check the path")
    with _opened(path) as file:
        infos = []
        for name in file.offset_keys():
            part = file.get_slice(name)
            code = part.get_dtype()
            check_dtype(path, name, _NAMES.get(code, code))
            infos.append(TensorInfo(name, _NAMES[code], tuple(part.get_shape())))
        return _Shard(path, tuple(infos), dict(file.metadata() or {}))


def _tensors(shards: Sequence[_Shard]) -> Iterator[tuple[str, Array]]:
    for shard in shards:
        for names in _portions(shard):
            with _opened(shard.path) as file:
                for name in names:
                    yield name, np.asarray(file.get_tensor(name))


def _portions(shard: _Shard) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for info in shard.infos:
        names.append(info.name)
        size += _bytes_of(info)
        if size >= _MAPPED_BYTES:
            yield names
            names, size = [], 0
    yield names


def _bytes_of(info: TensorInfo) -> int:
    return SIZES[info.dtype] * math.prod(info.shape)


def write_safetensors(path: Path, restored: Restored) -> None:
    """Write tensors, one of them in memory at a time.

    Args:
        path: The file; it appears when it is complete.
        restored: The tensors.

    Raises:
        ConfigError: The file cannot be written.
        BitstreamError: A tensor is another one than was told.
    """
    places = _places(restored.infos)
    texts = restored.texts("safetensors")
    if restored.kind == "state_dict":
        texts = {"format": "pt"}  # without it, some libraries refuse a file of PyTorch's names
    header = _header(restored.infos, places, texts)
    expected = {info.name: info for info in restored.infos}
    with appearing(path) as partial, partial.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, array in restored.tensors:
            info = expected.pop(name, None)
            if info != TensorInfo(name, array.dtype.name, array.shape):
                raise BitstreamError(f"tensor {name!r} is not what leads it in says", "get the stream again")
            file.seek(8 + len(header) + places[name])
            file.write(array.reshape(-1).view(np.uint8).data)
        if expected:
            raise BitstreamError(f"tensor {next(iter(expected))!r} never came", "get the stream again")


def _places(infos: Sequence[TensorInfo]) -> dict[str, int]:
    """Return where each tensor's bytes start: in order if all are aligned then, else the widest types first."""
    places = _in_order(infos)
    if all(places[info.name] % SIZES[info.dtype] == 0 for info in infos):
        return places
    return _in_order(sorted(infos, key=lambda info: -SIZES[info.dtype]))


def _in_order(infos: Sequence[TensorInfo]) -> dict[str, int]:
    places, place = {}, 0
    for info in infos:
        places[info.name] = place
        place += _bytes_of(info)
    return places


def _header(infos: Sequence[TensorInfo], places: dict[str, int], texts: dict[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": texts} if texts else {}
    for info in infos:
        start = places[info.name]
        entries[info.name] = {
            "dtype": CODES[info.dtype],
            "shape": info.shape,
            "data_offsets": (start, start + _bytes_of(info)),
        }
    header = msgspec.json.encode(entries)
    return header + b" " * (-len(header) % _ALIGNMENT)
