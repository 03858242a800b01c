"""Whatever bytes come, there are arrays or a BitstreamError with the offset: nothing else, and no memory for it."""

import functools
import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.codec.golden_streams import load, names
from tests.codec.samples import every_type, weights

from wattwerk.codec import UpdateDecoder, UpdateEncoder, _native, apply_update, inspect, iter_unpack, pack, unpack
from wattwerk.codec.data_unit import DataUnit, PayloadType
from wattwerk.codec.parameter_sets import ModelParameterSet
from wattwerk.codec.reduce_types import Decomposed, Scaled
from wattwerk.codec.syntax import Context, StartUnit, TopologyUnit, write_unit
from wattwerk.errors import BitstreamError

FEW = 100_000  # values: no test here is to unfold a stream that a flipped bit has made huge


def _streams():
    rng = np.random.default_rng(2)
    matrix = rng.normal(0, 0.1, (20, 8)).astype(np.float32)
    blocks = {"low": Decomposed(matrix, matrix.T.copy(), (20, 4, 5)), "scaled": Scaled(matrix, matrix[:, 0])}
    return {
        "types": pack(every_type(), non_finite="raw", metadata={"a": "b"}, container="test"),
        "blocks": pack(blocks, scan_order=1),
        "scan": pack(weights(), scan_order=1, qp=-20),
        "codebook": pack(weights(), codebook="on", qp=-8, nonweight_qp=-8),
        "profile 0": pack(weights(), profile=0, dependent=False),
    } | {name: load(name).data for name in names() if not name.startswith("update")}


STREAMS = _streams()


def _outcome(read, data):
    try:
        read(data)
    except BitstreamError as error:
        assert error.offset is not None  # noqa: PT017 - both outcomes are right
        assert 0 <= error.offset <= len(data)  # noqa: PT017


def _unpack(data):
    arrays = unpack(data, max_values=FEW, threads=1)
    assert all(isinstance(array, np.ndarray) for array in arrays.values())


@pytest.mark.parametrize("name", STREAMS)
def test_truncated_streams(name):
    """A stream that is cut off anywhere gives fewer arrays or an error with the offset."""
    data = STREAMS[name]
    for length in range(0, len(data), max(1, len(data) // 150)):
        _outcome(_unpack, data[:length])


@pytest.mark.parametrize("name", STREAMS)
def test_flipped_bits(name):
    """A stream with a flipped bit gives arrays or an error with the offset."""
    data = STREAMS[name]
    rng = np.random.default_rng(3)
    for position in sorted({*range(0, min(len(data), 64) * 8), *rng.integers(0, 8 * len(data), 200).tolist()}):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        _outcome(_unpack, bytes(damaged))


@given(st.sampled_from(sorted(STREAMS)), st.data())
@settings(max_examples=150)
def test_pieces_of_streams_in_any_place(name, data):
    """A stream with a piece of it removed, repeated or replaced gives arrays or an error with the offset."""
    stream = STREAMS[name]
    start, end = sorted((data.draw(st.integers(0, len(stream))), data.draw(st.integers(0, len(stream)))))
    piece = data.draw(st.one_of(st.binary(max_size=40), st.just(stream[start:end] * 2)))
    _outcome(_unpack, stream[:start] + piece + stream[end:])


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_any_bytes(data):
    """Any bytes at all, and any bytes behind a sound start of a stream, are refused or read."""
    for stream in (data, STREAMS["types"][:12] + data):
        _outcome(_unpack, stream)
        _outcome(lambda d: inspect(d, max_values=FEW), stream)
        _outcome(lambda d: list(iter_unpack(io.BytesIO(d), max_values=FEW)), stream)


@pytest.mark.parametrize("position", range(0, 2400, 7))
def test_damaged_updates(position):
    """A damaged update gives arrays or an error, and after an error the receiver's state is what it was."""
    base, data = _update()
    data = bytearray(data)
    data[position // 8 % len(data)] ^= 1 << position % 8
    decoder = UpdateDecoder(base)
    before = decoder.state
    try:
        decoder.apply(bytes(data), max_values=FEW)
    except BitstreamError:
        assert all(decoder.state[name] is array for name, array in before.items())
    _outcome(lambda d: apply_update(base, d, max_values=FEW), bytes(data))


@functools.cache
def _update():
    base = weights()
    return base, UpdateEncoder(base, qp=-20).encode({name: array + weights(1)[name] for name, array in base.items()})


def _claim(*shape, payload=bytes(20), **fields):
    context = Context()
    unit = DataUnit(payload_type=PayloadType.INT, names=("w",), shape=shape, **fields)
    units = (StartUnit(), ModelParameterSet(), TopologyUnit())
    head = b"".join(write_unit(each, context) for each in units)
    return head + write_unit(unit, context, payload_bytes=len(payload)) + payload


@pytest.mark.parametrize("shape", [(1 << 60,), (1 << 30, 1 << 30), (1 << 25,), (4200, 4200)])
def test_memory_is_bounded_by_the_length_of_the_stream(shape):
    """A few bytes that claim a huge tensor are refused before memory is asked for, and the message tells the bound."""
    data = _claim(*shape)
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError, match="pass max_values="):
            unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(0, 1 << 61, 65), (1 << 61, 0, 65), (0, 1 << 61)])
def test_shapes_without_elements_that_nothing_can_address(shape):
    """A zero among the dimensions does not make way for others of any size."""
    encoder = _native.Encoder()
    encoder.tensor(np.zeros(0, np.int32), width=1, dependent=False, unary_length=10)
    with pytest.raises(BitstreamError, match="is too large"):
        unpack(_claim(*shape, payload=encoder.finish()))


def test_the_callers_bound_counts_all_tensors_together():
    """The bound is one for the whole stream: what fits exactly is read, one value less is refused."""
    arrays = weights()
    data = pack(arrays)
    count = sum(max(array.size, 1) for array in arrays.values())
    assert len(unpack(data, max_values=count)) == len(arrays)
    with pytest.raises(BitstreamError, match=f"max_values={count}"):
        unpack(data, max_values=count - 1)


def test_a_tensor_of_zeros_needs_few_bytes_and_a_larger_bound():
    """A legitimate stream beyond the default bound is refused with the number that lets it pass."""
    data = pack({"w": np.zeros((5000, 5000), np.float32)})
    assert len(data) < 100
    with pytest.raises(BitstreamError, match="max_values=25000000"):
        unpack(data)
    assert not unpack(data, max_values=25_000_000)["w"].any()


def test_a_size_field_does_not_allocate():
    """A unit that claims 2 GiB of a short file is refused without room being made for it."""
    data = STREAMS["types"] + b"\xff\xff\xff\xff" + bytes(100)
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError, match="the stream ends"):
            unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wattwerk {", "cannot be read"),
        ("wattwerk [1]", "cannot be read"),
        ('wattwerk {"dtype": 5}', "cannot be read"),
        ('wattwerk {"dtype": "object"}', "'object' is not known"),
        ('wattwerk {"shape": [2]}', "no tensor of shape"),
        ('wattwerk {"shape": [-1, -3]}', "no tensor of shape"),
        ('wattwerk {"planes": true, "dtype": "int64"}', "no tensor of 'int64'"),
        ('wattwerk {"planes": true, "dtype": "x"}', "no tensor of 'x'"),
        ('wattwerk {"empty": "w"}', "two tensors"),
        ('wattwerk {"empty": "e", "shape": [3]}', "no tensor of shape"),
        ('wattwerk {"empty": "e", "shape": [0, 1152921504606846976]}', "too large"),
        ("wattwerk " + "[" * 100_000, "cannot be read"),
    ],
)
def test_notes_that_lie(text, message):
    """A note that is damaged or does not fit its tensor is an error, never a wrong array."""
    sound = pack({"w": np.arange(3, dtype=np.int32)})
    note = write_unit(TopologyUnit(text=text), Context())
    with pytest.raises(BitstreamError, match=message):
        unpack(sound[:18] + note + sound[18:])


def test_units_out_of_order():
    """Start unit first and once, parameter set once and before tensors: else the byte is named."""
    start, mps = write_unit(StartUnit(), Context()), write_unit(ModelParameterSet(), Context())
    tensor = _claim(3)[18:]
    for stream, offset in ((mps, 0), (start + start, 4), (start + mps + mps, 12), (start + tensor, 4)):
        with pytest.raises(BitstreamError) as caught:
            unpack(stream)
        assert caught.value.offset == offset
