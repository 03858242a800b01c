from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.bench.conftest import SHORT

from wattwerk.bench import load, plan, run
from wattwerk.bench.load import Load, Wishes, load_of, queries_needed, settings
from wattwerk.bench.load_search import LOWEST_RATIO, Probe, highest_load
from wattwerk.bench.load_worker import COMPARED, LoadMeasurement, _seen
from wattwerk.bench.loadgen import System, clock_of
from wattwerk.bench.loadgen import run as run_loadgen
from wattwerk.bench.loadgen_log import DETAIL, SUMMARY, SampleTimes, read_log, read_times
from wattwerk.bench.run import run_sweep
from wattwerk.bench.scenario import Configuration, new_sweep
from wattwerk.bench.summary import summarise
from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.records import Provenance, Record, Scope, Status
from wattwerk.store import Store
from wattwerk.testing import FakeMeterConfig

pytest.importorskip("mlperf_loadgen")

QUICK = Wishes(min_duration_s=1.0)


def busy(seconds: float) -> Any:
    """Return a call that keeps the processor busy for a time."""

    def call() -> None:
        end = perf_counter_ns() + round(seconds * 1e9)
        while perf_counter_ns() < end:
            pass

    return call


def started(scenario: load.Scenario, folder: Path, calls: dict[int, Any], **fields: Any) -> System:
    """Run the real LoadGen over calls and leave its logs in a folder."""
    lg = load.loadgen()
    chosen = settings(scenario)
    chosen.min_duration_ms = 1000
    for name, value in fields.items():
        setattr(chosen, name, value)
    system = System(lg, calls, queued=scenario == "server")
    run_loadgen(lg, system, chosen, folder, trace=True)
    return system


FIELDS: dict[load.Scenario, dict[str, Any]] = {
    "single-stream": {"single_stream_expected_latency_ns": 1_500_000},
    "multi-stream": {"multi_stream_expected_latency_ns": 1_500_000, "multi_stream_samples_per_query": 2,
                     "min_query_count": 662},
    "server": {"server_target_qps": 100, "server_target_latency_ns": 2_000_000_000, "min_query_count": 150,
               "server_target_latency_percentile": 0.9},
    "offline": {"offline_expected_qps": 1200, "min_query_count": 1},
}  # fmt: skip


@pytest.mark.parametrize("scenario", load.SCENARIOS)
def test_our_percentiles_agree_with_the_log_of_the_real_loadgen(scenario: load.Scenario, tmp_path: Path) -> None:
    """In every scenario a run is VALID, our own percentiles are LoadGen's within 1 %, and so is its interval."""
    batch = 2 if scenario in ("multi-stream", "offline") else 1
    before = perf_counter_ns()
    system = started(scenario, tmp_path, {batch: busy(0.002)}, **FIELDS[scenario])
    after = perf_counter_ns()
    log, times = read_log(tmp_path), read_times(tmp_path)
    assert log.valid, log.reason
    about = Load(scenario=scenario, percentile=99.0, min_duration_s=1.0, min_query_count=1)
    seen = _seen(about, times, system)
    for percent in COMPARED:
        logged = log.percentile_s(percent)
        assert logged is not None
        low, high = seen["own_s"][percent]  # apart only where somebody else had the processor between two stamps
        assert 0.99 * low - 5e-5 <= logged <= 1.01 * high + 5e-5, percent
    start, end = seen["steady_start"], seen["steady_ends"][-1]
    assert before < start <= min(system.issued_ns)
    assert max(system.before_ns) - 1_000_000 <= end <= min(after, max(system.after_ns) + 1_000_000)
    begin_s, end_s = (_seconds(str(log.values[key])) for key in ("power_begin", "power_end"))
    assert (end - start) / 1e9 == pytest.approx((end_s - begin_s) % 86400, abs=0.003)  # these two have milliseconds
    assert sum(size * count for size, count in system.sizes.items()) >= len(times.query)


def _seconds(stamp: str) -> float:
    hours, minutes, seconds = stamp.split()[1].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def test_what_waits_runs_together(tmp_path: Path) -> None:
    """Under a load that a batch of one could not keep up with, samples that wait run in the larger size."""
    system = started(
        "server", tmp_path, {1: busy(0.004), 4: busy(0.005)}, server_target_qps=400, min_query_count=300,
        min_duration_ms=0,
    )  # fmt: skip
    assert system.sizes[4] > 10
    served = len(system.before_ns)
    assert served == len(read_times(tmp_path).query)
    assert sum(system.sizes.values()) < served


def test_an_error_of_the_model_ends_the_run(tmp_path: Path) -> None:
    """What a call raises comes out of the run, which LoadGen itself would end with the whole process."""

    def call() -> None:
        raise MemoryError("does not fit")

    for scenario in ("single-stream", "server"):
        with pytest.raises(MemoryError, match="does not fit"):
            started(scenario, tmp_path, {1: call}, min_duration_ms=10, min_query_count=5, server_target_qps=100)


@pytest.mark.parametrize(
    ("file", "text"),
    [(SUMMARY, "Result is : VALID\n"), (SUMMARY, ""), (DETAIL, ""), (DETAIL, ':::MLLOG {"key": "result_val')],
)
def test_logs_that_contradict_each_other_give_no_verdict(file: str, text: str, tmp_path: Path) -> None:
    """A verdict counts only if both of LoadGen's logs have the same one."""
    (tmp_path / SUMMARY).write_text("Result is : INVALID\n")
    (tmp_path / DETAIL).write_text(':::MLLOG {"key": "result_validity", "value": "INVALID"}\n')
    assert not read_log(tmp_path).valid
    (tmp_path / file).write_text(text)
    with pytest.raises(MeasurementError, match="no clear verdict"):
        read_log(tmp_path)


def test_missing_logs_are_an_error(tmp_path: Path) -> None:
    """A folder without logs is named."""
    for read in (read_log, read_times):
        with pytest.raises(MeasurementError, match=tmp_path.name):
            read(tmp_path)


@given(
    offset_ns=st.integers(-(10**18), 10**18),
    drift=st.floats(-4e-4, 4e-4),
    lag_ns=st.integers(0, 40_000),
)
def test_loadgens_clock_is_mapped_onto_ours(offset_ns: int, drift: float, lag_ns: int) -> None:
    """A difference of the clocks and a drift such as NTP makes are found to within the time that a report takes."""
    truth = np.arange(200, dtype=np.int64) * 10_000_000 + 5
    told = np.rint(truth * (1 + drift)).astype(np.int64) + offset_ns
    times = SampleTimes(np.arange(200), told, told, told)
    clock = clock_of(times, truth - lag_ns, truth + 40_000 - lag_ns)
    error = np.abs(clock.map(told) - truth).max()
    assert error <= 20_000 + abs(drift) * 20 * 10_000_000 + 2
    assert clock.slack_ns <= 20_000 + abs(drift) * 20 * 10_000_000 + 2


def test_a_clock_that_is_set_during_the_run_is_an_error() -> None:
    """A second that the clock of day jumps would be a second of latency."""
    truth = np.arange(200, dtype=np.int64) * 10_000_000
    told = truth + np.where(truth > 1_000_000_000, 1_000_000_000, 0)
    times = SampleTimes(np.arange(200), told, told, told)
    with pytest.raises(MeasurementError, match="clock was set"):
        clock_of(times, truth, truth + 1000)
    with pytest.raises(MeasurementError, match="199 were run"):
        clock_of(times, truth[1:], truth[1:])


@given(limit=st.floats(0.04, 0.99), precision=st.floats(0.02, 0.2))
def test_the_search_ends_just_below_the_highest_load(limit: float, precision: float) -> None:
    """What is found was valid, and a load that is higher by the precision was not, or is the capacity."""
    found, probes = highest_load(1000.0, lambda per_s: Probe(per_s, per_s <= 1000 * limit, 0.01), precision)
    assert found is not None
    assert found <= 1000 * limit <= found * (1 + precision) * (1 + 1e-9)
    assert any(probe.valid and probe.queries_per_s == found for probe in probes)
    assert len(probes) < 20


@pytest.mark.parametrize(("hopeless", "count"), [(False, 5), (True, 1)])
def test_the_search_gives_up_where_nothing_is_valid(hopeless: bool, count: int) -> None:
    """It goes down to where hardly anything waits, and straight there if the limit is below a lone query's latency."""
    found, probes = highest_load(320.0, lambda per_s: Probe(per_s, False, 0.02), 0.1, hopeless=hopeless)
    assert found is None
    assert len(probes) == count
    assert probes[-1].queries_per_s == 320 * LOWEST_RATIO


def test_lengths_and_limits_are_mlperfs() -> None:
    """The numbers for early stopping are those that LoadGen tells, and a full run has MLPerf's duration and counts."""
    assert [queries_needed(99.0), queries_needed(90.0), queries_needed(99.0, over=0)] == [662, 64, 459]
    full = {name: load_of(name, "classification", 1, Wishes(), full=True, quick_s=10.0) for name in load.SCENARIOS}
    assert {each.min_duration_s for each in full.values()} == {600.0}
    assert all(each.official for each in full.values())
    assert [full[name].percentile for name in load.SCENARIOS[:3]] == [90.0, 99.0, 99.0]
    assert full["multi-stream"].samples_per_query == 8
    assert full["multi-stream"].min_query_count == 662
    assert full["offline"].min_query_count == 24576
    assert full["server"].latency_limit_s == pytest.approx(0.015)
    assert load_of("server", "detection", 1, Wishes(), full=True, quick_s=1.0).latency_limit_s == pytest.approx(0.1)
    quick = load_of("server", "", 1, Wishes(), full=False, quick_s=10.0)
    assert (quick.min_duration_s, quick.official) == (10.0, False)
    shortened = load_of("server", "", 1, Wishes(min_query_count=10), full=True, quick_s=10.0)
    assert not shortened.official


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"scenarios": ("servr",)}, "server"),
        ({"load": {"latency_limit_s": 0.1}}, "--scenario server"),
        ({"scenarios": ("offline",), "load": {"latency_limit_s": 0.1}}, "leave --latency-limit out"),
        ({"scenarios": ("single-stream",), "batches": (8,)}, "one sample"),
        ({"scenarios": ("server",), "load": {"latency_limit_s": -1.0}}, "latency_limit_s is -1"),
        ({"scenarios": ("server",), "load": {"percentile": 100.0}}, "percentile is 100"),
        ({"scenarios": ("server",), "load": {"latencylimit_s": 1.0}}, "latency_limit_s"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(tiny_onnx: Path, asked: dict[str, Any], told: str) -> None:
    """A wrong name, a limit that nothing keeps to, or a batch that a scenario does not have is an error."""
    with pytest.raises(ConfigError, match=told):
        plan.configurations_of(plan.to_request({"models": (str(tiny_onnx),)} | asked))


def test_a_missing_loadgen_says_what_to_install(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, scenarios are refused with the command that installs it."""
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(UnavailableError, match=r"wattwerk\[loadgen\]"):
        plan.configurations_of(plan.to_request({"models": (str(tiny_onnx),), "scenarios": ("server",)}))


def under(model: Path, scenario: load.Scenario, wishes: Wishes, latency_s: float, batch: int = 1) -> Configuration:
    """Return a configuration of the fake runtime, whose latency is known, under a load."""
    return Configuration(
        model=str(model),
        runtime="fake",
        precision="fp32",
        batch=batch,
        device="cpu",
        options={"latency_s": latency_s},
        load=load_of(scenario, "", batch, wishes, full=False, quick_s=1.0),
    )


def measured(*configurations: Configuration) -> dict[str, Record]:
    """Run a sweep and return its records by scenario."""
    with Store() as store:
        records = run_sweep(new_sweep(configurations, SHORT), store)
    return {str(record.setup.protocol["scenario"]): record for record in records}


@pytest.mark.slow
def test_a_load_is_a_record_with_verdict_logs_and_energy(
    tiny_onnx: Path, fake_plugin: str, wattwerk_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The energy is what a meter of known power counts over LoadGen's interval; limit and verdict are in the record."""
    wattwerk_home.mkdir()
    (wattwerk_home / "config.toml").write_text(
        '[meters.fake]\nscope = "wall"\nbase_w = 100\nstep_w = 200\nperiod_s = 0.7'
    )
    truth = FakeMeterConfig(scope=Scope.WALL, base_w=100, step_w=200, period_s=0.7)
    real, seen = run.evaluate_load, {}

    def keeping(answer: LoadMeasurement, *rest: Any) -> Any:
        seen[answer.logs] = (answer.steady_start, answer.steady_ends[-1])
        return real(answer, *rest)

    monkeypatch.setattr(run, "evaluate_load", keeping)
    slow = Wishes(min_duration_s=1.0, latency_limit_s=0.001, min_query_count=662, percentile=90.0, samples_per_query=2)
    records = measured(
        under(tiny_onnx, "single-stream", QUICK, 0.002),
        under(tiny_onnx, "multi-stream", slow, 0.002, batch=2),
        under(tiny_onnx, "offline", QUICK, 0.002, batch=4),
    )
    for scenario, record in records.items():
        protocol = record.setup.protocol
        assert protocol["verdict"] == "VALID", record.reason
        assert protocol["quick"] is True
        assert protocol["load_mode"] == "shorter than MLPerf's minimums"
        folder = wattwerk_home / str(protocol["logs"])
        assert "Result is : VALID" in (folder / SUMMARY).read_text()
        energy = record.figures["wall_energy_j"]
        # between two samples of the meter, every 0.1 s, the power is known to no more than its step
        assert energy.value == pytest.approx(truth.energy_j(*seen[str(protocol["logs"])]), rel=0.05), scenario
        per_sample = record.value("wall_energy_per_inference_j")
        assert per_sample == pytest.approx(energy.value / record.value("sample_count"))  # type: ignore[operator]
        disagreement = record.figures["log_disagreement_ratio"]
        assert disagreement.low < 0.01  # type: ignore[operator]
        assert disagreement.high > -0.01  # type: ignore[operator]
        assert record.figures["own_query_p50_s"].high is not None
    single, multi, offline = (records[name] for name in ("single-stream", "multi-stream", "offline"))
    assert single.status is Status.OK, single.reason
    assert 0.002 <= single.value("query_p50_s") < 0.01  # type: ignore[operator]
    assert single.value("wall_energy_per_query_j") == single.value("wall_energy_per_inference_j")
    assert multi.status is Status.INVALID
    assert "percentile 90 is" in multi.reason
    assert "over the limit of 1.00 ms" in multi.reason
    assert multi.value("wall_energy_per_query_j") == pytest.approx(2 * multi.value("wall_energy_per_inference_j"))  # type: ignore[operator]
    assert offline.value("samples_per_s") == pytest.approx(2000, rel=0.5)
    assert "query_p50_s" not in offline.figures
    words = summarise(list(records.values()))
    assert not words.models  # they are not ranked among timed iterations
    assert any(sentence.startswith("Single-stream: tiny") for sentence in words.sentences)
    assert any("MLPerf's minimums" in sentence for sentence in words.sentences)


@pytest.mark.slow
def test_server_finds_a_load_that_keeps_the_limit(tiny_onnx: Path, fake_plugin: str) -> None:
    """With 2 ms a query and a limit of 60 ms the load lies below the capacity of 500 a second, and the run is valid."""
    wishes = Wishes(min_duration_s=1.0, latency_limit_s=0.06, percentile=90.0)
    record = measured(under(tiny_onnx, "server", wishes, 0.002))["server"]
    assert record.status is Status.OK, record.reason
    found = record.value("target_queries_per_s")
    assert found is not None
    assert 20 < found < 500
    assert record.value("query_p90_s") <= 0.06  # type: ignore[operator]
    assert record.setup.protocol["probes"] > 1  # type: ignore[operator]
    assert record.figures["queries_per_s"].provenance is Provenance.MEASURED


def test_a_limit_that_no_load_keeps_says_what_was_seen(tiny_onnx: Path, fake_plugin: str) -> None:
    """Where even a lone query takes longer, the record is invalid and names the lowest latency."""
    wishes = Wishes(min_duration_s=0.5, latency_limit_s=0.001, percentile=90.0, min_query_count=20)
    record = measured(under(tiny_onnx, "server", wishes, 0.003))["server"]
    assert record.status is Status.INVALID
    assert "no load keeps the limit of 1.00 ms: the lowest percentile 90 seen is " in record.reason
    assert "a lone batch takes " in record.reason
    assert "INVALID: the latency limit is not kept" in record.reason


def test_a_model_too_slow_for_the_search_is_told_at_once(tiny_onnx: Path, fake_plugin: str) -> None:
    """What would take longer than a configuration may is refused after the warm-up, with the ways out."""
    from msgspec.structs import replace

    wishes = Wishes(latency_limit_s=0.1, min_query_count=100_000)
    with Store() as store:
        sweep = new_sweep([under(tiny_onnx, "server", wishes, 0.002)], replace(SHORT, timeout_s=60.0))
        (record,) = run_sweep(sweep, store)
    assert record.status is Status.FAILED
    assert "LoadGen would need about" in record.reason
    assert "--percentile" in record.reason
