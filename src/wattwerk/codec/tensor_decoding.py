"""The payload of one data unit to its tensors, with a bound on how many values a stream may unfold to."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np

from wattwerk.codec import _native
from wattwerk.codec.data_unit import Codebook, CodedTensor, Context, DataUnit, EntryPoint, PayloadType
from wattwerk.codec.elements import Array, format_dtype, restore_planes, restore_values
from wattwerk.codec.parameter_sets import Quantisation
from wattwerk.codec.quantisation import step_size
from wattwerk.codec.sidecar import Note
from wattwerk.codec.tensor_coding import scan_order_of
from wattwerk.errors import BitstreamError

_FEWEST_VALUES = 1 << 24  # 64 MiB of float32: no stream is too short for that
_VALUES_PER_BYTE = 1 << 8  # a model with one value in a hundred takes a byte for about 80 values
_FEWEST_TENSORS = 1 << 16
_BYTES_PER_TENSOR = 1 << 6


class Budget:
    """How many values and tensors a stream may unfold to.

    Without a bound by the caller it follows from the stream's length, so that a few bytes cannot ask for all memory.
    A legitimate stream exceeds that only if nearly all of it is rows of zeros; its reader passes a larger bound then.

    Args:
        stream_bytes: Length of the stream.
        max_values: The caller's bound.
    """

    def __init__(self, stream_bytes: int, max_values: int | None = None) -> None:
        self.max_values = _FEWEST_VALUES + _VALUES_PER_BYTE * stream_bytes if max_values is None else max_values
        self._values = 0
        self._tensors = _FEWEST_TENSORS + stream_bytes // _BYTES_PER_TENSOR

    def spend(self, unit: DataUnit, offset: int) -> None:
        """Count a unit's tensors, before memory is asked for.

        Raises:
            BitstreamError: The bound is exceeded.
        """
        tensors = unit.tensors
        self._values += sum(math.prod(tensor.shape) for tensor in tensors)
        if unit.decomposed:
            self._values += math.prod(unit.shape)  # the product needs room as well
        self.spend_tensors(len(tensors), offset)
        if self._values > self.max_values:
            raise BitstreamError(
                f"the stream unfolds to more than {self.max_values} values, {tensors[0].name!r} included",
                f"if you trust it, pass max_values={self._values} or more",
                offset=offset,
            )

    def spend_tensors(self, count: int, offset: int) -> None:
        """Count tensors.

        Raises:
            BitstreamError: There are more than a stream of that length can have.
        """
        self._tensors -= count
        if self._tensors < 0:
            raise BitstreamError("the stream has too many tensors for its length", offset=offset)


class Coded(msgspec.Struct, frozen=True):
    """A data unit whose payload is not decoded yet.

    Attributes:
        unit: Its header.
        context: What the units before it said.
        quantisation: Density and base QP that hold for it.
        note: What the note before it says.
        data: The unit's bytes.
        start: Where its payload starts in `data`.
        offset: Where the unit starts in the stream.
    """

    unit: DataUnit
    context: Context
    quantisation: Quantisation | None
    note: Note
    data: bytes | memoryview
    start: int
    offset: int


class Decoded(msgspec.Struct, frozen=True):
    """A decoded tensor.

    Attributes:
        name: Its name.
        role: What it is in a block; ``tensor`` if it stands alone.
        dtype: Name of its original element type.
        values: In its original type and shape.
        levels: The levels behind it, flat; None if it was not quantised.
        qp: Its quantisation parameter; None if it has none.
        step: Its step size; 0.0 if it has none.
    """

    name: str
    role: str
    dtype: str
    values: Array
    levels: Array | None = None
    qp: int | None = None
    step: float = 0.0


class Reference(msgspec.Struct, frozen=True):
    """What the update before knows about a tensor.

    Attributes:
        levels: Levels of the update before, int32 and flat, or None.
        history: int8 and flat, 1 where any update before was not zero, or None.
    """

    levels: Array | None = None
    history: Array | None = None


def decode_unit(
    coded: Coded, references: Mapping[str, Reference] | None = None, threads: int = 1, *, keep_levels: bool = True
) -> list[Decoded]:
    """Decode a data unit.

    Args:
        coded: The unit; its budget is spent already.
        references: What updates before know, by name; needed for units with a parent.
        threads: Threads over the block rows of a tensor that has entry points.
        keep_levels: Return the levels beside the values; without them half the memory does.

    Raises:
        BitstreamError: The payload is damaged.
    """
    try:
        if coded.unit.payload_type == PayloadType.RAW_FLOAT:
            return [_raw(coded)]
        return _decode_payload(coded, references or {}, threads, keep_levels)
    except (_native.StreamError, ValueError) as error:
        raise BitstreamError(f"tensor {coded.unit.names[0]!r}: {error}", offset=coded.offset) from error
    except MemoryError as error:
        raise BitstreamError(
            f"there is no memory for tensor {coded.unit.names[0]!r}", "pass a lower max_values", offset=coded.offset
        ) from error


def _raw(coded: Coded) -> Decoded:
    tensor = coded.unit.tensors[0]
    raw = bytes(coded.data[coded.start :])
    if len(raw) != 4 * math.prod(tensor.shape):
        raise ValueError(f"{len(raw)} bytes are no float32 of shape {tensor.shape}")
    values = np.frombuffer(raw, "<f4").astype(np.float32)
    return Decoded(tensor.name, tensor.role, *_restored(coded, tensor, values))


def _decode_payload(
    coded: Coded, references: Mapping[str, Reference], threads: int, keep_levels: bool
) -> list[Decoded]:
    unit, points = coded.unit, list(coded.unit.entry_points)
    decoder = _native.Decoder(coded.data, coded.start, len(coded.data))
    decoded = []
    for tensor in unit.tensors:
        scan_order = scan_order_of(tensor.shape, unit.scan_order)
        taken, points = _entry_points(tensor, unit.scan_order, points)
        reference = references.get(tensor.name, Reference())
        taken = taken if scan_order else []
        found = _decode_tensor(coded, decoder, tensor, scan_order, taken, reference, threads, keep_levels)
        decoded.append(found)
    size = coded.start + decoder.finish()
    if size != len(coded.data):
        raise ValueError(f"the payload ends at byte {size} of a unit of {len(coded.data)} bytes")
    return decoded


def _entry_points(
    tensor: CodedTensor, scan_order: int, points: list[EntryPoint]
) -> tuple[list[tuple[int, int, int]], list[EntryPoint]]:
    if not scan_order or len(tensor.shape) < 2:
        return [], points
    count = max(0, -(-tensor.shape[0] // (4 << scan_order)) - 1)
    taken = [(point.value, point.state, point.bits) for point in points[:count]]
    return taken, points[count:]


def _decode_tensor(
    coded: Coded,
    decoder: _native.Decoder,
    tensor: CodedTensor,
    scan_order: int,
    points: list[tuple[int, int, int]],
    reference: Reference,
    threads: int,
    keep_levels: bool,
) -> Decoded:
    unit = coded.unit
    integer = unit.payload_type == PayloadType.INT
    qp, step = (None, 0.0) if integer else _read_step(coded, decoder)
    book = _codebook_of(unit, tensor)
    coded_book = book if coded.context.profile == 1 else None
    count = math.prod(tensor.shape)
    levels = decoder.tensor(
        count,
        width=math.prod(tensor.shape[1:]) if count else 1,  # beside a zero there can be numbers of any size
        profile=coded.context.profile,
        dependent=unit.dependent and not integer,
        unary_length=unit.unary_length,
        scan_order=scan_order,
        entry_points=points,
        parent=unit.parent is not None,
        history=_history(unit, tensor, reference),
        base=_base_levels(unit, tensor, reference),
        codebook_size=len(coded_book.entries) if coded_book else 0,
        codebook_zero=coded_book.zero if coded_book else 0,
        step=step if book is None and not keep_levels else 0.0,
        threads=threads,
    )
    values = levels if integer else _dequantised(levels, step, book, keep_levels)
    dtype, restored = _restored(coded, tensor, values)
    return Decoded(tensor.name, tensor.role, dtype, restored, levels if keep_levels else None, qp, step)


def _read_step(coded: Coded, decoder: _native.Decoder) -> tuple[int, float]:
    quantisation = coded.quantisation
    if quantisation is None or not quantisation.present:
        raise ValueError("it is quantised, but no parameter set tells how")
    qp = quantisation.base_qp + decoder.bypass(6 + quantisation.density, True)
    try:
        step = step_size(qp, quantisation.density)
    except OverflowError:
        step = math.inf
    if not 1e-37 < step < 1e38:
        raise ValueError(f"the quantisation parameter {qp} gives no step within float32")
    return qp, step


def _codebook_of(unit: DataUnit, tensor: CodedTensor) -> Codebook | None:
    """In a block only the weight has a codebook, of two factors each its own."""
    if tensor.role == "H" and unit.payload_type == PayloadType.BLOCK:
        return unit.second_codebook
    return unit.codebook if tensor.role in ("tensor", "weight", "G", "H") else None


def _history(unit: DataUnit, tensor: CodedTensor, reference: Reference) -> Array | None:
    """Where earlier updates were not zero; whether it is used stands in the payload."""
    if unit.parent is None:
        return None
    count = math.prod(tensor.shape)
    known = reference.history
    return known if known is not None and known.size == count else np.zeros(count, np.int8)


def _base_levels(unit: DataUnit, tensor: CodedTensor, reference: Reference) -> Array | None:
    if unit.parent is None or not unit.parent.temporal_context:
        return None
    if reference.levels is None or reference.levels.size != math.prod(tensor.shape):
        raise ValueError("its contexts come from the update before, which is not there: use an UpdateDecoder")
    return reference.levels


def _dequantised(levels: Array, step: float, book: Codebook | None, keep_levels: bool) -> Array:
    if book is None and not keep_levels:
        return levels.view(np.float32)  # the decoder did it
    if book is None:
        return _native.dequantise(levels, step)
    if levels.size and (levels.min() < -book.zero or levels.max() >= len(book.entries) - book.zero):
        raise ValueError("a level has no entry in the codebook")
    with np.errstate(over="ignore"):
        entries = (np.array(book.entries, np.float64) * step).astype(np.float32)
    values: Array = entries[levels + book.zero]
    return values


def _restored(coded: Coded, tensor: CodedTensor, values: Array) -> tuple[str, Array]:
    note, offset = coded.note, coded.offset
    alone = tensor.role == "tensor"
    natural = "int32" if values.dtype == np.int32 else "float32"
    dtype = (note.dtype if alone else None) or format_dtype(coded.unit.data_format, natural)
    shape = note.shape if alone and note.shape is not None else tensor.shape
    if alone and note.planes:
        return dtype, restore_planes(values, dtype, shape, offset)
    return dtype, restore_values(values, dtype, shape, offset)
