from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.hwmon import HwmonConfig, HwmonMeter
from wattwerk.records import Scope


def grow(root: Path, number: int, chip: str, **files: str) -> Path:
    """Write a chip as Linux' documentation describes it."""
    folder = root / f"hwmon{number}"
    folder.mkdir(parents=True)
    for file, text in ({"name": chip} | files).items():
        (folder / file).write_text(f"{text}\n")
    return folder


def values(meter: HwmonMeter) -> dict[str, float]:
    """Read the meter once: channel -> value."""
    return dict(zip([channel.name for channel in meter.channels], meter.read(), strict=True))


def opened(root: Path, **more: object) -> HwmonMeter:
    """Open the meter on a tree."""
    return HwmonMeter(HwmonConfig(str(root), **more))


def scopes(meter: HwmonMeter) -> dict[str, Scope | None]:
    """Return the scope of each channel."""
    return {channel.name: channel.scope for channel in meter.channels}


def test_known_chips_have_scopes(tmp_path: Path) -> None:
    """Each known chip gets its scope, in watts; one that nobody knows is left alone, an INA2xx has none."""
    grow(tmp_path, 0, "amdgpu", power1_average="71000000", power1_label="PPT")
    grow(tmp_path, 1, "power_meter", power1_average="350000000")
    grow(tmp_path, 2, "ina226", power1_input="2500000", in1_input="5000")
    grow(tmp_path, 3, "amdgpu", power1_input="5000000", power1_average="9000000", power1_cap="9000000")
    grow(tmp_path, 4, "nvme", power1_input="1")
    meter = opened(tmp_path)
    assert values(meter) == {
        "hwmon_amdgpu_0_power_w": 71.0,
        "hwmon_power_meter_0_power_w": 350.0,
        "hwmon_ina226_0_power_w": 2.5,
        "hwmon_amdgpu_1_power_w": 5.0,
    }
    assert list(scopes(meter).values()) == [Scope.ACCELERATOR, Scope.NODE, None, Scope.ACCELERATOR]
    board = opened(tmp_path, chips=["ina226"], scopes={"ina226": Scope.BOARD})
    assert scopes(board) == {"hwmon_ina226_0_power_w": Scope.BOARD}


def test_nothing_counts_twice(tmp_path: Path) -> None:
    """Of a card and its package the card has the scope; cores inside a socket are not read."""
    grow(tmp_path, 0, "xe", energy1_input="5", energy1_label="card", energy2_input="3", energy2_label="pkg")
    grow(
        tmp_path, 1, "amd_energy",
        energy1_input="5", energy1_label="Ecore000", energy2_input="3", energy2_label="Esocket0",
        energy3_input="3", energy3_label="Esocket1",
    )  # fmt: skip
    assert scopes(opened(tmp_path)) == {
        "hwmon_xe_0_card_energy_j": Scope.ACCELERATOR,
        "hwmon_xe_0_pkg_energy_j": None,
        "hwmon_amd_energy_0_esocket0_energy_j": Scope.CPU_PACKAGE,
        "hwmon_amd_energy_0_esocket1_energy_j": Scope.CPU_PACKAGE,
    }


def test_an_energy_counter(tmp_path: Path) -> None:
    """Microjoules since opening; around 64 bits none is lost; a bad reading is NaN, a reset starts at 0."""
    path = grow(tmp_path, 0, "i915", energy1_input=str(2**64 - 500_000)) / "energy1_input"
    meter = opened(tmp_path)
    path.write_text("500000")
    assert values(meter) == {"hwmon_i915_0_energy_j": 1.0}
    for text in ("900000000000000", "-5", "what", str(2**64), "9" * 5000, ""):
        path.write_text(text)
        assert math.isnan(meter.read()[0]), text
    path.write_text("1500000")
    assert meter.read() == [2.0]
    path.write_text("10")
    assert math.isnan(meter.read()[0])
    path.write_text("11")
    assert meter.read() == [0.0]


@pytest.mark.parametrize("text", ["-5", "what", "", "inf", "99999999999999"])
def test_power_that_cannot_be(tmp_path: Path, text: str) -> None:
    """A negative, damaged or absurd power is NaN; 0 is a value."""
    path = grow(tmp_path, 0, "amdgpu", power1_average="0") / "power1_average"
    meter = opened(tmp_path)
    assert meter.read() == [0.0]
    path.write_text(text)
    assert math.isnan(meter.read()[0])


def test_vanished_chips(tmp_path: Path) -> None:
    """A chip that vanishes costs its own channels; when all have, the read fails."""
    first = grow(tmp_path, 0, "amdgpu", power1_average="5000000")
    second = grow(tmp_path, 1, "power_meter", power1_average="90000000")
    meter = opened(tmp_path)
    shutil.rmtree(first)
    assert math.isnan(meter.read()[0])
    assert meter.read()[1] == 90.0
    shutil.rmtree(second)
    with pytest.raises(MeasurementError, match="all sensors are gone"):
        meter.read()


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    """No tree, no sensor and a scope of a chip that is not read are told with a remedy; probe never raises."""
    assert "mount /sys" in str(HwmonMeter.probe(str(tmp_path / "none")).remedy)
    grow(tmp_path, 0, "coretemp", temp1_input="40000")
    assert "load the chip's driver" in str(HwmonMeter.probe(str(tmp_path)).remedy)
    with pytest.raises(UnavailableError, match="no power or energy sensor"):
        opened(tmp_path)
    with pytest.raises(ConfigError, match="not among the chips"):
        opened(tmp_path, scopes={"ina999": Scope.BOARD})
    grow(tmp_path, 1, "amdgpu", power1_average="0")
    assert HwmonMeter.probe(str(tmp_path)).detail == "hwmon_amdgpu_0_power_w"
