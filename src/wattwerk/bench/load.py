"""Which load is put on a model: the scenarios of MLPerf, their limits, and how long a run has to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import msgspec

from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.registry import suggestion

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]

SCENARIOS: Final[tuple[Scenario, ...]] = get_args(Scenario)
ALL: Final = "all"

#: the names that LoadGen's own configuration has for the scenarios
LOADGEN_NAMES: Final[dict[Scenario, str]] = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
#: task of a model -> the benchmark of MLPerf whose settings hold for it; the others take those for any model
_BENCHMARKS: Final = {"classification": "resnet50", "detection": "retinanet"}
#: confidence that LoadGen asks for before it believes a percentile (its early stopping)
_CONFIDENCE: Final = 0.99
#: samples in the one query of ``offline`` (MLPerf Inference rules; ``mlperf.conf`` has it for each benchmark by itself)
_OFFLINE_SAMPLES: Final = 24576


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One scenario with everything that its runs need.

    Attributes:
        scenario: Which pattern of queries.
        percentile: Percent of the queries that have to keep the limit; LoadGen reports this percentile.
        min_duration_s: A run lasts at least this long.
        min_query_count: And has at least so many queries; samples for ``offline``, which has one query.
        samples_per_query: Samples in a query; ``offline`` puts all samples into one.
        latency_limit_s: How long a query may take; None for no limit.
        limit_source: Where the limit comes from.
        official: Whether duration and number of queries are at least those of MLPerf.
        precision_ratio: The search for the highest load ends when its bounds are so close.
    """

    scenario: Scenario
    percentile: float
    min_duration_s: float
    min_query_count: int
    samples_per_query: int = 1
    latency_limit_s: float | None = None
    limit_source: str = ""
    official: bool = False
    precision_ratio: float = 0.1

    @property
    def mode(self) -> str:
        """How the run relates to MLPerf's rules, in words."""
        return "MLPerf's minimums" if self.official else "shorter than MLPerf's minimums"


class Wishes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person asks for beside the scenario; None leaves it to the scenario.

    Attributes:
        latency_limit_s: How long a query may take.
        percentile: Percent of the queries that have to keep it.
        min_duration_s: Least length of a run.
        min_query_count: Least number of queries.
        samples_per_query: Samples in a query of ``multi-stream``.
    """

    latency_limit_s: float | None = None
    percentile: float | None = None
    min_duration_s: float | None = None
    min_query_count: int | None = None
    samples_per_query: int | None = None

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("latency_limit_s", self.latency_limit_s, 1e-6, 3600.0),
            ("percentile", self.percentile, 50.0, 99.9),
            ("min_duration_s", self.min_duration_s, 0.1, 86400.0),
            ("min_query_count", self.min_query_count, 1, 10_000_000),
            ("samples_per_query", self.samples_per_query, 1, 4096),
        ):
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} is {value:g}, it has to be from {low:g} to {high:g}")


def loadgen() -> Any:
    """Return the module of LoadGen.

    Raises:
        UnavailableError: It is not installed.
    """
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise UnavailableError(
            f"load scenarios need MLPerf LoadGen, which is not installed ({error})", 'pip install "wattwerk[loadgen]"'
        ) from error
    return mlperf_loadgen


def settings(scenario: Scenario, task: str = "") -> Any:
    """Return LoadGen's settings of a scenario with the official values that are built into it.

    Args:
        scenario: The scenario.
        task: The model's task, which chooses the benchmark of MLPerf that is nearest.

    Raises:
        UnavailableError: LoadGen is not installed.

    Source: ``mlperf.conf`` of LoadGen, which its library contains.
    """
    lg = loadgen()
    official = lg.TestSettings()
    official.FromConfig("", _BENCHMARKS.get(task, "*"), LOADGEN_NAMES[scenario], 0)  # 0: the built-in configuration
    official.scenario = getattr(lg.TestScenario, LOADGEN_NAMES[scenario])
    official.mode = lg.TestMode.PerformanceOnly
    return official


def queries_needed(percentile: float, over: int = 1) -> int:
    """Return how many queries LoadGen needs to believe a percentile, if so many are over it: 662 for 99 %, 64 for 90 %.

    It is the least number of which at most ``over`` exceed the percentile with a probability of 1 % or less.

    Source: the rule of early stopping of MLPerf Inference (appendix of its rules), from the binomial distribution.
    """
    rare = 1 - percentile / 100
    count = over + 1
    while _at_most(over, count, rare) > 1 - _CONFIDENCE:
        count += 1
    return count


def _at_most(over: int, count: int, rare: float) -> float:
    return sum(math.comb(count, k) * rare**k * (1 - rare) ** (count - k) for k in range(over + 1))


def check_names(names: Sequence[str]) -> list[Scenario]:
    """Return the scenarios of these names, each once; ``all`` stands for all four.

    Raises:
        ConfigError: A name is unknown.
    """
    for name in names:
        if name not in (ALL, *SCENARIOS):
            raise ConfigError(f"unknown scenario {name!r}", suggestion(name, [*SCENARIOS, ALL]))
    return [scenario for scenario in SCENARIOS if scenario in names or ALL in names]


def load_of(scenario: Scenario, task: str, batch: int, wishes: Wishes, *, full: bool, quick_s: float) -> Load:
    """Return the load that a scenario puts on a model.

    Args:
        scenario: The scenario.
        task: The model's task.
        batch: At most so many samples run together.
        wishes: What was asked for beside.
        full: Whether the least duration and number of queries are MLPerf's.
        quick_s: Least duration of a run otherwise.

    Raises:
        ConfigError: What was asked for does not fit the scenario.
        UnavailableError: LoadGen is not installed.
    """
    if scenario == "single-stream" and batch != 1:
        raise ConfigError(
            f"batch size {batch} is not possible with --scenario single-stream, whose queries have one sample",
            "leave --batch out, or use multi-stream, server or offline",
        )
    official = settings(scenario, task)
    percentile = wishes.percentile or official_percentile(official, scenario)
    least_s = official.min_duration_ms / 1e3
    counts = max(official.min_query_count, _OFFLINE_SAMPLES if scenario == "offline" else queries_needed(percentile))
    duration_s = wishes.min_duration_s or (least_s if full else quick_s)
    usual = counts if full or scenario != "offline" else 1
    count = wishes.min_query_count or usual
    limit_s, source = _limit(scenario, task, official, wishes)
    return Load(
        scenario=scenario,
        percentile=percentile,
        min_duration_s=duration_s,
        min_query_count=count,
        samples_per_query=_samples(scenario, official, wishes),
        latency_limit_s=limit_s,
        limit_source=source,
        official=duration_s >= least_s and count >= counts,
        precision_ratio=0.02 if full else 0.1,
    )


def sizes_of(load: Load, batch: int) -> list[int]:
    """Return the batch sizes that are loaded: powers of two up to the largest where the number of samples varies."""
    if load.scenario == "single-stream":
        return [1]
    if load.scenario == "multi-stream":
        most = min(batch, load.samples_per_query)
        return sorted({most, load.samples_per_query % most or most})
    if load.scenario == "offline":
        return [batch]
    return sorted({batch, *(1 << power for power in range(batch.bit_length()) if 1 << power < batch)})


def official_percentile(official: Any, scenario: Scenario) -> float:
    """Return the percentile that MLPerf looks at, in percent; of ``offline``, which has none, the one of its log."""
    field = {"single-stream": "single_stream", "multi-stream": "multi_stream", "server": "server"}.get(scenario)
    return round(100 * getattr(official, f"{field}_target_latency_percentile"), 6) if field else 99.0


def _samples(scenario: Scenario, official: Any, wishes: Wishes) -> int:
    if scenario != "multi-stream":
        return 1
    return wishes.samples_per_query or int(official.multi_stream_samples_per_query)


def _limit(scenario: Scenario, task: str, official: Any, wishes: Wishes) -> tuple[float | None, str]:
    """Return the latency limit and where it comes from; only ``server`` has one without being asked for it."""
    if scenario == "offline":
        return None, ""
    if wishes.latency_limit_s is not None:
        return wishes.latency_limit_s, "asked for"
    if scenario != "server":
        return None, ""
    source = f"LoadGen's mlperf.conf, {_BENCHMARKS.get(task, '*')}.Server.target_latency"
    return official.server_target_latency_ns / 1e9, source
