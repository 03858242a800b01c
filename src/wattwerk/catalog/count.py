"""Parameters and floating-point operations of an ONNX graph, counted with onnx and onnx-tool.

The convention is that of the literature: only convolutions and matrix products count, and a multiply-add is two
operations. Papers often print multiply-adds (MACs) and call them FLOPs; see docs/catalog.md. onnx infers the shapes and
onnx-tool prices the operators; its prices for element-wise ones (x86 instructions) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    import onnx

Shapes = dict[str, list[int]]

#: the operators whose multiply-adds count
HEAVY: Final = frozenset(
    {"Conv", "ConvInteger", "ConvTranspose", "Gemm", "GRU", "LSTM", "MatMul", "MatMulInteger"}
    | {"QLinearConv", "QLinearMatMul"}
)
#: operators that hide multiply-adds where nobody counts them: with one of these the sum would be too low
_OPAQUE: Final = frozenset({"Attention", "Einsum", "If", "Loop", "Scan"})
_MACS_TO_FLOPS: Final = 2.0
_SMALL: Final = 64  # numbers; a tensor up to this size can be a shape, an axis or a scale that other shapes follow from


class Counts(msgspec.Struct, frozen=True):
    """Sizes of a model.

    Attributes:
        parameters_count: Trained parameters: floating-point tensors, without running statistics of normalisation.
        sample_flops: Floating-point operations of one sample, a multiply-add counted as two; None if uncountable.
    """

    parameters_count: int
    sample_flops: float | None


def counts_of(
    model: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    trained: Collection[str] | None = None,
) -> Counts:
    """Count a model, whose tensors may be without data.

    Args:
        model: The model; it is not changed.
        shapes: Input name -> full shape of one sample, batch dimension 1 included; without it, dynamic dimensions of
            the graph's own input shapes are taken as 1.
        trained: Names of the tensors that may be parameters, where that is known.
    """
    return Counts(parameters_of(model, trained), flops_of(model, shapes or {}))


def parameters_of(model: onnx.ModelProto, trained: Collection[str] | None = None) -> int:
    """Return the number of trained parameters in the graph's initialisers.

    Single numbers are literals rather than parameters, and running statistics are measured rather than trained.
    """
    import onnx

    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
    normalisations = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    statistics = {name for node in normalisations for name in node.input[3:5]}
    return sum(
        math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.dims and tensor.data_type in floats and tensor.name not in statistics
        if trained is None or tensor.name in trained
    )


def flops_of(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> float | None:
    """Return the floating-point operations of one sample; None where the graph hides operators or shapes."""
    nodes = [node for node in model.graph.node if node.op_type in HEAVY]
    hidden = any(node.op_type in _OPAQUE or node.domain not in ("", "ai.onnx") for node in model.graph.node)
    known = {} if hidden else shapes_of(model, shapes)
    if hidden or any(min(known.get(name) or [0]) < 1 for node in nodes for name in [*node.input[:2], node.output[0]]):
        return None
    return _MACS_TO_FLOPS * sum(_macs(node, known) for node in nodes)


def shapes_of(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    """Infer the shapes of all values for one sample; 0 stands for an unknown dimension.

    Args:
        model: The model; it is not changed.
        shapes: Input name -> full shape of one sample; without it, dynamic dimensions are taken as 1.
    """
    import onnx

    lean = _without_data(model)
    for value in lean.graph.input:
        given = shapes.get(value.name)
        for position, dim in enumerate(value.type.tensor_type.shape.dim):
            if given or not dim.dim_value:
                dim.dim_value = given[position] if given else 1
    del lean.graph.value_info[:]
    lean = onnx.shape_inference.infer_shapes(lean, data_prop=True)
    values = [*lean.graph.value_info, *lean.graph.input, *lean.graph.output]
    known = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    return known | {tensor.name: list(tensor.dims) for tensor in lean.graph.initializer}


def _without_data(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with the large tensors turned into inputs of their shape: shapes are all that counting needs."""
    import onnx

    lean = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    lean.graph.name = model.graph.name
    lean.graph.node.extend(model.graph.node)
    own = {tensor.name for tensor in model.graph.initializer}
    lean.graph.input.extend(value for value in model.graph.input if value.name not in own)
    for tensor in model.graph.initializer:
        data = any(getattr(tensor, field) for field in ("raw_data", "int64_data", "int32_data", "float_data"))
        if data and math.prod(tensor.dims) <= _SMALL:
            lean.graph.initializer.append(tensor)
        else:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            lean.graph.input.append(value)
    for value in model.graph.output:  # the stated output shapes are for another batch
        element = value.type.tensor_type.elem_type
        lean.graph.output.append(onnx.helper.make_tensor_value_info(value.name, element, None))
    return lean


def _macs(node: onnx.NodeProto, known: Shapes) -> float:
    from onnx_tool.node import create_node
    from onnx_tool.tensor import Tensor

    def tensor(name: str) -> Any:
        described = Tensor(name)
        described.update_shape(known.get(name, []))
        return described

    priced = create_node(node).profile([tensor(name) for name in node.input], [tensor(name) for name in node.output])
    return float(priced[0])
