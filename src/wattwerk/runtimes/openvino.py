"""OpenVINO, with the precision always set by hand: left alone it takes bf16 on processors that have it."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

import msgspec
import numpy as np
import numpy.typing as npt

from wattwerk.errors import UnavailableError
from wattwerk.registry import Probe
from wattwerk.runtimes.base import Arrays, Effective, LoadSpec, Model, Precision, Runtime, Session
from wattwerk.runtimes.request import (
    calibration_samples,
    check_inputs,
    check_request,
    failures,
    honoured,
    probe_package,
    quiet,
)

_REMEDY: Final = 'pip install "wattwerk[openvino]"'
_HINTS: Final = {Precision.FP32: "f32", Precision.BF16: "bf16", Precision.FP16: "f16", Precision.INT8: "f32"}
_CAPABILITIES: Final = {
    Precision.FP32: "FP32",
    Precision.BF16: "BF16",
    Precision.FP16: "FP16",
    Precision.INT8: "INT8",
}
#: layers of the compiled graph that do the arithmetic of a network
_HEAVY: Final = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul", "Gemm"})
_RUN_IN: Final = {
    "f32": Precision.FP32,
    "bf16": Precision.BF16,
    "f16": Precision.FP16,
    "i8": Precision.INT8,
    "u8": Precision.INT8,
}
#: share of the heavy layers that has to run in the asked-for precision; quantisation leaves some in floating point
_LEAST_SHARE: Final = {Precision.FP32: 1.0, Precision.BF16: 0.9, Precision.FP16: 0.9, Precision.INT8: 0.5}
_CALIBRATION_LIMIT: Final = 32


class OpenVinoConfig(msgspec.Struct, frozen=True):
    """Options of OpenVINO.

    Attributes:
        hyper_threading: Whether logical processors of one core are both used.
        pinning: Whether threads stay on their processors; None leaves the choice to OpenVINO.
    """

    hyper_threading: bool = False
    pinning: bool | None = None


class OpenVinoRuntime(Runtime):
    """OpenVINO on CPU, GPU and NPU."""

    name: ClassVar[str] = "openvino"
    family: ClassVar[str] = "openvino"
    config: ClassVar[type[msgspec.Struct]] = OpenVinoConfig

    @classmethod
    def probe(cls) -> Probe:
        """Tell whether the package is there."""
        return probe_package("openvino", _REMEDY)

    @classmethod
    def devices(cls) -> list[str]:
        """Return the devices that OpenVINO sees: ``gpu``, ``npu``, ``cpu``."""
        if not cls.probe().available:
            return []
        names: list[str] = [name.lower() for name in _core().available_devices]
        order = ("gpu", "npu", "cpu")
        return sorted((name for name in names if name[:3] in order), key=lambda name: (order.index(name[:3]), name))

    @classmethod
    def precisions(cls, device: str) -> list[Precision]:
        """Return the precisions that OpenVINO states for a device."""
        return honoured(_refusals(device)) if device in cls.devices() else []

    @classmethod
    def load(cls, model: Model, spec: LoadSpec) -> Session:
        """Compile a model for one static batch size, for latency.

        Raises:
            ConfigError: An option or the device is unknown.
            UnavailableError: The device would run in another precision than the one asked for.
            ConversionError: OpenVINO cannot take this model.
            MemoryError: The model does not fit.
        """
        config = check_request(cls, spec, OpenVinoConfig, _refusals)
        with failures(model, spec, "OpenVINO"), quiet():
            return _OpenVinoSession(model, spec, config)


def _core() -> Any:
    import openvino

    return openvino.Core()


def _refusals(device: str) -> dict[Precision, str]:
    stated = _core().get_property(device.upper(), "OPTIMIZATION_CAPABILITIES")
    refusals = {Precision.TF32: "TF32 is a mode of NVIDIA GPUs"}
    for precision, capability in _CAPABILITIES.items():
        if capability not in stated:
            refusals[precision] = f"OpenVINO states only {', '.join(stated)} for this device and would run one of those"
    if Precision.INT8 not in refusals and not probe_package("nncf", _REMEDY).available:
        refusals[Precision.INT8] = f"quantising needs nncf ({_REMEDY})"
    return refusals


class _OpenVinoSession(Session):
    """A compiled model with one request whose tensors are reused."""

    def __init__(self, model: Model, spec: LoadSpec, config: OpenVinoConfig) -> None:
        self._model, self._spec = model, spec
        graph = _core().read_model(model.onnx_bytes())
        if spec.precision is Precision.INT8:
            graph = _quantised(_with_batch(graph, model, 1), spec)
        graph = _with_batch(graph, model, spec.batch)
        compiled = compile_for_latency(graph, spec, config)
        share = heavy_layers(compiled)
        confirm_precision(share, model.name, spec)
        self.effective = _effective(compiled, spec, share)
        self._request: Any = compiled.create_infer_request()
        self._tensors: list[Any] = []

    def bind(self, inputs: Arrays) -> Callable[[], object]:
        """Hand the inputs over and return the timed call; on a GPU or NPU it includes the copies to and from it.

        Raises:
            ConfigError: An input is missing, unknown or of the wrong shape.
            MemoryError: The batch does not fit.
        """
        import openvino

        arrays = check_inputs(self._model.inputs, self._spec.batch, inputs)
        # copies on purpose: OpenVINO would else read the caller's memory while the caller may change it
        self._tensors = [openvino.Tensor(array.copy(), shared_memory=True) for array in arrays]
        for spec, tensor in zip(self._model.inputs, self._tensors, strict=True):
            self._request.set_tensor(spec.name, tensor)
        # a start_async and wait would hand the work to another thread (some 60 us); without share_outputs every call
        # would copy the outputs
        call = functools.partial(self._request.infer, share_outputs=True)
        with failures(self._model, self._spec, "OpenVINO"):
            call()
        return call

    def refill(self, inputs: Arrays) -> Callable[[], object]:
        """Copy another batch into the bound inputs.

        Raises:
            ConfigError: An input is missing, unknown or of the wrong shape.
        """
        arrays = check_inputs(self._model.inputs, self._spec.batch, inputs)
        for tensor, array in zip(self._tensors, arrays, strict=True):
            np.copyto(tensor.data, array)
        return functools.partial(self._request.infer, share_outputs=True)

    def shared_inputs(self) -> dict[str, Any] | None:
        """Return the arrays that the bound call reads."""
        return {spec.name: tensor.data for spec, tensor in zip(self._model.inputs, self._tensors, strict=True)}

    def shared_outputs(self) -> dict[str, Any] | None:
        """Return the arrays that the bound call writes."""
        names = self._model.output_names()
        return {name: self._request.get_output_tensor(index).data for index, name in enumerate(names)}

    def bound_outputs(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return what the latest timed call computed."""
        names = self._model.output_names()
        return {
            name: np.array(self._request.get_output_tensor(index).data, np.float32) for index, name in enumerate(names)
        }

    def close(self) -> None:
        """Release the compiled model; nothing happens the second time."""
        self._request = None
        self._tensors = []


def _with_batch(graph: Any, model: Model, batch: int) -> Any:
    graph.reshape({spec.name: [batch, *spec.shape] for spec in model.inputs})
    return graph


def compile_for_latency(graph: Any, spec: LoadSpec, config: OpenVinoConfig) -> Any:
    """Compile a graph with every choice that matters set explicitly.

    Args:
        graph: An ``openvino.Model`` with static shapes.
        spec: The precision, the device and the number of threads.
        config: The options.
    """
    properties: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _HINTS[spec.precision],
        "NUM_STREAMS": 1,
    }
    if spec.device == "cpu":
        properties["ENABLE_HYPER_THREADING"] = config.hyper_threading
        if config.pinning is not None:
            properties["ENABLE_CPU_PINNING"] = config.pinning
        if spec.threads is not None:
            properties["INFERENCE_NUM_THREADS"] = spec.threads
    return _core().compile_model(graph, spec.device.upper(), properties)


def heavy_layers(compiled: Any) -> dict[str, int]:
    """Count the heavy layers of the graph that really runs, by the precision it states for each.

    Args:
        compiled: An ``openvino.CompiledModel``.

    Returns:
        Precision, or OpenVINO's own name of a type that is none of ours -> number of layers.
    """
    counts: dict[str, int] = {}
    for layer in compiled.get_runtime_model().get_ops():
        info = layer.rt_info
        if "layerType" not in info or info["layerType"].astype(str) not in _HEAVY:
            continue
        stated = info["runtimePrecision"].astype(str)
        precision = str(_RUN_IN.get(stated, stated))
        counts[precision] = counts.get(precision, 0) + 1
    return counts


def confirm_precision(counts: dict[str, int], name: str, spec: LoadSpec) -> None:
    """Refuse a compiled model whose heavy layers run in another precision than the one asked for.

    Args:
        counts: As ``heavy_layers`` returns it; empty where the device does not tell.
        name: The model's name.
        spec: The request.

    Raises:
        UnavailableError: Too few layers run in the asked-for precision.
    """
    total = sum(counts.values())
    if total and counts.get(spec.precision, 0) / total < _LEAST_SHARE[spec.precision]:
        found = ", ".join(f"{count} of {total} in {precision}" for precision, count in sorted(counts.items()))
        raise UnavailableError(
            f"OpenVINO would not run {name} in {spec.precision} on {spec.device}: its heavy layers run {found}",
            "use that precision, or another device",
        )


def _effective(compiled: Any, spec: LoadSpec, counts: dict[str, int]) -> Effective:
    import openvino

    def told(name: str) -> Any:
        try:
            return compiled.get_property(name)
        except RuntimeError:  # not every device has every property
            return None

    threads, total = told("INFERENCE_NUM_THREADS"), sum(counts.values())
    return Effective(
        precision=spec.precision,
        device=spec.device,
        threads=int(threads) if spec.device == "cpu" and threads else None,
        streams=int(told("NUM_STREAMS") or 1),
        details={
            "version": openvino.__version__.partition("-")[0],
            "precision_hint": _HINTS[spec.precision],
            "execution_devices": ",".join(told("EXECUTION_DEVICES") or []),
            "performance_hint": "LATENCY",
            "hyper_threading": told("ENABLE_HYPER_THREADING"),
            "pinning": told("ENABLE_CPU_PINNING"),
            "heavy_operators_count": total,
            "heavy_operators_at_precision_ratio": round(counts.get(spec.precision, 0) / total, 4) if total else None,
            "precision_evidence": "compiled graph" if total else "property",
        },
    )


def _quantised(graph: Any, spec: LoadSpec) -> Any:
    samples = [dict(sample) for sample in calibration_samples(spec, _CALIBRATION_LIMIT)]
    nncf = _import_nncf()
    softmaxes = sum(layer.get_type_name() in ("Softmax", "ScaledDotProductAttention") for layer in graph.get_ops())
    return nncf.quantize(
        graph,
        nncf.Dataset(samples),
        subset_size=len(samples),
        # attention loses its accuracy with the scheme that suits convolutions
        model_type=nncf.ModelType.TRANSFORMER if softmaxes > 1 else None,
        target_device=nncf.TargetDevice.CPU if spec.device == "cpu" else nncf.TargetDevice.ANY,
    )


def _import_nncf() -> Any:
    with _no_telemetry():
        import nncf
    return nncf


@contextlib.contextmanager
def _no_telemetry() -> Iterator[None]:
    """Keep nncf from reporting its use over the network: it does so unless its telemetry package cannot be imported."""
    name = "openvino_telemetry"
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
