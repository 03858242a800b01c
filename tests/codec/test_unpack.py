import io

import numpy as np
import pytest
from tests.codec.golden_streams import load
from tests.codec.samples import every_type, weights

from wattwerk.codec import iter_unpack, pack, unpack, unpack_file
from wattwerk.codec.data_unit import Context, DataUnit, NodeId, PayloadType
from wattwerk.codec.syntax import TopologyFormat, TopologyUnit, write_unit
from wattwerk.errors import BitstreamError

START = 18  # bytes before the first tensor


def _equal(one, other):
    assert list(one) == list(other)
    for name, array in one.items():
        assert (array.dtype, array.shape) == (other[name].dtype, other[name].shape)
        assert array.tobytes() == other[name].tobytes()


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("scan_order", [0, 2])
def test_arrays_do_not_depend_on_threads(threads, scan_order):
    """One thread and several, whole and piece by piece, give the same arrays in the same order."""
    data = pack(weights() | every_type(), non_finite="raw", scan_order=scan_order)
    expected = unpack(data, threads=1)
    _equal(unpack(data, threads=threads), expected)
    _equal(dict(iter_unpack(io.BytesIO(data), threads=threads)), expected)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_and_file(kind, tmp_path):
    """Bytes, bytearrays, views and files are the same."""
    data = pack(weights())
    expected = unpack(data)
    _equal(unpack(kind(data)), expected)
    path = tmp_path / "model.nnc"
    path.write_bytes(data)
    _equal(unpack_file(path), expected)


def test_tensors_come_one_by_one():
    """The iterator has read no more of the file than the tensors that it gave."""
    arrays = {f"w{index}": np.random.default_rng(index).normal(size=(99, 99)).astype(np.float32) for index in range(5)}
    data = pack(arrays)
    file = io.BytesIO(data)
    pairs = iter_unpack(file)
    positions = []
    for _ in pairs:
        positions.append(file.tell())
    assert len(set(positions)) == 5
    assert positions[0] < len(data) / 4


def test_a_stream_that_cannot_tell_its_length():
    """From a pipe the bound does not grow with the length, and a caller's bound holds."""

    class Pipe(io.RawIOBase):
        def __init__(self, data):
            self._data = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, buffer):
            return self._data.readinto(buffer)

    data = pack(weights())
    _equal(dict(iter_unpack(io.BufferedReader(Pipe(data)), max_values=10_000)), unpack(data))


def test_raw_floats_are_read():
    """Units of raw floats, which the format allows and we do not write, come back bit by bit."""
    array = np.array([[np.nan, -0.0, 1.5], [np.inf, 2, 3]], np.float32)
    unit = DataUnit(payload_type=PayloadType.RAW_FLOAT, names=("raw",), shape=(2, 3), node=NodeId())
    data = pack({})[:START] + write_unit(unit, Context(), payload_bytes=24) + array.tobytes()
    assert unpack(data)["raw"].tobytes() == array.tobytes()
    with pytest.raises(BitstreamError, match="no float32 of shape"):
        unpack(pack({})[:START] + write_unit(unit, Context(), payload_bytes=23) + array.tobytes()[:23])


def test_a_shape_from_elsewhere():
    """A tensor whose shape the stream does not carry is read with the caller's."""
    array = {"w": np.arange(12, dtype=np.int32).reshape(3, 4)}
    data = pack(array)
    with pytest.raises(BitstreamError, match="does not carry the shape"):
        unpack(_without_shape(data))
    _equal(unpack(_without_shape(data), shapes={"w": (3, 4)}), array)


def _without_shape(data):
    from wattwerk.codec.tensor_decoding import Budget
    from wattwerk.codec.unpacking import walk

    step = list(walk(io.BytesIO(data), Budget(len(data))))[-1]
    fields = {name: getattr(step.unit, name) for name in step.unit.__struct_fields__}
    payload = step.coded.data[step.coded.start :]
    head = write_unit(DataUnit(**{**fields, "shape_in_band": False}), Context(), payload_bytes=len(payload))
    return data[:START] + head + payload


def test_somebody_elses_topology_is_passed_over():
    """Topology units that hold no note of ours change nothing, wherever they stand."""
    data = pack(weights())
    other = write_unit(TopologyUnit(TopologyFormat.PYTORCH, text="graph"), Context())
    _equal(unpack(data[:START] + other + data[START:] + other), unpack(data))


def test_two_tensors_of_one_name():
    """A stream that names two tensors alike is refused instead of losing one."""
    data = pack({"w": np.ones(3, np.int32)})
    with pytest.raises(BitstreamError, match="two tensors named 'w'"):
        unpack(data + data[START:])


def test_bytes_behind_a_payload():
    """A unit that is longer than its payload is refused."""
    data = bytearray(pack({"w": np.ones(3, np.int32)}))
    data[START + 1] += 1
    with pytest.raises(BitstreamError, match=rf"the payload ends at byte \d+ of a unit .*\(byte {START}\)"):
        unpack(bytes(data) + b"\0")


def test_progress_names_every_tensor():
    """The callback gets each tensor's name and the size of its unit."""
    seen = {}
    data = pack(weights())
    unpack(data, progress=seen.__setitem__)
    assert list(seen) == list(weights())
    assert sum(seen.values()) < len(data)


def test_scaling_of_the_references_blocks_stays_apart_unless_asked_for():
    """Blocks of the reference give weight and scaling as it does; on request the weight is multiplied."""
    data = load("block_folded").data
    apart, whole = unpack(data), unpack(data, apply_scaling=True)
    scaled = [name for name in apart if name.endswith("_scaling")]
    assert scaled
    for name in scaled:
        weight = name.removesuffix("_scaling")
        factors = apart[name].reshape(-1, *[1] * (apart[weight].ndim - 1))
        np.testing.assert_array_equal(whole[weight], apart[weight] * factors)
        assert name not in whole


def test_block_rows_decode_alike_on_any_number_of_threads() -> None:
    """Entry points let block rows be decoded side by side, with the same result."""
    values = np.random.default_rng(5).laplace(size=(200, 150)).astype(np.float32)
    data = pack({"w": values}, scan_order=1)
    alone = unpack(data, threads=1)["w"]
    assert np.abs(alone - values).max() < 0.01
    np.testing.assert_array_equal(unpack(data, threads=4)["w"], alone)
