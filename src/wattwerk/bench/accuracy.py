"""Accuracy in the worker: a data set through the loaded model, after everything that is timed."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from wattwerk.bench import accuracy_metrics as metrics
from wattwerk.bench import photos
from wattwerk.bench.accuracy_truth import Truth, read_mask, truth_of
from wattwerk.bench.dataset import Dataset, Item, read, spread
from wattwerk.bench.photos import Photo
from wattwerk.bench.pipeline import open_pipeline
from wattwerk.bench.processing_base import Detections, Result, Segments, Top
from wattwerk.bench.scenario import Configuration
from wattwerk.catalog.models import CatalogModel
from wattwerk.catalog.processing import Processing, facts_of
from wattwerk.errors import WattwerkError
from wattwerk.records import Figure, measured, unavailable
from wattwerk.runtimes.base import Session

Tell = Callable[[str], None]

#: Photos that int8 is calibrated with; as many as there are samples where there is no data set.
CALIBRATION_COUNT: Final = 16
_PROCESSING: Final = "vectorised"
_TOP_COUNT: Final = 5
_QUALITY: Final = 100  # of a photo that is no JPEG file: what it loses by becoming one has to be little
_WHOLE_COLOURS: Final = 0
#: Scores that count for mAP: all of a detector of queries, and what detectors of places are published with.
#: Source: val.py of github.com/WongKinYiu/yolov9 (confidence 0.001).
_LEAST: Final = {"queries": 0.0, "places": 0.001}
_REFERENCE: Final = "fp32"


class PackedMap(NamedTuple):
    """A map of labels, packed: a thousand photos of them would not fit otherwise."""

    data: bytes
    shape: tuple[int, ...]
    dtype: str

    def open(self) -> npt.NDArray[Any]:
        """Return the labels ``(height, width)``."""
        return np.frombuffer(zlib.decompress(self.data), self.dtype).reshape(self.shape)


Answer = npt.NDArray[np.int64] | metrics.Boxes | PackedMap


class Seen(NamedTuple):
    """What a model said of the photos: an answer for each, and the positions of files that are no photos."""

    answers: list[Answer]
    refused: list[int]


class Examination:
    """A data set that waits for a loaded model.

    Args:
        model: The model.
        configuration: How it is run.
        tell: Hears of the progress.

    Raises:
        ConfigError: The data set cannot be used, or nobody says how photos become the model's inputs.
    """

    def __init__(self, model: CatalogModel, configuration: Configuration, tell: Tell) -> None:
        assert configuration.dataset is not None
        self._model, self._configuration, self._tell = model, configuration, tell
        self._plain = facts_of(model)
        self._facts = facts_for_accuracy(self._plain)
        self._dataset = _dataset(configuration.dataset, configuration.dataset_limit)
        self._truth = truth_of(self._dataset, self._plain, model)
        self._seen: Seen | None = None
        self._pass_s = 0.0
        self._trouble = ""

    def look(self, session: Session) -> None:
        """Run the data set through a loaded model, whose timed call is bound anew; what fails is told later."""
        start = time.perf_counter_ns()
        try:
            self._seen = self._through(session, self._configuration)
            self._pass_s = (time.perf_counter_ns() - start) / 1e9
        except Exception as error:  # whatever goes wrong here must not cost what was timed
            self._trouble = _words(error)

    def figures(self, reload: Callable[[Configuration], Session]) -> dict[str, Figure]:
        """Return what the answers are worth, to be called when the session is closed.

        Args:
            reload: Loads the model once more, as a configuration says; for the answers in fp32.
        """
        if self._seen is None:
            return {_main_name(self._facts, self._truth): unavailable(self._trouble)}
        try:
            found = self._against_truth(self._seen) if self._truth.known else self._against_fp32(self._seen, reload)
        except Exception as error:
            return {_main_name(self._facts, self._truth): unavailable(_words(error))}
        refused = self._seen.refused
        note = f"{len(refused)} more files are no photos" if refused else None
        count = measured(len(self._seen.answers), note=note)
        return found | {"accuracy_images_count": count, "accuracy_pass_s": measured(self._pass_s)}

    def _through(self, session: Session, configuration: Configuration) -> Seen:
        """Run all photos through a model; the last batch is filled up with its first photo."""
        answers: list[Answer] = []
        refused: list[int] = []
        batch, pipeline = configuration.batch, None
        count = len(self._dataset.items)
        try:
            for found in _batches(self._dataset.items, batch, refused):
                if pipeline is None:
                    name = configuration.processing or _PROCESSING
                    pipeline = open_pipeline(
                        session, self._model, self._facts, name, found, batch, configuration.threads, 0
                    )
                full = [*found, *[found[0]] * (batch - len(found))]
                answers += [_answer(result) for result in pipeline.results_of(full)[: len(found)]]
                self._tell(f"accuracy: {len(answers)} of {count} photos")
        finally:
            if pipeline is not None:
                pipeline.close()
        if not answers:
            raise ValueError("no file of the data set could be decoded")
        return Seen(answers, refused)

    def _against_truth(self, seen: Seen) -> dict[str, Figure]:
        gone = set(seen.refused)
        kept = [position for position in range(len(self._dataset.items)) if position not in gone]
        answers: Any = seen.answers
        truth = self._truth
        if truth.labels:
            labels = [truth.labels[position] for position in kept]
            return {f"top{k}_accuracy_ratio": metrics.top_share(answers, labels, k) for k in (1, _TOP_COUNT)}
        if truth.content is not None:
            images = [truth.images[position] for position in kept]
            whole, half = metrics.mean_precision(truth.content, images, answers)
            return {"map_ratio": whole, "map50_ratio": half}
        overlap = metrics.Overlap(self._facts.labels_count)
        for position, answer in zip(kept, answers, strict=True):
            path = truth.masks[position]
            overlap.add(read_mask(path), answer.open(), path.name)
        return {"miou_ratio": overlap.mean()}

    def _against_fp32(self, seen: Seen, reload: Callable[[Configuration], Session]) -> dict[str, Figure]:
        wanted = msgspec.structs.replace(self._configuration, precision=_REFERENCE)
        # how many photos run together is no matter of the answers
        key = msgspec.json.encode(msgspec.structs.replace(wanted, batch=1, threads=None, processing=""), order="sorted")
        if self._configuration.precision == _REFERENCE:
            _References.keep(key, seen)
        reference = _References.get(key)
        if reference is None:
            self._tell("accuracy: fp32 to compare with")
            session = reload(wanted)
            try:
                reference = self._through(session, wanted)
            finally:
                session.close()
            _References.keep(key, reference)
        return self._agreement(seen.answers, reference.answers)

    def _agreement(self, mine: Any, theirs: Any) -> dict[str, Figure]:
        own = self._configuration.precision == _REFERENCE
        beside = "this is fp32 itself; there are no labels" if own else "there are no labels"
        if self._facts.task == "classification":
            hits = sum(int(one[0] == other[0]) for one, other in zip(mine, theirs, strict=True))
            return {
                "agreement_ratio": metrics.share(
                    hits, len(mine), f"the same likeliest label as the same runtime in fp32; {beside}"
                )
            }
        if self._facts.task == "detection":
            images = range(len(mine))
            least = self._plain.score_least_ratio
            content = metrics.as_annotations(images, theirs, least, self._facts.labels_count)
            whole, half = metrics.mean_precision(content, images, mine)
            note = f"mAP with the boxes of the same runtime in fp32 above {least:g} as truth; {beside}"
            return {"agreement_ratio": _noted(whole, note), "agreement_map50_ratio": _noted(half, note)}
        overlap = metrics.Overlap(self._facts.labels_count)
        for index, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            overlap.add(other.open(), one.open(), str(index))
        return {
            "agreement_ratio": _noted(overlap.mean(), f"mean IoU with the labels of the same runtime in fp32; {beside}")
        }


class _References:
    """Answers of fp32 that later configurations of this process compare with; the last only, since maps are large."""

    _kept: dict[bytes, Seen] = {}  # noqa: RUF012 - one for the process

    @classmethod
    def keep(cls, key: bytes, seen: Seen) -> None:
        cls._kept.clear()
        cls._kept[key] = seen

    @classmethod
    def get(cls, key: bytes) -> Seen | None:
        return cls._kept.get(key)


@lru_cache(maxsize=2)
def _dataset(reference: str, limit: int | None) -> Dataset:
    return read(reference, limit)


def facts_for_accuracy(facts: Processing) -> Processing:
    """Return the facts with what the metrics need: five labels, and detections of every score that counts."""
    return msgspec.structs.replace(
        facts,
        top_count=max(facts.top_count, min(_TOP_COUNT, facts.labels_count)),
        score_least_ratio=_LEAST.get(facts.layout, facts.score_least_ratio),
    )


def calibration_photos(configuration: Configuration) -> list[Photo]:
    """Return the photos that int8 is calibrated with: of the folder that was named, else some of the data set."""
    if configuration.calibration is not None:
        found: Sequence[Photo] = photos.load(configuration.calibration).photos
        return list(spread(found, CALIBRATION_COUNT))
    assert configuration.dataset is not None
    items = _dataset(configuration.dataset, configuration.dataset_limit).items
    return [photo for item in spread(items, CALIBRATION_COUNT) if isinstance(photo := _photo(item), Photo)]


def calibration_inputs(model: CatalogModel, configuration: Configuration) -> Iterator[dict[str, Any]]:
    """Yield photos as the model's inputs, float32 ``(1, 3, height, width)``: what int8 has to cover well.

    Raises:
        ConfigError: There is no photo.
        UnavailableError: A package is missing.
    """
    from wattwerk.bench.processing_vectorised import Vectorised

    spec = model.inputs[0]
    processor = Vectorised(facts_of(model), spec.shape, 1, 1)
    try:
        for photo in calibration_photos(configuration):
            blank = np.zeros((1, *spec.shape), np.float32)
            processor.preprocess([photo], blank)
            yield {spec.name: blank}
    finally:
        processor.close()


def _photo(item: Item) -> Photo | str:
    return photos.read(item.path, _QUALITY, _WHOLE_COLOURS)


def _batches(items: Sequence[Item], size: int, refused: list[int]) -> Iterator[list[Photo]]:
    """Yield photos in batches, the last one perhaps smaller; positions of what is none go into ``refused``."""
    found: list[Photo] = []
    for position, item in enumerate(items):
        photo = _photo(item)
        if isinstance(photo, str):
            refused.append(position)
            continue
        found.append(photo)
        if len(found) == size:
            yield found
            found = []
    if found:
        yield found


def _answer(result: Result) -> Answer:
    if isinstance(result, Top):
        return np.array(result.labels, np.int64)
    if isinstance(result, Detections):
        return metrics.Boxes(np.array(result.boxes), np.array(result.scores), np.array(result.labels))
    assert isinstance(result, Segments)
    labels = np.ascontiguousarray(result.labels)
    return PackedMap(zlib.compress(labels.tobytes(), 1), labels.shape, labels.dtype.str)


def _main_name(facts: Processing, truth: Truth) -> str:
    if not truth.known:
        return "agreement_ratio"
    return {"classification": "top1_accuracy_ratio", "detection": "map_ratio"}.get(facts.task, "miou_ratio")


def _noted(figure: Figure, note: str) -> Figure:
    return msgspec.structs.replace(figure, note=f"{figure.note}; {note}" if figure.note else note)


def _words(error: Exception) -> str:
    if isinstance(error, WattwerkError):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
