"""Energy, mean and peak power of an interval: one set of figures for each scope, and one for the system.

What makes up a scope and the system is ``meters.totals``' to say, so that nothing that overlaps is added up. One part
without an energy leaves its sum without one: a sum that lacks a part would look like a saving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from wattwerk.errors import MeasurementError
from wattwerk.meters.base import Channel
from wattwerk.meters.totals import SYSTEM, part_of, totals_of
from wattwerk.meters.trace import Energy, Trace
from wattwerk.records import Figure, Provenance, Scope, unavailable

#: scope -> the word that its figures' names begin with
PREFIXES: Final = {
    Scope.ACCELERATOR: "gpu",
    Scope.CPU_PACKAGE: "cpu",
    Scope.DRAM: "dram",
    Scope.BOARD: "board",
    Scope.NODE: "node",
    Scope.SWITCH: "switch",
    Scope.CONTROL_SERVER: "control_server",
    Scope.WALL: "wall",
}

#: Above this the energy counter and the integrated power disagree, and figures say so.
DISAGREEMENT_RATIO: Final = 0.05

MODELLED_NOTE: Final = "from the load of the CPU"
NO_METER: Final = "no meter of power or energy; see `wattwerk doctor`"

_FEW: Final = 2  # readings inside an interval, below which its energy rests on the powers around it
_PEAK_S: Final = 0.5  # over which a counter's growth is called a power; processor time is counted in steps of 10 ms
_FLOW_S: Final = 1.0  # over which a counter has to move while power flows
_FLOW_W: Final = 5.0
_COMPARED_S: Final = 5.0  # from which on counter and power can be compared; docs/measuring.md has the table
_MARGIN_NS: Final = 5_000_000_000


class Idle(msgspec.Struct, frozen=True):
    """The idle machine, for what is net of it.

    Attributes:
        trace: What the recorder saw then.
        start_ns: When it began.
        end_ns: When it ended.
    """

    trace: Trace
    start_ns: int
    end_ns: int


class _Amount(NamedTuple):
    """An energy with its bounds, in joules."""

    low: float
    value: float
    high: float


def summed(energies: Sequence[Energy], scope: Scope | None, note: str | None = None) -> Figure:
    """Return the sum of energies that do not overlap; bounds add up too, and one modelled part makes a sum modelled."""
    low, value, high = (sum(getattr(each, f"{end}_j") for each in energies) for end in ("low", "value", "high"))
    notes = [note, *(each.note for each in energies)]
    return Figure(value, _provenance(energies), scope, low, high, _joined(notes))


def interval_figures(
    trace: Trace, start_ns: int, end_ns: int, *, total: Sequence[str] = (), idle: Idle | None = None
) -> dict[str, Figure]:
    """Return energy, mean and peak power of an interval, for each scope with a meter and for the system.

    Args:
        trace: Reaches around the interval.
        start_ns: ``time.perf_counter_ns`` at its start.
        end_ns: The same at its end.
        total: The channels that make up the system, as for ``totals_of``.
        idle: The idle machine; None leaves out what is net of it.

    Raises:
        ConfigError: As for ``totals_of``.
    """
    near = _around(trace, start_ns, end_ns)
    found: dict[str, Figure] = {}
    for name, parts in _ordered(totals_of(trace.channels, total)).items():
        scope = Scope.NODE if name == SYSTEM else Scope(name)
        prefix = SYSTEM if name == SYSTEM else PREFIXES[scope]
        found |= _total_figures(prefix, scope, near, parts, (start_ns, end_ns), idle)
    return found or {f"{SYSTEM}_energy_j": unavailable(NO_METER, scope=Scope.NODE)}


def _ordered(totals: Mapping[str, list[Channel]]) -> dict[str, list[Channel]]:
    """Return the totals, that of the system first."""
    return {name: totals[name] for name in sorted(totals, key=lambda name: name != SYSTEM)}


def _around(trace: Trace, start_ns: int, end_ns: int) -> Trace:
    """Return the part of a long trace that an interval needs."""
    margin_ns = _MARGIN_NS
    if trace.slow and len(trace.time_ns):  # a slow meter's last value may be long ago
        return trace
    return trace.between(start_ns - margin_ns, end_ns + margin_ns)


def _total_figures(
    prefix: str, scope: Scope, trace: Trace, parts: Sequence[Channel], span: tuple[int, int], idle: Idle | None
) -> dict[str, Figure]:
    length_s = (span[1] - span[0]) / 1e9
    try:
        energies = [_energy(trace, part, span) for part in parts]
    except MeasurementError as error:
        energy: Figure = unavailable(error.message, scope=scope)
        energies = []
    else:
        energy = summed(energies, scope, _note(parts, energies))
    found = {f"{prefix}_energy_j": energy}
    if idle:
        found |= _net_figures(prefix, scope, parts, energies, energy, idle, length_s)
    found[f"{prefix}_power_w"] = scaled(energy, 1 / length_s) if length_s > 0 else energy
    found[f"{prefix}_peak_power_w"] = _peak(trace, parts, span, scope)
    return found


def _energy(trace: Trace, part: Channel, span: tuple[int, int]) -> Energy:
    """Return a part's energy; where it has a counter and momentary power, the one checks the other.

    Raises:
        MeasurementError: As for ``Trace.energy``, or the counter stood still while power flowed.
    """
    energy = trace.energy(part.name, *span)
    gauge = _gauges(trace).get(part_of(part))
    length_s = (span[1] - span[0]) / 1e9
    if part.form != "counter" or part.provenance is not Provenance.MEASURED or gauge is None or length_s < _FLOW_S:
        return energy
    try:
        other = trace.energy(gauge.name, *span)
    except MeasurementError:  # a gauge with gaps checks nothing
        return energy
    _check_standstill(trace, part, gauge, span)
    off = other.value_j / energy.value_j - 1 if energy.value_j else 0.0
    if length_s >= _COMPARED_S and abs(off) > DISAGREEMENT_RATIO:
        note = f"{gauge.name}, integrated, is {off:+.0%} off the counter"
        return msgspec.structs.replace(energy, note=_joined([energy.note, note]))
    return energy


def _check_standstill(trace: Trace, part: Channel, gauge: Channel, span: tuple[int, int]) -> None:
    """Raise a MeasurementError if a counter stood still while power flowed that it had to count."""
    still = trace.standstill(part.name, *span)
    if still[1] - still[0] < _FLOW_S * 1e9:
        return
    flow = trace.energy(gauge.name, *still)
    if flow.mean_power_w >= _FLOW_W and flow.value_j > 2 * part.step:
        raise MeasurementError(
            f"{part.name} stood still for {(still[1] - still[0]) / 1e9:.1f} s while {gauge.name} gave "
            f"{flow.mean_power_w:.3g} W: it is frozen, or too coarse for this",
            "look at the meter, or measure longer",
        )


def _gauges(trace: Trace) -> dict[str | None, Channel]:
    """Return part -> its gauge of power."""
    return {part_of(channel): channel for channel in trace.channels if channel.form == "gauge"}


def scaled(figure: Figure, factor: float) -> Figure:
    """Return a figure times a positive number."""
    if figure.value is None:
        return figure
    low, high = (None if bound is None else bound * factor for bound in (figure.low, figure.high))
    return msgspec.structs.replace(figure, value=figure.value * factor, low=low, high=high)


def _note(parts: Sequence[Channel], energies: Sequence[Energy]) -> str | None:
    notes = []
    if len({part.scope for part in parts}) > 1:
        words = " + ".join(dict.fromkeys(part.scope.value for part in parts if part.scope))
        notes.append(f"{words}; power supply, fans and disks are not in it")
    if any(part.provenance is Provenance.MODELLED for part in parts):
        notes.append(MODELLED_NOTE)
    if any(each.samples < _FEW for each in energies):
        notes.append("shorter than the sensor's beat: the powers around it count")
    return _joined(notes)


def _joined(notes: Sequence[str | None]) -> str | None:
    return "; ".join(dict.fromkeys(note for note in notes if note)) or None


def _provenance(energies: Sequence[Energy]) -> Provenance:
    found = {each.provenance for each in energies}
    if Provenance.MODELLED in found:
        return Provenance.MODELLED
    return Provenance.DERIVED if len(energies) > 1 else energies[0].provenance


def _net_figures(
    prefix: str,
    scope: Scope,
    parts: Sequence[Channel],
    energies: Sequence[Energy],
    gross: Figure,
    idle: Idle,
    length_s: float,
) -> dict[str, Figure]:
    """Return the energy above that of the idle machine, and the idle machine's power."""
    names = f"idle_{prefix}_power_w", f"{prefix}_net_energy_j"
    try:
        still = [idle.trace.energy(part.name, idle.start_ns, idle.end_ns) for part in parts]
    except MeasurementError as error:
        return dict.fromkeys(names, unavailable(f"idle machine: {error.message}", scope=scope))
    idle_s = (idle.end_ns - idle.start_ns) / 1e9
    power = scaled(summed(still, scope, _note(parts, still)), 1 / idle_s)
    if gross.value is None:
        return {names[0]: power, names[1]: gross}
    net = [_net(each, one, length_s / idle_s) for each, one in zip(energies, still, strict=True)]
    low, value, high = (float(sum(bound)) for bound in zip(*net, strict=True))
    provenance = Provenance.MODELLED if gross.provenance is Provenance.MODELLED else Provenance.DERIVED
    return {names[0]: power, names[1]: Figure(value, provenance, scope, low, high, gross.note)}


def _net(energy: Energy, idle: Energy, factor: float) -> _Amount:
    """Subtract the idle machine's energy; the bounds of a model belong together, those of two measurements do not."""
    value = energy.value_j - idle.value_j * factor
    if energy.provenance is Provenance.MODELLED:
        ends = sorted([energy.low_j - idle.low_j * factor, value, energy.high_j - idle.high_j * factor])
        return _Amount(ends[0], value, ends[2])
    return _Amount(energy.low_j - idle.high_j * factor, value, energy.high_j - idle.low_j * factor)


def _peak(trace: Trace, parts: Sequence[Channel], span: tuple[int, int], scope: Scope) -> Figure:
    """Return the largest power of the parts together, from their gauges, or else from how their counters grow."""
    gauges = _gauges(trace)
    sources = [gauges.get(part_of(part), part) for part in parts]
    try:
        value = _peak_w(trace, [source.name for source in sources], span)
        modelled = any(source.provenance is Provenance.MODELLED for source in sources)
        low = _peak_w(trace, [source.low or source.name for source in sources], span) if modelled else None
        high = _peak_w(trace, [source.high or source.name for source in sources], span) if modelled else None
    except MeasurementError as error:
        return unavailable(error.message, scope=scope)
    counted = any(source.form == "counter" for source in sources)
    note = f"highest mean over {_PEAK_S:g} s" if counted else "highest reading"
    if modelled:
        return Figure(value, Provenance.MODELLED, scope, low, high, f"{note}; {MODELLED_NOTE}")
    plain = len(sources) == 1 and not counted
    return Figure(value, Provenance.MEASURED if plain else Provenance.DERIVED, scope, note=note)


def _peak_w(trace: Trace, names: Sequence[str], span: tuple[int, int]) -> float:
    series = [trace.power(name, *span, step_s=_PEAK_S) for name in names]
    times = np.unique(np.concatenate([each[0] for each in series]))
    return float(np.max(np.sum([np.interp(times, *each) for each in series], axis=0)))
