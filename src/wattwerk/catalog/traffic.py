"""How many values a model has to move between memory and arithmetic: what a roofline is drawn over.

Two models of it. At least: weights once for an iteration, inputs and outputs once for a sample, and all else stays in
caches. Layer by layer: each convolution and matrix product reads its inputs and its weights and writes its output once,
what stands between them is fused into them. Real runs are between the two, or beyond the second where a runtime does
not fuse.
"""

from __future__ import annotations

import functools
import math
from typing import Final

import msgspec

from wattwerk.catalog import count, seeding
from wattwerk.catalog.architectures import ARCHITECTURES

#: bytes of one value
VALUE_BYTES: Final = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "int8": 1}


class Traffic(msgspec.Struct, frozen=True):
    """Values that a model moves.

    Attributes:
        weights_count: Once for each iteration, however large its batch is.
        sample_least_count: For each sample, if only inputs and outputs go through memory.
        sample_layers_count: For each sample, if each heavy layer reads and writes memory.
        sample_flops: The operations of a sample at this input size, to tell another size by.
    """

    weights_count: int
    sample_least_count: int
    sample_layers_count: int
    sample_flops: float | None


@functools.cache
def traffic_of(name: str) -> Traffic | None:
    """Return the values that a built-in model moves, at its own input size; None for other models.

    Args:
        name: Its name in the catalogue.
    """
    if name not in ARCHITECTURES:
        return None
    graph = seeding.graph_of(name)
    sizes = {key: math.prod(shape) for key, shape in count.shapes_of(graph, {}).items()}
    weights = {tensor.name for tensor in graph.graph.initializer}
    least = sum(sizes.get(value.name, 0) for value in (*graph.graph.input, *graph.graph.output))
    layers = sum(
        sizes.get(each, 0)
        for node in graph.graph.node
        if node.op_type in count.HEAVY
        for each in (*node.input[:2], node.output[0])
        if each not in weights
    )
    card = seeding.card_of(graph)
    return Traffic(card.parameters_count, least, max(least, layers), card.sample_flops)


def bytes_moved(traffic: Traffic, precision: str, batch: int) -> tuple[int, int] | None:
    """Return the bytes of one iteration, layer by layer and at least; None for a precision of unknown size.

    Args:
        traffic: The model's values.
        precision: The precision that it really ran in.
        batch: Samples of an iteration.
    """
    size = VALUE_BYTES.get(precision)
    if size is None:
        return None
    layers, least = traffic.sample_layers_count, traffic.sample_least_count
    return size * (traffic.weights_count + batch * layers), size * (traffic.weights_count + batch * least)
