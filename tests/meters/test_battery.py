from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from wattwerk.errors import MeasurementError, UnavailableError
from wattwerk.meters.battery import BatteryConfig, BatteryMeter
from wattwerk.records import Scope


def grow(root: Path, name: str = "BAT0", **files: str) -> Path:
    """Write a battery as Linux shows it."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in ({"type": "Battery", "status": "Discharging"} | files).items():
        (folder / file).write_text(f"{text}\n")
    return folder


def read(root: Path) -> float:
    """Open the meter and read it once."""
    return BatteryMeter(BatteryConfig(str(root))).read()[0]


def test_discharge_is_the_node(tmp_path: Path) -> None:
    """Microwatts become watts, of the scope node; current times voltage stands in; some drivers count negative."""
    grow(tmp_path, power_now="12500000")
    meter = BatteryMeter(BatteryConfig(str(tmp_path)))
    assert (meter.read(), meter.channels[0].scope) == ([12.5], Scope.NODE)
    (tmp_path / "BAT0" / "power_now").unlink()
    grow(tmp_path, current_now="-1000000", voltage_now="12000000")
    assert meter.read() == [12.0]


def test_two_batteries_are_summed(tmp_path: Path) -> None:
    """One discharges while the other rests; a mouse's battery is not the machine's."""
    grow(tmp_path, power_now="9000000")
    grow(tmp_path, "BAT1", status="Not charging", power_now="0")
    grow(tmp_path, "hidpp_battery_0", scope="Device", power_now="1000000")
    assert read(tmp_path) == 9.0


@pytest.mark.parametrize(
    "files",
    [
        {"status": "Charging", "power_now": "9000000"},
        {"status": "Full", "power_now": "0"},
        {"status": "", "power_now": "9000000"},
        {"power_now": "0"},
        {"power_now": "what"},
        {"power_now": "999000000000"},
        {"current_now": "1000000"},
    ],
)
def test_what_is_not_known_is_missing(tmp_path: Path, files: dict[str, str]) -> None:
    """On mains, and where the firmware has no value or an absurd one, the power is NaN, never 0."""
    grow(tmp_path, **files)
    assert math.isnan(read(tmp_path))
    assert not BatteryMeter.probe(str(tmp_path)).available


def test_no_battery_and_a_battery_that_goes(tmp_path: Path) -> None:
    """A desktop has none, which probe tells; one that is taken out is an error."""
    assert "wall meter" in str(BatteryMeter.probe(str(tmp_path)).remedy)
    with pytest.raises(UnavailableError):
        read(tmp_path)
    folder = grow(tmp_path, power_now="9000000")
    assert BatteryMeter.probe(str(tmp_path)).available
    meter = BatteryMeter(BatteryConfig(str(tmp_path)))
    shutil.rmtree(folder)
    with pytest.raises(MeasurementError, match="BAT0 is gone"):
        meter.read()
