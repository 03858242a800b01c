"""What the meters of buildings have in common: a list of channels, each mapped to a value of a device.

A device gives numbers in units of its own: tenths of kilowatt-hours in 32 bits, watts as text. A ``MappedChannel`` says
what such a number means; a ``Quantity`` turns the numbers of one channel into SI values, undoes wrap-around, keeps out
what cannot be, and counts it.
"""

from __future__ import annotations

import importlib
import math
import os
import re
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final, Literal

import msgspec

from wattwerk.errors import ConfigError, UnavailableError, WattwerkError
from wattwerk.meters.base import Channel, Meter
from wattwerk.meters.sections import options_of, probe_configured
from wattwerk.records import Scope
from wattwerk.registry import Probe
from wattwerk.units import UNITS, unit_of

#: Units of a channel beside those of the figures.
_MORE_UNITS: Final = ("volts", "amperes")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MOST_COUNTED: Final = 2.0**53  # beyond it, a float does not count in ones
_ABSOLUTE_ZERO_CELSIUS: Final = -273.15
_INSTALL: Final = 'pip install "wattwerk[meters]"'


class MappedChannel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one number of a device means.

    Attributes:
        name: The channel's name; its last word is the unit: ``rack_power_w``, ``rack_energy_j``.
        factor: What the device's number is multiplied by to get the SI unit: 3.6e6 for kilowatt-hours.
        form: ``counter`` or ``gauge``; by default what the unit says: joules are counted, all else is momentary.
        scope: What a power or energy covers; by default ``wall`` for these, and nothing for all else.
        minimum: A gauge's value below it becomes NaN; by default 0, or absolute zero for a temperature.
        maximum: A gauge's value above it becomes NaN.
        max_power_w: What a counter of joules can grow by in a second at most; a jump beyond it is no energy.
        wraps_at: The device's number at which a counter starts again at 0, such as 4294967296 for 32 bits; None where
            it is not known or does not happen.
        step: By how much a counter grows at least when it moves, in joules; by default one unit of the device's where
            that counts in whole numbers, else 0.
        accuracy_ratio: The device's own error bound as a fraction, where its maker states one.
        contains: Names of parts or channels that lie inside what this one measures, also patterns such as ``rack_l*``.

    Raises:
        ConfigError: The name has no unit, or another value does not fit it.
    """

    name: str
    factor: float = 1.0
    form: Literal["counter", "gauge"] | None = None
    scope: Scope | None = None
    minimum: float | None = None
    maximum: float = math.inf
    max_power_w: float = 1e5
    wraps_at: float | None = None
    step: float | None = None
    accuracy_ratio: float | None = None
    contains: list[str] = []

    def __post_init__(self) -> None:
        unit = self._unit()
        if self.form not in (None, _form(unit)):
            raise ConfigError(
                f"channel {self.name}: form = {self.form!r} does not fit its unit",
                f"a name in _{unit} is a {_form(unit)}: leave out form, or correct the name",
            )
        if self.scope and unit not in ("w", "j"):
            raise ConfigError(f"channel {self.name}: only a power or an energy has a scope", "leave out scope")
        if not math.isfinite(self.factor) or self.factor == 0 or (unit == "j" and self.factor < 0):
            raise ConfigError(
                f"channel {self.name}: factor = {self.factor:g} is not possible",
                "use the number of SI units in one of the device's, such as 3.6e6 for kilowatt-hours",
            )
        for key in ("max_power_w", "wraps_at", "step", "accuracy_ratio"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise ConfigError(f"channel {self.name}: {key} = {value:g} is not possible", "use more than 0")
        if not self.lowest() <= self.maximum:
            raise ConfigError(
                f"channel {self.name}: nothing is between {self.lowest():g} and {self.maximum:g}",
                "correct minimum or maximum",
            )

    def _unit(self) -> str:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"channel name {self.name!r}", "use small letters, digits and _, such as rack_power_w")
        for unit in _MORE_UNITS:
            if self.name.endswith(f"_{unit}"):
                return unit
        try:
            return unit_of(self.name)
        except ValueError as error:
            raise ConfigError(
                f"channel name {self.name!r} ends in no known unit",
                f"end it in _w for watts, _j for joules, or in one of {', '.join([*UNITS, *_MORE_UNITS])}",
            ) from error

    def channel(self) -> Channel:
        """Return the channel as the recorder knows it."""
        unit = self._unit()
        return Channel(
            name=self.name,
            form=_form(unit),
            scope=self.scope or (Scope.WALL if unit in ("w", "j") else None),
            accuracy_ratio=self.accuracy_ratio,
            limit=self.maximum if math.isfinite(self.maximum) else None,
            signed=self.lowest() < 0,
            step=self.step or 0.0,
            contains=tuple(self.contains),
        )

    def whole(self) -> float | None:
        """Return the step of a counter that counts in whole numbers, if nothing else is given; None for a gauge."""
        return self.step or (self.factor if _form(self._unit()) == "counter" else None)

    def lowest(self) -> float:
        """Return the least value that can be, in the SI unit."""
        if self.minimum is not None:
            return self.minimum
        return _ABSOLUTE_ZERO_CELSIUS if self.name.endswith("_celsius") else 0.0


def _form(unit: str) -> Literal["counter", "gauge"]:
    return "counter" if unit == "j" else "gauge"


def check_channels(channels: Sequence[MappedChannel], where: str) -> None:
    """Check that there are channels and that no two have the same name.

    Raises:
        ConfigError: Otherwise.
    """
    if not channels:
        raise ConfigError(f"{where}: no channels", f"add a table [[{where}.channels]] for each value to read")
    names = [channel.name for channel in channels]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{where}: two channels are called {double}", "give each a name of its own")


def check_positive(config: msgspec.Struct, where: str, *keys: str) -> None:
    """Check options that have to be finite and more than 0.

    Raises:
        ConfigError: One is not.
    """
    for key in keys:
        value = getattr(config, key)
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{where}: {key} = {value:g} is not possible", "use a finite number above 0")


def check_peer(config: Any, where: str) -> None:
    """Check the options that all meters on a network have: host, port, timeout_s, interval_s, latency_s.

    Raises:
        ConfigError: One is not possible.
    """
    if not config.host:
        raise ConfigError(f"{where}: host is empty", "use the device's name or address")
    if config.port is not None and not 1 <= config.port <= 65535:
        raise ConfigError(f"{where}: port = {config.port} is not possible", "use 1 to 65535")
    check_positive(config, where, "timeout_s", "interval_s")
    if not (math.isfinite(config.latency_s) and config.latency_s >= 0):
        raise ConfigError(f"{where}: latency_s = {config.latency_s:g} is not possible", "use 0 or more")


def secret(value: str, variable: str, where: str) -> str:
    """Return a password that is given, or that stands in an environment variable.

    Args:
        value: The password itself; empty for none.
        variable: The environment variable's name; empty for none.
        where: The key it belongs to, for the error's text.

    Raises:
        ConfigError: Both are given, or the variable is not set.
    """
    if value and variable:
        raise ConfigError(f"{where} and {where}_env are both given", "leave out one of them")
    if not variable:
        return value
    if not os.environ.get(variable):
        raise ConfigError(f"{where}_env: the environment variable {variable} is not set", f"export {variable}=…")
    return os.environ[variable]


def load_library(module: str, meter: str) -> ModuleType:
    """Import the library that a meter needs.

    Raises:
        UnavailableError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnavailableError(f"{meter}: {error}", f"`{_INSTALL}`") from error


def number(raw: object) -> float:
    """Return a device's number, given as a number or as a decimal text.

    Raises:
        ValueError: It is no finite number.
    """
    if isinstance(raw, str) and _NUMBER.fullmatch(raw.strip()):
        raw = float(raw)
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise ValueError(f"{str(raw)[:40]!r} is no number")
    try:
        value = float(raw)
    except OverflowError as error:
        raise ValueError("an integer beyond all floats") from error
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return value


class Quantity:
    """One channel: from the numbers of a device to values in SI units.

    A counter gives what the device counted so far, and goes on from there for ever. Where the number falls, it wrapped
    around if ``wraps_at`` is known and the energy that this would mean is possible. Everything else that is not
    possible gives NaN. If the reading after it goes on from there, the device was reset, and nobody knows the energy
    since the last good reading: the channel starts again at 0, and a trace over that time says that the counter ran
    backwards.
    """

    def __init__(self, spec: MappedChannel) -> None:
        self.spec = spec
        self.channel = spec.channel()
        self.faults = 0
        self.last_fault = ""
        self._total_j = 0.0
        self._good: tuple[float, int] | None = None
        self._doubtful: tuple[float, int] | None = None

    def value(self, raw: object, time_ns: int) -> float:
        """Return the SI value of a device's number; NaN, counted as a fault, where it cannot be.

        Args:
            raw: The device's number.
            time_ns: ``time.perf_counter_ns`` of the reading.
        """
        try:
            found = number(raw)
            return self._count(found, time_ns) if self.channel.form == "counter" else self._gauge(found)
        except ValueError as error:
            return self.fault(str(error))

    def fault(self, text: str) -> float:
        """Count a fault and return the NaN that stands for the value."""
        self.faults += 1
        self.last_fault = text
        return math.nan

    def described_fault(self) -> str | None:
        """Return what went wrong so far, in words; None if nothing did."""
        return f"{self.channel.name}: {self.faults} faults, the last one: {self.last_fault}" if self.faults else None

    def _gauge(self, raw: float) -> float:
        value = raw * self.spec.factor
        if not (math.isfinite(value) and self.spec.lowest() <= value <= self.spec.maximum):
            raise ValueError(f"{value:g} is beyond what can be")
        return value

    def _count(self, raw: float, time_ns: int) -> float:
        if not 0 <= raw < (self.spec.wraps_at or _MOST_COUNTED):
            raise ValueError(f"{raw:g} is beyond the counter's range")
        if self._good is None:
            self._total_j = raw * self.spec.factor
        elif (grown := self._grown(self._good, raw, time_ns)) is not None:
            self._total_j += grown
        elif self._doubtful and self._grown(self._doubtful, raw, time_ns) is not None:
            self._total_j = 0.0
            self.fault("the counter was reset")
        else:
            self._doubtful = raw, time_ns
            raise ValueError(f"the counter went from {self._good[0]:g} to {raw:g}")
        self._good, self._doubtful = (raw, time_ns), None
        return self._total_j

    def _grown(self, since: tuple[float, int], raw: float, time_ns: int) -> float | None:
        """Return the energy since an earlier reading; None if it is not certain."""
        delta = raw - since[0]
        if delta < 0 and self.spec.wraps_at is not None:
            delta += self.spec.wraps_at
        # one unit of the device's more than the power allows: its steps need not fall on the readings
        allowed_j = self.spec.max_power_w * (time_ns - since[1]) / 1e9 + self.spec.factor
        return delta * self.spec.factor if 0 <= delta * self.spec.factor <= allowed_j else None


class MappedMeter(Meter):
    """A meter whose channels are mapped to numbers of a device: what its class says, its configuration has to tell.

    Attributes:
        interval_s: How far apart reads make sense, as configured.
        latency_s: How far the values lag behind, as configured.
    """

    interval_s = 1.0
    _quantities: Sequence[Quantity] = ()
    _doubts: Sequence[str] = ()

    @classmethod
    def probe(cls) -> Probe:
        """Tell whether the configured device answers; without a section in the configuration there is none."""
        return probe_section(cls)

    def _paced(self, config: Any) -> None:
        self.interval_s, self.latency_s = config.interval_s, config.latency_s

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order of ``read``."""
        return tuple(quantity.channel for quantity in self._quantities)

    def faults(self) -> list[str]:
        """Return why values are to be doubted, and what was wrong with them so far, in words."""
        return [*self._doubts, *(text for quantity in self._quantities if (text := quantity.described_fault()))]


def probe_section(meter: type[Meter]) -> Probe:
    """Open a meter with the user's section ``[meters.<name>]`` and tell what it found; without one it has no address.

    Args:
        meter: A meter that cannot be found without configuration.
    """
    try:
        options = options_of(meter.name)
    except WattwerkError as error:
        return Probe(False, error.message, error.remedy)
    if not options:
        return Probe(False, f"{meter.name}: not configured", f"add a section [meters.{meter.name}] to config.toml")
    return probe_configured(meter, options)
