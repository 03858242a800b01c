"""A tiny real model and a procedure that takes a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wattwerk.bench.scenario import Procedure

#: Short enough for a test, long enough that every figure has something to be computed from.
SHORT = Procedure(warmup=4, warmup_s=0.0, iterations=8, windows=2, window_s=0.3, idle_s=0.2)


@pytest.fixture
def tiny_onnx(tmp_path: Path) -> Path:
    """Write an ONNX file with one matrix product, float32 (batch, 64) to (batch, 64)."""
    return write_tiny_onnx(tmp_path / "tiny.onnx")


def write_tiny_onnx(path: Path, batch: int | str = "batch") -> Path:
    """Write the tiny model to a path, with a batch dimension that is dynamic or fixed to a number."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path
