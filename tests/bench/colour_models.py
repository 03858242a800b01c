"""Tiny real models whose answers are known beforehand: they tell the colour of a photo, of a pixel, or a fixed box."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
SIZE = 16
#: The box that the detector sees in every photo, as a share of its sides: centre and size; its label is 1.
BOX = (0.5, 0.5, 0.5, 0.25)


def write_model(folder: Path, task: str) -> Path:
    """Write an ONNX file of one task with the facts of its photos and the names of its three labels."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    pooled = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
    ]
    if task == "classification":
        layout, nodes = "logits", [*pooled, helper.make_node("MatMul", ["flat", "eye"], ["scores"])]
        outputs = {"scores": ["batch", 3]}
        arrays = {"eye": np.eye(3)}
    elif task == "segmentation":
        layout, nodes = "map", [helper.make_node("Conv", ["image", "eye"], ["scores"])]
        outputs = {"scores": ["batch", 3, SIZE, SIZE]}
        arrays = {"eye": np.eye(3).reshape(3, 3, 1, 1)}
    else:
        layout = "queries"
        nodes = [
            *pooled,
            helper.make_node("MatMul", ["flat", "nothing4"], ["zero4"]),
            helper.make_node("Unsqueeze", ["zero4", "axis"], ["zero"]),
            helper.make_node("Add", ["zero", "logits_of_all"], ["logits"]),
            helper.make_node("Add", ["zero", "boxes_of_all"], ["boxes"]),
        ]
        outputs = {"logits": ["batch", 1, 4], "boxes": ["batch", 1, 4]}
        arrays = {
            "nothing4": np.zeros((3, 4)),
            "logits_of_all": np.array([[[0.0, 9.0, 0.0, 0.0]]]),
            "boxes_of_all": np.array([[BOX]]),
        }
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    if task == "detection":
        tensors.append(numpy_helper.from_array(np.array([1]), "axis"))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    graph = helper.make_graph(nodes, task, [image], values, tensors)
    path = folder / f"{task}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    (folder / "colours.txt").write_text("\n".join(COLOURS))
    path.with_suffix(".processing.toml").write_text(
        f'layout = "{layout}"\nlabels_count = 3\nclasses = "colours.txt"\nresize = "stretch"\nsource = "a test"\n'
    )
    return path


def write_photo(path: Path, *colours: str, width: int = 40, height: int = 20) -> Path:
    """Write a photo of stripes of equal height, one for each colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (width, height))
    for index, colour in enumerate(colours):
        step = height // len(colours)
        image.paste(COLOURS[colour], (0, index * step, width, (index + 1) * step))
    image.save(path)
    return path
