"""What an NNC stream is made of: its units and tensors, and what each costs."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import BinaryIO

import msgspec

from wattwerk.codec.data_unit import CodedTensor, DataUnit, PayloadType
from wattwerk.codec.elements import SIZES, format_dtype
from wattwerk.codec.sidecar import NOTHING, Note
from wattwerk.codec.syntax import TopologyUnit, UnitType
from wattwerk.codec.tensor_decoding import Budget, Coded, Decoded, decode_unit
from wattwerk.codec.unpacking import Shapes, Step, stream_length, walk


class UnitSummary(msgspec.Struct, frozen=True):
    """A unit: its kind, and where it lies.

    Attributes:
        type: STR, MPS, LPS, TPL, QNT, NDU or AGG.
        offset_bytes: From the start of the stream.
        size_bytes: The whole unit.
        header_bytes: What of it is not payload.
        detail: A few words about its content.
    """

    type: str
    offset_bytes: int
    size_bytes: int
    header_bytes: int
    detail: str


class TensorSummary(msgspec.Struct, frozen=True):
    """A tensor of a stream.

    Attributes:
        name: Its name.
        shape: Its shape.
        dtype: Element type that it comes back as.
        payload: INT, FLOAT, RAW_FLOAT, BLOCK, or EMPTY without a data unit.
        offset_bytes: Where its unit starts.
        size_bytes: Its unit; the tensors of a block share it by their number of values.
        share: Part of the whole stream, 0 to 1.
        bits_per_weight: Size over number of elements; 0 without elements.
        tools: Names of the tools that are used.
        unary_length: Levels with flags of their own.
        qp: Quantisation parameter; None if it has none or the payload was not decoded.
        step: Step size; None likewise.
        zeros: Part of the levels that is zero; None likewise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    payload: str
    offset_bytes: int
    size_bytes: float
    share: float
    bits_per_weight: float
    tools: tuple[str, ...]
    unary_length: int
    qp: int | None = None
    step: float | None = None
    zeros: float | None = None


class Inspection(msgspec.Struct, frozen=True):
    """A stream.

    Attributes:
        size_bytes: Its length.
        profile: 0 or 1.
        checked: Whether every payload was decoded.
        update: Whether tensors can be differences to a base.
        container: Kind of file that the tensors came from.
        metadata: Texts that came with them.
        units: All units in order.
        tensors: All tensors in order.
        values: Elements of all tensors.
        original_bytes: What the tensors take in memory.
    """

    size_bytes: int
    profile: int
    checked: bool
    update: bool
    container: str | None
    metadata: dict[str, str] | None
    units: tuple[UnitSummary, ...]
    tensors: tuple[TensorSummary, ...]
    values: int
    original_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Size of the stream over the number of elements."""
        return 8 * self.size_bytes / self.values if self.values else 0.0

    @property
    def ratio(self) -> float:
        """How many times smaller the stream is than the tensors in memory."""
        return self.original_bytes / self.size_bytes


def inspect(
    source: bytes | bytearray | memoryview | str | os.PathLike[str],
    *,
    check: bool = True,
    max_values: int | None = None,
    shapes: Shapes | None = None,
) -> Inspection:
    """Tell what a stream is made of.

    Args:
        source: The stream, or the path of a file with it.
        check: Decode every payload, one at a time; only that finds QP, zeros, and damage inside of payloads. Updates
            after the first one to a tensor may need the one before: their payload is passed over.
        max_values: As in `unpack`.
        shapes: As in `unpack`.

    Raises:
        BitstreamError: The stream is damaged, or exceeds the bound; the message names the byte.
    """
    if isinstance(source, str | os.PathLike):
        with Path(source).open("rb") as file:
            return _inspect(file, check, max_values, shapes)
    return _inspect(io.BytesIO(source), check, max_values, shapes)


def _inspect(file: BinaryIO, check: bool, max_values: int | None, shapes: Shapes | None) -> Inspection:
    size = stream_length(file)
    units: list[UnitSummary] = []
    tensors: list[TensorSummary] = []
    head, profile, update, checked = NOTHING, 1, False, check
    for step in walk(file, Budget(size, max_values), shapes):
        profile, update = step.context.profile, step.context.parent_signalling
        if step.note is not None and not units[2:]:
            head = step.note
        units.append(_unit_summary(step))
        if step.coded is not None:
            readable = check and not _needs_reference(step.coded.unit)
            checked &= readable
            tensors += _tensor_summaries(step.coded, decode_unit(step.coded) if readable else [], size)
        elif step.note is not None and step.note.empty is not None:
            tensors.append(_empty_summary(step, step.note, size))
    return Inspection(
        size_bytes=size,
        profile=profile,
        checked=checked,
        update=update,
        container=head.container,
        metadata=head.metadata,
        units=tuple(units),
        tensors=tuple(tensors),
        values=sum(math.prod(t.shape) for t in tensors),
        original_bytes=sum(math.prod(t.shape) * SIZES.get(t.dtype, 4) for t in tensors),
    )


def _needs_reference(unit: DataUnit) -> bool:
    """Whether it may take earlier updates to decode it; whether their history is in use stands in the payload only."""
    if unit.parent is None:
        return False
    return unit.parent.temporal_context or unit.node is None or unit.node.depth > 1


def _unit_summary(step: Step) -> UnitSummary:
    frame = step.frame
    header = step.coded.start if step.coded else frame.size
    return UnitSummary(frame.type.name, frame.offset, frame.size, header, _detail(step))


def _detail(step: Step) -> str:
    unit = step.unit
    if isinstance(unit, DataUnit):
        return ", ".join(unit.names)
    if step.note is not None:
        return f"note about {step.note.empty or 'the next tensor'}" if step.note.dtype else "note"
    if isinstance(unit, TopologyUnit):
        return unit.text[:60] or "no topology"
    return f"profile {step.context.profile}" if step.frame.type == UnitType.STR else ""


def _tensor_summaries(coded: Coded, decoded: list[Decoded], stream_bytes: int) -> list[TensorSummary]:
    unit = coded.unit
    total = sum(math.prod(t.shape) for t in unit.tensors) or 1
    found = {tensor.name: tensor for tensor in decoded}
    summaries = []
    for tensor in unit.tensors:
        size = len(coded.data) * math.prod(tensor.shape) / total
        dtype, shape = _original(coded, tensor)
        result = found.get(tensor.name)
        summaries.append(
            TensorSummary(
                name=tensor.name,
                shape=shape,
                dtype=dtype,
                payload=unit.payload_type.name,
                offset_bytes=coded.offset,
                size_bytes=size,
                share=size / stream_bytes if stream_bytes else 0.0,
                bits_per_weight=8 * size / (math.prod(shape) or 1),
                tools=_tools(coded),
                unary_length=unit.unary_length,
                qp=result.qp if result else None,
                step=result.step if result and result.qp is not None else None,
                zeros=_zeros(result),
            )
        )
    return summaries


def _original(coded: Coded, tensor: CodedTensor) -> tuple[str, tuple[int, ...]]:
    note = coded.note
    natural = "int32" if coded.unit.payload_type == PayloadType.INT else "float32"
    dtype = note.dtype or format_dtype(coded.unit.data_format, natural)
    return dtype, tensor.shape if note.shape is None else note.shape


def _zeros(tensor: Decoded | None) -> float | None:
    if tensor is None or tensor.levels is None or not tensor.levels.size:
        return None
    return float((tensor.levels == 0).mean())


def _tools(coded: Coded) -> tuple[str, ...]:
    unit = coded.unit
    used = {
        "dependent quantisation": unit.dependent and unit.payload_type != PayloadType.INT,
        "codebook": unit.codebook is not None,
        f"block scan {4 << unit.scan_order}": unit.scan_order > 0,
        "low rank": unit.rank > 0,
        "temporal contexts": unit.parent is not None and unit.parent.temporal_context,
        "difference": unit.parent is not None,
        "byte planes": coded.note.planes,
    }
    return tuple(name for name, is_used in used.items() if is_used)


def _empty_summary(step: Step, note: Note, stream_bytes: int) -> TensorSummary:
    return TensorSummary(
        name=note.empty or "",
        shape=note.shape or (0,),
        dtype=note.dtype or "float32",
        payload="EMPTY",
        offset_bytes=step.frame.offset,
        size_bytes=step.frame.size,
        share=step.frame.size / stream_bytes if stream_bytes else 0.0,
        bits_per_weight=0.0,
        tools=(),
        unary_length=0,
    )
