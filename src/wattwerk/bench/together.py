"""Several models at once on one device: what the worker does, and how time and energy share out among them.

Each model runs alone first and then all run at once, in one process, so that both are of the same machine in the same
state.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from time import perf_counter_ns
from typing import Final

import msgspec
import numpy as np

from wattwerk.bench import worker
from wattwerk.bench.evaluate import Context, evaluate
from wattwerk.bench.pipeline_figures import alone
from wattwerk.bench.scenario import Configuration, Procedure
from wattwerk.bench.streams import durations, run_together
from wattwerk.bench.timing import quiet, run_for, time_calls
from wattwerk.bench.worker import Block, Measurement, PhaseRun
from wattwerk.meters.trace import Trace
from wattwerk.records import Figure, Provenance, Status, Subject, derived, measured
from wattwerk.runtimes import RUNTIMES
from wattwerk.runtimes.base import Effective, Session

#: A model, how it ended, why if not well, and its figures.
Result = tuple[Subject, Status, str, dict[str, Figure]]

#: What a record keeps of the run of its model alone.
_KEPT: Final = ("latency_p50_s", "latency_p99_s", "throughput_per_s")
_SCOPES: Final = ("gpu", "cpu", "dram", "board", "node", "wall", "system")
_BY_DEMAND: Final = (
    "shared out, not measured: idle power by the time of the calls, the rest by what the model's samples took alone"
)
_BY_TIME: Final = "shared out, not measured: by the time of the calls, since nothing is known of the models alone"


class Member(msgspec.Struct, frozen=True):
    """What the worker saw of one model.

    Attributes:
        subject: The model.
        effective: What the runtime did with it.
        alone: Its run while the others were loaded and at rest.
        ends: The end of every iteration while all ran.
        finite: Whether its outputs were finite numbers.
    """

    subject: Subject
    effective: Effective
    alone: PhaseRun
    ends: array[int]
    finite: bool


class TogetherMeasurement(Measurement, frozen=True, kw_only=True):
    """Word from the worker: all models in one, and each of them.

    Attributes:
        members: The models, in the order in which they were named.
    """

    members: tuple[Member, ...]


def references_of(configuration: Configuration) -> tuple[str, ...]:
    """Return all models of a configuration, that of its record first."""
    return configuration.model, *configuration.beside


def measure(configuration: Configuration, procedure: Procedure, tell: Callable[[str], None]) -> TogetherMeasurement:
    """Run each model alone, then all at once, each in a thread of its own and without a pause."""
    runtime = RUNTIMES.load(configuration.runtime)
    reset = worker.reset_memory_peak()
    tell("loading")
    references = references_of(configuration)
    models = [
        worker.model_of(name, configuration.weights, configuration.input_shape, procedure.seed) for name in references
    ]
    inputs = [model.sample_inputs(configuration.batch, procedure.seed) for model in models]
    with ExitStack() as stack:
        load_start = perf_counter_ns()
        sessions: list[Session] = []
        for model in models:
            session = runtime.load(model, worker.load_spec(configuration, procedure, model))
            stack.callback(session.close)
            sessions.append(session)
        calls = [session.bind(own) for session, own in zip(sessions, inputs, strict=True)]
        load_ns = perf_counter_ns() - load_start
        idle_before = worker.rest(procedure.idle_s, tell)
        alones = [_alone(call, model.name, procedure, tell) for call, model in zip(calls, models, strict=True)]
        tell(f"{len(calls)} models at once")
        with quiet():
            start, streams = run_together(calls, _duration_s(procedure), procedure.windows)
        idle_after = worker.rest(procedure.idle_s, tell)
        members = tuple(
            Member(model.subject(), session.effective, run, ends, worker.all_finite(session.outputs(own)))
            for model, session, run, ends, own in zip(models, sessions, alones, streams, inputs, strict=True)
        )
        first = sessions[0]
        peak, name, address = first.device_memory_peak_bytes(), first.device_name(), first.device_address()
    del first, session, sessions, calls
    gc.collect()
    return TogetherMeasurement(
        subject=members[0].subject,
        effective=members[0].effective,
        blocks=tuple(Block(durations(start, member.ends), sampled=True) for member in members),
        warmup=procedure.warmup,
        load_ns=load_ns,
        steady_start=start,
        steady_ends=array("q", sorted(end for member in members for end in member.ends)),
        loaded_idle=(idle_before, idle_after),
        unloaded_idle=worker.rest(procedure.idle_s, tell),
        memory_peak_bytes=worker.memory_peak_bytes() if reset else None,
        device_memory_peak_bytes=peak,
        finite=all(member.finite for member in members),
        device_name=name,
        device_address=address,
        members=members,
    )


def _duration_s(procedure: Procedure) -> float:
    # half a second more than asked for, so that windows can begin and end at a tick of an energy counter
    return procedure.windows * procedure.window_s + 0.5


def _alone(call: Callable[[], object], name: str, procedure: Procedure, tell: Callable[[str], None]) -> PhaseRun:
    tell(f"{name} alone")
    _, counts = worker.warm_up(call, procedure)
    with quiet():
        blocks = (Block(time_calls(call, counts.iterations), sampled=True),)
        return PhaseRun(blocks, *run_for(call, _duration_s(procedure), procedure.windows))


def evaluate_members(
    measurement: TogetherMeasurement,
    trace: Trace,
    configuration: Configuration,
    procedure: Procedure,
    context: Context,
) -> list[Result]:
    """Return for each model how it ended, why if not well, and its figures."""
    found, alones = [], []
    for member, block in zip(measurement.members, measurement.blocks, strict=True):
        own = msgspec.structs.replace(
            measurement, subject=member.subject, effective=member.effective, blocks=(block,), steady_ends=member.ends
        )
        found.append(evaluate(own, trace, configuration, procedure, context))
        single = alone(own, member.alone)
        alones.append(evaluate(single, trace, configuration, procedure, context)[2])
    busy = [float(np.sum(block.durations_ns)) for block in measurement.blocks]
    shared = [figures for _, _, figures in found]
    whole = sum(_ratio(figures, other, "throughput_per_s") for figures, other in zip(shared, alones, strict=True))
    told = []
    for index, member in enumerate(measurement.members):
        status, reason, figures = found[index]
        figures = figures | _sharing_figures(figures, alones[index])
        figures |= {
            "together_count": measured(len(busy)),
            "busy_share_ratio": derived(busy[index] / sum(busy), note="of the time of all models' calls"),
            "taking_turns_ratio": derived(whole, note="sum over the models of the throughput kept; 1 is taking turns"),
        }
        for scope in _SCOPES:
            figures |= _energies(scope, index, shared, alones, busy)
        told.append((member.subject, status, reason, figures))
    return told


def _ratio(figures: dict[str, Figure], other: dict[str, Figure], name: str) -> float:
    return (figures[name].value or 0.0) / (other[name].value or 1e-12)


def _sharing_figures(figures: dict[str, Figure], single: dict[str, Figure]) -> dict[str, Figure]:
    """Return what the model did alone, and what is left of it beside the others."""
    energies = {name: figure for name, figure in single.items() if name.endswith("_energy_per_inference_j")}
    powers = {f"{scope}_power_w": single[f"{scope}_power_w"] for scope in _SCOPES if f"{scope}_power_w" in single}
    kept = {name: single[name] for name in _KEPT} | powers | energies
    return {f"alone_{name}": figure for name, figure in kept.items()} | {
        "slowdown_ratio": derived(_ratio(figures, single, "latency_p50_s"), note="median latency over that alone"),
        "throughput_kept_ratio": derived(_ratio(figures, single, "throughput_per_s"), note="of the throughput alone"),
    }


def _energies(
    scope: str, index: int, shared: Sequence[dict[str, Figure]], alones: Sequence[dict[str, Figure]], busy: list[float]
) -> dict[str, Figure]:
    """Return the model's share of a scope's energy, for one of its samples.

    No meter sees one model of a device. What the device draws at rest is shared by the time that each model's calls
    take; what it draws beyond that in proportion to what the samples that each model got through took alone.
    """
    gross_name, net_name = f"{scope}_energy_per_inference_j", f"{scope}_net_energy_per_inference_j"
    gross, net = (shared[index].get(name) for name in (gross_name, net_name))
    if gross is None or gross.value is None:
        return {}
    by_time = busy[index] / sum(busy)
    demands = [
        (other.get(net_name, gross).value or 0.0) * (figures["throughput_per_s"].value or 0.0)
        if net_name in other
        else 0
        for figures, other in zip(shared, alones, strict=True)
    ]
    known = net is not None and net.value is not None and min(demands) > 0
    by_demand = demands[index] / sum(demands) if known else by_time
    beyond = net.value if net is not None and net.value is not None else 0.0
    mine = (gross.value - beyond) * by_time + beyond * by_demand
    note = _BY_DEMAND if known else _BY_TIME
    found = {
        gross_name: _scaled(gross, mine / gross.value if gross.value else by_time, note),
        f"{scope}_energy_share_ratio": derived(mine / gross.value if gross.value else by_time, note=note),
    }
    if net is not None and net.value is not None:
        found[net_name] = _scaled(net, by_demand, note)
    efficiency = f"{'system' if scope == 'system' else 'accelerator'}_efficiency_per_s_per_w"
    if scope == "system" or ((old := shared[index].get(efficiency)) is not None and _is_inverse(old, gross)):
        found |= _efficiency(efficiency, found[gross_name])
    return found


def _is_inverse(efficiency: Figure, energy: Figure) -> bool:
    """Tell whether an efficiency was made of this energy: that of the device that ran the model."""
    return bool(efficiency.value and energy.value and abs(efficiency.value * energy.value - 1) < 1e-6)


def _efficiency(name: str, energy: Figure) -> dict[str, Figure]:
    value, low, high = (
        None if part is None or part <= 0 else 1 / part for part in (energy.value, energy.high, energy.low)
    )
    if value is None:
        return {}
    return {name: Figure(value, energy.provenance, energy.scope, low, high, energy.note)}


def _scaled(energy: Figure, factor: float, note: str) -> Figure:
    origin = energy.provenance if energy.provenance is Provenance.MODELLED else Provenance.DERIVED
    value, low, high = (None if part is None else part * factor for part in (energy.value, energy.low, energy.high))
    return Figure(value, origin, energy.scope, low, high, note)
