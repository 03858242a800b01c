from __future__ import annotations

import time
from typing import Any

import psutil
import pytest

from wattwerk.config import to_struct
from wattwerk.errors import ConfigError
from wattwerk.meters import cpu_model, host_load
from wattwerk.meters.cpu_model import CpuModelConfig, CpuModelMeter
from wattwerk.meters.host_load import HostLoadConfig, HostLoadMeter
from wattwerk.records import Provenance, Scope

NUMBERS: dict[str, Any] = {
    "idle_w": 10.0,
    "max_w": 50.0,
    "idle_low_w": 5.0,
    "idle_high_w": 15.0,
    "max_low_w": 40.0,
    "max_high_w": 70.0,
    "source": "a data sheet",
}


def test_busy_time_grows_with_work() -> None:
    """Half a second of work on one core shows as at least a third of a core-second, and as no more than all cores."""
    meter = HostLoadMeter(HostLoadConfig())
    before, start = meter.read()[0], time.perf_counter()
    while time.perf_counter() - start < 0.5:
        pass
    grown = meter.read()[0] - before
    assert 0.3 < grown <= 0.5 * (psutil.cpu_count() or 1) + 0.2


def test_memory_in_use_is_plausible() -> None:
    """Memory in use lies between nothing and all there is."""
    assert 0 < HostLoadMeter(HostLoadConfig()).read()[1] < psutil.virtual_memory().total


def test_busy_time_never_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A core taken offline takes its past with it; the counter stays where it was."""
    meter = HostLoadMeter(HostLoadConfig())
    monkeypatch.setattr(host_load, "cpu_busy_s", lambda: 100.0)
    meter.read()
    monkeypatch.setattr(host_load, "cpu_busy_s", lambda: 60.0)
    assert meter.read()[0] == 100.0


def test_model_energy_follows_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds at a quarter of four cores: 2 s times (idle + a quarter of the rest), for value and both bounds."""
    clock, busy = [0], [7.0]
    monkeypatch.setattr(cpu_model.time, "perf_counter_ns", lambda: clock[0])
    monkeypatch.setattr(cpu_model, "cpu_busy_s", lambda: busy[0])
    monkeypatch.setattr(cpu_model.psutil, "cpu_count", lambda: 4)
    meter = CpuModelMeter(CpuModelConfig(**NUMBERS))
    assert meter.read() == [0.0, 0.0, 0.0]
    clock[0], busy[0] = 2_000_000_000, 9.0
    assert meter.read() == pytest.approx([40.0, 27.5, 57.5])


def test_model_channels_are_modelled_and_name_their_bounds() -> None:
    """The energy is marked as modelled, of the processor, with both bounds beside it."""
    energy, low, high = CpuModelMeter(CpuModelConfig(**NUMBERS)).channels
    assert (energy.scope, energy.provenance) == (Scope.CPU_PACKAGE, Provenance.MODELLED)
    assert (energy.low, energy.high) == (low.name, high.name)


def test_missing_numbers_are_named() -> None:
    """Every missing key stands in the error, the source too."""
    values = {key: value for key, value in NUMBERS.items() if key not in ("max_w", "idle_high_w", "source")}
    with pytest.raises(ConfigError, match=r"max_w, idle_high_w, source missing.*config\.toml"):
        CpuModelMeter(CpuModelConfig(**values))


@pytest.mark.parametrize(
    "change",
    [{"idle_w": 60.0}, {"idle_low_w": -1.0}, {"max_high_w": 49.0}, {"idle_low_w": 45.0}, {"max_w": float("nan")}],
)
def test_contradicting_numbers_are_refused(change: dict[str, float]) -> None:
    """Bounds out of order, negative power and NaN are refused."""
    with pytest.raises(ConfigError, match="make 0 <="):
        CpuModelMeter(CpuModelConfig(**(NUMBERS | change)))


def test_unknown_options_are_refused() -> None:
    """A misspelt key gets the nearest known one."""
    with pytest.raises(ConfigError, match="did you mean 'idle_w'"):
        to_struct(CpuModelConfig, NUMBERS | {"idel_w": 3.0}, "meters.cpu-model")
