"""The units that an NNC stream is made of, and the walk through them.

    size   type   payload                       A stream is STR, MPS, then TPL and LPS where there are any, and one NDU
    STR           profile                       for each tensor or block of tensors. A unit says its whole size in its
    MPS LPS       parameter sets                first two or four bytes.
    TPL QNT       text about topology, quantisation
    NDU           header, then coded or raw values
    AGG           several units in one

Source: ISO/IEC 15938-17, clause on NNR units; checked against streams of the reference software.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import msgspec

from wattwerk.codec.bits import BitReader, BitWriter
from wattwerk.codec.data_unit import Context, DataUnit
from wattwerk.codec.data_unit_syntax import read_data_unit, write_data_unit
from wattwerk.codec.parameter_sets import (
    LayerParameterSet,
    ModelParameterSet,
    read_layer_parameter_set,
    read_model_parameter_set,
    write_layer_parameter_set,
    write_model_parameter_set,
)

_SHORT_UNIT_BYTES = 1 << 15
_LONG_UNIT_BYTES = 1 << 31
_SMALLEST_UNIT_BYTES = 3
SIZE_FIELD_BYTES = 4  # of the longer form; so much must be read of a stream to know a unit's size


class UnitType(enum.IntEnum):
    """Kinds of units."""

    STR = 0
    MPS = 1
    LPS = 2
    TPL = 3
    QNT = 4
    NDU = 5
    AGG = 6


class TopologyFormat(enum.IntEnum):
    """What the text of a topology unit is."""

    UNRECOGNISED = 0
    NNEF = 1
    ONNX = 2
    PYTORCH = 3
    TENSORFLOW = 4
    PRUNING = 5
    NAMES = 6


class StartUnit(msgspec.Struct, frozen=True):
    """The first unit: 0 for streams of the first edition, 1 for the second edition's."""

    profile: int = 1


class TopologyUnit(msgspec.Struct, frozen=True):
    """Something about the graph that the tensors belong to.

    Attributes:
        format: What `text` is.
        compression: 0 for none.
        text: Anything without a zero character.
        names: Instead of the text where the format is NAMES.
    """

    format: int = TopologyFormat.UNRECOGNISED
    compression: int = 0
    text: str = ""
    names: tuple[str, ...] = ()


class QuantisationUnit(msgspec.Struct, frozen=True):
    """A text about the quantisation."""

    format: int = 0
    compression: int = 0
    text: str = ""


class AggregateUnit(msgspec.Struct, frozen=True):
    """Several units in one; its content is not looked into."""

    content: bytes = b""


Unit = StartUnit | ModelParameterSet | LayerParameterSet | TopologyUnit | QuantisationUnit | DataUnit | AggregateUnit

_TYPES: dict[type, UnitType] = {
    StartUnit: UnitType.STR,
    ModelParameterSet: UnitType.MPS,
    LayerParameterSet: UnitType.LPS,
    TopologyUnit: UnitType.TPL,
    QuantisationUnit: UnitType.QNT,
    DataUnit: UnitType.NDU,
    AggregateUnit: UnitType.AGG,
}


class Frame(msgspec.Struct, frozen=True):
    """Where a unit lies, before it is read.

    Attributes:
        type: Kind of unit.
        offset: First byte in the stream.
        size: Bytes, the size field included.
        body: First byte behind the unit header, counted from `offset`.
        independent: Whether the unit can be decoded without another one.
        part: Counts the parts of a payload that is spread over several units; None if it is whole.
    """

    type: UnitType
    offset: int
    size: int
    body: int
    independent: bool = True
    part: int | None = None


def unit_size(start: bytes | memoryview, offset: int) -> int:
    """Return a unit's size in bytes from its first bytes.

    Args:
        start: At least the first four bytes of the unit, or what is left of the stream.
        offset: Where the unit starts in the stream.

    Raises:
        BitstreamError: The stream ends, or no unit is that small.
    """
    reader = BitReader(start, origin=offset)
    size = reader.u(31) if reader.flag() else reader.u(15)
    if size < _SMALLEST_UNIT_BYTES:
        raise reader.error(f"a unit of {size} bytes does not exist")
    return size


def read_frame(data: bytes | memoryview, offset: int = 0) -> tuple[Frame, BitReader]:
    """Read the size and the header of a unit.

    Args:
        data: Exactly the unit.
        offset: Where it starts in the stream.

    Returns:
        The frame, and a reader that stands behind the unit header.

    Raises:
        BitstreamError: They are damaged, or the kind of unit is not known.
    """
    reader = BitReader(data, origin=offset)
    size = reader.u(31) if reader.flag() else reader.u(15)
    number = reader.u(6)
    if number not in UnitType.__members__.values():
        raise reader.error(f"the kind of unit {number} does not exist")
    independent, has_part = reader.flag(), reader.flag()
    part = reader.u(8) if has_part else None
    body = reader.byte_position
    return Frame(UnitType(number), offset=offset, size=size, body=body, independent=independent, part=part), reader


def read_unit(
    frame: Frame, reader: BitReader, context: Context, shapes: Mapping[str, Sequence[int]] | None = None
) -> Unit:
    """Read a unit; of a data unit only the header.

    Args:
        frame: What `read_frame` found.
        reader: Stands behind the unit header; afterwards behind the unit, or before a data unit's payload.
        context: What earlier units said.
        shapes: Shapes by name, for data units that do not carry theirs.

    Raises:
        BitstreamError: The unit is damaged.
    """
    if frame.part:
        raise reader.error("a payload spread over several units is not supported")
    if frame.type == UnitType.NDU:
        return read_data_unit(reader, context, shapes)
    unit = _read_other(frame.type, reader, context)
    if reader.bits_left:
        raise reader.error(f"{reader.bits_left // 8} bytes are left over in a unit of type {frame.type.name}")
    return unit


def _read_other(kind: UnitType, reader: BitReader, context: Context) -> Unit:
    if kind == UnitType.STR:
        return StartUnit(_read_profile(reader))
    if kind == UnitType.MPS:
        return read_model_parameter_set(reader, context.profile)
    if kind == UnitType.LPS:
        return read_layer_parameter_set(reader)
    if kind == UnitType.TPL:
        return _read_topology(reader)
    if kind == UnitType.QNT:
        return QuantisationUnit(format=reader.u(8), compression=reader.u(8), text=reader.st())
    return AggregateUnit(reader.rest())


def _read_profile(reader: BitReader) -> int:
    profile = reader.u(8)
    if profile not in (0, 1):
        raise reader.error(f"the profile {profile} is not known")
    return profile


def _read_topology(reader: BitReader) -> TopologyUnit:
    kind, compression = reader.u(8), reader.u(8)
    if kind != TopologyFormat.NAMES:
        return TopologyUnit(kind, compression, text=reader.st())
    count = reader.ue(7) + 2
    if count > reader.bits_left:
        raise reader.error(f"{count} names do not fit into the unit")
    reader.align()
    return TopologyUnit(kind, compression, names=tuple(reader.st() for _ in range(count)))


def write_unit(unit: Unit, context: Context, *, payload_bytes: int = 0) -> bytes:
    """Return a unit's bytes; of a data unit all that stands before the payload.

    Args:
        unit: What to write.
        context: What earlier units said.
        payload_bytes: Size of the payload that will follow.

    Raises:
        ValueError: Something in the unit does not fit, or the whole is 2 GiB or larger.
    """
    writer = BitWriter()
    writer.u(6, _TYPES[type(unit)])
    writer.flag(True)  # independently decodable
    writer.flag(False)  # not a part of a payload
    _write_body(writer, unit, context)
    return _framed(writer.to_bytes(), payload_bytes)


def _write_body(writer: BitWriter, unit: Unit, context: Context) -> None:
    if isinstance(unit, DataUnit):
        write_data_unit(writer, unit, context)
    elif isinstance(unit, StartUnit):
        writer.u(8, unit.profile)
    elif isinstance(unit, ModelParameterSet):
        write_model_parameter_set(writer, unit, context.profile)
    elif isinstance(unit, LayerParameterSet):
        write_layer_parameter_set(writer, unit)
    elif isinstance(unit, AggregateUnit):
        writer.u(len(unit.content) * 8, int.from_bytes(unit.content, "big"))
    else:
        writer.u(8, unit.format)
        writer.u(8, unit.compression)
        _write_topology_payload(writer, unit)


def _write_topology_payload(writer: BitWriter, unit: TopologyUnit | QuantisationUnit) -> None:
    if not isinstance(unit, TopologyUnit) or unit.format != TopologyFormat.NAMES:
        writer.st(unit.text)
        return
    writer.ue(7, len(unit.names) - 2)
    writer.align()
    for name in unit.names:
        writer.st(name)


def _framed(head: bytes, payload_bytes: int) -> bytes:
    size = 2 + len(head) + payload_bytes
    if size < _SHORT_UNIT_BYTES:
        return size.to_bytes(2, "big") + head
    size += 2
    if size >= _LONG_UNIT_BYTES:
        raise ValueError(f"a unit of {size} bytes is larger than the format allows (2 GiB)")
    return (1 << 31 | size).to_bytes(4, "big") + head


def following_context(context: Context, unit: Unit) -> Context:
    """Return what the units after this one need to know."""
    if isinstance(unit, StartUnit):
        return Context(profile=unit.profile)
    if isinstance(unit, ModelParameterSet):
        return msgspec.structs.replace(context, parent_signalling=unit.parent_signalling, indexed=unit.indexed)
    if isinstance(unit, TopologyUnit) and unit.names:
        return msgspec.structs.replace(context, names=unit.names)
    return context
