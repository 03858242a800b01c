"""From times and samples to the figures of a record. docs/records.md lists their names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np

from wattwerk.bench.cards import Card, card_of
from wattwerk.bench.energy import Floats, Idle, energy_figures, iterations_at, steady
from wattwerk.bench.pipeline_figures import alone, phase_figures, share_figures
from wattwerk.bench.scenario import Configuration, Procedure
from wattwerk.bench.worker import Block, Measurement
from wattwerk.catalog import devices
from wattwerk.errors import MeasurementError
from wattwerk.metering import statistics
from wattwerk.meters.trace import Trace
from wattwerk.records import Accelerator, Figure, Platform, Provenance, Scope, Status, derived, measured, unavailable

#: A change of the iterations' duration over the windows beyond this makes the measurement invalid.
DRIFT_RATIO: Final = 0.10

_STATES: Final = ("clock_sm_hz", "clock_memory_hz", "temperature_celsius", "utilisation_ratio", "throttle_count")


class Context(msgspec.Struct, frozen=True):
    """What a measurement is seen against.

    Attributes:
        platform: The machine.
        idle: The machine before the sweep, with no worker running.
        accelerators: What the meters watch.
    """

    platform: Platform
    idle: Idle
    accelerators: tuple[Accelerator, ...] = ()


def evaluate(
    measurement: Measurement,
    trace: Trace,
    configuration: Configuration,
    procedure: Procedure,
    context: Context,
) -> tuple[Status, str, dict[str, Figure]]:
    """Return how a measurement ended, why if not well, and its figures."""
    card = card_of(configuration.device, measurement.device_address, context.accelerators)
    throughput, drift = _throughput(measurement, configuration.batch, procedure)
    phases = {name: alone(measurement, run) for name, run in measurement.phases.items()}
    inference = _throughput(phases["inference"], configuration.batch, procedure)[0] if phases else throughput
    figures = (
        _latency_figures(measurement)
        | {"throughput_per_s": throughput, "load_s": measured(measurement.load_ns / 1e9)}
        | energy_figures(measurement, trace, configuration, procedure, context.idle, card)
        | _load_figures(measurement, trace, context)
        | _memory_figures(measurement)
        | _rate_figures(measurement, inference, _device_name(measurement, context, card))
        | _accelerator_state(measurement, trace, card.prefix)
        | _sampler_figures(measurement)
    )
    for name, phase in phases.items():
        rate = _throughput(phase, configuration.batch, procedure)[0]
        energies = energy_figures(phase, trace, configuration, procedure, context.idle, card)
        figures |= phase_figures(name, _durations_s(phase.blocks), rate, energies)
    figures |= share_figures(figures, configuration.processing) if phases else {}
    problems = problems_of(measurement, figures, drift)
    return Status.INVALID if problems else Status.OK, "; ".join(problems), figures


def conditions(measurement: Measurement, trace: Trace, context: Context, card: Card) -> dict[str, Figure]:
    """Return what holds however a model is run: load of the processor, memory, state of the accelerator."""
    return (
        _load_figures(measurement, trace, context)
        | _memory_figures(measurement)
        | _accelerator_state(measurement, trace, card.prefix)
    )


def _durations_s(blocks: Iterable[Block]) -> Floats:
    """Join blocks in the order in which they ran: an interval learns from it how far iterations resemble each other."""
    durations: Floats = np.concatenate([block.durations_ns for block in blocks]) / 1e9
    return durations


def _latency_figures(measurement: Measurement) -> dict[str, Figure]:
    """Return the distribution of the timed iterations; bounds are 95 % confidence intervals."""
    found = statistics.describe(_durations_s(measurement.blocks))
    return {
        "latency_mean_s": measured(found.mean.value, found.mean.low, found.mean.high),
        "latency_std_s": measured(found.std),
        "latency_min_s": measured(found.min),
        "latency_p50_s": measured(found.p50.value, found.p50.low, found.p50.high),
        "latency_p90_s": measured(found.p90),
        "latency_p95_s": measured(found.p95),
        "latency_p99_s": measured(found.p99),
        "latency_max_s": measured(found.max),
    }


def _throughput(measurement: Measurement, batch: int, procedure: Procedure) -> tuple[Figure, float]:
    """Return the throughput, and the relative change of the duration over the windows where it is significant."""
    start, end = steady(measurement)
    bounds = np.linspace(start, end, procedure.windows + 1)
    rates = batch * np.diff(iterations_at(measurement, bounds)) / np.diff(bounds) * 1e9
    interval = statistics.mean_interval(rates)
    drift = statistics.drift(1.0 / rates)
    value = batch * len(measurement.steady_ends) / (end - start) * 1e9
    return measured(value, interval.low, interval.high), drift.ratio if drift.significant else 0.0


def _sampler_figures(measurement: Measurement) -> dict[str, Figure]:
    if all(block.sampled for block in measurement.blocks):
        return {"sampler_overhead_ratio": unavailable("the sampler could not be paused")}
    with_it, without = (
        statistics.median_interval(_durations_s(block for block in measurement.blocks if block.sampled is sampled))
        for sampled in (True, False)
    )
    ratio = statistics.ratio_of(with_it, without)
    low, high = (None if bound is None else bound - 1 for bound in (ratio.low, ratio.high))
    note = "median latency with the sampler running over the one with it paused, minus one"
    return {"sampler_overhead_ratio": measured(ratio.value - 1, low, high, note=note)}


def _load_figures(measurement: Measurement, trace: Trace, context: Context) -> dict[str, Figure]:
    cores = context.platform.cpu_logical_count or 1
    try:
        busy = trace.rate("cpu_busy_s", *steady(measurement)) / cores
        idle = context.idle.trace.rate("cpu_busy_s", *context.idle.interval) / cores
    except MeasurementError as error:
        return dict.fromkeys(("cpu_utilisation_ratio", "cpu_load_delta_ratio"), unavailable(error.message))
    return {
        "cpu_utilisation_ratio": measured(busy),
        "cpu_load_delta_ratio": measured(busy - idle, note="against the idle machine before the sweep"),
    }


def _memory_figures(measurement: Measurement) -> dict[str, Figure]:
    def size(value: int | None, reason: str) -> Figure:
        return unavailable(reason) if value is None else measured(value)

    return {
        "memory_peak_bytes": size(measurement.memory_peak_bytes, "the system does not count it for each configuration"),
        "device_memory_peak_bytes": size(measurement.device_memory_peak_bytes, "the runtime does not tell"),
    }


def _rate_figures(measurement: Measurement, throughput: Figure, device_name: str) -> dict[str, Figure]:
    flops = measurement.subject.sample_flops
    if flops is None or throughput.value is None:
        reason = unavailable("the model's operations could not be counted")
        return {"effective_ops_per_s": reason, "peak_share_ratio": reason}
    effective = flops * throughput.value
    return {
        "effective_ops_per_s": derived(effective, note="operations of the fp32 graph; a multiply-add is two"),
        "peak_share_ratio": _peak_share(effective, measurement, device_name),
    }


def _device_name(measurement: Measurement, context: Context, card: Card) -> str:
    """Return the accelerator's name as the runtime tells it, or else as its meter does."""
    watched = next((each.name for each in context.accelerators if each.prefix and each.prefix == card.prefix), "")
    return measurement.device_name or watched


def _peak_share(effective: float, measurement: Measurement, device_name: str) -> Figure:
    peak = devices.peak_here(measurement.effective.device, measurement.effective.precision.value, device_name)
    if peak is None:
        return unavailable("the device's peak is not in the catalogue")
    if peak.low == peak.high:
        return derived(effective / peak.value, note=peak.source)
    low, high = effective / peak.high, effective / peak.low
    return Figure(effective / peak.value, Provenance.MODELLED, low=low, high=high, note=peak.source)


def _accelerator_state(measurement: Measurement, trace: Trace, own: str | None) -> dict[str, Figure]:
    from wattwerk.meters.nvml import throttle_reasons

    def state(name: str) -> Figure:
        try:
            if name != "throttle_count":
                return measured(trace.mean(f"{own}_{name}", *steady(measurement)), scope=Scope.ACCELERATOR)
            seen = trace.union(f"{own}_{name}", *steady(measurement))
        except MeasurementError as error:
            return unavailable(error.message, scope=Scope.ACCELERATOR)
        return measured(seen, scope=Scope.ACCELERATOR, note=", ".join(throttle_reasons(seen)) or "none")

    names = {channel.name for channel in trace.channels}
    return {f"gpu_{name}": state(name) for name in _STATES if f"{own}_{name}" in names}


def problems_of(measurement: Measurement, figures: dict[str, Figure], drift: float) -> list[str]:
    """Return what makes a measurement invalid, in words."""
    problems = []
    throttle = figures.get("gpu_throttle_count")
    if throttle is not None and throttle.value:
        from wattwerk.meters.nvml import invalidating_reasons

        if reasons := invalidating_reasons(int(throttle.value)):
            problems.append(f"throttled ({', '.join(reasons)})")
    if abs(drift) > DRIFT_RATIO:
        problems.append(f"drifting: the duration of an iteration changed by {drift:+.0%} over the windows")
    if not measurement.finite:
        problems.append("the outputs contain NaN or infinity")
    return problems
