"""What is compared with what: from a recorded trace to the curve of a reference, and to the readings of a meter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from wattwerk.errors import MeasurementError
from wattwerk.metering.calibration import Floats, Readings, Reference
from wattwerk.meters.base import Channel
from wattwerk.meters.trace import Trace
from wattwerk.records import Provenance, Scope

#: Name of the reference that is the known load sequence.
LOAD: Final = "load"

#: Scopes whose sensors see the load at once, and which do not overlap.
_REFERENCES: Final = (Scope.ACCELERATOR, Scope.CPU_PACKAGE, Scope.DRAM)
_LEAST_RISE: Final = 0.3  # by which a reference's power has to rise under load, of what it has at rest


def is_power(channel: Channel) -> bool:
    """Tell whether a channel is a momentary power or a counter of energy."""
    return (
        channel.scope is not None
        and channel.name.endswith(("_w", "_energy_j"))
        and not channel.name.endswith("_average_w")
    )


def reference_of(trace: Trace, wanted: Sequence[str], switches: list[tuple[int, bool]]) -> tuple[Reference, list[str]]:
    """Return what to compare with, and its names.

    Args:
        trace: What was recorded.
        wanted: Channels to add up, or ``load`` alone; empty for the fast sensors if they see the load, or else it.
        switches: When the load was switched on and off, as ``Load.switches``.

    Raises:
        MeasurementError: A channel gave no values.
    """
    sequence = _sequence(trace, switches)
    if list(wanted) == [LOAD]:
        return sequence, [LOAD]
    names = list(wanted) or _fast(trace)
    if not names:
        return sequence, [LOAD]
    measured = _added_up(trace, names)
    return (measured, names) if wanted or _sees(measured, sequence) else (sequence, [LOAD])


def _fast(trace: Trace) -> list[str]:
    """Return the fast measured channels that do not overlap: of each part its counter, or else its power."""
    parts: dict[str, str] = {}
    for suffix in ("_energy_j", "_power_w"):
        for channel in trace.channels:
            measured = channel.scope in _REFERENCES and channel.provenance is Provenance.MEASURED
            if measured and channel.name.endswith(suffix) and channel.name not in trace.slow:
                parts.setdefault(channel.name.removesuffix(suffix), channel.name)
    return list(parts.values())


def _added_up(trace: Trace, names: Sequence[str]) -> Reference:
    curves = [_energy(trace, name) for name in names]
    time_s = np.unique(np.concatenate([curve.time_s for curve in curves]))
    inside = (time_s >= max(c.time_s[0] for c in curves)) & (time_s <= min(c.time_s[-1] for c in curves))
    time_s = time_s[inside]
    return Reference(time_s, np.sum([np.interp(time_s, *curve) for curve in curves], axis=0))


def _energy(trace: Trace, name: str) -> Reference:
    """Return a channel's energy over time; of a counter with ticks only where it moved."""
    time_s, values = _series(trace, name)
    if len(time_s) < 2:
        raise MeasurementError(f"the reference {name} gave no values", "see the faults, or choose another reference")
    if trace.channel(name).form == "counter":
        moved = np.concatenate([[True], np.diff(values) != 0])
        return Reference(time_s[moved], values[moved])
    steps = np.diff(time_s) * (values[1:] + values[:-1]) / 2
    return Reference(time_s, np.concatenate([[0.0], np.cumsum(steps)]))


def _series(trace: Trace, name: str) -> tuple[Floats, Floats]:
    times, values = trace.readings(name)
    return (times - trace.time_ns[0]) / 1e9, values


def _sequence(trace: Trace, switches: list[tuple[int, bool]]) -> Reference:
    """Return the seconds under load, from the recording's first sample to its last."""
    times = [(at - int(trace.time_ns[0])) / 1e9 for at, _ in switches]
    time_s = np.array([times[0], *times[1:], (int(trace.time_ns[-1]) - int(trace.time_ns[0])) / 1e9])
    on = np.array([state for _, state in switches], np.float64)
    return Reference(time_s, np.concatenate([[0.0], np.cumsum(on * np.diff(time_s))]))


def _sees(measured: Reference, sequence: Reference) -> bool:
    """Tell whether the power is clearly more while the load is on."""
    on = np.diff(sequence.energy_j) > 0
    power_w = measured.means(sequence.time_s[:-1], sequence.time_s[1:])
    at_rest_w = float(np.median(power_w[~on]))
    return float(np.median(power_w[on])) - at_rest_w > max(1.0, _LEAST_RISE * at_rest_w)


def readings_of(trace: Trace, channel: Channel) -> Readings:
    """Return what a channel said; of a counter the mean powers between the reads at which it had moved.

    Raises:
        MeasurementError: The counter hardly moved, was reset, or moves in steps that are too coarse.
    """
    time_s, values = _series(trace, channel.name)
    slack_s = trace.slack_s(channel.name)
    if channel.form == "gauge":
        return Readings(time_s, time_s, values, slack_s=slack_s)
    moved = np.concatenate([[True], np.diff(values) > 0]) if len(values) else np.zeros(0, bool)
    if np.count_nonzero(moved) < 3:
        raise MeasurementError(f"{channel.name} hardly moved", "use a heavier load or longer pulses")
    if np.any(np.diff(values) < 0):
        raise MeasurementError(f"{channel.name} was reset meanwhile", "try again")
    time_s, values = time_s[moved], values[moved]
    spacing_s = np.diff(time_s)
    if channel.step and np.all(np.diff(values) < 1.5 * channel.step):  # one step at a time: nothing in between is known
        raise MeasurementError(
            f"{channel.name} moves in steps of {channel.step:g} J, every {np.median(spacing_s):.2g} s: too coarse",
            "calibrate the meter's power instead",
        )
    step_w = channel.step / float(np.median(spacing_s))
    return Readings(time_s[:-1], time_s[1:], np.diff(values) / spacing_s, step_w, slack_s)
