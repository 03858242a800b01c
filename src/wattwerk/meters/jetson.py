"""Rails of NVIDIA Jetson modules, measured by the INA3221 on the module and read from sysfs.

The newer layout, hwmon, came with JetPack 5; JetPack 4 has iio.

Source: NVIDIA, Jetson Linux Developer Guide, Platform Power and Performance (tables of the INA3221's rails):
https://docs.nvidia.com/jetson/archives/r36.3/DeveloperGuide/SD/PlatformPowerAndPerformance/JetsonOrinNanoSeriesJetsonOrinNxSeriesAndJetsonAgxOrinSeries.html
Linux kernel documentation (https://kernel.org/doc/Documentation/hwmon/ina3221.rst). Totals and both layouts agree with
jetson_stats (https://github.com/rbonghi/jetson_stats/blob/master/jtop/core/power.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, Final

import msgspec

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.base import Channel, Meter
from wattwerk.meters.sensor import check_above_zero, parse, read_number, read_text, slug, within
from wattwerk.records import Scope
from wattwerk.registry import Probe

#: Rails that carry all that the module takes; of a machine that has several, the first one counts.
_TOTALS: Final = ("VDD_IN", "POM_5V_IN")

#: Rails that carry one kind of load. A rail with several kinds, such as VDD_CPU_GPU_CV, fits no scope.
_SCOPES: Final = {
    Scope.ACCELERATOR: re.compile(r"(VDD_|VDD_SYS_|POM_5V_)?GPU|(VDD_)?CV"),
    Scope.CPU_PACKAGE: re.compile(r"(VDD_|VDD_SYS_|POM_5V_)?CPU"),
    Scope.DRAM: re.compile(r"VDDRQ|VDD_DDR|VDD_SYS_DDR"),
}


def rail_scopes(rails: Iterable[str], given: dict[str, Scope], where: str) -> dict[str, Scope | None]:
    """Return the scope of each rail.

    At most one rail is the board: VDD_IN, or POM_5V_IN, which all others are parts of. A rail of which it is not sure
    that it covers one scope alone has none: VDD_CPU_GPU_CV, SOC, and SYS5V, which on modules without an input rail is
    what is taken beside the other rails.

    Args:
        rails: Names as the module's device tree gives them.
        given: What the configuration says about some of them.
        where: The meter, for the error's text.

    Raises:
        ConfigError: The configuration names a rail that is not there.
    """
    names = list(rails)
    if strange := [rail for rail in given if rail not in names]:
        raise ConfigError(f"{where}.scopes: there is no rail {strange[0]}", f"use one of {', '.join(names)}")
    total = next((rail for rail in _TOTALS if rail in names), None)
    found: dict[str, Scope | None] = {}
    for rail in names:
        kinds = [scope for scope, pattern in _SCOPES.items() if pattern.fullmatch(rail)]
        found[rail] = given.get(rail) or (Scope.BOARD if rail == total else kinds[0] if kinds else None)
    return found


def rail_contents(rails: Iterable[str], given: Mapping[str, Scope], prefix: str) -> dict[str, tuple[str, ...]]:
    """Return of the input rail the parts that lie inside it, the GPU's too: all others whose scope is not the user's.

    Args:
        rails: As for ``rail_scopes``.
        given: Likewise.
        prefix: What the parts' names begin with.
    """
    names = list(rails)
    total = next((rail for rail in _TOTALS if rail in names), "")
    if total in given:
        return {}
    return {total: tuple(f"{prefix}_{slug(rail)}" for rail in names if rail != total and rail not in given)}


class JetsonConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the Jetson meter.

    Attributes:
        root: The folder that sysfs is mounted on, or one that holds a copy of it.
        prefix: First word of the channels' names.
        scopes: Scope of a rail by its name, where the meter's own choice does not fit the board.
        max_power_w: A rail's power beyond it is a fault.
    """

    root: str = "/sys"
    prefix: str = "jetson"
    scopes: dict[str, Scope] = {}
    max_power_w: float = 200.0


class _Rail(msgspec.Struct, frozen=True):
    name: str
    power_mw: Path | None
    volts_mv: Path
    current_ma: Path

    def read(self, max_w: float) -> list[float]:
        """Return watts, volts and amperes; a power that the chip gives goes before their product."""
        volts = within(read_number(self.volts_mv) / 1e3, 0.0, 60.0)
        amperes = within(read_number(self.current_ma) / 1e3, 0.0, 100.0)
        power = read_number(self.power_mw) / 1e3 if self.power_mw else volts * amperes
        return [within(power, 0.0, max_w), volts, amperes]


def _hwmon(root: Path) -> Iterable[_Rail]:
    for folder in sorted(root.glob("bus/i2c/drivers/ina3221*/*/hwmon/hwmon*")):
        for number in (1, 2, 3):  # 4 to 6 are the shunts' voltages, 7 is their sum
            if name := read_text(folder / f"in{number}_label"):
                yield _Rail(name, None, folder / f"in{number}_input", folder / f"curr{number}_input")


def _iio(root: Path) -> Iterable[_Rail]:
    for folder in sorted(root.glob("bus/i2c/drivers/ina3221*/*/iio*device*")):
        for number in (0, 1, 2):
            if name := read_text(folder / f"rail_name_{number}"):
                files = [folder / f"in_{word}{number}_input" for word in ("power", "voltage", "current")]
                yield _Rail(name, *files)


def _rails(root: Path) -> list[_Rail]:
    """Return the rails by name, each once: the newer layout goes before the older."""
    found: dict[str, _Rail] = {}
    for rail in [*_hwmon(root), *_iio(root)]:
        if rail.name.upper() != "NC":  # not connected
            found.setdefault(rail.name, rail)
    return list(found.values())


class JetsonMeter(Meter):
    """Read the rails of a Jetson module.

    Channels: ``jetson_vdd_in_power_w``, ``jetson_vdd_in_volts`` and ``jetson_vdd_in_amperes``, and so for each rail.
    The chip averages over some milliseconds, as its driver sets it up; volts and amperes are read one after the other.
    """

    name: ClassVar[str] = "jetson"
    config: ClassVar[type[msgspec.Struct]] = JetsonConfig

    @classmethod
    def probe(cls, root: str = "/sys") -> Probe:
        """Tell which rails can be read, or why none."""
        try:
            meter = cls(JetsonConfig(root))
        except UnavailableError as error:
            return Probe(False, error.message, error.remedy)
        return Probe(True, ", ".join(rail.name for rail in meter._rails))

    def __init__(self, config: msgspec.Struct) -> None:
        """Open the meter.

        Raises:
            ConfigError: An option is not possible.
            UnavailableError: There is no rail, or none can be read.
        """
        assert isinstance(config, JetsonConfig)
        check_above_zero("meters.jetson", max_power_w=config.max_power_w)
        self._max_w = config.max_power_w
        self._rails = _rails(Path(config.root))
        if not self._rails:
            raise UnavailableError(
                f"Jetson: {config.root}/bus/i2c/drivers/ina3221 has no rail",
                "on a Jetson: `sudo modprobe ina3221`, mount /sys into the container, or use tegrastats",
            )
        if all(math.isnan(value) for rail in self._rails for value in rail.read(self._max_w)):
            raise UnavailableError("Jetson: no rail can be read", "run as root, or make the INA3221's files readable")
        names = [rail.name for rail in self._rails]
        scopes = rail_scopes(names, config.scopes, "meters.jetson")
        contents = rail_contents(names, config.scopes, config.prefix)
        self._channels = tuple(
            Channel(
                name=f"{config.prefix}_{slug(rail.name)}_{word}",
                form="gauge",
                scope=scope,
                contains=contents.get(rail.name, ()) if word == "power_w" else (),
            )
            for rail in self._rails
            for word, scope in (("power_w", scopes[rail.name]), ("volts", None), ("amperes", None))
        )

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order of ``read``."""
        return self._channels

    def read(self) -> list[float]:
        """Return watts, volts and amperes of each rail, NaN where one gave nothing.

        Raises:
            MeasurementError: No rail answers any more.
        """
        values = [value for rail in self._rails for value in rail.read(self._max_w)]
        if all(math.isnan(value) for value in values):
            raise MeasurementError("Jetson: no rail answers any more", "look at `dmesg` for the INA3221")
        return values


def milliwatts(text: str) -> float:
    """Return watts of a text in milliwatts, with or without its unit; NaN where it is no number."""
    return parse(text.removesuffix("mW")) / 1e3
