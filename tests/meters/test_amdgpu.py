from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
from tests.meters.fake_amdsmi import ROCM_5_7, ROCM_6, ROCM_7, AmdSmiException, FakeAmdSmi

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.amdgpu import AmdGpuConfig, AmdGpuMeter
from wattwerk.records import Scope


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeAmdSmi]:
    """Return what puts a fake in the place of amdsmi."""

    def put(answers: dict[str, Any], **more: Any) -> FakeAmdSmi:
        fake = FakeAmdSmi(answers, **more)
        monkeypatch.setitem(sys.modules, "amdsmi", fake)
        return fake

    return put


def values(meter: AmdGpuMeter) -> dict[str, float]:
    """Read the meter once: channel -> value."""
    return dict(zip([channel.name for channel in meter.channels], meter.read(), strict=True))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (ROCM_5_7, {"amd0_energy_j": 0.0, "amd0_power_w": 90.0}),
        (ROCM_6, {"amd0_energy_j": 0.0, "amd0_power_w": 120.0, "amd0_temperature_celsius": 41.0}),
        (
            ROCM_7,
            {
                "amd0_energy_j": 0.0,
                "amd0_power_w": 130.0,
                "amd0_power_average_w": 125.0,
                "amd0_temperature_celsius": 41.0,
            },
        ),
    ],
)
def test_each_release(install: Callable[..., FakeAmdSmi], answers: dict[str, Any], expected: dict[str, float]) -> None:
    """The names of ROCM 5.7, 6 and 7 give the same channels; N/A is no channel."""
    install(answers)
    meter = AmdGpuMeter(AmdGpuConfig())
    assert values(meter) == expected
    assert (meter.channels[0].form, meter.channels[0].scope) == ("counter", Scope.ACCELERATOR)


def count(fake: FakeAmdSmi, ticks: int) -> None:
    """Let the accumulator show a value."""
    fake.answers["amdsmi_get_energy_count"] = {"energy_accumulator": ticks, "counter_resolution": 15.3}


def test_ticks_become_joules(install: Callable[..., FakeAmdSmi]) -> None:
    """A tick is worth counter_resolution microjoules, counted from opening."""
    fake = install(ROCM_6)
    meter = AmdGpuMeter(AmdGpuConfig())
    count(fake, 101_000)
    assert meter.read_counter("amd0_energy_j") == pytest.approx(1.53)


def test_the_accumulator_wraps_exactly(install: Callable[..., FakeAmdSmi]) -> None:
    """Around 64 bits no tick is lost, which a float could not hold."""
    fake = install(ROCM_6)
    count(fake, 2**64 - 50_000)
    meter = AmdGpuMeter(AmdGpuConfig())
    count(fake, 50_000)
    assert meter.read_counter("amd0_energy_j") == pytest.approx(1.53)


def test_a_reset_and_a_glitch(install: Callable[..., FakeAmdSmi]) -> None:
    """A single bad reading is NaN and loses nothing; after a reset the energy starts again at 0, never a jump."""
    fake = install(ROCM_6)
    count(fake, 10**12)
    meter = AmdGpuMeter(AmdGpuConfig())
    count(fake, 2**60)
    assert math.isnan(meter.read_counter("amd0_energy_j"))
    count(fake, 10**12 + 100_000)
    assert meter.read_counter("amd0_energy_j") == pytest.approx(1.53)
    count(fake, 5)
    assert math.isnan(meter.read_counter("amd0_energy_j"))
    count(fake, 6)
    assert meter.read_counter("amd0_energy_j") == 0.0


@pytest.mark.parametrize("power", ["N/A", -5, 65535, math.nan, None, True])
def test_power_that_cannot_be(install: Callable[..., FakeAmdSmi], power: object) -> None:
    """What a GPU does not tell, the sentinel 65535 included, is NaN."""
    fake = install(ROCM_6)
    meter = AmdGpuMeter(AmdGpuConfig())
    fake.answers["amdsmi_get_power_info"] = {"current_socket_power": power}
    assert math.isnan(values(meter)["amd0_power_w"])


@pytest.mark.parametrize("ticks", [0, 2**64 - 1, "N/A"])
def test_a_gpu_without_an_accumulator(install: Callable[..., FakeAmdSmi], ticks: object) -> None:
    """A GPU whose accumulator does not exist has no energy channel."""
    install(ROCM_6 | {"amdsmi_get_energy_count": {"energy_accumulator": ticks, "counter_resolution": 15.3}})
    assert "amd0_energy_j" not in values(AmdGpuMeter(AmdGpuConfig()))


def test_a_lost_gpu(install: Callable[..., FakeAmdSmi]) -> None:
    """When every query fails the read does; one that fails alone costs its own channel."""
    fake = install(ROCM_6)
    meter = AmdGpuMeter(AmdGpuConfig())
    fake.answers["amdsmi_get_temp_metric"] = AmdSmiException("busy")
    assert math.isnan(values(meter)["amd0_temperature_celsius"])
    fake.answers = dict.fromkeys(ROCM_6, AmdSmiException("lost"))
    with pytest.raises(MeasurementError, match="no query"):
        meter.read()


def test_identity_and_choice(install: Callable[..., FakeAmdSmi]) -> None:
    """Chosen GPUs keep their index; name, address and driver are told; closing shuts AMD SMI down."""
    fake = install(ROCM_6, devices=3)
    meter = AmdGpuMeter(AmdGpuConfig(devices=[2]))
    (about,) = meter.accelerators()
    assert (about.name, about.address, about.prefix, about.driver) == ("AMD Test GPU", "0000:c1:00.0", "amd2", "6.99")
    meter.close()
    with pytest.raises(ConfigError, match="no GPU 3"):
        AmdGpuMeter(AmdGpuConfig(devices=[3]))
    assert AmdGpuMeter.probe().available
    assert fake.running == 0


def test_what_cannot_be_opened(install: Callable[..., FakeAmdSmi], monkeypatch: pytest.MonkeyPatch) -> None:
    """No package, no driver, no GPU and no answer are told with a remedy; probe never raises."""
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    assert "ROCm" in str(AmdGpuMeter.probe().remedy)
    install(ROCM_6, start_error=True)
    assert "modprobe" in str(AmdGpuMeter.probe().remedy)
    install(ROCM_6, devices=0)
    assert "/dev/kfd" in str(AmdGpuMeter.probe().remedy)
    fake = install({})
    with pytest.raises(UnavailableError, match="no GPU tells"):
        AmdGpuMeter(AmdGpuConfig())
    assert fake.running == 0
