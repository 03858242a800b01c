"""Damage to NNC streams that still looks like one: whole units, their headers, the notes in them, and bytes anywhere.

Bits flipped at random rarely get past the first check. Most of these mutations keep the sizes of units right, or write
a unit anew with other fields, so that what lies behind the checks is reached as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from wattwerk.codec.data_unit import Codebook, Context, DataUnit, NodeId, Parent, Parts, PayloadType
from wattwerk.codec.parameter_sets import LayerParameterSet, ModelParameterSet, Quantisation
from wattwerk.codec.sidecar import MARK
from wattwerk.codec.syntax import (
    AggregateUnit,
    StartUnit,
    TopologyUnit,
    following_context,
    read_frame,
    read_unit,
    unit_size,
    write_unit,
)
from wattwerk.errors import BitstreamError

NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    15,
    16,
    31,
    32,
    63,
    64,
    65,
    127,
    255,
    256,
    1000,
    1 << 15,
    1 << 16,
    1 << 24,
    1 << 31,
    1 << 61,
)
TEXTS = (
    "{}",
    '{"dtype":"%s"}',
    '{"dtype":"%s","shape":[%d,%d]}',
    '{"planes":true,"dtype":"%s","shape":[%d]}',
    '{"scaled":true}',
    '{"empty":"e","dtype":"%s","shape":[0,%d]}',
    '{"container":"c","metadata":{"a":"b"},"removed":["x"]}',
    '{"shape":[]}',
    '{"planes":true}',
)
DTYPES = (
    "float16",
    "bfloat16",
    "float64",
    "bool",
    "int8",
    "uint64",
    "int64",
    "float32",
    "uint16",
    "object",
    "",
    "U",
    "V9",
)


def split(stream: bytes) -> list[bytes]:
    """Return the units of a stream; what is no unit any more stays one piece."""
    units, offset = [], 0
    while offset < len(stream):
        try:
            size = unit_size(stream[offset : offset + 4], offset)
        except BitstreamError:
            size = len(stream)
        units.append(stream[offset : offset + size])
        offset += size
    return units


def with_size(unit: bytes) -> bytes:
    """Return a unit whose size field says how long it is."""
    if unit and unit[0] & 0x80 and len(unit) > 4:
        return (1 << 31 | len(unit)).to_bytes(4, "big") + unit[4:]
    return min(len(unit), (1 << 15) - 1).to_bytes(2, "big") + unit[2:]


class Mutator:
    """Make damaged streams out of sound ones; the same seed makes the same ones.

    Args:
        streams: Sound streams.
        seed: Start of the random numbers.
    """

    def __init__(self, streams: list[bytes], seed: int) -> None:
        self._random = random.Random(seed)
        self._streams = streams
        self._splits = [split(stream) for stream in streams]
        self._changes: tuple[Callable[[list[bytes]], None], ...] = (
            self._bits,
            self._bytes,
            self._resize,
            self._move,
            self._splice,
            self._note,
            *[self._header] * 4,
        )

    def stream(self) -> bytes:
        """Return the next damaged stream."""
        units = list(self._random.choice(self._splits))
        for _ in range(self._random.choice((1, 1, 1, 2, 3, 5))):
            if units:
                self._random.choice(self._changes)(units)
        stream = b"".join(units)
        if self._random.random() < 0.05:
            stream = stream[: self._random.randrange(len(stream) + 1)]
        return stream

    def _pick(self, units: list[bytes]) -> int:
        # units of the size of a header are many; large ones are what is interesting
        return max(self._random.choices(range(len(units)), k=2), key=lambda index: len(units[index]))

    def _place(self, unit: bytes) -> int:
        end = len(unit) if self._random.random() < 0.5 else min(len(unit), 48)
        return self._random.randrange(max(end, 1))

    def _bits(self, units: list[bytes]) -> None:
        index = self._pick(units)
        unit = bytearray(units[index] or b"\0")
        for _ in range(self._random.choice((1, 1, 2, 8))):
            unit[self._place(unit)] ^= 1 << self._random.randrange(8)
        units[index] = bytes(unit)

    def _bytes(self, units: list[bytes]) -> None:
        index = self._pick(units)
        unit = bytearray(units[index] or b"\0")
        place = self._place(unit)
        unit[place] = self._random.choice((0, 1, 0x7F, 0x80, 0xFF, self._random.randrange(256)))
        units[index] = with_size(bytes(unit)) if self._random.random() < 0.5 else bytes(unit)

    def _resize(self, units: list[bytes]) -> None:
        index = self._pick(units)
        unit = units[index]
        start, end = sorted((self._place(unit), self._place(unit)))
        piece = self._random.choice((b"", self._random.randbytes(self._random.randrange(1, 9)), unit[start:end] * 2))
        changed = unit[:start] + piece + unit[end:]
        units[index] = with_size(changed) if self._random.random() < 0.9 else changed

    def _move(self, units: list[bytes]) -> None:
        index, other = self._random.randrange(len(units)), self._random.randrange(len(units))
        kind = self._random.randrange(3)
        if kind == 0:
            units.insert(other, units[index])
        elif kind == 1:
            del units[index]
        else:
            units[index], units[other] = units[other], units[index]

    def _splice(self, units: list[bytes]) -> None:
        stranger = self._random.choice(self._random.choice(self._splits))
        units.insert(self._random.randrange(len(units) + 1), stranger)

    def _note(self, units: list[bytes]) -> None:
        text = self._random.choice(TEXTS)
        fields = [self._random.choice(DTYPES)] if "%s" in text else []
        fields += [self._random.choice(NUMBERS) for _ in range(text.count("%d"))]
        unit = TopologyUnit(format=self._random.choice((0, 0, 0, 2)), text=MARK + text % tuple(fields))
        units.insert(self._random.randrange(len(units) + 1), write_unit(unit, Context()))

    def _header(self, units: list[bytes]) -> None:
        """Write a unit anew with one or two other fields; its payload stays."""
        index = self._pick(units)
        try:
            context = _context(units[:index])
            frame, reader = read_frame(units[index])
            unit = read_unit(frame, reader, context)
            payload = units[index][reader.byte_position :] if isinstance(unit, DataUnit) else b""
            for _ in range(self._random.choice((1, 1, 2))):
                unit = self._other(unit)
            units[index] = write_unit(unit, context, payload_bytes=len(payload)) + payload
        except (BitstreamError, ValueError, TypeError, OverflowError, KeyError, ZeroDivisionError):
            return  # a unit that is none any more, or fields that cannot be written

    def _other(self, unit: Any) -> Any:
        if isinstance(unit, StartUnit):
            return StartUnit(1 - unit.profile)
        if isinstance(unit, ModelParameterSet | LayerParameterSet):
            return self._other_parameters(unit)
        if isinstance(unit, DataUnit):
            field, value = self._random.choice(self._fields(unit))
            return msgspec.structs.replace(unit, **{field: value})
        if isinstance(unit, AggregateUnit):
            return AggregateUnit(self._random.randbytes(5))
        names = self._random.choice(((), ("a", "b"), tuple(f"n{index}" for index in range(300))))
        return TopologyUnit(format=6 if names else self._random.randrange(6), text="text", names=names)

    def _other_parameters(self, unit: Any) -> Any:
        quantisation = Quantisation(
            methods=self._random.randrange(8),
            density=self._random.randrange(8),
            base_qp=self._random.randrange(-4096, 4096),
        )
        changes: dict[str, Any] = {"quantisation": quantisation}
        if isinstance(unit, ModelParameterSet):
            flag = self._random.choice(("indexed", "parent_signalling", "pre_flag", "topology_carried"))
            changes = self._random.choice((changes, {flag: not getattr(unit, flag)}))
        return msgspec.structs.replace(unit, **changes)

    def _fields(self, unit: DataUnit) -> list[tuple[str, Any]]:
        number = self._random.choice
        shape = tuple(number(NUMBERS) for _ in range(self._random.choice((0, 1, 1, 2, 2, 3, 4, 33))))
        nearby = tuple(max(0, size + self._random.choice((-1, 0, 0, 1))) for size in unit.shape)
        points = unit.entry_points
        moved = tuple(msgspec.structs.replace(point, bits=number((0, point.bits, 1 << 20))) for point in points)
        known = ("a", "w", "w_H", "", "größe", *unit.names)
        return [
            ("shape", number((shape, nearby, unit.shape[::-1], (*unit.shape, 1), (1, *unit.shape)))),
            ("scan_order", self._random.randrange(6)),
            ("entry_points", points[: self._random.randrange(1 + len(points))]),
            ("entry_points", moved),
            ("dependent", not unit.dependent),
            ("unary_length", number((1, 2, 3, 10, 14, 255, 256))),
            ("payload_type", number(list(PayloadType))),
            ("parts", Parts(self._random.randrange(16))),
            ("rank", number(NUMBERS)),
            ("rows", number((*NUMBERS, *unit.shape))),
            ("names", tuple(number(known) for _ in range(self._random.randrange(1, 9)))),
            ("indices", tuple(self._random.randrange(4) for _ in range(self._random.randrange(1, 4)))),
            ("data_format", number((None, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 127))),
            ("node", number((None, NodeId(depth=number(NUMBERS))))),
            ("parent", number((None, Parent(), Parent(temporal_context=True)))),
            ("codebook", self._codebook()),
            ("second_codebook", self._codebook()),
        ]

    def _codebook(self) -> Codebook | None:
        size = self._random.choice((0, 1, 2, 3, 17, 300))
        if size == 0:
            return None
        start, gap = self._random.choice((-size // 2, 0, -(1 << 31), 1 << 30)), self._random.choice((1, 2, 1000))
        entries = tuple(start + gap * index for index in range(size))
        return Codebook(order=self._random.randrange(8), zero=self._random.randrange(size), entries=entries)


def _context(units: list[bytes]) -> Context:
    context = Context()
    for data in units:
        frame, reader = read_frame(data)
        context = following_context(context, read_unit(frame, reader, context))
    return context
