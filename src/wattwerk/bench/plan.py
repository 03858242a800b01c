"""From what a person asks for to configurations: names are checked before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from wattwerk import config
from wattwerk.bench import load
from wattwerk.bench.accuracy_setup import check_dataset, with_dataset
from wattwerk.bench.pipeline_setup import processings_of, with_processings
from wattwerk.bench.scenario import DEFAULT_RUNTIME, FULL, QUICK, Configuration, Procedure, product, set_of
from wattwerk.catalog import models
from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.registry import suggestion
from wattwerk.runtimes import RUNTIMES, Runtime
from wattwerk.runtimes.base import Precision

ALL = "all"
_MOST_STREAMS = 64
AUTO = "auto"

_LONG_TIMEOUT_S = 6 * 3600.0  # the runs of a search are long, ten minutes each of a full one; data sets can be large


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person asks for, on the command line or in a TOML file.

    Attributes:
        models: Names of the catalog, paths to ONNX files, ``package.module:factory``.
        runtimes: Names of runtimes; ``all`` stands for those that are available.
        precisions: Names of precisions; ``all`` stands for what each runtime can honour.
        batches: Batch sizes.
        devices: Names of devices; ``auto`` stands for the runtime's first.
        threads: Thread counts; empty leaves the choice to the runtime.
        options: Options of the runtimes.
        weights: Real weights: a file or a hub id.
        input_shape: The shape of one sample, for models that do not say.
        full: Windows of 10 s instead of 2 s.
        pipeline: Whether photos are processed before and after the model.
        processings: How; ``all`` stands for every way. Implies ``pipeline``, as ``images`` does.
        images: A folder of photos.
        dataset: A data set, as ``dataset.read`` takes it.
        dataset_limit: Photos of it at most.
        calibration: A folder of photos to calibrate int8 with; goes with a data set.
        procedure: Deviations from the procedure.
        streams: Numbers of sessions that run at once.
        together: Whether all models run at the same time.
        scenarios: Load scenarios of MLPerf; empty for timed iterations.
        load: Deviations from the scenarios, as ``load.Wishes`` has them.
    """

    models: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = (DEFAULT_RUNTIME,)
    precisions: tuple[str, ...] = ("fp32",)
    batches: tuple[int, ...] = (1,)
    devices: tuple[str, ...] = (AUTO,)
    threads: tuple[int, ...] = ()
    options: dict[str, Any] = {}
    weights: str | None = None
    input_shape: tuple[int, ...] | None = None
    full: bool = False
    pipeline: bool = False
    processings: tuple[str, ...] = ()
    images: str | None = None
    dataset: str | None = None
    dataset_limit: int | None = None
    calibration: str | None = None
    procedure: dict[str, Any] = {}
    streams: tuple[int, ...] = (1,)
    together: bool = False
    scenarios: tuple[str, ...] = ()
    load: dict[str, Any] = {}


def read_request(path: Path, overrides: dict[str, Any]) -> Request:
    """Read a request from a TOML file; what the command line says goes first.

    Raises:
        ConfigError: The file cannot be read, or has an unknown key or a wrong value.
    """
    values = config.read_toml(path)
    tables = {
        key: values[key] | overrides[key]
        for key in ("options", "procedure", "load")
        if isinstance(values.get(key), dict) and key in overrides
    }
    return config.to_struct(Request, values | overrides | tables, str(path))


def to_request(values: dict[str, Any]) -> Request:
    """Make a request of plain values.

    Raises:
        ConfigError: A key is unknown or a value is of the wrong type.
    """
    return config.to_struct(Request, values, "request")


def procedure_of(request: Request) -> Procedure:
    """Return how the configurations are to be measured.

    Raises:
        ConfigError: A key is unknown or a value is out of range.
    """
    values = msgspec.structs.asdict(FULL if request.full else QUICK)
    known = {key: value for key, value in request.procedure.items() if value is not None}
    if request.scenarios or request.dataset:
        values["timeout_s"] = _LONG_TIMEOUT_S
    chosen = config.to_struct(Procedure, values | known, "procedure")
    return msgspec.structs.replace(chosen, quick=chosen.window_s < FULL.window_s or chosen.windows < FULL.windows)


def configurations_of(request: Request) -> list[Configuration]:
    """Check every name of a request and return its configurations.

    Raises:
        ConfigError: A model, runtime, precision, device, option, batch size or thread count cannot be.
        UnavailableError: A runtime is not installed here.
    """
    if not request.models:
        raise ConfigError("no model was named", f"name one or more of {', '.join(models.names())}, or a file.onnx")
    resolved = [
        models.resolve(reference, weights=request.weights, input_shape=request.input_shape)
        for reference in request.models
    ]
    processings = processings_of(request.pipeline, request.processings, request.images, resolved)
    found: list[Configuration] = []
    for name in _runtime_names(request.runtimes):
        runtime = _runtime(name)
        config.to_struct(runtime.config, request.options, f"options of {name}")
        for device in _devices(name, runtime, request.devices):
            found += product(
                request.models[:1] if request.together else request.models,
                [(name, device)],
                _precisions(runtime, device, request.precisions),
                request.batches,
                request.threads or (None,),
                request.options,
                request.weights,
                request.input_shape,
            )
    if request.together:
        found = _together(found, request)
    found = with_processings(found, processings, request.images)
    if request.dataset is not None:
        found = with_dataset(found, request.dataset, request.dataset_limit, request.calibration)
        check_dataset(found[0], resolved)
        if request.scenarios or max(request.streams, default=1) > 1:
            raise ConfigError("--dataset goes with neither --scenario nor --streams", "leave one of them out")
    elif request.dataset_limit is not None or request.calibration is not None:
        raise ConfigError("--dataset-limit and --calibration go with --dataset only", "name a data set")
    if processings and (request.scenarios or max(request.streams, default=1) > 1):
        raise ConfigError("--pipeline goes with neither --scenario nor --streams", "leave one of them out")
    found = _at_once(found, request)
    return set_of(_loaded(found, request) if request.scenarios or request.load else found)


def _together(found: Sequence[Configuration], request: Request) -> list[Configuration]:
    """Return the configurations of the first model with all others beside it."""
    if len(request.models) < 2:
        raise ConfigError("--together needs several models", "name two or more, or use --streams for one")
    asked = {"--pipeline": request.pipeline or request.processings or request.images, "--dataset": request.dataset,
             "--scenario": request.scenarios, "--streams": max(request.streams, default=1) > 1,
             "--weights": request.weights}  # fmt: skip
    if other := next((option for option, there in asked.items() if there), None):
        raise ConfigError(f"--together does not go with {other}", "leave one of them out")
    return [msgspec.structs.replace(each, beside=request.models[1:]) for each in found]


def _at_once(found: Sequence[Configuration], request: Request) -> list[Configuration]:
    """Return every configuration for every number of streams that was asked for."""
    for count in request.streams:
        if not 1 <= count <= _MOST_STREAMS:
            raise ConfigError(f"{count} streams are not possible", f"use 1 to {_MOST_STREAMS}")
        if count > 1 and request.scenarios:
            raise ConfigError("--streams and --scenario are different measurements", "leave one of them out")
    return [msgspec.structs.replace(each, streams=count) for each in found for count in request.streams]


def _loaded(found: Sequence[Configuration], request: Request) -> list[Configuration]:
    """Return every configuration under every scenario that was asked for."""
    if not request.scenarios:
        raise ConfigError("a latency limit or percentile needs a load scenario", "add --scenario server")
    scenarios = load.check_names(request.scenarios)
    wishes = config.to_struct(load.Wishes, request.load, "load")
    if wishes.latency_limit_s is not None and scenarios == ["offline"]:
        raise ConfigError("the scenario offline has no latency limit", "leave --latency-limit out")
    procedure = procedure_of(request)
    quick_s = procedure.windows * procedure.window_s
    return [
        msgspec.structs.replace(
            each,
            load=load.load_of(
                scenario,
                models.resolve(each.model, weights=each.weights, input_shape=each.input_shape).task,
                each.batch,
                wishes,
                full=request.full,
                quick_s=quick_s,
            ),
        )
        for each in found
        for scenario in scenarios
    ]


def _runtime_names(asked: Sequence[str]) -> list[str]:
    for name in asked:
        if name not in (ALL, *RUNTIMES.names()):
            raise ConfigError(f"unknown runtime {name!r}", suggestion(name, [*RUNTIMES.names(), ALL]))
    if ALL not in asked:
        return list(dict.fromkeys(asked))
    found = [name for name in RUNTIMES.names() if RUNTIMES.load(name).probe().available]
    if not found:
        raise UnavailableError("no runtime is available", "`wattwerk doctor` says what to install")
    return found


def _runtime(name: str) -> type[Runtime]:
    runtime = RUNTIMES.load(name)
    probe = runtime.probe()
    if not probe.available:
        raise UnavailableError(f"the runtime {name} is not available ({probe.detail})", probe.remedy)
    return runtime


def _devices(name: str, runtime: type[Runtime], asked: Sequence[str]) -> list[str]:
    known = runtime.devices()
    if not known:
        raise UnavailableError(f"{name} finds no device that it can run on", "`wattwerk doctor` says why")
    chosen = [known[0] if device == AUTO else device for device in asked]
    for device in chosen:
        if device not in known:
            raise ConfigError(f"{name} knows no device {device!r} here", f"use {' or '.join(known)}")
    return list(dict.fromkeys(chosen))


def _precisions(runtime: type[Runtime], device: str, asked: Sequence[str]) -> list[str]:
    names = [precision.value for precision in Precision]
    for name in asked:
        if name not in (ALL, *names):
            raise ConfigError(f"unknown precision {name!r}", suggestion(name, [*names, ALL]))
    if ALL in asked:
        return [precision.value for precision in runtime.precisions(device)]
    return list(dict.fromkeys(asked))
