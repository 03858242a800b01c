"""How long measurements take that are more than timed iterations, as formulas: streams, several models, loads, photos.

Each formula follows the worker's own loops. What it cannot know, such as how many runs a search takes, has a usual
value and bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from wattwerk.bench import dataset
from wattwerk.bench.duration import fitted, loop_s, rests_s, windows_s
from wattwerk.bench.load import Load, Scenario, sizes_of
from wattwerk.bench.load_search import LOWEST_RATIO
from wattwerk.bench.scenario import Configuration, Procedure
from wattwerk.errors import WattwerkError

#: At least, usually, at most.
Range = tuple[float, float, float]

#: Runs of LoadGen. The search of ``server`` halves: two probes where no load keeps the limit, ten where a low one does;
#: the run that counts is tried five times at most.
RUNS: Final[dict[Scenario, Range]] = {
    "single-stream": (1, 1, 5),
    "multi-stream": (1, 1, 5),
    "server": (2, 8, 15),
    "offline": (1, 1, 5),
}
#: Share of the time in which the model computes while LoadGen looks for the highest load.
_BUSY: Final = 0.5
#: Calls of each size that are timed before a load.
_TIMED: Final = 20


def sessions_of(configuration: Configuration) -> int:
    """Return how many times the worker loads a model."""
    if configuration.load is not None:
        return len(sizes_of(configuration.load, configuration.batch))
    return configuration.streams


def streams_s(procedure: Procedure, iteration_s: float, count: int) -> float:
    """Return how long several streams take: each warms up alone, then all run for the energy windows.

    Args:
        procedure: What was asked for.
        iteration_s: An iteration of one stream alone, in seconds.
        count: Streams; at worst they take turns on the device.
    """
    warmup_s = max(fitted(procedure, iteration_s).warmup * iteration_s, procedure.warmup_s)
    return rests_s(procedure) + count * warmup_s + windows_s(procedure, count * iteration_s)


def together_s(procedure: Procedure, times_s: Sequence[float]) -> float:
    """Return how long several models take: each alone as a model is, then all for the energy windows.

    Args:
        procedure: What was asked for.
        times_s: An iteration of each model alone, in seconds; at worst they take turns on the device.
    """
    return rests_s(procedure) + sum(loop_s(procedure, each) for each in times_s) + windows_s(procedure, sum(times_s))


def load_s(load: Load, procedure: Procedure, sample_s: float, batch: int, runs: float, *, worst: bool = False) -> float:
    """Return how long a load takes, in seconds.

    Args:
        load: The load.
        procedure: What was asked for.
        sample_s: A sample's time, in seconds.
        batch: Most samples that run together.
        runs: Runs of LoadGen.
        worst: Whether a search goes down to the lowest load that is tried, where queries come most slowly, and runs
            there once more.
    """
    least_s, queries_s = load.min_duration_s, load.min_query_count * load.samples_per_query * sample_s
    usual_s = max(least_s, queries_s / (_BUSY if load.scenario == "server" else 1.0))
    runs_s = [usual_s] * math.ceil(runs)
    if worst and load.scenario == "server":
        halved = [max(least_s, queries_s * 2**step) for step in range(1, round(math.log2(1 / LOWEST_RATIO)) + 1)]
        runs_s = [*halved, halved[-1], *runs_s[len(halved) + 1 :]]  # the one that counts is at that load too
    calls_s = sum(
        max(procedure.warmup * size * sample_s, procedure.warmup_s) + _TIMED * size * sample_s
        for size in sizes_of(load, batch)
    )
    return rests_s(procedure) + calls_s + sum(runs_s)


def photos_count(configuration: Configuration) -> int:
    """Return how many photos a configuration's data set has; 0 where there is none, or where it cannot be read now."""
    return _count(configuration.dataset, configuration.dataset_limit)[0] if configuration.dataset else 0


def passes_of(configuration: Configuration) -> Range:
    """Return how many times the photos run through a model: once more in fp32 where they have no labels."""
    assert configuration.dataset is not None
    labelled = _count(configuration.dataset, configuration.dataset_limit)[1]
    return (1, 1, 1) if labelled or configuration.precision == "fp32" else (1, 2, 2)


def accuracy_s(configuration: Configuration, iteration_s: float, photo_s: float, passes: float) -> float:
    """Return how long the data set of a configuration takes, in seconds.

    Args:
        configuration: With a data set.
        iteration_s: An iteration of the model alone, in seconds.
        photo_s: Reading and processing of a photo, in seconds.
        passes: How many times all photos run through a model.
    """
    count = photos_count(configuration)
    return passes * (math.ceil(count / configuration.batch) * iteration_s + count * photo_s)


@lru_cache(maxsize=16)
def _count(reference: str, limit: int | None) -> tuple[int, bool]:
    """Return how many photos there are, and whether anything is known of them."""
    try:
        found = dataset.read(reference, limit)
    except WattwerkError:  # whoever measures will be told
        return 0, False
    return len(found.items), found.layout != "plain"
