"""What a meter cannot have seen: negative power, values beyond a limit, counters that run backwards, frozen values.

Impossible values become NaN, so that they are a gap and no measurement; what may be true, but is strange, is told. Both
end up among the recorder's faults.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from wattwerk.meters.base import Channel
from wattwerk.records import Provenance
from wattwerk.units import UNITS, times, unit_of

FROZEN_S: Final = 60.0
FROZEN_READS: Final = 20
_STILL_W: Final = 5.0  # below this power a counter with coarse steps may well stand still for a minute


class Plausibility:
    """Judges the values of one meter, read by read.

    Args:
        channels: The meter's channels, in the order of its values.
    """

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._series = [_Series(channel) for channel in channels]

    def judge(self, values: Sequence[float], time_ns: int) -> list[float]:
        """Return the values, NaN where one cannot be."""
        judged = [series.judge(value, time_ns) for series, value in zip(self._series, values, strict=True)]
        powers_w = [series.last for series in self._series if series.is_power and not math.isnan(series.last)]
        power_w = max(powers_w, default=0.0)
        for series in self._series:
            series.look_for_standstill(time_ns, power_w)
        return judged

    def faults(self) -> list[str]:
        """Return what was impossible or strange, in words."""
        return [fault for series in self._series for fault in series.faults()]


class _Series:
    """One channel over time."""

    def __init__(self, channel: Channel) -> None:
        self.last = math.nan
        self.is_power = channel.form == "gauge" and channel.scope is not None and channel.name.endswith("_w")
        self._channel = channel
        self._since_ns = 0
        self._reads = 0
        self._doubtful = math.nan
        self._impossible = 0
        self._example = math.nan
        self._resets = 0
        self._frozen_s = 0.0

    def judge(self, value: float, time_ns: int) -> float:
        if math.isnan(value):
            return value
        if self._is_impossible(value):
            self._impossible += 1
            self._example = value
            return math.nan
        if self._channel.form == "counter" and value < self.last and not self._is_reset(value):
            return math.nan
        if value != self.last:
            self._since_ns, self._reads = time_ns, 0
        self.last = value
        self._reads += 1
        return value

    def _is_impossible(self, value: float) -> bool:
        channel = self._channel
        too_low = (self.is_power or channel.form == "counter") and value < 0 and not channel.signed
        return math.isinf(value) or too_low or (channel.limit is not None and abs(value) > channel.limit)

    def _is_reset(self, value: float) -> bool:
        """Tell a reset from a single bad read: after a reset the next read lies low, too."""
        if math.isnan(self._doubtful) or value < self._doubtful:
            self._doubtful = value
            return False
        self._doubtful = math.nan
        self._resets += 1
        return True

    def look_for_standstill(self, time_ns: int, power_w: float) -> None:
        """Note a value that has been the same for long, of a sensor that should see it move."""
        moves = self.is_power and self.last > 0
        grows = self._channel.form == "counter" and self._channel.scope is not None and power_w > _STILL_W
        still_s = (time_ns - self._since_ns) / 1e9
        measured = self._channel.provenance is Provenance.MEASURED
        if measured and (moves or grows) and self._reads >= FROZEN_READS and still_s >= FROZEN_S:
            self._frozen_s = max(self._frozen_s, still_s)

    def faults(self) -> list[str]:
        name, found = self._channel.name, []
        if self._impossible:
            shown = _shown(name, self._example)
            found.append(f"{name}: {self._impossible} values left out that cannot be, the last one {shown}")
        if self._resets:
            found.append(
                f"{name}: ran backwards {times(self._resets)}, so it was reset; energy across that is not known"
            )
        if self._frozen_s:
            shown = _shown(name, self.last)
            found.append(f"{name}: gave {shown} for {self._frozen_s:.0f} s without any change, so it may be frozen")
        return found


def _shown(name: str, value: float) -> str:
    try:
        symbol = UNITS[unit_of(name)][0]
    except ValueError:  # a meter of somebody else's
        symbol = ""
    return f"{value:g} {symbol}".rstrip()
