"""Run a sweep: a recorder beside, a worker for each family of runtimes, one record for every configuration."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from time import perf_counter_ns
from typing import Protocol

import msgspec

from wattwerk.bench.energy import Idle
from wattwerk.bench.estimate import Estimator
from wattwerk.bench.evaluate import Context, evaluate
from wattwerk.bench.load_figures import evaluate_load, load_protocol
from wattwerk.bench.load_worker import LoadMeasurement
from wattwerk.bench.process import WorkerProcess
from wattwerk.bench.scenario import Configuration, Procedure, Sweep
from wattwerk.bench.schedule import Schedule
from wattwerk.bench.streams import StreamsMeasurement, stream_figures
from wattwerk.bench.together import Result, TogetherMeasurement, evaluate_members, references_of
from wattwerk.bench.worker import Measurement, Trouble
from wattwerk.catalog import models
from wattwerk.errors import MeasurementError, StoreError
from wattwerk.machine import package_versions
from wattwerk.metering.sensors import specs_here
from wattwerk.meters.recorder import Recorder
from wattwerk.meters.trace import Trace
from wattwerk.records import Record, Setup, Status, Subject, from_json, new_id, now, to_json
from wattwerk.store import Store

_COOL_DOWN_LIMIT_S = 60.0
_LEAD_NS = 500_000_000  # a trace begins this much before what is computed from it, so that samples stand on both sides

Plain = str | int | float | bool | None


class Listener(Protocol):
    """What wants to know how far a sweep is."""

    def started(self, configuration: Configuration, index: int, count: int) -> None:
        """Hear that a configuration begins; ``index`` counts from 1."""

    def phase(self, text: str) -> None:
        """Hear what is going on within the configuration."""

    def finished(self, record: Record) -> None:
        """Hear that a configuration is done and stored."""

    def warned(self, text: str) -> None:
        """Hear of something that is left out and why, in one line."""

    def planned(self, sentence: str) -> None:
        """Hear what the sweep of a study will do, before it starts."""

    def expects(self, left_s: float) -> None:
        """Hear how long the rest is expected to take, in seconds; told before each configuration."""


class Silence:
    """A listener that does nothing."""

    def started(self, configuration: Configuration, index: int, count: int) -> None:
        """Do nothing."""

    def phase(self, text: str) -> None:
        """Do nothing."""

    def finished(self, record: Record) -> None:
        """Do nothing."""

    def warned(self, text: str) -> None:
        """Do nothing."""

    def planned(self, sentence: str) -> None:
        """Do nothing."""

    def expects(self, left_s: float) -> None:
        """Do nothing."""


def run_sweep(sweep: Sweep, store: Store, listener: Listener | None = None) -> list[Record]:
    """Measure every configuration of a sweep that has no record yet, and store each as soon as it is done.

    Args:
        sweep: What to measure; its plan has to be in the store already if it is to be resumed.
        store: Where the records go.
        listener: Hears of the progress.

    Returns:
        All records of the sweep, those of an earlier start too.

    Raises:
        StoreError: The store cannot be written; what was stored stays.
        MeasurementError: The recorder died.
    """
    heard = listener or Silence()
    open_ones = remaining(sweep, store.records(sweep.id))
    if open_ones:
        _run(sweep, open_ones, store, heard)
    return store.records(sweep.id)


def remaining(sweep: Sweep, records: Sequence[Record]) -> list[Configuration]:
    """Return the configurations of a sweep that have no record yet, in their order."""
    done = {str(record.setup.protocol.get("configuration")) for record in records}
    return [c for c in sweep.configurations if _key(c) not in done]


def _key(configuration: Configuration) -> str:
    values = msgspec.to_builtins(configuration)
    if configuration.load is None:
        del values["load"]  # as in records from before there were loads
    if configuration.streams == 1:
        del values["streams"]
    if not configuration.processing:
        del values["processing"], values["images"]
    if not configuration.beside:
        del values["beside"]
    if configuration.dataset is None:
        del values["dataset"], values["dataset_limit"], values["calibration"]
    return msgspec.json.encode(values, order="sorted").decode()


def _run(sweep: Sweep, open_ones: Sequence[Configuration], store: Store, heard: Listener) -> None:
    procedure = sweep.procedure
    with Recorder(specs_here(), procedure.rate_hz) as recorder:
        heard.phase("measuring the idle machine")
        platform = msgspec.structs.replace(recorder.platform, packages=package_versions())
        context = Context(platform, _idle(procedure, recorder), tuple(recorder.accelerators))
        _tell_left_out(sweep, store, context, heard)
        accelerator = next((each.name for each in platform.accelerators), "")
        schedule = Schedule(sweep, open_ones, store.records(sweep.id), Estimator(accelerator, store.records()))
        with WorkerProcess(recorder.gate) as process:
            index = len(sweep.configurations) - len(open_ones)
            while (configuration := schedule.next()) is not None:
                index += 1
                heard.expects(schedule.left_s(configuration))
                heard.started(configuration, index, len(sweep.configurations))
                records = _run_one(sweep, configuration, process, recorder, context, heard)
                _keep(records, store, heard)
                for record in records:
                    schedule.learn(record)
                more = index < len(sweep.configurations)
                if more and any(each.status is Status.INVALID and "throttled" in each.reason for each in records):
                    heard.phase("cooling down")
                    _cool_down(recorder)
        for configuration, reason in schedule.skipped():
            _keep(_not_run(sweep, configuration, context, Trouble(Status.SKIPPED, reason)), store, heard)


def _tell_left_out(sweep: Sweep, store: Store, context: Context, heard: Listener) -> None:
    """Store a record for what a study asks for and does not measure, once."""
    if sweep.course is None:
        return
    told = {record.setup.protocol.get("configuration") for record in store.records(sweep.id)}
    for status, several in (
        (Status.UNSUPPORTED, sweep.course.left_out),
        (Status.SKIPPED, sweep.course.excluded),
    ):
        for each in several:
            if _key(each.configuration) not in told:
                reason = f"{each.told()} (all {each.count} configurations)" if each.count > 1 else each.told()
                _keep(_not_run(sweep, each.configuration, context, Trouble(status, reason), each.rule), store, heard)


def _keep(records: Sequence[Record], store: Store, heard: Listener) -> None:
    """Store the records of one configuration, all or none."""
    store.add(*records)
    for record in records:
        heard.finished(record)


def _not_run(
    sweep: Sweep, configuration: Configuration, context: Context, trouble: Trouble, rule: str = ""
) -> list[Record]:
    """Return why a configuration did not run, for each of its models."""
    setup = _setup(sweep, configuration, trouble, [])
    if rule:
        setup = msgspec.structs.replace(setup, protocol=setup.protocol | {"rule": rule})
    return _records(sweep, context, setup, now(), _troubled(configuration, trouble))


def _troubled(configuration: Configuration, trouble: Trouble) -> list[Result]:
    """Return that none of a configuration's models has a result, and why."""
    return [(models.bare_subject(one), trouble.status, trouble.reason, {}) for one in references_of(configuration)]


def _records(sweep: Sweep, context: Context, setup: Setup, started_at: str, results: Sequence[Result]) -> list[Record]:
    """Return the records of a configuration that ends now, one for each of its models."""
    together = new_id()
    return [
        Record(
            id=new_id(),
            kind="bench",
            group=sweep.id,
            subject=subject,
            platform=context.platform,
            setup=_with_others(setup, subject, [other for other, *_ in results], together),
            started_at=started_at,
            finished_at=now(),
            status=status,
            reason=reason,
            figures=figures,
        )
        for subject, status, reason, figures in results
    ]


def _idle(procedure: Procedure, recorder: Recorder) -> Idle:
    time.sleep(_LEAD_NS / 1e9)
    start = perf_counter_ns()
    time.sleep(procedure.idle_s)
    end = perf_counter_ns()
    return Idle(recorder.trace(start - _LEAD_NS, end), (start, end))


def _run_one(
    sweep: Sweep,
    configuration: Configuration,
    process: WorkerProcess,
    recorder: Recorder,
    context: Context,
    heard: Listener,
) -> list[Record]:
    started_at, start = now(), perf_counter_ns() - _LEAD_NS
    procedure = sweep.procedure_of(configuration)
    answer = process.ask(configuration, procedure, heard.phase)
    recorder.gate.resume()  # a worker that died may have left it paused
    if isinstance(answer, Trouble):
        results = _troubled(configuration, answer)
    else:
        trace = recorder.trace(start, answer.unloaded_idle[1])  # a recorder that died ends the sweep: the rest needs it
        results = _evaluated(answer, trace, configuration, procedure, context)
    setup = _setup(sweep, configuration, answer, recorder.faults)
    return [_storable(record) for record in _records(sweep, context, setup, started_at, results)]


def _with_others(setup: Setup, subject: Subject, subjects: Sequence[Subject], together: str) -> Setup:
    """Return the setup with the models that ran at the same time, and what their records have in common."""
    if len(subjects) < 2:
        return setup
    others = ", ".join(other.name for other in subjects if other is not subject)
    return msgspec.structs.replace(setup, protocol=setup.protocol | {"beside": others, "together": together})


def _storable(record: Record) -> Record:
    """Return the record; without its results where they cannot be written and read again, such as a figure of NaN.

    What a runtime or a meter from elsewhere tells may hold anything; that is the end of its configuration only.
    """
    try:
        from_json(to_json(record))
    except (StoreError, TypeError, ValueError, RecursionError) as error:
        reason = f"it ran, but its results cannot be stored ({error})"
        setup = msgspec.structs.replace(record.setup, effective={})
        return msgspec.structs.replace(record, status=Status.FAILED, reason=reason, setup=setup, figures={})
    return record


def _evaluated(
    answer: Measurement, trace: Trace, configuration: Configuration, procedure: Procedure, context: Context
) -> list[Result]:
    """Evaluate; samples that do not suffice are this configuration's result, and never the end of the sweep."""
    try:
        if isinstance(answer, TogetherMeasurement):
            return evaluate_members(answer, trace, configuration, procedure, context)
        if isinstance(answer, LoadMeasurement):
            return [(answer.subject, *evaluate_load(answer, trace, configuration, procedure, context))]
        status, reason, figures = evaluate(answer, trace, configuration, procedure, context)
        if isinstance(answer, StreamsMeasurement):
            figures |= stream_figures(answer, figures, configuration.batch)
        return [(answer.subject, status, reason, figures | answer.accuracy)]
    except (MeasurementError, ArithmeticError, ValueError, LookupError, TypeError) as error:
        reason = f"it ran, but its samples could not be evaluated ({error})"
        subjects = [each.subject for each in answer.members] if isinstance(answer, TogetherMeasurement) else []
        return [(subject, Status.FAILED, reason, {}) for subject in subjects or [answer.subject]]


def _setup(sweep: Sweep, configuration: Configuration, answer: Measurement | Trouble, faults: list[str]) -> Setup:
    procedure = sweep.procedure_of(configuration)
    protocol: dict[str, Plain] = msgspec.structs.asdict(procedure) | {"configuration": _key(configuration)}
    if sweep.course:
        protocol["study"] = sweep.course.study
    if not procedure.max_time_s:
        del protocol["max_time_s"]  # as in records from before there was a limit
    protocol |= load_protocol(configuration.load, answer)
    if configuration.streams > 1:
        protocol["concurrent_streams"] = configuration.streams
    if configuration.processing:
        protocol |= {"processing": configuration.processing, "images": configuration.images}
    if configuration.dataset is not None:
        protocol |= {"dataset": configuration.dataset, "calibration": configuration.calibration}
    if isinstance(answer, Trouble) and answer.iteration_s:
        protocol["iteration_s"] = answer.iteration_s
    effective: dict[str, Plain] = {}
    if isinstance(answer, Measurement):
        made = sum(len(block.durations_ns) for block in answer.blocks)
        protocol |= {"warmup": answer.warmup, "iterations": made}
        told = answer.effective
        effective = {
            "precision": told.precision.value,
            "device": told.device,
            "threads": told.threads,
            "streams": told.streams,
            **told.details,
        }
    return Setup(
        runtime=configuration.runtime,
        precision=configuration.precision,
        batch=configuration.batch,
        device=configuration.device,
        threads=configuration.threads,
        options=configuration.options,
        effective=effective,
        protocol=protocol,
        faults=faults,
    )


def _cool_down(recorder: Recorder) -> None:
    """Wait until no accelerator reports that it is throttled, a minute at most."""
    from wattwerk.meters.nvml import invalidating_reasons

    deadline = time.monotonic() + _COOL_DOWN_LIMIT_S
    while time.monotonic() < deadline:
        start = perf_counter_ns()
        time.sleep(2.0)
        trace = recorder.trace(start)
        masks = [c.name for c in trace.channels if c.name.endswith("_throttle_count")]
        with suppress(MeasurementError):  # no sample just now, as from a hanging meter, does not tell: wait on
            if not any(invalidating_reasons(trace.union(name, start, perf_counter_ns())) for name in masks):
                return
