"""Energy of an interval, scope by scope, against a truth that is known."""

from __future__ import annotations

import numpy as np
import pytest

from wattwerk.metering.interval import Idle, interval_figures
from wattwerk.meters.base import Channel
from wattwerk.meters.trace import Trace
from wattwerk.records import Provenance, Scope

S = 1_000_000_000


def counter(name: str, scope: Scope, provenance: Provenance = Provenance.MEASURED, **more: str) -> Channel:
    """Return a counter of joules."""
    return Channel(name=name, form="counter", scope=scope, provenance=provenance, **more)  # type: ignore[arg-type]


def trace_of(channels: list[Channel], power_w: list[float], length_s: float = 10.0) -> Trace:
    """Return samples at 10 Hz of counters that grow with constant powers, and gauges that show them."""
    times = np.arange(0, round(length_s * 10) + 1) * S // 10
    columns = [p * times / S if c.form == "counter" else np.full(len(times), p) for c, p in zip(channels, power_w)]  # noqa: B905
    return Trace(channels, times, np.stack(columns, axis=1))


MODEL = [
    counter("cpu_energy_j", Scope.CPU_PACKAGE, Provenance.MODELLED, low="cpu_energy_low_j", high="cpu_energy_high_j"),
    counter("cpu_energy_low_j", Scope.CPU_PACKAGE, Provenance.MODELLED),
    counter("cpu_energy_high_j", Scope.CPU_PACKAGE, Provenance.MODELLED),
]


def test_a_modelled_part_makes_the_system_modelled_and_gives_it_bounds() -> None:
    """GPU measured and processor modelled: the system's energy is their sum, modelled, between the model's bounds."""
    channels = [counter("gpu0_energy_j", Scope.ACCELERATOR), *MODEL]
    found = interval_figures(trace_of(channels, [100.0, 20.0, 10.0, 40.0]), 2 * S, 7 * S)
    assert found["gpu_energy_j"].value == pytest.approx(500)
    assert found["gpu_energy_j"].provenance is Provenance.MEASURED
    system = found["system_energy_j"]
    assert (system.value, system.provenance) == (pytest.approx(600), Provenance.MODELLED)
    assert system.low is not None
    assert system.high is not None
    assert system.low <= 550.1
    assert system.high >= 699.9
    assert found["system_power_w"].value == pytest.approx(120)
    assert found["cpu_peak_power_w"].value == pytest.approx(20)
    assert (found["cpu_peak_power_w"].low, found["cpu_peak_power_w"].high) == (pytest.approx(10), pytest.approx(40))


def test_net_is_gross_less_the_idle_machine() -> None:
    """50 W more than an idle machine of 30 W over 4 s are 200 J net; idle power is told with its scope."""
    channels = [counter("wall_energy_j", Scope.WALL)]
    idle = Idle(trace_of(channels, [30.0]), S, 9 * S)
    found = interval_figures(trace_of(channels, [80.0]), 3 * S + S // 30, 7 * S + S // 30, idle=idle)
    net = found["wall_net_energy_j"]
    assert (net.value, net.provenance) == (pytest.approx(200), Provenance.DERIVED)
    assert net.low is not None
    assert net.high is not None
    assert net.low < 200 < net.high
    assert (found["idle_wall_power_w"].value, found["idle_wall_power_w"].scope) == (pytest.approx(30), Scope.WALL)


def test_the_bounds_of_a_modelled_net_energy_belong_together() -> None:
    """The lower model of the run less the lower model of the idle machine: not the widest of all combinations."""
    idle = Idle(trace_of(MODEL, [10.0, 5.0, 20.0]), S, 9 * S)
    found = interval_figures(trace_of(MODEL, [30.0, 20.0, 50.0]), 3 * S, 7 * S, idle=idle)
    net = found["cpu_net_energy_j"]
    assert (net.low, net.value, net.high) == (
        pytest.approx(60, rel=0.3),
        pytest.approx(80),
        pytest.approx(120, rel=0.3),
    )


def test_a_sum_without_one_of_its_parts_is_unavailable() -> None:
    """A second card that fell silent leaves scope and system without an energy, and the reason names it."""
    channels = [counter("gpu0_energy_j", Scope.ACCELERATOR), counter("gpu1_energy_j", Scope.ACCELERATOR), *MODEL]
    trace = trace_of(channels, [100.0, 90.0, 20.0, 10.0, 40.0])
    trace.values[40:, 1] = np.nan
    found = interval_figures(trace, 2 * S, 7 * S)
    for name in ("gpu_energy_j", "system_energy_j", "gpu_power_w"):
        assert found[name].provenance is Provenance.UNAVAILABLE
        assert "gpu1_energy_j" in (found[name].note or "")
    assert found["cpu_energy_j"].value == pytest.approx(100)


def test_wider_scopes_stand_beside_and_are_not_added() -> None:
    """With a wall meter the system is the wall; the processor inside it keeps a line of its own."""
    channels = [counter("wall_energy_j", Scope.WALL), *MODEL]
    found = interval_figures(trace_of(channels, [150.0, 20.0, 10.0, 40.0]), 2 * S, 4 * S)
    assert found["system_energy_j"].value == found["wall_energy_j"].value == pytest.approx(300)
    assert found["system_energy_j"].provenance is Provenance.MEASURED


def test_the_peak_is_that_of_the_parts_together() -> None:
    """Two cards that peak one after the other never drew the sum of their peaks."""
    channels = [Channel(name=f"gpu{i}_power_w", form="gauge", scope=Scope.ACCELERATOR) for i in range(2)]
    trace = trace_of(channels, [100.0, 100.0])
    trace.values[30:40, 0], trace.values[60:70, 1] = 300.0, 250.0
    found = interval_figures(trace, S, 9 * S)
    assert found["gpu_peak_power_w"].value == 400
    assert found["gpu_peak_power_w"].provenance is Provenance.DERIVED


@pytest.mark.parametrize("length_s", [0.001, 0.05])
def test_what_is_shorter_than_the_beat_of_the_sensor_has_bounds_that_say_so(length_s: float) -> None:
    """Between two readings the energy is known as well as the powers around it; a counter gives no peak then."""
    trace = trace_of([counter("wall_energy_j", Scope.WALL)], [80.0])
    start_ns = 5 * S + S // 50
    found = interval_figures(trace, start_ns, start_ns + round(length_s * S))
    energy = found["wall_energy_j"]
    assert energy.low is not None
    assert energy.high is not None
    assert energy.low <= 80 * length_s <= energy.high
    assert "shorter" in (energy.note or "")
    assert found["wall_peak_power_w"].provenance is Provenance.UNAVAILABLE


def test_without_a_meter_of_power_there_is_a_reason_and_no_zero() -> None:
    """Only the host's load was recorded."""
    trace = trace_of([Channel(name="cpu_busy_s", form="counter")], [1.0])
    assert interval_figures(trace, S, 2 * S)["system_energy_j"].value is None
