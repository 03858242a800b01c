"""Model files of every kind come back as they were."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tests.codec.samples import weights

from wattwerk.codec.container_safetensors import INDEX
from wattwerk.codec.containers import Restored, open_model, write_model
from wattwerk.codec.model_files import digest, read_arrays, read_head
from wattwerk.codec.model_packing import PackRequest, pack_model
from wattwerk.codec.model_unpacking import unpack_model
from wattwerk.codec.packing import pack_file
from wattwerk.errors import BitstreamError, ConfigError, UnavailableError, WattwerkError

Arrays = dict[str, np.ndarray[Any, Any]]
EXACT = PackRequest(qp=-60, options={"nonweight_qp": -100, "non_finite": "raw"})


def mixed() -> Arrays:
    """Return tensors of many types in an order that is not the alphabet's, and whose places are not aligned by it."""
    return {
        "z.truth": np.array([True, False, True]),
        "b.bf16": np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16),
        "a.f32": np.linspace(-1, 1, 35, dtype=np.float32).reshape(5, 7),
        "scalar": np.array(7, np.int64),
        "größe": np.arange(5, dtype=np.uint8),
        "nothing": np.zeros((0, 4), np.float32),
        "f16": np.array([[0.5, -2.0]], np.float16),
        "f64": np.array([0.25, 1e300]),
    }


def near(found: Arrays, expected: Arrays, atol: float = 1e-4) -> None:
    """Check names, order, types and shapes, and that values differ by less than fine steps."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        assert np.allclose(found[name].astype(np.float64), value.astype(np.float64), atol=atol, rtol=1e-4), name


def same(found: Arrays, expected: Arrays) -> None:
    """Check that two sets of tensors are equal bit for bit and in the same order."""
    assert list(found) == list(expected)
    assert digest(found) == digest(expected)


def test_safetensors_written_here_are_read_by_the_library(tmp_path: Path) -> None:
    """Types, shapes, values and texts arrive, each tensor aligned, whatever order they came in."""
    path = tmp_path / "model.safetensors"
    arrays = mixed()
    write_model(path, Restored.of(arrays, "safetensors", {"format": "pt", "ä": "ö", "wattwerk.base": "ours"}))
    found = load_file(path)
    same({name: found[name] for name in arrays}, arrays)
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    assert header.pop("__metadata__") == {"format": "pt", "ä": "ö"}
    assert all(header[name]["data_offsets"][0] % max(arrays[name].itemsize, 1) == 0 for name in arrays)


@given(
    sizes=st.lists(st.tuples(st.sampled_from(["bool", "uint8", "float16", "float32", "float64"]), st.integers(0, 9)))
)
@settings(max_examples=50, deadline=None)
def test_safetensors_of_any_mix_of_types_come_back(sizes: list[tuple[str, int]], tmp_path_factory: Any) -> None:
    """Whatever lengths stand next to each other, the library reads what was written and no byte is shared."""
    path = tmp_path_factory.mktemp("mix") / "model.safetensors"
    arrays = {f"t{i}": np.arange(n).astype(dtype) for i, (dtype, n) in enumerate(sizes)}
    write_model(path, Restored.of(arrays))
    found = dict(open_model(path).read())
    assert digest(found) == digest(arrays)


def test_safetensors_through_a_stream(tmp_path: Path) -> None:
    """Names, order, types, shapes and texts survive packing and unpacking, bfloat16 included."""
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file(mixed(), source, metadata={"format": "pt", "author": "me"})
    before = dict(open_model(source).read())
    pack_model(source, tmp_path / "x.nnc", EXACT)
    unpack_model(tmp_path / "x.nnc", target)
    near(dict(open_model(target).read()), before)
    with safe_open(target, framework="numpy") as file:
        assert file.metadata() == {"format": "pt", "author": "me"}


@pytest.mark.parametrize("given_as", ["folder", "index"])
def test_shards_are_one_model(tmp_path: Path, given_as: str) -> None:
    """A folder and an index of shards give the tensors of all of them, shard after shard."""
    arrays = weights()
    names = list(arrays)
    parts = {"a-1-of-2.safetensors": names[4:], "b-2-of-2.safetensors": names[:4]}
    for part, members in parts.items():
        save_file({name: arrays[name] for name in members}, tmp_path / part, metadata={"format": "pt"})
    index = tmp_path / INDEX
    index.write_text(json.dumps({"metadata": {}, "weight_map": {n: p for p, m in parts.items() for n in m}}))
    model = open_model(tmp_path if given_as == "folder" else index)
    assert model.count == len(arrays)
    assert model.size_bytes == sum((tmp_path / part).stat().st_size for part in parts)
    assert digest(dict(model.read())) == digest(arrays)
    pack_model(model.path, tmp_path / "out.nnc", EXACT)
    unpack_model(tmp_path / "out.nnc", tmp_path / "whole.safetensors")
    assert set(load_file(tmp_path / "whole.safetensors")) == set(arrays)


def test_shards_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """A tensor that the index promises and no shard has, one in two shards, and a part outside of the folder."""
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "a.safetensors")
    for places, word in (
        ({"a": "a.safetensors", "b": "a.safetensors"}, "'b'"),
        ({"a": "../a.safetensors"}, "outside"),
        ({"a": "missing.safetensors"}, "missing"),
    ):
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
        with pytest.raises(ConfigError, match=word):
            open_model(tmp_path / INDEX)
    (tmp_path / INDEX).unlink()
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "b.safetensors")
    with pytest.raises(ConfigError, match="both have a tensor 'a'"):
        open_model(tmp_path)


def test_npz_through_a_stream(tmp_path: Path) -> None:
    """An archive comes back with names, order, types and shapes."""
    arrays = {name: value for name, value in mixed().items() if name != "b.bf16"}
    write_model(tmp_path / "in.npz", Restored.of(arrays))
    same(dict(open_model(tmp_path / "in.npz").read()), arrays)
    pack_model(tmp_path / "in.npz", None, EXACT)
    assert unpack_model(tmp_path / "in.nnc", tmp_path / "out.npz").tensors_count == len(arrays)
    near(dict(open_model(tmp_path / "out.npz").read()), arrays)


def test_a_first_tensor_of_any_size_comes_back(tmp_path: Path) -> None:
    """What stands before the tensors is read without a bound on these: a large one that packs well is no damage."""
    many = (1 << 24) + 1
    pack_file({"w": np.zeros((many, 1), dtype=np.float32)}, tmp_path / "in.nnc", qp=-8)
    unpack_model(tmp_path / "in.nnc", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as found:
        assert found["w"].shape == (many, 1)


def test_objects_in_an_npz_are_not_run(tmp_path: Path) -> None:
    """An archive with a pickled object is refused instead of unpickled."""
    np.savez(tmp_path / "bad.npz", a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(ConfigError, match=r"bad\.npz"):
        list(open_model(tmp_path / "bad.npz").read())


def graph() -> onnx.ModelProto:
    """Return a graph with weights, constants, a quantised layer, and an initialiser of strings."""
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.normal(0, 0.1, (6, 3, 3, 3)).astype(np.float32),
        "b": rng.normal(0, 0.1, 6).astype(np.float32),
        "shape": np.array([1, -1], np.int64),
        "epsilon": np.array(1e-12, np.float32),
        "levels": rng.integers(-127, 127, (20, 6), dtype=np.int8),
        "scales": rng.random(20).astype(np.float32),
        "long": rng.normal(0, 1, 40).astype(np.float32),
    }
    tensors = [numpy_helper.from_array(value, name) for name, value in arrays.items()]
    tensors.append(helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"b"]))
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["y"]),
        helper.make_node("Reshape", ["y", "shape"], ["z"]),
        helper.make_node("Add", ["z", "epsilon"], ["out"]),
        helper.make_node("DequantizeLinear", ["levels", "scales"], ["d"], axis=0),
    ]
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("out", TensorProto.FLOAT, [1, None])],
        initializer=tensors,
    )
    return helper.make_model(made, producer_name="test", opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("external", [False, True])
def test_onnx_through_a_stream(tmp_path: Path, external: bool) -> None:
    """The same graph comes back, initialisers in their places; only large floats have changed, and little."""
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save_model(graph(), source, save_as_external_data=external, location="in.data", size_threshold=0)
    packed = pack_model(source, tmp_path / "m.nnc", PackRequest(qp=-50))
    unpack_model(tmp_path / "m.nnc", target)
    before, after = graph(), onnx.load(target)
    assert packed.input_bytes == sum(f.stat().st_size for f in tmp_path.glob("in.*"))
    assert [t.name for t in after.graph.initializer] == [t.name for t in before.graph.initializer]
    for old, new in zip(before.graph.initializer, after.graph.initializer, strict=True):
        a, b = numpy_helper.to_array(old), numpy_helper.to_array(new)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if old.name in ("w", "long"):
            assert 0 < np.abs(a - b).max() < 1e-3
        else:
            assert np.array_equal(a, b), old.name
    del before.graph.initializer[:], after.graph.initializer[:]
    assert before == after


def test_onnx_of_half_floats_stays_half_through_a_reduction(tmp_path: Path) -> None:
    """A pass that leaves float32 behind does not change the types that the graph was made for."""
    model = graph()
    half = numpy_helper.from_array(np.linspace(-1, 1, 60).astype(np.float16).reshape(6, 10), "half")
    model.graph.initializer.append(half)
    onnx.save_model(model, tmp_path / "in.onnx")
    pack_model(tmp_path / "in.onnx", tmp_path / "m.nnc", PackRequest(reduce=[{"pass": "uniform", "bits": 8}]))
    unpack_model(tmp_path / "m.nnc", tmp_path / "out.onnx")
    after = {t.name: t.data_type for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert after["half"] == TensorProto.FLOAT16


def test_onnx_needs_its_graph(tmp_path: Path) -> None:
    """Tensors of another kind of file cannot become ONNX, and the message says what they can become."""
    with pytest.raises(ConfigError, match="safetensors"):
        write_model(tmp_path / "out.onnx", Restored.of(weights(), "npz"))
    assert not list(tmp_path.glob("*.onnx"))


def test_state_dict_through_a_stream(tmp_path: Path) -> None:
    """A module of PyTorch loads what comes back, versions of its parts and bfloat16 included."""
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Linear(4, 4)).eval()
    net[2].to(torch.bfloat16)
    source, target = tmp_path / "net.pt", tmp_path / "again.pth"
    torch.save(net.state_dict(), source)
    pack_model(source, None, EXACT)
    unpack_model(tmp_path / "net.nnc", target)
    state = torch.load(target, weights_only=True)
    assert state._metadata == net.state_dict()._metadata
    assert [(k, v.dtype, v.shape) for k, v in state.items()] == [
        (k, v.dtype, v.shape) for k, v in net.state_dict().items()
    ]
    assert torch.allclose(state["0.weight"], net.state_dict()["0.weight"], atol=1e-4)
    net.load_state_dict(state)
    unpack_model(tmp_path / "net.nnc", tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_files_of_pytorch_that_are_no_state_dict(tmp_path: Path) -> None:
    """Optimisers, whole modules and garbage are refused with what to do, and no code of theirs runs."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pt"
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, path)
    with pytest.raises(ConfigError, match=r'torch\.load\("x\.pt"\)\["state_dict"\]'):
        open_model(path)
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(ConfigError, match="state_dict"):
        open_model(path)
    path.write_bytes(b"nothing at all")
    with pytest.raises(ConfigError, match=r"x\.pt"):
        open_model(path)


def test_without_pytorch_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state dict needs PyTorch, and whoever lacks it learns how to get it."""
    (tmp_path / "x.pt").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnavailableError, match=r"pip install 'wattwerk\[torch\]'"):
        open_model(tmp_path / "x.pt")


def test_without_safetensors_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading safetensors needs the library; writing them does not."""
    monkeypatch.setitem(sys.modules, "safetensors", None)
    write_model(tmp_path / "x.safetensors", Restored.of(weights()))
    with pytest.raises(UnavailableError, match=r"wattwerk\[weights\]"):
        open_model(tmp_path / "x.safetensors")


@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".onnx", ".json", ".txt"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 20, b"PK\x03\x04" + bytes(40), b"\xff" * 30])
def test_garbage_is_named(tmp_path: Path, ending: str, content: bytes) -> None:
    """Any bytes under any ending give an error that names the file."""
    path = tmp_path / f"bad{ending}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="bad"):
        list(open_model(path).read())


def test_a_failed_unpacking_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """A stream that is cut off gives an error that names file and byte; the file that stood there still stands."""
    write_model(tmp_path / "m.npz", Restored.of(weights()))
    pack_model(tmp_path / "m.npz", None, PackRequest())
    stream = tmp_path / "m.nnc"
    stream.write_bytes(stream.read_bytes()[:-9])
    for ending in (".safetensors", ".npz"):
        target = tmp_path / f"old{ending}"
        target.write_bytes(b"precious")
        with pytest.raises(BitstreamError, match=r"m\.nnc.*byte"):
            unpack_model(stream, target)
        assert target.read_bytes() == b"precious"
    assert not list(tmp_path.glob(".*"))


def test_a_failed_packing_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """NaN in the last tensor stops packing, and the stream of before is still there."""
    write_model(tmp_path / "m.npz", Restored.of(weights() | {"last": np.array([np.nan, 1], np.float32)}))
    (tmp_path / "m.nnc").write_bytes(b"precious")
    with pytest.raises(ConfigError, match="'last'"):
        pack_model(tmp_path / "m.npz", None, PackRequest())
    assert (tmp_path / "m.nnc").read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["m.nnc", "m.npz"]


def test_updates_know_their_base(tmp_path: Path) -> None:
    """An update restores the new model on its base, and refuses any other, and none."""
    base, new = weights(), weights()
    new["linear.weight"] = new["linear.weight"] + np.float32(0.01)
    for name, arrays in (("base", base), ("new", new)):
        write_model(tmp_path / f"{name}.safetensors", Restored.of(arrays))
    update = tmp_path / "up.nnc"
    assert pack_model(tmp_path / "new.safetensors", update, PackRequest(base=str(tmp_path / "base.safetensors"))).update
    assert read_head(update).update
    unpack_model(update, tmp_path / "out.safetensors", base=tmp_path / "base.safetensors")
    expected = dict(open_model(tmp_path / "new.safetensors").read())
    near(dict(open_model(tmp_path / "out.safetensors").read()), expected, atol=4e-3)
    with pytest.raises(ConfigError, match="another model"):
        unpack_model(update, tmp_path / "wrong.npz", base=tmp_path / "new.safetensors")
    with pytest.raises(ConfigError, match="--base"):
        unpack_model(update, tmp_path / "wrong.npz")


def test_a_packed_base_is_what_the_receiver_has(tmp_path: Path) -> None:
    """A stream can be the base on both sides, since both unpack it to the same numbers."""
    write_model(tmp_path / "m.npz", Restored.of(weights()))
    pack_model(tmp_path / "m.npz", tmp_path / "first.nnc", PackRequest(qp=-20))
    pack_model(tmp_path / "m.npz", tmp_path / "second.nnc", PackRequest(base=str(tmp_path / "first.nnc"), qp=-50))
    unpack_model(tmp_path / "second.nnc", tmp_path / "out.npz", base=tmp_path / "first.nnc")
    near(read_arrays(tmp_path / "out.npz"), weights(), atol=5e-4)


def test_sizes_and_qualities(tmp_path: Path) -> None:
    """Coarser qualities are smaller, a target is met from below, and a limit holds where the quality would not."""
    rng = np.random.default_rng(0)
    arrays = {f"layer{i}.weight": rng.normal(0, 0.05, (64, 300)).astype(np.float32) for i in range(3)}
    write_model(tmp_path / "m.npz", Restored.of(arrays))

    def size(**asked: Any) -> int:
        return pack_model(tmp_path / "m.npz", tmp_path / "m.nnc", PackRequest(**asked)).output_bytes

    assert size(quality="near-lossless") > size(quality="balanced") > size(quality="small")
    assert 0.97 * 30_000 < size(target_size="30kB") <= 30_000
    assert size(quality="near-lossless", max_size=30_000) <= 30_000
    assert size(quality="small", max_size="1MB") == size(quality="small")
    with pytest.raises(ConfigError, match="does not fit"):
        size(target_size=100)


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return a stream from each kind of file."""
    folder = tmp_path_factory.mktemp("streams")
    write_model(folder / "m.npz", Restored.of(mixed() | weights()))
    save_file(mixed(), folder / "m.safetensors", metadata={"format": "pt"})
    onnx.save_model(graph(), folder / "m.onnx")
    found = {}
    for ending in (".npz", ".safetensors", ".onnx"):
        pack_model(folder / f"m{ending}", folder / "m.nnc", PackRequest())
        found[ending] = (folder / "m.nnc").read_bytes()
    return found


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_streams_never_end_in_a_traceback(
    streams: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever bytes are changed, unpacking into any kind of file gives that file or an error on purpose."""
    folder = tmp_path_factory.mktemp("damaged")
    stream = bytearray(streams[data.draw(st.sampled_from(sorted(streams)))])
    place = data.draw(st.integers(0, len(stream) - 1))
    stream[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    (folder / "m.nnc").write_bytes(stream)
    target = folder / f"out{data.draw(st.sampled_from(['.safetensors', '.npz', '.onnx']))}"
    told = ""
    try:
        unpack_model(folder / "m.nnc", target, threads=1)
    except WattwerkError as error:
        told = str(error)
    assert target.exists() != bool(told)
    assert not told or str(folder) in told


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"qp": -30, "quality": "small"}, "exclude"),
        ({"target_size": "many"}, "6.5MB"),
        ({"target_size": "0"}, "6.5MB"),
        ({"max_accuracy_loss": 0.1}, "function"),
        ({"max_accuracy_loss": 0.1, "evaluate": "nowhere:f"}, "nowhere:f"),
        ({"base": "x.npz", "quality": "small"}, "update"),
        ({"reduce": [{"pass": "sparsfy"}]}, "sparsify"),
        ({"reduce": [{"pass": "sparsify", "sparsty": 1}]}, "sparsity"),
        ({"options": {"qp_density": 3}, "quality": "small"}, "density"),
        ({"options": {"nope": 3}}, "nope"),
    ],
)
def test_contradictions_are_named(tmp_path: Path, asked: dict[str, Any], word: str) -> None:
    """What cannot be done is refused, and the message names it."""
    write_model(tmp_path / "m.npz", Restored.of(weights()))
    with pytest.raises(WattwerkError, match=word):
        pack_model(tmp_path / "m.npz", None, PackRequest(**asked))
    assert not (tmp_path / "m.nnc").exists()


def test_importing_containers_brings_in_no_framework() -> None:
    """Neither torch nor onnx nor safetensors is imported before a file of their kind is opened."""
    code = (
        "import sys, wattwerk.codec.model_packing, wattwerk.codec.model_unpacking\n"
        "sys.exit(' '.join({'torch', 'onnx', 'safetensors', 'ml_dtypes'} & set(sys.modules)) or None)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
