"""What is done to an ONNX graph before ONNX Runtime loads it: a static batch, float16, int8; and what it became."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from wattwerk.runtimes.base import Arrays, Precision

#: operators that do the arithmetic of a network, in the names ONNX Runtime gives them before and after fusion
_HEAVY: Final = frozenset(
    {
        "Conv",
        "FusedConv",
        "NhwcFusedConv",
        "NhwcConv",
        "ConvTranspose",
        "Gemm",
        "FusedGemm",
        "MatMul",
        "FusedMatMul",
        "TransposeMatMul",
        "Attention",
        "MultiHeadAttention",
        "GroupQueryAttention",
    }
)
_HEAVY_INT8: Final = frozenset(
    {
        "QLinearConv",
        "QLinearConvTranspose",
        "ConvInteger",
        "QLinearMatMul",
        "QGemm",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "QAttention",
    }
)
_FLOATS: Final = {"float": Precision.FP32, "float16": Precision.FP16, "bfloat16": Precision.BF16}


class Census(msgspec.Struct, frozen=True):
    """What the heavy operators of one run were.

    Attributes:
        share: Precision -> share of the heavy operators that ran in it.
        providers: Provider -> number of heavy operators that it ran.
        count: Number of heavy operators seen.
    """

    share: dict[Precision, float]
    providers: dict[str, int]
    count: int


def take_census(profile: str) -> Census:
    """Read from ONNX Runtime's own profile what really ran.

    Args:
        profile: The profile's text, JSON.
    """
    precisions: list[Precision] = []
    providers: dict[str, int] = {}
    for event in json.loads(profile):
        arguments = event.get("args", {})
        name = arguments.get("op_name")
        if not event["name"].endswith("_kernel_time") or name not in _HEAVY | _HEAVY_INT8:
            continue
        precisions.append(Precision.INT8 if name in _HEAVY_INT8 else _input_precision(arguments))
        providers[arguments["provider"]] = providers.get(arguments["provider"], 0) + 1
    share = {each: precisions.count(each) / len(precisions) for each in set(precisions)}
    return Census(share, providers, len(precisions))


def _input_precision(arguments: dict[str, Any]) -> Precision:
    first = next(iter(arguments["input_type_shape"][0]), "float")
    return _FLOATS.get(first, Precision.FP32)


def with_batch(model: Any, batch: int) -> Any:
    """Set the batch dimension of every input to a number, in place.

    Args:
        model: An ``onnx.ModelProto``.
        batch: Samples in one iteration.

    Returns:
        The same model.
    """
    graph = model.graph
    dims = [value.type.tensor_type.shape.dim for value in graph.input]
    symbols = {dim[0].dim_param for dim in dims if dim} - {""}
    for dim in dims:
        if dim:
            dim[0].dim_value = batch
    for value in (*graph.output, *graph.value_info):
        for each in value.type.tensor_type.shape.dim:
            if each.dim_param in symbols:
                each.dim_value = batch
    return model


def to_float16(model: Any) -> Any:
    """Convert a graph to float16, inputs and outputs included.

    Args:
        model: An ``onnx.ModelProto`` in fp32.
    """
    with _same_import_path():
        from onnxruntime.transformers.float16 import convert_float_to_float16
    return convert_float_to_float16(model)


def to_int8(model: Any, samples: list[Arrays], reduce_range: bool, symmetric: bool = False) -> bytes:
    """Quantise weights (per channel) and activations to int8, with ONNX Runtime's own tools.

    The graph is optimised and its shapes are inferred first, which folds batch normalisation into the convolutions.

    Args:
        model: An ``onnx.ModelProto`` in fp32 with a dynamic batch.
        samples: Inputs of batch 1 that the ranges are taken from.
        reduce_range: Whether weights use 7 bits, against overflow on x86 processors without VNNI.
        symmetric: Whether activations become int8 around zero, as TensorRT wants them, instead of uint8. On x86 ONNX
            Runtime rewrites int8 into uint8 itself, but not where a tensor is read twice, and then leaves the
            convolutions around it in floating point.

    Returns:
        The serialised graph with QuantizeLinear and DequantizeLinear pairs.
    """
    import onnx

    with _same_import_path():
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hand out the calibration samples one after the other."""

        def __init__(self) -> None:
            self._rest = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            """Return the next sample, None after the last one."""
            sample = next(self._rest, None)
            return None if sample is None else dict(sample)

    with tempfile.TemporaryDirectory(prefix="wattwerk-int8-") as folder:
        raw, prepared, quantised = (Path(folder) / name for name in ("raw.onnx", "prepared.onnx", "quantised.onnx"))
        onnx.save(model, raw)
        # symbolic inference would need sympy; the batch is the only symbol, and shapes behind it are inferred anyway
        quant_pre_process(str(raw), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(quantised),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": not symmetric},
        )
        return quantised.read_bytes()


@contextmanager
def _same_import_path() -> Iterator[None]:
    """Undo what importing ``onnxruntime.transformers`` does to ``sys.path``: that could shadow other modules."""
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before
