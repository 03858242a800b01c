from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.jetson import JetsonConfig, JetsonMeter
from wattwerk.records import Scope

ORIN_NX = {"VDD_IN": (5000, 1000), "VDD_CPU_GPU_CV": (5000, 400), "VDD_SOC": (5000, 200)}


def grow(root: Path, rails: dict[str, tuple[int, int]]) -> Path:
    """Write the tree of the newer layout, from the documentation of Jetson Linux and the driver; return its chip."""
    chip = root / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    chip.mkdir(parents=True)
    for number, (rail, (volts_mv, current_ma)) in enumerate(rails.items(), 1):
        (chip / f"in{number}_label").write_text(f"{rail}\n")
        (chip / f"in{number}_input").write_text(f"{volts_mv}\n")
        (chip / f"curr{number}_input").write_text(f"{current_ma}\n")
    (chip / "in7_label").write_text("sum of shunt voltages\n")
    return chip


def values(meter: JetsonMeter) -> dict[str, float]:
    """Read the meter once: channel -> value."""
    return dict(zip([channel.name for channel in meter.channels], meter.read(), strict=True))


def test_only_the_input_rail_is_the_board(tmp_path: Path) -> None:
    """Volts times amperes gives watts; VDD_IN is the board, a rail of several kinds of load has no scope."""
    grow(tmp_path, ORIN_NX)
    meter = JetsonMeter(JetsonConfig(str(tmp_path)))
    read = values(meter)
    assert len(read) == 9
    assert (read["jetson_vdd_in_power_w"], read["jetson_vdd_in_volts"], read["jetson_vdd_in_amperes"]) == (5.0, 5.0, 1)
    scopes = {channel.name: channel.scope for channel in meter.channels if channel.name.endswith("_w")}
    assert scopes == {
        "jetson_vdd_in_power_w": Scope.BOARD,
        "jetson_vdd_cpu_gpu_cv_power_w": None,
        "jetson_vdd_soc_power_w": None,
    }


def test_a_module_without_an_input_rail_has_no_board(tmp_path: Path) -> None:
    """SYS5V is what is taken beside the other rails, so it is not the board; GPU and CPU have scopes of their own."""
    grow(tmp_path, {"GPU": (19000, 100), "CPU": (19000, 50), "SYS5V": (5000, 300)})
    scopes = [channel.scope for channel in JetsonMeter(JetsonConfig(str(tmp_path))).channels[::3]]
    assert scopes == [Scope.ACCELERATOR, Scope.CPU_PACKAGE, None]
    given = JetsonConfig(str(tmp_path), scopes={"SYS5V": Scope.BOARD})
    assert JetsonMeter(given).channels[6].scope is Scope.BOARD


def test_the_older_layout_is_read(tmp_path: Path) -> None:
    """The older driver gives milliwatts itself, counts from 0, and names rails in rail_name."""
    chip = tmp_path / "bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    chip.mkdir(parents=True)
    for number, rail in enumerate(("POM_5V_IN", "POM_5V_GPU", "NC")):
        (chip / f"rail_name_{number}").write_text(rail)
        (chip / f"in_power{number}_input").write_text("2542")
        (chip / f"in_voltage{number}_input").write_text("5000")
        (chip / f"in_current{number}_input").write_text("508")
    meter = JetsonMeter(JetsonConfig(str(tmp_path)))
    assert [channel.scope for channel in meter.channels[::3]] == [Scope.BOARD, Scope.ACCELERATOR]
    assert values(meter)["jetson_pom_5v_in_power_w"] == 2.542


@pytest.mark.parametrize("text", ["-5", "", "what", "inf", "nan", "99999999", "1_0"])
def test_what_cannot_be_is_missing(tmp_path: Path, text: str) -> None:
    """A damaged, negative or absurd current is NaN, and costs no other rail."""
    chip = grow(tmp_path, ORIN_NX)
    meter = JetsonMeter(JetsonConfig(str(tmp_path)))
    (chip / "curr1_input").write_text(text)
    read = values(meter)
    assert math.isnan(read["jetson_vdd_in_power_w"])
    assert read["jetson_vdd_soc_power_w"] == 1.0


def test_a_rail_at_zero_is_zero(tmp_path: Path) -> None:
    """A rail that is switched off takes 0 W, which is a value."""
    grow(tmp_path, {"VDD_IN": (5000, 900), "VDD_CV": (0, 0)})
    assert values(JetsonMeter(JetsonConfig(str(tmp_path))))["jetson_vdd_cv_power_w"] == 0.0


def test_vanished_files(tmp_path: Path) -> None:
    """A chip that vanishes is an error, not a row of zeros."""
    chip = grow(tmp_path, ORIN_NX)
    meter = JetsonMeter(JetsonConfig(str(tmp_path)))
    shutil.rmtree(chip)
    with pytest.raises(MeasurementError, match="no rail answers"):
        meter.read()


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    """No chip, or a rail that is not there, says what to do; probe never raises."""
    probe = JetsonMeter.probe(str(tmp_path))
    assert not probe.available
    assert "modprobe" in str(probe.remedy)
    chip = grow(tmp_path, ORIN_NX)
    assert JetsonMeter.probe(str(tmp_path)).detail == "VDD_IN, VDD_CPU_GPU_CV, VDD_SOC"
    with pytest.raises(ConfigError, match="no rail VDD"):
        JetsonMeter(JetsonConfig(str(tmp_path), scopes={"VDD": Scope.BOARD}))
    for path in chip.glob("*_input"):
        path.unlink()
    with pytest.raises(UnavailableError, match="no rail can be read"):
        JetsonMeter(JetsonConfig(str(tmp_path)))
