"""Several streams of one model at once on one device: what the worker does, and how the result is shared out."""

from __future__ import annotations

import gc
import threading
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from time import perf_counter_ns
from typing import Final

import numpy as np

from wattwerk.bench import worker
from wattwerk.bench.scenario import Configuration, Procedure
from wattwerk.bench.timing import quiet
from wattwerk.bench.worker import Block, Measurement
from wattwerk.metering.statistics import percentiles
from wattwerk.records import Figure, Provenance, derived, measured
from wattwerk.runtimes import RUNTIMES
from wattwerk.runtimes.base import Session

#: Calls that each thread makes before the moment: libraries keep handles, plans and pools of threads for each thread.
_FIRST_CALLS: Final = 2

_SHARED: Final = "shared out, not measured: in proportion to the time that the stream's calls take"


class StreamsMeasurement(Measurement, frozen=True, kw_only=True):
    """Word from the worker: what it saw of several streams; block and end of each stream, and all ends together.

    Attributes:
        streams: The end of every iteration, stream by stream.
    """

    streams: tuple[array[int], ...]


def measure(configuration: Configuration, procedure: Procedure, tell: Callable[[str], None]) -> StreamsMeasurement:
    """Run as many sessions as streams, each in a thread of its own, all from one moment on."""
    runtime = RUNTIMES.load(configuration.runtime)
    reset = worker.reset_memory_peak()
    tell(f"loading {configuration.streams} times")
    model = worker.model_of(configuration.model, configuration.weights, configuration.input_shape, procedure.seed)
    inputs = model.sample_inputs(configuration.batch, procedure.seed)
    with ExitStack() as stack:
        load_start = perf_counter_ns()
        sessions: list[Session] = []
        for _ in range(configuration.streams):
            session = runtime.load(model, worker.load_spec(configuration, procedure, model))
            stack.callback(session.close)
            sessions.append(session)
        calls = [session.bind(inputs) for session in sessions]
        load_ns = perf_counter_ns() - load_start
        idle_before = worker.rest(procedure.idle_s, tell)
        tell("warming up")
        warmup = sum(worker.warm_up(call, procedure)[0] for call in calls)
        tell(f"{configuration.streams} streams at once")
        with quiet():
            start, streams = run_together(calls, procedure.windows * procedure.window_s + 0.5, procedure.windows)
        idle_after = worker.rest(procedure.idle_s, tell)
        session = sessions[0]
        finite = all(worker.all_finite(each.outputs(inputs)) for each in sessions)
        peak, name, address = session.device_memory_peak_bytes(), session.device_name(), session.device_address()
        effective = worker.with_rewriting(session.effective, model.fixed_batch, configuration.batch)
    del session, sessions, calls
    gc.collect()
    return StreamsMeasurement(
        subject=model.subject(),
        effective=effective,
        blocks=tuple(Block(durations(start, ends), sampled=True) for ends in streams),
        warmup=warmup,
        load_ns=load_ns,
        steady_start=start,
        steady_ends=array("q", sorted(end for ends in streams for end in ends)),
        loaded_idle=(idle_before, idle_after),
        unloaded_idle=worker.rest(procedure.idle_s, tell),
        memory_peak_bytes=worker.memory_peak_bytes() if reset else None,
        device_memory_peak_bytes=peak,
        finite=finite,
        device_name=name,
        device_address=address,
        streams=streams,
    )


def run_together(
    calls: list[Callable[[], object]], duration_s: float, least: int
) -> tuple[int, tuple[array[int], ...]]:
    """Call each function in a thread of its own without a pause, all from one moment on.

    Args:
        calls: One for each stream.
        duration_s: No iteration begins later than this after the start.
        least: But each stream has at least so many.

    Returns:
        The start, and the end of every iteration of each stream, in nanoseconds of ``perf_counter_ns``.

    Raises:
        Exception: What a call raised; the other streams end at their time.
    """
    moment: list[int] = []
    barrier = threading.Barrier(len(calls), action=lambda: moment.append(perf_counter_ns()))
    ends: list[array[int]] = [array("q") for _ in calls]
    errors: list[Exception] = []

    def stream(call: Callable[[], object], append: Callable[[int], None]) -> None:
        clock, count, end = perf_counter_ns, 0, 0
        try:
            for _ in range(_FIRST_CALLS):
                call()
            barrier.wait()
            deadline = moment[0] + round(duration_s * 1e9)
            while end < deadline or count < least:
                call()
                end = clock()
                append(end)
                count += 1
        except threading.BrokenBarrierError:
            pass  # another one failed before the moment came
        except Exception as error:  # a thread cannot raise into the one that waits for it
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=stream, args=(call, own.append)) for call, own in zip(calls, ends, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return moment[0], tuple(ends)


def durations(start: int, ends: array[int]) -> array[int]:
    """Return how long each iteration took, of those that ran one after the other from ``start`` on, in nanoseconds."""
    return array("q", np.diff(np.asarray(ends), prepend=start).tolist())


def stream_figures(measurement: StreamsMeasurement, figures: dict[str, Figure], batch: int) -> dict[str, Figure]:
    """Return what each stream got: latency, throughput, and a share of the energy that says that it is one.

    Args:
        measurement: What the worker saw.
        figures: The figures of all streams together.
        batch: Samples in one iteration.
    """
    busy_s = [float(np.sum(block.durations_ns)) / 1e9 for block in measurement.blocks]
    total = sum(len(ends) for ends in measurement.streams)
    found: dict[str, Figure] = {"streams_count": measured(len(busy_s))}
    for number, (block, ends, mine_s) in enumerate(
        zip(measurement.blocks, measurement.streams, busy_s, strict=True), start=1
    ):
        p50, p99 = percentiles(np.asarray(block.durations_ns) / 1e9, (50, 99))
        length_s = (ends[-1] - measurement.steady_start) / 1e9
        share = mine_s / sum(busy_s)
        found |= {
            f"stream{number}_latency_p50_s": measured(p50),
            f"stream{number}_latency_p99_s": measured(p99),
            f"stream{number}_throughput_per_s": measured(batch * len(ends) / length_s),
            f"stream{number}_busy_share_ratio": derived(share, note="of the time of all streams' calls"),
        }
        for prefix in ("gpu", "cpu", "system"):
            energy = figures.get(f"{prefix}_energy_per_inference_j")
            if energy is not None and energy.value is not None:
                factor = share * total / len(ends)  # its share of the whole, over its own inferences
                found[f"{prefix}_stream{number}_energy_per_inference_j"] = _shared(energy, factor)
    return found


def _shared(energy: Figure, factor: float) -> Figure:
    origin = energy.provenance if energy.provenance is Provenance.MODELLED else Provenance.DERIVED
    value, low, high = (None if part is None else part * factor for part in (energy.value, energy.low, energy.high))
    return Figure(value, origin, energy.scope, low, high, _SHARED)
