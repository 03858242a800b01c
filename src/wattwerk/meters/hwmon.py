"""Power and energy sensors that Linux shows as hwmon chips: GPUs of AMD and Intel, processors, power supplies, INA2xx.

Source: Linux kernel documentation, hwmon/sysfs-interface.rst, gpu/amdgpu/thermal.rst, hwmon/acpi_power_meter.rst,
hwmon/amd_energy.rst, hwmon/ina2xx.rst, ABI/testing/sysfs-driver-intel-i915-hwmon and -xe-hwmon; zenpower's readme.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final

import msgspec

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.base import Channel, Meter
from wattwerk.meters.sensor import Accumulator, check_above_zero, read_number, read_text, slug, within
from wattwerk.records import Scope
from wattwerk.registry import Probe, suggestion

HWMON: Final = "/sys/class/hwmon"
_FILE: Final = re.compile(r"(power|energy)(\d+)_(?:input|average)")


class _Chip(msgspec.Struct, frozen=True):
    """What is known of a chip: its scope, which labels have it, and which sensors are worth reading."""

    scope: Scope | None
    scoped: str = ".*"
    read: str = ".*"


#: xe's second energy is that of the package, which the card's contains or is contained in: it has no scope.
#: zenpower's cores and SoC are the two parts of a package. amd_energy also shows each core, inside its socket.
_CHIPS: Final = {
    "amdgpu": _Chip(Scope.ACCELERATOR, "|PPT"),
    "i915": _Chip(Scope.ACCELERATOR),
    "xe": _Chip(Scope.ACCELERATOR, "|card"),
    "power_meter": _Chip(Scope.NODE),
    "zenpower": _Chip(Scope.CPU_PACKAGE, "SVI2_P_(Core|SoC)"),
    "amd_energy": _Chip(Scope.CPU_PACKAGE, r"Esocket\d+", r"Esocket\d+"),
} | {f"ina{number}": _Chip(None) for number in (209, 219, 220, 226, 228, 230, 231, 233, 234, 237, 238, 260)}


class HwmonConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the hwmon meter.

    Attributes:
        root: The folder that holds the chips.
        chips: Names of the chips to read, as their file ``name`` says; None for all that are known.
        scopes: Scope of all sensors of a chip by its name: an INA2xx measures what it is wired to.
        max_power_w: A power beyond it, or a counter that grows faster, is a fault.
    """

    root: str = HWMON
    chips: list[str] | None = None
    scopes: dict[str, Scope] = {}
    max_power_w: float = 5000.0


class _Sensor:
    """One file of a chip."""

    def __init__(self, path: Path, channel: Channel, max_w: float) -> None:
        self.path, self.channel, self._max_w = path, channel, max_w
        self._counter = Accumulator(1e-6, 64, max_w) if channel.form == "counter" else None

    def read(self) -> float:
        if self._counter is None:
            return within(read_number(self.path) / 1e6, 0.0, self._max_w)
        text = read_text(self.path)
        # more digits than 64 bits have are no counter, and int() refuses thousands of them
        return (
            self._counter.energy_j(int(text), time.perf_counter_ns()) if re.fullmatch(r"\d{1,20}", text) else math.nan
        )


def _files(folder: Path) -> dict[tuple[str, int], Path]:
    """Return a chip's files by kind and number; the momentary power goes before the average of the same sensor."""
    found: dict[tuple[str, int], Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (path.name.endswith("_average"), path.name)):
        if match := _FILE.fullmatch(path.name):
            found.setdefault((match[1], int(match[2])), path)
    return dict(sorted(found.items()))


def _sensors(folder: Path, chip: str, number: int, config: HwmonConfig) -> Iterable[_Sensor]:
    about = _CHIPS.get(chip, _Chip(None))
    readable = {
        place: path
        for place, path in _files(folder).items()
        if re.fullmatch(about.read, read_text(folder / f"{place[0]}{place[1]}_label"))
    }
    for (kind, index), path in readable.items():
        label = read_text(folder / f"{kind}{index}_label")
        alone = sum(other == kind for other, _ in readable) == 1
        part = "" if alone else f"{slug(label)}_" if label else f"{index}_"
        if not alone and sum(read_text(folder / f"{kind}{other}_label") == label for _, other in readable) > 1:
            part = f"{part.rstrip('_')}_{index}_" if label else part
        scope = config.scopes.get(chip) or (about.scope if re.fullmatch(about.scoped, label) else None)
        unit = "power_w" if kind == "power" else "energy_j"
        name = f"hwmon_{slug(chip)}_{number}_{part}{unit}"
        channel = Channel(name=name, form="gauge" if kind == "power" else "counter", scope=scope)
        yield _Sensor(path, channel, config.max_power_w)


def _chips(config: HwmonConfig) -> Iterable[tuple[Path, str]]:
    """Yield folder and name of the chips to read, in the order of the kernel's numbers.

    Raises:
        UnavailableError: There is no hwmon.
    """
    root = Path(config.root)
    if not root.is_dir():
        raise UnavailableError(f"hwmon: {root} does not exist", "mount /sys into the container")
    for folder in sorted(root.glob("hwmon*"), key=lambda path: (len(path.name), path.name)):
        chip = read_text(folder / "name")
        # a chip that acpi_power_meter or a driver of an old kernel made has its files one level deeper
        place = folder if any(_FILE.fullmatch(path.name) for path in folder.iterdir()) else folder / "device"
        if chip in (_CHIPS if config.chips is None else config.chips) and place.is_dir():
            yield place, chip


def readable_chips(root: str = HWMON) -> list[str]:
    """Return the known chips with a sensor that can be read, in the order of the kernel's numbers."""
    found = []
    for chip in dict.fromkeys(chip for _, chip in _chips(HwmonConfig(root))):
        with suppress(UnavailableError):
            HwmonMeter(HwmonConfig(root, [chip]))
            found.append(chip)
    return found


class HwmonMeter(Meter):
    """Read the power and energy sensors of hwmon chips.

    Channels: ``hwmon_amdgpu_0_power_w``, ``hwmon_i915_0_energy_j``: chip, number among its like, and the sensor's label
    where a chip has several of a kind, as in ``hwmon_xe_0_card_energy_j``. Energy is counted from opening. Whether a
    power is momentary or an average is the driver's choice: amdgpu and power_meter average in firmware.
    """

    name: ClassVar[str] = "hwmon"
    config: ClassVar[type[msgspec.Struct]] = HwmonConfig

    @classmethod
    def probe(cls, root: str = HWMON) -> Probe:
        """Tell which sensors can be read, or why none."""
        try:
            meter = cls(HwmonConfig(root))
        except UnavailableError as error:
            return Probe(False, error.message, error.remedy)
        return Probe(True, ", ".join(channel.name for channel in meter.channels))

    def __init__(self, config: msgspec.Struct) -> None:
        """Open the meter.

        Raises:
            ConfigError: An option is not possible, or a chip is not there that has a scope.
            UnavailableError: There is no chip with such a sensor, or none can be read.
        """
        assert isinstance(config, HwmonConfig)
        check_above_zero("meters.hwmon", max_power_w=config.max_power_w)
        wanted = list(_CHIPS) if config.chips is None else config.chips
        if strange := [chip for chip in config.scopes if chip not in wanted]:
            raise ConfigError(
                f"meters.hwmon.scopes: {strange[0]} is not among the chips", suggestion(strange[0], wanted)
            )
        numbers: dict[str, int] = {}
        found: list[_Sensor] = []
        try:
            for folder, chip in _chips(config):
                found += _sensors(folder, chip, numbers.get(chip, 0), config)
                numbers[chip] = numbers.get(chip, 0) + 1
        except OSError as error:
            raise UnavailableError(f"hwmon: {error.filename} ({error.strerror})", "run as root") from error
        # a sensor that is silent now, as that of a GPU that sleeps, may speak later if its file can be opened
        self._sensors = [sensor for sensor in found if not math.isnan(sensor.read()) or _asleep(sensor.path)]
        if found and not self._sensors:
            raise UnavailableError(
                f"hwmon: {found[0].path} cannot be read", "`sudo chmod a+r` on it until the next boot, or run as root"
            )
        if not found:
            raise UnavailableError(
                f"hwmon: {config.root} has no power or energy sensor of {', '.join(wanted)}",
                "load the chip's driver, or name another chip as meters.hwmon.chips (`grep . /sys/class/hwmon/*/name`)",
            )

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order of ``read``."""
        return tuple(sensor.channel for sensor in self._sensors)

    def read(self) -> list[float]:
        """Return watts, and joules since opening; NaN where a sensor gave nothing.

        Raises:
            MeasurementError: All sensors are gone.
        """
        values = [sensor.read() for sensor in self._sensors]
        if all(math.isnan(value) for value in values) and not any(sensor.path.exists() for sensor in self._sensors):
            raise MeasurementError("hwmon: all sensors are gone", "look at `dmesg` for the chips' drivers")
        return values


def _asleep(path: Path) -> bool:
    try:
        path.read_bytes()
    except PermissionError:
        return False
    except OSError:
        return True
    return True
