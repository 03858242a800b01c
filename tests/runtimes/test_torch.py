"""PyTorch: its global switches, what it refuses, int8 through its compiler."""

from __future__ import annotations

import pytest

from wattwerk.errors import UnavailableError
from wattwerk.runtimes import torch as ours
from wattwerk.runtimes import torch_int8, torch_settings
from wattwerk.runtimes.base import LoadSpec, Precision
from wattwerk.testing import SmallModel

torch = pytest.importorskip("torch")


def spec(precision: Precision, batch: int = 2, **fields: object) -> LoadSpec:
    """Ask for the CPU."""
    return LoadSpec(precision=precision, batch=batch, device="cpu", calibration=SmallModel().calibration, **fields)


def switches() -> tuple[object, ...]:
    """Read PyTorch's global switches."""
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark, torch.get_num_threads()


def test_switches_are_put_back(small_model: SmallModel) -> None:
    """A session in fp32 forbids TF32 while it is open, and closing it, even twice, puts the user's choices back."""
    torch.set_float32_matmul_precision("high")
    before = switches()
    try:
        session = ours.TorchRuntime.load(small_model, spec(Precision.FP32, threads=1))
        assert switches() == ("highest", False, False, 1)
        session.close()
        torch.set_num_threads(before[3])
        session.close()
        assert switches() == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_switches_are_put_back_on_failure(monkeypatch: pytest.MonkeyPatch, small_model: SmallModel) -> None:
    """A model that cannot be run leaves the switches as they were."""
    before = switches()
    monkeypatch.setattr(type(small_model), "torch_module", lambda self: torch.nn.Linear(3, 3))
    with pytest.raises(Exception, match="PyTorch cannot take small-model in fp32"):
        ours.TorchRuntime.load(small_model, spec(Precision.FP32, threads=1))
    assert switches() == before


def test_newer_switches_of_the_user_survive() -> None:
    """A user who has set the newer switches, which the older reader refuses, keeps TF32 after a session."""
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this torch has only the older switches")
    try:
        matmul.fp32_precision = "tf32"
        settings = torch_settings.GlobalSettings("cpu", Precision.FP32, None, False)
        assert matmul.fp32_precision == "ieee"
        settings.restore()
        assert matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_the_models_own_module_is_left_alone(monkeypatch: pytest.MonkeyPatch, small_model: SmallModel) -> None:
    """A session converts a copy: a model that always hands out the same module keeps it in fp32."""
    if Precision.BF16 not in ours.TorchRuntime.precisions("cpu"):
        pytest.skip("no bf16 here")
    module = small_model.torch_module()
    monkeypatch.setattr(type(small_model), "torch_module", lambda self: module)
    session = ours.TorchRuntime.load(small_model, spec(Precision.BF16, options={"channels_last": True}))
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert session.effective.details["channels_last"] is True
    session.close()


@pytest.mark.parametrize(
    ("capability", "refused"),
    [
        ((9, 0), {Precision.INT8}),
        ((8, 0), {Precision.INT8}),
        ((7, 5), {Precision.INT8, Precision.TF32, Precision.BF16}),
        ((5, 0), {Precision.INT8, Precision.TF32, Precision.BF16, Precision.FP16}),
    ],
)
def test_cuda_refusals(capability: tuple[int, int], refused: set[Precision], monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 and bf16 need compute capability 8.0, fp16 needs 5.3, and int8 is not offered on CUDA."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert set(torch_settings.refusals("cuda:0")) == refused
    assert set(torch_settings.compile_refusals("cuda:0")) == refused


def test_bf16_without_instructions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an x86 processor that would emulate it, bf16 is refused although oneDNN accepts it."""
    monkeypatch.setattr(torch_settings.platform, "machine", lambda: "x86_64")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert "emulated" in torch_settings.refusals("cpu")[Precision.BF16]


def test_cuda_graph_needs_cuda(small_model: SmallModel) -> None:
    """Without a CUDA device the CUDA-graph runtime says so instead of running something else."""
    if torch.cuda.is_available():
        pytest.skip("CUDA is there")
    with pytest.raises(UnavailableError, match="torch-cuda-graph"):
        ours.TorchCudaGraphRuntime.load(small_model, spec(Precision.FP32))


@pytest.mark.slow
def test_compiled_int8(small_model: SmallModel, capfd: pytest.CaptureFixture[str]) -> None:
    """Int8 becomes int8 kernels, agrees with fp32 in direction at a batch above the samples' own, and stays silent."""
    if Precision.INT8 not in ours.TorchCompileRuntime.precisions("cpu"):
        pytest.skip("torchao or a compiler is missing")
    session = ours.TorchCompileRuntime.load(small_model, spec(Precision.INT8, batch=3))
    written = capfd.readouterr()
    assert session.effective.details["heavy_operators_at_precision_ratio"] == 1.0
    inputs = small_model.samples(3)
    scores = torch.tensor(session.outputs(inputs)["scores"])
    session.close()
    with torch.no_grad():
        reference = small_model.torch_module()(torch.tensor(inputs["image"]))
    assert torch.nn.functional.cosine_similarity(scores.flatten(), reference.flatten(), 0) > 0.98
    assert written == ("", "")


def test_int8_left_in_float_is_refused() -> None:
    """Fewer int8 kernels than half of the heavy operators is not int8."""
    assert torch_int8.confirm_lowered(3, 4, "m") == 0.75
    with pytest.raises(UnavailableError, match="1 of its 4 heavy operators"):
        torch_int8.confirm_lowered(1, 4, "m")
