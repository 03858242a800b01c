#!/usr/bin/env python3
"""What an NVIDIA GPU's energy counter, momentary and average power say about bursts of 20 ms to 10 s.

    python scripts/probe_gpu_bursts.py bursts.npz [--seconds 240] [--size 8192]

A process of its own reads the three as often as they can be read, while this one loads the GPU in bursts of known
beginning and end (matrix products in fp16), in random order, with idle gaps between them. Everything is written as
read: times are ``time.perf_counter_ns``. `python scripts/probe_gpu_bursts.py --evaluate bursts.npz` makes the table of
docs/measuring.md of it. Needs torch with CUDA and nvidia-ml-py. Reads only, changes no setting.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.synchronize
import random
import time
from typing import Any

import numpy as np

DURATIONS_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SHARES = (0.06, 0.06, 0.08, 0.10, 0.12, 0.12, 0.14, 0.16, 0.16)  # of the time, gaps included
GAP_S = (0.6, 1.2)  # long enough that the average over a second has seen the idle power again
LEAST_BURSTS = 3
EDGE_NS = 4e8  # around a burst: what comes late is inside, the next burst is not


def record(index: int, stop: multiprocessing.synchronize.Event, answers: Any) -> None:
    """Read counter and powers in turns until told to stop, and hand over all that was read."""
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)

    def field(number: int) -> float:
        return float(pynvml.nvmlDeviceGetFieldValues(handle, [number])[0].value.uiVal)

    reads = {
        "energy_mj": lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)),
        "instant_mw": lambda: field(pynvml.NVML_FI_DEV_POWER_INSTANT),
        "average_mw": lambda: field(pynvml.NVML_FI_DEV_POWER_AVERAGE),
    }
    rows: dict[str, list[tuple[int, int, float]]] = {name: [] for name in reads}
    while not stop.is_set():
        for name, read in reads.items():
            before = time.perf_counter_ns()
            value = read()
            rows[name].append((before, time.perf_counter_ns(), value))
        time.sleep(0.001)
    about = {
        "name": str(pynvml.nvmlDeviceGetName(handle)),
        "driver": str(pynvml.nvmlSystemGetDriverVersion()),
        "power_limit_w": pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
    }
    answers.put((about, {name: np.array(values, np.float64) for name, values in rows.items()}))


def plan(seconds: float) -> list[float]:
    """Return the bursts' durations in random order, so many of each that the time is used."""
    gap_s = sum(GAP_S) / 2
    counts = [
        max(LEAST_BURSTS, round(seconds * share / (d + gap_s))) for d, share in zip(DURATIONS_S, SHARES, strict=True)
    ]
    bursts = [d for d, count in zip(DURATIONS_S, counts, strict=True) for _ in range(count)]
    random.Random(0).shuffle(bursts)
    return bursts


def load(bursts: list[float], size: int) -> np.ndarray[Any, Any]:
    """Run the bursts; returns float64 (bursts, 4): duration asked for, beginning, end (ns), products."""
    import torch

    a = torch.randn(size, size, device="cuda", dtype=torch.float16)
    out = torch.empty_like(a)

    def product() -> None:
        torch.matmul(a, a, out=out)

    for _ in range(5):
        product()
    torch.cuda.synchronize()
    begin = time.perf_counter_ns()
    for _ in range(20):
        product()
    torch.cuda.synchronize()
    each_s = (time.perf_counter_ns() - begin) / 20e9
    print(f"a product takes {1e3 * each_s:.2f} ms, {2 * size**3 / each_s / 1e12:.0f} TFLOP/s", flush=True)
    gaps, rows = random.Random(1), []
    time.sleep(3)
    for duration in bursts:
        count = max(1, round(duration / each_s))
        begin = time.perf_counter_ns()
        for _ in range(count):
            product()
        torch.cuda.synchronize()
        rows.append((duration, begin, time.perf_counter_ns(), count))
        time.sleep(gaps.uniform(*GAP_S))
    time.sleep(2)
    return np.array(rows, np.float64)


def measure(options: argparse.Namespace) -> None:
    """Record bursts and write all of it."""
    context = multiprocessing.get_context("spawn")
    stop, answers = context.Event(), context.Queue()
    reader = context.Process(target=record, args=(0, stop, answers), daemon=True)
    reader.start()
    bursts = load(plan(options.seconds), options.size)
    stop.set()
    about, rows = answers.get(timeout=60)
    reader.join(10)
    np.savez_compressed(options.file, bursts=bursts, **rows, **{key: np.array(value) for key, value in about.items()})
    print(about, {name: len(values) for name, values in rows.items()}, len(bursts), "bursts")


def integral(times: Any, values: Any, start: float, end: float) -> float:
    """Return the integral of a power in mW over ns, in joules, by trapezoids; the power is interpolated at the ends."""
    inside = (times > start) & (times < end)
    at = np.concatenate([[start], times[inside], [end]])
    power = np.interp(at, times, values)
    return float(np.sum((power[1:] + power[:-1]) / 2 * np.diff(at)) / 1e12)


def changes(data: dict[str, Any], name: str) -> tuple[Any, Any]:
    """Return times (ns) and values at which a series was first seen with a new value."""
    times, values = (data[name][:, 0] + data[name][:, 1]) / 2, data[name][:, 2]
    moved = np.concatenate([[True], np.diff(values) != 0])
    return times[moved], values[moved]


def evaluate(path: str) -> None:
    """Print, for each duration, what share of a burst's energy each method finds between its beginning and its end.

    All energies are those above idle. A burst's energy is what the counter grew from well before to well after it, so
    that it holds what the GPU takes until it idles again, as a mean over the bursts of that duration.
    """
    with np.load(path) as file:
        data = {name: file[name] for name in file.files}
    print(*(f"{key}: {data[key]}" for key in ("name", "driver", "power_limit_w")), sep=", ")
    for name in ("energy_mj", "instant_mw", "average_mw"):
        print(f"{name} changes every {np.median(np.diff(changes(data, name)[0])) / 1e6:.0f} ms")
    edges_at, edges = changes(data, "energy_mj")
    powers = {
        name: ((data[name][:, 0] + data[name][:, 1]) / 2, data[name][:, 2]) for name in ("instant_mw", "average_mw")
    }
    idle_w = float(np.percentile(powers["instant_mw"][1], 5)) / 1e3
    print(f"idle {idle_w:.1f} W")
    print("duration  bursts      energy    after the end     counter      momentary      average")

    def counted(start: float, end: float) -> float:
        grown = np.diff(np.interp([start, end], edges_at, edges / 1e3))
        return float(grown[0]) - idle_w * (end - start) / 1e9

    for duration in DURATIONS_S:
        bursts = data["bursts"][data["bursts"][:, 0] == duration][:, 1:3]
        whole_j = float(np.mean([counted(start - EDGE_NS, end + EDGE_NS) for start, end in bursts]))
        found = {"counter": [counted(start, end) for start, end in bursts]}
        for name, (times, values) in powers.items():
            idle_j = [idle_w * (end - start) / 1e9 for start, end in bursts]
            found[name] = [integral(times, values, *burst) - idle for burst, idle in zip(bursts, idle_j, strict=True)]
        shares = "  ".join(f"{np.mean(each) / whole_j:6.1%} ±{np.std(each) / whole_j:5.1%}" for each in found.values())
        after_j = whole_j - float(np.mean(found["counter"]))
        print(f"{duration:6.2f} s {len(bursts):7} {whole_j:9.1f} J {after_j:12.1f} J   {shares}")


def main() -> None:
    """Measure, or evaluate what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file")
    parser.add_argument("--evaluate", action="store_true", help="print the table instead of measuring")
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--size", type=int, default=8192, help="rows of the square matrices")
    options = parser.parse_args()
    evaluate(options.file) if options.evaluate else measure(options)


if __name__ == "__main__":
    main()
