#!/usr/bin/env python3
"""What metering costs: ``wattwerk meter -- true`` against ``true``, and 16 channels at 10 Hz on a busy machine.

    python benchmarks/meter_overhead.py [--json] [--seconds 60] [--starts 10]

The recorder reads 16 channels: RAPL's driver reads eleven zones of a powercap tree in a folder, the others are the
model of the processor and the host's load. One process on each processor multiplies matrices over and over, while the
recorder is paused and resumed in blocks of one second in the order running, paused, paused, running. Each group of four
gives one ratio of throughputs; told is their median with a bootstrapped 95 % confidence interval, and beside it the
sampling process' own processor time, which no noise of the machine widens.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from wattwerk.meters.recorder import MeterSpec, Recorder

BLOCK_S = 1.0
SHARE_S = 20.0
ZONES = 11
#: Any numbers do: the model costs the same to evaluate.
CPU_MODEL = {
    "idle_w": 10.0, "max_w": 50.0, "idle_low_w": 5.0, "idle_high_w": 15.0, "max_low_w": 40.0, "max_high_w": 60.0,
    "source": "placeholder of a benchmark of speed",
}  # fmt: skip

#: Counts its products in a shared file, one word for each process.
WORK = """
import mmap, os, struct, sys
import numpy as np
path, place = sys.argv[1], int(sys.argv[2])
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {place})
shared = mmap.mmap(os.open(path, os.O_RDWR), 0)
a = np.random.default_rng(0).standard_normal((96, 96), dtype=np.float32)
count = 0
while True:
    a @ a
    count += 1
    struct.pack_into("<q", shared, 8 * place, count)
"""


def powercap_tree(folder: Path) -> Path:
    """Write packages as the kernel shows them, and return the folder."""
    for index in range(ZONES):
        zone = folder / f"intel-rapl:{index}"
        zone.mkdir(parents=True)
        (zone / "name").write_text(f"package-{index}\n")
        (zone / "energy_uj").write_text("123456789\n")
        (zone / "max_energy_range_uj").write_text("262143328850\n")
    return folder


def start_costs(count: int) -> dict[str, float]:
    """Return medians of ``true`` and of ``wattwerk meter -- true``, in turns."""
    times: dict[str, list[float]] = {"true": [], "meter": []}
    commands = {"true": ["true"], "meter": [sys.executable, "-m", "wattwerk", "meter", "--", "true"]}
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "WATTWERK_HOME": home}
        # an installed package comes compiled; the first start compiles a source tree
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        for index in range(count + 1):
            for name, command in commands.items():
                start = time.perf_counter()
                subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=env)
                if index:  # the first one fills caches
                    times[name].append(time.perf_counter() - start)
    plain, metered = statistics.median(times["true"]), statistics.median(times["meter"])
    return {
        "true_s": round(plain, 4),
        "meter_true_s": round(metered, 3),
        "meter_true_least_s": round(min(times["meter"]), 3),
        "added_s": round(metered - plain, 3),
    }


def throughput(shared: mmap.mmap, cores: int) -> float:
    """Return products per second of all processes together, over one block."""

    def total() -> int:
        return sum(struct.unpack_from("<q", shared, 8 * place)[0] for place in range(cores))

    before, start = total(), time.perf_counter()
    time.sleep(BLOCK_S)
    return (total() - before) / (time.perf_counter() - start)


def recording_costs(seconds: float) -> dict[str, object]:
    """Return what recording costs a machine of which every processor is busy."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = folder / "counts"
        counts.write_bytes(bytes(8 * cores))
        specs = [
            MeterSpec("rapl", {"root": str(powercap_tree(folder / "powercap"))}),
            MeterSpec("cpu-model", CPU_MODEL),
            MeterSpec("host-load"),
        ]
        single = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with counts.open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared, Recorder(specs) as recorder:
            busy = [
                subprocess.Popen([sys.executable, "-c", WORK, str(counts), str(place)], env=single)
                for place in range(cores)
            ]
            try:
                return _compared(recorder, shared, cores, seconds)
            finally:
                for process in busy:
                    process.kill()
                    process.wait()


def _compared(recorder: Recorder, shared: mmap.mmap, cores: int, seconds: float) -> dict[str, object]:
    time.sleep(2.0)
    ratios = []
    begin = recorder.cost()
    time.sleep(SHARE_S)  # the system counts processor time in steps of 10 ms
    end = recorder.cost()
    for _ in range(max(5, round(seconds / (4 * BLOCK_S)))):
        rates: dict[bool, list[float]] = {True: [], False: []}
        for running in (True, False, False, True):
            (recorder.gate.resume if running else recorder.gate.pause)()
            rates[running].append(throughput(shared, cores))
        ratios.append(sum(rates[False]) / sum(rates[True]))
    recorder.gate.resume()
    rng = np.random.default_rng(1)
    resampled = np.median(rng.choice(ratios, (4000, len(ratios))), axis=1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {
        "channels_count": len(recorder.channels),
        "cores_count": cores,
        "ratio": round(float(np.median(ratios)), 5),
        "ratio_low": round(float(low), 5),
        "ratio_high": round(float(high), 5),
        "groups_count": len(ratios),
        "cpu_share_ratio": round((end.cpu_s - begin.cpu_s) / (end.wall_s - begin.wall_s) / cores, 5),
        "rss_bytes": end.rss_bytes,
    }


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the comparison; 0 leaves it out")
    parser.add_argument("--starts", type=int, default=10, help="starts of the command; 0 leaves them out")
    options = parser.parse_args()
    figures: dict[str, object] = {}
    if options.starts:
        figures |= start_costs(options.starts)
    if options.seconds:
        figures |= recording_costs(options.seconds)
    print(json.dumps(figures, indent=1) if options.json else "\n".join(f"{k}: {v}" for k, v in figures.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
