"""How much the bench's own loop adds: wattwerk beside a bare loop and MLPerf LoadGen SingleStream.

All three run the same model with the same settings in one process, in turns, so that a change of the machine meets
all of them. Printed are ratios of median latencies: 1.00 means that wattwerk adds nothing.

    python benchmarks/harness_overhead.py [--model mobilenet-v2] [--rounds 8] [--iterations 200] [--threads 1] [--json]

LoadGen is left out, and said to be, where ``mlcommons-loadgen`` is not installed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import onnxruntime as ort

from wattwerk.bench.statistics import mean_interval
from wattwerk.bench.timing import quiet, time_calls
from wattwerk.catalog import models
from wattwerk.meters.inventory import default_specs
from wattwerk.meters.recorder import Recorder
from wattwerk.runtimes import RUNTIMES
from wattwerk.runtimes.base import LoadSpec, Precision


def bare_median_ns(session: Any, feeds: dict[str, np.ndarray], iterations: int) -> float:
    """Time ONNX Runtime with nothing of wattwerk between."""
    times = []
    for _ in range(iterations):
        start = perf_counter_ns()
        session.run(None, feeds)
        times.append(perf_counter_ns() - start)
    return statistics.median(times)


def wattwerk_median_ns(call: Callable[[], object], iterations: int) -> float:
    """Time with the loop of the bench, its recorder running beside."""
    with quiet():
        return statistics.median(time_calls(call, iterations))


def loadgen_median_ns(session: Any, feeds: dict[str, np.ndarray], iterations: int) -> float | None:
    """Time with MLPerf LoadGen SingleStream; the figure is read from its own log."""
    try:
        import mlperf_loadgen as lg
    except ImportError:
        return None

    def issue(samples: list[Any]) -> None:
        for sample in samples:
            session.run(None, feeds)
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0)])

    settings = lg.TestSettings()
    settings.scenario = lg.TestScenario.SingleStream
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_query_count = settings.max_query_count = iterations
    settings.min_duration_ms = 0
    with tempfile.TemporaryDirectory() as folder:
        output = lg.LogOutputSettings()
        output.outdir = folder
        logs = lg.LogSettings()
        logs.log_output = output
        sut = lg.ConstructSUT(issue, lambda: None)
        qsl = lg.ConstructQSL(1, 1, lambda _: None, lambda _: None)
        lg.StartTestWithLogSettings(sut, qsl, settings, logs)
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)
        summary = (Path(folder) / "mlperf_log_summary.txt").read_text()
    line = next(line for line in summary.splitlines() if line.startswith("50.00 percentile latency"))
    return float(line.rpartition(":")[2])


def main() -> int:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet-v2")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    model = models.resolve(arguments.model)
    feeds = model.sample_inputs(1, 0)
    spec = LoadSpec(precision=Precision.FP32, batch=1, device="cpu", threads=arguments.threads)
    ours = RUNTIMES.load("onnxruntime").load(model, spec)
    call = ours.bind(feeds)
    options = ort.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    bare = ort.InferenceSession(model.onnx_bytes(), options, providers=["CPUExecutionProvider"])
    for _ in range(20):
        bare.run(None, feeds)
        call()

    contenders: dict[str, Callable[[], float | None]] = {
        "bare": lambda: bare_median_ns(bare, feeds, arguments.iterations),
        "wattwerk": lambda: wattwerk_median_ns(call, arguments.iterations),
        "loadgen": lambda: loadgen_median_ns(bare, feeds, arguments.iterations),
    }
    rounds: dict[str, list[float]] = {name: [] for name in contenders}
    with Recorder(default_specs(None)):
        for _ in range(arguments.rounds):
            for name in random.sample(list(contenders), len(contenders)):
                found = contenders[name]()
                if found is not None:
                    rounds[name].append(found)
    ours.close()

    result: dict[str, Any] = {"model": arguments.model, "threads": arguments.threads, "rounds": arguments.rounds}
    result |= {f"latency_p50_{name}_s": statistics.median(v) / 1e9 for name, v in rounds.items() if v}
    for peer in ("bare", "loadgen"):
        if not rounds[peer]:
            result[f"ratio_wattwerk_to_{peer}"] = None
            continue
        pairs = [a / b for a, b in zip(rounds["wattwerk"], rounds[peer], strict=True)]
        interval = mean_interval(np.log(pairs))
        result[f"ratio_wattwerk_to_{peer}"] = statistics.median(pairs)
        result[f"ratio_wattwerk_to_{peer}_low"] = float(np.exp(interval.low if interval.low is not None else np.nan))
        result[f"ratio_wattwerk_to_{peer}_high"] = float(np.exp(interval.high if interval.high is not None else np.nan))
    print(json.dumps(result, indent=2) if arguments.json else "\n".join(f"{k}: {v}" for k, v in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
