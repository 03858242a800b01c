"""Totals that count nothing twice, and energies as they grow."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattwerk.errors import ConfigError
from wattwerk.meters.base import Channel
from wattwerk.meters.live import Live
from wattwerk.meters.recorder import MeterSpec, Recorder
from wattwerk.meters.totals import Running, totals_of
from wattwerk.meters.trace import Trace
from wattwerk.records import Provenance, Scope

S = 1_000_000_000


def counter(name: str, scope: Scope, **more: object) -> Channel:
    """Return an energy counter."""
    return Channel(name=name, form="counter", scope=scope, **more)  # type: ignore[arg-type]


def gauge(name: str, scope: Scope, **more: object) -> Channel:
    """Return a power gauge."""
    return Channel(name=name, form="gauge", scope=scope, **more)  # type: ignore[arg-type]


GPU = [
    counter("gpu0_energy_j", Scope.ACCELERATOR),
    gauge("gpu0_power_w", Scope.ACCELERATOR),
    gauge("gpu0_power_average_w", Scope.ACCELERATOR),
    gauge("gpu1_power_w", Scope.ACCELERATOR),
]
CPU = [
    counter("cpu_energy_j", Scope.CPU_PACKAGE, provenance=Provenance.MODELLED, low="cpu_low_j", high="cpu_high_j"),
    counter("cpu_low_j", Scope.CPU_PACKAGE),
    counter("cpu_high_j", Scope.CPU_PACKAGE),
]
PDU = [gauge("pdu0_power_w", Scope.WALL), gauge("pdu0_outlet3_power_w", Scope.WALL), gauge("pdu1_power_w", Scope.WALL)]
BOARD = [counter("psys0_energy_j", Scope.BOARD)]


def names(channels: list[Channel], **more: object) -> dict[str, list[str]]:
    """Return the names of the channels of each total."""
    return {name: [c.name for c in parts] for name, parts in totals_of(channels, **more).items()}  # type: ignore[arg-type]


def test_parts_of_a_scope() -> None:
    """Of each part its counter, or its power; no average, no bounds, no outlet of a strip that is there as a whole."""
    assert names(GPU + CPU + PDU) == {
        "accelerator": ["gpu0_energy_j", "gpu1_power_w"],
        "cpu_package": ["cpu_energy_j"],
        "wall": ["pdu0_power_w", "pdu1_power_w"],
        "system": ["pdu0_power_w", "pdu1_power_w"],
    }


@pytest.mark.parametrize(
    ("channels", "system"),
    [
        (GPU + CPU, ["gpu0_energy_j", "gpu1_power_w", "cpu_energy_j"]),
        (GPU + CPU + BOARD, ["psys0_energy_j", "gpu0_energy_j", "gpu1_power_w"]),
        (BOARD + PDU, ["pdu0_power_w", "pdu1_power_w"]),
    ],
)
def test_the_system_is_what_lies_inside_nothing_else(channels: list[Channel], system: list[str]) -> None:
    """The wall alone, the board and the cards beside it, or without both of them all that does not overlap."""
    assert names(channels)["system"] == system


def test_what_the_user_says_goes_first() -> None:
    """Named parts make the total; one that is none, or that is named twice, is an error."""
    assert names(GPU + PDU, total=["pdu0_power_w", "gpu1_power_w"])["system"] == ["pdu0_power_w", "gpu1_power_w"]
    with pytest.raises(ConfigError, match="gpu0_clock_hz gives neither energy nor power"):
        totals_of(GPU, ["gpu0_clock_hz"])
    with pytest.raises(ConfigError, match="pdu0_outlet3_power_w lies inside pdu0_power_w"):
        totals_of(PDU, ["pdu0_outlet3_power_w", "pdu0_power_w"])
    with pytest.raises(ConfigError, match="names a part twice"):
        totals_of(GPU, ["gpu0_energy_j", "gpu0_power_w"])


def fed(channels: list[Channel], times: list[int], values: list[list[float]], pieces: int = 1) -> Running:
    """Return sums of samples that came in so many pieces."""
    running = Running(channels)
    for some in np.array_split(np.arange(len(times)), pieces):
        running.add(Trace(channels, np.array(times)[some], np.array(values)[some]))
    return running


@given(st.lists(st.floats(0, 1000), min_size=2, max_size=60), st.integers(1, 10))
def test_energy_so_far_is_the_traces_energy(powers: list[float], pieces: int) -> None:
    """Piece by piece, a gauge's energy and a counter's are those that the whole trace gives."""
    channels = [gauge("a_power_w", Scope.NODE), counter("b_energy_j", Scope.WALL)]
    times = [n * S // 10 for n in range(len(powers))]
    values = [[power, total] for power, total in zip(powers, np.cumsum(powers).tolist(), strict=True)]
    totals = fed(channels, times, values, pieces).totals(times[-1])
    trace = Trace(channels, times, values)
    for channel, scope in (("a_power_w", "node"), ("b_energy_j", "wall")):
        whole = trace.energy(channel, times[0], times[-1]).value_j
        assert totals[scope].energy_j == pytest.approx(whole, rel=1e-9, abs=1e-6)


def test_gaps_are_told_and_not_filled() -> None:
    """A gauge that is silent for a minute has no energy of that minute, and says so; a counter counts through it."""
    times = [*range(0, 5 * S, S // 10), *range(65 * S, 70 * S, S // 10)]
    channels = [gauge("a_power_w", Scope.NODE), counter("b_energy_j", Scope.WALL)]
    totals = fed(channels, times, [[10.0, t / S * 7] for t in times]).totals(times[-1])
    assert totals["node"].gap_s == pytest.approx(60.1)
    assert totals["node"].energy_j == pytest.approx(10 * 2 * 4.9)
    assert (totals["wall"].gap_s, totals["wall"].energy_j) == (0, pytest.approx(7 * 69.9))


def test_a_counter_that_begins_again() -> None:
    """What was counted until a reset is kept, the time around it is a gap, and nothing is negative."""
    times = [n * S for n in range(6)]
    running = fed([counter("b_energy_j", Scope.WALL)], times, [[100], [110], [120], [3], [13], [23]])
    total = running.totals(times[-1])["wall"]
    assert (total.energy_j, total.gap_s, total.power_w) == (40, 1, 10)


def test_a_total_with_a_silent_part_has_no_power() -> None:
    """If one of two cards says nothing, their power together is unknown, not that of the other one."""
    channels = [gauge("gpu0_power_w", Scope.ACCELERATOR), gauge("gpu1_power_w", Scope.ACCELERATOR)]
    times = [n * S // 10 for n in range(100)]
    running = fed(channels, times, [[70.0, 80.0 if n < 50 else math.nan] for n in range(100)])
    assert running.totals(times[45])["accelerator"].provenance is Provenance.DERIVED
    assert math.isnan(running.totals(times[-1])["accelerator"].power_w)
    assert running.totals(times[-1])["accelerator"].gap_s == pytest.approx(5)
    assert running.power_w("gpu0_power_w", times[-1]) == 70
    never = fed(channels, times, [[70.0, math.nan]] * 100)
    assert never.totals(times[-1])["accelerator"].gap_s == pytest.approx(9.9)


def test_a_counter_that_was_silent_knows_what_it_missed() -> None:
    """While a counter is silent its gap grows; once it speaks again there is none, and its energy is all there."""
    running = Running([counter("b_energy_j", Scope.WALL)])
    running.add(Trace([counter("b_energy_j", Scope.WALL)], [0, S], [[0], [50]]))
    silent = running.totals(21 * S)["wall"]
    assert (silent.energy_j, silent.gap_s, math.isnan(silent.power_w)) == (50, 20, True)
    running.add(Trace([counter("b_energy_j", Scope.WALL)], [22 * S], [[600]]))
    assert (running.totals(22 * S)["wall"].energy_j, running.totals(22 * S)["wall"].gap_s) == (600, 0)


def test_modelled_parts_make_a_modelled_total() -> None:
    """One modelled part makes the sum modelled; a lone counter is as measured as it is."""
    found = Running(CPU + BOARD).totals(0)
    assert found["cpu_package"].provenance is Provenance.MODELLED
    assert found["system"].provenance is Provenance.MEASURED


def test_a_running_recorder() -> None:
    """Power now and energy so far of a running recorder are the fake's truth, also with a meter that is slow."""
    specs = [
        MeterSpec("wattwerk.testing:FakeMeter", {"prefix": "gpu0", "base_w": 250.0, "tick_s": 0.1}),
        MeterSpec("wattwerk.testing:FakeMeter", {"prefix": "w", "scope": "wall", "base_w": 400.0, "interval_s": 0.3}),
    ]
    with Recorder(specs) as recorder, Live(recorder, keep_s=1.0) as live:
        time.sleep(2.2)
        totals = live.totals()
        trace = live.update()
        assert totals["accelerator"].power_w == pytest.approx(250)
        assert totals["system"].power_w == pytest.approx(400)
        assert 1.2 < totals["system"].energy_j / 400 < 3
        assert totals["system"].gap_s == 0
        assert trace.time_ns[-1] - trace.time_ns[0] < 1.6 * S
        assert len(recorder.trace().time_ns) >= len(trace.time_ns)
