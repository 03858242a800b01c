"""Any ONNX file as a model of the catalog."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.records import TensorSpec

if TYPE_CHECKING:
    import onnx


def read_onnx(path: Path, *, data: bool = True) -> onnx.ModelProto:
    """Read and check an ONNX file.

    Args:
        path: The file.
        data: Whether tensors in external files are read too.

    Raises:
        ConfigError: The file is missing or corrupt, is no valid ONNX, or lacks a file with its tensors.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        raise ConfigError(f"there is no file {path}", "check the path")
    try:
        model = onnx.load(path, load_external_data=False)
        _check_external(model, path)
        onnx.checker.check_model(str(path))
        if data:
            onnx.load_external_data_for_model(model, str(path.parent))
    except (DecodeError, onnx.checker.ValidationError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path} is not valid ONNX ({reason})", "check or export the file again") from error
    return model


def _check_external(model: onnx.ModelProto, path: Path) -> None:
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and not (path.parent / entry.value).is_file():
                raise ConfigError(
                    f"{path} keeps its tensors in {entry.value}, which is not beside it",
                    f"put {entry.value} into {path.parent}",
                )


def inputs_of(model: onnx.ModelProto, given: tuple[int, ...] | None, where: str) -> tuple[TensorSpec, ...]:
    """Return the inputs of a graph without their batch dimension.

    Args:
        model: The graph.
        given: The shape of the first input without the batch dimension, where the user gave one.
        where: What the graph belongs to, for errors.

    Raises:
        ConfigError: There are no inputs, one has no batch dimension, or a dimension is dynamic and was not given.
    """
    import onnx

    own = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in own]
    if not values:
        raise ConfigError(f"{where} has no inputs", "export the model with its inputs")
    shapes = [_shape(value, where) for value in values]
    if given is not None:
        shapes[0] = _overridden(shapes[0], given, f"{where}: input {values[0].name}")
    specs = []
    for value, shape in zip(values, shapes, strict=True):
        unknown = [dim for dim in shape if not isinstance(dim, int)]
        if unknown:
            raise ConfigError(
                f"{where}: input {value.name} has the dynamic dimensions {', '.join(map(str, unknown))}",
                "give --input-shape (without the batch), such as 3,224,224",
            )
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        specs.append(TensorSpec(value.name, tuple(int(dim) for dim in shape), dtype.name))
    return tuple(specs)


def _shape(value: onnx.ValueInfoProto, where: str) -> list[int | str]:
    """Return an input's dimensions after the batch: a number, or the name of a dynamic one."""
    dims = value.type.tensor_type.shape.dim
    if not value.type.HasField("tensor_type") or not dims:
        raise ConfigError(f"{where}: input {value.name} has no batch dimension", "export it with a batch dimension")
    return [dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in dims[1:]]


def _overridden(shape: list[int | str], given: tuple[int, ...], where: str) -> list[int | str]:
    fits = len(shape) == len(given) and all(own == new or isinstance(own, str) for own, new in zip(shape, given))  # noqa: B905
    if not fits or min(given, default=1) < 1:
        raise ConfigError(
            f"{where} has the shape {_text(shape)}, not {_text(given)}",
            "leave --input-shape away or give one that fits",
        )
    return list(given)


def _text(shape: Any) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def fixed_batch_of(model: onnx.ModelProto) -> int | None:
    """Return the batch size that a graph is fixed to; None where the batch is dynamic."""
    own = {tensor.name for tensor in model.graph.initializer}
    sizes = {
        value.type.tensor_type.shape.dim[0].dim_value
        for value in model.graph.input
        if value.name not in own and value.type.tensor_type.shape.dim
    }
    return next((size for size in sizes if size > 0), None)


def pin_shapes(model: onnx.ModelProto, inputs: tuple[TensorSpec, ...]) -> None:
    """Write the known shapes into a graph's inputs; a dynamic batch stays dynamic."""
    shapes = {spec.name: spec.shape for spec in inputs}
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim[1:], shapes.get(value.name, ()), strict=False):
            dim.dim_value = size


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def without_torch_form(name: str) -> UnavailableError:
    """Return the error that an ONNX file has no torch form."""
    return UnavailableError(
        f"{name} is an ONNX file and has no torch form", "run it with --runtime onnxruntime or openvino"
    )
