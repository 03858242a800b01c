from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from wattwerk.errors import MeasurementError, UnavailableError
from wattwerk.meters.hailo import HailoConfig, HailoMeter, parse_power
from wattwerk.records import Scope

#: Written from the documentation and published source of ``hailortcli measure-power``, alone and with ``--duration``.
SINGLE = "[-] Executing on device: 0000:01:00.0\nCurrent power consumption (W): 1.52"
LONG = """Measuring power consumption over 2 seconds:
Total samples: 3
Max value (W): 2.5
Min value (W): 1.5
Average value (W): 2
Average time per sample (ms): 660
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], tuple[str, ...]]:
    """Return what writes a script that stands in the command's place."""

    def write(body: str) -> tuple[str, ...]:
        path = tmp_path / "hailortcli"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return (str(path),)

    return write


def package(monkeypatch: pytest.MonkeyPatch, power: Any, celsius: float = 45.0) -> None:
    """Put a stand-in for hailo_platform in its place, written from the documentation of its Device and Control."""

    def power_measurement() -> Any:
        if isinstance(power, Exception):
            raise power
        return power

    control = SimpleNamespace(
        power_measurement=power_measurement,
        get_chip_temperature=lambda: SimpleNamespace(ts0_temperature=celsius, ts1_temperature=celsius),
    )
    module = ModuleType("hailo_platform")
    module.Device = lambda *_: SimpleNamespace(control=control, release=lambda: None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hailo_platform", module)


@pytest.fixture(autouse=True)
def _no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hailo_platform", None)


def test_both_outputs() -> None:
    """The single value and the average over a duration are read; the extremes are not."""
    assert parse_power(SINGLE) == 1.52
    assert parse_power(LONG) == 2.0


@pytest.mark.parametrize(
    "text",
    ["", SINGLE[:-5], SINGLE + "x", f"{SINGLE}\n{SINGLE}", SINGLE.replace("1.52", "-1"), SINGLE.replace("1.52", "4000"),
     SINGLE.replace("(W)", "(mA)"), SINGLE.replace("1.52", "nan")],
)  # fmt: skip
def test_what_cannot_be_is_missing(text: str) -> None:
    """Cut lines, two devices, negative and absurd powers, and currents are no power."""
    assert math.isnan(parse_power(text, 100.0))


def test_the_command(script: Callable[[str], tuple[str, ...]]) -> None:
    """The command is asked for the chosen device, and its power has the accelerator's scope."""
    body = f'test "$*" = "measure-power -s 0000:01:00.0" || exit 1\necho "{SINGLE}"'
    meter = HailoMeter(HailoConfig(command=script(body), device="0000:01:00.0"))
    assert meter.read() == [1.52]
    assert [(channel.name, channel.scope) for channel in meter.channels] == [("hailo0_power_w", Scope.ACCELERATOR)]
    assert meter.accelerators()[0].address == "0000:01:00.0"
    script("echo HAILO_UNSUPPORTED_OPERATION; exit 1")
    with pytest.raises(MeasurementError, match="HAILO_UNSUPPORTED_OPERATION"):
        meter.read()


def test_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package gives power and temperature; what cannot be is NaN."""
    package(monkeypatch, 1.5)
    meter = HailoMeter(HailoConfig())
    assert meter.read() == [1.5, 45.0]
    assert [channel.name for channel in meter.channels] == ["hailo0_power_w", "hailo0_celsius"]
    package(monkeypatch, -1.0, math.nan)
    assert all(math.isnan(value) for value in HailoMeter(HailoConfig()).read())


def test_the_command_stands_in(script: Callable[[str], tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """If the package gives no power the command is tried; if neither does, both reasons are told."""
    package(monkeypatch, RuntimeError("unsupported device"))
    assert HailoMeter(HailoConfig(command=script(f'echo "{SINGLE}"'))).read() == [1.52]
    with pytest.raises(UnavailableError, match=r"unsupported device.*2 devices answer"):
        HailoMeter(HailoConfig(command=script(f'echo "{SINGLE}"; echo "{SINGLE}"')))


def test_probe_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without package and command, probe says what to install."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert "HailoRT" in str(HailoMeter.probe().remedy)
