"""Find the highest load that keeps a latency limit: every probe is a run whose verdict somebody else gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

#: below this share of the capacity hardly anything ever waits, so that no lower load keeps what it does not
LOWEST_RATIO: Final = 1 / 32
_FIRST_RATIO: Final = 0.5


class Probe(msgspec.Struct, frozen=True):
    """One run at one load.

    Attributes:
        queries_per_s: The load.
        valid: Whether it kept the limit.
        percentile_s: The percentile that has to keep the limit.
        reason: Why it did not, in the words of who judged it.
    """

    queries_per_s: float
    valid: bool
    percentile_s: float | None
    reason: str = ""


def highest_load(
    capacity_per_s: float, probe: Callable[[float], Probe], precision_ratio: float, *, hopeless: bool = False
) -> tuple[float | None, list[Probe]]:
    """Search by halving for the highest load that is valid.

    It begins at half of the capacity, which is a bound that is not tried: at that load a queue never empties.

    Args:
        capacity_per_s: Queries a second if one came as soon as the one before is done.
        probe: Runs a load.
        precision_ratio: The search ends when the lowest invalid load is above the highest valid one by no more.
        hopeless: Whether the limit is below the latency of a lone query, so that the lowest load alone is tried.

    Returns:
        The highest load that was valid, or None where not even the lowest one was; and all probes in their order.
    """
    low, high, load = 0.0, capacity_per_s, capacity_per_s * (LOWEST_RATIO if hopeless else _FIRST_RATIO)
    probes: list[Probe] = []
    while high > low * (1 + precision_ratio):
        found = probe(load)
        probes.append(found)
        if found.valid:
            low = load
        else:
            high = load
        if low == 0.0 and load <= capacity_per_s * LOWEST_RATIO:
            return None, probes
        load = (low + high) / 2 if low else load / 2
    return low, probes
