"""What the worker does: load a model, run it, and say what it saw.

One worker runs the configurations of one family of runtimes one after the other, so that a library is loaded once. It
reports times of ``perf_counter_ns``, the clock that the recorder uses too; the parent puts both together afterwards.
"""

from __future__ import annotations

import gc
import sys
import time
import traceback
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from time import perf_counter_ns

import msgspec

from wattwerk.bench.accuracy import CALIBRATION_COUNT, Examination, calibration_inputs
from wattwerk.bench.duration import BLOCKS, Counts, TooSlowError, check_fits, fitted
from wattwerk.bench.pipeline import PHASES
from wattwerk.bench.pipeline_setup import prepare
from wattwerk.bench.scenario import Configuration, Procedure
from wattwerk.bench.timing import quiet, run_for, time_calls
from wattwerk.catalog import models
from wattwerk.errors import ConversionError, UnavailableError, WattwerkError
from wattwerk.meters.recorder import Gate
from wattwerk.records import Figure, Status, Subject
from wattwerk.runtimes import RUNTIMES
from wattwerk.runtimes.base import Arrays, Effective, LoadSpec, Precision, Session

Interval = tuple[int, int]


class Phase(msgspec.Struct, frozen=True):
    """Word from the worker: what it is doing now."""

    text: str


class Trouble(msgspec.Struct, frozen=True):
    """Word from the worker: the configuration has no result, and why.

    Attributes:
        status: How it ended.
        reason: Why.
        iteration_s: How long an iteration took, in seconds, where that is why; None else.
    """

    status: Status
    reason: str
    iteration_s: float | None = None


class Block(msgspec.Struct, frozen=True):
    """Timed iterations that ran one after the other.

    Attributes:
        durations_ns: How long each took, in the order in which they ran.
        sampled: Whether the sampler was running meanwhile.
    """

    durations_ns: array[int]
    sampled: bool


class PhaseRun(msgspec.Struct, frozen=True):
    """One phase of a pipeline, run by itself.

    Attributes:
        blocks: The timed iterations.
        steady_start: When its energy windows began.
        steady_ends: The end of every iteration of them.
    """

    blocks: tuple[Block, ...]
    steady_start: int
    steady_ends: array[int]


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """Word from the worker: everything it saw; all times in nanoseconds of ``perf_counter_ns``.

    Attributes:
        subject: The model.
        effective: What the runtime really did.
        blocks: The timed iterations, in the order in which the blocks ran.
        warmup: Untimed iterations that were made.
        load_ns: How long loading, converting and compiling took.
        steady_start: When the energy windows began.
        steady_ends: The end of every iteration of the energy windows.
        loaded_idle: Intervals with the model loaded and nothing running: before and after the windows.
        unloaded_idle: The interval after the model was unloaded.
        memory_peak_bytes: Peak resident memory of the process since the configuration began; None if unknown.
        device_memory_peak_bytes: Peak memory on the accelerator; None where the runtime does not tell.
        finite: Whether all outputs were finite numbers.
        device_name: The accelerator's name as its runtime gives it; empty for the CPU.
        device_address: Its PCI address; empty for the CPU or where the runtime does not tell.
        phases: Name -> run, of a pipeline; empty for a model alone.
        accuracy: Figures of a data set; empty where there is none.
    """

    subject: Subject
    effective: Effective
    blocks: tuple[Block, ...]
    warmup: int
    load_ns: int
    steady_start: int
    steady_ends: array[int]
    loaded_idle: tuple[Interval, ...]
    unloaded_idle: Interval
    memory_peak_bytes: int | None
    device_memory_peak_bytes: int | None
    finite: bool
    device_name: str = ""
    device_address: str = ""
    phases: dict[str, PhaseRun] = {}
    accuracy: dict[str, Figure] = {}


def answer(
    configuration: Configuration, procedure: Procedure, gate: Gate | None, tell: Callable[[str], None]
) -> Measurement | Trouble:
    """Measure a configuration; what goes wrong is an answer too.

    Args:
        configuration: What to measure.
        procedure: How.
        gate: Pauses the recorder; None if there is none.
        tell: Hears what is going on.
    """
    try:
        if configuration.load is not None:
            from wattwerk.bench import load_worker  # it needs this module

            return load_worker.measure(configuration, procedure, tell)
        if configuration.streams > 1:
            from wattwerk.bench import streams

            return streams.measure(configuration, procedure, tell)
        if configuration.beside:
            from wattwerk.bench import together

            return together.measure(configuration, procedure, tell)
        return _measure(configuration, procedure, gate, tell)
    except TooSlowError as error:
        return Trouble(Status.SKIPPED, str(error), error.iteration_s)
    except MemoryError as error:
        return Trouble(Status.OUT_OF_MEMORY, f"does not fit in memory ({error})" if str(error) else "out of memory")
    except (UnavailableError, ConversionError) as error:
        return Trouble(Status.UNSUPPORTED, str(error))
    except WattwerkError as error:
        return Trouble(Status.FAILED, str(error))
    except Exception as error:  # whatever a library raises is a result of this configuration
        traceback.print_exc(file=sys.stderr)  # into the worker's log
        text = " ".join(str(error).split())
        return Trouble(Status.FAILED, f"{type(error).__name__}: {text[:400]}")


def _measure(
    configuration: Configuration, procedure: Procedure, gate: Gate | None, tell: Callable[[str], None]
) -> Measurement:
    reset = reset_memory_peak()
    tell("loading")
    model = model_of(configuration.model, configuration.weights, configuration.input_shape, procedure.seed)
    pipeline = prepare(model, configuration, procedure) if configuration.processing else None
    examination = Examination(model, configuration, tell) if configuration.dataset else None
    inputs = {} if pipeline else model.sample_inputs(configuration.batch, procedure.seed)
    load_start = perf_counter_ns()
    session = _loaded(model, configuration, procedure)
    try:
        call = pipeline.open(session) if pipeline else session.bind(inputs)
        load_ns = perf_counter_ns() - load_start
        idle_before = rest(procedure.idle_s, tell)
        tell("warming up")
        warmup, counts = warm_up(call, procedure, 1 + len(PHASES) if pipeline else 1)
        tell(f"timing {counts.iterations} iterations")
        with quiet():
            blocks = _time_both_ways(call, counts, gate)
            tell(f"{procedure.windows} energy windows of {procedure.window_s:g} s")
            # half a second more than asked for, so that windows can begin and end at a tick of an energy counter
            duration_s = procedure.windows * procedure.window_s + 0.5
            steady_start, steady_ends = run_for(call, duration_s, procedure.windows)
            phases = (
                {name: _phase(name, one, procedure, gate, tell) for name, one in pipeline.calls()} if pipeline else {}
            )
        idle_after = rest(procedure.idle_s, tell)
        finite = all_finite(session.bound_outputs() if pipeline else session.outputs(inputs))
        device_peak = session.device_memory_peak_bytes()
        device_name, device_address = session.device_name(), session.device_address()
        effective = with_rewriting(session.effective, model.fixed_batch, configuration.batch)
        if pipeline:
            effective = msgspec.structs.replace(effective, details={**effective.details, **pipeline.details})
        memory_peak = memory_peak_bytes() if reset else None
        if examination:
            examination.look(session)
    finally:
        if pipeline:
            pipeline.close()
        session.close()
    del call, session, pipeline  # the bound call holds the model's memory
    gc.collect()
    accuracy = examination.figures(lambda other: _loaded(model, other, procedure)) if examination else {}
    return Measurement(
        subject=model.subject(),
        effective=effective,
        blocks=blocks,
        warmup=warmup,
        load_ns=load_ns,
        steady_start=steady_start,
        steady_ends=steady_ends,
        loaded_idle=(idle_before, idle_after),
        unloaded_idle=rest(procedure.idle_s, tell),
        memory_peak_bytes=memory_peak,
        device_memory_peak_bytes=device_peak,
        finite=finite,
        device_name=device_name,
        device_address=device_address,
        phases=phases,
        accuracy=accuracy,
    )


def _loaded(model: models.CatalogModel, configuration: Configuration, procedure: Procedure) -> Session:
    return RUNTIMES.load(configuration.runtime).load(model, load_spec(configuration, procedure, model))


@lru_cache(maxsize=3)
def model_of(
    reference: str, weights: str | None, input_shape: tuple[int, ...] | None, seed: int
) -> models.CatalogModel:
    """Keep the last models, since many configurations of a sweep share them."""
    return models.resolve(reference, weights=weights, input_shape=input_shape, seed=seed)


def with_rewriting(effective: Effective, fixed_batch: int | None, batch: int) -> Effective:
    """Note that another batch size was put in the place of the one that the model's file is fixed to."""
    if fixed_batch is None or fixed_batch == batch:
        return effective
    return msgspec.structs.replace(effective, details={**effective.details, "rewritten_from_batch": fixed_batch})


def load_spec(configuration: Configuration, procedure: Procedure, model: models.CatalogModel) -> LoadSpec:
    """Return what a runtime needs to load a model as a configuration asks for it."""

    def calibration() -> list[Arrays]:
        if configuration.dataset is not None:
            return list(calibration_inputs(model, configuration))
        return [model.sample_inputs(1, procedure.seed + 1 + index) for index in range(CALIBRATION_COUNT)]

    return LoadSpec(
        precision=Precision(configuration.precision),
        batch=configuration.batch,
        device=configuration.device,
        threads=configuration.threads,
        options=configuration.options,
        calibration=calibration,
        concurrent=configuration.streams > 1 or bool(configuration.beside),
    )


def rest(duration_s: float, tell: Callable[[str], None]) -> Interval:
    """Do nothing for a while, and return when that was."""
    tell("idle")
    time.sleep(min(0.3, duration_s))  # what came before dies away first
    start = perf_counter_ns()
    time.sleep(duration_s)
    return start, perf_counter_ns()


def warm_up(call: Callable[[], object], procedure: Procedure, loops: int = 1) -> tuple[int, Counts]:
    """Run untimed iterations; return how many there were, and how many timed ones shall follow.

    Args:
        call: One iteration.
        procedure: What was asked for.
        loops: How many times this and what follows is done for a configuration: more than once for a pipeline.

    Raises:
        TooSlowError: Measuring would take much longer than its limit.
    """
    call()  # the first one may still load or compile something
    second_s = time_calls(call, 1)[0] / 1e9
    check_fits(procedure, second_s)
    counts = fitted(procedure, second_s, loops)
    _, ends = run_for(call, max(0.0, procedure.warmup_s - second_s), max(0, counts.warmup - 2))
    return len(ends) + 2, counts


def _time_both_ways(call: Callable[[], object], counts: Counts, gate: Gate | None) -> tuple[Block, ...]:
    """Time four blocks, sampler running, paused, paused, running, so that a drift cancels out."""
    iterations = counts.iterations
    if gate is None:
        return (Block(time_calls(call, iterations), sampled=True),)
    blocks = []
    for index, sampled in enumerate((True, False, False, True)):
        (gate.resume if sampled else gate.pause)()
        time_calls(call, counts.settling)  # the wait for the sampler has let caches cool
        count = iterations * (index + 1) // BLOCKS - iterations * index // BLOCKS
        blocks.append(Block(time_calls(call, count), sampled))
    return tuple(blocks)


def _phase(
    name: str, call: Callable[[], object], procedure: Procedure, gate: Gate | None, tell: Callable[[str], None]
) -> PhaseRun:
    """Run one phase of a pipeline by itself, as the whole is run, so that its time and its energy are its own."""
    tell(f"{name} alone")
    if gate:
        gate.resume()
    _, counts = warm_up(call, procedure, 1 + len(PHASES))
    blocks = (Block(time_calls(call, counts.iterations), sampled=True),)
    return PhaseRun(blocks, *run_for(call, procedure.windows * procedure.window_s + 0.5, procedure.windows))


def all_finite(outputs: Arrays) -> bool:
    """Return whether all outputs are finite numbers."""
    import numpy as np

    return all(bool(np.isfinite(array).all()) for array in outputs.values())


def reset_memory_peak() -> bool:
    """Restart the system's count of this process's peak memory; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def memory_peak_bytes() -> int | None:
    """Return the process's peak memory since it was reset; None where the system does not tell."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def be_first_to_go() -> None:
    """Ask Linux to end this process, not another one of the user's, when memory runs out."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
