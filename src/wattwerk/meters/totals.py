"""Energy so far and power now, channel by channel and in totals that count nothing twice.

A total of a scope adds up its parts: of each the energy counter, or else the momentary power. The total of the system
adds up what lies inside nothing else that is measured, by the rules of ``containment``. What the user names as parts of
the system goes before them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import permutations
from statistics import median
from typing import Final, NamedTuple

import msgspec

from wattwerk.errors import ConfigError
from wattwerk.meters.base import Channel
from wattwerk.meters.containment import Containment, part_of, parts_of
from wattwerk.meters.trace import Trace, middles
from wattwerk.records import Provenance, Scope
from wattwerk.registry import suggestion

__all__ = ["SYSTEM", "ChannelSum", "Running", "Sum", "Total", "part_of", "parts_of", "totals_of"]

SYSTEM: Final = "system"

_GAP: Final = 10  # usual distances of samples, beyond which a gauge says nothing about the time between
_RATE_NS: Final = 1_000_000_000  # the least time over which a counter's growth is called a power
_STALE_NS: Final = 2_000_000_000


class Total(msgspec.Struct, frozen=True):
    """What some parts draw together.

    Attributes:
        power_w: Now; NaN where one of the parts says nothing.
        mean_w: Since the beginning, over the time of which the energy is known; NaN before there is any.
        energy_j: Since the beginning, as far as it is known.
        gap_s: Time of which no energy is known, of the part that has most of it. While a part is silent this grows; a
            counter that speaks again knows what it missed, and it falls.
        provenance: ``modelled`` if one of the parts is, ``measured`` for a single counter, else ``derived``.
        parts: The channels.
    """

    power_w: float
    mean_w: float
    energy_j: float
    gap_s: float
    provenance: Provenance
    parts: tuple[str, ...]


def totals_of(channels: Sequence[Channel], total: Sequence[str] = ()) -> dict[str, list[Channel]]:
    """Return which channels make up each total: one for each scope that has any, and that of the system.

    Args:
        channels: All there are.
        total: The channels that the system's total adds up; by default those that lie inside no other.

    Raises:
        ConfigError: A channel of ``total`` is not there, gives neither energy nor power, or lies inside another one of
            them; or as for ``Containment``.
    """
    known = Containment(channels)
    found = {scope.value: known.outermost(scope) for scope in Scope}
    found[SYSTEM] = _named(channels, total, known) if total else known.system()
    return {name: parts for name, parts in found.items() if parts}


def _named(channels: Sequence[Channel], names: Sequence[str], containment: Containment) -> list[Channel]:
    known = {channel.name: channel for channel in channels if part_of(channel) is not None}
    for name in names:
        if name not in known:
            raise ConfigError(f"total: {name} gives neither energy nor power", suggestion(name, known))
    parts = [part_of(known[name]) for name in names]
    if len(set(parts)) < len(parts):
        raise ConfigError(f"total: {', '.join(names)} names a part twice", "name its energy or its power, not both")
    for outer, inner in permutations(names, 2):
        # only what was stated: that a wall meter contains all accelerators is assumed, and the user knows better
        if set(containment.named(inner)) & {n for node in containment.named(outer) for n in containment.stated[node]}:
            raise ConfigError(f"total: {inner} lies inside {outer}", "leave out one of them")
    return [known[name] for name in names]


class Sum(NamedTuple):
    """What a channel says so far: energy, time without any, and the power now."""

    energy_j: float
    gap_s: float
    power_w: float


class ChannelSum:
    """Adds up one channel's energy, sample by sample.

    Args:
        channel: A counter of joules or a gauge of watts.

    Attributes:
        energy_j: So far.
        gap_s: Time of which no energy is known.
        length_s: Time that the energy is of.
        peak: Largest value so far; NaN before the first.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.energy_j, self.gap_s, self.length_s = 0.0, 0.0, 0.0
        self.peak = math.nan
        self._last: tuple[int, float] | None = None
        self._steps: deque[int] = deque(maxlen=64)
        self._recent: deque[tuple[int, float]] = deque()

    def add(self, time_ns: int, value: float) -> None:
        """Take one sample; one that is no number or older than the last is left out."""
        if not math.isfinite(value) or (self._last and time_ns <= self._last[0]):
            return
        if self._last:
            self._grow(time_ns - self._last[0], self._last[1], value)
        self._last = time_ns, value
        self.peak = value if math.isnan(self.peak) else max(self.peak, value)
        self._recent.append(self._last)
        while len(self._recent) > 2 and time_ns - self._recent[1][0] >= _RATE_NS:
            self._recent.popleft()

    def _grow(self, step_ns: int, before: float, value: float) -> None:
        if self.channel.form == "counter":
            if value >= before or self.channel.signed:
                self.energy_j += value - before
                self.length_s += step_ns / 1e9
            else:  # it began again: nobody knows what it had counted until then
                self.gap_s += step_ns / 1e9
                self._recent.clear()
        elif self._steps and step_ns > _GAP * median(self._steps):
            self.gap_s += step_ns / 1e9
            return
        else:
            self.energy_j += (before + value) / 2 * step_ns / 1e9
            self.length_s += step_ns / 1e9
        self._steps.append(step_ns)

    def now(self, time_ns: int, begin_ns: int | None = None) -> Sum:
        """Return what it says at a time; where the last sample is too old, the power is NaN and the time since a gap.

        Args:
            time_ns: The time.
            begin_ns: When the recording began, for a channel that has not said anything yet.
        """
        silent_s = 0.0
        if self._is_silent(time_ns):
            since_ns = self._last[0] if self._last else begin_ns
            silent_s = 0.0 if since_ns is None else (time_ns - since_ns) / 1e9
        return Sum(self.energy_j, self.gap_s + silent_s, self._power(time_ns))

    @property
    def mean_w(self) -> float:
        """Mean power so far; NaN before there is any energy."""
        return self.energy_j / self.length_s if self.length_s else math.nan

    def age_s(self, time_ns: int) -> float:
        """Return how old the last sample is, in seconds; NaN where there was none."""
        return (time_ns - self._last[0]) / 1e9 if self._last else math.nan

    def _is_silent(self, time_ns: int) -> bool:
        usual = median(self._steps) if self._steps else 0
        return self._last is None or time_ns - self._last[0] > max(_STALE_NS, _GAP * usual)

    def _power(self, time_ns: int) -> float:
        if self._last is None or self._is_silent(time_ns):
            return math.nan
        if self.channel.form == "gauge":
            return self._last[1]
        (first_ns, first), (last_ns, last) = self._recent[0], self._recent[-1]
        return (last - first) * 1e9 / (last_ns - first_ns) if last_ns - first_ns >= _RATE_NS / 2 else math.nan


class Running:
    """Energy so far and power now, from samples as they come.

    Args:
        channels: All that are sampled.
        total: As for ``totals_of``.

    Raises:
        ConfigError: As for ``totals_of``.
    """

    def __init__(self, channels: Sequence[Channel], total: Sequence[str] = ()) -> None:
        self._parts = totals_of(channels, total)
        self.sums = {channel.name: ChannelSum(channel) for channel in channels if part_of(channel) is not None}
        self._columns = [(index, self.sums[c.name]) for index, c in enumerate(channels) if c.name in self.sums]
        self._begin_ns: int | None = None
        self._powers = {part_of(c): c.name for c in channels if c.form == "gauge" and c.name in self.sums}

    def add(self, trace: Trace) -> None:
        """Take the next samples."""
        if self._begin_ns is None and len(trace.time_ns):
            self._begin_ns = int(trace.time_ns[0])
        times, inside, values = trace.time_ns.tolist(), middles(trace.time_ns, trace.unmoved_ns).tolist(), trace.values
        for column, kept in self._columns:
            its = inside if trace.spans(kept.channel) else times
            for time_ns, value in zip(its, values[:, column].tolist(), strict=True):
                kept.add(time_ns, value)

    def power_w(self, name: str, now_ns: int) -> float:
        """Return the power now of a channel's part: its gauge where it has one, else how fast its counter grows."""
        part = part_of(self.sums[name].channel)
        gauge = self._powers.get(part)
        found = self.sums[gauge].now(now_ns).power_w if gauge else math.nan
        return self.sums[name].now(now_ns).power_w if math.isnan(found) else found

    def totals(self, now_ns: int) -> dict[str, Total]:
        """Return the totals at a time of ``time.perf_counter_ns``: name of the scope, or ``system`` -> total."""
        return {name: self._total(parts, now_ns) for name, parts in self._parts.items()}

    def _total(self, parts: Sequence[Channel], now_ns: int) -> Total:
        sums = [self.sums[channel.name].now(now_ns, self._begin_ns) for channel in parts]
        provenances = {channel.provenance for channel in parts}
        alone = len(parts) == 1 and parts[0].form == "counter"
        best = Provenance.MEASURED if alone else Provenance.DERIVED
        return Total(
            power_w=sum(self.power_w(channel.name, now_ns) for channel in parts),
            mean_w=sum(self.sums[channel.name].mean_w for channel in parts),
            energy_j=sum(one.energy_j for one in sums),
            gap_s=max(one.gap_s for one in sums),
            provenance=Provenance.MODELLED if Provenance.MODELLED in provenances else best,
            parts=tuple(channel.name for channel in parts),
        )
