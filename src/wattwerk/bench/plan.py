"""From what a person asks for to configurations: names are checked before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from wattwerk import config
from wattwerk.bench.pipeline_setup import processings_of, with_processings
from wattwerk.bench.scenario import DEFAULT_RUNTIME, FULL, QUICK, Configuration, Procedure, product, set_of
from wattwerk.catalog import models
from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.registry import suggestion
from wattwerk.runtimes import RUNTIMES, Runtime
from wattwerk.runtimes.base import Precision

ALL = "all"
AUTO = "auto"


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
        procedure: Deviations from the procedure.
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
    procedure: dict[str, Any] = {}


def read_request(path: Path, overrides: dict[str, Any]) -> Request:
    """Read a request from a TOML file; what the command line says goes first.

    Raises:
        ConfigError: The file cannot be read, or has an unknown key or a wrong value.
    """
    values = config.read_toml(path)
    tables = {
        key: values[key] | overrides[key]
        for key in ("options", "procedure")
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
                request.models,
                [(name, device)],
                _precisions(runtime, device, request.precisions),
                request.batches,
                request.threads or (None,),
                request.options,
                request.weights,
                request.input_shape,
            )
    return set_of(with_processings(found, processings, request.images))


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
