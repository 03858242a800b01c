"""Regenerate the graph-only ONNX files of the built-in models: ``python scripts/build_catalog.py [NAME…]``.

Needs the extra ``torch``. For each model: build the torch module, find the distribution of each tensor, measure the
normalisation statistics, export, simplify with every tensor turned into an input (so that nothing can be folded over
it), turn the inputs back into tensors without data, and write the recipe, the counts and the graph.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import msgspec
import onnx
import onnx_ir
import onnxslim
import torch
from onnxscript import optimizer
from torch import nn

from wattwerk.catalog import count, seeding
from wattwerk.catalog.architectures import ARCHITECTURES, Architecture, weights_of
from wattwerk.catalog.images import sample_images

DATA = Path(__file__).parent.parent / "src" / "wattwerk" / "catalog" / "data"
OPSET = 20
#: the last normalisation of a residual branch, and its gain: below one, as trained networks have it, so that rounding
#: errors do not grow from block to block while two images still give different outputs
BRANCH_END = re.compile(r"stages\.\d+\.layers\.\d+\.layer\.2\.normalization\.weight|deep\.1\.conv\.norm\.weight")
BRANCH_GAIN = 0.3
LARGEST_ACTIVATION = 1e4  # float16 ends at 65504
LEAST_DIFFERENCE = 0.04  # spread of the difference of two images' outputs, over the spread of the outputs
LITERAL_COUNT = 4096  # larger constants stay expressions in the graph


def rules_of(module: nn.Module) -> dict[str, seeding.Rule]:
    """Return the distribution of every tensor of a freshly initialised module."""
    rules = {}
    for name, tensor in module.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            spread = tensor.std().item() if tensor.numel() > 1 and tensor.min() != tensor.max() else 0.0
            mean = tensor.flatten()[0].item() if spread == 0.0 else 0.0
            damped = BRANCH_END.search(name) is not None
            rules[name] = seeding.Rule(BRANCH_GAIN if damped else _rounded(mean), _rounded(spread))
    return rules


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def fill(module: nn.Module, rules: dict[str, seeding.Rule]) -> None:
    """Fill a module by a recipe with seed 0, as the catalog does it at load."""
    own = module.state_dict()
    arrays = {name: seeding.draw(name, tuple(own[name].shape), rule, 0) for name, rule in rules.items()}
    module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=False)


def calibrate(model: nn.Module, rules: dict[str, seeding.Rule], images: torch.Tensor) -> None:
    """Set each normalisation's statistics to those of its input, one value per layer, in the order of execution."""
    inner = weights_of(model)
    handles = []
    for name, layer in inner.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            handles.append(layer.register_forward_pre_hook(_measurer(name, rules)))
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()


def _measurer(name: str, rules: dict[str, seeding.Rule]) -> Any:
    def measure(layer: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        mean, variance = _rounded(inputs[0].mean().item()), _rounded(inputs[0].var().item())
        layer.running_mean.fill_(mean)
        layer.running_var.fill_(variance)
        rules[f"{name}.running_mean"] = seeding.Rule(mean)
        rules[f"{name}.running_var"] = seeding.Rule(variance)

    return measure


def export(model: nn.Module, architecture: Architecture) -> onnx.ModelProto:
    """Export a module with a dynamic batch and simplify the graph without touching its tensors."""
    size = architecture.image_size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (torch.zeros(2, 3, size, size),),
            dynamo=True,
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1)}},
            input_names=["pixel_values"],
            output_names=list(architecture.outputs),
            opset_version=OPSET,
            optimize=False,
            verbose=False,
        )
    inner = weights_of(model)
    prefix = next((f"{name}." for name, child in model.named_children() if child is inner), "")
    names = {prefix + name: name for name in inner.state_dict() if not name.endswith("num_batches_tracked")}
    return _simplify(program.model, names)


def _simplify(model: onnx_ir.Model, names: dict[str, str]) -> onnx.ModelProto:
    tensors = _tensors_to_inputs(model, names)
    optimizer.optimize_ir(model, num_iterations=4, input_size_limit=LITERAL_COUNT, output_size_limit=LITERAL_COUNT)
    proto = onnxslim.slim(onnx_ir.to_proto(model), size_threshold=LITERAL_COUNT)
    _inputs_to_tensors(proto, tensors)
    _strip(proto)
    return proto


def _tensors_to_inputs(model: onnx_ir.Model, names: dict[str, str]) -> set[str]:
    graph = model.graph
    for old, new in names.items():
        value = graph.initializers.pop(old, None)
        if value is None:
            raise SystemExit(f"tensor {old} is not in the graph: every tensor has to be used")
        value.const_value = None
        value.name = new
        graph.inputs.append(value)
    return set(names.values())


def _inputs_to_tensors(proto: onnx.ModelProto, tensors: set[str]) -> None:
    kept = [entry for entry in proto.graph.input if entry.name not in tensors]
    for entry in proto.graph.input:
        if entry.name in tensors:
            dims = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
            proto.graph.initializer.add(name=entry.name, data_type=onnx.TensorProto.FLOAT, dims=dims)
    del proto.graph.input[:]
    proto.graph.input.extend(kept)


def _strip(proto: onnx.ModelProto) -> None:
    """Remove what no reader needs: notes of the exporter and the shapes of inner values."""
    del proto.graph.value_info[:]
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    proto.doc_string = proto.graph.doc_string = ""
    for item in [*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer]:
        item.doc_string = ""
        del item.metadata_props[:]
    proto.graph.name = proto.producer_name = "wattwerk"
    proto.producer_version = ""


def write(name: str, proto: onnx.ModelProto, rules: dict[str, seeding.Rule]) -> Path:
    """Write a graph with its recipe and its counts."""
    proto.graph.name = name
    counts = count.counts_of(proto, trained=rules)
    if counts.sample_flops is None:
        raise SystemExit(f"{name}: the operations cannot be counted")
    card = seeding.Card(recipe=rules, parameters_count=counts.parameters_count, sample_flops=counts.sample_flops)
    onnx.helper.set_model_props(proto, {seeding.METADATA_KEY: msgspec.json.encode(card).decode()})
    path = DATA / f"{name}.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def images_of(architecture: Architecture, number: int = 4) -> torch.Tensor:
    """Return images (number, 3, size, size) like those that the bench feeds."""
    return torch.from_numpy(sample_images((3, architecture.image_size, architecture.image_size), number, seed=0))


def check(model: nn.Module, images: torch.Tensor) -> None:
    """Refuse weights under which half precision would overflow or the outputs would hardly depend on the input.

    Raises:
        SystemExit: An activation exceeds ``LARGEST_ACTIVATION``, or two images give nearly the same outputs.
    """
    largest = 0.0

    def watch(layer: nn.Module, inputs: object, outputs: object) -> None:
        nonlocal largest
        if isinstance(outputs, torch.Tensor):
            largest = max(largest, outputs.abs().max().item())

    handles = [layer.register_forward_hook(watch) for layer in model.modules()]
    with torch.no_grad():
        outputs = model(images)
    for handle in handles:
        handle.remove()
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    shares = [((output[0] - output[1]).std() / output.std()).item() for output in outputs]
    print(
        f"  largest activation {largest:.3g}, difference of two images / spread of outputs",
        *(f"{s:.3f}" for s in shares),
    )
    if not largest < LARGEST_ACTIVATION or not min(shares) > LEAST_DIFFERENCE:
        raise SystemExit("the seeded weights are no fit: adapt the recipe")


def build(name: str) -> None:
    """Build one model and write its file."""
    architecture = ARCHITECTURES[name]
    began_s = time.perf_counter()
    torch.manual_seed(0)
    model = architecture.build().eval()
    rules = rules_of(weights_of(model))
    fill(weights_of(model), rules)
    calibrate(model, rules, images_of(architecture))
    check(model, images_of(architecture, 2))
    path = write(name, export(model, architecture), rules)
    print(f"{name}: {path.stat().st_size / 1000:.0f} kB in {time.perf_counter() - began_s:.0f} s", flush=True)


def main() -> int:
    """Build the named models, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="a built-in model; all without one")
    for name in parser.parse_args().names or ARCHITECTURES:
        build(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
