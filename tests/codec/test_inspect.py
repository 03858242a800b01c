import math

import numpy as np
import pytest
from tests.codec.golden_streams import load, names
from tests.codec.samples import every_type, weights

from wattwerk.codec import UpdateEncoder, inspect, pack
from wattwerk.codec.quantisation import step_size
from wattwerk.errors import BitstreamError


def test_units_cover_the_stream():
    """Units follow each other without gaps from the first byte to the last."""
    data = pack(weights() | every_type(), non_finite="raw")
    found = inspect(data)
    assert found.units[0].offset_bytes == 0
    ends = [unit.offset_bytes + unit.size_bytes for unit in found.units]
    assert [unit.offset_bytes for unit in found.units[1:]] == ends[:-1]
    assert ends[-1] == found.size_bytes == len(data)


def test_tensors_are_told_as_they_come_back():
    """Names, types and shapes are the original ones, and their sizes and shares follow from the stream."""
    arrays = weights() | every_type()
    found = inspect(pack(arrays, non_finite="raw"))
    told = [(tensor.name, tensor.dtype, tensor.shape) for tensor in found.tensors]
    assert told == [(name, array.dtype.name, array.shape) for name, array in arrays.items()]
    assert found.values == sum(array.size for array in arrays.values())
    assert found.original_bytes == sum(array.nbytes for array in arrays.values())
    for tensor in found.tensors:
        assert tensor.share == pytest.approx(tensor.size_bytes / found.size_bytes)
        count = math.prod(tensor.shape)
        assert tensor.bits_per_weight == pytest.approx(8 * tensor.size_bytes / count if count else 0)


def test_tools_steps_and_zeros():
    """QP, step, zeros and tools are those that were asked for."""
    found = {t.name: t for t in inspect(pack(weights(), qp=-20, scan_order=1, unary_length=7)).tensors}
    assert (found["conv.weight"].qp, found["conv.weight"].step) == (-20, step_size(-20, 2))
    assert found["conv.weight"].tools == ("dependent quantisation", "block scan 8")
    assert found["conv.weight"].unary_length == 7
    assert found["zeros"].zeros == 1.0
    assert 0 < found["conv.weight"].zeros < 1
    assert (found["steps"].qp, found["steps"].tools) == (None, ())


def test_container_and_metadata():
    """What was packed beside the tensors is told."""
    found = inspect(pack(weights(), container="safetensors", metadata={"format": "pt"}))
    assert (found.container, found.metadata) == ("safetensors", {"format": "pt"})


def test_a_damaged_payload_is_found_unless_nobody_looks():
    """Checking decodes payloads; without it only headers are read."""
    data = bytearray(pack(weights()))
    data[-1:] = b""
    data[inspect(bytes(data) + b"\0", check=False).tensors[-1].offset_bytes + 1] -= 1
    assert not inspect(bytes(data), check=False).checked
    with pytest.raises(BitstreamError, match="steps"):
        inspect(bytes(data))


@pytest.mark.parametrize("name", names())
def test_streams_of_the_reference(name):
    """What is told of the reference's streams is what the script that made them noted."""
    golden = load(name)
    found = inspect(golden.data)
    told = {tensor.name: tensor for tensor in found.tensors}
    for unit in golden.units:
        for tensor in unit["tensors"]:
            summary = told[tensor["name"]]
            assert summary.offset_bytes == unit["start"]
            assert summary.unary_length == tensor["unary_length"]
            assert found.profile == tensor["profile"]
            if found.checked:
                assert summary.qp == tensor["qp"]


def test_updates_that_need_the_one_before():
    """A first update is checked whole; later ones that may lean on it are told apart."""
    base = weights()
    encoder = UpdateEncoder(base, temporal_contexts="on")
    first = inspect(encoder.encode({name: array + weights(1)[name] for name, array in base.items()}))
    second = inspect(encoder.encode({name: array + weights(2)[name] for name, array in base.items()}))
    assert first.update
    assert first.checked
    assert not second.checked
    assert "difference" in first.tensors[0].tools
    assert "temporal contexts" in second.tensors[0].tools


def test_a_file(tmp_path):
    """A path is inspected without reading it whole."""
    path = tmp_path / "model.nnc"
    data = pack({"w": np.ones((4, 4), np.float32)})
    path.write_bytes(data)
    assert inspect(path) == inspect(data)
