"""What the worker does under a load: sessions, LoadGen's runs, the search, and one run that counts."""

from __future__ import annotations

import gc
import gzip
import shutil
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final

import msgspec
import numpy as np

from wattwerk.bench import worker
from wattwerk.bench.load import Load, loadgen, settings, sizes_of
from wattwerk.bench.load_search import Probe, highest_load
from wattwerk.bench.loadgen import Clock, System, clock_of, latencies_ns, percentile_ns, run
from wattwerk.bench.loadgen_log import TRACE, Log, SampleTimes, read_log, read_times
from wattwerk.bench.scenario import Configuration, Procedure
from wattwerk.bench.timing import quiet, time_calls
from wattwerk.bench.worker import Measurement
from wattwerk.catalog.models import CatalogModel
from wattwerk.config import home
from wattwerk.errors import MeasurementError
from wattwerk.records import new_id
from wattwerk.runtimes import RUNTIMES
from wattwerk.runtimes.base import Session

#: Percentiles that are compared with LoadGen's log.
COMPARED: Final = (50.0, 90.0, 95.0, 97.0, 99.0)

_ATTEMPTS: Final = 5
_STEP_DOWN: Final = 0.95
_TIMED: Final = 20
_MARGIN: Final = 1.25  # LoadGen makes as many queries as the time expected needs; a quicker run would end too early
_USUAL_PROBES: Final = 6


class LoadMeasurement(Measurement, frozen=True, kw_only=True):
    """Word from the worker: what it saw under a load; the energy windows are LoadGen's measured interval.

    Attributes:
        log: What LoadGen says of the run that counts.
        logs: The folder of that run's logs, relative to ``config.home()``.
        version: LoadGen's version.
        queries: Number of queries.
        samples: Number of samples.
        own_s: Percent -> latency by our own times, at least and at most.
        slack_ns: By how much the mapping of LoadGen's clock can be wrong.
        target_per_s: Queries a second that LoadGen was to send; None where it waits for answers.
        probes: The runs of the search.
        attempts: Runs that were to count; all but the last one were not valid.
        lone_s: Median latency of the smallest batch with nothing else running.
        kept: Whether a load was found that keeps the limit.
    """

    log: Log
    logs: str
    version: str
    queries: int
    samples: int
    own_s: dict[float, tuple[float, float]]
    slack_ns: float
    target_per_s: float | None
    probes: tuple[Probe, ...]
    attempts: int
    lone_s: float
    kept: bool = True


class _Bench:
    """A model under load, with what its runs share."""

    def __init__(
        self,
        load: Load,
        calls: dict[int, Callable[[], object]],
        task: str,
        folder: Path,
        seed: int,
        tell: Callable[[str], None],
    ) -> None:
        self.lg = loadgen()
        self.load, self.calls, self.task, self.folder, self.seed, self.tell = load, calls, task, folder, seed, tell
        with quiet():
            medians = {size: float(np.median(time_calls(call, _TIMED))) / 1e9 for size, call in calls.items()}
        self.lone_s = medians[min(medians)]
        self.samples_per_s = max(size / taken for size, taken in medians.items())

    def run(self, name: str, per_s: float | None, *, counts: bool) -> tuple[System, Log]:
        """Run LoadGen once; a run that counts has the official seeds, a trace, and the full length."""
        system = System(self.lg, self.calls, queued=self.load.scenario == "server")
        chosen = self._settings(per_s)
        if not counts:
            chosen.schedule_rng_seed += self.seed
        run(self.lg, system, chosen, self.folder / name, trace=counts)
        return system, read_log(self.folder / name)

    def _settings(self, per_s: float | None) -> Any:
        load, chosen = self.load, settings(self.load.scenario, self.task)
        chosen.min_duration_ms = round(load.min_duration_s * 1e3)
        chosen.min_query_count = load.min_query_count
        share, limit_ns = load.percentile / 100, round((load.latency_limit_s or 0) * 1e9)
        query_s = self.lone_s if load.scenario == "single-stream" else load.samples_per_query / self.samples_per_s
        if load.scenario == "single-stream":
            chosen.single_stream_expected_latency_ns = round(query_s / _MARGIN * 1e9)
            chosen.single_stream_target_latency_percentile = share
        elif load.scenario == "multi-stream":
            chosen.multi_stream_expected_latency_ns = round(query_s / _MARGIN * 1e9)
            chosen.multi_stream_samples_per_query = load.samples_per_query
            chosen.multi_stream_target_latency_percentile = share
        elif load.scenario == "server":
            chosen.server_target_qps = per_s
            chosen.server_target_latency_ns, chosen.server_target_latency_percentile = limit_ns, share
        else:
            chosen.offline_expected_qps = per_s or self.samples_per_s * _MARGIN
        return chosen

    def search(self) -> tuple[float | None, tuple[Probe, ...]]:
        """Find the highest load of ``server``; nothing is to be found elsewhere."""
        load = self.load
        if load.scenario != "server" or load.latency_limit_s is None:
            return None, ()
        done: list[Probe] = []

        def probe(per_s: float) -> Probe:
            self.tell(f"probe {len(done) + 1}: {per_s:.3g} queries per second")
            self.seed += 1
            _, log = self.run(f"probe-{len(done) + 1:02d}", per_s, counts=False)
            done.append(Probe(per_s, log.valid, log.percentile_s(load.percentile), log.reason))
            return done[-1]

        hopeless = self.lone_s > load.latency_limit_s
        found, probes = highest_load(self.samples_per_s, probe, load.precision_ratio, hopeless=hopeless)
        return found, tuple(probes)

    def expected_s(self) -> float:
        """Return about how long all runs will take."""
        load = self.load
        query_s = load.samples_per_query / self.samples_per_s
        busy = 0.5 if load.scenario == "server" else 1.0
        once = max(load.min_duration_s, load.min_query_count * query_s / busy)
        return once * (_USUAL_PROBES + 1 if load.scenario == "server" else 1)


def measure(configuration: Configuration, procedure: Procedure, tell: Callable[[str], None]) -> LoadMeasurement:
    """Put a load on a model.

    Raises:
        UnavailableError: LoadGen or the runtime is missing.
        MeasurementError: The runs would take longer than a configuration may, or LoadGen's logs cannot be used.
    """
    load = configuration.load
    assert load is not None
    loadgen()
    reset = worker.reset_memory_peak()
    tell("loading")
    model = worker.model_of(configuration.model, configuration.weights, configuration.input_shape, procedure.seed)
    load_start = perf_counter_ns()
    with _sessions(configuration, procedure, model, sizes_of(load, configuration.batch)) as (sessions, calls):
        load_ns = perf_counter_ns() - load_start
        tell("warming up")
        warmup = sum(worker.warm_up(call, procedure)[0] for call in calls.values())
        bench = _Bench(load, calls, model.task, home() / "loadgen" / new_id(), procedure.seed, tell)
        _check_time(bench, procedure)
        found, probes = bench.search()
        idle_before = worker.rest(procedure.idle_s, tell)
        target = found or (probes[-1].queries_per_s if probes else None)
        system, log, target, attempts = _counting_run(bench, target, give_up=bool(probes) and found is None)
        folder = bench.folder / _run_name(attempts)
        idle_after = worker.rest(procedure.idle_s, tell)
        session = sessions[max(sessions)]
        finite = worker.all_finite(session.outputs(model.sample_inputs(max(sessions), procedure.seed)))
        device = session.device_name(), session.device_address(), session.device_memory_peak_bytes()
        effective = worker.with_rewriting(session.effective, model.fixed_batch, configuration.batch)
    del session, sessions, calls, bench.calls
    gc.collect()
    seen = _seen(load, read_times(folder), system)
    _pack(folder / TRACE)
    return LoadMeasurement(
        subject=model.subject(),
        effective=effective,
        blocks=(),
        warmup=warmup,
        load_ns=load_ns,
        loaded_idle=(idle_before, idle_after),
        unloaded_idle=worker.rest(procedure.idle_s, tell),
        memory_peak_bytes=worker.memory_peak_bytes() if reset else None,
        device_memory_peak_bytes=device[2],
        finite=finite,
        device_name=device[0],
        device_address=device[1],
        log=log,
        logs=folder.relative_to(home()).as_posix(),
        version=metadata.version("mlcommons-loadgen"),
        target_per_s=target if load.scenario == "server" else None,
        probes=probes,
        attempts=attempts,
        lone_s=bench.lone_s,
        kept=not probes or found is not None,
        **seen,
    )


@contextmanager
def _sessions(
    configuration: Configuration, procedure: Procedure, model: CatalogModel, sizes: list[int]
) -> Iterator[tuple[dict[int, Session], dict[int, Callable[[], object]]]]:
    """Load a session for every batch size, and bind inputs to each."""
    runtime = RUNTIMES.load(configuration.runtime)
    with ExitStack() as stack:
        sessions: dict[int, Session] = {}
        calls: dict[int, Callable[[], object]] = {}
        for size in sizes:
            spec = worker.load_spec(msgspec.structs.replace(configuration, batch=size), procedure, model)
            sessions[size] = runtime.load(model, spec)
            stack.callback(sessions[size].close)
            calls[size] = sessions[size].bind(model.sample_inputs(size, procedure.seed))
        yield sessions, calls
        sessions.clear()
        calls.clear()


def _check_time(bench: _Bench, procedure: Procedure) -> None:
    expected = bench.expected_s()
    if expected > procedure.timeout_s:
        raise MeasurementError(
            f"LoadGen would need about {expected:.0f} s for {bench.load.min_query_count} queries of "
            f"{bench.load.samples_per_query / bench.samples_per_s:.2g} s each, more than the {procedure.timeout_s:g} s "
            "that a configuration may take",
            "use a lower --percentile, which needs fewer queries, or a larger timeout_s under [procedure] of --config",
        )


def _counting_run(bench: _Bench, target: float | None, *, give_up: bool) -> tuple[System, Log, float | None, int]:
    """Run until a run is valid, each time with a little less load or a better guess of the speed; five at most."""
    for attempt in range(1, _ATTEMPTS + 1):
        bench.tell(f"run that counts{f', attempt {attempt}' if attempt > 1 else ''}")
        system, log = bench.run(_run_name(attempt), target, counts=True)
        if log.valid or give_up or attempt == _ATTEMPTS:
            return system, log, target, attempt
        if bench.load.scenario == "server":
            assert target is not None
            target *= _STEP_DOWN
        elif log.values.get("result_min_duration_met") is False:
            bench.samples_per_s *= _MARGIN
            bench.lone_s /= _MARGIN
        else:
            return system, log, target, attempt
    raise AssertionError("unreachable")


def _run_name(attempt: int) -> str:
    return f"run-{attempt}"


def _pack(trace: Path) -> None:
    """Compress a trace in its place: it has some hundred bytes for every sample."""
    with trace.open("rb") as plain, gzip.open(trace.with_name(f"{trace.name}.gz"), "wb") as packed:
        shutil.copyfileobj(plain, packed)
    trace.unlink()


def _seen(load: Load, times: SampleTimes, system: System) -> dict[str, Any]:
    """Return the measured interval and our own percentiles."""
    clock: Clock = clock_of(times, system.before_ns, system.after_ns)
    start, end = (int(each) for each in clock.map(np.array([times.due_ns.min(), times.complete_ns.max()], np.int64)))
    samples = len(times.query)
    # what is known is the energy of the whole run; shared evenly it does not pretend to know more of a sample
    ends = array("q", np.linspace(start, end, samples + 1)[1:].astype(np.int64).tolist())
    queries = times
    if load.scenario == "offline":  # LoadGen tells the latencies of samples there
        queries = msgspec.structs.replace(times, query=np.arange(samples))
    due = load.scenario in ("server", "offline")  # what comes at random or all at once is late before it is issued
    own = latencies_ns(queries, clock, system, due=due)
    levels = {level: (percentile_ns(own[0], level) / 1e9, percentile_ns(own[1], level) / 1e9) for level in COMPARED}
    return {
        "steady_start": start,
        "steady_ends": ends,
        "queries": int(times.query.max()) + 1,
        "samples": samples,
        "own_s": levels,
        "slack_ns": clock.slack_ns,
    }
