"""The primitive codes of an NNC bitstream, most significant bit first.

    u(n)    n bits, unsigned            i(n)    n bits, two's complement
    ue(k)   Exp-Golomb of order k       ie(k)   ue(k) of a signed value: 0, 1, -1, 2, -2, …
    flt     IEEE 754 binary32, little-endian bytes
    st      UTF-8 and a zero byte       align   one 1-bit, then zeros up to the next byte

Source: ISO/IEC 15938-17, clause on parsing processes; checked against streams of the reference software.
"""

from __future__ import annotations

import struct

from wattwerk.errors import BitstreamError

# No number in a real stream needs more; a longer run of zeros is damage and must not make a huge integer.
_MAX_EXP_GOLOMB_BITS = 62
_PENDING_BITS = 512  # kept as one number before they become bytes
_AHEAD_BYTES = 24  # that a reader takes at once: what comes next is mostly read too


class BitWriter:
    """Write codes into bytes."""

    __slots__ = ("_bytes", "_pending", "_pending_bits")

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._pending = 0
        self._pending_bits = 0

    @property
    def aligned(self) -> bool:
        """Whether the next bit starts a byte."""
        return self._pending_bits & 7 == 0

    def u(self, bits: int, value: int) -> None:
        """Write an unsigned value of ``bits`` bits.

        Raises:
            ValueError: The value does not fit.
        """
        if bits < 0 or not 0 <= value < 1 << bits:
            raise ValueError(f"{value} does not fit into {bits} unsigned bits")
        self._pending = self._pending << bits | value
        self._pending_bits += bits
        if self._pending_bits >= _PENDING_BITS:
            self._flush()

    def _flush(self) -> None:
        """Make bytes of all complete ones that are pending."""
        rest = self._pending_bits & 7
        self._bytes += (self._pending >> rest).to_bytes(self._pending_bits >> 3, "big")
        self._pending &= (1 << rest) - 1
        self._pending_bits = rest

    def flag(self, value: bool) -> None:
        """Write one bit."""
        self.u(1, int(value))

    def i(self, bits: int, value: int) -> None:
        """Write a two's complement value of ``bits`` bits.

        Raises:
            ValueError: The value does not fit.
        """
        if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
            raise ValueError(f"{value} does not fit into {bits} signed bits")
        self.u(bits, value & ((1 << bits) - 1))

    def ue(self, order: int, value: int) -> None:
        """Write an unsigned value as Exp-Golomb code.

        Raises:
            ValueError: The value is negative or longer than 62 bits.
        """
        shifted = value + (1 << order)
        bits = shifted.bit_length() - 1
        if value < 0 or bits > _MAX_EXP_GOLOMB_BITS:
            raise ValueError(f"{value} is outside the range of an Exp-Golomb code")
        self.u(2 * bits + 1 - order, shifted)  # its leading 1 ends the run of zeros

    def ie(self, order: int, value: int) -> None:
        """Write a signed value as Exp-Golomb code.

        Raises:
            ValueError: The value is longer than 61 bits.
        """
        self.ue(order, -2 * value if value <= 0 else 2 * value - 1)

    def flt(self, value: float) -> None:
        """Write a number as float32."""
        for byte in struct.pack("<f", value):
            self.u(8, byte)

    def st(self, text: str) -> None:
        """Write a text that ends with a zero byte.

        Raises:
            ValueError: The text holds a zero character or a lone surrogate, or the position is not at a byte.
        """
        if not self.aligned:
            raise ValueError("a text starts at a byte")
        if "\0" in text:
            raise ValueError(f"the text {text!r} holds a zero character, which ends a text in an NNC stream")
        self._flush()
        self._bytes += text.encode("utf-8") + b"\0"

    def align(self) -> None:
        """Write a 1-bit and fill up the byte; at a byte's start this is a whole byte."""
        begun = self._pending_bits & 7
        self.u(8 - begun, 1 << (7 - begun))

    def to_bytes(self) -> bytes:
        """Return what was written.

        Raises:
            ValueError: The last byte is not complete.
        """
        if not self.aligned:
            raise ValueError(f"{self._pending_bits & 7} bits are left over")
        self._flush()
        return bytes(self._bytes)


def exp_golomb_bits(order: int, value: int) -> int:
    """Return how many bits ``ue(order)`` takes for a value."""
    return 2 * (value + (1 << order)).bit_length() - 1 - order


class BitReader:
    """Read codes from a part of a buffer; reading past its end is a `BitstreamError`.

    Args:
        data: The buffer.
        start: First byte that belongs to the part.
        end: First byte after it; None for the end of the buffer.
        origin: Offset of the buffer in the whole stream in bytes, for messages.
    """

    __slots__ = ("_data", "_end", "_position", "_window", "_window_end", "origin")

    def __init__(self, data: bytes | memoryview, start: int = 0, end: int | None = None, origin: int = 0) -> None:
        self._data = data
        self._position = start * 8
        self._end = (len(data) if end is None else end) * 8
        self._window = self._window_end = 0  # bits ahead, as a number, and where they end
        self.origin = origin

    @property
    def bits_left(self) -> int:
        """How many bits can still be read."""
        return self._end - self._position

    @property
    def byte_position(self) -> int:
        """The byte of the buffer that holds the next bit."""
        return self._position >> 3

    @property
    def offset(self) -> int:
        """The byte of the whole stream that holds the next bit."""
        return self.origin + (self._position >> 3)

    def error(self, message: str) -> BitstreamError:
        """Make an error that names the present position."""
        return BitstreamError(message, offset=self.offset)

    def peek(self, bits: int) -> int:
        """Return the next bits without moving.

        Raises:
            BitstreamError: Fewer bits are left.
        """
        stop = self._position + bits
        if stop > self._window_end:
            self._look_ahead(stop)
        return self._window >> (self._window_end - stop) & ((1 << bits) - 1)

    def _look_ahead(self, stop: int) -> None:
        """Take some bytes from the present position on, at least up to the bit ``stop`` and none beyond the end."""
        if stop > self._end:
            raise self.error(f"the unit ends where {stop - self._position} more bits should be")
        end = min(((stop + 7) >> 3) + _AHEAD_BYTES, self._end >> 3)
        self._window = int.from_bytes(self._data[self._position >> 3 : end], "big")
        self._window_end = end * 8

    def u(self, bits: int) -> int:
        """Read an unsigned value of ``bits`` bits.

        Raises:
            BitstreamError: Fewer bits are left.
        """
        stop = self._position + bits  # as `peek`: a header is hundreds of these calls
        if stop > self._window_end:
            self._look_ahead(stop)
        self._position = stop
        return self._window >> (self._window_end - stop) & ((1 << bits) - 1)

    def flag(self) -> bool:
        """Read one bit."""
        return self.u(1) == 1

    def i(self, bits: int) -> int:
        """Read a two's complement value of ``bits`` bits."""
        value = self.u(bits)
        return value - (1 << bits) if value >> (bits - 1) else value

    def ue(self, order: int) -> int:
        """Read an unsigned Exp-Golomb code.

        Raises:
            BitstreamError: The code is cut off or longer than any real one.
        """
        longest = _MAX_EXP_GOLOMB_BITS - order + 1
        ahead = min(longest, self.bits_left)
        window = self.peek(ahead)
        if not window:
            raise self.error("an Exp-Golomb code does not end")
        zeros = ahead - window.bit_length()
        self._position += zeros
        return self.u(zeros + order + 1) - (1 << order)

    def ie(self, order: int) -> int:
        """Read a signed Exp-Golomb code."""
        value = self.ue(order)
        return (value + 1) >> 1 if value & 1 else -(value >> 1)

    def flt(self) -> float:
        """Read a float32."""
        value: float = struct.unpack("<f", bytes(self.u(8) for _ in range(4)))[0]
        return value

    def st(self) -> str:
        """Read a text that ends with a zero byte.

        Raises:
            BitstreamError: No zero byte follows, the text is not UTF-8, or the position is not at a byte.
        """
        if self._position & 7:
            raise self.error("a text does not start at a byte")
        raw = self._until_zero()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error("a text is not UTF-8") from error
        self._position += 8 * (len(raw) + 1)
        return text

    def _until_zero(self) -> bytes:
        start, end, size = self._position >> 3, self._end >> 3, 128
        while True:  # in growing pieces, because a payload of many megabytes can follow
            piece = bytes(self._data[start : min(start + size, end)])
            length = piece.find(0)
            if length >= 0:
                return piece[:length]
            if start + size >= end:
                raise self.error("a text does not end")
            size *= 4

    def rest(self) -> bytes:
        """Read all bytes that are left.

        Raises:
            BitstreamError: The position is not at a byte.
        """
        if self._position & 7:
            raise self.error("bytes do not start at a byte")
        start, self._position = self._position >> 3, self._end
        return bytes(self._data[start : self._end >> 3])

    def align(self) -> None:
        """Read a 1-bit and the zeros up to the next byte.

        Raises:
            BitstreamError: Something else stands there.
        """
        bits = 8 - (self._position & 7)
        if self.peek(bits) != 1 << (bits - 1):
            raise self.error("the alignment bits are wrong")
        self._position += bits
