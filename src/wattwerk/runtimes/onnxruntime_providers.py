"""The execution providers of ONNX Runtime as one table: a provider is one row.

A row says which precisions a provider can honour, the provider options that make it do so, and whether the graph itself
is converted first. A precision that is not in a row is refused with the reason beside it, or with the general one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from wattwerk.runtimes.base import Precision


class Conversion(StrEnum):
    """What is done to the fp32 graph before it is loaded.

    ``QDQ`` quantises activations to uint8 with a zero point, ``QDQ_SYMMETRIC`` to int8 around zero.
    """

    NONE = "none"
    FLOAT16 = "float16"
    QDQ = "qdq"
    QDQ_SYMMETRIC = "qdq-symmetric"


class Setting(msgspec.Struct, frozen=True):
    """How a provider is brought to one precision.

    Attributes:
        options: Provider options.
        conversion: What is done to the graph first.
    """

    options: Mapping[str, str] = {}
    conversion: Conversion = Conversion.NONE


class Provider(msgspec.Struct, frozen=True):
    """One row of the table.

    Attributes:
        name: ONNX Runtime's name of the execution provider.
        prefix: The device's name, or what stands before the colon and its number.
        settings: Precision -> how it is reached.
        refusals: Precision -> why this provider cannot honour it, where there is more to say than "no such mode".
        numbered: Whether devices carry a number: ``cuda:0``.
        memory: Where inputs and outputs are bound: ``cpu`` or ``cuda``.
        count: Tells how many devices there are.
        opaque: Whether the provider compiles whole subgraphs, so that single operators cannot be seen when it runs.
    """

    name: str
    prefix: str
    settings: Mapping[Precision, Setting]
    refusals: Mapping[Precision, str] = {}
    numbered: bool = False
    memory: str = "cpu"
    count: Callable[[], int] = lambda: 1
    opaque: bool = True

    def devices(self) -> list[str]:
        """Return the names of this provider's devices."""
        if not self.numbered:
            return [self.prefix] if self.count() else []
        return [f"{self.prefix}:{index}" for index in range(self.count())]

    def refused(self) -> dict[Precision, str]:
        """Return precision -> reason for all that this provider cannot honour."""
        general = f"{self.name} has no such mode"
        return {each: self.refusals.get(each, general) for each in Precision if each not in self.settings}

    def options(self, device: str, precision: Precision) -> dict[str, str]:
        """Return the provider options for a device and a precision."""
        index = {"device_id": device.rpartition(":")[2]} if self.numbered else {}
        return {**index, **self.settings[precision].options}


def nvidia_count() -> int:
    """Return how many NVIDIA devices this process may use; 0 where the driver cannot be asked."""
    import pynvml

    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return count if visible is None else min(count, len([each for each in visible.split(",") if each.strip()]))


def openvino_device_count(kind: str) -> int:
    """Return 1 if the OpenVINO provider sees a device of a kind (``CPU``, ``GPU``, ``NPU``), else 0."""
    from onnxruntime.capi import _pybind_state

    ask = getattr(_pybind_state, "get_available_openvino_device_ids", None)
    found = [str(each) for each in ask()] if ask else ["CPU"]
    return int(any(each.startswith(kind) for each in found))


def _openvino(kind: str, *precisions: Precision) -> Provider:
    named = {Precision.FP32: "FP32", Precision.FP16: "FP16"}
    return Provider(
        "OpenVINOExecutionProvider",
        f"openvino:{kind}",
        {each: Setting({"device_type": kind, "precision": named[each]}) for each in precisions},
        count=lambda: openvino_device_count(kind),
    )


_CPU_CASTS = "the CPU provider casts it back to fp32 and computes in that"
_NO_QDQ_KERNELS = "the CUDA provider has no int8 convolutions: it would dequantise and compute in floating point"
_TENSORRT_TF32 = "TensorRT builds its engines with TF32 allowed, and its provider has no switch against that"

#: the fastest kind first
PROVIDERS: Final[tuple[Provider, ...]] = (
    Provider(
        "TensorrtExecutionProvider",
        "tensorrt",
        {
            Precision.TF32: Setting(),
            Precision.BF16: Setting({"trt_bf16_enable": "1"}),
            Precision.FP16: Setting({"trt_fp16_enable": "1"}, Conversion.FLOAT16),
            Precision.INT8: Setting({"trt_int8_enable": "1"}, Conversion.QDQ_SYMMETRIC),
        },
        {Precision.FP32: _TENSORRT_TF32},
        numbered=True,
        memory="cuda",
        count=nvidia_count,
    ),
    Provider(
        "CUDAExecutionProvider",
        "cuda",
        {
            Precision.FP32: Setting({"use_tf32": "0"}),
            Precision.TF32: Setting({"use_tf32": "1"}),
            Precision.FP16: Setting({"use_tf32": "0"}, Conversion.FLOAT16),
        },
        {Precision.INT8: _NO_QDQ_KERNELS},
        numbered=True,
        memory="cuda",
        count=nvidia_count,
        opaque=False,
    ),
    Provider(
        "MIGraphXExecutionProvider",
        "migraphx",
        {
            Precision.FP32: Setting(),
            Precision.FP16: Setting({"migraphx_fp16_enable": "1"}),
            Precision.BF16: Setting({"migraphx_bf16_enable": "1"}),
        },
        numbered=True,
    ),
    Provider(
        "QNNExecutionProvider",
        "qnn",
        {
            Precision.INT8: Setting({"backend_type": "htp"}, Conversion.QDQ),
            Precision.FP16: Setting({"backend_type": "htp", "enable_htp_fp16_precision": "1"}),
        },
    ),
    Provider(
        "CoreMLExecutionProvider",
        "coreml",
        {
            Precision.FP32: Setting({"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndGPU"}),
            Precision.FP16: Setting({"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"}, Conversion.FLOAT16),
        },
    ),
    Provider(
        "DmlExecutionProvider",
        "dml",
        {Precision.FP32: Setting(), Precision.FP16: Setting(conversion=Conversion.FLOAT16)},
        numbered=True,
        opaque=False,
    ),
    _openvino("GPU", Precision.FP32, Precision.FP16),
    _openvino("NPU", Precision.FP16),
    _openvino("CPU", Precision.FP32),
    Provider(
        "CPUExecutionProvider",
        "cpu",
        {Precision.FP32: Setting(), Precision.INT8: Setting(conversion=Conversion.QDQ)},
        {Precision.FP16: _CPU_CASTS, Precision.BF16: _CPU_CASTS, Precision.TF32: "TF32 is a mode of NVIDIA GPUs"},
        opaque=False,
    ),
)


def provider_of(device: str) -> Provider:
    """Return the row that a device's name belongs to.

    Raises:
        StopIteration: No row has such devices.
    """
    return next(
        row for row in PROVIDERS if device == row.prefix or (row.numbered and device.startswith(row.prefix + ":"))
    )
