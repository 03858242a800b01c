"""What the meters of sensors inside a machine have in common: values that can be, counters, and sysfs files."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Final

from wattwerk.errors import ConfigError

_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d+)?")


def parse(text: str) -> float:
    """Return the number of a text; NaN where it is none. ``int`` and ``float`` alone would take ``1_0`` and ``inf``."""
    return float(text) if _NUMBER.fullmatch(text.strip()) else math.nan


def read_text(path: Path) -> str:
    """Return a file's text without white space around it; empty where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def read_number(path: Path) -> float:
    """Return the number in a file; NaN where it is gone, is refused by its driver, or holds no number."""
    return parse(read_text(path))


def within(value: float, low: float, high: float) -> float:
    """Return a value that can be; NaN where it is not from low to high."""
    return value if low <= value <= high else math.nan


def slug(text: str) -> str:
    """Return a text as a part of a channel's name: small letters, digits and single underscores."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def check_above_zero(where: str, **values: float) -> None:
    """Check numbers of a configuration.

    Raises:
        ConfigError: One is not a finite number above 0.
    """
    for key, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{where}: {key} = {value:g} is not possible", "use a finite number above 0")


class Accumulator:
    """A counter that grows for ever, made of a device's counter of a known width.

    A fall of the counter is a wrap-around if the energy that this means is possible; a reading that is not possible
    gives NaN. If the next reading goes on from there, the device was reset: the energy starts again at 0, so that a
    trace sees that it ran backwards, instead of energy that nobody measured.

    Args:
        joules: What one unit of the device's counter is worth.
        bits: The counter's width.
        max_power_w: What the device can take at most.
    """

    def __init__(self, joules: float, bits: int, max_power_w: float) -> None:
        self.joules = joules
        self._range = 1 << bits
        self._max_power_w = max_power_w
        self._sum = 0
        self._good: tuple[int, int] | None = None
        self._doubtful: tuple[int, int] | None = None

    def energy_j(self, raw: int, time_ns: int) -> float:
        """Return the energy since the first reading in joules; NaN where the counter shows what cannot be.

        Args:
            raw: The device's counter, an exact integer, since 64 bits do not fit into a float.
            time_ns: ``time.perf_counter_ns`` of the reading.
        """
        if not 0 <= raw < self._range:
            return math.nan
        if self._good is None:
            self._sum = 0
        elif (grown := self._grown(self._good, raw, time_ns)) is not None:
            self._sum += grown
        elif self._doubtful and self._grown(self._doubtful, raw, time_ns) is not None:
            self._sum = 0
        else:
            self._doubtful = raw, time_ns
            return math.nan
        self._good, self._doubtful = (raw, time_ns), None
        return self._sum * self.joules

    def _grown(self, since: tuple[int, int], raw: int, time_ns: int) -> int | None:
        delta = (raw - since[0]) % self._range
        # a second more than the clock says: devices renew their counters at their own pace
        allowed_j = self._max_power_w * ((time_ns - since[1]) / 1e9 + 1.0)
        return delta if delta * self.joules <= allowed_j else None
