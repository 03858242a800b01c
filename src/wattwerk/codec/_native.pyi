"""The native part of the codec: quantisation and arithmetic coding of one payload at a time.

Levels are int32 multiples of the step, in raster order. The global interpreter lock is released while numbers are
crunched.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

EntryPoints = Sequence[tuple[int, int, int]]

class StreamError(ValueError):
    """A payload that is no valid one."""

def simd() -> str:
    """Return which instruction set is in use: ``avx512``, ``avx2`` or ``scalar``; all give the same output."""

def set_simd(name: str) -> None:
    """Choose the instruction set, for tests.

    Raises:
        ValueError: This machine does not have it.
    """

def quantise(
    values: npt.NDArray[np.float32],
    *,
    width: int,
    step: float,
    dependent: bool,
    scan_order: int = 0,
    rate_weight: float = 0.0,
    unary_length: int = 10,
) -> npt.NDArray[np.int32]:
    """Return levels for float32 ``(n,)``.

    Raises:
        ValueError: A value is not finite or too many steps away from zero; the width does not divide the number of
            values.
    """

def largest_magnitude(values: npt.NDArray[np.float32]) -> float:
    """Return the largest magnitude of float32 ``(n,)``: NaN or infinity if there is one; 0 of none."""

def dequantise(levels: npt.NDArray[np.int32], step: float) -> npt.NDArray[np.float32]:
    """Return levels times step, in float32."""

def encode_values(
    values: npt.NDArray[np.float32],
    *,
    width: int,
    step: float,
    qp_delta: int,
    qp_bits: int,
    dependent: bool,
    unary_length: int = 0,
    scan_order: int = 0,
    row_skip: bool = True,
    profile: int = 1,
    parent: bool = False,
    search_limit: int = 65536,
    rate_weight: float = 0.0,
    threads: int = 1,
) -> tuple[bytes, int, list[tuple[int, int, int]]]:
    """Quantise and code a tensor that has a payload of its own.

    Block rows, where there are any, are coded on ``threads`` threads; the payload is the same for any number of them.

    Returns:
        The payload, the unary length (chosen if 0 was given), and the entry points: value, state, offset in bits.

    Raises:
        ValueError: As ``quantise`` does.
    """

class Encoder:
    """One payload: a run of the arithmetic encoder over one or more tensors."""

    def __init__(self) -> None: ...
    def bypass(self, value: int, bits: int) -> None:
        """Code the lowest bits of a number without a model."""

    def tensor(
        self,
        levels: npt.NDArray[np.int32],
        *,
        width: int,
        profile: int = 1,
        dependent: bool,
        unary_length: int,
        scan_order: int = 0,
        row_skip: bool = True,
        parent: bool = False,
        history: npt.NDArray[np.int8] | None = None,
        base: npt.NDArray[np.int32] | None = None,
        codebook_size: int = 0,
        codebook_zero: int = 0,
        parameter_sets: bytes | None = None,
        search_limit: int = 65536,
        force_row_skip: bool = False,
        threads: int = 1,
    ) -> int:
        """Code a tensor; return the unary length (chosen if 0 was given).

        ``force_row_skip`` tells for every row whether it is empty, as the reference implementation does.

        Raises:
            ValueError: A level is one that the trellis or the codebook does not have.
        """

    def finish(self) -> bytes:
        """End the payload and return it."""

    @property
    def entry_points(self) -> list[list[tuple[int, int, int]]]:
        """Value, state and offset in bits for every block row but the first, tensor by tensor; after ``finish``."""

class Decoder:
    """One payload between two offsets of ``data`` (bytes, contiguous), which has to stay unchanged."""

    def __init__(self, data: npt.NDArray[np.uint8] | bytes | memoryview, start: int, end: int) -> None: ...
    def bypass(self, bits: int, signed: bool) -> int:
        """Return a number that was coded without a model."""

    def tensor(
        self,
        count: int,
        *,
        width: int,
        profile: int = 1,
        dependent: bool,
        unary_length: int,
        scan_order: int = 0,
        entry_points: EntryPoints = (),
        parent: bool = False,
        history: npt.NDArray[np.int8] | None = None,
        base: npt.NDArray[np.int32] | None = None,
        codebook_size: int = 0,
        codebook_zero: int = 0,
        step: float = 0.0,
        threads: int = 1,
    ) -> npt.NDArray[np.int32]:
        """Return the levels of a tensor. The caller bounds ``count``: memory for it is taken at once.

        With a ``step`` other than 0 the array holds levels times step instead, as float32 in the same memory.

        Block rows with entry points are decoded on ``threads`` threads.

        Raises:
            StreamError: The payload ends too early or holds what cannot be.
        """

    def finish(self) -> int:
        """Check the end of the payload and return its length in bytes.

        Raises:
            StreamError: The payload does not end where it should.
        """

    @property
    def parameter_sets(self) -> bytes:
        """The parameter sets of the last tensor, in the order of the syntax."""
