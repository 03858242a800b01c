"""What PyTorch can honour on a device, and the global switches that a session sets and puts back."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.util import find_spec
from typing import Any, Final

from wattwerk.runtimes.base import Precision

_TF32_ON_CPU: Final = "TF32 is a mode of NVIDIA GPUs"
_NO_INT8: Final = "PyTorch quantises to int8 only through torch-compile on an x86 CPU"
_AMPERE: Final = (8, 0)
_FP16_SINCE: Final = (5, 3)


def refusals(device: str) -> dict[Precision, str]:
    """Return precision -> why eager PyTorch cannot honour it on a device.

    Args:
        device: ``cpu`` or ``cuda:0``.
    """
    return _cpu_refusals() if device == "cpu" else _cuda_refusals(device)


def compile_refusals(device: str) -> dict[Precision, str]:
    """Return precision -> why ``torch.compile`` cannot honour it on a device."""
    refused = refusals(device)
    reason = _int8_missing() if device == "cpu" else _NO_INT8
    refused.pop(Precision.INT8)
    return {**refused, Precision.INT8: reason} if reason else refused


def _int8_missing() -> str | None:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "the quantiser is for x86 processors"
    if find_spec("torchao") is None:
        return 'torchao is not installed (pip install "wattwerk[torch]")'
    return None


def _cpu_refusals() -> dict[Precision, str]:
    import torch

    refused = {Precision.TF32: _TF32_ON_CPU, Precision.INT8: _NO_INT8}
    if not _cpu_has_bf16():
        refused[Precision.BF16] = "the processor has no bf16 instructions: it would be emulated in fp32"
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)
    if supported is None or not supported():
        refused[Precision.FP16] = "the processor has no fp16 arithmetic that oneDNN uses: it would be emulated in fp32"
    return refused


def _cpu_has_bf16() -> bool:
    import torch

    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if supported is None or not supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    # on x86 oneDNN accepts bf16 from AVX-512 on and emulates it where the instructions are missing
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(check() for name in checks if (check := getattr(torch.cpu, name, None)))


def _cuda_refusals(device: str) -> dict[Precision, str]:
    import torch

    refused = {Precision.INT8: _NO_INT8}
    if torch.version.hip is not None:
        return {**refused, Precision.TF32: _TF32_ON_CPU}
    capability = torch.cuda.get_device_capability(device)
    stated = f"the device has compute capability {capability[0]}.{capability[1]}"
    if capability < _AMPERE:
        refused[Precision.TF32] = refused[Precision.BF16] = f"{stated}, which needs 8.0"
    if capability < _FP16_SINCE:
        refused[Precision.FP16] = f"{stated}, which needs 5.3"
    return refused


def devices() -> list[str]:
    """Return the devices that PyTorch can use: every CUDA (or ROCm) device, then the CPU."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [*(f"cuda:{index}" for index in range(count)), "cpu"]


def missing_compiler(device: str) -> str | None:
    """Return what ``torch.compile`` lacks on a device; None if nothing."""
    if device != "cpu" and find_spec("triton") is None:
        return "triton"
    names = [os.environ.get("CXX", ""), "g++", "clang++", "cl"] if device == "cpu" else ["gcc", "clang", "cc"]
    return None if any(name and shutil.which(name) for name in names) else "a C++ compiler"


class GlobalSettings:
    """The process-wide switches of PyTorch that a session needs; ``restore`` puts the old ones back.

    Args:
        device: ``cpu`` or ``cuda:0``.
        precision: ``fp32`` forbids TF32 everywhere; PyTorch itself allows it to cuDNN.
        threads: Compute threads on the CPU; None leaves them as they are.
        cudnn_benchmark: Whether cuDNN tries its algorithms on the first run.
    """

    def __init__(self, device: str, precision: Precision, threads: int | None, cudnn_benchmark: bool) -> None:
        import torch

        self._matmul = _matmul_precision()
        self.cudnn_tf32_before = bool(torch.backends.cudnn.allow_tf32)
        self._benchmark = bool(torch.backends.cudnn.benchmark)
        self._threads = torch.get_num_threads()
        self._device = torch.cuda.current_device() if device != "cpu" else None
        self._restored = False
        tf32 = precision is Precision.TF32
        # the older of PyTorch's two sets of switches, on purpose: several releases of its compiler fail after a write
        # to the newer one (pytorch#166387)
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = cudnn_benchmark
        if threads is not None:
            torch.set_num_threads(threads)
        if device != "cpu":
            torch.cuda.set_device(device)

    def restore(self) -> None:
        """Put back what was set before; nothing happens the second time."""
        import torch

        if self._restored:
            return
        self._restored = True
        torch.set_float32_matmul_precision(self._matmul)
        torch.backends.cudnn.allow_tf32 = self.cudnn_tf32_before
        torch.backends.cudnn.benchmark = self._benchmark
        torch.set_num_threads(self._threads)
        if self._device is not None:
            torch.cuda.set_device(self._device)


def _matmul_precision() -> str:
    import torch

    try:
        return str(torch.get_float32_matmul_precision())
    except RuntimeError:  # the caller has used the newer switches, which the older reader refuses to translate
        matmul: Any = torch.backends.cuda.matmul
        return "high" if matmul.fp32_precision == "tf32" else "highest"
