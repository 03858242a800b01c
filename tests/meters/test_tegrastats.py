from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.tegrastats import TegrastatsConfig, TegrastatsMeter, parse_line
from wattwerk.records import Scope

#: Lines written from the documentation: Jetson Linux Developer Guide, Tegrastats Utility.
NEW = (
    "11-25-2026 10:00:00 RAM 2448/7471MB (lfb 4x4MB) SWAP 0/3735MB (cached 0MB) CPU [2%@729,off] GR3D_FREQ 37% "
    "cpu@45.5C cv0@-256C tj@46C VDD_IN 4524mW/4500mW VDD_CPU_GPU_CV 608mW/600mW VDD_SOC 1390mW/1380mW"
)
OLD = "RAM 1000/3956MB (lfb 10x4MB) CPU [1%@102] EMC_FREQ 0% GR3D_FREQ 0% PLL@20C POM_5V_IN 2542/2500 POM_5V_GPU 41/40"


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], list[str]]:
    """Return what writes a script that stands in the command's place."""

    def write(body: str) -> list[str]:
        path = tmp_path / "tegrastats"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return [str(path)]

    return write


def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds, five seconds at most."""
    end_s = time.monotonic() + 5
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.01)
    assert condition()


def test_both_formats() -> None:
    """Rails with and without mW, load and temperatures are read; a sensor that shows -256 °C is off."""
    new = parse_line(NEW)
    assert (new["rail VDD_IN"], new["rail VDD_SOC"], new["gpu"], new["temperature cpu"]) == (4.524, 1.39, 0.37, 45.5)
    assert math.isnan(new["temperature cv0"])
    assert "rail RAM" not in new
    assert "rail SWAP" not in new
    assert parse_line(OLD)["rail POM_5V_IN"] == 2.542


@pytest.mark.parametrize(
    "line", ["", "VDD_IN", "VDD_IN 45", "VDD_IN 4524mW/", "VDD_IN 45x24mW/1mW", "\x00\xff", "a" * 9999]
)
def test_damaged_lines(line: str) -> None:
    """A line that is cut or damaged gives nothing rather than another value."""
    assert parse_line(line) == {}


def test_values_that_cannot_be() -> None:
    """A negative or absurd power is NaN; 0 is a value."""
    read = parse_line("VDD_IN -4524mW/0mW VDD_SOC 999999999mW/0mW VDD_CV 0mW/0mW", 200.0)
    assert math.isnan(read["rail VDD_IN"])
    assert math.isnan(read["rail VDD_SOC"])
    assert read["rail VDD_CV"] == 0.0


def test_a_running_command(script: Callable[[str], list[str]]) -> None:
    """The channels are those of the first line, the interval is passed on, and closing ends the command."""
    command = script(f'test "$1 $2" = "--interval 50" || exit 1\nwhile echo "{NEW}"; do sleep 0.05; done')
    meter = TegrastatsMeter(TegrastatsConfig(command, period_s=0.05))
    read = dict(zip([channel.name for channel in meter.channels], meter.read(), strict=True))
    assert read["tegrastats_vdd_in_power_w"] == 4.524
    assert read["tegrastats_gpu_utilisation_ratio"] == 0.37
    scopes = {channel.name: channel.scope for channel in meter.channels}
    assert scopes["tegrastats_vdd_in_power_w"] is Scope.BOARD
    assert scopes["tegrastats_vdd_cpu_gpu_cv_power_w"] is None
    meter.close()
    assert not meter._lines.alive


def test_a_silent_command_gives_nothing(script: Callable[[str], list[str]]) -> None:
    """A command that prints no more lines gives NaN, not its last line for ever."""
    meter = TegrastatsMeter(TegrastatsConfig(script(f'echo "{NEW}"; sleep 60'), stale_s=0.2))
    until(lambda: all(math.isnan(value) for value in meter.read()))
    assert meter._lines.alive
    meter.close()


def test_an_ended_command_is_started_once_more(script: Callable[[str], list[str]], tmp_path: Path) -> None:
    """It is started again once; when it has ended twice and its line is old, a read says so."""
    command = script(f'echo x >>{tmp_path}/starts; echo "{NEW}"')
    meter = TegrastatsMeter(TegrastatsConfig(command, stale_s=0.1))
    until(lambda: not meter._lines.alive)
    time.sleep(0.12)
    with pytest.raises(MeasurementError, match="ended twice"):
        meter.read()
    assert (tmp_path / "starts").read_text() == "x\nx\n"
    meter.close()


def test_what_cannot_be_opened(script: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """No command, no power in its lines, and bad options are told with a remedy; probe never raises."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert "Jetson Linux" in str(TegrastatsMeter.probe().remedy)
    with pytest.raises(UnavailableError, match="printed no power"):
        TegrastatsMeter(TegrastatsConfig(script("echo RAM 1/2MB; exec /bin/sleep 9")))
    with pytest.raises(UnavailableError, match="printed nothing within"):
        TegrastatsMeter(TegrastatsConfig(script("exec /bin/sleep 9"), timeout_s=0.1))
    with pytest.raises(ConfigError, match="command is empty"):
        TegrastatsMeter(TegrastatsConfig([]))
    with pytest.raises(ConfigError, match="period_s"):
        TegrastatsMeter(TegrastatsConfig(period_s=0.0))
