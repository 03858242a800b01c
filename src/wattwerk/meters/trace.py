"""What a recorder recorded, and the energy, power and extremes of any interval of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import msgspec
import numpy as np
import numpy.typing as npt

from wattwerk.errors import ConfigError, MeasurementError
from wattwerk.meters.base import Channel
from wattwerk.meters.energy import Anchors, Bounded, counted, integrated
from wattwerk.records import Provenance, Scope

_EVER: Final = 2**63 - 1
_GAP: Final = 10  # samples missing in a row, beyond which a gauge says nothing about the time between

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]


class Energy(msgspec.Struct, frozen=True):
    """The energy of an interval.

    Attributes:
        value_j: Best estimate.
        low_j: Lower bound, from sampling and the sensor's stated accuracy; of the model if modelled.
        high_j: Upper bound, likewise.
        mean_power_w: Best estimate over the interval's length.
        provenance: ``measured`` by a counter, ``derived`` from a power gauge, or ``modelled``.
        scope: What it covers.
        samples: Readings inside the interval that it rests on.
        note: What a reader has to know about it; None if nothing.
    """

    value_j: float
    low_j: float
    high_j: float
    mean_power_w: float
    provenance: Provenance
    scope: Scope | None
    samples: int
    note: str | None = None


class _Document(msgspec.Struct):
    channels: list[Channel]
    time_ns: list[int]
    values: list[list[float | None]]
    unmoved_ns: list[int]
    locked: str | None = None
    slow: list[str] = []


class Trace:
    """Samples of all channels over time.

    Attributes:
        channels: The columns.
        time_ns: int64 (samples,): ``time.perf_counter_ns`` of each sample, growing.
        values: float64 (samples, channels), SI units; NaN where a meter gave nothing.
        unmoved_ns: int64 (samples,): when the locked counter was last seen with its value before; where none is locked,
            and in the samples of a slow meter, when the read began.
        locked: Name of the counter whose ticks the samples follow, if any.
        slow: Names of the channels of slow meters, each of which has samples of its own.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        time_ns: npt.ArrayLike,
        values: npt.ArrayLike,
        unmoved_ns: npt.ArrayLike | None = None,
        locked: str | None = None,
        slow: Sequence[str] = (),
    ) -> None:
        self.channels = tuple(channels)
        self.time_ns: Times = np.asarray(time_ns, np.int64)
        self.values: Floats = np.asarray(values, np.float64).reshape(len(self.time_ns), len(self.channels))
        self.unmoved_ns: Times = self.time_ns if unmoved_ns is None else np.asarray(unmoved_ns, np.int64)
        self.locked = locked
        self.slow = tuple(slow)

    def channel(self, name: str) -> Channel:
        """Return a channel by name.

        Raises:
            MeasurementError: It was not recorded.
        """
        for channel in self.channels:
            if channel.name == name:
                return channel
        raise MeasurementError(f"no meter recorded {name}", f"recorded: {', '.join(c.name for c in self.channels)}")

    def find(self, *, scope: Scope | None = None, suffix: str | None = None) -> list[Channel]:
        """Return the channels of a scope and with these last words in their name, such as ``energy_j``."""
        return [
            channel
            for channel in self.channels
            if (scope is None or channel.scope == scope)
            and (suffix is None or channel.name == suffix or channel.name.endswith(f"_{suffix}"))
        ]

    def energy(self, channel: str, start_ns: int, end_ns: int) -> Energy:
        """Return the energy of an interval.

        A counter is interpolated between the two of its edges around each end; a power gauge is integrated by
        trapezoids. The bounds hold if the power between two readings stays between the powers around them.

        Args:
            channel: A counter ``…_energy_j`` or a gauge ``…_w``.
            start_ns: ``time.perf_counter_ns`` at the start.
            end_ns: The same at the end.

        Raises:
            MeasurementError: The interval is empty, the trace does not cover it, or the counter ran backwards.
        """
        about = self.channel(channel)
        result = self._bounded(about, start_ns, end_ns)
        low_j, high_j = self._bounds(about, result, start_ns, end_ns)
        return Energy(
            value_j=result.value,
            low_j=low_j,
            high_j=high_j,
            mean_power_w=result.value * 1e9 / (end_ns - start_ns),
            provenance=_provenance(about),
            scope=about.scope,
            samples=result.samples,
            note=result.note,
        )

    def _bounded(self, about: Channel, start_ns: int, end_ns: int) -> Bounded:
        if end_ns <= start_ns:
            raise MeasurementError(f"{about.name}: an interval of {end_ns - start_ns} ns", "end it after its start")
        if about.form == "counter":
            return counted(self._anchors(about), start_ns, end_ns, about.name)
        times, values = self._valid(about)
        return integrated(times, values, start_ns, end_ns, about.name, _GAP)

    def _bounds(self, about: Channel, result: Bounded, start_ns: int, end_ns: int) -> tuple[float, float]:
        low, high = result.low, result.high
        if about.low:
            low = self._bounded(self.channel(about.low), start_ns, end_ns).low
        if about.high:
            high = self._bounded(self.channel(about.high), start_ns, end_ns).high
        accuracy_ratio = about.accuracy_ratio or 0.0
        return max(low - about.step, 0.0) * (1 - accuracy_ratio), (high + about.step) * (1 + accuracy_ratio)

    def rate(self, channel: str, start_ns: int, end_ns: int) -> float:
        """Return how fast a counter grew, in its unit a second.

        Raises:
            MeasurementError: As for ``energy``, or the channel is a gauge.
        """
        about = self.channel(channel)
        if about.form != "counter":
            raise MeasurementError(f"{channel} is a gauge and has no rate", "ask for its mean")
        return self._bounded(about, start_ns, end_ns).value * 1e9 / (end_ns - start_ns)

    def mean(self, channel: str, start_ns: int, end_ns: int) -> float:
        """Return a gauge's mean over time; where the trace does not reach both ends, the mean of the samples inside.

        Raises:
            MeasurementError: The channel is a counter, or has no value in the interval.
        """
        about = self.channel(channel)
        if about.form == "counter":
            raise MeasurementError(f"{channel} is a counter and has no mean", "ask for its rate")
        try:
            return self._bounded(about, start_ns, end_ns).value * 1e9 / (end_ns - start_ns)
        except MeasurementError:
            return float(self._inside(channel, start_ns, end_ns).mean())

    def maximum(self, channel: str, start_ns: int = 0, end_ns: int = _EVER) -> float:
        """Return the largest value inside an interval; raises MeasurementError where there is none."""
        return float(self._inside(channel, start_ns, end_ns).max())

    def minimum(self, channel: str, start_ns: int = 0, end_ns: int = _EVER) -> float:
        """Return the smallest value inside an interval; raises MeasurementError where there is none."""
        return float(self._inside(channel, start_ns, end_ns).min())

    def last(self, channel: str, start_ns: int = 0, end_ns: int = _EVER) -> float:
        """Return the last value inside an interval; raises MeasurementError where there is none."""
        return float(self._inside(channel, start_ns, end_ns)[-1])

    def newest(self, channel: str, since_ns: int = 0) -> float:
        """Return the newest value; NaN where there is none since a time.

        Raises:
            MeasurementError: The channel was not recorded.
        """
        times, values = self._valid(self.channel(channel))
        return float(values[-1]) if len(values) and times[-1] >= since_ns else float("nan")

    def union(self, channel: str, start_ns: int, end_ns: int) -> int:
        """Return all bits that a bit mask showed inside an interval; raises MeasurementError where there is none."""
        return int(np.bitwise_or.reduce(self._inside(channel, start_ns, end_ns).astype(np.int64)))

    def between(self, start_ns: int, end_ns: int) -> Trace:
        """Return the samples from one time to another."""
        rows = slice(*np.searchsorted(self.time_ns, [start_ns, end_ns + 1]))
        times, values, unmoved = self.time_ns[rows], self.values[rows], self.unmoved_ns[rows]
        return Trace(self.channels, times, values, unmoved, self.locked, self.slow)

    def power(self, channel: str, start_ns: int, end_ns: int, step_s: float = 0.5) -> tuple[Times, Floats]:
        """Return the course of the power inside an interval, as the readings tell it.

        Args:
            channel: A gauge of watts, whose readings these are, or a counter of joules.
            start_ns: ``time.perf_counter_ns`` at the start.
            end_ns: The same at the end.
            step_s: The least time over which a counter's growth is called a power; its time is the middle.

        Returns:
            int64 (points,), ``time.perf_counter_ns``, and float64 (points,), watts; one point at least.

        Raises:
            MeasurementError: The interval is too short for it.
        """
        about = self.channel(channel)
        if about.form == "gauge":
            times, values = self._valid(about)
            inside = (times >= start_ns) & (times <= end_ns)
            times, powers = times[inside], values[inside]
        else:
            times, powers = self._growth(about, start_ns, end_ns, step_s)
        if not len(times):
            raise MeasurementError(f"{channel} has too few readings for a course of its power", "measure longer")
        return times, powers

    def _growth(self, about: Channel, start_ns: int, end_ns: int, step_s: float) -> tuple[Times, Floats]:
        """Return a counter's growth over steps inside an interval, as middles and powers."""
        anchors = self._anchors(about)
        times = (anchors.earliest_ns + anchors.latest_ns) // 2
        inside = (times >= start_ns) & (times <= end_ns)
        times, values = times[inside], anchors.value[inside]
        later = np.searchsorted(times, times + round(step_s * 1e9))
        first = np.flatnonzero(later < len(times))
        last = later[first]
        grown, length_s = values[last] - values[first], (times[last] - times[first]) / 1e9
        sane = grown >= 0  # a counter that was reset says nothing about the time across that
        return ((times[first] + times[last]) // 2)[sane], (grown / length_s)[sane]

    def standstill(self, channel: str, start_ns: int, end_ns: int) -> tuple[int, int]:
        """Return from when to when a channel gave the same value for longest, as readings inside an interval tell it.

        Returns:
            Times of the first and the last of these readings; twice the start where there is no reading.
        """
        times, values = self._valid(self.channel(channel))
        inside = (times >= start_ns) & (times <= end_ns)
        times, values = times[inside], values[inside]
        if not len(times):
            return start_ns, start_ns
        changed = np.flatnonzero(np.diff(values))
        first, last = np.append(0, changed + 1), np.append(changed, len(times) - 1)
        longest = int(np.argmax(times[last] - times[first]))
        return int(times[first[longest]]), int(times[last[longest]])

    def edges(self, channel: str, start_ns: int, end_ns: int) -> Times:
        """Return the times inside an interval at which a counter was seen to have moved.

        Returns:
            int64 (edges,), ``time.perf_counter_ns``.
        """
        times, values = self._valid(self.channel(channel))
        moved: Times = times[1:][np.diff(values) != 0]
        inside: Times = moved[(moved >= start_ns) & (moved <= end_ns)]
        return inside

    def readings(self, channel: str) -> tuple[Times, Floats]:
        """Return when a channel gave a value, and which: int64 and float64 (readings,).

        Raises:
            MeasurementError: The channel was not recorded.
        """
        return self._valid(self.channel(channel))

    def slack_s(self, channel: str) -> float:
        """Return half of what a read takes, by the median: how uncertain a value's time is; 0 for a quick meter.

        Raises:
            MeasurementError: The channel was not recorded.
        """
        about = self.channel(channel)
        valid = np.isfinite(self.values[:, self.channels.index(about)])
        if about.name not in self.slow or not valid.any():
            return 0.0
        return float(np.median(self.time_ns[valid] - self.unmoved_ns[valid])) / 2e9

    def _valid(self, about: Channel) -> tuple[Times, Floats]:
        column = self.values[:, self.channels.index(about)]
        valid = np.isfinite(column)
        times = self.time_ns[valid]
        if self.spans(about):  # somewhere between the read's beginning and its end
            times = middles(times, self.unmoved_ns[valid])
        return times, column[valid]

    def spans(self, about: Channel) -> bool:
        """Whether the two times of a sample are those of the beginning and the end of this channel's read."""
        return about.name in self.slow or self.locked is None

    def _inside(self, channel: str, start_ns: int, end_ns: int) -> Floats:
        times, values = self._valid(self.channel(channel))
        inside = values[(times >= start_ns) & (times <= end_ns)]
        if not len(inside):
            raise MeasurementError(f"{channel} has no value in the interval", "make it longer, or sample faster")
        return inside

    def _anchors(self, about: Channel) -> Anchors:
        """Return the points of a counter at which energy and time are both known."""
        valid = np.isfinite(self.values[:, self.channels.index(about)])
        times, values = self._valid(about)
        if about.name in self.slow or (self.spans(about) and not about.tick_s):
            return Anchors(self.unmoved_ns[valid], self.time_ns[valid], values, 0.0)
        if not about.tick_s:
            return Anchors(times, times, values, 0.0)
        earlier = np.concatenate([times[:1], times[:-1]])
        if about.name == self.locked:
            # after a search the edge is known to lie after the last poll, not only after the sample before
            earlier = np.maximum(np.minimum(self.unmoved_ns[valid], times), earlier)
        moved = np.concatenate([[False], np.diff(values) != 0]).astype(bool)
        return Anchors(earlier[moved], times[moved], values[moved], 0.9 * about.tick_s)

    def to_json(self) -> bytes:
        """Write the trace as JSON, which ``ReplayMeter`` plays."""
        values: list[list[Any]] = [[v if np.isfinite(v) else None for v in row] for row in self.values.tolist()]
        times, unmoved = self.time_ns.tolist(), self.unmoved_ns.tolist()
        return msgspec.json.encode(_Document(list(self.channels), times, values, unmoved, self.locked, list(self.slow)))

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            ConfigError: It is no trace.
        """
        try:
            document = msgspec.json.decode(data, type=_Document)
            values = [[np.nan if v is None else v for v in row] for row in document.values]
            return cls(document.channels, document.time_ns, values, document.unmoved_ns, document.locked, document.slow)
        except (msgspec.DecodeError, ValueError) as error:
            raise ConfigError(f"not a recorded trace ({error})", "check the file") from error


def middles(time_ns: Times, unmoved_ns: Times) -> Times:
    """Return the middles of reads that ended and began at these times: int64 (samples,)."""
    found: Times = time_ns - (time_ns - unmoved_ns) // 2
    return found


def _provenance(channel: Channel) -> Provenance:
    """A counter's energy is as good as the counter; integrated from a gauge, a measured one becomes derived."""
    if channel.form == "gauge" and channel.provenance is Provenance.MEASURED:
        return Provenance.DERIVED
    return channel.provenance
