"""Latency with its deviation, and throughput over batch size: figures 8 to 10 of the study."""

from __future__ import annotations

from wattwerk.bench.labels import Names
from wattwerk.bench.report.marks import Groups, bars_of, curves_of, why_none
from wattwerk.bench.report.section import Section
from wattwerk.language import t
from wattwerk.records import Record


def latency(groups: Groups, names: Names) -> Section:
    """Return one chart of mean latencies for each model, at its smallest batch size."""
    charts = []
    for model, records in groups.items():
        batch = min((r.setup.batch or 1 for r in records if r.value("latency_mean_s") is not None), default=None)
        mine = [r for r in records if r.setup.batch == batch]
        title = t("{model} · batch {batch}", model=model, batch=batch)
        chart = bars_of(title, mine, names, "latency_mean_s", t("latency of one iteration"), bounds=deviation)
        charts += [chart] if chart else []
    return Section(
        "latency",
        t("Latency by model and platform"),
        t(
            "Mean time of one iteration at the smallest batch size; the error bar is one standard deviation to each "
            "side."
        ),
        tuple(charts),
        why_none(groups, "latency_mean_s"),
    )


def deviation(record: Record) -> tuple[float | None, float | None]:
    """Return the ends of an error bar of one standard deviation to each side of the mean."""
    mean, std = record.value("latency_mean_s"), record.value("latency_std_s")
    return (None, None) if mean is None or std is None else (max(0.0, mean - std), mean + std)


def throughput(groups: Groups, names: Names) -> Section:
    """Return one chart of samples per second over batch size for each model."""
    return Section(
        "throughput",
        t("Throughput over batch size"),
        t("Samples per second in the energy windows, where the model runs without a pause."),
        tuple(curves_of(groups, names, "throughput_per_s", t("samples per second"))),
        why_none(groups, "throughput_per_s"),
    )
