"""Discharge of a laptop's battery, read from Linux' power supplies: what the whole machine takes on battery.

Source: Linux kernel documentation, power/power_supply_class.rst and ABI/testing/sysfs-class-power.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar, Final

import msgspec

from wattwerk.errors import MeasurementError, UnavailableError
from wattwerk.meters.base import Channel, Meter
from wattwerk.meters.sensor import check_above_zero, read_number, read_text, within
from wattwerk.records import Scope
from wattwerk.registry import Probe

POWER_SUPPLY: Final = "/sys/class/power_supply"


class BatteryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the battery meter.

    Attributes:
        root: The folder that holds the power supplies.
        max_power_w: A battery's power beyond it is a fault.
        interval_s: How far apart reads make sense; firmware renews the value every few seconds at best.
        latency_s: How far values lag behind; embedded controllers state none.
    """

    root: str = POWER_SUPPLY
    max_power_w: float = 500.0
    interval_s: float = 1.0
    latency_s: float = 1.0


def _batteries(root: Path) -> list[Path]:
    """Return the machine's batteries; those of mice and headsets have the scope ``Device``."""
    found = [folder for folder in root.glob("*") if read_text(folder / "type") == "Battery"]
    return sorted(folder for folder in found if read_text(folder / "scope") != "Device")


def _power_w(folder: Path) -> float:
    """Return what a battery gives; NaN unless it discharges. Some drivers show discharge as a negative number."""
    status = read_text(folder / "status")
    if status != "Discharging":
        # of two batteries, one rests while the other discharges
        return 0.0 if status in ("Not charging", "Full") else math.nan
    power_w = abs(read_number(folder / "power_now")) / 1e6
    if math.isnan(power_w):
        power_w = abs(read_number(folder / "current_now")) * read_number(folder / "voltage_now") / 1e12
    return power_w or math.nan  # a machine that runs takes more than nothing: the firmware has no value yet


class BatteryMeter(Meter):
    """Read what the batteries of a laptop give.

    Channel: ``battery_power_w``, the sum of all batteries, which is what the whole machine takes, screen included, and
    without the losses of a power supply. NaN while it is on mains, since no battery tells then what the machine takes.

    Attributes:
        interval_s: How far apart reads make sense.
        latency_s: How far values lag behind.
    """

    name: ClassVar[str] = "battery"
    config: ClassVar[type[msgspec.Struct]] = BatteryConfig
    interval_s = 1.0
    latency_s = 1.0

    @classmethod
    def probe(cls, root: str = POWER_SUPPLY) -> Probe:
        """Tell whether there is a battery, and whether it discharges now."""
        try:
            meter = cls(BatteryConfig(root))
            power_w = meter.read()[0]
        except (UnavailableError, MeasurementError) as error:
            return Probe(False, error.message, error.remedy)
        names = ", ".join(folder.name for folder in meter._folders)
        if math.isnan(power_w):
            return Probe(False, f"battery: {names} does not discharge", "unplug the power supply while measuring")
        return Probe(True, f"{names} discharges")

    def __init__(self, config: msgspec.Struct) -> None:
        """Open the meter.

        Raises:
            ConfigError: An option is not possible.
            UnavailableError: There is no battery.
        """
        assert isinstance(config, BatteryConfig)
        check_above_zero("meters.battery", max_power_w=config.max_power_w, interval_s=config.interval_s)
        self._max_w = config.max_power_w
        self.interval_s, self.latency_s = config.interval_s, config.latency_s
        self._folders = _batteries(Path(config.root))
        if not self._folders:
            raise UnavailableError(f"battery: {config.root} has none", "use a wall meter")

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channel of ``read``."""
        return (Channel(name="battery_power_w", form="gauge", scope=Scope.NODE),)

    def read(self) -> list[float]:
        """Return the sum of the batteries' power in watts; NaN on mains.

        Raises:
            MeasurementError: A battery is gone.
        """
        if gone := [folder.name for folder in self._folders if not (folder / "status").exists()]:
            raise MeasurementError(f"battery: {gone[0]} is gone", "open the meter again once it is back")
        total_w = sum(within(_power_w(folder), 0.0, self._max_w) for folder in self._folders)
        return [total_w or math.nan]  # all full: on mains
