"""A data set in a request: checked against every model before anything is measured."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from wattwerk.bench import photos
from wattwerk.bench.accuracy_metrics import REMEDY
from wattwerk.bench.accuracy_truth import truth_of
from wattwerk.bench.dataset import read
from wattwerk.bench.scenario import Configuration
from wattwerk.catalog.models import CatalogModel
from wattwerk.catalog.processing import facts_of
from wattwerk.errors import ConfigError, UnavailableError

#: task -> the package that its metric comes from
_PACKAGES: Final = {"classification": "scipy", "detection": "faster_coco_eval", "segmentation": "sklearn"}


def with_dataset(
    configurations: Iterable[Configuration], dataset: str, limit: int | None, calibration: str | None
) -> list[Configuration]:
    """Return each configuration with a data set.

    Raises:
        ConfigError: The limit is less than 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"--dataset-limit {limit} is not possible", "use 1 or more")
    return [
        msgspec.structs.replace(each, dataset=dataset, dataset_limit=limit, calibration=calibration)
        for each in configurations
    ]


def check_dataset(configuration: Configuration, models: Iterable[CatalogModel]) -> None:
    """Read the data set of a configuration and hold it to the models.

    Raises:
        ConfigError: It cannot be read, is one of another task, or has labels that a model does not have; or nobody says
            how photos become a model's inputs.
        UnavailableError: A package is missing.
    """
    assert configuration.dataset is not None
    photos.pillow()
    found = read(configuration.dataset, configuration.dataset_limit)
    for model in models:
        facts = facts_of(model)
        truth_of(found, facts, model)
        if importlib.util.find_spec(package := _PACKAGES[facts.task]) is None:
            raise UnavailableError(f"accuracy of a {facts.task} needs {package}, which is not installed", REMEDY)
    if configuration.calibration is not None:
        photos.load(configuration.calibration)


def left_out(configurations: Sequence[Configuration]) -> list[str]:
    """Return a line for each kind of file in the data set that says nothing."""
    asked = {(each.dataset, each.dataset_limit) for each in configurations if each.dataset is not None}
    return [f"left out: {line}" for reference, limit in asked if reference for line in read(reference, limit).left_out]
