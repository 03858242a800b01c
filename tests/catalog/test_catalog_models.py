from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from wattwerk.catalog import architectures, models
from wattwerk.errors import ConfigError, UnavailableError

BIG = {"detr-r50", "segformer-b5", "yolov9-c"}
EVERY = [pytest.param(name, marks=pytest.mark.slow) if name in BIG else name for name in models.names()]


def write_matmul(path: Path, dims: list[int | str], **external: object) -> Path:
    """Write a graph that multiplies its input of the given shape with a matrix (4, 2)."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [*dims[:-1], 2])
    weight = onnx.numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [value], [result], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path, **external)
    return path


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a module of factories, good and bad ones, and its name."""
    (tmp_path / "my_factories.py").write_text(
        "import torch\n"
        "def small(): return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())\n"
        "def raising(): raise RuntimeError('out of cheese')\n"
        "def wrong(): return 3\n"
        "number = 5\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_factories", raising=False)
    return "my_factories"


@pytest.mark.parametrize("name", models.names())
def test_a_built_in_model_says_what_it_is(name: str) -> None:
    """Every built-in model has a task, one image input, sizes, and seeded weights."""
    subject = models.resolve(name, seed=3).subject()
    size = architectures.ARCHITECTURES[name].image_size
    assert subject.inputs == {"pixel_values": ["batch", 3, size, size]}
    assert subject.task in {"classification", "detection", "segmentation"}
    assert subject.parameters_count > 3e6
    assert subject.sample_flops > 6e8
    assert subject.weights == "seeded:3"


def test_a_built_in_model_needs_no_torch() -> None:
    """Resolving and filling a model works where torch and transformers cannot be imported."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from wattwerk.catalog import models; print(len(models.resolve('mobilenet-v2').onnx_bytes()))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(answer.stdout) > 4 * 3_500_000


def test_weights_follow_from_the_seed_alone() -> None:
    """The same seed gives the same bytes, in a fresh model and after pickling; another seed gives others."""
    model = models.resolve("mobilenet-v2", seed=1)
    data = model.onnx_bytes()
    assert models.resolve("mobilenet-v2", seed=1).onnx_bytes() == data
    assert pickle.loads(pickle.dumps(model)).onnx_bytes() == data
    assert models.resolve("mobilenet-v2", seed=2).onnx_bytes() != data


@pytest.mark.parametrize("name", EVERY)
def test_onnx_and_torch_forms_give_the_same_outputs(name: str) -> None:
    """ONNX Runtime and torch agree on every output of two images, and the outputs differ between the images."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import onnxruntime

    model = models.resolve(name)
    inputs = model.sample_inputs(2, seed=0)
    session = onnxruntime.InferenceSession(model.onnx_bytes(), providers=["CPUExecutionProvider"])
    assert tuple(output.name for output in session.get_outputs()) == model.output_names()
    found = session.run(None, inputs)
    with torch.inference_mode():
        wanted = model.torch_module()(torch.from_numpy(inputs["pixel_values"]))
    for array, tensor in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        scale = np.abs(array).max()
        assert np.isfinite(array).all()
        assert np.abs(array - tensor.numpy()).max() < 1e-3 * scale
        assert np.std(array[0] - array[1]) > 0.02 * np.std(array)


@pytest.mark.parametrize("name", ["mobilenet-v2", "resnet-50"])
def test_seeded_weights_keep_half_precision_finite(name: str) -> None:
    """In float16 the outputs stay finite and within a few percent of those in float32."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    model = models.resolve(name)
    module = model.torch_module()
    images = torch.from_numpy(model.sample_inputs(1, seed=0)["pixel_values"])
    with torch.inference_mode():
        single = module(images)
        half = module.half()(images.half()).float()
    assert torch.isfinite(half).all()
    assert (half - single).abs().max() < 0.05 * single.abs().max()


def test_sample_inputs_are_normalised_images() -> None:
    """Images have mean 0 and deviation 1, differ from each other, and follow from the seed."""
    model = models.resolve("mobilenet-v2")
    images = model.sample_inputs(2, seed=7)["pixel_values"]
    assert images.shape == (2, 3, 224, 224)
    assert images.dtype == np.float32
    assert abs(images.mean()) < 1e-4
    assert abs(images.std() - 1) < 1e-3
    assert not np.allclose(images[0], images[1])
    assert np.array_equal(images[:1], model.sample_inputs(1, seed=7)["pixel_values"])


def test_an_onnx_file_is_a_model(tmp_path: Path) -> None:
    """A file with a dynamic batch gives inputs, outputs, counts and a digest, and survives pickling."""
    model = models.resolve(str(write_matmul(tmp_path / "mine.onnx", ["n", 4])))
    subject = model.subject()
    assert (subject.name, subject.inputs, subject.parameters_count) == ("mine", {"x": ["batch", 4]}, 8)
    assert subject.sample_flops == 16
    assert len(subject.digest) == 64
    assert model.output_names() == ("y",)
    assert model.fixed_batch is None
    again = pickle.loads(pickle.dumps(model))
    assert again.onnx_bytes() == model.onnx_bytes()
    with pytest.raises(UnavailableError, match="onnxruntime"):
        model.torch_module()


def test_a_fixed_batch_is_told(tmp_path: Path) -> None:
    """A file fixed to a batch of 8 says so, and its operations are those of one sample."""
    model = models.resolve(str(write_matmul(tmp_path / "fixed.onnx", [8, 4])))
    assert model.fixed_batch == 8
    assert model.subject().inputs == {"x": [8, 4]}
    assert model.subject().sample_flops == 16


def test_a_dynamic_dimension_needs_the_input_shape(tmp_path: Path) -> None:
    """Without --input-shape the error names the dimension; with it, the shape stands in the graph."""
    path = str(write_matmul(tmp_path / "dynamic.onnx", ["n", "length", 4]))
    with pytest.raises(ConfigError, match=r"length.*--input-shape"):
        models.resolve(path)
    model = models.resolve(path, input_shape=(5, 4))
    assert model.inputs[0].shape == (5, 4)
    assert model.subject().sample_flops == 80
    dims = onnx.load_from_string(model.onnx_bytes()).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [0, 5, 4]
    with pytest.raises(ConfigError, match="has the shape"):
        models.resolve(path, input_shape=(5, 3))


def test_tensors_in_a_file_of_their_own_are_read(tmp_path: Path) -> None:
    """A file with external data is loaded whole; without its data file the error names that file."""
    options = {"save_as_external_data": True, "location": "mine.data", "size_threshold": 0}
    path = write_matmul(tmp_path / "outside.onnx", ["n", 4], **options)
    tensor = onnx.load_from_string(models.resolve(str(path)).onnx_bytes()).graph.initializer[0]
    assert np.array_equal(onnx.numpy_helper.to_array(tensor), np.ones((4, 2), np.float32))
    (tmp_path / "mine.data").unlink()
    with pytest.raises(ConfigError, match=r"mine\.data"):
        models.resolve(str(path))


def test_integer_inputs_are_valid_indices(tmp_path: Path) -> None:
    """An input of integers is fed with zeros and ones, which any table of two rows can be asked for."""
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 6])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6, 3])
    table = onnx.numpy_helper.from_array(np.zeros((2, 3), np.float32), "table")
    graph = helper.make_graph([helper.make_node("Gather", ["table", "ids"], ["y"])], "g", [ids], [out], [table])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "ids.onnx")
    drawn = models.resolve(str(tmp_path / "ids.onnx")).sample_inputs(4, seed=0)["ids"]
    assert drawn.dtype == np.int64
    assert drawn.shape == (4, 6)
    assert set(np.unique(drawn)) <= {0, 1}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("resnet50", "did you mean 'resnet-50'"),
        ("nothing/here.onnx", "there is no file"),
        ("no_such_package:factory", "cannot import no_such_package"),
        ("json:nothing", "json has no nothing"),
        ("json:__name__", "cannot be called"),
        ("", "unknown model"),
    ],
)
def test_a_wrong_reference_is_one_clear_line(reference: str, message: str) -> None:
    """A reference that leads nowhere is an error that says why, with what to do."""
    pytest.importorskip("torch")
    with pytest.raises(ConfigError, match=message) as caught:
        models.resolve(reference)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not onnx at all", b"\x08\x0a\x12\x03abc"])
def test_a_corrupt_onnx_file_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    """A file that is empty, text, or cut off is refused on resolving."""
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not valid ONNX") as caught:
        models.resolve(str(path))
    assert "\n" not in str(caught.value)


def test_an_onnx_file_without_inputs_is_refused(tmp_path: Path) -> None:
    """A graph of constants cannot be run on samples."""
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    constant = helper.make_node("Constant", [], ["y"], value=helper.make_tensor("c", TensorProto.FLOAT, [1], [1.0]))
    model = helper.make_model(
        helper.make_graph([constant], "g", [], [out]), opset_imports=[helper.make_opsetid("", 20)]
    )
    onnx.save(model, tmp_path / "constant.onnx")
    with pytest.raises(ConfigError, match="has no inputs"):
        models.resolve(str(tmp_path / "constant.onnx"))


def test_a_factory_is_a_model(factories: str) -> None:
    """A factory's module is exported with a dynamic batch, agrees with torch, and follows from the seed."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    import onnxruntime

    model = models.resolve(f"{factories}:small", input_shape=(4,), seed=5)
    inputs = model.sample_inputs(3, seed=0)
    session = onnxruntime.InferenceSession(model.onnx_bytes(), providers=["CPUExecutionProvider"])
    found = session.run(list(model.output_names()), inputs)[0]
    wanted = model.torch_module()(torch.from_numpy(inputs["input"])).detach().numpy()
    assert np.allclose(found, wanted, atol=1e-5)
    assert model.subject().parameters_count == 15
    assert model.subject().sample_flops == pytest.approx(24, rel=0.3)
    again = pickle.loads(pickle.dumps(model)).torch_module()
    assert torch.equal(again[0].weight, model.torch_module()[0].weight)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raising", "out of cheese"),
        ("wrong", "returned a int"),
        ("number", "cannot be called"),
        ("missing", "has no missing"),
    ],
)
def test_a_bad_factory_is_one_clear_line(factories: str, name: str, message: str) -> None:
    """A factory that raises, returns something else, or is none is an error of the user's input."""
    pytest.importorskip("torch")
    with pytest.raises(ConfigError, match=message):
        models.resolve(f"{factories}:{name}")
