"""From samples to energies: windows aligned to counter ticks, gross and net, scope by scope.

Overlapping scopes are never added up, and a sum with a modelled part is modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt

from wattwerk.bench.cards import Card
from wattwerk.bench.scenario import FULL, Configuration, Procedure
from wattwerk.bench.worker import Interval, Measurement
from wattwerk.errors import MeasurementError
from wattwerk.metering import statistics
from wattwerk.metering.interval import DISAGREEMENT_RATIO, MODELLED_NOTE, PREFIXES
from wattwerk.meters.base import Channel
from wattwerk.meters.containment import Containment, parts_of
from wattwerk.meters.trace import Trace
from wattwerk.records import Figure, Provenance, Scope, derived, measured, unavailable

Floats = npt.NDArray[np.float64]


class Idle(msgspec.Struct, frozen=True):
    """The idle machine, before the sweep and with no worker running.

    Attributes:
        trace: What the recorder saw then.
        interval: When.
    """

    trace: Trace
    interval: Interval


class ScopeEnergy(msgspec.Struct, frozen=True):
    """Power and energy of one scope, each with lower and upper bound, as arrays ``(3,)``: low, value, high.

    Attributes:
        power_w: Mean power during the windows.
        gross_j: Energy of one inference.
        net_j: The same without what the machine draws with the model loaded and nothing running.
        loaded_idle_w: What it draws then.
        provenance: ``measured``, ``modelled`` or ``derived``.
        note: What a reader has to know.
    """

    power_w: Floats
    gross_j: Floats
    net_j: Floats
    loaded_idle_w: Floats
    provenance: Provenance
    note: str | None = None


def energy_figures(
    measurement: Measurement,
    trace: Trace,
    configuration: Configuration,
    procedure: Procedure,
    idle: Idle,
    card: Card,
) -> dict[str, Figure]:
    """Return power, energy and efficiency of every scope that a meter gives, and of the system.

    Args:
        measurement: What the worker saw.
        trace: What the recorder saw.
        configuration: What was measured.
        procedure: How.
        idle: The idle machine before the sweep.
        card: What ran the model.
    """
    own = card.prefix
    figures: dict[str, Figure] = {}
    shown_of: dict[Scope, list[Channel]] = {}
    known: dict[tuple[str, ...], ScopeEnergy | str] = {}

    def energy_of(channels: Sequence[Channel]) -> ScopeEnergy | str:
        names = tuple(channel.name for channel in channels)
        if names not in known:
            known[names] = _scope_energy(measurement, trace, channels, configuration.batch, procedure)
        return known[names]

    for scope, prefix in PREFIXES.items():
        shown = [
            c for c in energy_channels(trace, scope) if scope is not Scope.ACCELERATOR or c.name.startswith(f"{own}_")
        ]
        if shown:
            shown_of[scope] = shown
            figures |= _scope_figures(prefix, scope, energy_of(shown))
            figures[f"idle_{prefix}_power_w"] = _idle_power(idle.trace, shown, scope, idle.interval)
            figures[f"unloaded_idle_{prefix}_power_w"] = _idle_power(trace, shown, scope, measurement.unloaded_idle)
    runner = Scope.ACCELERATOR if own else Scope.CPU_PACKAGE
    for scope in (runner, Scope.WALL):
        if scope not in shown_of:
            name = f"{PREFIXES[scope]}_energy_per_inference_j"
            reason = card.reason if scope is runner else ""
            figures[name] = unavailable(
                reason or f"no meter of scope {scope.value} is available; see `wattwerk doctor`", scope=scope
            )
    figures |= _system_figures(_system_energy(energy_of, trace))
    figures |= _efficiency_figures(figures, own)
    figures |= _counter_check(measurement, trace, own)
    return figures | _window_figures(measurement, trace, shown_of.get(runner), procedure.windows)


def energy_channels(trace: Trace, scope: Scope) -> list[Channel]:
    """Return the channels that give a scope's energy, none of them inside another."""
    return parts_of(trace.channels, scope)


def iterations_at(measurement: Measurement, times_ns: Floats) -> Floats:
    """Return how many iterations of the energy windows, with fractions, were done at given times."""
    ends = np.frombuffer(measurement.steady_ends, dtype=np.int64)
    known = np.concatenate([[measurement.steady_start], ends])
    return np.interp(times_ns, known, np.arange(len(known), dtype=np.float64))


def steady(measurement: Measurement) -> Interval:
    """Return the interval of the energy windows."""
    return measurement.steady_start, int(measurement.steady_ends[-1])


def _window_figures(
    measurement: Measurement, trace: Trace, channels: Sequence[Channel] | None, windows: int
) -> dict[str, Figure]:
    """Return number and mean length of the windows that the energy of the device rests on, as they really were."""
    bounds = _boundaries(measurement, trace, channels[0] if channels else None, windows)
    length_s = float(np.diff(bounds).mean()) / 1e9
    note = f"shorter than the {FULL.window_s:g} s of a full run" if length_s < FULL.window_s else None
    return {"energy_window_s": measured(length_s, note=note), "energy_windows_count": measured(len(bounds) - 1)}


def _boundaries(measurement: Measurement, trace: Trace, channel: Channel | None, windows: int) -> npt.NDArray[np.int64]:
    """Return the windows' limits: equal parts, moved to where the counter ticks."""
    start, end = steady(measurement)
    equal = np.linspace(start, end, windows + 1)
    if channel is None or channel.tick_s is None:
        return equal.astype(np.int64)
    edges = trace.edges(channel.name, start, end)
    if len(edges) <= windows:
        return equal.astype(np.int64)
    equal = np.linspace(int(edges[0]), int(edges[-1]), windows + 1)
    nearest = np.unique(np.abs(edges[None, :] - equal[:, None]).argmin(axis=1))
    if len(nearest) <= windows:  # too few ticks to tell the windows apart by them
        return equal.astype(np.int64)
    return np.asarray(edges[nearest], dtype=np.int64)


def _window_values(
    measurement: Measurement, trace: Trace, channel: str, bounds: npt.NDArray[np.int64], batch: int
) -> tuple[Floats, Floats]:
    """Return each window's mean power in W and its number of inferences per second."""
    power = np.array([trace.energy(channel, int(a), int(b)).mean_power_w for a, b in pairwise(bounds)])
    rate = batch * np.diff(iterations_at(measurement, bounds.astype(np.float64))) / np.diff(bounds) * 1e9
    return power, rate


def _scope_energy(
    measurement: Measurement, trace: Trace, channels: Sequence[Channel], batch: int, procedure: Procedure
) -> ScopeEnergy | str:
    """Add up the channels of one scope (several sockets or cards do not overlap).

    Returns:
        The sum, or why there is none: a meter that fell silent costs its own scope and nothing else.
    """
    try:
        return add_up([_channel_energy(measurement, trace, channel, batch, procedure) for channel in channels])
    except MeasurementError as error:
        return _silence(error)


def _silence(error: MeasurementError) -> str:
    return f"the meter did not give enough samples: {error.message}"


def add_up(parts: Sequence[ScopeEnergy], note: str | None = None) -> ScopeEnergy:
    """Add energies that do not overlap; the bounds are added too, and one modelled part makes the sum modelled."""
    provenances = {part.provenance for part in parts}
    provenance = Provenance.MEASURED
    if len(parts) > 1 or Provenance.DERIVED in provenances:
        provenance = Provenance.DERIVED
    if Provenance.MODELLED in provenances:
        provenance = Provenance.MODELLED
    return ScopeEnergy(
        power_w=np.sum([part.power_w for part in parts], axis=0),
        gross_j=np.sum([part.gross_j for part in parts], axis=0),
        net_j=np.sum([part.net_j for part in parts], axis=0),
        loaded_idle_w=np.sum([part.loaded_idle_w for part in parts], axis=0),
        provenance=provenance,
        note=note or next((part.note for part in parts if part.note), None),
    )


def _channel_energy(
    measurement: Measurement, trace: Trace, channel: Channel, batch: int, procedure: Procedure
) -> ScopeEnergy:
    bounds = _boundaries(measurement, trace, channel, procedure.windows)

    def values(name: str) -> tuple[list[Floats], float]:
        power, rate = _window_values(measurement, trace, name, bounds, batch)
        idle = _mean_power(trace, name, measurement.loaded_idle)
        return [power, power / rate, (power - idle) / rate], idle

    series, idle = values(channel.name)
    if channel.low and channel.high:
        (low, low_idle), (high, high_idle) = values(channel.low), values(channel.high)
        triples = [np.sort([a.mean(), b.mean(), c.mean()]) for a, b, c in zip(low, series, high, strict=True)]
        return _energy(triples, np.sort([low_idle, idle, high_idle]), channel.provenance, MODELLED_NOTE)
    provenance = channel.provenance if channel.form == "counter" else Provenance.DERIVED  # integrated, not counted
    return _energy([_triple(part) for part in series], np.full(3, idle), provenance)


def _energy(triples: Sequence[Floats], idle_w: Floats, provenance: Provenance, note: str | None = None) -> ScopeEnergy:
    power, gross, net = triples
    return ScopeEnergy(power_w=power, gross_j=gross, net_j=net, loaded_idle_w=idle_w, provenance=provenance, note=note)


def _triple(series: Floats) -> Floats:
    interval = statistics.mean_interval(series)
    low, high = (interval.value if bound is None else bound for bound in (interval.low, interval.high))
    return np.array([low, interval.value, high])


def _mean_power(trace: Trace, channel: str, intervals: Iterable[Interval]) -> float:
    return float(np.mean([trace.energy(channel, *interval).mean_power_w for interval in intervals]))


def _idle_power(trace: Trace, channels: Sequence[Channel], scope: Scope, interval: Interval) -> Figure:
    def power(channel: Channel, bound: str | None) -> float:
        return _mean_power(trace, bound or channel.name, [interval])

    try:
        value = sum(power(c, None) for c in channels)
        if any(c.low for c in channels):
            low, high = sum(power(c, c.low) for c in channels), sum(power(c, c.high) for c in channels)
            return Figure(value, Provenance.MODELLED, scope, low, high)
    except MeasurementError as error:
        return unavailable(_silence(error), scope=scope)
    return measured(value, scope=scope)


def _figure(triple: Floats, energy: ScopeEnergy, scope: Scope) -> Figure:
    low, value, high = (float(part) for part in triple)
    return Figure(value, energy.provenance, scope, low, high, energy.note)


def _scope_figures(prefix: str, scope: Scope, energy: ScopeEnergy | str) -> dict[str, Figure]:
    names = (
        f"{prefix}_power_w",
        f"{prefix}_energy_per_inference_j",
        f"{prefix}_net_energy_per_inference_j",
        f"loaded_idle_{prefix}_power_w",
    )
    if isinstance(energy, str):
        return {name: unavailable(energy, scope=scope) for name in names}
    values = (energy.power_w, energy.gross_j, energy.net_j, energy.loaded_idle_w)
    return {name: _figure(value, energy, scope) for name, value in zip(names, values, strict=True)}


def _system_figures(whole: ScopeEnergy | str) -> dict[str, Figure]:
    if isinstance(whole, str):
        reason = unavailable(whole, scope=Scope.NODE)
        return {"system_power_w": reason, "system_energy_per_inference_j": reason}
    return {
        "system_power_w": _figure(whole.power_w, whole, Scope.NODE),
        "system_energy_per_inference_j": _figure(whole.gross_j, whole, Scope.NODE),
        "system_net_energy_per_inference_j": _figure(whole.net_j, whole, Scope.NODE),
    }


def _system_energy(energy_of: Callable[[Sequence[Channel]], ScopeEnergy | str], trace: Trace) -> ScopeEnergy | str:
    """Add up what lies inside nothing else; there is no sum where a part is missing, which would look like a saving.

    Args:
        energy_of: Adds up channels of one scope.
        trace: What the recorder saw.
    """
    outermost = Containment(trace.channels).system()
    scopes = list(dict.fromkeys(channel.scope for channel in outermost if channel.scope))
    if not set(scopes) & {Scope.WALL, Scope.NODE, Scope.BOARD, Scope.CPU_PACKAGE}:
        return "no meter of the whole system, and none of the CPU"
    parts = {scope: energy_of([channel for channel in outermost if channel.scope is scope]) for scope in scopes}
    for scope, part in parts.items():
        if isinstance(part, str):
            return part if len(parts) == 1 else f"its part {scope.value} is missing: {part}"
    known = [part for part in parts.values() if not isinstance(part, str)]
    if len(known) == 1 and scopes[0] in (Scope.WALL, Scope.NODE, Scope.BOARD):
        return known[0]
    names = " + ".join(scope.value for scope in parts)
    whole = {Scope.WALL, Scope.NODE} & set(scopes)
    sum_ = add_up(known, names if whole else f"{names}; power supply, fans and disks are not in it")
    if sum_.provenance is Provenance.MEASURED:
        return msgspec.structs.replace(sum_, provenance=Provenance.DERIVED)
    return sum_


def _efficiency_figures(figures: dict[str, Figure], own: str | None) -> dict[str, Figure]:
    """Return inferences per second and watt: the inverse of the energy of one inference."""
    sources = {"accelerator": "gpu" if own else "cpu", "system": "system"}
    found = {}
    for name, prefix in sources.items():
        energy = figures.get(f"{prefix}_energy_per_inference_j")
        target = f"{name}_efficiency_per_s_per_w"
        if energy is None or not energy.value:
            found[target] = unavailable(energy.note if energy and energy.note else "no meter of this scope")
            continue
        low, high = (1.0 / bound if bound and bound > 0 else None for bound in (energy.high, energy.low))
        origin = Provenance.DERIVED if energy.provenance is Provenance.MEASURED else energy.provenance
        found[target] = Figure(1.0 / energy.value, origin, energy.scope, low, high, energy.note)
    return found


def _counter_check(measurement: Measurement, trace: Trace, own: str | None) -> dict[str, Figure]:
    """Compare an accelerator's energy counter with its integrated momentary power."""
    names = {c.name for c in trace.channels}
    counter, power = f"{own}_energy_j", f"{own}_power_w"
    if counter not in names or power not in names:
        return {}
    edges = trace.edges(counter, *steady(measurement))
    start, end = (int(edges[0]), int(edges[-1])) if len(edges) > 2 else steady(measurement)
    try:
        integrated = trace.energy(power, start, end)
        disagreement = integrated.mean_power_w / trace.energy(counter, start, end).mean_power_w - 1
    except MeasurementError as error:
        return {"gpu_counter_disagreement_ratio": unavailable(_silence(error))}
    note = None
    if abs(disagreement) > DISAGREEMENT_RATIO:
        note = f"the energy counter and the integrated power disagree by more than {DISAGREEMENT_RATIO:.0%}"
    return {
        "gpu_power_integrated_w": measured(integrated.mean_power_w, scope=Scope.ACCELERATOR),
        "gpu_counter_disagreement_ratio": derived(disagreement, note=note),
    }
