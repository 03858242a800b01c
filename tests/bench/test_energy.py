"""The formulas, on traces whose true answer is known: no GPU and no wall meter is needed for that."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from tests.bench.conftest import SHORT

from wattwerk.bench.cards import card_of
from wattwerk.bench.duration import Counts
from wattwerk.bench.energy import Idle, energy_figures
from wattwerk.bench.evaluate import Context, evaluate
from wattwerk.bench.scenario import Configuration, Procedure
from wattwerk.bench.worker import Block, Measurement, _time_both_ways
from wattwerk.metering import statistics
from wattwerk.meters.base import Channel
from wattwerk.meters.recorder import Recorder
from wattwerk.meters.trace import Trace
from wattwerk.records import Accelerator, Platform, Provenance, Scope, Status, Subject
from wattwerk.runtimes.base import Effective, Precision

S = 1_000_000_000
PROCEDURE = Procedure(windows=5, window_s=1.0, idle_s=1.0)
ITERATION_NS = 10_000_000
IDLE_W, BUSY_W = 80.0, 500.0

#: idle, loaded idle, windows, loaded idle, unloaded idle: a second each, the windows five and a half
MEASUREMENT = Measurement(
    subject=Subject("resnet-50", sample_flops=8e9),
    effective=Effective(precision=Precision.BF16, device="cuda:0", threads=None, streams=1),
    blocks=tuple(Block(array("q", [ITERATION_NS] * 50), sampled) for sampled in (True, False, False, True)),
    warmup=20,
    load_ns=S,
    steady_start=3 * S,
    steady_ends=array("q", range(3 * S + ITERATION_NS, 3 * S + 550 * ITERATION_NS + 1, ITERATION_NS)),
    loaded_idle=((2 * S, 3 * S - S // 10), (9 * S, 10 * S)),
    unloaded_idle=(10 * S, 11 * S),
    memory_peak_bytes=10**9,
    device_memory_peak_bytes=None,
    finite=True,
    device_name="NVIDIA H200",
)


def configuration(device: str = "cuda:0", batch: int = 4) -> Configuration:
    """Return a configuration on a device."""
    return Configuration(model="resnet-50", runtime="torch", precision="bf16", batch=batch, device=device)


def power_at(time_s: np.ndarray) -> np.ndarray:
    """Return the true power: busy during the windows, idle before and after."""
    return np.where((time_s >= 3.0) & (time_s < 8.5), BUSY_W, IDLE_W)


def trace(*extra: tuple[Channel, np.ndarray], throttle: int = 0) -> Trace:
    """Return twelve seconds sampled at the ticks of a GPU's counter, with what else is asked for."""
    time_ns = np.arange(0, 12 * S + 1, S // 10, dtype=np.int64)
    fine = np.arange(0, 12.0005, 0.001)
    energy = np.concatenate([[0], np.cumsum(power_at(fine[:-1]) * 0.001)])[::100]
    columns = [
        (Channel(name="gpu0_energy_j", form="counter", scope=Scope.ACCELERATOR, tick_s=0.1), energy),
        (Channel(name="gpu0_power_w", form="gauge", scope=Scope.ACCELERATOR), power_at(time_ns / S)),
        (Channel(name="gpu0_throttle_count", form="gauge"), np.full(len(time_ns), float(throttle))),
        (Channel(name="cpu_busy_s", form="counter"), time_ns / S * 0.5),
        *extra,
    ]
    return Trace([c for c, _ in columns], time_ns, np.column_stack([v for _, v in columns]))


def modelled_cpu() -> list[tuple[Channel, np.ndarray]]:
    """Return a modelled processor of 20 W, between 10 and 30 W."""
    time_s = np.arange(0, 12.05, 0.1)
    about = {"form": "counter", "scope": Scope.CPU_PACKAGE, "provenance": Provenance.MODELLED}
    main = Channel(name="cpu_energy_j", low="cpu_energy_low_j", high="cpu_energy_high_j", **about)  # type: ignore[arg-type]
    low, high = (Channel(name=f"cpu_energy_{side}_j", **about) for side in ("low", "high"))  # type: ignore[arg-type]
    return [(main, 20 * time_s), (low, 10 * time_s), (high, 30 * time_s)]


def figures(seen: Trace, device: str = "cuda:0") -> dict:
    """Return the energy figures of the measurement."""
    return energy_figures(
        MEASUREMENT, seen, configuration(device), PROCEDURE, Idle(seen, (S // 2, 3 * S // 2)), card_of(device)
    )


def test_gross_and_net_energy_of_one_inference() -> None:
    """At 500 W, 100 iterations a second and batch 4 an inference takes 1.25 J; 1.05 J of it are not idle power."""
    found = figures(trace())
    assert found["gpu_power_w"].value == pytest.approx(500, rel=0.01)
    assert found["gpu_energy_per_inference_j"].value == pytest.approx(500 / 400, rel=0.01)
    assert found["gpu_net_energy_per_inference_j"].value == pytest.approx(420 / 400, rel=0.01)
    assert found["gpu_energy_per_inference_j"].provenance is Provenance.MEASURED
    assert found["idle_gpu_power_w"].value == pytest.approx(80, rel=0.01)
    assert found["unloaded_idle_gpu_power_w"].value == pytest.approx(80, rel=0.01)
    assert found["accelerator_efficiency_per_s_per_w"].value == pytest.approx(400 / 500, rel=0.01)
    assert abs(found["gpu_counter_disagreement_ratio"].value) < 0.02


def test_windows_are_reported_as_they_were() -> None:
    """Five windows of a second were asked for; they share all 5.5 s, or what lies between the counter's ticks."""
    on_card, on_cpu = figures(trace()), figures(trace(*modelled_cpu()), "cpu")
    assert on_cpu["energy_window_s"].value == pytest.approx(1.1)
    assert on_card["energy_window_s"].value == pytest.approx(1.1, abs=0.04)
    assert on_card["energy_window_s"].value * 10 == pytest.approx(round(on_card["energy_window_s"].value * 50) / 5)
    assert on_card["energy_windows_count"].value == on_cpu["energy_windows_count"].value == 5
    assert "10 s" in str(on_card["energy_window_s"].note)


def test_a_modelled_part_makes_the_system_modelled_with_bounds() -> None:
    """GPU measured plus processor modelled: values and bounds are added, and the sum is modelled."""
    found = figures(trace(*modelled_cpu()))
    system = found["system_power_w"]
    assert system.provenance is Provenance.MODELLED
    assert system.value == pytest.approx(520, rel=0.01)
    assert system.low == pytest.approx(found["gpu_power_w"].low + 10)
    assert system.high == pytest.approx(found["gpu_power_w"].high + 30)
    assert "accelerator + cpu_package" in system.note
    assert found["cpu_power_w"].low == pytest.approx(10)
    assert found["cpu_net_energy_per_inference_j"].value == pytest.approx(0, abs=1e-9)


def test_a_wall_meter_is_the_system_and_nothing_is_added_to_it() -> None:
    """The wall contains all other scopes, so it alone is the system; its integrated power is derived."""
    wall = Channel(name="wall_power_w", form="gauge", scope=Scope.WALL)
    found = figures(trace(*modelled_cpu(), (wall, np.full(121, 900.0))))
    assert found["system_power_w"].value == pytest.approx(900)
    assert found["wall_power_w"].provenance is Provenance.DERIVED
    assert found["system_power_w"].provenance is Provenance.DERIVED


def test_a_board_and_its_cards_make_the_system() -> None:
    """A board's own sensor holds the processor but no plug-in card, unless the user says so."""
    board = Channel(name="psys0_energy_j", form="counter", scope=Scope.BOARD)
    energy = 60 * np.arange(0, 12.05, 0.1)
    beside = figures(trace(*modelled_cpu(), (board, energy)))["system_power_w"]
    assert beside.value == pytest.approx(560, rel=0.01)
    assert (beside.provenance, beside.note) == (
        Provenance.DERIVED, "board + accelerator; power supply, fans and disks are not in it",
    )  # fmt: skip
    holds = Channel(name="psys0_energy_j", form="counter", scope=Scope.BOARD, contains=("gpu0",))
    assert figures(trace(*modelled_cpu(), (holds, energy)))["system_power_w"].value == pytest.approx(60)


def test_a_plug_behind_another_is_not_added() -> None:
    """Of two wall meters of which one feeds the other, scope and system are the first one alone."""
    left = Channel(name="left_power_w", form="gauge", scope=Scope.WALL, contains=("right",))
    right = Channel(name="right_power_w", form="gauge", scope=Scope.WALL)
    found = figures(trace((right, np.full(121, 700.0)), (left, np.full(121, 900.0))))
    assert found["system_power_w"].value == found["wall_power_w"].value == pytest.approx(900)


def test_each_card_gives_what_it_has() -> None:
    """A second card without a counter keeps its power: in its own figures, and in the sum of the system."""
    second = Channel(name="gpu1_power_w", form="gauge", scope=Scope.ACCELERATOR)
    seen = trace((second, np.full(121, 100.0)), *modelled_cpu())
    assert figures(seen)["system_power_w"].value == pytest.approx(620, rel=0.01)
    assert figures(seen, "cuda:1")["gpu_power_w"].value == pytest.approx(100)


def test_a_run_on_the_cpu_has_no_energy_of_the_gpu() -> None:
    """The accelerator's efficiency is the processor's there, and no figure of the GPU is the run's own."""
    found = figures(trace(*modelled_cpu()), "cpu")
    assert "gpu_energy_per_inference_j" not in found
    assert found["accelerator_efficiency_per_s_per_w"].scope is Scope.CPU_PACKAGE
    assert found["accelerator_efficiency_per_s_per_w"].value == pytest.approx(400 / 20)


def test_without_a_meter_energy_is_unavailable_with_a_reason() -> None:
    """Unknown is never zero."""
    found = figures(trace(), "gpu")  # OpenVINO's name for an Intel GPU, which NVML does not watch
    assert found["gpu_energy_per_inference_j"].value is None
    assert found["accelerator_efficiency_per_s_per_w"].value is None
    assert found["system_power_w"].note


def test_a_card_that_falls_silent_keeps_the_latency() -> None:
    """Nothing of the GPU after 5 s: its figures and the sum have a reason, the processor's and the latency a value."""
    seen = trace(*modelled_cpu())
    seen.values[50:, :3] = np.nan
    context = Context(Platform("test", cpu_logical_count=2), Idle(seen, (S // 2, 3 * S // 2)))
    ended, _, found = evaluate(MEASUREMENT, seen, configuration(), PROCEDURE, context)
    assert ended is Status.OK
    lost = {name for name, figure in found.items() if figure.value is None}
    assert lost == {
        "gpu_power_w", "gpu_energy_per_inference_j", "gpu_net_energy_per_inference_j", "loaded_idle_gpu_power_w",
        "unloaded_idle_gpu_power_w", "gpu_counter_disagreement_ratio", "wall_energy_per_inference_j",
        "system_power_w", "system_energy_per_inference_j", "accelerator_efficiency_per_s_per_w",
        "system_efficiency_per_s_per_w", "device_memory_peak_bytes",
    }  # fmt: skip
    assert "its part accelerator is missing" in str(found["system_power_w"].note)
    assert found["idle_gpu_power_w"].value == pytest.approx(80, rel=0.01)


def test_a_second_card_that_falls_silent_costs_the_sum_only() -> None:
    """The card that ran keeps its energy; the system's would be too small without the other one."""
    second = Channel(name="gpu1_power_w", form="gauge", scope=Scope.ACCELERATOR)
    found = figures(trace((second, np.full(121, np.nan)), *modelled_cpu()))
    assert found["gpu_power_w"].value == pytest.approx(500, rel=0.01)
    assert found["system_power_w"].value is None
    assert "gpu1_power_w" in str(found["system_power_w"].note)


def test_a_silent_host_load_costs_the_load_only() -> None:
    """Without samples of the processor's time its load is unavailable; the rest of the record stays."""
    seen = trace()
    seen.values[:, 3] = np.nan
    context = Context(Platform("test", cpu_logical_count=2), Idle(seen, (S // 2, 3 * S // 2)))
    _, _, found = evaluate(MEASUREMENT, seen, configuration(), PROCEDURE, context)
    assert found["cpu_utilisation_ratio"].value is found["cpu_load_delta_ratio"].value is None
    assert found["gpu_power_w"].value


def test_the_energy_is_that_of_the_card_that_ran() -> None:
    """Two unlike cards, and CUDA's first one is NVML's second: its figures are those of gpu1."""
    from msgspec.structs import replace

    cards = (
        Accelerator("NVIDIA Slow", prefix="gpu0", address="00000000:3b:00.0"),
        Accelerator("NVIDIA H200", prefix="gpu1", address="00000000:3c:00.0"),
    )
    second = Channel(name="gpu1_power_w", form="gauge", scope=Scope.ACCELERATOR)
    seen = trace((second, np.full(121, 100.0)))
    context = Context(Platform("test", cpu_logical_count=2), Idle(seen, (S // 2, 3 * S // 2)), cards)
    ran = replace(MEASUREMENT, device_address="0000:3c:00.0", device_name="")
    _, _, found = evaluate(ran, seen, configuration("cuda:0"), PROCEDURE, context)
    assert found["gpu_power_w"].value == pytest.approx(100)
    assert found["peak_share_ratio"].value == pytest.approx(3.2e12 / 989.5e12, rel=1e-3)
    _, _, unknown = evaluate(replace(ran, device_address=""), seen, configuration("cuda:0"), PROCEDURE, context)
    assert unknown["gpu_energy_per_inference_j"].value is None
    assert "CUDA_DEVICE_ORDER" in str(unknown["gpu_energy_per_inference_j"].note)
    assert "gpu_power_w" not in unknown


def test_the_median_sees_iterations_in_the_order_in_which_they_ran() -> None:
    """The interval of a slow wave of latencies is that of the series in time order; another order gives another."""
    from msgspec.structs import replace

    waves = (ITERATION_NS * (1 + 0.1 * np.sin(np.arange(200) / 200 * 2 * np.pi))).astype(np.int64).reshape(4, 50)
    flags = (True, False, False, True)
    blocks = tuple(Block(array("q", wave.tolist()), flag) for wave, flag in zip(waves, flags, strict=True))
    seen = trace()
    context = Context(Platform("test", cpu_logical_count=2), Idle(seen, (S // 2, 3 * S // 2)))
    _, _, found = evaluate(replace(MEASUREMENT, blocks=blocks), seen, configuration(), PROCEDURE, context)
    in_order = statistics.median_interval(waves.ravel() / 1e9)
    shuffled = statistics.median_interval(waves[[0, 3, 1, 2]].ravel() / 1e9)
    assert (found["latency_p50_s"].low, found["latency_p50_s"].high) == (in_order.low, in_order.high)
    assert (in_order.low, in_order.high) != (shuffled.low, shuffled.high)


def test_the_timed_blocks_come_in_their_order() -> None:
    """With the sampler running, paused, paused, running: ten iterations keep their order, none is lost."""
    with Recorder([]) as recorder:
        blocks = _time_both_ways(lambda: None, Counts(2, 10, 2), recorder.gate)
    assert [block.sampled for block in blocks] == [True, False, False, True]
    assert [len(block.durations_ns) for block in blocks] == [2, 3, 2, 3]


def status(seen: Trace, measurement: Measurement = MEASUREMENT) -> tuple[Status, str]:
    """Return how the measurement ended."""
    context = Context(Platform("test", cpu_logical_count=2), Idle(seen, (S // 2, 3 * S // 2)))
    ended, reason, _ = evaluate(measurement, seen, configuration(), PROCEDURE, context)
    return ended, reason


def test_heat_makes_a_measurement_invalid_and_the_power_limit_does_not() -> None:
    """NVML's hardware and thermal slowdowns invalidate a measurement; the software power cap does not."""
    assert status(trace()) == (Status.OK, "")
    assert status(trace(throttle=0x4)) == (Status.OK, "")
    for bit in (0x8, 0x20, 0x40):
        ended, reason = status(trace(throttle=bit))
        assert ended is Status.INVALID
        assert "throttled" in reason


def test_drift_and_nan_make_a_measurement_invalid() -> None:
    """Iterations that get slower and slower, and outputs that are no numbers, are kept and marked."""
    from msgspec.structs import replace

    durations = np.linspace(ITERATION_NS, 1.4 * ITERATION_NS, 450)
    slowing = replace(MEASUREMENT, steady_ends=array("q", (3 * S + np.cumsum(durations)).astype(np.int64).tolist()))
    ended, reason = status(trace(), slowing)
    assert ended is Status.INVALID
    assert "drifting" in reason
    ended, reason = status(trace(), replace(MEASUREMENT, finite=False))
    assert ended is Status.INVALID
    assert "NaN" in reason


def test_share_of_peak_and_sampler_overhead() -> None:
    """400 samples of 8 GFLOP a second are set against the H200's dense bf16 peak; equal medians mean no overhead."""
    seen = trace()
    context = Context(Platform("test", cpu_logical_count=2), Idle(seen, (S // 2, 3 * S // 2)))
    _, _, found = evaluate(MEASUREMENT, seen, configuration(), SHORT, context)
    assert found["effective_ops_per_s"].value == pytest.approx(3.2e12)
    assert found["peak_share_ratio"].value == pytest.approx(3.2e12 / 989.5e12, rel=1e-3)
    assert found["sampler_overhead_ratio"].value == pytest.approx(0)
    assert found["cpu_utilisation_ratio"].value == pytest.approx(0.25)
    assert found["cpu_load_delta_ratio"].value == pytest.approx(0, abs=1e-9)
