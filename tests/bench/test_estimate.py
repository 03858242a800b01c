"""How long configurations take: the limit of time, what records teach, and what is given up when time runs out."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from wattwerk.bench import estimate_kinds as kinds
from wattwerk.bench.duration import fitted, loop_s, measuring_s, rests_s
from wattwerk.bench.estimate import Estimator
from wattwerk.bench.forecast import forecast
from wattwerk.bench.load import Load
from wattwerk.bench.scenario import Configuration, Course, Procedure, Sweep
from wattwerk.bench.schedule import Schedule
from wattwerk.machine import describe
from wattwerk.records import Platform, Record, Setup, Status, Subject, measured, new_id

LIMITED = Procedure(max_time_s=30.0, windows=5, window_s=1.0, idle_s=0.5)


def configuration(model: str = "resnet-50", batch: int = 1, runtime: str = "onnxruntime") -> Configuration:
    """Return a configuration on the CPU."""
    return Configuration(model=model, runtime=runtime, precision="fp32", batch=batch, device="cpu")


def record(its: Configuration, latency_s: float, platform: Platform | None = None) -> Record:
    """Return a record of a configuration on this machine."""
    protocol = {"configuration": msgspec.json.encode(its).decode()}
    setup = Setup(its.runtime, its.precision, batch=its.batch, device=its.device, protocol=protocol)
    figures = {"latency_p50_s": measured(latency_s), "load_s": measured(1.0)}
    at = "2026-11-28T12:00:00.000+00:00"
    return Record(
        id=new_id(), kind="bench", group="g", subject=Subject(its.model), platform=platform or describe(), setup=setup,
        started_at=at, finished_at=at, status=Status.OK, reason="", figures=figures,
    )  # fmt: skip


@pytest.mark.parametrize("iteration_s", [1e-4, 0.01, 0.09, 0.11, 0.3, 0.9, 1.1, 1.9])
def test_iterations_are_cut_to_the_limit_and_no_further(iteration_s: float) -> None:
    """With a limit measuring ends in time, and either all iterations are made or nearly all of the time is used."""
    counts = fitted(LIMITED, iteration_s)
    assert measuring_s(LIMITED, iteration_s) <= 30.0
    wanted = LIMITED.iterations if iteration_s <= 1.0 else LIMITED.slow_iterations
    assert counts.iterations == wanted or measuring_s(LIMITED, iteration_s) > 30.0 - 2 * iteration_s


def test_a_few_iterations_always_remain() -> None:
    """However slow the model is, four timed iterations and two before them are made."""
    counts = fitted(LIMITED, 100.0)
    assert (counts.warmup, counts.iterations, counts.settling) == (2, 4, 0)


def test_records_correct_the_guess_for_what_is_near() -> None:
    """A record tells the time of its own configuration exactly, and moves others of its runtime by the same factor."""
    estimator = Estimator()
    near, far = configuration("resnet-50", 8), configuration("vit-b-16")
    guesses = [estimator.iteration_s(each)[0] for each in (configuration(), near, far)]
    assert estimator.iteration_s(far)[1] == "operations"
    estimator.learn(record(configuration(), 3 * guesses[0]))
    found = [estimator.iteration_s(each) for each in (configuration(), near, far)]
    assert [each[0] for each in found] == pytest.approx([3 * guess for guess in guesses])
    assert [each[1] for each in found] == ["this configuration", "this model", "this runtime"]


def test_other_machines_teach_nothing() -> None:
    """A record of another processor leaves the estimate as it is."""
    other = msgspec.structs.replace(describe(), cpu="Another CPU")
    assert Estimator("", [record(configuration(), 9.0, other)]).iteration_s(configuration())[1] == "operations"


def sweep_of(*configurations: Configuration, budget_s: float, procedure: Procedure = LIMITED) -> Sweep:
    """Return a study's sweep with the configurations ranked as they stand, in the reverse order."""
    turned = tuple(reversed(configurations))
    count = len(turned)
    course = Course(
        study="s", procedures=(procedure,) * count, ranks=tuple(range(count - 1, -1, -1)), budget_s=budget_s
    )
    return Sweep(id="s", procedure=procedure, configurations=turned, course=course)


def test_a_budget_keeps_what_stands_first() -> None:
    """Of two that do not both fit, the one that the study has first runs, and the other's reason names the budget."""
    first, second = configuration("resnet-50"), configuration("vit-b-16")
    estimator = Estimator("", [record(first, 0.01), record(second, 0.01)])
    sweep = sweep_of(first, second, budget_s=estimator.expect(first, LIMITED).total_s + 1)
    assert Schedule(sweep, sweep.configurations, [], estimator).next() == first
    done = msgspec.structs.replace(record(first, 0.01), finished_at="2026-11-28T12:00:10.000+00:00")
    schedule = Schedule(sweep, [second], [done], estimator)
    assert schedule.next() is None
    ((skipped, reason),) = schedule.skipped()
    assert skipped == second
    assert "budget_s" in reason


def test_what_seemed_too_long_runs_after_the_estimate_fell() -> None:
    """A configuration is left for later while it seems too slow, and runs once a record tells otherwise."""
    small, large = configuration("mobilenet-v2"), configuration("segformer-b5", 8)
    estimator = Estimator()
    sweep = sweep_of(small, large, budget_s=0.0)
    schedule = Schedule(sweep, sweep.configurations, [], estimator)
    assert estimator.expect(large, LIMITED).least_s > 30
    assert schedule.next() == small
    schedule.learn(record(small, estimator.iteration_s(small)[0] / 1000))
    assert schedule.next() == large


def test_what_is_known_to_be_too_long_is_skipped_with_its_time() -> None:
    """A model of which a record says ten seconds does not run under a limit of half a minute."""
    slow = configuration("segformer-b5")
    sweep = sweep_of(configuration("segformer-b5", 2), budget_s=0.0)
    schedule = Schedule(sweep, sweep.configurations, [], Estimator("", [record(slow, 10.0)]))
    assert schedule.next() is None
    ((_, reason),) = schedule.skipped()
    assert "20.0 s (from records of this model)" in reason
    assert "max_time_s = 30" in reason


def test_streams_and_models_at_once_follow_their_own_loops() -> None:
    """Streams warm up one by one and have no timed iterations; several models run alone first, then in one window."""
    plain, other = configuration("resnet-50"), configuration("vit-b-16")
    estimator = Estimator("", [record(plain, 0.01), record(other, 0.02)])
    at_once_s = rests_s(LIMITED) + 5.5
    three = estimator.expect(msgspec.structs.replace(plain, streams=3), LIMITED)
    assert three.measuring_s == pytest.approx(at_once_s + 3 * 0.5)  # 20 iterations are less than warmup_s
    both = estimator.expect(msgspec.structs.replace(plain, beside=("vit-b-16",)), LIMITED)
    assert both.measuring_s == pytest.approx(at_once_s + loop_s(LIMITED, 0.01) + loop_s(LIMITED, 0.02))
    assert both.iteration_s == pytest.approx(0.03)
    assert both.basis == "this configuration"
    beside = record(msgspec.structs.replace(plain, beside=("vit-b-16",)), 0.05)
    beside = msgspec.structs.replace(
        beside, subject=Subject("vit-b-16"), figures=beside.figures | {"alone_latency_p50_s": measured(0.04)}
    )
    assert Estimator("", [beside]).iteration_s(other) == (pytest.approx(0.04), "this configuration")
    slow = estimator.expect(
        msgspec.structs.replace(plain, streams=3), msgspec.structs.replace(LIMITED, windows=2, window_s=0.1)
    )
    assert slow.measuring_s - rests_s(LIMITED) == pytest.approx(3 * 0.5 + 0.7)
    assert three.more == ("at worst in turn",)


def server(min_duration_s: float) -> Configuration:
    """Return a configuration under the load of a server."""
    load = Load(scenario="server", percentile=99.0, min_duration_s=min_duration_s, min_query_count=100)
    return msgspec.structs.replace(configuration(), load=load)


def test_a_search_counts_its_runs_and_learns_them() -> None:
    """Eight runs as usual, two to fifteen in bounds; after a record its own time, and its number of runs for others."""
    estimator = Estimator("", [record(configuration(), 0.01)])
    found = estimator.expect(server(10.0), LIMITED)
    assert found.measuring_s == pytest.approx(8 * 10 + rests_s(LIMITED) + 0.5 + 20 * 0.01)
    assert 20 < found.low_s < 25
    assert found.high_s > 15 * 10
    short = estimator.expect(server(0.5), LIMITED)  # 100 queries at 1/32 of the load take 32 s, twice that at most
    assert short.high_s > 3 * 64 > short.total_s
    assert found.more == ("8 runs (usual, at most 15)",)
    done = record(server(10.0), 0.01)
    protocol = done.setup.protocol | {"probes": 5, "attempts": 1}
    setup = msgspec.structs.replace(done.setup, protocol=protocol)
    estimator.learn(msgspec.structs.replace(done, setup=setup, finished_at="2026-11-28T12:01:10.000+00:00"))
    assert estimator.expect(server(10.0), LIMITED).total_s == pytest.approx(70)
    assert estimator.expect(server(20.0), LIMITED).measuring_s == pytest.approx(6 * 20, rel=0.05)
    assert estimator.expect(server(20.0), LIMITED).more == ("6 runs (from records, at most 15)",)


def test_a_data_set_adds_its_photos(tmp_path: Path) -> None:
    """Photos cost their inference and a usual time, int8 without labels twice; a record tells the time of a photo."""
    for index in range(40):
        (tmp_path / f"{index}.jpg").touch()
    plain = configuration(batch=8)
    examined = msgspec.structs.replace(plain, dataset=str(tmp_path))
    estimator = Estimator("", [record(plain, 0.1)])
    without, found = estimator.expect(plain, LIMITED), estimator.expect(examined, LIMITED)
    assert found.total_s - without.total_s == pytest.approx(5 * 0.1 + 40 * 0.019)
    assert found.measuring_s == without.measuring_s  # it is outside of everything that is timed
    assert found.more == ("40 photos (usual time)",)
    quantised = msgspec.structs.replace(examined, precision="int8")
    assert kinds.passes_of(quantised) == (1, 2, 2)
    known = record(examined, 0.1)
    figures = known.figures | {"accuracy_pass_s": measured(4.5), "accuracy_images_count": measured(40)}
    estimator.learn(msgspec.structs.replace(known, figures=figures))
    learned = estimator.expect(examined, LIMITED)
    assert learned.total_s - without.total_s == pytest.approx(4.5)
    assert learned.more == ("40 photos (records of this model)",)


@pytest.mark.parametrize("latency_s", [0.001, 0.05, 0.4, 0.9, 2.0, 30.0])
@pytest.mark.parametrize("limit_s", [0.0, 30.0])
def test_bounds_hold_what_is_likely(latency_s: float, limit_s: float) -> None:
    """Also around the time from which on fewer iterations are made, least and most hold all that lies between."""
    procedure = msgspec.structs.replace(LIMITED, max_time_s=limit_s)
    found = Estimator("", [record(configuration(), latency_s)]).expect(configuration(), procedure)
    assert found.low_s < found.total_s < found.high_s
    for factor in (0.51, 0.9, 1.1, 1.99):
        measuring_s = measuring_s_within(procedure, latency_s * factor)
        assert found.low_s - 1 < measuring_s + 1 < found.high_s


def measuring_s_within(procedure: Procedure, iteration_s: float) -> float:
    """Return how long measuring takes, or until the worker gives it up."""
    whole_s = measuring_s(procedure, iteration_s)
    return min(whole_s, max(1.5 * procedure.max_time_s, 2 * iteration_s)) if procedure.max_time_s else whole_s


def test_the_rest_is_told_with_what_is_done() -> None:
    """A sweep with one of two records says so, how long that took, and how long the other takes within bounds."""
    first, second = configuration("resnet-50"), configuration("vit-b-16")
    done = msgspec.structs.replace(record(first, 0.01), finished_at="2026-11-28T12:00:20.000+00:00")
    told = forecast(sweep_of(first, second, budget_s=0.0), [second], [done], [done])
    assert (told.done_count, told.spent_s, len(told.running)) == (1, 20.0, 1)
    assert told.low_s < told.total_s < told.high_s
    assert told.sentence().startswith(
        "study s: 1 of 2 configurations are done (in 20 s); 1 configuration to go, about "
    )
