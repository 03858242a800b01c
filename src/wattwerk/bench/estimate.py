"""How long configurations will take: operations over the device's peak, corrected by every record of this machine.

A first guess is modelled: what a model computes, over a usual share of the device's peak. Each record then tells by
what factor the guess was off, and the nearest ones (same model and runtime, else same runtime, else same device)
correct the guess for all others. So the estimate is rough on a machine without records, and better while a sweep runs.
Streams, several models at once, loads and data sets add what their own loops take (``estimate_kinds``).
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from typing import Final, Literal, get_args

import msgspec
import psutil

from wattwerk.bench import estimate_kinds as kinds
from wattwerk.bench.duration import OVERRUN, least_s, loop_s, measuring_s, rests_s
from wattwerk.bench.estimate_guess import guess_s
from wattwerk.bench.estimate_records import configuration_of, duration_s, procedure_of
from wattwerk.bench.pipeline import PHASES
from wattwerk.bench.scenario import Configuration, Procedure
from wattwerk.catalog import models
from wattwerk.machine import cpu_name
from wattwerk.records import Record, Status

Basis = Literal["this configuration", "this model", "this runtime", "this device", "operations"]

#: Seconds until a model can run, the start of the worker's process included: a round number for each runtime.
_LOAD_S: Final = {"onnxruntime": 2.0, "openvino": 4.0, "torch": 3.0, "torch-compile": 40.0, "torch-cuda-graph": 8.0}
_OTHER_LOAD_S: Final = 10.0
#: Samples that int8 is calibrated with.
_CALIBRATION_RUNS: Final = 16
#: Starting, filling in weights, evaluating and storing, beside what the loops take.
_AROUND_S: Final = 2.0
#: Seconds that processing takes for a photo, before and after the model.
_PHOTO_S: Final = {"sequential": (0.03, 0.01), "vectorised": (0.006, 0.003), "overlapped": (0.006, 0.003)}
#: Seconds until a photo of a data set is read and is a JPEG file in memory.
_READ_S: Final = 0.01
_USUAL_PROCESSING: Final = "vectorised"
_LATEST: Final = 9
#: How many times too long or too short a guess may be, one from records of the same configuration, and one of loading.
#: Source: the records under studies/ of this project, each estimated from none, some and all of the others; so nine of
#: ten take a time within the bounds.
_DOUBT: Final = 3.0
_SURE: Final = 2.0
_LOAD_DOUBT: Final = 5.0
#: From the most to the least that is known.
_BASES: Final[tuple[Basis, ...]] = get_args(Basis)


class Expected(msgspec.Struct, frozen=True):
    """How long a configuration is expected to take.

    Attributes:
        iteration_s: One iteration, in seconds.
        measuring_s: Measuring, in seconds, without loading.
        total_s: All of it, in seconds.
        basis: What the iteration's time was derived from: records of what, or operations alone.
        least_s: Measuring, in seconds, with the fewest iterations that a limit may leave.
        low_s: All of it, in seconds, if it goes as fast as may be.
        high_s: If it goes as slowly as may be.
        more: What else the time rests on, such as the number of runs of a load, in words.
    """

    iteration_s: float
    measuring_s: float
    total_s: float
    basis: Basis
    least_s: float
    low_s: float
    high_s: float
    more: tuple[str, ...] = ()


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
        self._runs: dict[Hashable, list[float]] = defaultdict(list)
        self._whole: dict[Hashable, list[float]] = defaultdict(list)
        self._examined: dict[Hashable, list[float]] = defaultdict(list)
        for record in records:
            self.learn(record)

    def expect(self, configuration: Configuration, procedure: Procedure) -> Expected:
        """Return how long a configuration is expected to take."""
        iterations, basis = self._members(configuration)
        measuring_s, total_s = self._lengths_s(configuration, procedure, iterations, 1.0, 0)
        low_s, high_s = self._bounds_s(configuration, procedure, iterations, basis)
        if known := self._whole.get(_exact(configuration)):  # a load of the same length has run here
            around_s, total_s = total_s - measuring_s, statistics.median(known[-_LATEST:])
            measuring_s = max(0.0, total_s - around_s)
            low_s, high_s = total_s / _SURE, total_s * _SURE
        shown_s = sum(iterations) if configuration.beside else self._times_s(configuration, iterations[0])[0]
        return Expected(
            iteration_s=shown_s,
            measuring_s=measuring_s,
            total_s=total_s,
            basis=basis,
            least_s=self._least_s(configuration, procedure, iterations, basis),
            low_s=low_s,
            high_s=high_s,
            more=tuple(self._more(configuration)),
        )

    def _members(self, configuration: Configuration) -> tuple[list[float], Basis]:
        """Return how long an iteration of each model takes, and what the least known of them is derived from."""
        alone = [
            msgspec.structs.replace(configuration, model=model, beside=())
            for model in (configuration.model, *configuration.beside)
        ]
        found = [self.iteration_s(each) for each in alone]
        return [iteration_s for iteration_s, _ in found], max((basis for _, basis in found), key=_BASES.index)

    def _bounds_s(
        self, configuration: Configuration, procedure: Procedure, iterations: list[float], basis: Basis
    ) -> tuple[float, float]:
        """Return how long all of it takes at least and at most."""
        doubt = _SURE if basis == "this configuration" else _DOUBT
        slow = procedure.slow_above_s / iterations[0]  # beyond it fewer iterations are made
        edges = [edge for edge in (0.999 * slow, 1.001 * slow) if 1 / doubt < edge < doubt]
        found = [
            self._lengths_s(configuration, procedure, iterations, factor, bound)[1]
            for factor in (1 / doubt, 1.0, doubt, *edges)
            for bound in (-1, 0, 1)
        ]
        return min(found), max(found)

    def _lengths_s(
        self, configuration: Configuration, procedure: Procedure, iterations: list[float], factor: float, bound: int
    ) -> tuple[float, float]:
        """Return how long measuring and all of it take.

        Args:
            configuration: Of what.
            procedure: How it is measured.
            iterations: An iteration of each model, in seconds.
            factor: How many times longer an iteration takes.
            bound: Whether everything else takes as little time as may be (-1), what is likely (0), or as much (1).
        """
        its = configuration
        times = [each * factor for each in iterations]
        around_s = self._latest(self._around, its.runtime, _AROUND_S) * _DOUBT**bound
        alone = [msgspec.structs.replace(its, model=model, beside=()) for model in (its.model, *its.beside)]
        around_s += sum(self.load_s(each) for each in alone) * kinds.sessions_of(its) * _LOAD_DOUBT**bound
        measuring_s = self._measuring_s(its, procedure, times, factor, bound)
        return measuring_s, measuring_s + around_s + self._accuracy_s(its, times[0], bound)

    def _measuring_s(
        self, configuration: Configuration, procedure: Procedure, times: list[float], factor: float, bound: int
    ) -> float:
        if configuration.load is not None:
            runs = self._runs_of(configuration)[bound + 1]
            batch = configuration.batch
            return kinds.load_s(configuration.load, procedure, times[0] / batch, batch, runs, worst=bound > 0)
        if configuration.streams > 1:
            return kinds.streams_s(procedure, times[0], configuration.streams)
        if configuration.beside:
            return kinds.together_s(procedure, times)
        loops = self._times_s(configuration, times[0], factor)
        measuring_s = rests_s(procedure) + sum(loop_s(procedure, each, len(loops)) for each in loops)
        if procedure.max_time_s:  # the worker gives up what takes longer
            measuring_s = min(measuring_s, max(OVERRUN * procedure.max_time_s, 2 * loops[0]))
        return measuring_s

    def _runs_of(self, configuration: Configuration) -> kinds.Range:
        """Return how many runs of LoadGen there will be: at least, likely, at most."""
        assert configuration.load is not None
        scenario = configuration.load.scenario
        low, usual, high = kinds.RUNS[scenario]
        return low, self._latest(self._runs, scenario, usual), high

    def _accuracy_s(self, configuration: Configuration, iteration_s: float, bound: int) -> float:
        """Return how long the data set takes; 0 where there is none."""
        if configuration.dataset is None:
            return 0.0
        photo_s, known = self._photo_of_dataset_s(configuration)
        passes = kinds.passes_of(configuration)[bound + 1]
        again_s = self.load_s(msgspec.structs.replace(configuration, precision="fp32")) if passes > 1 else 0.0
        photo_s *= (_SURE if known == "this model" else _DOUBT) ** bound
        return again_s + kinds.accuracy_s(configuration, iteration_s, photo_s, passes)

    def _photo_of_dataset_s(self, configuration: Configuration) -> tuple[float, str]:
        """Return how long a photo of a data set takes beside the model, and what that is known from."""
        processing = configuration.processing or _USUAL_PROCESSING
        for known, key in (("this model", (processing, configuration.model)), ("other models", processing)):
            if found := self._examined.get(key):
                return statistics.median(found[-_LATEST:]), known
        return _READ_S + sum(_PHOTO_S[processing]), ""

    def _more(self, configuration: Configuration) -> Iterator[str]:
        """Yield what the time rests on beside the iteration."""
        if configuration.load is not None:
            _, runs, most = self._runs_of(configuration)
            if _exact(configuration) in self._whole:
                yield "its whole time from records"
            elif most > 1:
                whence = "from records" if configuration.load.scenario in self._runs else "usual"
                yield f"{runs:g} run{'' if runs == 1 else 's'} ({whence}, at most {most:g})"
        if configuration.streams > 1 or configuration.beside:
            yield "at worst in turn"
        if configuration.dataset is not None:
            known = self._photo_of_dataset_s(configuration)[1]
            whence = f"records of {known}" if known else "usual time"
            yield f"{kinds.photos_count(configuration)} photos ({whence})"

    def _times_s(self, configuration: Configuration, iteration_s: float, factor: float = 1.0) -> list[float]:
        """Return how long an iteration of each loop takes: of the whole, and of each phase of a pipeline."""
        if not configuration.processing:
            return [iteration_s]
        before_s, after_s = (each * factor for each in self._photos_s(configuration))
        return [before_s + iteration_s + after_s, before_s, iteration_s, after_s]

    def _least_s(
        self, configuration: Configuration, procedure: Procedure, iterations: list[float], basis: Basis
    ) -> float:
        """Return how long measuring takes at least.

        Where no record of the model is known, the lower of guess and correction is taken, divided by what the guess may
        be off: trying costs two iterations, while what is never tried is never known.
        """
        if configuration.load is not None:
            return 0.0
        iteration_s = max(iterations)
        if basis not in ("this configuration", "this model"):
            iteration_s = min(iteration_s, guess_s(configuration, self._accelerator)) / _DOUBT
        return least_s(procedure, self._times_s(configuration, iteration_s))  # streams and models warm up alone

    def iteration_s(self, configuration: Configuration) -> tuple[float, Basis]:
        """Return how long the model is expected to run for one batch, in seconds, and what that is derived from."""
        guessed_s = guess_s(configuration, self._accelerator)
        for basis, key in _keys(configuration):
            if found := self._iteration.get(key):
                return guessed_s * statistics.median(found[-_LATEST:]), basis
        return guessed_s, "operations"

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
        if configuration is None or not self._is_here(record):
            return
        if configuration.beside:
            self._learn_alone(record, configuration)
            return
        if record.status is Status.SKIPPED:
            self._learn_iteration(configuration, record.setup.protocol.get("iteration_s"))
        if record.status not in (Status.OK, Status.INVALID):
            return
        if load_s := (record.value("load_s") or 0.0) / kinds.sessions_of(configuration):
            family = (configuration.runtime, configuration.precision)
            self._load[family].append(load_s)
            self._load[(*family, configuration.model)].append(load_s)
        if configuration.load is not None:
            self._learn_load(record, configuration)
        if configuration.load is not None or configuration.streams > 1:
            return
        own_s = record.value("inference_p50_s" if configuration.processing else "latency_p50_s")
        if not own_s:
            return
        self._learn_iteration(configuration, own_s)
        if configuration.processing:
            self._learn_photos(record, configuration)
        if configuration.dataset is not None:
            self._learn_dataset(record, configuration, own_s)
        self._learn_around(record, configuration)

    def _learn_iteration(self, configuration: Configuration, iteration_s: object) -> None:
        if isinstance(iteration_s, float) and iteration_s > 0:
            for _, key in _keys(configuration):
                self._iteration[key].append(iteration_s / guess_s(configuration, self._accelerator))

    def _learn_alone(self, record: Record, configuration: Configuration) -> None:
        """Learn from one of several models at once what it did alone; the configuration names the first one."""
        for model in (configuration.model, *configuration.beside):
            if models.bare_subject(model).name == record.subject.name:
                alone = msgspec.structs.replace(configuration, model=model, beside=())
                self._learn_iteration(alone, record.value("alone_latency_p50_s"))
                return

    def _learn_photos(self, record: Record, configuration: Configuration) -> None:
        found = [(record.value(f"{phase}_p50_s") or 0.0) / configuration.batch for phase in (PHASES[0], PHASES[2])]
        for index, each in enumerate(found):
            self._photo[(index, configuration.processing, configuration.model)].append(each)
            self._photo[(index, configuration.processing)].append(each)

    def _learn_load(self, record: Record, configuration: Configuration) -> None:
        assert configuration.load is not None
        found = [record.setup.protocol.get(key) for key in ("probes", "attempts")]
        runs = sum(each for each in found if isinstance(each, int))
        whole_s = duration_s(record)
        if runs and whole_s:
            self._runs[configuration.load.scenario].append(runs)
            self._whole[_exact(configuration)].append(whole_s)

    def _learn_dataset(self, record: Record, configuration: Configuration, iteration_s: float) -> None:
        """Learn what a photo takes beside the model."""
        pass_s, count = (record.value(f"accuracy_{name}") for name in ("pass_s", "images_count"))
        if pass_s and count:
            photo_s = max(0.0, pass_s - math.ceil(count / configuration.batch) * iteration_s) / count
            processing = configuration.processing or _USUAL_PROCESSING
            self._examined[(processing, configuration.model)].append(photo_s)
            self._examined[processing].append(photo_s)

    def _learn_around(self, record: Record, configuration: Configuration) -> None:
        """Learn what a record took beside its loops and its loading, such as the start of its worker."""
        whole_s = duration_s(record)
        procedure = procedure_of(record)
        if whole_s is None or procedure is None or configuration.processing or configuration.dataset:
            return
        known_s = measuring_s(procedure, record.value("latency_p50_s") or 0.0) + (record.value("load_s") or 0.0)
        self._around[configuration.runtime].append(max(0.0, whole_s - known_s))

    def _photos_s(self, configuration: Configuration) -> tuple[float, float]:
        usual = _PHOTO_S[configuration.processing]
        found = []
        for index, usual_s in enumerate(usual):
            key = (index, configuration.processing)
            likely = self._latest(self._photo, (*key, configuration.model), self._latest(self._photo, key, usual_s))
            found.append(likely * configuration.batch)
        return found[0], found[1]

    def _is_here(self, record: Record) -> bool:
        platform = record.platform
        if platform.cpu != cpu_name() or platform.cpu_logical_count != psutil.cpu_count():
            return False
        return record.setup.device == "cpu" or self._accelerator in [each.name for each in platform.accelerators]

    @staticmethod
    def _latest(table: dict[Hashable, list[float]], key: Hashable, usual: float) -> float:
        found = table.get(key)
        return statistics.median(found[-_LATEST:]) if found else usual


def _keys(configuration: Configuration) -> list[tuple[Basis, Hashable]]:
    """Return what a configuration has in common with others, the nearest first."""
    model, runtime, precision = configuration.model, configuration.runtime, configuration.precision
    device = configuration.device
    whole = msgspec.structs.replace(
        configuration, processing="", images=None, load=None, streams=1,
        dataset=None, dataset_limit=None, calibration=None,
    )  # fmt: skip
    return [
        ("this configuration", _exact(whole)),
        ("this model", (model, runtime, precision, device)),
        ("this model", (model, runtime, device)),
        ("this model", (model, device)),
        ("this runtime", (runtime, precision, device)),
        ("this device", device),
    ]


def _exact(configuration: Configuration) -> bytes:
    return msgspec.json.encode(configuration, order="sorted")
