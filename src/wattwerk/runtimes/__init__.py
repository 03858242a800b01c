"""Runtimes: what runs a model. A new one is one file here and one line in ``RUNTIMES``."""

from wattwerk.registry import Registry
from wattwerk.runtimes.base import Runtime

RUNTIMES: Registry[type[Runtime]] = Registry(
    "runtimes",
    {
        "onnxruntime": "wattwerk.runtimes.onnxruntime:OnnxRuntime",
        "openvino": "wattwerk.runtimes.openvino:OpenVinoRuntime",
        "torch": "wattwerk.runtimes.torch:TorchRuntime",
        "torch-compile": "wattwerk.runtimes.torch:TorchCompileRuntime",
        "torch-cuda-graph": "wattwerk.runtimes.torch:TorchCudaGraphRuntime",
    },
)

__all__ = ["RUNTIMES", "Runtime"]
