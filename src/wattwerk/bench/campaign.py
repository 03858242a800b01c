"""A whole campaign, from a person's request to records, summary and report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from wattwerk import export
from wattwerk.bench import plan
from wattwerk.bench.accuracy_setup import left_out
from wattwerk.bench.forecast import Forecast, forecast
from wattwerk.bench.lease import Lease, take
from wattwerk.bench.pipeline_setup import refused_photos
from wattwerk.bench.report import figures
from wattwerk.bench.run import Listener, Silence, remaining, run_sweep
from wattwerk.bench.scenario import Sweep, new_sweep
from wattwerk.bench.study import find, read
from wattwerk.bench.study_plan import Filter, sweep_of
from wattwerk.bench.summary import Summary, summarise
from wattwerk.catalog import models, processors
from wattwerk.config import home, to_struct
from wattwerk.errors import ConfigError, StoreError, WattwerkError
from wattwerk.meters import inventory
from wattwerk.records import Record
from wattwerk.registry import Probe
from wattwerk.runtimes import RUNTIMES
from wattwerk.store import Store, is_store, read_records

#: What of a request chooses a part of a study.
PARTS: Final = ("models", "runtimes", "precisions", "batches", "devices")


class Outcome(msgspec.Struct, frozen=True):
    """What a campaign gave.

    Attributes:
        sweep: Its id.
        records: Its records, in the order of model, runtime, precision and batch.
        summary: The best configurations, in words and as data; None if nothing was measured.
        report: The report's file; None if there was nothing to plot.
        interrupted: Whether it was cut off.
    """

    sweep: str
    records: list[Record]
    summary: Summary | None
    report: Path | None
    interrupted: bool

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "sweep": self.sweep,
            "records": self.records,
            "summary": self.summary.as_dict() if self.summary else None,
            "report": str(self.report) if self.report else None,
            "interrupted": self.interrupted,
        }


def bench(
    asked: dict[str, Any],
    config: Path | None,
    *,
    study: str | None = None,
    resume: bool = False,
    report: Path | None = None,
    listener: Listener | None = None,
) -> Outcome:
    """Plan a sweep, or take up the last one that was cut off, measure it, sum it up and report.

    Args:
        asked: Keys of ``plan.Request``; empty values mean that nothing was asked for.
        config: A TOML file with the same keys, which ``asked`` overrides.
        study: The name or file of a study; of ``asked``, ``PARTS`` then choose a part of it and ``images`` its photos.
        resume: Whether to go on with the last sweep that was cut off; with ``study``, of that study.
        report: Where the report goes; None for ``reports/<sweep>.html`` in ``config.home()``.
        listener: Hears of the progress.

    Raises:
        ConfigError: Something that was asked for cannot be.
        UnavailableError: A runtime is not installed here.
        StoreError: The store cannot be read or written.
        MeasurementError: The recorder died.
    """
    given = _given(asked)
    if report is not None and (report.is_dir() or not report.parent.is_dir()):  # known before anything is measured
        raise ConfigError(f"cannot write the report {report}", "name a file in a folder that exists")
    heard = listener or Silence()
    with Store() as store:
        take_up = _unfinished if resume else _new
        sweep, held = take_up(store, given, config, study, heard)
        interrupted = False
        with held:
            try:
                if sweep.course:
                    done = store.records(sweep.id)
                    heard.planned(forecast(sweep, remaining(sweep, done), done, store.records()).sentence())
                run_sweep(sweep, store, heard)
                store.finish_plan(sweep.id)
            except KeyboardInterrupt:
                interrupted = True
        records = sorted(store.records(sweep.id), key=_order)
    return _sum_up(sweep, records, report, interrupted)


def _given(asked: dict[str, Any]) -> dict[str, Any]:
    tables = {
        table: known
        for table in ("procedure", "load")
        if (known := {key: value for key, value in asked.get(table, {}).items() if value is not None})
    }
    given = {key: value for key, value in asked.items() if value not in (None, (), {}, "")}
    return {key: value for key, value in given.items() if key not in ("procedure", "load")} | tables


def _new(
    store: Store, given: dict[str, Any], config: Path | None, study: str | None, heard: Listener
) -> tuple[Sweep, Lease]:
    inventory.check_sections()
    sweep = _sweep(given, config, study)
    for line in [*refused_photos(sweep.configurations), *left_out(sweep.configurations)]:
        heard.warned(line)
    held = take(store.path, sweep.id)  # before others can see the plan
    assert held is not None  # nobody else knows the id yet
    store.add_plan(sweep.id, sweep.to_json())
    return sweep, held


def _sweep(given: dict[str, Any], config: Path | None, study: str | None) -> Sweep:
    if study is None:
        request = plan.read_request(config, given) if config else plan.to_request(given)
        return new_sweep(plan.configurations_of(request), plan.procedure_of(request))
    if config:
        raise ConfigError("--study and --config are two plans", "leave one of them out")
    if others := [key for key in given if key not in (*PARTS, "images")]:
        raise ConfigError(
            f"a study says itself what is measured, so {', '.join(others)} cannot be given",
            f"leave it out, or copy {find(study)} and change that",
        )
    wanted = to_struct(Filter, {key: given[key] for key in PARTS if key in given}, "request")
    return sweep_of(read(study), wanted, given.get("images"))


def estimate(asked: dict[str, Any], config: Path | None, *, study: str | None = None, resume: bool = False) -> Forecast:
    """Tell what ``bench`` would do, and measure nothing; the arguments and errors are those of ``bench``."""
    given = _given(asked)
    with Store() as store:
        if not resume:
            sweep = _sweep(given, config, study)
            return forecast(sweep, sweep.configurations, [], store.records())
        sweep, held = _unfinished(store, given, config, study, Silence())
        held.release()
        done = store.records(sweep.id)
        return forecast(sweep, remaining(sweep, done), done, store.records())


def _unfinished(
    store: Store, given: dict[str, Any], config: Path | None, study: str | None, heard: Listener
) -> tuple[Sweep, Lease]:
    """Return the newest sweep that was cut off, and the right to run it; what runs elsewhere now is left alone."""
    if given or config:
        named = ", ".join([*given, *(["config"] if config else [])])
        raise ConfigError(f"--resume takes the plan of the earlier sweep, so {named} cannot be given", "leave it out")
    running = ""
    for kept in store.plans():
        if kept.finished_at is not None:
            continue
        held = take(store.path, kept.id)
        if held is None:
            running = running or kept.id
            continue
        try:
            sweep = Sweep.from_json(kept.body)
            if study is not None and (sweep.course is None or sweep.course.study != find(study).stem):
                held.release()
                continue
            if remaining(sweep, store.records(sweep.id)):
                return sweep, held
            store.finish_plan(kept.id)  # it was ended after its last record, before it could say so
        except StoreError as error:
            heard.warned(f"sweep {kept.id} of {kept.created_at[:19]} is left out: {error}")
        held.release()
    if running:
        raise ConfigError(f"sweep {running} is running in another process", "wait for its end, or end it first")
    if study is not None:
        raise ConfigError(f"no sweep of the study {study} was cut off", "start it without --resume")
    raise ConfigError("there is no sweep that was cut off", "start a new one by naming a model")


def _order(record: Record) -> tuple[str, str, str, int, str, int]:
    setup = record.setup
    return (
        record.subject.name,
        setup.runtime,
        setup.precision,
        setup.batch or 0,
        setup.device,
        setup.threads or 0,
    )


def _sum_up(sweep: Sweep, records: list[Record], report: Path | None, interrupted: bool) -> Outcome:
    if not any(figures.is_plottable(record) for record in records):
        return Outcome(sweep.id, records, summarise(records) if records else None, None, interrupted)
    from wattwerk.bench.report import write_report

    path = report or home() / "reports" / f"{sweep.id}.html"
    if report is None:
        path.parent.mkdir(parents=True, exist_ok=True)  # within home(), where the store could write too
    write_report(records, path)
    return Outcome(sweep.id, records, summarise(records), path, interrupted)


def gather(references: Sequence[str], *, files: bool = False) -> list[Record]:
    """Return the records that references mean, each once.

    Args:
        references: Ids of the store, ``last``, JSON files (also packed by gzip), or stores of other machines, which
            are only read.
        files: Whether each has to be a file: a name that is none is an error instead of an id.

    Raises:
        ConfigError: A reference means nothing, or a file holds no records.
        StoreError: A store cannot be read.
    """
    found: dict[str, Record] = {}
    for reference in references:
        path = Path(reference)
        if files or path.suffix in (".json", ".gz", ".db") or path.is_file():
            records = read_records(path) if is_store(path) else export.read(path)
        else:
            with Store() as store:
                records = store.find(reference)
        found |= {record.id: record for record in records if record.id not in found}
    return list(found.values())


def model_list() -> list[dict[str, Any]]:
    """Return the built-in models with task, parameters, operations and input."""
    subjects = [models.resolve(name).subject() for name in models.names()]
    return [msgspec.to_builtins(subject) for subject in subjects]


def examine() -> dict[str, dict[str, Probe]]:
    """Return what every meter, runtime and device of this machine can do, with reasons and remedies."""
    runtimes: dict[str, Probe] = {}
    places: dict[str, Probe] = {}
    for name in RUNTIMES.names():
        try:
            runtime = RUNTIMES.load(name)
            runtimes[name] = runtime.probe()
            if not runtimes[name].available:
                continue
            for device in runtime.devices():
                precisions = ", ".join(runtime.precisions(device))
                places[f"{name} {device}"] = Probe(True, precisions)
        except WattwerkError as error:
            runtimes[name] = Probe(False, error.message, error.remedy)
    return {"meters": inventory.probe_all(processors.cpu_power_here()), "runtimes": runtimes, "devices": places}
