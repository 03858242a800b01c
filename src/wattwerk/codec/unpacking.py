"""Unpack NNC streams into named arrays."""

from __future__ import annotations

import io
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeAlias

import msgspec
import numpy as np

from wattwerk.codec.data_unit import Context, DataUnit
from wattwerk.codec.elements import Array, empty_array
from wattwerk.codec.options import processors
from wattwerk.codec.parameter_sets import LayerParameterSet, ModelParameterSet, Quantisation
from wattwerk.codec.sidecar import NOTHING, Note, read_note
from wattwerk.codec.syntax import (
    SIZE_FIELD_BYTES,
    Frame,
    TopologyUnit,
    Unit,
    UnitType,
    following_context,
    read_frame,
    read_unit,
    unit_size,
)
from wattwerk.codec.tensor_decoding import Budget, Coded, Decoded, decode_unit
from wattwerk.errors import BitstreamError

Progress: TypeAlias = Callable[[str, int], None]
Shapes: TypeAlias = Mapping[str, Sequence[int]]

_AHEAD_VALUES = 1 << 23  # how many decoded values may wait while one tensor is decoded


class Step(msgspec.Struct, frozen=True):
    """One unit of a stream on the way through it.

    Attributes:
        frame: Where it lies.
        unit: What it says.
        note: The note in it, if it is a topology unit with one.
        coded: What is needed to decode it, if it is a data unit.
        context: What is known after it.
    """

    frame: Frame
    unit: Unit
    note: Note | None
    coded: Coded | None
    context: Context


def unpack(
    data: bytes | bytearray | memoryview,
    *,
    max_values: int | None = None,
    shapes: Shapes | None = None,
    apply_scaling: bool | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> dict[str, Array]:
    """Unpack an NNC stream.

    Args:
        data: The stream.
        max_values: Upper bound on the values of all tensors together; the default follows from the stream's length
            (16 Mi and 256 for each byte).
        shapes: Shapes by name, for streams that do not carry them.
        apply_scaling: Multiply weights by the local scaling in their block and leave the scaling out; None does so
            where a scaled weight was packed.
        threads: Threads over tensors and block rows; 0 takes all processors that this process may use.
        progress: Called after each tensor with its name and the bytes it took in the stream.

    Returns:
        Arrays by name, in the stream's order. bfloat16 needs the package ml_dtypes and is float32 without it.

    Raises:
        BitstreamError: The stream is damaged, or exceeds the bound; the message names the byte.
    """
    return dict(_arrays(io.BytesIO(data), max_values, shapes, apply_scaling, threads, progress, all_at_once=True))


def unpack_file(path: str | os.PathLike[str], **options: object) -> dict[str, Array]:
    """Unpack a file; arguments and errors are those of `unpack`."""
    with Path(path).open("rb") as file:
        return dict(iter_unpack(file, **options))  # type: ignore[arg-type]


def iter_unpack(
    file: BinaryIO,
    *,
    max_values: int | None = None,
    shapes: Shapes | None = None,
    apply_scaling: bool | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Iterator[tuple[str, Array]]:
    """Yield the tensors of a stream one after the other; with one thread one of them is in memory at a time.

    Args:
        file: Open for reading bytes, at the start of the stream. Its length must be known (a file, not a pipe) unless
            `max_values` is given.
        max_values: As in `unpack`.
        shapes: As in `unpack`.
        apply_scaling: As in `unpack`.
        threads: As in `unpack`.
        progress: As in `unpack`.

    Yields:
        Names and arrays.

    Raises:
        BitstreamError: The stream is damaged, or exceeds the bound; the message names the byte.
    """
    yield from _arrays(file, max_values, shapes, apply_scaling, threads, progress)


def walk(file: BinaryIO, budget: Budget, shapes: Shapes | None = None) -> Iterator[Step]:
    """Yield the units of a stream, headers read and payloads not.

    Args:
        file: At the start of the stream.
        budget: What the tensors may take.
        shapes: Shapes by name, for data units that do not carry theirs.

    Raises:
        BitstreamError: The stream is damaged, or exceeds the budget.
    """
    context, note = Context(), NOTHING
    quantisation: Quantisation | None = None
    names: set[str] = set()
    for offset, data in _units(file):
        frame, reader = read_frame(data, offset)
        _check_order(frame, quantisation)
        unit = read_unit(frame, reader, context, shapes)
        coded = found = None
        if isinstance(unit, ModelParameterSet | LayerParameterSet):
            quantisation = unit.quantisation
        elif isinstance(unit, TopologyUnit):
            found = read_note(unit.text, frame.offset)
            if found is not None:
                _register(found.empty, names, frame, budget)
                note = found if found.about_next else note
        elif isinstance(unit, DataUnit):
            budget.spend(unit, frame.offset)
            for name in unit.names:
                _register(name, names, frame)
            coded = Coded(unit, context, quantisation, note, data, reader.byte_position, frame.offset)
            note = NOTHING
        context = following_context(context, unit)
        yield Step(frame, unit, found, coded, context)


def _units(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and the bytes of each unit."""
    offset = 0
    while start := file.read(SIZE_FIELD_BYTES):
        size = unit_size(start, offset)
        data = start + _read_exactly(file, size - len(start)) if size > len(start) else start
        if len(data) < size:
            raise BitstreamError(f"the stream ends {size - len(data)} bytes before the end of a unit", offset=offset)
        if size < len(data):
            raise BitstreamError(f"a unit of {size} bytes does not exist", offset=offset)
        yield offset, data
        offset += size
    if offset == 0:
        raise BitstreamError("there is no stream: the input is empty", offset=0)


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    """Read in pieces, so that a wrong size field asks for no more memory than there are bytes."""
    data = file.read(min(size, 1 << 24))
    if len(data) == size or not data:
        return data
    pieces = [data]
    missing = size - len(data)
    while missing and (piece := file.read(min(missing, 1 << 24))):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _check_order(frame: Frame, quantisation: Quantisation | None) -> None:
    if (frame.offset == 0) != (frame.type == UnitType.STR):
        raise BitstreamError("a stream starts with a start unit, and has one only", offset=frame.offset)
    if frame.type == UnitType.MPS and quantisation is not None:
        raise BitstreamError("there is a second model parameter set", offset=frame.offset)
    if frame.type in (UnitType.LPS, UnitType.NDU) and quantisation is None:
        raise BitstreamError("the model parameter set is missing before the first tensor", offset=frame.offset)


def _register(name: str | None, names: set[str], frame: Frame, budget: Budget | None = None) -> None:
    if name is None:
        return
    if name in names:
        raise BitstreamError(f"there are two tensors named {name!r}", offset=frame.offset)
    names.add(name)
    if budget is not None:
        budget.spend_tensors(1, frame.offset)


def stream_length(file: BinaryIO) -> int:
    """Return how many bytes are left in a file; 0 where that cannot be known."""
    try:
        here = file.tell()
        end = file.seek(0, io.SEEK_END)
        file.seek(here)
    except (OSError, AttributeError):
        return 0
    return end - here


def _arrays(
    file: BinaryIO,
    max_values: int | None,
    shapes: Shapes | None,
    apply_scaling: bool | None,
    threads: int,
    progress: Progress | None,
    *,
    all_at_once: bool = False,
) -> Iterator[tuple[str, Array]]:
    budget = Budget(stream_length(file), max_values)
    names: set[str] = set()
    for step, tensors in decoded_steps(walk(file, budget, shapes), threads, all_at_once=all_at_once):
        for name, array in _whole(tensors, step, apply_scaling):
            if name in names:
                raise BitstreamError(f"there are two tensors named {name!r}", offset=step.frame.offset)
            names.add(name)
            yield name, array
            if progress is not None:
                progress(name, step.frame.size)


def decoded_steps(
    steps: Iterator[Step], threads: int, *, all_at_once: bool = False
) -> Iterator[tuple[Step, list[Decoded]]]:
    """Yield those steps that bring tensors, in order, and the tensors.

    Args:
        steps: All steps of a stream.
        threads: How many tensors at a time; 0 for one on each processor.
        all_at_once: The whole stream and all its tensors may be in memory.
    """
    threads = threads or processors()
    if threads == 1:
        for step in steps:
            if tensors := _decode(step):
                yield step, tensors
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="unpack") as pool:
        yield from _largest_first(list(steps), pool, threads) if all_at_once else _window(steps, pool, threads)


def _largest_first(steps: list[Step], pool: ThreadPoolExecutor, threads: int) -> Iterator[tuple[Step, list[Decoded]]]:
    """Decode the largest tensors first, so that no thread is left with one at the end."""
    order = sorted(range(len(steps)), key=lambda index: _values(steps[index]), reverse=True)
    waiting = {index: pool.submit(_decode, steps[index], threads) for index in order}
    try:
        for index, step in enumerate(steps):
            if tensors := waiting.pop(index).result():
                yield step, tensors
    finally:
        for future in waiting.values():
            future.cancel()


def _values(step: Step) -> int:
    return math.prod(step.coded.unit.shape) if step.coded else 0


def _window(steps: Iterator[Step], pool: ThreadPoolExecutor, threads: int) -> Iterator[tuple[Step, list[Decoded]]]:
    waiting: deque[tuple[Step, int, Future[list[Decoded]]]] = deque()
    ahead = 0
    try:
        for step in steps:
            size = _values(step)
            while len(waiting) >= threads and ahead + size > _AHEAD_VALUES:
                done, done_size, future = waiting.popleft()
                ahead -= done_size
                if tensors := future.result():
                    yield done, tensors
            waiting.append((step, size, pool.submit(_decode, step, threads)))
            ahead += size
        while waiting:
            done, _, future = waiting.popleft()
            if tensors := future.result():
                yield done, tensors
    finally:
        for _, _, future in waiting:
            future.cancel()


def whole_tensors(step: Step) -> Iterator[tuple[str, Array]]:
    """Yield the tensors that a step brings."""
    return _whole(_decode(step), step, None)


def _decode(step: Step, threads: int = 1) -> list[Decoded]:
    if step.coded is not None:
        return decode_unit(step.coded, threads=threads, keep_levels=False)
    note = step.note
    if note is None or note.empty is None:
        return []
    dtype, shape = note.dtype or "float32", note.shape if note.shape is not None else (0,)
    return [Decoded(note.empty, "tensor", dtype, empty_array(dtype, shape, step.frame.offset))]


def _whole(tensors: list[Decoded], step: Step, apply_scaling: bool | None) -> Iterator[tuple[str, Array]]:
    """Put the factors of a decomposed weight together again, and its scaling if asked for."""
    by_role = {tensor.role: tensor for tensor in tensors}
    if apply_scaling is None:
        apply_scaling = step.coded is not None and step.coded.note.scaled
    scaling = by_role.get("scaling") if apply_scaling else None
    for tensor in tensors:
        if tensor is scaling or (tensor.role == "H" and "G" in by_role):
            continue
        name, values = tensor.name, tensor.values
        if tensor.role == "G" and "H" in by_role and isinstance(step.unit, DataUnit):
            name = name.removesuffix("_G")
            with np.errstate(all="ignore"):
                values = (values @ by_role["H"].values).reshape(step.unit.shape)
        if scaling is not None and tensor.role in ("weight", "G"):
            with np.errstate(all="ignore"):
                values = values * scaling.values.reshape(-1, *[1] * (values.ndim - 1))
        yield name, values
