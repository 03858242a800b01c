#!/usr/bin/env python3
"""Show what NVML tells on this machine, as JSON: run it once on every new kind of NVIDIA GPU.

    python scripts/probe_nvml.py [--device 0] [--seconds 5]

It records every channel for some seconds at 10 Hz while the GPU idles, then under a matrix product with torch (left out
without torch and CUDA), measures how often the energy counter moves, compares it with integrated power, and times each
read. It changes no setting of the GPU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from typing import Any

import numpy as np

from wattwerk.errors import WattwerkError
from wattwerk.meters.nvml import NvmlConfig, NvmlMeter, throttle_reasons
from wattwerk.meters.recorder import MeterSpec, Recorder
from wattwerk.meters.trace import Trace

READS = 200


def load_gpu(device: int, started: Any, stop: Any) -> None:
    """Multiply bf16 matrices until told to stop; runs in a process of its own."""
    import torch

    with torch.inference_mode():
        a = torch.randn(8192, 8192, device=f"cuda:{device}", dtype=torch.bfloat16)
        while not stop.is_set():
            for _ in range(20):
                torch.mm(a, a)
            torch.cuda.synchronize()
            started.set()


def tick_periods_ms(meter: NvmlMeter, name: str, seconds: float) -> dict[str, float]:
    """Read the counter as fast as it goes and return statistics of the distances between its moves."""
    edges, value, end = [], meter.read_counter(name), time.perf_counter() + seconds
    while time.perf_counter() < end:
        if (now := meter.read_counter(name)) != value:
            edges.append(time.perf_counter())
            value = now
    gaps = np.diff(edges) * 1e3
    if not len(gaps):
        return {"count": 0}
    quantiles = dict(zip(("min", "p05", "median", "p95", "max"), np.percentile(gaps, [0, 5, 50, 95, 100]), strict=True))
    return {"count": len(gaps), **{key: round(float(gap), 3) for key, gap in quantiles.items()}}


def read_costs_us(meter: NvmlMeter) -> dict[str, dict[str, float]]:
    """Return median and 99th percentile of the time that each channel's read takes, and of a read of all."""
    reads = {channel.name: lambda name=channel.name: meter.read_counter(name) for channel in meter.channels}
    costs = {}
    for name, read in {**reads, "all": meter.read}.items():
        times = []
        for _ in range(READS):
            start = time.perf_counter_ns()
            read()
            times.append((time.perf_counter_ns() - start) / 1e3)
        costs[name] = {"median": round(float(np.median(times)), 2), "p99": round(float(np.percentile(times, 99)), 2)}
    return costs


def record(device: int, seconds: float) -> tuple[Trace, int, int, dict[str, Any]]:
    """Record for some seconds; return trace, start, end and what the recorder cost."""
    with Recorder([MeterSpec("nvml", {"devices": [device]}), MeterSpec("host-load")]) as recorder:
        time.sleep(0.5)
        start, begin = time.perf_counter_ns(), recorder.cost()
        time.sleep(seconds)
        end, finish = time.perf_counter_ns(), recorder.cost()
        trace = recorder.trace(until_ns=end)
        cost = {
            "cpu_ms_per_s": round((finish.cpu_s - begin.cpu_s) / seconds * 1e3, 2),
            "samples": finish.samples - begin.samples,
            "rss_bytes": finish.rss_bytes,
            "faults": recorder.faults,
        }
    return trace, start, end, cost


def summarise(trace: Trace, start: int, end: int, cost: dict[str, Any]) -> dict[str, Any]:
    """Return every channel's values, and energy by counter against energy by power."""
    inside = (trace.time_ns >= start) & (trace.time_ns <= end)
    result: dict[str, Any] = {"recorder": cost, "locked": trace.locked}
    result["lock_slack_ms"] = round(float(np.median(trace.time_ns - trace.unmoved_ns)) / 1e6, 2)
    result["time_s"] = [round((t - start) / 1e9, 4) for t in trace.time_ns[inside].tolist()]
    result["channels"] = {
        channel.name: trace.values[inside, column].tolist() for column, channel in enumerate(trace.channels)
    }
    for channel in [*trace.find(suffix="energy_j"), *trace.find(suffix="power_w"), *trace.find(suffix="average_w")]:
        energy = trace.energy(channel.name, start, end)
        keys = ("value_j", "low_j", "high_j", "mean_power_w", "samples", "note")
        result[f"from_{channel.name}"] = {key: getattr(energy, key) for key in keys}
    for channel in trace.find(suffix="throttle_count"):
        result["throttle_reasons"] = throttle_reasons(trace.union(channel.name, start, end))
    return result


def under_load(device: int, seconds: float) -> dict[str, Any]:
    """Record while torch multiplies matrices."""
    context = multiprocessing.get_context("spawn")
    started, stop = context.Event(), context.Event()
    process = context.Process(target=load_gpu, args=(device, started, stop))
    process.start()
    try:
        deadline = time.monotonic() + 120
        while not started.wait(0.2):
            if not process.is_alive() or time.monotonic() > deadline:
                return {"left_out": "the load did not start: torch with CUDA is needed"}
        time.sleep(1.0)
        result = summarise(*record(device, seconds))
        meter = NvmlMeter(NvmlConfig([device]))
        result["energy_counter_tick_ms"] = tick_periods_ms(meter, f"gpu{device}_energy_j", seconds)
        result["read_cost_us"] = read_costs_us(meter)
        meter.close()
        return result
    finally:
        stop.set()
        process.join(20)


def main() -> int:
    """Print the JSON; return 3 where there is no NVML."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", type=int, default=0, help="the GPU's index, as nvidia-smi counts")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each recording")
    options = parser.parse_args()
    try:
        meter = NvmlMeter(NvmlConfig([options.device]))
    except WattwerkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    names = [channel.name for channel in meter.channels]
    result: dict[str, Any] = {
        "probe": NvmlMeter.probe().detail,
        "channels": names,
        "limits": meter.limits(),
        "read_cost_us": read_costs_us(meter),
        "idle": summarise(*record(options.device, options.seconds)),
    }
    if (counter := f"gpu{options.device}_energy_j") in names:
        result["energy_counter_tick_ms"] = tick_periods_ms(meter, counter, options.seconds)
    meter.close()
    result["load"] = under_load(options.device, options.seconds)
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
