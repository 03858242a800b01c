"""OpenVINO: the precision it really runs in, and what it writes and sends."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from wattwerk.errors import UnavailableError
from wattwerk.runtimes import openvino as ours
from wattwerk.runtimes.base import LoadSpec, Precision
from wattwerk.testing import SmallModel

openvino = pytest.importorskip("openvino")

needs_bf16 = pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="the trap is there only on processors with bf16",
)


def spec(precision: Precision) -> LoadSpec:
    """Ask for batch 2 on the CPU."""
    return LoadSpec(precision=precision, batch=2, device="cpu", calibration=SmallModel().calibration)


def graph_of(model: SmallModel) -> object:
    """Read the model with a static batch."""
    graph = openvino.Core().read_model(model.onnx_bytes())
    graph.reshape({"image": [2, 3, 24, 24]})
    return graph


@needs_bf16
def test_left_alone_it_takes_bf16(small_model: SmallModel) -> None:
    """Without a hint OpenVINO runs an fp32 model in bf16 here; ``heavy_layers`` sees it and fp32 is refused."""
    silent = openvino.Core().compile_model(graph_of(small_model), "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    counts = ours.heavy_layers(silent)
    assert counts == {"bf16": 3}
    with pytest.raises(UnavailableError, match=r"would not run small-model in fp32 on cpu: .* 3 of 3 in bf16"):
        ours.confirm_precision(counts, "small-model", spec(Precision.FP32))


@pytest.mark.parametrize("precision", [Precision.FP32, pytest.param(Precision.BF16, marks=needs_bf16)])
def test_asked_precision_runs(precision: Precision, small_model: SmallModel) -> None:
    """What is asked for is what all heavy layers of the compiled graph run in."""
    compiled = ours.compile_for_latency(graph_of(small_model), spec(precision), ours.OpenVinoConfig())
    assert ours.heavy_layers(compiled) == {str(precision): 3}


@needs_bf16
def test_fp32_is_closer_than_bf16(small_model: SmallModel) -> None:
    """The outputs show it too: fp32 differs from ONNX Runtime by rounding only, bf16 by over a hundred times more."""
    from wattwerk.runtimes.onnxruntime import OnnxRuntime

    inputs = small_model.samples(2)
    reference = OnnxRuntime.load(small_model, spec(Precision.FP32)).outputs(inputs)["scores"]

    def difference(precision: Precision) -> float:
        session = ours.OpenVinoRuntime.load(small_model, spec(precision))
        return float(np.abs(session.outputs(inputs)["scores"] - reference).max() / np.abs(reference).max())

    assert difference(Precision.FP32) < 1e-5
    assert difference(Precision.BF16) > 100 * difference(Precision.FP32)


@pytest.mark.parametrize(
    ("precision", "counts", "fits"),
    [
        (Precision.FP32, {"fp32": 9, "bf16": 1}, False),
        (Precision.FP16, {"fp16": 9, "fp32": 1}, True),
        (Precision.FP16, {"bf16": 10}, False),
        (Precision.INT8, {"int8": 5, "fp32": 5}, True),
        (Precision.INT8, {"int8": 4, "fp32": 6}, False),
        (Precision.FP32, {}, True),
    ],
)
def test_confirm_precision(precision: Precision, counts: dict[str, int], fits: bool) -> None:
    """One stray layer refuses fp32, a tenth bf16 and fp16, half int8; a device that does not tell is believed."""
    if fits:
        ours.confirm_precision(counts, "m", spec(precision))
    else:
        with pytest.raises(UnavailableError, match="would not run m"):
            ours.confirm_precision(counts, "m", spec(precision))


def test_int8_is_silent(small_model: SmallModel, capfd: pytest.CaptureFixture[str]) -> None:
    """Quantising shows no progress bar and no log line on the terminal."""
    pytest.importorskip("nncf")
    session = ours.OpenVinoRuntime.load(small_model, spec(Precision.INT8))
    assert session.effective.details["heavy_operators_at_precision_ratio"] == 1.0
    session.close()
    assert capfd.readouterr() == ("", "")


def test_nncf_reports_nothing() -> None:
    """The quantiser is imported without its telemetry, and the telemetry package stays importable for others."""
    pytest.importorskip("nncf")
    code = (
        "from wattwerk.runtimes.openvino import _import_nncf; _import_nncf()\n"
        "from nncf.telemetry.wrapper import NNCFTelemetry, telemetry\n"
        "import sys; assert sys.modules.get('openvino_telemetry', 0) is not None\n"
        "print(isinstance(telemetry, NNCFTelemetry))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
