"""What a caller asks of a runtime, checked before anything heavy happens, and what a library's failure means."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from wattwerk.config import to_struct
from wattwerk.errors import ConfigError, ConversionError, UnavailableError, WattwerkError
from wattwerk.registry import Probe, suggestion
from wattwerk.runtimes.base import Arrays, LoadSpec, Model, Precision, Runtime, TensorSpec

C = TypeVar("C", bound=msgspec.Struct)

#: what libraries write when memory runs out; none of them has a type of error for it that all its versions share
_OUT_OF_MEMORY: Final = (
    "out of memory",
    "failed to allocate memory",
    "bad allocation",
    "bad_alloc",
    "not enough memory",
    "cannot allocate memory",
    "can't allocate memory",
)


def probe_package(package: str, remedy: str, *needs: str) -> Probe:
    """Tell whether a package and what it needs are installed, importing none of them.

    Args:
        package: The package, named alike for import and installation.
        remedy: The command that installs it.
        needs: Further packages, by their import names.
    """
    missing = [name for name in (package, *needs) if find_spec(name) is None]
    if missing:
        return Probe(False, f"{', '.join(missing)} not installed", remedy)
    try:
        return Probe(True, f"{package} {version(package)}")
    except PackageNotFoundError:  # a variant under another distribution name, such as onnxruntime-gpu
        return Probe(True, package)


def require(runtime: type[Runtime]) -> None:
    """Refuse a runtime that does not work here.

    Raises:
        UnavailableError: The probe says so; its detail and remedy are passed on.
    """
    probe = runtime.probe()
    if not probe.available:
        raise UnavailableError(f"{runtime.name} is not available: {probe.detail}", probe.remedy)


def check_device(runtime: type[Runtime], device: str) -> None:
    """Refuse a device that the runtime does not have.

    Raises:
        ConfigError: The device is unknown; the remedy names the nearest one.
        UnavailableError: There is no device at all that the runtime could use.
    """
    devices = runtime.devices()
    if not devices:
        raise UnavailableError(f"{runtime.name} finds no device that it can use", "see `wattwerk doctor`")
    if device not in devices:
        raise ConfigError(f"{runtime.name} has no device {device!r}", suggestion(device, devices))


def check_precision(
    runtime: type[Runtime], device: str, precision: Precision, refusals: Mapping[Precision, str]
) -> None:
    """Refuse a precision that would silently become another one.

    Args:
        runtime: The runtime asked.
        device: One of its devices.
        precision: The arithmetic asked for.
        refusals: Precision -> why the device cannot honour it.

    Raises:
        UnavailableError: The precision is among the refused ones.
    """
    if precision in refusals:
        rest = [str(each) for each in Precision if each not in refusals]
        remedy = f"use {' or '.join(rest)}, or another runtime or device" if rest else "use another runtime or device"
        raise UnavailableError(f"{runtime.name} cannot run {precision} on {device}: {refusals[precision]}", remedy)


def honoured(refusals: Mapping[Precision, str]) -> list[Precision]:
    """Return the precisions that are not refused."""
    return [precision for precision in Precision if precision not in refusals]


def check_request(
    runtime: type[Runtime], spec: LoadSpec, config: type[C], refusals: Callable[[str], Mapping[Precision, str]]
) -> C:
    """Check everything about a request that can be checked before the model is touched.

    Args:
        runtime: The runtime asked.
        spec: What is asked of it.
        config: The type of its options.
        refusals: Gives for a device: precision -> why it cannot be honoured.

    Returns:
        The options.

    Raises:
        ConfigError: The batch, a thread count, an option or the device is wrong.
        UnavailableError: The runtime is not installed, or cannot honour the precision.
    """
    options = to_struct(config, dict(spec.options), f"options of {runtime.name}")
    if spec.batch < 1:
        raise ConfigError(f"batch {spec.batch}", "use 1 or more")
    if spec.threads is not None and spec.threads < 1:
        raise ConfigError(f"{spec.threads} threads", "use 1 or more, or leave it out")
    require(runtime)
    check_device(runtime, spec.device)
    check_precision(runtime, spec.device, spec.precision, refusals(spec.device))
    return options


def check_inputs(specs: Iterable[TensorSpec], batch: int, inputs: Arrays) -> list[npt.NDArray[Any]]:
    """Check a batch of inputs against the model and return them in the model's order.

    Args:
        specs: The model's inputs.
        batch: Samples in one iteration.
        inputs: Input name -> array ``(batch, …)``.

    Raises:
        ConfigError: An input is missing or unknown, or its shape is wrong.
    """
    wanted = {spec.name: spec for spec in specs}
    for name in inputs:
        if name not in wanted:
            raise ConfigError(f"the model has no input {name!r}", suggestion(name, wanted))
    return [_checked_input(spec, batch, inputs) for spec in wanted.values()]


def _checked_input(spec: TensorSpec, batch: int, inputs: Arrays) -> npt.NDArray[Any]:
    if spec.name not in inputs:
        raise ConfigError(f"input {spec.name!r} is missing", f"give an array {(batch, *spec.shape)}")
    array = np.ascontiguousarray(inputs[spec.name], dtype=np.dtype(spec.dtype))
    if array.shape != (batch, *spec.shape):
        raise ConfigError(f"input {spec.name!r} has shape {array.shape}", f"give an array {(batch, *spec.shape)}")
    return array


def calibration_samples(spec: LoadSpec, limit: int) -> list[Arrays]:
    """Return the samples that int8 is calibrated with.

    Args:
        spec: The request.
        limit: How many samples are used at most.

    Raises:
        ConfigError: The request brings none.
    """
    samples: list[Arrays] = []
    for sample in spec.calibration() if spec.calibration else ():
        samples.append(sample)
        if len(samples) == limit:
            break
    if not samples:
        raise ConfigError("int8 needs calibration inputs", "give LoadSpec.calibration")
    return samples


@contextlib.contextmanager
def failures(model: Model, spec: LoadSpec, runtime: str) -> Iterator[None]:
    """Turn whatever a library raises while it takes a model into one of our errors.

    Raises:
        MemoryError: Memory ran out.
        ConversionError: Anything else that the library raised.
    """
    try:
        yield
    except (WattwerkError, KeyboardInterrupt):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError(f"{model.name} at batch {spec.batch} does not fit on {spec.device}") from error
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise ConversionError(
            f"{runtime} cannot take {model.name} in {spec.precision} ({first[:300]})",
            "try another runtime or precision",
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a library's error, or one behind it, means that memory ran out."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen).lower()
        if isinstance(seen, MemoryError) or any(phrase in text for phrase in _OUT_OF_MEMORY):
            return True
        seen = seen.__cause__
    return False


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries from writing to the terminal: warnings, log lines and progress bars.

    Errors still arrive as exceptions; what a library did differently from what was asked is found by asking it
    afterwards, not by reading its log.
    """
    level = logging.root.manager.disable
    with warnings.catch_warnings(), open(os.devnull, "w", encoding="utf-8") as nowhere:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                yield
        finally:
            logging.disable(level)
