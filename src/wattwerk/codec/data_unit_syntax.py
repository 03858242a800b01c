"""Read and write the header of a data unit (NDU).

Source: ISO/IEC 15938-17, clause on the compressed data unit header; checked against streams of the reference software.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from wattwerk.codec.bits import BitReader, BitWriter, exp_golomb_bits
from wattwerk.codec.data_unit import (
    Codebook,
    Context,
    DataUnit,
    EntryPoint,
    NodeId,
    Parent,
    ParentType,
    Parts,
    PayloadType,
    block_roles,
    block_rows,
)

_MAX_DIMENSIONS = 32  # NumPy 1 has no more
_MAX_SCAN_ORDER = 4
_Enum = TypeVar("_Enum", bound=enum.IntEnum)


def write_data_unit(writer: BitWriter, unit: DataUnit, context: Context) -> None:
    """Write the header of a data unit.

    Raises:
        ValueError: Something in it has no place in this profile or does not fit.
    """
    multiple = max(len(unit.names), len(unit.indices)) > 1
    writer.u(5, unit.payload_type)
    writer.flag(multiple)
    writer.flag(unit.data_format is not None)
    writer.flag(unit.inputs_in_band)
    _write_names(writer, unit, context, multiple)
    if context.profile == 1:
        _write_identity(writer, unit, context)
    elif unit.node or unit.parent:
        raise ValueError("only profile 1 carries node identifiers and parents")
    if unit.payload_type in (PayloadType.FLOAT, PayloadType.BLOCK):
        writer.flag(unit.codebook is not None)
        if unit.codebook is not None:
            _write_codebook(writer, unit.codebook)
    if unit.payload_type != PayloadType.RAW_FLOAT:
        writer.flag(unit.dependent)
    if unit.data_format is not None:
        writer.u(7, unit.data_format)
    if unit.inputs_in_band:
        _write_inputs(writer, unit)
    if _has_second_codebook(unit.payload_type, unit.parts, unit.codebook):
        if unit.second_codebook is None:
            raise ValueError("a decomposed weight with a codebook needs one for each factor")
        _write_codebook(writer, unit.second_codebook)
    if len(unit.shape) > 1:
        if context.profile == 1:
            writer.ue(1, 0)  # shift of the first dimension
        _write_scan(writer, unit)
    writer.align()


def _write_names(writer: BitWriter, unit: DataUnit, context: Context, multiple: bool) -> None:
    if multiple:
        writer.ue(7, max(len(unit.names), len(unit.indices)) - 2)
    if context.indexed:
        for index in unit.indices:
            writer.ue(7, index)
        if multiple:
            writer.align()
        return
    if multiple:
        writer.align()
    for name in unit.names:
        writer.st(name)


def _write_identity(writer: BitWriter, unit: DataUnit, context: Context) -> None:
    node, parent = unit.node, unit.parent
    writer.flag(node is not None)
    if node is not None:
        writer.ue(1, node.device)
        _write_place(writer, node)
    if not context.parent_signalling:
        if parent is not None:
            raise ValueError("a parent needs a model parameter set with parent signalling")
        return
    writer.flag(parent is not None)
    if parent is None:
        return
    writer.u(2, parent.type)
    writer.flag(parent.temporal_context)
    if parent.type != ParentType.NODE:
        writer.u(_digest_bits(parent.type), int.from_bytes(parent.digest, "big"))
        return
    writer.ue(1, parent.device)
    if node is None:
        raise ValueError("a unit with a parent node needs a node identifier of its own")


def _write_place(writer: BitWriter, node: NodeId) -> None:
    writer.ue(5, node.parameter)
    writer.ue(4, node.depth)


def _write_codebook(writer: BitWriter, codebook: Codebook) -> None:
    entries, zero = codebook.entries, codebook.zero
    writer.u(4, codebook.order)
    writer.ue(2, len(entries))
    writer.ie(2, zero - (len(entries) >> 1))
    writer.ie(7, entries[zero])
    for j in range(zero - 1, -1, -1):
        writer.ue(codebook.order, entries[j + 1] - entries[j] - 1)
    for j in range(zero + 1, len(entries)):
        writer.ue(codebook.order, entries[j] - entries[j - 1] - 1)


def codebook_bits(codebook: Codebook) -> int:
    """Return how many bits a codebook takes in the stream."""
    size, zero, order = len(codebook.entries), codebook.zero, codebook.order
    gaps = (b - a - 1 for a, b in zip(codebook.entries, codebook.entries[1:], strict=False))
    head = 4 + exp_golomb_bits(2, size) + _signed_bits(2, zero - (size >> 1)) + _signed_bits(7, codebook.entries[zero])
    return head + sum(exp_golomb_bits(order, gap) for gap in gaps)


def _signed_bits(order: int, value: int) -> int:
    return exp_golomb_bits(order, -2 * value if value <= 0 else 2 * value - 1)


def _write_inputs(writer: BitWriter, unit: DataUnit) -> None:
    writer.flag(unit.shape_in_band)
    writer.flag(unit.unary_in_band)
    writer.u(4, unit.parts)
    if unit.decomposed:
        writer.ue(3, unit.rank)
        writer.ue(3, unit.rows)
    if unit.shape_in_band:
        writer.ue(1, len(unit.shape))
        for dimension in unit.shape:
            writer.ue(7, dimension)
    if unit.unary_in_band:
        writer.u(8, unit.unary_length - 1)


def _write_scan(writer: BitWriter, unit: DataUnit) -> None:
    writer.u(4, unit.scan_order)
    if unit.scan_order == 0:
        return
    if len(unit.entry_points) != block_rows(unit):
        raise ValueError(f"{block_rows(unit)} entry points are needed, {len(unit.entry_points)} are there")
    before: int | None = None
    for point in unit.entry_points:
        writer.u(8, point.value)
        if unit.dependent:
            writer.u(3, point.state)
        if before is None:
            writer.ue(11, point.bits)
        else:
            writer.ie(7, point.bits - before)
        before = point.bits


def _has_second_codebook(payload_type: PayloadType, parts: Parts, codebook: Codebook | None) -> bool:
    return payload_type == PayloadType.BLOCK and bool(parts & Parts.DECOMPOSED) and codebook is not None


def _digest_bits(kind: ParentType) -> int:
    return 256 if kind == ParentType.SHA256 else 512


def read_data_unit(reader: BitReader, context: Context, shapes: Mapping[str, Sequence[int]] | None = None) -> DataUnit:
    """Read the header of a data unit; the payload starts where the reader then stands.

    Args:
        reader: Stands behind the unit header.
        context: What earlier units said.
        shapes: Shapes by name, for units that do not carry theirs.

    Raises:
        BitstreamError: The header is damaged, or its shape is in neither of both.
    """
    payload_type = _read_enum(reader, PayloadType, 5, "payload type")
    multiple, has_format, has_inputs = (reader.flag() for _ in range(3))
    names, indices = _read_names(reader, context, multiple)
    node, parent = _read_identity(reader, context) if context.profile == 1 else (None, None)
    has_book = payload_type in (PayloadType.FLOAT, PayloadType.BLOCK) and reader.flag()
    codebook = _read_codebook(reader) if has_book else None
    dependent = payload_type != PayloadType.RAW_FLOAT and reader.flag()
    data_format = reader.u(7) if has_format else None
    unit = DataUnit(
        payload_type=payload_type,
        names=names,
        indices=indices,
        shape=(),
        dependent=dependent,
        data_format=data_format,
        node=node,
        parent=parent,
        codebook=codebook,
        shape_in_band=False,
        unary_in_band=False,
        inputs_in_band=has_inputs,
    )
    if has_inputs:
        unit = msgspec.structs.replace(unit, **_read_inputs(reader))
    if not unit.shape_in_band:
        unit = msgspec.structs.replace(unit, shape=_known_shape(reader, names, shapes))
    _check_unit(reader, unit, multiple)
    return _read_rest(reader, unit, context)


def _read_inputs(reader: BitReader) -> dict[str, object]:
    has_shape, has_unary = reader.flag(), reader.flag()
    parts = Parts(reader.u(4))
    found: dict[str, object] = {"shape_in_band": has_shape, "unary_in_band": has_unary, "parts": parts}
    if parts is not Parts.NONE and parts & Parts.DECOMPOSED:
        found |= {"rank": reader.ue(3), "rows": reader.ue(3)}
    if has_shape:
        found["shape"] = _read_shape(reader)
    if has_unary:
        found["unary_length"] = reader.u(8) + 1
    return found


def _read_rest(reader: BitReader, unit: DataUnit, context: Context) -> DataUnit:
    changes: dict[str, object] = {}
    if _has_second_codebook(unit.payload_type, unit.parts, unit.codebook):
        changes["second_codebook"] = _read_codebook(reader)
    if len(unit.shape) > 1:
        if context.profile == 1 and reader.ue(1) != 0:
            raise reader.error("a shifted first dimension is not supported")
        changes["scan_order"] = scan_order = reader.u(4)
        if scan_order > _MAX_SCAN_ORDER:
            raise reader.error(f"the scan order {scan_order} does not exist")
        if scan_order:
            count = block_rows(msgspec.structs.replace(unit, scan_order=scan_order))
            changes["entry_points"] = _read_entry_points(reader, count, unit.dependent)
    reader.align()
    return msgspec.structs.replace(unit, **changes) if changes else unit


def _check_unit(reader: BitReader, unit: DataUnit, multiple: bool) -> None:
    if multiple != (unit.payload_type == PayloadType.BLOCK):
        raise reader.error("several tensors in a unit and a block payload go together only")
    if multiple and len(unit.names) != len(block_roles(unit.parts)):
        raise reader.error(f"a block of {len(block_roles(unit.parts))} tensors has {len(unit.names)} names")
    if multiple and not unit.shape:
        raise reader.error("the weight of a block has no dimensions")
    if unit.decomposed and (not unit.rank or not unit.rows or math.prod(unit.shape) % unit.rows):
        raise reader.error(f"a weight of shape {unit.shape} is no product with {unit.rows} rows and rank {unit.rank}")


def _read_names(reader: BitReader, context: Context, multiple: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
    count = reader.ue(7) + 2 if multiple else 1
    if count > reader.bits_left:
        raise reader.error(f"{count} names do not fit into the unit")
    if not context.indexed:
        if multiple:
            reader.align()
        return tuple(reader.st() for _ in range(count)), ()
    indices = tuple(reader.ue(7) for _ in range(count))
    if max(indices) >= len(context.names):
        raise reader.error(f"the list of names ends before index {max(indices)}")
    if multiple:
        reader.align()
    return tuple(context.names[index] for index in indices), indices


def _read_identity(reader: BitReader, context: Context) -> tuple[NodeId | None, Parent | None]:
    node = None
    if reader.flag():
        node = NodeId(device=reader.ue(1), parameter=reader.ue(5), depth=reader.ue(4))
    if not context.parent_signalling or not reader.flag():
        return node, None
    kind = _read_enum(reader, ParentType, 2, "type of parent")
    temporal = reader.flag()
    if kind != ParentType.NODE:
        bits = _digest_bits(kind)
        return node, Parent(type=kind, temporal_context=temporal, digest=reader.u(bits).to_bytes(bits // 8, "big"))
    device = reader.ue(1)
    if node is None:
        node = NodeId(device=device, parameter=reader.ue(5), depth=reader.ue(4))
    return node, Parent(type=kind, temporal_context=temporal, device=device)


def _read_codebook(reader: BitReader) -> Codebook:
    order, size = reader.u(4), reader.ue(2)
    if not 1 <= size <= reader.bits_left:  # an entry takes a bit at least
        raise reader.error(f"a codebook of {size} entries does not fit into the unit")
    zero = (size >> 1) + reader.ie(2)
    if not 0 <= zero < size:
        raise reader.error(f"the zero of a codebook of {size} entries has the index {zero}")
    middle = reader.ie(7)
    left, right = [middle], [middle]
    for _ in range(zero):
        left.append(left[-1] - reader.ue(order) - 1)
    for _ in range(size - zero - 1):
        right.append(right[-1] + reader.ue(order) + 1)
    if left[-1] < -(1 << 31) or right[-1] >= 1 << 31:
        raise reader.error("a codebook leaves the range of 32 bits")
    return Codebook(order=order, zero=zero, entries=(*reversed(left), *right[1:]))


def _read_shape(reader: BitReader) -> tuple[int, ...]:
    count = reader.ue(1)
    if count > _MAX_DIMENSIONS:
        raise reader.error(f"a tensor has {count} dimensions, more than {_MAX_DIMENSIONS}")
    return tuple(reader.ue(7) for _ in range(count))


def _known_shape(
    reader: BitReader, names: tuple[str, ...], shapes: Mapping[str, Sequence[int]] | None
) -> tuple[int, ...]:
    for name in names:
        for known in (name, name.removesuffix("_G")):
            if shapes and known in shapes:
                return tuple(int(d) for d in shapes[known])
    raise reader.error(f"the stream does not carry the shape of {names[0]!r}: give the shapes of the base model")


def _read_entry_points(reader: BitReader, count: int, dependent: bool) -> tuple[EntryPoint, ...]:
    if count * 9 > reader.bits_left:
        raise reader.error(f"{count} entry points do not fit into the unit")
    points: list[EntryPoint] = []
    for _ in range(count):
        value = reader.u(8)
        state = reader.u(3) if dependent else 0
        bits = points[-1].bits + reader.ie(7) if points else reader.ue(11)
        if bits < 0:
            raise reader.error("an entry point lies before the one in front of it")
        points.append(EntryPoint(value=value, state=state, bits=bits))
    return tuple(points)


def _read_enum(reader: BitReader, kind: type[_Enum], bits: int, what: str) -> _Enum:
    value = reader.u(bits)
    try:
        return kind(value)
    except ValueError:
        raise reader.error(f"the {what} {value} does not exist") from None
