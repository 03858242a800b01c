"""One tensor, or one block of tensors, to the bytes of its data unit."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from wattwerk.codec import _native
from wattwerk.codec.data_unit import Codebook, Context, DataUnit, EntryPoint, NodeId, Parts, PayloadType
from wattwerk.codec.data_unit_syntax import codebook_bits
from wattwerk.codec.elements import FORMATS, Array, Elements, Kind, make_elements
from wattwerk.codec.options import PackOptions, processors
from wattwerk.codec.quantisation import fitting_qp, step_size
from wattwerk.codec.reduce_types import QP_DENSITY, Clustered, Decomposed, Levels, Scaled
from wattwerk.codec.sidecar import NOTHING, Note, write_note
from wattwerk.codec.syntax import TopologyUnit, write_unit
from wattwerk.errors import ConfigError

_LARGEST_CODEBOOK = 1 << 12  # more entries cost more than they save
_WIDEST_CODEBOOK = 1 << 20  # and so do far gaps
_BLOCK_UNARY_LENGTH = 11  # the tensors of a block share one, so that none can choose; it is the reference's


class Quantised(msgspec.Struct, frozen=True):
    """A quantised tensor: what the coder codes.

    Attributes:
        values: int32, flat.
        qp: Quantisation parameter.
        dependent: Whether the levels are those of dependent quantisation.
        codebook: The integers that levels are indices of.
    """

    values: Array
    qp: int
    dependent: bool
    codebook: Codebook | None = None


class Coder:
    """Codes tensors with the same options; safe to use from several threads.

    Args:
        options: How to code.
        context: What the units before the first tensor said.
    """

    def __init__(self, options: PackOptions, context: Context) -> None:
        self._options = options
        self._context = context
        self._qp_bits = 6 + options.qp_density

    def tensor(self, name: str, index: int, value: Any) -> list[bytes]:
        """Return the units of a tensor.

        Args:
            name: Its name.
            index: Its place among all.
            value: An array, or what a reduction pass has made of one.

        Raises:
            ConfigError: It cannot be coded; the message names it.
        """
        check_name(name)
        if isinstance(value, Decomposed | Scaled | Clustered | Levels):
            return self._reduced(name, index, value)
        elements = make_elements(name, value, self._options.non_finite)
        if elements.kind == Kind.EMPTY:
            return [self.note(Note(empty=name, dtype=elements.dtype, shape=elements.shape))]
        return self.elements(name, elements, NodeId(parameter=index))

    def elements(self, name: str, elements: Elements, node: NodeId, note: Note = NOTHING) -> list[bytes]:
        """Return the units of an array that is ready to be coded.

        Args:
            name: Its name.
            elements: The array.
            node: Its identity.
            note: What else must be said about it.
        """
        if elements.kind == Kind.FLOAT:
            unit, payload = self._floats(name, elements)
        else:
            unit, payload = self._integers(name, elements)
        unit = msgspec.structs.replace(unit, node=self._node(node), data_format=_format(elements))
        note = _note_of(elements, note)
        return [*([self.note(note)] if note != NOTHING else []), *self.unit(unit, payload)]

    def note(self, note: Note) -> bytes:
        """Return a note as a unit."""
        return write_unit(TopologyUnit(text=write_note(note)), self._context)

    def unit(self, unit: DataUnit, payload: bytes) -> list[bytes]:
        """Return a data unit in two pieces, so that the payload is not copied.

        Raises:
            ConfigError: It is larger than the format allows.
        """
        try:
            return [write_unit(unit, self._context, payload_bytes=len(payload)), payload]
        except ValueError as error:
            raise ConfigError(f"tensor {unit.names[0]!r} cannot be written ({error})", "split it") from error

    def fitting_qp(self, name: str, qp: int, largest: float) -> int:
        """Return the QP, raised where the tensor's largest value would have no 32-bit level.

        Raises:
            ConfigError: No QP is large enough.
        """
        try:
            return fitting_qp(qp, self._options.qp_density, largest)
        except OverflowError as error:
            remedy = "use a lower qp_density, or non_finite='raw' after setting the value to infinity"
            raise ConfigError(f"tensor {name!r} cannot be quantised ({error})", remedy) from error

    def _node(self, node: NodeId) -> NodeId | None:
        return node if self._options.profile == 1 and self._options.node_ids else None

    def _floats(self, name: str, elements: Elements) -> tuple[DataUnit, bytes]:
        options, shape = self._options, elements.coded_shape
        qp = self.fitting_qp(name, options.qp_of(name, len(elements.shape)), elements.largest)
        with_book = self._with_codebook(name, elements, qp) if options.codebook != "off" else None
        if with_book is not None and options.codebook == "on":
            return with_book
        width, scan_order = _width(shape), scan_order_of(shape, options.scan_order)
        payload, unary, points = _native.encode_values(
            elements.values,
            width=width,
            step=step_size(qp, options.qp_density),
            qp_delta=qp,
            qp_bits=self._qp_bits,
            dependent=options.dependent,
            unary_length=options.unary_length,
            scan_order=scan_order,
            row_skip=options.row_skip,
            profile=options.profile,
            search_limit=options.search_limit,
            rate_weight=options.rate_weight,
            threads=(options.threads or processors()) if scan_order else 1,  # only block rows can be split
        )
        unit = DataUnit(
            payload_type=PayloadType.FLOAT,
            names=(name,),
            shape=shape,
            dependent=options.dependent,
            unary_length=unary,
            scan_order=scan_order,
            entry_points=tuple(EntryPoint(*point) for point in points),
        )
        if with_book is None:
            return unit, payload
        book = with_book[0].codebook
        assert book is not None
        return with_book if len(with_book[1]) + codebook_bits(book) / 8 < len(payload) else (unit, payload)

    def _integers(self, name: str, elements: Elements) -> tuple[DataUnit, bytes]:
        unit = DataUnit(payload_type=PayloadType.INT, names=(name,), shape=elements.coded_shape)
        return self.coded(unit, [Quantised(elements.values, 0, False)])

    def _with_codebook(self, name: str, elements: Elements, qp: int) -> tuple[DataUnit, bytes] | None:
        levels = self._indexed(name, elements, qp)
        if levels is None:
            return None
        unit = DataUnit(payload_type=PayloadType.FLOAT, names=(name,), shape=elements.coded_shape)
        return self.coded(unit, [levels])

    def _indexed(self, name: str, elements: Elements, qp: int) -> Quantised | None:
        """Quantise to a codebook; without dependent quantisation, whose gain a step of half the size makes up for."""
        density = self._options.qp_density
        if self._options.dependent and qp - (1 << density) >= -(1 << (5 + density)):
            qp = self.fitting_qp(name, qp - (1 << density), elements.largest)
        values, step = elements.values, step_size(qp, density)
        levels = _native.quantise(values, width=values.size, step=step, dependent=False)
        lowest, highest = int(levels.min()), int(levels.max())
        if highest - lowest > _WIDEST_CODEBOOK:
            return None
        counts = np.bincount(levels - lowest)
        present = np.flatnonzero(counts)
        if present.size > _LARGEST_CODEBOOK:
            return None
        zero = int(np.argmax(counts[present]))
        indices = np.cumsum(counts > 0, dtype=np.int32) - np.int32(1 + zero)
        book = best_codebook(tuple(int(entry) + lowest for entry in present), zero)
        return Quantised(indices[levels - lowest], qp, False, book)

    def quantise(self, name: str, elements: Elements, qp: int) -> Quantised:
        """Quantise an array to the levels of a QP, or of a larger one if needed."""
        options, shape = self._options, elements.coded_shape
        qp = self.fitting_qp(name, qp, elements.largest)
        levels = _native.quantise(
            elements.values,
            width=_width(shape),
            step=step_size(qp, options.qp_density),
            dependent=options.dependent,
            scan_order=scan_order_of(shape, options.scan_order),
            rate_weight=options.rate_weight,
        )
        return Quantised(levels, qp, options.dependent)

    def coded(
        self,
        unit: DataUnit,
        tensors: list[Quantised],
        *,
        history: Array | None = None,
        base: Array | None = None,
    ) -> tuple[DataUnit, bytes]:
        """Code levels into one payload.

        Args:
            unit: The header so far: payload type, names, shape, parts.
            tensors: Levels in coding order.
            history: int8 per value, 1 where an earlier update was not zero: switches HDSP on.
            base: Levels of the update before: switches TCA on.

        Returns:
            The header with what the coding has added, and the payload.
        """
        options = self._options
        unary = options.unary_length or (_BLOCK_UNARY_LENGTH if len(tensors) > 1 else 0)
        unit = msgspec.structs.replace(unit, dependent=tensors[0].dependent)
        scan_order = scan_order_of(unit.shape, options.scan_order)
        encoder = _native.Encoder()
        for tensor, levels in zip(unit.tensors, tensors, strict=True):
            if unit.payload_type != PayloadType.INT:
                encoder.bypass(levels.qp, self._qp_bits)
            book = levels.codebook if options.profile == 1 else None
            unary = encoder.tensor(
                levels.values,
                width=_width(tensor.shape),
                profile=options.profile,
                dependent=levels.dependent,
                unary_length=unary,
                scan_order=scan_order if len(tensor.shape) > 1 else 0,
                row_skip=options.row_skip,
                parent=unit.parent is not None,
                history=history,
                base=base,
                codebook_size=len(book.entries) if book else 0,
                codebook_zero=book.zero if book else 0,
                search_limit=options.search_limit,
            )
        payload = encoder.finish()
        books = [levels.codebook for levels in tensors if levels.codebook is not None]
        return msgspec.structs.replace(
            unit,
            unary_length=unary,
            scan_order=scan_order,
            entry_points=tuple(EntryPoint(*point) for points in encoder.entry_points for point in points),
            codebook=books[0] if books else None,
            second_codebook=books[1] if len(books) > 1 else None,
        ), payload

    def _reduced(self, name: str, index: int, value: Decomposed | Scaled | Clustered | Levels) -> list[bytes]:
        if isinstance(value, Decomposed):
            unit, tensors = self._decomposed(name, value)
        elif isinstance(value, Scaled):
            unit, tensors = self._scaled(name, value)
        else:
            unit, tensors = self._on_a_grid(name, value)
        unit, payload = self.coded(unit, tensors)
        units = self.unit(msgspec.structs.replace(unit, node=self._node(NodeId(parameter=index))), payload)
        return [self.note(Note(scaled=True)), *units] if isinstance(value, Scaled) else units

    def _decomposed(self, name: str, value: Decomposed) -> tuple[DataUnit, list[Quantised]]:
        rows, rank = value.g.shape
        if (rows, rank) != (rows, value.h.shape[0]) or math.prod(value.shape) != rows * value.h.shape[1]:
            raise ConfigError(f"the factors of {name!r} give no weight of shape {value.shape}", "correct the shape")
        unit = DataUnit(
            payload_type=PayloadType.BLOCK,
            names=(f"{name}_G", f"{name}_H"),
            shape=value.shape,
            parts=Parts.DECOMPOSED,
            rows=rows,
            rank=rank,
        )
        return unit, [self._member(name, factor, self._options.qp_of(name, 2)) for factor in (value.g, value.h)]

    def _scaled(self, name: str, value: Scaled) -> tuple[DataUnit, list[Quantised]]:
        names = (name, f"{name}_scaling")
        if value.scale.shape != value.shape[:1]:
            raise ConfigError(f"{name!r} has {value.scale.size} factors for {value.shape[:1]} rows", "give one a row")
        unit = DataUnit(payload_type=PayloadType.BLOCK, names=names, shape=value.shape, parts=Parts.SCALING)
        scale = self._member(names[1], value.scale, self._options.qp_of(names[1], 1))
        return unit, [scale, self._member(name, value.weight, self._options.qp_of(name, len(value.shape)))]

    def _on_a_grid(self, name: str, value: Clustered | Levels) -> tuple[DataUnit, list[Quantised]]:
        if self._options.qp_density != QP_DENSITY:
            raise ConfigError(f"{name!r} is quantised with the density {QP_DENSITY}", "leave qp_density as it is")
        unit = DataUnit(payload_type=PayloadType.FLOAT, names=(name,), shape=value.shape or (1,))
        if isinstance(value, Levels):
            return unit, [Quantised(_flat(value.levels, np.int32), value.qp, False)]
        levels = _flat(value.indices, np.int32) - np.int32(value.codebook.zero)
        return unit, [Quantised(levels, value.qp, False, value.codebook)]

    def _member(self, name: str, array: Array, qp: int) -> Quantised:
        elements = make_elements(name, array)
        if elements.kind != Kind.FLOAT:
            raise ConfigError(f"{name!r} of type {elements.dtype} is no part of a block", "blocks take finite floats")
        return self.quantise(name, elements, qp)


def best_codebook(entries: tuple[int, ...], zero: int) -> Codebook:
    """Return the codebook with the Exp-Golomb order that makes it smallest."""
    return min((Codebook(order, zero, entries) for order in range(16)), key=codebook_bits)


def check_name(name: object) -> None:
    """Check that a tensor's name can stand in a stream.

    Raises:
        ConfigError: It is no text, or holds a zero character or half a surrogate pair.
    """
    if not isinstance(name, str):
        raise ConfigError(f"the name {name!r} of a tensor is not a text", "name tensors by texts")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(f"the name {name!r} is no valid Unicode", "rename the tensor") from error
    if "\0" in name:
        raise ConfigError(f"the name {name!r} holds a zero character", "rename the tensor")


def scan_order_of(shape: tuple[int, ...], scan_order: int) -> int:
    """Return the scan order that a tensor of this shape can have: a single row or column has raster order only."""
    return scan_order if len(shape) > 1 and shape[0] > 1 and _width(shape) > 1 else 0


def _flat(array: Array, dtype: Any) -> Array:
    return np.ascontiguousarray(array, dtype).reshape(-1)


def _width(shape: tuple[int, ...]) -> int:
    return math.prod(shape[1:])


def _format(elements: Elements) -> int | None:
    return None if elements.kind == Kind.PLANES else FORMATS.get(elements.dtype)


def _note_of(elements: Elements, note: Note) -> Note:
    """Add to a note what the data unit cannot tell about a tensor."""
    if elements.kind == Kind.PLANES:
        return msgspec.structs.replace(note, planes=True, dtype=elements.dtype, shape=elements.shape)
    if elements.dtype not in FORMATS and elements.dtype not in ("float32", "int32"):
        note = msgspec.structs.replace(note, dtype=elements.dtype)
    if elements.shape != elements.coded_shape:
        note = msgspec.structs.replace(note, shape=elements.shape)
    return note
