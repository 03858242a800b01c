"""Figures of a pipeline's phases: time, throughput and energy of each by itself, and what share each has."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from wattwerk.bench.pipeline import PHASES
from wattwerk.bench.worker import Measurement, PhaseRun
from wattwerk.metering import statistics
from wattwerk.records import Figure, derived, measured

_ENERGY: Final = "_energy_per_inference_j"
_POWER: Final = "_power_w"


def alone(measurement: Measurement, run: PhaseRun) -> Measurement:
    """Return the measurement as if the model's loops had been those of one phase."""
    return msgspec.structs.replace(
        measurement, blocks=run.blocks, steady_start=run.steady_start, steady_ends=run.steady_ends, phases={}
    )


def phase_figures(name: str, durations_s: Any, rate: Figure, energies: dict[str, Figure]) -> dict[str, Figure]:
    """Return the figures of one phase.

    Args:
        name: The phase.
        durations_s: Its timed iterations.
        rate: Photos per second.
        energies: Power and energy of every scope during its windows.
    """
    middle = statistics.median_interval(durations_s)
    chosen = {
        key: figure
        for key, figure in energies.items()
        if key.endswith((_ENERGY, _POWER)) and not key.startswith(("idle_", "loaded_idle_", "unloaded_idle_"))
    }
    return {
        f"{name}_p50_s": measured(middle.value, middle.low, middle.high),
        f"{name}_throughput_per_s": rate,
        **{f"{name}_{key}": figure for key, figure in chosen.items()},
    }


def share_figures(figures: dict[str, Figure], processing: str) -> dict[str, Figure]:
    """Return the time of the whole pipeline and the share of each phase in the sum of all three."""
    whole = figures["latency_p50_s"]
    note = "from one result to the next, while the next batch is decoded" if processing == "overlapped" else None
    found = {"pipeline_p50_s": msgspec.structs.replace(whole, note=note)}
    times = {name: figures[f"{name}_p50_s"] for name in PHASES}
    for name in PHASES:
        found[f"{name}_share_ratio"] = _share(times[name], [times[other] for other in PHASES if other != name])
    return found


def _share(mine: Figure, others: list[Figure]) -> Figure:
    """Return a share with the bounds that the bounds of the times allow."""
    value = mine.value or 0.0
    rest = sum(other.value or 0.0 for other in others)
    bounds = [(other.low, other.high) for other in (mine, *others)]
    if any(low is None or high is None for low, high in bounds):
        return derived(value / (value + rest))
    (low, high), *around = bounds
    least = sum(pair[0] for pair in around)  # type: ignore[misc]
    most = sum(pair[1] for pair in around)  # type: ignore[misc]
    return derived(value / (value + rest), low / (low + most), high / (high + least))  # type: ignore[operator]
