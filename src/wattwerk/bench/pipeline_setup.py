"""What a pipeline needs besides a model: the request checked before anything is measured, and what the worker opens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import msgspec

from wattwerk.bench import photos
from wattwerk.bench.pipeline import PHASES, PROCESSINGS, Pipeline, check_processing, open_pipeline
from wattwerk.bench.scenario import Configuration, Procedure
from wattwerk.catalog.models import CatalogModel
from wattwerk.catalog.processing import Processing, facts_of
from wattwerk.runtimes.base import Session

ALL = "all"
DEFAULT_PROCESSING = "vectorised"


@lru_cache(maxsize=2)
def _photos(folder: str | None) -> photos.Photos:
    return photos.load(folder)


def processings_of(
    pipeline: bool, asked: Sequence[str], images: str | None, models: Iterable[CatalogModel]
) -> tuple[str, ...]:
    """Return the ways of processing that are to be measured; none where no pipeline is asked for.

    Args:
        pipeline: Whether one is asked for without saying how.
        asked: Names, or ``all``.
        images: The folder of the photos.
        models: The models.

    Raises:
        ConfigError: A name is unknown, the photos cannot be used, or nobody says how they become a model's inputs.
        UnavailableError: Pillow or the photos are missing.
    """
    if not (pipeline or asked or images):
        return ()
    for name in asked:
        if name != ALL:
            check_processing(name)
    for model in models:
        facts_of(model)
    _photos.cache_clear()  # the folder may have changed since this process last looked
    _photos(images)
    return PROCESSINGS if ALL in asked else tuple(dict.fromkeys(asked)) or (DEFAULT_PROCESSING,)


def with_processings(
    configurations: Sequence[Configuration], processings: Sequence[str], images: str | None
) -> list[Configuration]:
    """Return each configuration with each way of processing; as they are where there is none."""
    if not processings:
        return list(configurations)
    return [
        msgspec.structs.replace(configuration, processing=processing, images=images)
        for configuration in configurations
        for processing in processings
    ]


def refused_photos(configurations: Iterable[Configuration]) -> list[str]:
    """Return a line for each file of the folder that is left out because it is no usable photo."""
    folders = {configuration.images for configuration in configurations if configuration.processing}
    return [f"left out: {line}" for folder in folders for line in _photos(folder).refused]


class Prepared:
    """A pipeline that waits for its loaded model."""

    def __init__(self, model: CatalogModel, facts: Processing, configuration: Configuration, seed: int) -> None:
        self._model, self._facts, self._configuration, self._seed = model, facts, configuration, seed
        self._photos = _photos(configuration.images).photos
        self._pipeline: Pipeline | None = None

    def open(self, session: Session) -> Callable[[], object]:
        """Bind the model and return the call that takes one batch of photos to results.

        Raises:
            UnavailableError: A package is missing.
        """
        its = self._configuration
        self._pipeline = open_pipeline(
            session, self._model, self._facts, its.processing, self._photos, its.batch, its.threads, self._seed
        )
        return self._pipeline.run

    def calls(self) -> list[tuple[str, Callable[[], object]]]:
        """Return the phases by name, each to be called by itself."""
        assert self._pipeline is not None
        pipeline = self._pipeline
        return list(zip(PHASES, (pipeline.preprocess, pipeline.infer, pipeline.postprocess), strict=True))

    @property
    def details(self) -> dict[str, str | int | float | bool | None]:
        """What the record says of the pipeline beside its processing."""
        assert self._pipeline is not None
        return {
            "photos_count": len(self._photos),
            "planted_count": self._pipeline.planted_count,
            "processing_on": self._pipeline.place,
        }

    def close(self) -> None:
        """Release the processor and whatever holds the model's memory."""
        if self._pipeline is not None:
            self._pipeline.close()
        self._pipeline = None


def prepare(model: CatalogModel, configuration: Configuration, procedure: Procedure) -> Prepared:
    """Return the pipeline of a configuration, with its photos read.

    Raises:
        ConfigError: Nobody says how photos become the model's inputs, or the folder has none.
    """
    return Prepared(model, facts_of(model), configuration, procedure.seed)
