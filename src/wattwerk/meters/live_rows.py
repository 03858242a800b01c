"""What a live view shows of a running recorder: a row for each part and channel, with its course.

A part is what an energy counter or a power gauge belongs to; both make one row. Mean, peak and energy are those since
the beginning.
"""

from __future__ import annotations

import math
import time
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from wattwerk.meters.base import Channel
from wattwerk.meters.live import Live
from wattwerk.meters.totals import part_of
from wattwerk.meters.trace import Trace
from wattwerk.records import Provenance
from wattwerk.units import unit_of

KEEP_S: Final = 60.0

_FRESH_S: Final = 1.5  # a quick meter's value that is older shows its age

Floats = npt.NDArray[np.float64]


class Row(msgspec.Struct, frozen=True):
    """One line of the table.

    Attributes:
        name: Of the part or the channel.
        unit: A name that ends in the unit of its values, for ``format_value``.
        scope: What it covers; empty for temperatures and loads.
        mark: ``~`` if it is modelled.
        now: Newest value; NaN where there is none.
        mean: Since the beginning.
        peak: Likewise.
        energy_j: Likewise; NaN where it has none.
        age_s: Of the newest value; NaN where there is none.
        slow: Whether its meter is a slow one, whose values are always somewhat old.
        course: float64 (any,): the values of the last minute, from its beginning on; NaN where there are none.
    """

    name: str
    unit: str
    scope: str
    mark: str
    now: float
    mean: float
    peak: float
    energy_j: float
    age_s: float
    slow: bool
    course: Floats

    @property
    def age(self) -> str:
        """The age in words; empty where the value is fresh, as those of quick meters are."""
        if math.isnan(self.age_s) or not (self.slow or self.age_s >= _FRESH_S):
            return ""
        return f"{self.age_s:.1f} s" if self.age_s < 9.95 else f"{self.age_s:.0f} s"


class LiveRows:
    """Makes the rows, again and again.

    Args:
        live: Follows the recorder, and keeps samples for ``KEEP_S``.
    """

    def __init__(self, live: Live) -> None:
        self.live = live
        self._sums: dict[str, tuple[float, int]] = {}
        self._peaks: dict[str, float] = {}
        self._seen_ns = 0

    def rows(self) -> list[Row]:
        """Return a line for each measured part, and then for each other gauge."""
        trace = self.live.update()
        now_ns = time.perf_counter_ns()
        self._take(trace)
        return [*self._parts(trace, now_ns), *self._others(trace, now_ns)]

    def _take(self, trace: Trace) -> None:
        """Keep sum, count and peak of gauges that have no energy."""
        new = trace.time_ns > self._seen_ns
        for column, channel in enumerate(trace.channels):
            values = trace.values[new, column]
            values = values[np.isfinite(values)]
            if channel.form == "gauge" and part_of(channel) is None and len(values):
                total, count = self._sums.get(channel.name, (0.0, 0))
                self._sums[channel.name] = total + float(values.sum()), count + len(values)
                self._peaks[channel.name] = max(self._peaks.get(channel.name, -math.inf), float(values.max()))
        if len(trace.time_ns):
            self._seen_ns = int(trace.time_ns[-1])

    def _parts(self, trace: Trace, now_ns: int) -> list[Row]:
        found: dict[str, list[Channel]] = {}
        bounds = {name for channel in trace.channels for name in (channel.low, channel.high) if name}
        for channel in trace.channels:
            part = part_of(channel)
            if part is not None and channel.name not in bounds and not channel.name.endswith("_average_w"):
                found.setdefault(part, []).append(channel)
        return [self._part(part, channels, trace, now_ns) for part, channels in found.items()]

    def _part(self, part: str, channels: list[Channel], trace: Trace, now_ns: int) -> Row:
        counter = next((c for c in channels if c.form == "counter"), None)
        gauge = next((c for c in channels if c.form == "gauge"), None)
        best = counter or channels[0]
        running = self.live.running
        sums = running.sums[best.name]
        power_w = running.power_w(best.name, now_ns)
        peak = running.sums[gauge.name].peak if gauge else self._peaks.get(part, math.nan)
        if not gauge and math.isfinite(power_w):
            peak = self._peaks[part] = max(self._peaks.get(part, -math.inf), power_w)
        return Row(
            name=part or best.name,
            unit="power_w",
            scope=best.scope.value if best.scope else "",
            mark="~" if best.provenance is Provenance.MODELLED else "",
            now=power_w,
            mean=sums.mean_w,
            peak=peak,
            energy_j=sums.energy_j if sums.length_s else math.nan,
            age_s=running.sums[(gauge or best).name].age_s(now_ns),
            slow=best.name in trace.slow,
            course=_course(trace, gauge or best, now_ns),
        )

    def _others(self, trace: Trace, now_ns: int) -> list[Row]:
        rows = []
        for column, channel in enumerate(trace.channels):
            if channel.form == "counter" or part_of(channel) is not None or not _has_unit(channel):
                continue
            valid = np.flatnonzero(np.isfinite(trace.values[:, column]))
            total, count = self._sums.get(channel.name, (0.0, 0))
            age_s = (now_ns - int(trace.time_ns[valid[-1]])) / 1e9 if len(valid) else math.nan
            rows.append(
                Row(
                    name=channel.name.removesuffix(f"_{unit_of(channel.name)}"),
                    unit=channel.name,
                    scope=channel.scope.value if channel.scope else "",
                    mark="~" if channel.provenance is Provenance.MODELLED else "",
                    now=float(trace.values[valid[-1], column]) if len(valid) and age_s < KEEP_S / 2 else math.nan,
                    mean=total / count if count else math.nan,
                    peak=self._peaks.get(channel.name, math.nan),
                    energy_j=math.nan,
                    age_s=age_s,
                    slow=channel.name in trace.slow,
                    course=_course(trace, channel, now_ns),
                )
            )
        return rows


def _has_unit(channel: Channel) -> bool:
    try:
        return unit_of(channel.name) != "count"  # bit masks say nothing as a number
    except ValueError:
        return False


def _course(trace: Trace, channel: Channel, now_ns: int, bins: int = 120) -> Floats:
    """Return the last minute's values in equal steps; of a counter its rate."""
    column = trace.values[:, trace.channels.index(channel)]
    valid = np.isfinite(column)
    edges = np.linspace(now_ns - KEEP_S * 1e9, now_ns, bins + 1) - now_ns
    times, values = (trace.time_ns[valid] - now_ns).astype(np.float64), column[valid]
    if channel.form == "counter" and len(times) > 1:
        values = np.diff(values) * 1e9 / np.maximum(np.diff(times), 1.0)
        times = times[1:]
    place = np.searchsorted(edges, times, "right") - 1
    inside = (place >= 0) & (place < bins)
    count = np.bincount(place[inside], minlength=bins)
    total = np.bincount(place[inside], weights=values[inside], minlength=bins)
    with np.errstate(invalid="ignore"):
        course = np.where(count > 0, total / count, np.nan)
    return _held(course, edges[1:], times, values)


def _held(course: Floats, ends: Floats, times: Floats, values: Floats) -> Floats:
    """Fill the steps between two readings of a slow meter; a distance that is longer than usual stays a gap."""
    if len(times) < 2:
        return course
    last = np.searchsorted(times, ends, "right") - 1
    age = ends - times[np.maximum(last, 0)]
    usual = float(np.median(np.diff(times)))
    held: Floats = np.where(np.isnan(course) & (last >= 0) & (age <= 1.5 * usual), values[np.maximum(last, 0)], course)
    return held
