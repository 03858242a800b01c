"""Int8 for PyTorch on x86: exported, calibrated and converted with torchao, lowered to int8 kernels by the compiler."""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np

from wattwerk.errors import UnavailableError
from wattwerk.runtimes.base import LoadSpec, Model, Precision
from wattwerk.runtimes.request import calibration_samples

_HEAVY: Final = (
    "aten.conv2d",
    "aten.convolution",
    "aten.conv1d",
    "aten.linear",
    "aten.addmm",
    "aten.mm",
    "aten.matmul",
)
#: share of the heavy operators that must become int8 kernels
_LEAST_SHARE: Final = 0.5
_CALIBRATION_LIMIT: Final = 32


def quantise(module: Any, model: Model, spec: LoadSpec) -> Any:
    """Quantise weights (per channel) and activations to int8.

    Args:
        module: A ``torch.nn.Module`` in eval mode, fp32, on the CPU.
        model: Names the inputs.
        spec: The batch, and the calibration samples of batch 1.

    Returns:
        A graph module with quantise and dequantise pairs; ``torch.compile`` with freezing turns them into kernels.
    """
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    batches = _batches(model, spec)
    with torch.no_grad():
        exported = torch.export.export(module, batches[0]).module()
        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(exported, quantizer)
        for batch in batches:
            prepared(*batch)
        return convert_pt2e(prepared)


def _batches(model: Model, spec: LoadSpec) -> list[tuple[Any, ...]]:
    """Fill batches with the samples, starting over where they do not suffice: the exported graph has a fixed batch."""
    import torch

    samples = calibration_samples(spec, _CALIBRATION_LIMIT)
    endless = itertools.cycle(samples)
    groups = [list(itertools.islice(endless, spec.batch)) for _ in range(-(-len(samples) // spec.batch))]
    names = [each.name for each in model.inputs]
    return [tuple(torch.tensor(np.concatenate([each[name] for each in group])) for name in names) for group in groups]


def heavy_count(graph_module: Any) -> int:
    """Return the number of convolutions and matrix products in a graph."""
    targets = (str(node.target) for node in graph_module.graph.nodes if node.op == "call_function")
    return sum(target.startswith(_HEAVY) for target in targets)


def lowered_count() -> int:
    """Return how many int8 kernels PyTorch's compiler has put in so far, by its own counters."""
    from torch._dynamo.utils import counters

    return sum(
        count
        for name, count in counters["inductor"].items()
        if name.startswith(("qconv", "qlinear")) and name.endswith("_lower_count")
    )


def confirm_lowered(lowered: int, heavy: int, name: str) -> float:
    """Refuse a compiled model whose heavy operators stayed in floating point.

    Args:
        lowered: Number of int8 kernels.
        heavy: Number of heavy operators.
        name: The model's name.

    Returns:
        The share of the heavy operators that became int8 kernels.

    Raises:
        UnavailableError: The share is too small.
    """
    share = min(1.0, lowered / heavy) if heavy else 0.0
    if share < _LEAST_SHARE:
        raise UnavailableError(
            f"{name} would not run in {Precision.INT8}: {lowered} of its {heavy} heavy operators became int8 kernels",
            "use another precision or runtime",
        )
    return share
