#!/usr/bin/env python3
"""Our regions beside zeus and codecarbon: the same work in the same interval, joules and what they rest on.

    pip install zeus codecarbon
    python benchmarks/meter_vs_peers.py [--seconds 20] [--rounds 5] [--json]

All three measure each round of work at once, one inside the other: codecarbon outside, since it takes seconds to set
itself up, zeus and wattwerk in turns inside. They begin and end within milliseconds of each other. The work is matrix
products, on the GPU where torch finds one, else on every processor. Where there is a GPU, all three read its energy
counter, and their ratio is told. What they say of the processor is told too: without a sensor each has a model of its
own, and the ratio is that of two models.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

J_PER_KWH = 3.6e6
Found = dict[str, float]


def gpu_work() -> Callable[[float], None] | None:
    """Return what keeps a GPU busy for so many seconds; None where torch finds none."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)

    def work(seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(10):
                a @ a
            torch.cuda.synchronize()

    work(1.0)
    return work


def spin(seconds: float) -> None:
    """Keep one processor busy."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(10_000))


def processor_work(seconds: float) -> None:
    """Keep every processor busy."""
    context = multiprocessing.get_context("spawn")
    busy = [context.Process(target=spin, args=(seconds,)) for _ in range(os.cpu_count() or 1)]
    for process in busy:
        process.start()
    for process in busy:
        process.join()


@contextlib.contextmanager
def wattwerk(found: dict[str, Found]) -> Iterator[None]:
    """Measure with ours."""
    from wattwerk.metering import measure

    with measure("work", keep=False) as region:
        yield
    told = {"gpu_j": "gpu_energy_j", "cpu_j": "cpu_energy_j", "time_s": "duration_s"}
    found["wattwerk"] = {name: value for name, figure in told.items() if (value := region.value(figure)) is not None}


@contextlib.contextmanager
def zeus(found: dict[str, Found], monitor: Any) -> Iterator[None]:
    """Measure with zeus."""
    monitor.begin_window("work", sync_execution=False)
    yield
    result = monitor.end_window("work", sync_execution=False)
    found["zeus"] = {"time_s": result.time}
    if result.gpu_energy:
        found["zeus"]["gpu_j"] = sum(result.gpu_energy.values())
    if result.cpu_energy:
        found["zeus"]["cpu_j"] = sum(result.cpu_energy.values())


@contextlib.contextmanager
def codecarbon(found: dict[str, Found]) -> Iterator[None]:
    """Measure with codecarbon."""
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(
        country_iso_code="DEU", measure_power_secs=1, save_to_file=False, log_level="error", allow_multiple_runs=True
    )
    tracker.start()
    start = time.perf_counter()
    yield
    length_s = time.perf_counter() - start
    tracker.stop()
    data = tracker.final_emissions_data
    found["codecarbon"] = {"cpu_j": data.cpu_energy * J_PER_KWH, "time_s": length_s}
    if data.gpu_energy:
        found["codecarbon"]["gpu_j"] = data.gpu_energy * J_PER_KWH


def zeus_monitor() -> Any:
    """Return zeus' monitor; None where it has nothing to read or is not installed."""
    try:
        from zeus.monitor import ZeusMonitor

        logging.getLogger("zeus").setLevel(logging.ERROR)
        monitor = ZeusMonitor(approx_instant_energy=False)
    except Exception as error:  # whatever it raises without a sensor
        print(f"zeus measures nothing here: {type(error).__name__}: {error}", flush=True)
        return None
    if monitor.gpu_indices or monitor.cpu_indices:
        return monitor
    print("zeus measures nothing here: it finds neither a GPU nor RAPL", flush=True)
    return None


def rounds_of(work: Callable[[float], None], seconds: float, rounds: int) -> list[dict[str, Found]]:
    """Return what each meter found in each round."""
    monitor = zeus_monitor()
    inner: list[Callable[[dict[str, Found]], Any]] = [wattwerk]
    if monitor is not None:
        inner.append(lambda found: zeus(found, monitor))
    every = []
    for _ in range(rounds):
        found: dict[str, Found] = {}
        with contextlib.ExitStack() as stack:
            for meter in (codecarbon, *inner):
                stack.enter_context(meter(found))
            work(seconds)
        every.append(found)
        inner.reverse()
        time.sleep(2.0)
    return every


def ratios_of(every: list[dict[str, Found]]) -> dict[str, dict[str, float]]:
    """Return median, least and largest ratio of ours to each peer, for what both tell."""
    told: dict[str, dict[str, float]] = {}
    for peer in ("zeus", "codecarbon"):
        for name in ("gpu_j", "cpu_j"):
            pairs = [(one["wattwerk"].get(name), one.get(peer, {}).get(name)) for one in every]
            ratios = [ours / theirs for ours, theirs in pairs if ours and theirs]
            if ratios:
                told[f"{name} to {peer}"] = {
                    "median": round(statistics.median(ratios), 5),
                    "least": round(min(ratios), 5),
                    "largest": round(max(ratios), 5),
                }
    return told


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    from wattwerk.metering import session

    work = gpu_work()
    with session():  # so that one recorder runs all the time
        every = rounds_of(work or processor_work, options.seconds, options.rounds)
    told = {"work": "gpu" if work else "cpu", "seconds": options.seconds, "rounds": every, "ratios": ratios_of(every)}
    if options.json:
        print(json.dumps(told, indent=1))
        return 0
    for found in every:
        print({who: {name: round(value, 2) for name, value in its.items()} for who, its in found.items()})
    for name, ratio in told["ratios"].items():  # type: ignore[attr-defined]
        print(f"{name}: {ratio['median']} ({ratio['least']} to {ratio['largest']})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
