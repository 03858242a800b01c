from __future__ import annotations

import math
import platform
import sys
import time

import pytest
from tests.meters.fake_zeus_apple import FakeZeusApple

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.apple import AppleConfig, AppleMeter
from wattwerk.records import Scope

M2 = {"cpu_total_mj": 5_000_000, "dram_mj": 700_000, "gpu_mj": 900_000, "gpu_sram_mj": 40, "ane_mj": 0}


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> FakeZeusApple:
    """Pretend to be a Mac with the library installed."""
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    library = FakeZeusApple(**M2)
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", library)
    return library


def test_counters_become_channels(mac: FakeZeusApple) -> None:
    """Processor, GPU, neural engine and memory have channels with scopes that do not overlap; no part counts twice."""
    meter = AppleMeter(AppleConfig())
    assert {channel.name: channel.scope for channel in meter.channels} == {
        "cpu0_energy_j": Scope.CPU_PACKAGE,
        "gpu0_energy_j": Scope.ACCELERATOR,
        "ane0_energy_j": Scope.ACCELERATOR,
        "dram0_energy_j": Scope.DRAM,
    }
    assert {channel.form for channel in meter.channels} == {"counter"}
    assert AppleMeter.probe().detail == "cpu0_energy_j, gpu0_energy_j, ane0_energy_j, dram0_energy_j"


def test_millijoules_become_joules_since_opening(mac: FakeZeusApple) -> None:
    """What the counters grew since opening is given in joules."""
    meter = AppleMeter(AppleConfig())
    assert meter.read() == [0.0, 0.0, 0.0, 0.0]
    mac.told |= {"cpu_total_mj": 5_001_500, "ane_mj": 250}
    assert meter.read() == pytest.approx([1.5, 0.0, 0.25, 0.0])


def test_what_a_chip_does_not_tell(mac: FakeZeusApple) -> None:
    """A counter that the chip does not have has no channel; one that falls silent gives NaN, never 0."""
    del mac.told["dram_mj"]
    meter = AppleMeter(AppleConfig())
    assert [channel.name for channel in meter.channels] == ["cpu0_energy_j", "gpu0_energy_j", "ane0_energy_j"]
    mac.told["gpu_mj"] = None
    assert math.isnan(meter.read()[1])
    mac.told = {"gpu_sram_mj": 3}
    with pytest.raises(UnavailableError, match="tells no energy"):
        AppleMeter(AppleConfig())


def test_a_jump_that_cannot_be_is_missing(mac: FakeZeusApple) -> None:
    """A counter that grows by more than the power allows gives NaN once, and goes on when it comes back."""
    meter = AppleMeter(AppleConfig(max_power_w=100.0))
    mac.told["cpu_total_mj"] += 10_000_000
    assert math.isnan(meter.read()[0])
    mac.told["cpu_total_mj"] -= 9_999_000
    time.sleep(0.01)
    assert meter.read()[0] == pytest.approx(1.0)


def test_a_library_that_refuses(mac: FakeZeusApple) -> None:
    """What its native part raises is unavailable at opening, and a failed read later."""
    meter = AppleMeter(AppleConfig())
    mac.refusal = RuntimeError("failed to subscribe to the channels")
    with pytest.raises(MeasurementError, match="failed to subscribe"):
        meter.read()
    probe = AppleMeter.probe()
    assert not probe.available
    assert "failed to subscribe" in probe.detail
    assert probe.remedy


def test_elsewhere_there_is_none(monkeypatch: pytest.MonkeyPatch, mac: FakeZeusApple) -> None:
    """On another system the reason is told without trying; on a Mac without the library, what to install."""
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", None)
    assert AppleMeter.probe().remedy == "`pip install zeus-apple-silicon`"
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    probe = AppleMeter.probe()
    assert not probe.available
    assert probe.remedy
    assert "no processor of Apple's" in probe.detail
    with pytest.raises(ConfigError, match="max_power_w"):
        AppleMeter(AppleConfig(max_power_w=0))
