"""Graph-only ONNX files: tensors without data, and the recipe that fills them from a seed.

A shipped file names every tensor as the state dict of its torch module does, gives shape and type, and carries no data.
Its metadata holds the recipe: mean and standard deviation of each tensor.
Each tensor has its own stream of random numbers, so that the values depend on the seed and the tensor's name only.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

METADATA_KEY: Final = "wattwerk"

Array = npt.NDArray[Any]


class Rule(msgspec.Struct, frozen=True, array_like=True):
    """How one tensor is filled: normally distributed; a standard deviation of zero makes it constant."""

    mean: float
    std: float = 0.0


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What a shipped graph says about itself, written when it is built.

    Attributes:
        recipe: Tensor name -> rule.
        parameters_count: Number of trained parameters; running statistics of normalisation layers are not counted.
        sample_flops: Floating-point operations of one sample; a multiply-add counts as two.
    """

    recipe: dict[str, Rule]
    parameters_count: int
    sample_flops: float


def graph_of(name: str) -> onnx.ModelProto:
    """Return the shipped graph of a built-in model, its tensors still without data."""
    import onnx

    return onnx.load_from_string((files("wattwerk.catalog") / "data" / f"{name}.onnx").read_bytes())


def card_of(graph: onnx.ModelProto) -> Card:
    """Return what a shipped graph says about itself."""
    text = next(entry.value for entry in graph.metadata_props if entry.key == METADATA_KEY)
    return msgspec.json.decode(text, type=Card)


def empty_tensors(graph: onnx.ModelProto, recipe: Iterable[str]) -> dict[str, onnx.TensorProto]:
    """Return name -> initialiser for those that the recipe fills."""
    wanted = set(recipe)
    return {tensor.name: tensor for tensor in graph.graph.initializer if tensor.name in wanted}


def draw(name: str, shape: tuple[int, ...], rule: Rule, seed: int) -> npt.NDArray[np.float32]:
    """Fill one tensor.

    Args:
        name: The tensor's name; it chooses the stream of random numbers.
        shape: The tensor's shape.
        rule: Its distribution.
        seed: The model's seed.
    """
    if rule.std == 0.0:
        return np.full(shape, rule.mean, np.float32)
    stream = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))
    values = stream.standard_normal(shape, np.float32)
    values *= np.float32(rule.std)
    if rule.mean:
        values += np.float32(rule.mean)
    return values


def seeded_arrays(graph: onnx.ModelProto, seed: int) -> dict[str, Array]:
    """Return name -> float32 array for every tensor of the recipe."""
    recipe = card_of(graph).recipe
    tensors = empty_tensors(graph, recipe)
    return {name: draw(name, tuple(tensor.dims), recipe[name], seed) for name, tensor in tensors.items()}


def filled(graph: onnx.ModelProto, arrays: Mapping[str, Array]) -> bytes:
    """Put arrays into the empty tensors of a graph and serialise it.

    Args:
        graph: A shipped graph; it is changed.
        arrays: Tensor name -> float32 array of the tensor's shape.
    """
    for name, tensor in empty_tensors(graph, arrays).items():
        tensor.raw_data = np.ascontiguousarray(arrays[name], dtype="<f4").tobytes()
    del graph.metadata_props[:]
    return bytes(graph.SerializeToString())
