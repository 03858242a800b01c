"""ONNX: the initialisers are packed, and the graph without them goes along as a text, so that a whole file comes back.

Some initialisers stay in the graph, exact: types that a stream cannot carry, small float constants of the arithmetic
(an epsilon would vanish in a step), and the scales and zero points of quantised layers.
"""

from __future__ import annotations

import base64
import binascii
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wattwerk.codec.container_types import (
    ModelFile,
    Restored,
    appearing,
    damaged,
    file_bytes,
    unreadable,
    unwritable,
)
from wattwerk.codec.elements import FLOATS, SIZES, Array
from wattwerk.errors import ConfigError

if TYPE_CHECKING:
    import onnx

GRAPH = "graph"  # key of the text that holds the graph
MOST_CONSTANTS = 8  # floats with at most so many values are taken for constants, not for weights
_LARGEST_FILE = 1_900_000_000  # bytes of tensors; protobuf ends at 2 GiB, and the graph needs a little
_LARGEST_GRAPH = 1 << 28  # bytes that a packed graph may unfold to
_QUANTISERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul")


def open_onnx(path: Path) -> ModelFile:
    """Open an ONNX file; its external data is read too.

    Raises:
        ConfigError: The file is missing or damaged, or lacks a file with its tensors.
    """
    import onnx

    model = _load(path)
    parts = _external(model, path)
    packed = [tensor for tensor in model.graph.initializer if _is_packed(tensor, _exact(model))]
    bare = _without(model, {tensor.name for tensor in packed}, path.parent)
    text = base64.b85encode(zlib.compress(bare.SerializeToString(deterministic=True), 9)).decode()

    def read() -> Iterator[tuple[str, Array]]:
        for tensor in packed:
            yield tensor.name, _array(onnx, tensor, path)

    return ModelFile(path, "onnx", file_bytes(path, *parts), len(packed), {GRAPH: text}, read)


def _load(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise damaged(path, "ONNX", error) from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not (model.graph.node or model.graph.initializer):
        raise damaged(path, "ONNX", ValueError("it has neither nodes nor tensors"))
    return model


def _external(model: onnx.ModelProto, path: Path) -> list[Path]:
    names = dict.fromkeys(
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    )
    parts = [path.parent / name for name in names]
    for part in parts:
        if not part.is_file() or not part.resolve().is_relative_to(path.parent.resolve()):
            raise ConfigError(
                f"{path} keeps its tensors in {part.name}, which is not beside it", f"put it beside {path}"
            )
    return parts


def _exact(model: onnx.ModelProto) -> set[str]:
    """Return the names of what quantised layers are scaled with."""
    return {name for node in model.graph.node if node.op_type in _QUANTISERS for name in node.input[1:]}


def _is_packed(tensor: onnx.TensorProto, exact: set[str]) -> bool:
    dtype, size = _dtype(tensor), int(np.prod(tensor.dims, dtype=np.int64))
    if dtype not in SIZES or not size:
        return False
    if dtype not in FLOATS:
        return True
    is_vector = len(tensor.dims) < 2
    return size > MOST_CONSTANTS and not (is_vector and tensor.name in exact)


def _dtype(tensor: onnx.TensorProto) -> str:
    import onnx

    try:
        return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).name)
    except (KeyError, TypeError, ValueError):
        return "unknown"


def _without(model: onnx.ModelProto, names: set[str], folder: Path) -> onnx.ModelProto:
    """Return a copy whose named initialisers have a name, a type and a shape, but no values."""
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        if tensor.name in names:
            stub = onnx.TensorProto(
                name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, doc_string=tensor.doc_string
            )
            tensor.CopyFrom(stub)
        elif tensor.external_data:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    return bare


def _array(onnx: Any, tensor: onnx.TensorProto, path: Path) -> Array:
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor, str(path.parent)))
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, TypeError, RuntimeError, onnx.checker.ValidationError) as error:
        raise damaged(path, "ONNX", error) from error


def write_onnx(path: Path, restored: Restored) -> None:
    """Write an ONNX file; tensors beyond 1.9 GB go into a file beside it.

    Args:
        path: The file; it appears when it is complete.
        restored: The tensors, with the graph among its texts; all of them are in memory at once.

    Raises:
        ConfigError: There is no graph, it lacks a tensor, or the file cannot be written.
    """
    text = restored.texts("onnx").get(GRAPH)
    if text is None:
        raise ConfigError(
            f"{path} cannot be written: the tensors came without a graph", "give an output such as model.safetensors"
        )
    model = _unpacked_graph(path, text)
    size = _fill(path, model, dict(restored.tensors))
    if size > _LARGEST_FILE:
        _save_in_two(model, path)
        return
    with appearing(path) as partial:
        partial.write_bytes(model.SerializeToString())


def _unpacked_graph(path: Path, text: str) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        unfolding = zlib.decompressobj()
        data = unfolding.decompress(base64.b85decode(text), _LARGEST_GRAPH)
        if not unfolding.eof:
            raise ValueError(f"larger than {_LARGEST_GRAPH} bytes, or cut off")
        model = onnx.ModelProto()
        model.ParseFromString(data)
    except (ValueError, binascii.Error, zlib.error, DecodeError) as error:
        raise ConfigError(
            f"{path} cannot be written: the graph is damaged ({error})", "get the stream again"
        ) from error
    return model


def _fill(path: Path, model: onnx.ModelProto, arrays: dict[str, Array]) -> int:
    """Give the graph's empty initialisers their values, and return how many bytes these take."""
    size = 0
    for tensor in model.graph.initializer:
        array = arrays.pop(tensor.name, None)
        if array is None:
            if _lacks_values(tensor):
                raise _misfit(path, f"the graph needs {tensor.name!r}")
            continue
        if array.shape != tuple(tensor.dims):
            raise _misfit(path, f"{tensor.name!r} has the shape {array.shape} instead of {tuple(tensor.dims)}")
        tensor.raw_data = _typed(array, _dtype(tensor)).tobytes()
        size += len(tensor.raw_data)
    if arrays:
        raise _misfit(path, f"the graph does not know {next(iter(arrays))!r}")
    return size


def _lacks_values(tensor: onnx.TensorProto) -> bool:
    told = {field.name for field, _ in tensor.ListFields()}
    return bool(np.prod(tensor.dims, dtype=np.int64)) and not any(name.endswith("_data") for name in told)


def _typed(array: Array, dtype: str) -> Array:
    """Return an array in the graph's type: some reductions leave float32 of any float."""
    if array.dtype.name == dtype:
        return array
    if dtype == "bfloat16":
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16)
    return array.astype(dtype)


def _misfit(path: Path, message: str) -> ConfigError:
    return ConfigError(
        f"{path} cannot be written: {message}", "unpack to .safetensors instead, or get the stream again"
    )


def _save_in_two(model: onnx.ModelProto, path: Path) -> None:
    """Save graph and tensors as two files; both take their places when both are complete."""
    import onnx

    data = f"{path.name}.data"
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        onnx.save_model(model, folder / path.name, save_as_external_data=True, location=data, size_threshold=1024)
        (folder / data).replace(path.with_name(data))
        (folder / path.name).replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
