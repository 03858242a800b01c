"""Element types: how arrays of any type become float32 or int32 values, and what they come back as.

float32, float16, bfloat16, float64 (finite, within float32)      float32 values, quantised
bool and integers whose values fit into 32 bits                    int32 values, exact
all others, and floats with NaN or infinity if they are allowed    the bytes, plane by plane, exact
"""

from __future__ import annotations

import enum
import functools
import math
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from wattwerk.codec import _native
from wattwerk.codec.data_unit import DataFormat
from wattwerk.errors import BitstreamError, ConfigError

Array = npt.NDArray[Any]

FLOATS = ("float32", "float16", "float64", "bfloat16")
INTEGERS = ("int32", "int8", "int16", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
SIZES = {n: (2 if n == "bfloat16" else np.dtype(n).itemsize) for n in FLOATS + INTEGERS}

# What the header of a data unit can tell. Where it tells nothing, floats are float32 and integers int32.
FORMATS = {
    "int8": DataFormat.INT8,
    "int16": DataFormat.INT16,
    "int64": DataFormat.INT64,
    "float16": DataFormat.FLOAT16,
    "float64": DataFormat.FLOAT64,
}
_OF_FORMAT = {
    **{int(code): name for name, code in FORMATS.items()},
    int(DataFormat.INT32): "int32",
    int(DataFormat.FLOAT32): "float32",
}

_LARGEST_INTEGER = (1 << 31) - 257  # a level's magnitude, with the margin that the coder keeps


class Kind(enum.Enum):
    """How an array's values travel."""

    FLOAT = "float"
    INTEGER = "integer"
    PLANES = "planes"
    EMPTY = "empty"


class Elements(msgspec.Struct, frozen=True):
    """An array made ready to be coded.

    Attributes:
        kind: How its values travel.
        dtype: Name of the original element type.
        shape: The original shape.
        values: float32 or int32, C-contiguous and flat.
        largest: Largest absolute value, of floats.
    """

    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    values: Array
    largest: float = 0.0

    @property
    def coded_shape(self) -> tuple[int, ...]:
        """The shape that the stream tells: never without dimensions, because not every decoder can do with none."""
        if self.kind == Kind.PLANES:
            return SIZES[self.dtype], math.prod(self.shape)
        return self.shape or (1,)


def dtype_name(array: Array) -> str:
    """Return the name of an array's element type, of either byte order."""
    return _name(array.dtype)


@functools.cache
def _name(dtype: np.dtype[Any]) -> str:
    return dtype.name


def make_elements(name: str, array: Any, non_finite: Literal["refuse", "raw"] = "refuse") -> Elements:
    """Make an array ready to be coded; a float32 or int32 array without gaps is not copied.

    Args:
        name: The tensor's name, for messages.
        array: Anything that NumPy takes for an array.
        non_finite: What to do with NaN and infinity.

    Raises:
        ConfigError: The element type cannot be coded, or the array holds NaN or infinity and these are refused.
    """
    array = np.asarray(array)
    dtype = dtype_name(array)
    if dtype not in SIZES:
        raise ConfigError(f"tensor {name!r} has the element type {dtype}", f"convert it to one of {', '.join(SIZES)}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.size == 0:
        return Elements(Kind.EMPTY, dtype, array.shape, array)
    if dtype in FLOATS:
        return _float_elements(name, array, dtype, non_finite)
    return _integer_elements(array, dtype)


def _float_elements(name: str, array: Array, dtype: str, non_finite: str) -> Elements:
    values = np.ascontiguousarray(_as_float32(array, dtype)).reshape(-1)
    largest = _native.largest_magnitude(values)
    if math.isfinite(largest):
        return Elements(Kind.FLOAT, dtype, array.shape, values, largest)
    if (
        dtype != "float64" or not np.isfinite(array).all()
    ):  # a finite float64 beyond float32 is no mistake of the user's
        refuse_non_finite(name, array, non_finite)
    return _planes(array, dtype)


def refuse_non_finite(name: str, array: Array, non_finite: str) -> None:
    """Raise for a tensor with NaN or infinity unless ``raw`` is allowed.

    Raises:
        ConfigError: It is not.
    """
    if non_finite == "refuse":
        count = int(array.size - np.count_nonzero(np.isfinite(array.astype(np.float32))))
        raise ConfigError(
            f"tensor {name!r} holds NaN or infinity ({count} of {array.size} values)",
            'repair it, or pass non_finite="raw" to keep such tensors exactly',
        )


def _as_float32(array: Array, dtype: str) -> Array:
    if dtype == "bfloat16":
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32, copy=False)


def _integer_elements(array: Array, dtype: str) -> Elements:
    if array.dtype.itemsize >= 4 and (array.max() > _LARGEST_INTEGER or array.min() < -_LARGEST_INTEGER):
        return _planes(array, dtype)
    values = np.ascontiguousarray(array.astype(np.int32, copy=False)).reshape(-1)
    return Elements(Kind.INTEGER, dtype, array.shape, values)


def _planes(array: Array, dtype: str) -> Elements:
    size = SIZES[dtype]
    flat = np.ascontiguousarray(array).reshape(-1).view(np.int8).reshape(-1, size)
    return Elements(Kind.PLANES, dtype, array.shape, flat.T.astype(np.int32).reshape(-1))


def format_dtype(data_format: int | None, default: str) -> str:
    """Return the element type that a data unit's data format tells."""
    return default if data_format is None else _OF_FORMAT.get(data_format, default)


def restore_values(values: Array, dtype: str, shape: tuple[int, ...], offset: int) -> Array:
    """Give decoded values their original type and shape.

    Args:
        values: float32 or int32, flat.
        dtype: Name of the element type; bfloat16 needs the package ml_dtypes and stays float32 without.
        shape: The shape.
        offset: Where the tensor starts in the stream, for the message.

    Raises:
        BitstreamError: The type is not known, or the shape has another number of elements.
    """
    _check(values.size, dtype, shape, offset)
    if dtype == "bfloat16":
        return to_bfloat16(values).reshape(shape)
    if dtype == "float16" and values.dtype == np.float32:
        values = np.clip(values, -65504, 65504)  # a step beyond the largest value must not become infinite
    with np.errstate(all="ignore"):
        return values.astype(dtype, copy=False).reshape(shape)


def restore_planes(values: Array, dtype: str, shape: tuple[int, ...], offset: int) -> Array:
    """Put an array together from the planes of its bytes.

    Raises:
        BitstreamError: The type is not known, or the planes are not those of such an array.
    """
    size = SIZES.get(dtype, 0)
    if not size or values.size % size or values.dtype != np.int32:
        raise BitstreamError(f"{values.size} bytes are no tensor of {dtype!r}", offset=offset)
    raw = np.ascontiguousarray(values.astype(np.int8).reshape(size, -1).T).reshape(-1)
    if dtype == "bfloat16":
        _check(raw.size // size, dtype, shape, offset)
        return _bfloat16_view(raw.view(np.uint16)).reshape(shape)
    if dtype == "bool":
        raw = raw & 1
    flat = raw.view(dtype)
    _check(flat.size, dtype, shape, offset)
    return flat.reshape(shape)


def empty_array(dtype: str, shape: tuple[int, ...], offset: int) -> Array:
    """Return an array without elements.

    Raises:
        BitstreamError: The type is not known, or the shape has elements.
    """
    _check(0, dtype, shape, offset)
    return _bfloat16_view(np.zeros(shape, np.uint16)) if dtype == "bfloat16" else np.zeros(shape, dtype)


def to_bfloat16(values: Array) -> Array:
    """Round float32 to the nearest bfloat16; without ml_dtypes the result is float32 of the same value."""
    bits = values.astype(np.float32, copy=False).view(np.uint32)
    with np.errstate(over="ignore"):
        rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    return _bfloat16_view(rounded.astype(np.uint16))


def _bfloat16_view(bits: Array) -> Array:
    try:
        import ml_dtypes
    except ImportError:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view(ml_dtypes.bfloat16)


def _check(count: int, dtype: str, shape: tuple[int, ...], offset: int) -> None:
    if dtype not in SIZES:
        raise BitstreamError(f"the element type {dtype!r} is not known", offset=offset)
    if min(shape, default=1) < 0 or len(shape) > 32 or math.prod(shape) != count:
        raise BitstreamError(f"{count} values are no tensor of shape {shape}", offset=offset)
    if math.prod(d for d in shape if d) >= 1 << 58:  # what NumPy can address
        raise BitstreamError(f"the shape {shape} is too large", offset=offset)
