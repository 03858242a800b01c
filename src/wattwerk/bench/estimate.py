"""How long configurations will take: operations over the device's peak, corrected by every record of this machine.

A first guess is modelled: what a model computes, over a usual share of the device's peak. Each record then tells by
what factor the guess was off, and the nearest ones (same model and runtime, else same runtime, else same device)
correct the guess for all others. So the estimate is rough on a machine without records, and better while a sweep runs.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable
from datetime import datetime
from functools import lru_cache
from typing import Final, Literal

import msgspec
import psutil

from wattwerk.bench.duration import OVERRUN, least_s, loop_s, measuring_s, rests_s
from wattwerk.bench.pipeline import PHASES
from wattwerk.bench.scenario import Configuration, Procedure
from wattwerk.catalog import models
from wattwerk.catalog.devices import peak_here
from wattwerk.errors import WattwerkError
from wattwerk.machine import cpu_name
from wattwerk.records import Record, Status

Basis = Literal["this configuration", "this model", "this runtime", "this device", "operations"]

#: Share of the peak that networks reach on a CPU and on an accelerator, in round numbers.
#: Source: `effective_ops_per_s` of own records, over the peaks of the catalogue.
_USUAL_SHARE: Final = {True: 0.5, False: 0.35}
#: Operations per second where the device's peak is unknown: of a CPU core, of an accelerator.
_UNKNOWN_OPS_PER_S: Final = {True: 40e9, False: 20e12}
#: Operations of one sample where they could not be counted.
_UNKNOWN_FLOPS: Final = 10e9
#: Least time of an iteration on an accelerator, while the host starts its kernels: eager, compiled.
_HOST_S: Final = {True: 8e-3, False: 2e-3}
#: Seconds until a model can run, the start of the worker's process included: a round number for each runtime.
_LOAD_S: Final = {"onnxruntime": 2.0, "openvino": 4.0, "torch": 3.0, "torch-compile": 40.0, "torch-cuda-graph": 8.0}
_OTHER_LOAD_S: Final = 10.0
#: Samples that int8 is calibrated with.
_CALIBRATION_RUNS: Final = 16
#: Starting, filling in weights, evaluating and storing, beside what the loops take.
_AROUND_S: Final = 2.0
#: Seconds that processing takes for a photo, before and after the model.
_PHOTO_S: Final = {"sequential": (0.03, 0.01), "vectorised": (0.006, 0.003), "overlapped": (0.006, 0.003)}
#: Runs of LoadGen until the highest load of ``server`` is found; the other scenarios need one.
_SEARCH_RUNS: Final = 8
_LATEST: Final = 9
#: How many times too long a guess may be.
_DOUBT: Final = 3.0


class Expected(msgspec.Struct, frozen=True):
    """How long a configuration is expected to take.

    Attributes:
        iteration_s: One iteration, in seconds.
        measuring_s: Measuring, in seconds, without loading.
        total_s: All of it, in seconds.
        basis: What the iteration's time was derived from: records of what, or operations alone.
        least_s: Measuring, in seconds, with the fewest iterations that a limit may leave.
    """

    iteration_s: float
    measuring_s: float
    total_s: float
    basis: Basis
    least_s: float


class Estimator:
    """Estimates; learns from records.

    Args:
        accelerator: The accelerator's name as its driver gives it; empty where there is none.
        records: Records of any machine; those of others are passed over.
    """

    def __init__(self, accelerator: str = "", records: Iterable[Record] = ()) -> None:
        self._accelerator = accelerator
        self._iteration: dict[Hashable, list[float]] = defaultdict(list)
        self._photo: dict[Hashable, list[float]] = defaultdict(list)
        self._load: dict[Hashable, list[float]] = defaultdict(list)
        self._around: dict[Hashable, list[float]] = defaultdict(list)
        for record in records:
            self.learn(record)

    def expect(self, configuration: Configuration, procedure: Procedure) -> Expected:
        """Return how long a configuration is expected to take."""
        iteration_s, basis = self.iteration_s(configuration)
        around_s = self.load_s(configuration) + self._latest(self._around, configuration.runtime, _AROUND_S)
        if configuration.load is not None:
            measuring = self._load_run_s(configuration, procedure, iteration_s)
            return Expected(iteration_s, measuring, measuring + around_s, basis, 0.0)
        times = self._times_s(configuration, iteration_s)
        measuring = rests_s(procedure) + sum(loop_s(procedure, each, len(times)) for each in times)
        if procedure.max_time_s:  # the worker gives up what takes longer
            measuring = min(measuring, max(OVERRUN * procedure.max_time_s, 2 * times[0]))
        return Expected(times[0], measuring, measuring + around_s, basis, self._least_s(configuration, procedure))

    def _times_s(self, configuration: Configuration, iteration_s: float) -> list[float]:
        """Return how long an iteration of each loop takes: of the whole, and of each phase of a pipeline."""
        if not configuration.processing:
            return [iteration_s * configuration.streams]
        before_s, after_s = self._photos_s(configuration)
        return [before_s + iteration_s + after_s, before_s, iteration_s, after_s]

    def _least_s(self, configuration: Configuration, procedure: Procedure) -> float:
        """Return how long measuring takes at least.

        Where no record of the model is known, the lower of guess and correction is taken, divided by what the guess may
        be off: trying costs two iterations, while what is never tried is never known.
        """
        iteration_s, basis = self.iteration_s(configuration)
        if basis not in ("this configuration", "this model"):
            iteration_s = min(iteration_s, self._guess_s(configuration)) / _DOUBT
        return least_s(procedure, self._times_s(configuration, iteration_s))

    def iteration_s(self, configuration: Configuration) -> tuple[float, Basis]:
        """Return how long the model is expected to run for one batch, in seconds, and what that is derived from."""
        guess_s = self._guess_s(configuration)
        for basis, key in _keys(configuration):
            if found := self._iteration.get(key):
                return guess_s * statistics.median(found[-_LATEST:]), basis
        return guess_s, "operations"

    def load_s(self, configuration: Configuration) -> float:
        """Return how long loading is expected to take, in seconds."""
        usual_s = _LOAD_S.get(configuration.runtime, _OTHER_LOAD_S)
        if configuration.precision == "int8":
            usual_s += _CALIBRATION_RUNS * self.iteration_s(configuration)[0] / configuration.batch
        own = self._latest(self._load, (configuration.runtime, configuration.precision), usual_s)
        return self._latest(self._load, (configuration.runtime, configuration.precision, configuration.model), own)

    def learn(self, record: Record) -> None:
        """Learn from a record, if it is one of this machine with what is needed."""
        configuration = configuration_of(record)
        if configuration is None or configuration.beside or not self._is_here(record):
            return  # of a model beside others the configuration names the first one only
        if record.status is Status.SKIPPED:
            self._learn_iteration(configuration, record.setup.protocol.get("iteration_s"))
        if record.status not in (Status.OK, Status.INVALID):
            return
        if load_s := _value(record, "load_s"):
            family = (configuration.runtime, configuration.precision)
            self._load[family].append(load_s)
            self._load[(*family, configuration.model)].append(load_s)
        if configuration.load is not None or configuration.streams > 1:
            return
        own_s = _value(record, "inference_p50_s" if configuration.processing else "latency_p50_s")
        if not own_s:
            return
        self._learn_iteration(configuration, own_s)
        if configuration.processing:
            self._learn_photos(record, configuration)
        self._learn_around(record, configuration)

    def _learn_iteration(self, configuration: Configuration, iteration_s: object) -> None:
        if isinstance(iteration_s, float) and iteration_s > 0:
            for _, key in _keys(configuration):
                self._iteration[key].append(iteration_s / self._guess_s(configuration))

    def _learn_photos(self, record: Record, configuration: Configuration) -> None:
        found = [(_value(record, f"{phase}_p50_s") or 0.0) / configuration.batch for phase in (PHASES[0], PHASES[2])]
        for index, each in enumerate(found):
            self._photo[(index, configuration.processing, configuration.model)].append(each)
            self._photo[(index, configuration.processing)].append(each)

    def _learn_around(self, record: Record, configuration: Configuration) -> None:
        """Learn what a record took beside its loops and its loading, such as the start of its worker."""
        whole_s = duration_s(record)
        procedure = procedure_of(record)
        if whole_s is None or procedure is None or configuration.processing or configuration.dataset:
            return
        known_s = measuring_s(procedure, _value(record, "latency_p50_s") or 0.0) + (_value(record, "load_s") or 0.0)
        self._around[configuration.runtime].append(max(0.0, whole_s - known_s))

    def _guess_s(self, configuration: Configuration) -> float:
        cpu = _on_cpu(configuration)
        known = (peak_here(configuration.device, each, self._accelerator) for each in (configuration.precision, "fp32"))
        peak = next((each for each in known if each), None)
        ops_per_s = peak.value if peak else _UNKNOWN_OPS_PER_S[cpu] * (psutil.cpu_count() or 1 if cpu else 1)
        computing_s = _flops(configuration) * configuration.batch / (ops_per_s * _USUAL_SHARE[cpu])
        return computing_s if cpu else computing_s + _HOST_S[configuration.runtime == "torch"]

    def _photos_s(self, configuration: Configuration) -> tuple[float, float]:
        usual = _PHOTO_S[configuration.processing]
        found = []
        for index, usual_s in enumerate(usual):
            key = (index, configuration.processing)
            likely = self._latest(self._photo, (*key, configuration.model), self._latest(self._photo, key, usual_s))
            found.append(likely * configuration.batch)
        return found[0], found[1]

    def _load_run_s(self, configuration: Configuration, procedure: Procedure, iteration_s: float) -> float:
        load = configuration.load
        assert load is not None
        per_sample_s = iteration_s / configuration.batch
        queries_s = load.min_query_count * load.samples_per_query * per_sample_s
        runs = _SEARCH_RUNS if load.scenario == "server" else 1
        return rests_s(procedure) + runs * max(load.min_duration_s, queries_s) + procedure.warmup * iteration_s

    def _is_here(self, record: Record) -> bool:
        platform = record.platform
        if platform.cpu != cpu_name() or platform.cpu_logical_count != psutil.cpu_count():
            return False
        return record.setup.device == "cpu" or self._accelerator in [each.name for each in platform.accelerators]

    @staticmethod
    def _latest(table: dict[Hashable, list[float]], key: Hashable, usual: float) -> float:
        found = table.get(key)
        return statistics.median(found[-_LATEST:]) if found else usual


def configuration_of(record: Record) -> Configuration | None:
    """Return the configuration that a record was made of; None for what is no record of a sweep."""
    body = record.setup.protocol.get("configuration")
    if record.kind != "bench" or not isinstance(body, str):
        return None
    try:
        return msgspec.json.decode(body, type=Configuration)
    except msgspec.MsgspecError:
        return None


def procedure_of(record: Record) -> Procedure | None:
    """Return how a record was measured, with the iterations that were made; None where it does not say."""
    names = {field.name for field in msgspec.structs.fields(Procedure)}
    known = {key: value for key, value in record.setup.protocol.items() if key in names}
    made = {"max_time_s": 0.0, "slow_above_s": math.inf}  # what was made is what counts
    try:
        return msgspec.convert(known | made, Procedure)
    except msgspec.ValidationError:
        return None


def duration_s(record: Record) -> float | None:
    """Return how long a record took from its beginning to its end, in seconds."""
    try:
        begin, end = (datetime.fromisoformat(text) for text in (record.started_at, record.finished_at))
    except (ValueError, TypeError):
        return None
    return max(0.0, (end - begin).total_seconds())


def accelerator_here() -> str:
    """Return the name of this machine's first NVIDIA accelerator; empty where there is none."""
    from wattwerk.meters.nvml import NvmlConfig, NvmlMeter

    try:
        meter = NvmlMeter(NvmlConfig())
    except WattwerkError:
        return ""
    try:
        return next((each.name for each in meter.accelerators()), "")
    finally:
        meter.close()


def _keys(configuration: Configuration) -> list[tuple[Basis, Hashable]]:
    """Return what a configuration has in common with others, the nearest first."""
    model, runtime, precision = configuration.model, configuration.runtime, configuration.precision
    device = configuration.device
    whole = msgspec.structs.replace(configuration, processing="", images=None, load=None, streams=1)
    return [
        ("this configuration", msgspec.json.encode(whole, order="sorted")),
        ("this model", (model, runtime, precision, device)),
        ("this model", (model, runtime, device)),
        ("this model", (model, device)),
        ("this runtime", (runtime, precision, device)),
        ("this device", device),
    ]


def _on_cpu(configuration: Configuration) -> bool:
    return configuration.device.casefold().split(":")[0] == "cpu"


@lru_cache(maxsize=64)
def _flops_of(model: str, weights: str | None, input_shape: tuple[int, ...] | None) -> float:
    try:
        found = models.resolve(model, weights=weights, input_shape=input_shape).subject().sample_flops
    except WattwerkError:
        return _UNKNOWN_FLOPS
    return found or _UNKNOWN_FLOPS


def _flops(configuration: Configuration) -> float:
    return _flops_of(configuration.model, configuration.weights, configuration.input_shape)


def _value(record: Record, name: str) -> float | None:
    figure = record.figures.get(name)
    return figure.value if figure else None
