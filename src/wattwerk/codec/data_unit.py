"""What the header of a data unit (NDU) says: which tensors follow, in which shape, and with which tools they are coded.

`data_unit_syntax` reads and writes it. Source: ISO/IEC 15938-17, clause on the compressed data unit header.
"""

from __future__ import annotations

import enum
import math

import msgspec

DEFAULT_UNARY_LENGTH = 10  # what holds where the header names none


class PayloadType(enum.IntEnum):
    """What the payload of a data unit is."""

    INT = 0
    FLOAT = 1
    RAW_FLOAT = 2
    BLOCK = 3


class DataFormat(enum.IntEnum):
    """Element type that a tensor had before it was coded."""

    INT32 = 0
    FLOAT32 = 1
    INT2 = 2
    INT3 = 3
    INT4 = 4
    INT8 = 5
    INT16 = 6
    INT64 = 7
    FLOAT16 = 8
    FLOAT64 = 9


class Parts(enum.IntFlag):
    """Which parameters a block holds beside or instead of the weight."""

    NONE = 0
    DECOMPOSED = 1  # the weight is the product of G and H
    SCALING = 2
    BATCH_NORM = 4
    BIAS = 8


class ParentType(enum.IntEnum):
    """How a data unit names the one that it is a difference to."""

    NODE = 0
    SHA256 = 1
    SHA512 = 2


class NodeId(msgspec.Struct, frozen=True):
    """Who a data unit is: device, parameter, and how many updates it is away from the base model."""

    device: int = 0
    parameter: int = 0
    depth: int = 0


class Parent(msgspec.Struct, frozen=True):
    """What a data unit is a difference to.

    Attributes:
        type: Kind of the reference.
        temporal_context: Whether the parent's levels choose the contexts (TCA).
        device: The parent's device, for the type NODE.
        digest: SHA-256 or SHA-512 of the parent's payload, for the other types.
    """

    type: ParentType = ParentType.NODE
    temporal_context: bool = False
    device: int = 0
    digest: bytes = b""


class Codebook(msgspec.Struct, frozen=True):
    """Ascending integers that levels are indices of; a value is step × entry.

    Attributes:
        order: Exp-Golomb order of the gaps between entries.
        zero: Index of the entry that the level 0 stands for.
        entries: The integers.
    """

    order: int
    zero: int
    entries: tuple[int, ...]


class EntryPoint(msgspec.Struct, frozen=True):
    """Where the decoder can enter at the start of a row of blocks.

    Attributes:
        value: The arithmetic decoder's register, 8 bits.
        state: State of the dependent quantisation.
        bits: Distance to the entry point before, in bits.
    """

    value: int
    state: int
    bits: int


class DataUnit(msgspec.Struct, frozen=True, kw_only=True):
    """Header of a data unit.

    Attributes:
        payload_type: What follows.
        names: Names of the tensors in the order of the stream; empty in an indexed stream.
        indices: Indices into the topology's list of names, in an indexed stream only.
        shape: Dimensions of the tensor, or of a block's weight before decomposition.
        dependent: Dependent quantisation.
        unary_length: How many levels have flags of their own before the Exp-Golomb code starts.
        scan_order: 0 for raster order, else blocks of 4 << scan_order.
        entry_points: One for each row of blocks but the first.
        parts: What a block holds.
        rank: Rank of a decomposed weight.
        rows: Rows of G of a decomposed weight.
        data_format: Element type before coding, where the stream tells.
        node: Identity of the unit (profile 1).
        parent: What it is a difference to (profile 1).
        codebook: Codebook of the weight, or of G.
        second_codebook: Codebook of H.
        shape_in_band: Whether the shape is in the stream or known from elsewhere.
        unary_in_band: Whether the unary length is in the stream.
        inputs_in_band: Whether shape, unary length and parts have a place in the stream at all.
    """

    payload_type: PayloadType
    names: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()
    shape: tuple[int, ...]
    dependent: bool = False
    unary_length: int = DEFAULT_UNARY_LENGTH
    scan_order: int = 0
    entry_points: tuple[EntryPoint, ...] = ()
    parts: Parts = Parts.NONE
    rank: int = 0
    rows: int = 0
    data_format: DataFormat | int | None = None
    node: NodeId | None = None
    parent: Parent | None = None
    codebook: Codebook | None = None
    second_codebook: Codebook | None = None
    shape_in_band: bool = True
    unary_in_band: bool = True
    inputs_in_band: bool = True

    @property
    def decomposed(self) -> bool:
        """Whether the weight is a product of two factors."""
        return self.parts is not Parts.NONE and bool(self.parts & Parts.DECOMPOSED)  # most are NONE; flags are slow

    @property
    def factor_shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Shapes of G and H of a decomposed weight."""
        return (self.rows, self.rank), (self.rank, math.prod(self.shape) // self.rows)

    @property
    def tensors(self) -> tuple[CodedTensor, ...]:
        """The tensors in the order in which they are coded, which is not the order of their names."""
        if self.payload_type != PayloadType.BLOCK:
            name = self.names[0]
            return (CodedTensor(name=name, role=_single_role(self, name), shape=_single_shape(self, name)),)
        roles = block_roles(self.parts)
        names = dict(zip(roles, self.names, strict=True))
        return tuple(CodedTensor(name=names[r], role=r, shape=_role_shape(self, r)) for r in coding_order(self.parts))


class CodedTensor(msgspec.Struct, frozen=True):
    """One tensor of a data unit: its name, what it is in a block, and its shape."""

    name: str
    role: str
    shape: tuple[int, ...]


class Context(msgspec.Struct, frozen=True):
    """What must be known from earlier units to read or write a data unit.

    Attributes:
        profile: The stream's profile: 0 or 1.
        parent_signalling: Whether data units can have parents.
        indexed: Whether tensors are named by index.
        names: The names that indices refer to.
    """

    profile: int = 1
    parent_signalling: bool = False
    indexed: bool = False
    names: tuple[str, ...] = ()


def block_roles(parts: Parts) -> tuple[str, ...]:
    """Return what the tensors of a block are, in the order of their names in the stream."""
    weight = ("G", "H") if parts & Parts.DECOMPOSED else ("weight",)
    scaling = ("scaling",) if parts & Parts.SCALING else ()
    norm = ("beta", "gamma", "mean", "var") if parts & Parts.BATCH_NORM else ()
    bias = ("bias",) if parts & Parts.BIAS else ()
    return weight + scaling + norm + bias


def coding_order(parts: Parts) -> tuple[str, ...]:
    """Return what the tensors of a block are, in the order in which they are coded."""
    order = ("scaling", "bias", "beta", "gamma", "mean", "var", "weight", "G", "H")
    present = block_roles(parts)
    return tuple(role for role in order if role in present)


def block_rows(unit: DataUnit) -> int:
    """Return how many entry points a unit with block scan has."""
    if unit.payload_type == PayloadType.BLOCK and unit.decomposed:
        return sum(_entries(height, unit.scan_order) for height in (unit.rows, unit.rank))
    return _entries(
        unit.tensors[0].shape[0] if unit.payload_type != PayloadType.BLOCK else unit.shape[0], unit.scan_order
    )


def _entries(height: int, scan_order: int) -> int:
    return max(0, -(-height // (4 << scan_order)) - 1)


def _single_role(unit: DataUnit, name: str) -> str:
    if unit.decomposed:
        return "H" if name.endswith("_H") else "G"
    return "tensor"


def _single_shape(unit: DataUnit, name: str) -> tuple[int, ...]:
    role = _single_role(unit, name)
    return unit.shape if role == "tensor" else unit.factor_shapes[role == "H"]


def _role_shape(unit: DataUnit, role: str) -> tuple[int, ...]:
    if role == "weight":
        return unit.shape
    if role in ("G", "H"):
        return unit.factor_shapes[role == "H"]
    return unit.shape[:1]
