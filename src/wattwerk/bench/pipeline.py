"""A pipeline: from photos to results through a loaded model, in three phases that can each be run by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from wattwerk.bench.photos import Photo, batch_at
from wattwerk.bench.processing_base import Processor, Result
from wattwerk.bench.processing_planted import OBJECTS_COUNT, planted
from wattwerk.catalog.models import CatalogModel
from wattwerk.catalog.processing import Processing
from wattwerk.errors import ConfigError
from wattwerk.registry import suggestion
from wattwerk.runtimes.base import Session

#: The ways of processing, in the order in which people come to them.
PROCESSINGS: Final = ("sequential", "vectorised", "overlapped")
#: The phases, in the order in which a batch goes through them.
PHASES: Final = ("preprocess", "inference", "postprocess")


class Pipeline:
    """Photos, a processor and a loaded model; every call takes the next batch of photos.

    Pre-processing ends when the batch lies where the model reads it, so that a copy to a device is part of it;
    post-processing begins where the model left its outputs, so that their copy to the host is part of it.

    Args:
        session: The loaded model.
        call: Its timed call, as ``bind`` returned it.
        blank: The array float32 ``(batch, 3, height, width)`` that was bound.
        model: What it is.
        facts: What it wants and gives.
        processor: How photos are processed.
        photos: The photos; they go round.
        batch: Photos in one iteration.
        seed: Where objects are planted, if the weights are seeded.
    """

    def __init__(
        self,
        session: Session,
        call: Callable[[], object],
        blank: Any,
        model: CatalogModel,
        facts: Processing,
        processor: Processor,
        photos: Sequence[Photo],
        batch: int,
        seed: int,
    ) -> None:
        self._session, self._model, self._facts, self._processor = session, model, facts, processor
        self._photos, self._batch, self._index = photos, batch, 0
        self._input = model.inputs[0]
        self._call = call
        shared = self._usable(session.shared_inputs())
        self._target: Any = blank if shared is None else shared[self._input.name]
        self._in_place = shared is not None
        self._planted: list[Any] | None = None
        self._now = batch_at(photos, 0, batch)
        if facts.task == "detection" and "seeded" in model.origin:
            self._planted = planted(self._outputs(), facts, self._input.shape, seed)

    @property
    def planted_count(self) -> int:
        """How many objects were planted into the outputs of each image; 0 with real weights."""
        return OBJECTS_COUNT if self._planted else 0

    @property
    def place(self) -> str:
        """Where photos are processed: ``cpu``, or the device that runs the model."""
        return self._processor.place

    def preprocess(self) -> None:
        """Put the next photos where the model reads them."""
        self._next()
        self._processor.preprocess(self._now, self._target)
        self._handed_over()

    def _next(self) -> list[Photo]:
        self._index += 1
        self._now = batch_at(self._photos, self._index, self._batch)
        return self._now

    def _handed_over(self) -> None:
        if not self._in_place:
            self._call = self._session.refill({self._input.name: self._target})

    def _usable(self, shared: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return shared memory of the kind that the processor works on: a GPU's is no use to one on the CPU."""
        if shared is None or self._processor.takes_tensors:
            return shared
        return shared if all(isinstance(each, np.ndarray) for each in shared.values()) else None

    def infer(self) -> None:
        """Run the model once."""
        self._call()

    def postprocess(self) -> list[Result]:
        """Turn the latest outputs into results."""
        return self._results(self._now)

    def _results(self, photos: Sequence[Photo]) -> list[Result]:
        outputs = self._outputs()  # also where they are not used: fetching them is part of the work
        return self._processor.postprocess(outputs if self._planted is None else self._planted, photos)

    def _outputs(self) -> list[Any]:
        named = self._usable(self._session.shared_outputs())
        if named is None:
            named = dict(self._session.bound_outputs())
        return [named[name] for name in self._model.output_names()]

    def run(self) -> list[Result]:
        """Take the next photos all the way to results."""
        self.preprocess()
        self.infer()
        return self.postprocess()

    def results_of(self, photos: Sequence[Photo]) -> list[Result]:
        """Return the model's own results for photos of a data set; nothing is planted.

        Args:
            photos: As many as the batch has.
        """
        self._processor.preprocess(photos, self._target)
        self._handed_over()
        self.infer()
        return self._processor.postprocess(self._outputs(), photos)

    def close(self) -> None:
        """Release the processor; the session stays."""
        self._processor.close()


class OverlappedPipeline(Pipeline):
    """A pipeline that decodes the photos of the next batch while the model runs this one.

    Two batches are on their way at once: one call of ``run`` takes as long as the slower of both, while a batch takes
    longer than that from its photos to its results.
    """

    def __init__(self, *arguments: Any) -> None:
        self._worker = ThreadPoolExecutor(1, "stage")
        self._ahead: Future[list[Photo]] | None = None
        super().__init__(*arguments)

    def run(self) -> list[Result]:
        """Finish one batch and begin the next."""
        ahead = self._ahead or self._begun()
        photos = ahead.result()
        self._processor.unload(self._target)
        self._handed_over()
        self._ahead = self._begun()
        self.infer()
        return self._results(photos)

    def preprocess(self) -> None:
        """Put the next photos where the model reads them; what was begun is given up, since it uses the same memory."""
        if self._ahead is not None:
            self._ahead.result()
            self._ahead = None
        super().preprocess()

    def _begun(self) -> Future[list[Photo]]:
        photos = self._next()

        def stage() -> list[Photo]:
            self._processor.stage(photos)
            return photos

        return self._worker.submit(stage)

    def close(self) -> None:
        """Wait for the batch that was begun, and release the processor."""
        self._worker.shutdown()
        super().close()


def check_processing(name: str) -> None:
    """Check the name of a way of processing.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in PROCESSINGS:
        raise ConfigError(f"unknown processing {name!r}", suggestion(name, [*PROCESSINGS, "all"]))


def processor_for(
    processing: str, facts: Processing, shape: tuple[int, ...], batch: int, threads: int | None, session: Session
) -> Processor:
    """Return the processor of a way of processing: on the GPU where a torch runtime keeps its tensors there.

    Args:
        processing: One of ``PROCESSINGS``.
        facts: What the model wants and gives.
        shape: The input of one sample.
        batch: Photos in one iteration.
        threads: Threads that may work at once; None for as many as there are.
        session: The loaded model, with inputs bound.

    Raises:
        UnavailableError: A package is missing.
    """
    if processing == "sequential":
        from wattwerk.bench.processing_sequential import Sequential

        return Sequential(facts, shape, batch, 1)
    from wattwerk.bench.processing_vectorised import Vectorised, thread_count

    device = session.effective.device
    if device.startswith("cuda") and session.shared_inputs() is not None:
        from wattwerk.bench.processing_torch import OnDevice

        return OnDevice(facts, shape, batch, thread_count(threads), device)
    return Vectorised(facts, shape, batch, thread_count(threads))


def open_pipeline(
    session: Session,
    model: CatalogModel,
    facts: Processing,
    processing: str,
    photos: Sequence[Photo],
    batch: int,
    threads: int | None,
    seed: int,
) -> Pipeline:
    """Return a pipeline through a loaded model; ``processor_for`` and ``Pipeline`` explain the arguments.

    Raises:
        UnavailableError: A package is missing.
    """
    check_processing(processing)
    blank = np.zeros((batch, *model.inputs[0].shape), np.float32)
    call = session.bind({model.inputs[0].name: blank})
    processor = processor_for(processing, facts, model.inputs[0].shape, batch, threads, session)
    kind = OverlappedPipeline if processing == "overlapped" else Pipeline
    return kind(session, call, blank, model, facts, processor, photos, batch, seed)
