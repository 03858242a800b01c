#!/usr/bin/env python3
"""What the recorder costs the program that it watches: blocks with it running against blocks with it paused.

    python benchmarks/sampler_overhead.py [--json] [--seconds 60] [--rate 10]

A fixed piece of work (a matrix product of about 5 ms; one ONNX Runtime inference where that is installed) runs over and
over while the recorder is paused and resumed block by block, in pairs of random order. Each pair gives one ratio of
medians; reported is their median with a bootstrapped 95 % confidence interval. The same meters as in a bench run are
open.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from wattwerk.meters.inventory import default_specs
from wattwerk.meters.recorder import Recorder

#: Any numbers do: the model costs the same to evaluate.
CPU_MODEL = {
    "idle_w": 10.0, "max_w": 50.0, "idle_low_w": 5.0, "idle_high_w": 15.0, "max_low_w": 40.0, "max_high_w": 60.0,
    "source": "placeholder of a benchmark of speed",
}  # fmt: skip
BLOCK_S = 1.0


def shortest_s(work: Callable[[], object]) -> float:
    """Return the shortest of ten durations: the first ones include the start of threads."""
    times = []
    for _ in range(10):
        start = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - start)
    return min(times) / 1e9


def matrix_product() -> Callable[[], object]:
    """Return a product of square float32 matrices that takes about 5 ms here."""
    size = 128
    while True:
        a = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
        if shortest_s(lambda: a @ a) > 4e-3 or size > 4096:  # noqa: B023 - called at once
            return lambda: a @ a
        size = size * 5 // 4


def onnx_inference() -> Callable[[], object] | None:
    """Return one run of a small convolutional network on one thread; None without ONNX Runtime."""
    try:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return None
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(4):
        kernel = rng.standard_normal((32, 32, 3, 3), dtype=np.float32) / 17
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [f"x{layer}", f"w{layer}"], [f"x{layer + 1}"], pads=[1, 1, 1, 1]))
    shape = [1, 32, 96, 96]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x0", "x4")]
    graph = helper.make_graph(nodes, "convolutions", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = {"x0": rng.standard_normal(shape, dtype=np.float32)}
    return lambda: session.run(None, inputs)


def block_median_s(work: Callable[[], object]) -> float:
    """Repeat the work for one block and return the median duration."""
    times, end = [], time.perf_counter_ns() + BLOCK_S * 1e9
    while (start := time.perf_counter_ns()) < end:
        work()
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times)) / 1e9


def compare(work: Callable[[], object], recorder: Recorder, seconds: float) -> dict[str, float]:
    """Run pairs of blocks and return the ratio of medians (running to paused) with its confidence interval."""
    rng = np.random.default_rng(1)
    block_median_s(work)
    ratios, paused_s = [], []
    for _ in range(max(5, round(seconds / (2 * BLOCK_S)))):
        medians = {}
        for running in rng.permutation([True, False]):
            (recorder.gate.resume if running else recorder.gate.pause)()
            medians[bool(running)] = block_median_s(work)
        ratios.append(medians[True] / medians[False])
        paused_s.append(medians[False])
    recorder.gate.resume()
    resampled = np.median(rng.choice(ratios, (4000, len(ratios))), axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {
        "ratio": round(float(np.median(ratios)), 5),
        "ratio_low": round(float(low), 5),
        "ratio_high": round(float(high), 5),
        "pairs_count": len(ratios),
        "median_s": float(np.median(paused_s)),
    }


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each comparison")
    parser.add_argument("--rate", type=float, default=10.0, help="samples a second")
    options = parser.parse_args()
    works = {"matmul": matrix_product(), "onnxruntime": onnx_inference()}
    figures: dict[str, object] = {}
    start = time.perf_counter()
    with Recorder(default_specs(CPU_MODEL), options.rate) as recorder:
        figures["recorder_start_s"] = round(time.perf_counter() - start, 3)
        begin = recorder.cost()
        time.sleep(10)
        end = recorder.cost()
        figures["recorder_cpu_s_per_minute"] = round((end.cpu_s - begin.cpu_s) / (end.wall_s - begin.wall_s) * 60, 3)
        figures["recorder_rss_bytes"] = end.rss_bytes
        figures["recorder_channels"] = [channel.name for channel in recorder.channels]
        figures["rate_hz"] = options.rate
        for name, work in works.items():
            if work is None:
                continue
            result = compare(work, recorder, options.seconds)
            figures[f"ratio_{name}"] = result["ratio"]
            figures[f"ratio_{name}_low"] = result["ratio_low"]
            figures[f"ratio_{name}_high"] = result["ratio_high"]
            figures[f"{name}_median_s"] = result["median_s"]
            figures[f"{name}_pairs_count"] = result["pairs_count"]
    print(json.dumps(figures, indent=1) if options.json else "\n".join(f"{k}: {v}" for k, v in figures.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
