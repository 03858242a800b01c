from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
from tests.meters.fake_nvml import ANSWERS, FakeNvml, NVMLErrorFunctionNotFound

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.nvml import INVALIDATING, NvmlConfig, NvmlMeter, invalidating_reasons, throttle_reasons
from wattwerk.records import Scope
from wattwerk.units import unit_of


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeNvml]:
    """Return what puts a fake in the place of pynvml."""

    def put(**arguments: Any) -> FakeNvml:
        fake = FakeNvml(**arguments)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return put


def values(meter: NvmlMeter) -> dict[str, float]:
    """Read the meter once: channel -> value."""
    return dict(zip([channel.name for channel in meter.channels], meter.read(), strict=True))


def test_values_arrive_in_si_units(install: Callable[..., FakeNvml]) -> None:
    """Millijoules, milliwatts, megahertz and percent become J, W, Hz and fractions; every name ends in its unit."""
    install()
    meter = NvmlMeter(NvmlConfig())
    assert values(meter) == {
        "gpu0_energy_j": 5.0,
        "gpu0_power_w": 310.0,
        "gpu0_power_average_w": 250.0,
        "gpu0_clock_sm_hz": 1980e6,
        "gpu0_clock_memory_hz": 3201e6,
        "gpu0_temperature_celsius": 41.0,
        "gpu0_throttle_count": 1.0,
        "gpu0_utilisation_ratio": 0.75,
        "gpu0_memory_used_bytes": 1e9,
    }
    assert [unit_of(channel.name) for channel in meter.channels][:2] == ["j", "w"]
    assert meter.read_counter("gpu0_energy_j") == 5.0
    energy = meter.channels[0]
    assert (energy.form, energy.tick_s, energy.scope) == ("counter", 0.1, Scope.ACCELERATOR)


@pytest.mark.parametrize("kind", range(7))
def test_a_field_value_of_any_type_is_read(install: Callable[..., FakeNvml], kind: int) -> None:
    """Drivers may give the power as any of NVML's seven number types."""
    fake = install()
    fake.answers[186] = (kind, 310_000)
    assert values(NvmlMeter(NvmlConfig()))["gpu0_power_w"] == 310.0


def test_power_falls_back_to_the_older_query(install: Callable[..., FakeNvml]) -> None:
    """Without instantaneous power the older query stands in, and the average is left out."""
    fake = install()
    del fake.answers[186], fake.answers[185]
    read = values(NvmlMeter(NvmlConfig()))
    assert read["gpu0_power_w"] == 300.0
    assert "gpu0_power_average_w" not in read


@pytest.mark.parametrize("query", [key for key in ANSWERS if key in (
    "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetTemperature", "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetMemoryInfo", "sm clock", "memory clock", "nvmlDeviceGetCurrentClocksEventReasons",
)])  # fmt: skip
def test_each_field_is_asked_for_itself(install: Callable[..., FakeNvml], query: str) -> None:
    """A query that is NotSupported costs exactly its own channel."""
    fake = install()
    del fake.answers[query]
    assert len(values(NvmlMeter(NvmlConfig()))) == 8


def test_older_libraries_give_throttle_reasons_by_their_old_name(install: Callable[..., FakeNvml]) -> None:
    """Where the library lacks the new function the old one is asked."""
    fake = install()
    fake.answers["old reasons"] = 0x40

    def missing(_handle: int) -> int:
        raise NVMLErrorFunctionNotFound(13)

    fake.nvmlDeviceGetCurrentClocksEventReasons = missing
    assert values(NvmlMeter(NvmlConfig()))["gpu0_throttle_count"] == 0x40


def test_jetson_is_unavailable(install: Callable[..., FakeNvml]) -> None:
    """NVML that starts and then supports nothing is unavailable, with a remedy, and is shut down again."""
    fake = install(answers={})
    probe = NvmlMeter.probe()
    assert not probe.available
    assert "Jetson" in probe.detail
    assert probe.remedy
    assert fake.running == 0


@pytest.mark.parametrize(
    ("code", "word"), [(12, "driver"), (9, "modprobe"), (18, "reboot"), (4, "/dev/nvidia"), (999, "")]
)
def test_nvml_that_does_not_start_gives_a_remedy(install: Callable[..., FakeNvml], code: int, word: str) -> None:
    """Each reason why NVML does not start comes with what to do about it."""
    install(start_error=code)
    probe = NvmlMeter.probe()
    assert not probe.available
    assert word in (probe.remedy or "")


def test_no_permission_for_the_gpu(install: Callable[..., FakeNvml]) -> None:
    """A GPU that may not be opened is unavailable, and NVML is shut down again."""
    fake = install()
    fake.errors["handle"] = 4
    with pytest.raises(UnavailableError, match="Insufficient Permissions"):
        NvmlMeter(NvmlConfig())
    assert fake.running == 0


def test_no_gpu(install: Callable[..., FakeNvml]) -> None:
    """A driver without a GPU is unavailable."""
    install(devices=0)
    assert "no GPU" in NvmlMeter.probe().detail


def test_devices_are_chosen_by_index(install: Callable[..., FakeNvml]) -> None:
    """Only the GPUs asked for are read; an index too large is the user's mistake."""
    install(devices=3)
    meter = NvmlMeter(NvmlConfig([2]))
    assert {channel.name[:4] for channel in meter.channels} == {"gpu2"}
    assert len(NvmlMeter(NvmlConfig()).accelerators()) == 3
    with pytest.raises(ConfigError, match="no GPU 3"):
        NvmlMeter(NvmlConfig([3]))


def test_a_query_that_fails_later_is_nan_and_a_lost_gpu_an_error(install: Callable[..., FakeNvml]) -> None:
    """One failing query costs its value; when all fail the recorder has to hear of it."""
    fake = install()
    meter = NvmlMeter(NvmlConfig())
    fake.errors["nvmlDeviceGetTemperature"] = 15
    assert math.isnan(values(meter)["gpu0_temperature_celsius"])
    fake.answers.clear()
    with pytest.raises(MeasurementError):
        meter.read()


def test_accelerator_and_limits(install: Callable[..., FakeNvml]) -> None:
    """Name, driver, memory, power limit and thresholds arrive; what is not supported is left out."""
    fake = install()
    del fake.answers["SHUTDOWN"]
    meter = NvmlMeter(NvmlConfig())
    (accelerator,) = meter.accelerators()
    assert (accelerator.name, accelerator.driver) == ("NVIDIA Test GPU", "999.1")
    assert (accelerator.memory_bytes, accelerator.power_limit_w) == (150_000_000_000, 700.0)
    assert meter.limits() == {
        "gpu0_power_limit_w": 700.0,
        "gpu0_power_limit_default_w": 700.0,
        "gpu0_clock_sm_max_hz": 1980e6,
        "gpu0_clock_memory_max_hz": 3201e6,
        "gpu0_temperature_max_celsius": 88.0,
        "gpu0_temperature_slowdown_celsius": 92.0,
    }
    meter.close()
    assert fake.running == 0


def test_the_probe_tells_what_is_missing(install: Callable[..., FakeNvml]) -> None:
    """A virtual GPU without energy counter, and a GPU in MIG mode, are told apart from a plain one."""
    fake = install()
    assert NvmlMeter.probe().detail == "NVIDIA Test GPU (driver 999.1)"
    del fake.answers["nvmlDeviceGetTotalEnergyConsumption"]
    fake.answers["nvmlDeviceGetMigMode"] = (1, 1)
    detail = NvmlMeter.probe().detail
    assert "does not tell energy_j" in detail
    assert "MIG" in detail


def test_throttle_reasons_have_names() -> None:
    """A mask becomes names; heat and brakes invalidate, a power cap does not; an unknown bit is shown."""
    assert throttle_reasons(0) == throttle_reasons(math.nan) == []
    assert throttle_reasons(0x1 | 0x4 | 0x40) == ["gpu_idle", "sw_power_cap", "hw_thermal_slowdown"]
    assert throttle_reasons(1 << 20) == ["bit_20"]
    assert invalidating_reasons(0x4) == []
    assert set(invalidating_reasons(0x1FF)) == INVALIDATING


def test_the_numbers_are_those_of_the_installed_library() -> None:
    """Names and bits of the reasons agree with the real pynvml."""
    nvml = pytest.importorskip("pynvml")
    assert throttle_reasons(nvml.nvmlClocksEventReasonHwPowerBrakeSlowdown) == ["hw_power_brake_slowdown"]
    assert throttle_reasons(nvml.nvmlClocksEventReasonHwSlowdown) == ["hw_slowdown"]
    assert throttle_reasons(nvml.nvmlClocksEventReasonSwThermalSlowdown) == ["sw_thermal_slowdown"]
    assert throttle_reasons(nvml.nvmlClocksEventReasonSwPowerCap) == ["sw_power_cap"]
