from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattwerk.errors import ConfigError
from wattwerk.meters.base import Channel
from wattwerk.meters.recorder import MeterSpec, Recorder
from wattwerk.meters.trace import Trace
from wattwerk.records import Scope
from wattwerk.testing import FakeMeterConfig, ReplayMeter, ReplayMeterConfig


@given(st.floats(0, 500), st.floats(0, 500), st.floats(0.1, 5), st.floats(0, 20), st.floats(0.1, 20))
def test_a_fakes_energy_is_the_integral_of_its_power(
    base_w: float, step_w: float, period_s: float, start_s: float, length_s: float
) -> None:
    """Summing the power in small steps gives the energy that the fake claims."""
    config = FakeMeterConfig(base_w=base_w, step_w=step_w, period_s=period_s)
    count = 4000
    middles = start_s + (np.arange(count) + 0.5) * length_s / count
    summed = sum(config.power_w(round(t * 1e9)) for t in middles) * length_s / count
    edges = 2 * length_s / period_s + 2
    error = edges * step_w * length_s / count + 1e-5
    assert config.energy_j(round(start_s * 1e9), round((start_s + length_s) * 1e9)) == pytest.approx(summed, abs=error)


def test_a_fakes_counter_moves_at_ticks_only() -> None:
    """Between two ticks the counter stands still, at a tick it has caught up with the truth."""
    config = FakeMeterConfig(tick_s=0.1)
    assert config.counter_j(1_199_999_999) == config.counter_j(1_100_000_000)
    assert config.counter_j(1_200_000_000) == pytest.approx(config.energy_j(0, 1_200_000_000))


def test_a_recorded_trace_is_played_as_json(tmp_path: Path) -> None:
    """A trace written by one recorder is recorded again by another one through a replay meter."""
    channels = [
        Channel(name="wall_energy_j", form="counter", scope=Scope.WALL),
        Channel(name="wall_power_w", form="gauge", scope=Scope.WALL, accuracy_ratio=0.01),
    ]
    times = np.arange(30) * 100_000_000
    path = tmp_path / "trace.json"
    path.write_bytes(Trace(channels, times, np.column_stack([times / 1e9 * 40, np.full(30, 40.0)])).to_json())
    with Recorder([MeterSpec("wattwerk.testing:ReplayMeter", {"path": str(path)})]) as recorder:
        assert list(recorder.channels) == channels
        time.sleep(0.2)
        start = time.perf_counter_ns()
        time.sleep(1.0)
        end = time.perf_counter_ns()
        trace = recorder.trace(until_ns=end)
    assert trace.energy("wall_power_w", start, end).mean_power_w == pytest.approx(40)
    assert trace.energy("wall_energy_j", start, end).mean_power_w == pytest.approx(40, rel=0.25)


def test_a_csv_file_is_played(tmp_path: Path) -> None:
    """Columns become channels by their names; an empty cell is NaN; after the end everything is."""
    path = tmp_path / "trace.csv"
    path.write_text("time_s,gpu0_energy_j,gpu0_power_w,gpu0_clock_sm_hz\n5.0,1,,1e9\n6.0,2,300,1e9\n")
    meter = ReplayMeter(ReplayMeterConfig(str(path)))
    assert [(channel.form, channel.scope) for channel in meter.channels] == [
        ("counter", Scope.ACCELERATOR),
        ("gauge", Scope.ACCELERATOR),
        ("gauge", None),
    ]
    values = meter.read()
    assert values[0] == 1
    assert math.isnan(values[1])
    fast = ReplayMeter(ReplayMeterConfig(str(path), speed=1000.0))
    time.sleep(0.01)
    assert all(math.isnan(value) for value in fast.read())


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "time_s,x_w\n1,abc\n"])
def test_what_is_no_recording_is_refused(tmp_path: Path, text: str) -> None:
    """An empty file, a wrong first column and text for a number are the user's mistake."""
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match="cannot replay"):
        ReplayMeter(ReplayMeterConfig(str(path)))
