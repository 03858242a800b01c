import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattwerk.codec.bits import BitReader, BitWriter
from wattwerk.errors import BitstreamError

UNSIGNED = st.integers(1, 64).flatmap(lambda n: st.tuples(st.just("u"), st.just(n), st.integers(0, 2**n - 1)))
SIGNED = st.integers(1, 64).flatmap(
    lambda n: st.tuples(st.just("i"), st.just(n), st.integers(-(2 ** (n - 1)), 2 ** (n - 1) - 1))
)
EXP_GOLOMB = st.tuples(st.just("ue"), st.integers(0, 15), st.integers(0, 2**61))
SIGNED_EXP_GOLOMB = st.tuples(st.just("ie"), st.integers(0, 15), st.integers(-(2**60), 2**60))


@given(st.lists(st.one_of(UNSIGNED, SIGNED, EXP_GOLOMB, SIGNED_EXP_GOLOMB)))
def test_any_sequence_of_codes_comes_back(codes):
    """What was written is read again, whatever stands before it, and nothing is left over."""
    writer = BitWriter()
    for kind, size, value in codes:
        getattr(writer, kind)(size, value)
    writer.align()
    reader = BitReader(writer.to_bytes())
    assert [getattr(reader, kind)(size) for kind, size, _ in codes] == [value for _, _, value in codes]
    reader.align()
    assert reader.bits_left == 0


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=600), st.floats(width=32))
def test_texts_and_floats_come_back(text, number):
    """Any text without a zero character and any float32, NaN included, survive."""
    writer = BitWriter()
    writer.st(text)
    writer.flt(number)
    reader = BitReader(writer.to_bytes())
    assert reader.st() == text
    read = reader.flt()
    assert read == number or (math.isnan(read) and math.isnan(number))


@pytest.mark.parametrize(
    ("order", "value", "bits"),
    [
        (0, 0, "1"),
        (0, 1, "010"),
        (0, 2, "011"),
        (0, 3, "00100"),
        (1, 0, "10"),
        (1, 1, "11"),
        (1, 2, "0100"),
        (7, 24, "10011000"),
    ],
)
def test_exp_golomb_codes_are_those_of_the_standard(order, value, bits):
    """Known code words come out, the last one as the reference writes a dimension of 24."""
    writer = BitWriter()
    writer.ue(order, value)
    missing = -len(bits) % 8
    writer.u(missing, 0)
    assert writer.to_bytes() == int(bits + "0" * missing, 2).to_bytes(-(-len(bits) // 8), "big")


def test_alignment_at_a_byte_takes_a_whole_byte():
    """Where nothing is to fill up, 0x80 is written, as the reference does."""
    writer = BitWriter()
    writer.u(8, 7)
    writer.align()
    assert writer.to_bytes() == b"\x07\x80"


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (b"", lambda r: r.u(1)),
        (b"\x00\x00", lambda r: r.ue(0)),
        (bytes(20), lambda r: r.ue(7)),
        (b"abc", lambda r: r.st()),
        (b"\xff\x00", lambda r: r.st()),
        (b"\x00", lambda r: r.align()),
        (b"\xc0", lambda r: r.align()),
        (b"\x00\x00\x00", lambda r: r.flt()),
    ],
)
def test_damage_is_an_error_with_the_offset(data, read):
    """Codes that are cut off, endless or not UTF-8 raise, and the message names the byte of the whole stream."""
    with pytest.raises(BitstreamError, match=r"\(byte 100\d\)") as caught:
        read(BitReader(data, origin=1000))
    assert caught.value.offset >= 1000


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.u(3, 8),
        lambda w: w.u(3, -1),
        lambda w: w.i(3, 4),
        lambda w: w.ue(0, -1),
        lambda w: w.ue(0, 2**63),
        lambda w: w.st("a\0b"),
        lambda w: (w.u(1, 1), w.st("a")),
        lambda w: (w.u(1, 1), w.to_bytes()),
    ],
)
def test_what_has_no_code_is_refused(write):
    """A value that the code cannot express raises instead of being cut."""
    with pytest.raises(ValueError, match=r"."):
        write(BitWriter())
