"""A short run of what fuzzing does for long: the corpus of the native fuzzers, and damaged streams."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.codec.fuzzing import FEW, READERS, check, peak_memory, sound_streams
from tests.codec.stream_mutations import Mutator

from wattwerk.codec import _native

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
MOST_VALUES, FEWER_VALUES, LONGEST_SIDE = 20_000, 1500, 600  # as in tests/fuzz
INSTRUCTION_SETS = ("scalar", "neon", "avx2", "avx512")


class Bytes:
    """Bytes from the front; zeros once there are no more, as the fuzzers take them."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        piece, self.data = self.data[:count], self.data[count:]
        return piece.ljust(count, b"\0")

    def number(self, count: int) -> int:
        """Return the next bytes as a number."""
        return int.from_bytes(self.take(count), "little")


def read_fields(source: Bytes, most_values: int) -> tuple[int, dict[str, Any], int]:
    """Return a tensor's number of values, its keywords, and its flags; see tests/fuzz/common.h."""
    flags, unary, scan_order = source.number(1), source.number(1), source.number(1) % 5
    rows, width = source.number(2) % (LONGEST_SIDE + 1), 1 + source.number(2) % LONGEST_SIDE
    size = source.number(1) + 1
    zero = source.number(1) % size
    tools = {
        "width": width,
        "profile": flags & 1,
        "dependent": bool(flags & 2),
        "unary_length": unary,
        "scan_order": scan_order,
        "parent": bool(flags & 4),
        "codebook_size": size if flags & 32 else 0,
        "codebook_zero": zero if flags & 32 else 0,
    }
    return min(rows, most_values // width) * width, tools, flags


def read_sides(source: Bytes, count: int, flags: int) -> dict[str, Any]:
    """Return the parent's levels and the history."""
    base = history = None
    if flags & 16:
        base = np.frombuffer(source.take(count), np.int8).astype(np.int32)
        base[base == -128] = np.iinfo(np.int32).min
        base[base == 127] = np.iinfo(np.int32).max
    if flags & 8:
        packed = np.frombuffer(source.take(-(-count // 8)), np.uint8)
        history = np.unpackbits(packed, bitorder="little")[:count].astype(np.int8)
    return {"base": base, "history": history}


def block_rows(count: int, tools: dict[str, Any]) -> int:
    """Return how many block rows have an entry point."""
    width, order = tools["width"], tools["scan_order"]
    if order == 0 or width in (1, count) or count == 0:
        return 0
    return -(-(count // width) // (4 << order)) - 1


def read_entry_points(source: Bytes, fitting: int) -> list[tuple[int, int, int]]:
    """Return entry points."""
    mode = source.number(1)
    points = []
    for _ in range(mode >> 1 if mode & 1 else fitting):
        word = source.number(4)
        offset = word >> 11
        points.append((word >> 3 & 255, word & 7, (offset - 0x200000) % (1 << 64) if offset > 0x1FFF00 else offset))
    return points


def decode(data: bytes) -> list[Any]:
    """Return what the present instruction set makes of an input of the decoder's fuzzer."""
    source = Bytes(data)
    number, bits = 1 + source.number(1) % 3, source.number(1) % 33
    calls = []
    for _ in range(number):
        count, tools, flags = read_fields(source, MOST_VALUES)
        tools["unary_length"] = tools["unary_length"] or 256
        points = read_entry_points(source, block_rows(count, tools))
        calls.append((count, tools | {"entry_points": points} | read_sides(source, count, flags)))
    decoder = _native.Decoder(np.frombuffer(source.data, np.uint8), 0, len(source.data))
    outcome: list[Any] = []
    try:
        for count, tools in calls:
            outcome.append(decoder.bypass(bits, False) if bits else 0)
            outcome.append(decoder.tensor(count, **tools).tobytes())
            outcome.append(decoder.parameter_sets)
        outcome.append(decoder.finish())
    except _native.StreamError as error:
        outcome.append(str(error))
    return outcome


def numbers(source: Bytes, count: int) -> np.ndarray[Any, Any]:
    """Return numbers of one byte or, behind an escape, of four."""
    found = np.zeros(count, np.int64)
    for index in range(min(count, len(source.data))):
        found[index] = number = int.from_bytes(source.take(1), "little", signed=True)
        if number == -128:
            found[index] = int.from_bytes(source.take(4), "little", signed=True)
    return found


def fitting_levels(found: np.ndarray[Any, Any], tools: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return levels near to the numbers that codebook and trellis have."""
    size, zero = tools["codebook_size"], tools["codebook_zero"]
    if tools["profile"] and size:
        # of two levels of the trellis a codebook has one entry
        found = found % size - zero if not tools["dependent"] else found * 0
    found = np.clip(found, -(1 << 30), 1 << 30)
    if not tools["dependent"]:
        return found.astype(np.int32)
    scan_order, width = tools["scan_order"], tools["width"]
    return _native.quantise(found.astype(np.float32), width=width, step=1.0, dependent=True, scan_order=scan_order)


def round_trip(data: bytes) -> bytes:
    """Code an input of the round trip's fuzzer; return the payload once it has decoded to the same levels."""
    source = Bytes(data)
    mode = source.number(1)
    source.take((2 if mode & 8 else 0) + 2)
    count, tools, flags = read_fields(source, FEWER_VALUES)
    tools |= read_sides(source, count, flags)
    source.take(1 + (64 if mode & 3 == 2 else 0))
    levels = fitting_levels(numbers(source, count), tools)
    encoder = _native.Encoder()
    unary = encoder.tensor(levels, row_skip=bool(flags & 64), **tools)
    payload = encoder.finish()
    decoder = _native.Decoder(np.frombuffer(payload, np.uint8), 0, len(payload))
    tools |= {"unary_length": unary, "entry_points": encoder.entry_points[0]}
    np.testing.assert_array_equal(decoder.tensor(count, **tools), levels)
    assert decoder.finish() == len(payload)
    return payload


@contextlib.contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Use one instruction set for a while; ValueError where this machine does not have it."""
    best = _native.simd()
    _native.set_simd(name)
    try:
        yield
    finally:
        _native.set_simd(best)


@pytest.mark.parametrize(("fuzzer", "replay"), [("fuzz_decode", decode), ("fuzz_roundtrip", round_trip)])
def test_the_corpus_of_the_native_fuzzers(fuzzer: str, replay: Any) -> None:
    """Inputs that fuzzing kept give the same with every instruction set, and round trips give back their levels."""
    files = sorted((CORPUS / fuzzer).iterdir())
    assert len(files) > 100
    expected = [replay(file.read_bytes()) for file in files]
    others = 0
    for name in INSTRUCTION_SETS:
        with contextlib.suppress(ValueError), instruction_set(name):
            assert [replay(file.read_bytes()) for file in files] == expected
            others += 1
    assert others >= 1


@pytest.mark.parametrize("reader", READERS)
def test_damaged_streams(reader: str) -> None:
    """Of streams damaged in many ways each gives arrays or an error with the offset, soon; some of both."""
    mutator = Mutator(sound_streams(reader), seed=1)
    sound = sum(check(reader, mutator.stream()) for _ in range(800))
    assert 20 < sound < 780


def test_damaged_streams_within_the_default_bound() -> None:
    """Streams without a caller's bound are held by one that follows from their length."""
    mutator = Mutator(sound_streams("unpack"), seed=2)
    for _ in range(300):
        check("unpack", mutator.stream(), None)


def test_memory_follows_the_bound() -> None:
    """Reading a damaged stream asks for no more memory than the bound on values and the stream itself account for."""
    mutator, chance = Mutator(sound_streams("unpack"), seed=3), random.Random(3)
    for _ in range(300):
        data, reader = mutator.stream(), chance.choice(("unpack", "iter_unpack", "inspect", "update"))
        # a value is a level, a float and its last type at the same time; a byte can become a field or a character
        assert peak_memory(reader, data) < 24 * FEW + 64 * len(data) + (1 << 20)


def long_levels(count: int, **tools: Any) -> tuple[np.ndarray[Any, Any], dict[str, Any], list[tuple[int, int, int]]]:
    """Return a payload whose levels take two hundred bins and few bits each, its keywords, and its entry points."""
    tools |= {"dependent": False, "unary_length": 256}
    sets = bytes(6) + bytes([2]) * 400  # the start that holds "greater" for likely
    encoder = _native.Encoder()
    encoder.tensor(np.full(count, 201, np.int32), parameter_sets=sets, **tools)
    return np.frombuffer(encoder.finish(), np.uint8), tools, encoder.entry_points[0]


def seconds_until_refused(payload: np.ndarray[Any, Any], count: int, **tools: Any) -> float:
    """Return the CPU time that a decoder takes to refuse a payload."""
    before = time.process_time()
    with pytest.raises(_native.StreamError):
        _native.Decoder(payload, 0, payload.size).tensor(count, **tools)
    return time.process_time() - before


def test_a_payload_that_is_too_short_is_noticed_soon() -> None:
    """A payload that ends early does not go on for all the values that its header claims."""
    payload, tools, _ = long_levels(1000, width=1)
    assert seconds_until_refused(payload, 1 << 24, **tools) < 0.5  # all values would take 5 s


def test_entry_points_cannot_multiply_the_work() -> None:
    """Many block rows that all start at the same bits are refused instead of decoded over and over."""
    payload, tools, points = long_levels(128 * 1000, width=1000, scan_order=4)
    same = [points[0], *[(points[0][0], points[0][1], 0)] * 510]
    assert seconds_until_refused(payload, 512 * 64 * 1000, entry_points=same, **tools) < 2  # all rows would take 20 s
