"""ONNX Runtime: the table of providers, what a profile proves, float16 and int8 graphs."""

from __future__ import annotations

import json
import warnings

import numpy as np
import onnx
import pytest

from wattwerk.errors import ConfigError, ConversionError, UnavailableError
from wattwerk.runtimes import onnxruntime as ours
from wattwerk.runtimes.base import LoadSpec, Precision
from wattwerk.runtimes.onnxruntime_graph import take_census, to_float16, with_batch
from wattwerk.runtimes.onnxruntime_providers import PROVIDERS, Conversion, provider_of
from wattwerk.testing import SmallModel


def spec(precision: Precision, device: str = "cpu", batch: int = 2, **fields: object) -> LoadSpec:
    """Ask for small things."""
    return LoadSpec(precision=precision, batch=batch, device=device, calibration=SmallModel().calibration, **fields)


@pytest.mark.parametrize("row", PROVIDERS, ids=lambda row: row.prefix)
def test_row_is_complete(row: object) -> None:
    """Every provider either reaches a precision or says why not, and int8 always goes through a quantised graph."""
    settings, refused = row.settings, row.refused()
    assert set(settings) | set(refused) == set(Precision)
    assert not set(settings) & set(refused)
    assert all(refused.values())
    quantised = (Conversion.QDQ, Conversion.QDQ_SYMMETRIC)
    assert Precision.INT8 not in settings or settings[Precision.INT8].conversion in quantised


def test_rows_have_their_own_devices() -> None:
    """No two rows share a device name, and a device's name leads back to its row."""
    assert len({row.prefix for row in PROVIDERS}) == len(PROVIDERS)
    for row in PROVIDERS:
        assert provider_of(f"{row.prefix}:3" if row.numbered else row.prefix) is row


def test_provider_options_say_the_precision() -> None:
    """On CUDA fp32 switches TF32 off, tf32 switches it on, and the device's number is passed on."""
    row = provider_of("cuda:2")
    assert row.options("cuda:2", Precision.FP32) == {"device_id": "2", "use_tf32": "0"}
    assert row.options("cuda:2", Precision.TF32) == {"device_id": "2", "use_tf32": "1"}


def test_user_options_cannot_undo_the_precision() -> None:
    """A provider option that would change the asked-for precision is refused; others are passed on."""
    row, asked = provider_of("cuda:0"), spec(Precision.FP32, "cuda:0")
    free = ours.OnnxRuntimeConfig(provider_options={"enable_cuda_graph": "1"})
    assert ours._provider_options(row, asked, free)["enable_cuda_graph"] == "1"
    with pytest.raises(ConfigError, match="use_tf32=1 contradicts fp32"):
        ours._provider_options(row, asked, ours.OnnxRuntimeConfig(provider_options={"use_tf32": "1"}))


def test_missing_provider_is_not_replaced(small_model: SmallModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ONNX Runtime would quietly take the CPU instead of CUDA, loading fails and says so."""
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is there")
    monkeypatch.setattr(ours.OnnxRuntime, "devices", classmethod(lambda cls: ["cuda:0", "cpu"]))
    with pytest.raises(UnavailableError, match="CUDAExecutionProvider could not be started, CPUExecutionProvider"):
        ours.OnnxRuntime.load(small_model, spec(Precision.FP32, "cuda:0"))


def test_int8_left_in_float_is_refused(small_model: SmallModel) -> None:
    """With the optimiser off the quantised graph computes in fp32: the profile shows it, and int8 is refused."""
    session = ours.OnnxRuntime.load(small_model, spec(Precision.INT8))
    assert session.effective.details["heavy_operators_at_precision_ratio"] == 1.0
    session.close()
    with pytest.raises(UnavailableError, match="heavy operators run as 100% fp32"):
        ours.OnnxRuntime.load(small_model, spec(Precision.INT8, options={"optimization": "none"}))


def test_census_counts_what_ran() -> None:
    """Only kernels of heavy operators count, by the type of their first input and by provider."""

    def event(name: str, kind: str, provider: str, suffix: str = "_kernel_time") -> dict[str, object]:
        arguments = {"op_name": name, "provider": provider, "input_type_shape": [{kind: [1]}, {"float": [1]}]}
        return {"name": name + suffix, "args": arguments}

    events = [
        event("Conv", "float16", "A"),
        event("MatMul", "float", "B"),
        event("QLinearConv", "uint8", "A"),
        event("Gemm", "float16", "A"),
        event("Relu", "float", "B"),
        event("Conv", "float", "B", "_fence_before"),
    ]
    census = take_census(json.dumps(events))
    assert census.share == {Precision.FP16: 0.5, Precision.FP32: 0.25, Precision.INT8: 0.25}
    assert census.providers == {"A": 3, "B": 1}


def test_float16_graph(small_model: SmallModel) -> None:
    """The float16 graph takes and gives float16, holds no fp32 weight, and gives the same scores within 1e-2."""
    import onnxruntime

    model = to_float16(onnx.load_from_string(small_model.onnx_bytes()))
    assert {each.data_type for each in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    inputs = small_model.samples(2)
    half = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    full = onnxruntime.InferenceSession(small_model.onnx_bytes(), providers=["CPUExecutionProvider"])
    scores = half.run(None, {"image": inputs["image"].astype(np.float16)})[0]
    reference = full.run(None, inputs)[0]
    assert scores.dtype == np.float16
    assert np.abs(scores - reference).max() < 1e-2 * np.abs(reference).max()


def test_batch_becomes_static(small_model: SmallModel) -> None:
    """The batch stands as a number in inputs and outputs."""
    model = with_batch(onnx.load_from_string(small_model.onnx_bytes()), 5)
    dims = [value.type.tensor_type.shape.dim[0].dim_value for value in (*model.graph.input, *model.graph.output)]
    assert dims == [5, 5]


def test_corrupt_model(small_model: SmallModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no ONNX give one line that names the model, not a library's traceback."""
    monkeypatch.setattr(type(small_model), "onnx_bytes", lambda self: b"not a model")
    with pytest.raises(ConversionError, match=r"ONNX Runtime cannot take small-model in fp32 \(.+\)") as caught:
        ours.OnnxRuntime.load(small_model, spec(Precision.FP32))
    assert "\n" not in str(caught.value)


def test_loading_is_silent(small_model: SmallModel, capfd: pytest.CaptureFixture[str]) -> None:
    """Quantising and loading write nothing to the terminal and leave the import path as it was."""
    import sys

    before = list(sys.path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.OnnxRuntime.load(small_model, spec(Precision.INT8)).close()
    assert sys.path == before
    assert capfd.readouterr() == ("", "")


def test_int8_reaches_tensors_read_twice() -> None:
    """In mobilenet-v2, whose shortcuts read tensors twice, every convolution still becomes an int8 one."""
    models = pytest.importorskip("wattwerk.catalog.models")
    model = models.resolve("mobilenet-v2")
    random = np.random.default_rng(0)
    sample = {each.name: random.standard_normal((1, *each.shape)).astype(np.float32) for each in model.inputs}
    asked = LoadSpec(precision=Precision.INT8, batch=1, device="cpu", calibration=lambda: [sample])
    session = ours.OnnxRuntime.load(model, asked)
    assert session.effective.details["heavy_operators_at_precision_ratio"] == 1.0
    session.close()
