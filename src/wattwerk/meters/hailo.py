"""Power of Hailo accelerators, through their Python package or the command hailortcli.

Source: Hailo, HailoRT's published source: hailortcli/power_measurement_command.cpp (what ``measure-power`` prints), and
the docstrings of its Python package, ``Control.power_measurement`` and ``stop_power_measurement``. Only
modules with a current sensor on them tell their power: evaluation boards and some M.2 modules.
"""

from __future__ import annotations

import importlib
import math
import re
from typing import Any, ClassVar, Final, Literal

import msgspec

from wattwerk.errors import MeasurementError, UnavailableError
from wattwerk.meters.base import Channel, Meter
from wattwerk.meters.command import ask
from wattwerk.meters.sensor import check_above_zero, parse, within
from wattwerk.records import Accelerator, Scope
from wattwerk.registry import Probe

_VALUE: Final = re.compile(r"^(?:Current power consumption|Average value) \(W\): (-?\d+(?:\.\d+)?)\s*$", re.MULTILINE)
_INSTALL: Final = "install HailoRT from Hailo's developer zone, or give its path as meters.hailo.command"
_UNSUPPORTED: Final = "this module has no sensor or is busy: use a wall meter; try `hailortcli measure-power`"
_PROBE_S: Final = 0.8


def parse_power(text: str, max_power_w: float = math.inf) -> float:
    """Return the watts that the command printed; NaN where it printed none or several, as for several devices."""
    values = _VALUE.findall(text)
    return within(parse(values[0]), 0.0, max_power_w) if len(values) == 1 else math.nan


class HailoConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the Hailo meter.

    Attributes:
        source: ``python`` asks the package hailo_platform, ``cli`` runs the command, ``auto`` tries both in turn.
        device: The device's PCIe address, such as ``0000:01:00.0``; empty for the only one.
        command: The command's first words.
        prefix: First word of the channels' names.
        timeout_s: How long the command may take; the package sets its own limit.
        interval_s: How far apart reads make sense; starting the command takes most of it.
        latency_s: How far values lag behind. The sensor renews its value every 2.2 ms, which counts as none.
        max_power_w: A power beyond it is a fault.
    """

    source: Literal["auto", "python", "cli"] = "auto"
    device: str = ""
    command: tuple[str, ...] = ("hailortcli",)
    prefix: str = "hailo0"
    timeout_s: float = 2.0
    interval_s: float = 0.5
    latency_s: float = 0.0
    max_power_w: float = 100.0


class _Package:
    """The device through hailo_platform."""

    words = ("power_w", "celsius")

    def __init__(self, config: HailoConfig) -> None:
        self._max_w = config.max_power_w
        try:
            hailo: Any = importlib.import_module("hailo_platform")
        except (ImportError, OSError) as error:
            raise UnavailableError(f"meters.hailo: {error}", _INSTALL) from error
        try:
            self._device = hailo.Device(config.device) if config.device else hailo.Device()
        except Exception as error:  # the package has a class for each of its statuses, and changes them
            raise UnavailableError(f"meters.hailo: no device ({error})", "look at `hailortcli scan`") from error

    def read(self) -> list[float]:
        control = self._device.control
        try:
            power_w = within(float(control.power_measurement()), 0.0, self._max_w)
        except Exception as error:
            raise MeasurementError(f"meters.hailo: no power ({error})", _UNSUPPORTED) from error
        try:
            celsius = within(float(control.get_chip_temperature().ts0_temperature), -100.0, 200.0)
        except Exception:  # a temperature is no reason to lose the power
            celsius = math.nan
        return [power_w, celsius]

    def close(self) -> None:
        release = getattr(self._device, "release", None)
        if release:
            release()


class _Command:
    """The device through hailortcli."""

    words = ("power_w",)

    def __init__(self, config: HailoConfig) -> None:
        self._config = config
        device = ["-s", config.device] if config.device else []
        self._words = [*config.command, "measure-power", *device] if config.command else []

    def read(self) -> list[float]:
        answer = ask(self._words, self._config.timeout_s, "meters.hailo", _INSTALL)
        count = len(_VALUE.findall(answer))
        if count > 1:
            raise MeasurementError(
                f"meters.hailo: {count} devices answer", "give the address of one as meters.hailo.device"
            )
        if answer.status or not count:
            raise MeasurementError(f"meters.hailo: {answer.summary()}", _UNSUPPORTED)
        return [parse_power(answer, self._config.max_power_w)]

    def close(self) -> None:
        return


def _open(config: HailoConfig) -> _Package | _Command:
    """Open the first way that gives a power.

    Raises:
        UnavailableError: None does.
    """
    ways: dict[str, type[_Package] | type[_Command]] = {"python": _Package, "cli": _Command}
    wanted = list(ways) if config.source == "auto" else [config.source]
    reasons: list[UnavailableError | MeasurementError] = []
    for way in wanted:
        source: _Package | _Command | None = None
        try:
            source = ways[way](config)
            source.read()
            return source
        except (UnavailableError, MeasurementError) as error:
            if source:
                source.close()
            reasons.append(error)
    last = reasons[-1]
    raise UnavailableError("; ".join(reason.message for reason in reasons), last.remedy) from last


class HailoMeter(Meter):
    """Read a Hailo accelerator.

    Channels: ``hailo0_power_w``; through the package also ``hailo0_celsius``. The command opens the device for each
    reading, which fails while another process holds it alone: then run that one with HailoRT's service.

    Attributes:
        interval_s: How far apart reads make sense.
        latency_s: How far values lag behind.
    """

    name: ClassVar[str] = "hailo"
    config: ClassVar[type[msgspec.Struct]] = HailoConfig
    interval_s = 0.5

    @classmethod
    def probe(cls) -> Probe:
        """Tell whether a device gives its power, and by which way, or why not."""
        try:
            meter = cls(HailoConfig(timeout_s=_PROBE_S))
        except UnavailableError as error:
            return Probe(False, error.message, error.remedy)
        meter.close()
        return Probe(True, ", ".join(channel.name for channel in meter.channels))

    def __init__(self, config: msgspec.Struct) -> None:
        """Open the meter.

        Raises:
            ConfigError: An option is not possible.
            UnavailableError: There is no device, or it has no power sensor.
        """
        assert isinstance(config, HailoConfig)
        numbers = {key: getattr(config, key) for key in ("timeout_s", "interval_s", "max_power_w")}
        check_above_zero("meters.hailo", **numbers)
        self._config = config
        self.interval_s, self.latency_s = config.interval_s, config.latency_s
        self._source = _open(config)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order of ``read``."""
        return tuple(
            Channel(
                name=f"{self._config.prefix}_{word}",
                form="gauge",
                scope=Scope.ACCELERATOR if word == "power_w" else None,
            )
            for word in self._source.words
        )

    def read(self) -> list[float]:
        """Return the power in watts, and the temperature.

        Raises:
            MeasurementError: The device gives no power.
        """
        return self._source.read()

    def accelerators(self) -> list[Accelerator]:
        """Return the device's name and address."""
        return [Accelerator(name="Hailo accelerator", prefix=self._config.prefix, address=self._config.device)]

    def close(self) -> None:
        """Release the device."""
        self._source.close()
