"""What is to be measured: configurations, the procedure, and the sweep that orders them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import psutil

from wattwerk.bench.load import Load
from wattwerk.errors import ConfigError, StoreError
from wattwerk.records import new_id

DEFAULT_RUNTIME = "onnxruntime"


class Procedure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How each configuration is measured.

    Attributes:
        quick: Whether the energy windows are shorter than what a defensible figure needs; figures are marked so.
        warmup: Untimed iterations before anything is timed.
        warmup_s: And at least this long, so that clocks have settled.
        iterations: Timed iterations for the latency figures.
        slow_above_s: An iteration that takes longer than this makes the model slow, so that the next two hold.
        slow_warmup: Untimed iterations of a slow model.
        slow_iterations: Timed iterations of a slow model.
        windows: Energy windows.
        window_s: Length of one energy window.
        idle_s: Length of each idle measurement.
        rate_hz: Rate of the sampler.
        max_time_s: Iterations are cut so that measuring a configuration, after loading, takes no longer than this; 0
            sets no limit. What would still take longer is left out where that is known beforehand.
        timeout_s: A configuration that takes longer than this has failed.
        seed: Seeds weights, inputs and the order of the configurations.

    Source: iterations as in the Fraunhofer IPA study (section 4.1.4): 20 + 200, and 5 + 20 for very slow models.
    """

    quick: bool = True
    warmup: int = 20
    warmup_s: float = 0.5
    iterations: int = 200
    slow_above_s: float = 1.0
    slow_warmup: int = 5
    slow_iterations: int = 20
    windows: int = 5
    window_s: float = 2.0
    idle_s: float = 1.0
    rate_hz: float = 10.0
    max_time_s: float = 0.0
    timeout_s: float = 1800.0
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "warmup": (self.warmup, 0),
            "iterations": (self.iterations, 4),
            "slow_iterations": (self.slow_iterations, 4),
            "windows": (self.windows, 2),
            "window_s": (self.window_s, 0.1),
            "idle_s": (self.idle_s, 0.1),
            "rate_hz": (self.rate_hz, 0.5),
            "max_time_s": (self.max_time_s, 0),
            "timeout_s": (self.timeout_s, 1),
            "seed": (self.seed, 0),
        }
        for name, (value, lowest) in limits.items():
            if not lowest <= value < 1e7:
                raise ValueError(f"{name} is {value}, it has to be at least {lowest} and less than ten million")


QUICK = Procedure()
FULL = Procedure(quick=False, window_s=10.0, idle_s=10.0)


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One point of the sweep.

    Attributes:
        model: A name of the catalog, a path to an ONNX file, or ``package.module:factory``.
        runtime: The runtime's name.
        precision: The arithmetic asked for.
        batch: Samples in one iteration.
        device: The device, as the runtime names it.
        threads: Compute threads on the CPU; None leaves the choice to the runtime.
        options: Options of the runtime.
        weights: Where real weights come from; None for seeded ones.
        input_shape: The shape of one sample, for models that do not say.
        streams: Sessions of the model that run at once, each in a thread of its own.
        load: The load of a scenario; None for timed iterations. The batch is then the most samples that run together.
        processing: How photos are processed before and after the model; empty for the model alone.
        images: The folder of the photos; None for those that scikit-image brings along.
        dataset: A data set that tells how often the model is right; None for none.
        dataset_limit: Photos of it at most; None for all.
        calibration: A folder of photos that int8 is calibrated with; None for some of the data set's.
        beside: Other models that run at the same time, each in a thread of its own; each gets a record.
    """

    model: str
    runtime: str
    precision: str
    batch: int
    device: str
    threads: int | None = None
    options: dict[str, Any] = {}
    weights: str | None = None
    input_shape: tuple[int, ...] | None = None
    streams: int = 1
    load: Load | None = None
    processing: str = ""
    images: str | None = None
    dataset: str | None = None
    dataset_limit: int | None = None
    calibration: str | None = None
    beside: tuple[str, ...] = ()

    def label(self) -> str:
        """Return the configuration in words that fit on a progress line."""
        threads = f", {self.threads} threads" if self.threads else ""
        scenario = f", {self.load.scenario}" if self.load else ""
        scenario += f", {self.streams} streams" if self.streams > 1 else ""
        scenario += f", {self.processing} pipeline" if self.processing else ""
        scenario += ", accuracy" if self.dataset is not None else ""
        models = " + ".join((self.model, *self.beside))
        return f"{models}, {self.runtime} {self.precision}, batch {self.batch}, {self.device}{threads}{scenario}"


class LeftOut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a study asks for and does not measure, since this machine cannot run it or a rule excludes it.

    Attributes:
        configuration: The first of the configurations that it holds for.
        count: How many there are.
        reason: Why.
        rule: The name of the rule that excludes it; empty where this machine cannot run it.
    """

    configuration: Configuration
    count: int
    reason: str
    rule: str = ""

    def told(self) -> str:
        """Return the reason in words, with the rule's name."""
        return f"excluded by the study ({self.rule}): {self.reason}" if self.rule else self.reason


class Course(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a study adds to a sweep.

    Attributes:
        study: The study's name.
        procedures: How each configuration is measured, in the order of the sweep.
        ranks: How early in the study each one stands; what stands late is given up first if time runs out.
        budget_s: How long the whole may take, in seconds; 0 sets no limit.
        left_out: What cannot run on this machine.
        excluded_count: How many configurations the study's own rules exclude.
        excluded: Which ones, and why; not kept in plans from before it was.
    """

    study: str
    procedures: tuple[Procedure, ...]
    ranks: tuple[int, ...]
    budget_s: float = 0.0
    left_out: tuple[LeftOut, ...] = ()
    excluded_count: int = 0
    excluded: tuple[LeftOut, ...] = ()


class Sweep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Configurations in the order in which they run, and how they are measured.

    Attributes:
        id: Its id.
        procedure: How it is measured.
        configurations: What is measured.
        course: What a study adds; None where there is none.
    """

    id: str
    procedure: Procedure
    configurations: tuple[Configuration, ...]
    course: Course | None = None

    def procedure_of(self, configuration: Configuration) -> Procedure:
        """Return how one of its configurations is measured."""
        if self.course is None or configuration not in self.configurations:
            return self.procedure
        return self.course.procedures[self.configurations.index(configuration)]

    def to_json(self) -> str:
        """Write the sweep as JSON, for the store."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, body: str) -> Sweep:
        """Read a sweep back.

        Raises:
            StoreError: The text is no sweep.
        """
        try:
            return msgspec.json.decode(body, type=cls)
        except msgspec.DecodeError as error:
            raise StoreError(
                f"the stored plan of a sweep cannot be read ({error})", "start the sweep afresh"
            ) from error


def new_sweep(configurations: Iterable[Configuration], procedure: Procedure) -> Sweep:
    """Put configurations into a random, reproducible order.

    Random order keeps a slow change of the machine (heat, other load) from looking like an effect of the batch size.

    Raises:
        ConfigError: There is nothing to measure.
    """
    ordered = sorted(set_of(configurations), key=Configuration.label)
    if not ordered:
        raise ConfigError("there is nothing to measure", "name a model, a runtime, a precision and a batch size")
    random.Random(procedure.seed).shuffle(ordered)
    return Sweep(id=new_id(), procedure=procedure, configurations=tuple(ordered))


def set_of(configurations: Iterable[Configuration]) -> list[Configuration]:
    """Return the configurations without repetitions, in their order."""
    unique: dict[bytes, Configuration] = {}
    for configuration in configurations:
        unique.setdefault(msgspec.json.encode(configuration, order="sorted"), configuration)
    return list(unique.values())


def product(
    models: Sequence[str],
    backends: Sequence[tuple[str, str]],
    precisions: Sequence[str],
    batches: Sequence[int],
    threads: Sequence[int | None],
    options: dict[str, Any],
    weights: str | None,
    input_shape: tuple[int, ...] | None,
) -> list[Configuration]:
    """Return every combination.

    Args:
        models: References of models.
        backends: Pairs of runtime and device.
        precisions: Precisions asked for.
        batches: Batch sizes, each at least 1.
        threads: Thread counts; None leaves the choice to the runtime.
        options: Options of the runtime, the same for all.
        weights: Where real weights come from.
        input_shape: The shape of one sample, for models that do not say.

    Raises:
        ConfigError: A batch size or a thread count is below 1, or a thread count above the logical cores.
    """
    for name, values in (("batch size", batches), ("thread count", [t for t in threads if t is not None])):
        for value in values:
            if value < 1:
                raise ConfigError(f"{name} {value} is not possible", "use 1 or more")
    cores = psutil.cpu_count() or 1
    if most := [count for count in threads if count is not None and count > cores]:
        raise ConfigError(f"thread count {most[0]} is more than this machine has", f"use {cores} or fewer")
    return [
        Configuration(
            model=model,
            runtime=runtime,
            precision=precision,
            batch=batch,
            device=device,
            threads=count,
            options=options,
            weights=weights,
            input_shape=input_shape,
        )
        for model, (runtime, device), precision, batch, count in itertools.product(
            models, backends, precisions, batches, threads
        )
    ]
