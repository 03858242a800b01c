"""How long configurations take: the limit of time, what records teach, and what is given up when time runs out."""

from __future__ import annotations

import msgspec
import pytest

from wattwerk.bench.duration import fitted, measuring_s
from wattwerk.bench.estimate import Estimator
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
