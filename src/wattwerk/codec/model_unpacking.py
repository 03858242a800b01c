"""A stream becomes a model file again: of the kind that it came from, or of another one."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import BinaryIO

import msgspec

from wattwerk.codec.containers import Restored, TensorInfo, ending_of, write_model
from wattwerk.codec.elements import SIZES
from wattwerk.codec.inspection import TensorSummary, inspect
from wattwerk.codec.model_files import (
    BASE,
    Head,
    Share,
    Tell,
    about,
    check_places,
    digest,
    nothing,
    read_arrays,
    read_head,
)
from wattwerk.codec.unpacking import iter_unpack
from wattwerk.codec.update import apply_update
from wattwerk.errors import ConfigError

_MOST_VALUES = 1 << 56  # of a tensor whose place in a file is computed before it was decoded


class Unpacked(msgspec.Struct, frozen=True):
    """What unpacking gave; as `Packed`."""

    input: str
    output: str
    input_bytes: int
    output_bytes: int
    tensors_count: int
    wall_s: float
    cpu_s: float


def unpack_model(
    source: Path,
    target: Path | None,
    *,
    base: Path | None = None,
    threads: int = 0,
    max_values: int | None = None,
    tell: Tell = nothing,
) -> Unpacked:
    """Unpack a stream into a model file.

    Args:
        source: The stream.
        target: The model file; it appears when it is complete. None puts it beside the stream, as the kind of file that
            the tensors came from.
        base: Model file or stream that an update changes.
        threads: 0 takes all processors.
        max_values: Bound on the values of all tensors together; the default follows from the stream's length.
        tell: Told what goes on.

    Raises:
        ConfigError: A file cannot be used, or the base is missing or another one.
        BitstreamError: The stream is damaged; the message names file and byte.
        UnavailableError: A package to write the file with is missing.
    """
    started = time.perf_counter(), time.process_time()
    head = read_head(source)
    target = target or source.with_suffix(ending_of(head.kind))
    check_places(source, target)
    if head.update != (base is not None):
        raise ConfigError(
            f"{source} is {'an update' if head.update else 'no update'}",
            "give --base with what it changes" if head.update else "leave out --base",
        )
    with about(source), source.open("rb") as file:
        restored = (
            _updated(source, file, head, base, max_values)
            if base is not None
            else _plain(source, file, head, threads, max_values, tell)
        )
        write_model(target, restored)
    return Unpacked(
        input=str(source),
        output=str(target),
        input_bytes=source.stat().st_size,
        output_bytes=target.stat().st_size,
        tensors_count=len(restored.infos),
        wall_s=time.perf_counter() - started[0],
        cpu_s=time.process_time() - started[1],
    )


def _plain(source: Path, file: BinaryIO, head: Head, threads: int, max_values: int | None, tell: Tell) -> Restored:
    found = inspect(source, check=False, max_values=max_values)
    told = Share(tell, "unpacking", found.size_bytes)
    tensors = iter_unpack(file, threads=threads, max_values=max_values, progress=told)
    if not all(map(_is_foreseeable, found.tensors)):
        return Restored.of(dict(tensors), head.kind, head.metadata)
    infos = [TensorInfo(tensor.name, tensor.dtype, tensor.shape) for tensor in found.tensors]
    return Restored(infos, tensors, head.kind, head.metadata)


def _is_foreseeable(tensor: TensorSummary) -> bool:
    """Tell whether what leads a tensor in says what comes out: the parts of a block become other tensors."""
    sane = tensor.dtype in SIZES and min(tensor.shape, default=0) >= 0 and math.prod(tensor.shape) < _MOST_VALUES
    return sane and tensor.payload != "BLOCK"


def _updated(source: Path, file: BinaryIO, head: Head, base: Path, max_values: int | None) -> Restored:
    known = read_arrays(base)
    if head.metadata.get(BASE, "") not in ("", digest(known)):
        raise ConfigError(
            f"{source} does not change {base} but another model", "give the base with which it was packed"
        )
    return Restored.of(apply_update(known, file.read(), max_values=max_values), head.kind, head.metadata)
