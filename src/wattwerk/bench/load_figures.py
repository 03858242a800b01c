"""From a run of LoadGen to the figures of a record: its log's, our own beside them, and the energy of the run."""

from __future__ import annotations

from typing import Final

import msgspec

from wattwerk.bench.cards import card_of
from wattwerk.bench.energy import energy_figures, steady
from wattwerk.bench.evaluate import Context, conditions, problems_of
from wattwerk.bench.load import Load
from wattwerk.bench.load_worker import COMPARED, LoadMeasurement
from wattwerk.bench.scenario import Configuration, Procedure
from wattwerk.meters.trace import Trace
from wattwerk.records import Figure, Status, derived, measured, unavailable
from wattwerk.units import format_value

#: A percentile that differs by more than both between our own times and LoadGen's log makes the record invalid; the
#: way through LoadGen alone takes some microseconds, which is much for a model that takes no longer.
DISAGREEMENT_RATIO: Final = 0.01
DISAGREEMENT_S: Final = 1e-4

#: Percentiles of our own that a record keeps.
_KEPT: Final = (50.0, 90.0, 99.0)
_OWN: Final = "by our own times; at least, and at most, as far as this process had to wait between two of them"

_PER_SAMPLE: Final = "energy_per_inference_j"


def evaluate_load(
    measurement: LoadMeasurement, trace: Trace, configuration: Configuration, procedure: Procedure, context: Context
) -> tuple[Status, str, dict[str, Figure]]:
    """Return how a run ended, why if not well, and its figures."""
    load = configuration.load
    assert load is not None
    card = card_of(configuration.device, measurement.device_address, context.accelerators)
    single = msgspec.structs.replace(configuration, batch=1)  # the ends that are handed over are those of samples
    energies = energy_figures(measurement, trace, single, procedure, context.idle, card)
    figures = (
        _latency_figures(measurement, load)
        | _rate_figures(measurement, load)
        | {"load_s": measured(measurement.load_ns / 1e9)}
        | _run_energies(energies, measurement, load)
        | conditions(measurement, trace, context, card)
    )
    problems = [*_verdict_problems(measurement, load, figures), *problems_of(measurement, figures, 0.0)]
    return Status.INVALID if problems else Status.OK, "; ".join(problems), figures


def load_protocol(load: Load | None, answer: object) -> dict[str, str | int | float | bool | None]:
    """Return what a record's protocol says of the load; nothing without one."""
    if load is None:
        return {}
    told: dict[str, str | int | float | bool | None] = {
        "scenario": load.scenario,
        "load_mode": load.mode,
        "latency_limit_s": load.latency_limit_s,
        "latency_limit_source": load.limit_source,
        "latency_percentile": load.percentile,
        "min_duration_s": load.min_duration_s,
        "min_query_count": load.min_query_count,
        "samples_per_query": load.samples_per_query,
    }
    if not load.official:
        told["quick"] = True
    if isinstance(answer, LoadMeasurement):
        told |= {
            "verdict": "VALID" if answer.log.valid else "INVALID",
            "probes": len(answer.probes),
            "attempts": answer.attempts,
            "logs": answer.logs,
            "loadgen": answer.version,
        }
    return told


def _latency_figures(measurement: LoadMeasurement, load: Load) -> dict[str, Figure]:
    """Return the latency of a query, as LoadGen's log has it; ``offline`` has only one query."""
    if load.scenario == "offline":
        return _disagreement(measurement)
    log, note = measurement.log, "from LoadGen's log"
    values = {f"query_{which}_s": log.query_latency_s(which) for which in ("mean", "min")}
    values |= {f"query_p{percent:g}_s": log.percentile_s(percent) for percent in COMPARED}
    values["query_max_s"] = log.query_latency_s("max")
    figures = {name: measured(value, note=note) for name, value in values.items() if value is not None}
    estimate = log.estimate_s(load.percentile)
    if estimate is not None:
        told = f"the {load.percentile:g}th percentile that LoadGen's early stopping vouches for"
        figures["query_estimate_s"] = measured(estimate, note=told)
    over = log.number("result_overlatency_query_count")
    if over is not None:
        figures["over_limit_count"] = measured(over, note="queries over the latency limit, " + note)
    return figures | _disagreement(measurement)


class _Compared(msgspec.Struct, frozen=True):
    """A percentile by our own times, at least and at most, and by LoadGen's log."""

    percent: float
    low_s: float
    high_s: float
    logged_s: float

    @property
    def apart_s(self) -> float:
        """By how much the log is outside of what our times allow."""
        return max(self.low_s - self.logged_s, self.logged_s - self.high_s, 0.0)


def _compared(measurement: LoadMeasurement) -> list[_Compared]:
    return [
        _Compared(percent, low_s, high_s, logged_s)
        for percent, (low_s, high_s) in measurement.own_s.items()
        if (logged_s := measurement.log.percentile_s(percent))
    ]


def _disagreement(measurement: LoadMeasurement) -> dict[str, Figure]:
    """Compare our own percentiles with the log's."""
    found = _compared(measurement)
    if not found:
        return {"log_disagreement_ratio": unavailable("LoadGen's log has no percentile")}
    worst = max(found, key=lambda each: abs(each.low_s / each.logged_s - 1))
    note = f"by our own times over LoadGen's log, minus one, at the percentile where it is largest, {worst.percent:g}"
    low, high = worst.low_s / worst.logged_s - 1, worst.high_s / worst.logged_s - 1
    own = {
        f"own_query_p{each.percent:g}_s": measured(each.low_s, each.low_s, each.high_s, note=_OWN)
        for each in found
        if each.percent in _KEPT
    }
    return own | {"log_disagreement_ratio": derived(low, low, high, note=note)}


def _rate_figures(measurement: LoadMeasurement, load: Load) -> dict[str, Figure]:
    start, end = steady(measurement)
    length_s = (end - start) / 1e9
    slack = format_value("slack_s", measurement.slack_ns / 1e9)
    figures = {
        "load_run_s": measured(length_s, note=f"LoadGen's measured interval; its clock is mapped within {slack}"),
        "query_count": measured(measurement.queries),
        "sample_count": measured(measurement.samples),
    }
    keys = {
        "server": "result_completed_samples_per_sec",
        "single-stream": "result_qps_with_loadgen_overhead",
        "offline": "result_samples_per_second",
    }
    logged = measurement.log.number(keys.get(load.scenario, ""))
    if logged is None:
        rate = derived(measurement.samples / length_s, note="samples over the measured interval")
    else:
        rate = measured(logged, note="from LoadGen's log")
    figures["samples_per_s"] = rate
    if load.scenario != "offline" and rate.value is not None:
        figures["queries_per_s"] = msgspec.structs.replace(rate, value=rate.value / load.samples_per_query)
    if measurement.target_per_s is not None:
        found = "the highest load that kept the limit" if measurement.kept else "no load kept the limit"
        figures["target_queries_per_s"] = measured(measurement.target_per_s, note=f"mean of the arrivals; {found}")
    return figures


def _run_energies(energies: dict[str, Figure], measurement: LoadMeasurement, load: Load) -> dict[str, Figure]:
    """Return the energies with those of the whole run and of a query beside those of a sample."""
    figures = dict(energies)
    for name, figure in energies.items():
        if not name.endswith(_PER_SAMPLE):
            continue
        stem = name.removesuffix(_PER_SAMPLE)
        figures[f"{stem}energy_j"] = _times(figure, measurement.samples)
        if load.scenario != "offline":
            figures[f"{stem}energy_per_query_j"] = _times(figure, load.samples_per_query)
    return figures


def _times(figure: Figure, count: int) -> Figure:
    value, low, high = (None if part is None else part * count for part in (figure.value, figure.low, figure.high))
    return msgspec.structs.replace(figure, value=value, low=low, high=high)


def _verdict_problems(measurement: LoadMeasurement, load: Load, figures: dict[str, Figure]) -> list[str]:
    problems = []
    if not measurement.kept:
        problems.append(_impossible(measurement, load))
    if not measurement.log.valid:
        problems.append(f"LoadGen says INVALID: {measurement.log.reason or 'no reason given'}")
    elif load.latency_limit_s is not None and load.scenario != "server":  # of which alone LoadGen knows the limit
        reached = measurement.log.percentile_s(load.percentile)
        if reached is None or reached > load.latency_limit_s:
            problems.append(
                f"percentile {load.percentile:g} is {format_value('query_s', reached)}, over the limit of "
                f"{format_value('limit_s', load.latency_limit_s)}"
            )
    for each in _compared(measurement):
        if each.apart_s > max(DISAGREEMENT_RATIO * each.logged_s, DISAGREEMENT_S):
            told = f"{format_value('own_s', each.low_s)} and {format_value('logged_s', each.logged_s)}"
            problems.append(f"our own times and LoadGen's log disagree at percentile {each.percent:g}: {told}")
            break
    return problems


def _impossible(measurement: LoadMeasurement, load: Load) -> str:
    """Say that no load keeps the limit, and the lowest latency seen."""
    seen = [probe.percentile_s for probe in measurement.probes if probe.percentile_s is not None]
    reached = measurement.log.percentile_s(load.percentile)
    lowest = min([*seen, *([reached] if reached is not None else [])], default=None)
    return (
        f"no load keeps the limit of {format_value('limit_s', load.latency_limit_s)}: the lowest percentile "
        f"{load.percentile:g} seen is {format_value('lowest_s', lowest)}, "
        f"a lone batch takes {format_value('lone_s', measurement.lone_s)}"
    )
