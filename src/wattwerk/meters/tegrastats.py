"""Power, load and temperatures of NVIDIA Jetson modules as the command tegrastats prints them.

Source: NVIDIA, Jetson Linux Developer Guide, Tegrastats Utility.
"""

from __future__ import annotations

import math
import re
from typing import ClassVar, Final

import msgspec

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.base import Channel, Meter
from wattwerk.meters.command import Lines
from wattwerk.meters.jetson import milliwatts, rail_contents, rail_scopes
from wattwerk.meters.sensor import check_above_zero, parse, slug, within
from wattwerk.records import Scope
from wattwerk.registry import Probe

#: ``VDD_IN 4524mW/4500mW`` (now/average) of newer releases, ``POM_5V_IN 2542/2500`` of older ones.
_RAIL: Final = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (-?\d+(?:mW)?)/(-?\d+(?:mW)?)(?!\S)")
_TEMPERATURE: Final = re.compile(r"(?<!\S)([A-Za-z][A-Za-z0-9_]*)@(-?\d+(?:\.\d+)?)C(?!\S)")
_GPU: Final = re.compile(r"(?<!\S)GR3D_FREQ (\d+)%")
_INSTALL: Final = "it comes with Jetson Linux: run on a Jetson, or give its path as meters.tegrastats.command"
_PROBE_S: Final = 0.8


def parse_line(line: str, max_power_w: float = math.inf) -> dict[str, float]:
    """Return what a line tells: ``rail VDD_IN`` in watts, ``temperature cpu`` in °C, ``gpu`` as a fraction.

    What cannot be is NaN; what cannot be recognised is left out.
    """
    found = {f"rail {name}": within(milliwatts(now), 0.0, max_power_w) for name, now, _ in _RAIL.findall(line)}
    # a sensor of a part that is switched off shows -256
    found |= {f"temperature {name}": within(parse(text), -100.0, 200.0) for name, text in _TEMPERATURE.findall(line)}
    if load := _GPU.search(line):
        found["gpu"] = within(parse(load[1]) / 100, 0.0, 1.0)
    return found


class TegrastatsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the tegrastats meter.

    Attributes:
        command: The command's first words; ``--interval`` is added.
        period_s: How far apart its lines are.
        timeout_s: How long opening waits for the first line.
        stale_s: A line older than this gives NaN; None for three periods, at least a second.
        latency_s: How far values lag behind; None for the period, since a line is kept until the next one comes.
        prefix: First word of the channels' names.
        scopes: Scope of a rail by its name, where the meter's own choice does not fit the board.
        max_power_w: A rail's power beyond it is a fault.
    """

    command: tuple[str, ...] = ("tegrastats",)
    period_s: float = 0.1
    timeout_s: float = 3.0
    stale_s: float | None = None
    latency_s: float | None = None
    prefix: str = "tegrastats"
    scopes: dict[str, Scope] = {}
    max_power_w: float = 200.0


def _channel(key: str, prefix: str, scopes: dict[str, Scope | None], contents: dict[str, tuple[str, ...]]) -> Channel:
    kind, _, name = key.partition(" ")
    if kind == "gpu":
        return Channel(name=f"{prefix}_gpu_utilisation_ratio", form="gauge")
    if kind == "temperature":
        return Channel(name=f"{prefix}_{slug(name)}_celsius", form="gauge")
    inner = contents.get(name, ())
    return Channel(name=f"{prefix}_{slug(name)}_power_w", form="gauge", scope=scopes[name], contains=inner)


class TegrastatsMeter(Meter):
    """Read the lines of tegrastats.

    Channels: ``tegrastats_vdd_in_power_w`` for each rail, ``tegrastats_cpu_celsius`` for each temperature, and
    ``tegrastats_gpu_utilisation_ratio``: those of the first line. The values are the momentary ones, not the averages
    that the command prints behind them. If it ends, it is started again once; a silent one gives NaN.

    Attributes:
        interval_s: The period of the lines.
        latency_s: How far values lag behind.
    """

    name: ClassVar[str] = "tegrastats"
    config: ClassVar[type[msgspec.Struct]] = TegrastatsConfig
    interval_s = 0.1

    @classmethod
    def probe(cls) -> Probe:
        """Tell which rails the command prints, or why none."""
        try:
            meter = cls(TegrastatsConfig(timeout_s=_PROBE_S))
        except UnavailableError as error:
            return Probe(False, error.message, error.remedy)
        meter.close()
        return Probe(True, ", ".join(channel.name for channel in meter.channels if channel.name.endswith("_w")))

    def __init__(self, config: msgspec.Struct) -> None:
        """Open the meter.

        Raises:
            ConfigError: An option is not possible.
            UnavailableError: There is no such command, or it prints no power.
        """
        assert isinstance(config, TegrastatsConfig)
        period_ms = round(config.period_s * 1e3) if math.isfinite(config.period_s) else 0
        check_above_zero(
            "meters.tegrastats", period_s=period_ms, timeout_s=config.timeout_s, max_power_w=config.max_power_w
        )
        self._max_w = config.max_power_w
        self._stale_s = max(1.0, 3 * config.period_s) if config.stale_s is None else config.stale_s
        self.interval_s = config.period_s
        self.latency_s = config.period_s if config.latency_s is None else config.latency_s
        command = [*config.command, "--interval", str(period_ms)] if config.command else []
        self._lines = Lines(command, "meters.tegrastats", _INSTALL)
        try:
            self._keys = self._first(config)
            rails = [key.removeprefix("rail ") for key in self._keys if key.startswith("rail ")]
            scopes = rail_scopes(rails, config.scopes, "meters.tegrastats")
            contents = rail_contents(rails, config.scopes, config.prefix)
        except (ConfigError, UnavailableError):
            self._lines.close()
            raise
        self._channels = tuple(_channel(key, config.prefix, scopes, contents) for key in self._keys)

    def _first(self, config: TegrastatsConfig) -> list[str]:
        line = self._lines.first(config.timeout_s)
        keys = list(parse_line(line))
        if not any(key.startswith("rail ") for key in keys):
            told = f"printed no power: {line[:120]!r}" if line else f"printed nothing within {config.timeout_s:g} s"
            raise UnavailableError(
                f"meters.tegrastats: {config.command[0]} {told}",
                "run it by hand, as root; not all modules have sensors",
            )
        return keys

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order of ``read``."""
        return self._channels

    def read(self) -> list[float]:
        """Return the values of the newest line, NaN where it lacks one or is too old.

        Raises:
            MeasurementError: The command ended, and ended again after it was started once more.
        """
        line = self._lines.newest(self._stale_s)
        if not line and not self._lines.alive:
            raise MeasurementError("meters.tegrastats: the command ended twice", "run it by hand to see why")
        found = parse_line(line, self._max_w)
        return [found.get(key, math.nan) for key in self._keys]

    def close(self) -> None:
        """End the command."""
        self._lines.close()
