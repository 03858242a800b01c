"""How much the bench's own loop adds: wattwerk beside a bare loop and MLPerf LoadGen SingleStream.

All three call the same session of ONNX Runtime in one process, in turns, so that a change of the machine meets all of
them, while wattwerk's recorder runs beside. Printed are ratios of median latencies: 1.00 means that wattwerk adds
nothing. ``plain_run`` is another session with default options and ``InferenceSession.run``, which copies its outputs.
Where a session lies in memory can change its speed by some percent, so several pairs of sessions are opened.

    python benchmarks/harness_overhead.py [--model mobilenet-v2] [--sessions 6] [--rounds 4] [--iterations 60] [--json]

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

import onnxruntime as ort

from wattwerk.bench.timing import quiet, time_calls
from wattwerk.catalog import models
from wattwerk.metering.statistics import median_interval
from wattwerk.meters.inventory import default_specs
from wattwerk.meters.recorder import Recorder
from wattwerk.runtimes import RUNTIMES
from wattwerk.runtimes.base import LoadSpec, Precision


def bare_median_ns(call: Callable[[], object], iterations: int) -> float:
    """Time with nothing but a loop and the clock."""
    times = []
    for _ in range(iterations):
        start = perf_counter_ns()
        call()
        times.append(perf_counter_ns() - start)
    return statistics.median(times)


def wattwerk_median_ns(call: Callable[[], object], iterations: int) -> float:
    """Time with the loop of the bench, its recorder running beside."""
    with quiet():
        return statistics.median(time_calls(call, iterations))


def loadgen_median_ns(call: Callable[[], object], iterations: int) -> float | None:
    """Time with MLPerf LoadGen SingleStream; the figure is read from its own log."""
    try:
        import mlperf_loadgen as lg
    except ImportError:
        return None

    def issue(samples: list[Any]) -> None:
        for sample in samples:
            call()
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


def one_pair(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Open a session of wattwerk's and a plain one, and time all contenders in turns."""
    model = models.resolve(arguments.model)
    feeds = model.sample_inputs(1, 0)
    spec = LoadSpec(precision=Precision.FP32, batch=1, device="cpu", threads=arguments.threads)
    ours = RUNTIMES.load("onnxruntime").load(model, spec)
    call = ours.bind(feeds)
    options = ort.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    plain = ort.InferenceSession(model.onnx_bytes(), options, providers=["CPUExecutionProvider"])
    for _ in range(10):
        plain.run(None, feeds)
        call()
    contenders: dict[str, Callable[[], float | None]] = {
        "bare": lambda: bare_median_ns(call, arguments.iterations),
        "wattwerk": lambda: wattwerk_median_ns(call, arguments.iterations),
        "loadgen": lambda: loadgen_median_ns(call, arguments.iterations),
        "plain_run": lambda: bare_median_ns(lambda: plain.run(None, feeds), arguments.iterations),
    }
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(arguments.rounds):
        for name in random.sample(list(contenders), len(contenders)):
            median = contenders[name]()
            if median is not None:
                found[name].append(median)
    ours.close()
    return found


def ratio(pairs: list[dict[str, list[float]]], peer: str) -> dict[str, float | None]:
    """Return the median of the ratios to a peer within each turn, with its 95 % confidence interval."""
    name = f"ratio_wattwerk_to_{peer}"
    turns = [
        ours / theirs for pair in pairs if pair[peer] for ours, theirs in zip(pair["wattwerk"], pair[peer], strict=True)
    ]
    if not turns:
        return {name: None}
    interval = median_interval(turns)
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def main() -> int:
    """Measure and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenet-v2")
    parser.add_argument("--sessions", type=int, default=6, help="pairs of sessions; each lies elsewhere in memory")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each contender in a pair")
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    with Recorder(default_specs(None)):
        pairs = [one_pair(arguments) for _ in range(arguments.sessions)]
    result: dict[str, Any] = dict(vars(arguments))
    del result["json"]
    for name in ("wattwerk", "bare", "loadgen", "plain_run"):
        medians = [value for pair in pairs for value in pair[name]]
        result[f"latency_p50_{name}_s"] = statistics.median(medians) / 1e9 if medians else None
    for peer in ("bare", "loadgen", "plain_run"):
        result |= ratio(pairs, peer)
    print(json.dumps(result, indent=2) if arguments.json else "\n".join(f"{k}: {v}" for k, v in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
