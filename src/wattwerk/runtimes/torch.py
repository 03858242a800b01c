"""PyTorch: eager, compiled, and replayed from a CUDA graph; on the CPU and on CUDA devices."""

from __future__ import annotations

from importlib.metadata import version
from typing import ClassVar, Final, Literal

import msgspec

from wattwerk.errors import UnavailableError
from wattwerk.registry import Probe
from wattwerk.runtimes.base import LoadSpec, Model, Precision, Runtime, Session
from wattwerk.runtimes.request import check_request, failures, honoured, probe_package, quiet
from wattwerk.runtimes.torch_session import Plan, TorchSession
from wattwerk.runtimes.torch_settings import compile_refusals, devices, missing_compiler, refusals

_REMEDY: Final = 'pip install "wattwerk[torch]"'
_CUDA_REMEDY: Final = "install a CUDA build of torch: https://pytorch.org/get-started/locally"


class TorchConfig(msgspec.Struct, frozen=True):
    """Options of eager PyTorch; the defaults are PyTorch's own, so that they can serve as the base line.

    Attributes:
        channels_last: Whether images and filters lie in memory with the channels last.
        cudnn_benchmark: Whether cuDNN tries its algorithms on the first run and keeps the quickest.
    """

    channels_last: bool = False
    cudnn_benchmark: bool = False


class TorchCudaGraphConfig(msgspec.Struct, frozen=True):
    """Options of eager PyTorch replayed from a CUDA graph.

    Attributes:
        channels_last: As for eager; by default on for tf32, bf16 and fp16, whose tensor cores read that layout.
        cudnn_benchmark: As for eager.
    """

    channels_last: bool | None = None
    cudnn_benchmark: bool = True


class TorchCompileConfig(msgspec.Struct, frozen=True):
    """Options of ``torch.compile``.

    Attributes:
        mode: ``max-autotune`` tries many kernels, which takes minutes; its own CUDA graphs stay off.
        cuda_graph: Whether the compiled function is replayed from a CUDA graph; without effect on the CPU.
        channels_last: The layout handed to the compiler; it chooses the inner one itself.
        freezing: Whether weights are folded into the compiled code as constants; int8 always does.
        cudnn_benchmark: As for eager.
    """

    mode: Literal["default", "max-autotune"] = "default"
    cuda_graph: bool = True
    channels_last: bool = False
    freezing: bool = False
    cudnn_benchmark: bool = True


class TorchRuntime(Runtime):
    """PyTorch as it comes: one kernel after the other."""

    name: ClassVar[str] = "torch"
    family: ClassVar[str] = "torch"
    config: ClassVar[type[msgspec.Struct]] = TorchConfig

    @classmethod
    def probe(cls) -> Probe:
        """Tell whether the package is there."""
        return probe_package("torch", _REMEDY)

    @classmethod
    def devices(cls) -> list[str]:
        """Return every CUDA device, then the CPU."""
        return devices() if cls.probe().available else []

    @classmethod
    def precisions(cls, device: str) -> list[Precision]:
        """Return the precisions that are not emulated on a device."""
        return honoured(refusals(device)) if device in cls.devices() else []

    @classmethod
    def load(cls, model: Model, spec: LoadSpec) -> Session:
        """Load a model.

        Raises:
            ConfigError: An option or the device is unknown.
            UnavailableError: The device would emulate the precision, or torch is not installed.
            ConversionError: PyTorch cannot run this model.
            MemoryError: The model does not fit.
        """
        config = check_request(cls, spec, TorchConfig, refusals)
        return _opened(model, spec, Plan(config.channels_last, config.cudnn_benchmark))


class TorchCudaGraphRuntime(Runtime):
    """Eager PyTorch captured once in a CUDA graph and replayed: the kernels stay, the launch overhead goes."""

    name: ClassVar[str] = "torch-cuda-graph"
    family: ClassVar[str] = "torch"
    config: ClassVar[type[msgspec.Struct]] = TorchCudaGraphConfig

    @classmethod
    def probe(cls) -> Probe:
        """Tell whether a build of torch that knows CUDA is there."""
        probe = probe_package("torch", _REMEDY)
        if probe.available and version("torch").endswith("+cpu"):
            return Probe(False, f"{probe.detail} is a build for the CPU only", _CUDA_REMEDY)
        return probe

    @classmethod
    def devices(cls) -> list[str]:
        """Return every CUDA device."""
        return [device for device in devices() if device != "cpu"] if cls.probe().available else []

    @classmethod
    def precisions(cls, device: str) -> list[Precision]:
        """Return the precisions that a device honours."""
        return honoured(refusals(device)) if device in cls.devices() else []

    @classmethod
    def load(cls, model: Model, spec: LoadSpec) -> Session:
        """Load a model and capture it.

        Raises:
            ConfigError: An option or the device is unknown.
            UnavailableError: There is no CUDA device, or it does not have the precision.
            ConversionError: The model cannot be captured.
            MemoryError: The model does not fit.
        """
        config = check_request(cls, spec, TorchCudaGraphConfig, refusals)
        tensor_cores = spec.precision is not Precision.FP32
        channels_last = tensor_cores if config.channels_last is None else config.channels_last
        return _opened(model, spec, Plan(channels_last, config.cudnn_benchmark, cuda_graph=True))


class TorchCompileRuntime(Runtime):
    """``torch.compile`` for one static batch size; on CUDA replayed from a CUDA graph."""

    name: ClassVar[str] = "torch-compile"
    family: ClassVar[str] = "torch"
    config: ClassVar[type[msgspec.Struct]] = TorchCompileConfig

    @classmethod
    def probe(cls) -> Probe:
        """Tell whether torch and what compiles its code are there."""
        probe = probe_package("torch", _REMEDY)
        lacking = [missing_compiler(device) for device in ("cpu", "cuda")]
        if probe.available and all(lacking):
            return Probe(False, f"{probe.detail} lacks {lacking[0]}", "install g++ or clang")
        return probe

    @classmethod
    def devices(cls) -> list[str]:
        """Return the devices that code can be compiled for."""
        return [each for each in devices() if not missing_compiler(each)] if cls.probe().available else []

    @classmethod
    def precisions(cls, device: str) -> list[Precision]:
        """Return the precisions that a device honours."""
        return honoured(compile_refusals(device)) if device in cls.devices() else []

    @classmethod
    def load(cls, model: Model, spec: LoadSpec) -> Session:
        """Load and compile a model; this takes from seconds to minutes.

        Raises:
            ConfigError: An option or the device is unknown.
            UnavailableError: The precision cannot be honoured, or a compiler is missing.
            ConversionError: The model cannot be compiled.
            MemoryError: The model does not fit.
        """
        lacking = missing_compiler(spec.device)
        if cls.probe().available and lacking and spec.device in devices():
            raise UnavailableError(f"{cls.name} lacks {lacking} for {spec.device}", f"install {lacking}")
        config = check_request(cls, spec, TorchCompileConfig, compile_refusals)
        mode = "max-autotune-no-cudagraphs" if config.mode == "max-autotune" else "default"
        plan = Plan(
            config.channels_last,
            config.cudnn_benchmark,
            cuda_graph=config.cuda_graph and spec.device != "cpu",
            compile_mode=mode,
            freezing=config.freezing or spec.precision is Precision.INT8,
        )
        return _opened(model, spec, plan)


def _opened(model: Model, spec: LoadSpec, plan: Plan) -> Session:
    with failures(model, spec, "PyTorch"), quiet():
        return TorchSession(model, spec, plan)
