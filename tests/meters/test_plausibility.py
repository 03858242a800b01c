"""What the recorder makes of meters that lie."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from wattwerk.errors import MeasurementError
from wattwerk.meters.base import Channel
from wattwerk.meters.plausibility import Plausibility
from wattwerk.meters.recorder import MeterSpec, Recorder
from wattwerk.records import Provenance, Scope

POWER = Channel(name="wall_power_w", form="gauge", scope=Scope.WALL, limit=3680.0)
ENERGY = Channel(name="wall_energy_j", form="counter", scope=Scope.WALL)
LOAD = Channel(name="host_load_ratio", form="gauge")


def judged(channel: Channel, values: list[float], step_s: float = 1.0) -> tuple[list[float], list[str]]:
    """Return what becomes of a channel's values, and the faults."""
    plausibility = Plausibility([channel])
    found = [plausibility.judge([value], round(index * step_s * 1e9))[0] for index, value in enumerate(values)]
    return found, plausibility.faults()


@pytest.mark.parametrize("bad", [-5.0, 4000.0, math.inf, -math.inf])
def test_impossible_power_is_a_gap(bad: float) -> None:
    """A negative power and one beyond the limit become NaN, never 0, and are told with the last such value."""
    values, faults = judged(POWER, [40.0, bad, 41.0])
    assert values[0::2] == [40.0, 41.0]
    assert math.isnan(values[1])
    assert faults == [f"wall_power_w: 1 values left out that cannot be, the last one {bad:g} W"]


def test_what_may_be_is_kept() -> None:
    """A meter that may feed in gives negative power; a load of zero for minutes is no fault; NaN stays NaN silently."""
    feeding = Channel(name="roof_power_w", form="gauge", scope=Scope.WALL, signed=True)
    assert judged(feeding, [-250.0, 10.0]) == ([-250.0, 10.0], [])
    assert judged(LOAD, [0.0] * 200) == ([0.0] * 200, [])
    assert judged(POWER, [0.0] * 200) == ([0.0] * 200, [])
    assert judged(POWER, [math.nan] * 3)[1] == []


def test_one_low_read_of_a_counter_is_a_gap_and_two_are_a_reset() -> None:
    """A single low value is left out; when the next one is low too, the counter was reset, and goes on from there."""
    values, faults = judged(ENERGY, [100.0, 3.0, 102.0, 104.0])
    assert math.isnan(values[1])
    assert values[2:] == [102.0, 104.0]
    assert faults == []
    values, faults = judged(ENERGY, [100.0, 3.0, 5.0, 7.0])
    assert math.isnan(values[1])
    assert values[2:] == [5.0, 7.0]
    assert faults == ["wall_energy_j: ran backwards once, so it was reset; energy across that is not known"]


def test_a_frozen_power_is_told() -> None:
    """After a minute without any change a power above zero is suspicious; one that moves is not, nor a modelled one."""
    assert judged(POWER, [41.0] * 59)[1] == []
    assert judged(POWER, [41.0] * 90)[1] == ["wall_power_w: gave 41 W for 89 s without any change, so it may be frozen"]
    assert judged(POWER, [41.0 + index % 2 for index in range(90)])[1] == []
    modelled = Channel(name="cpu_power_w", form="gauge", scope=Scope.CPU_PACKAGE, provenance=Provenance.MODELLED)
    assert judged(modelled, [41.0] * 90)[1] == []


def test_a_counter_that_stands_still_while_power_flows() -> None:
    """A counter that does not move in a minute at 40 W is frozen; at 1 W it may just be coarse."""
    for power_w, frozen in ((40.0, True), (1.0, False)):
        plausibility = Plausibility([POWER, ENERGY])
        for index in range(90):
            plausibility.judge([power_w + 0.1 * (index % 2), 7.0], index * 10**9)
        assert any("wall_energy_j: gave 7 J for 89 s" in fault for fault in plausibility.faults()) is frozen


def test_the_recorder_leaves_lies_out() -> None:
    """Of a meter that says -5 W and resets its counter, intervals with that have no energy; the others' have."""
    liar = MeterSpec("wattwerk.testing:FakeMeter", {"prefix": "liar", "lie_after": 20, "reset_after": 20})
    with Recorder([MeterSpec("wattwerk.testing:FakeMeter"), liar], rate_hz=20) as recorder:
        time.sleep(2.0)
        end_ns = time.perf_counter_ns()
        trace = recorder.trace(until_ns=end_ns)
        time.sleep(0.6)
        faults = recorder.faults
    start_ns = end_ns - 1_600_000_000
    assert np.nanmin(trace.values[:, 3]) == 100.0
    assert trace.energy("fake_energy_j", start_ns, end_ns).value_j == pytest.approx(160, rel=0.01)
    for channel in ("liar_energy_j", "liar_power_w"):
        with pytest.raises(MeasurementError, match=channel):
            trace.energy(channel, start_ns, end_ns)
    assert any("liar_power_w" in fault and "-5 W" in fault for fault in faults)
    assert any("liar_energy_j: ran backwards" in fault for fault in faults)
