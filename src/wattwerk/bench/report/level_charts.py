"""Levels of optimisation as steps, and systems side by side: figures 18 and 19 of the study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from wattwerk.bench.labels import (
    Names,
    lane_order,
    on_accelerator,
    processing_of,
    ranked,
    start_of,
    streams_of,
    times,
)
from wattwerk.bench.report.bars import Bar, bar_chart
from wattwerk.bench.report.base import colour_of
from wattwerk.bench.report.gain_charts import place_of, speed_up
from wattwerk.bench.report.marks import (
    BarGroups,
    Groups,
    bar_alt,
    bar_of,
    one_each,
    significance_words,
    smallest_batch,
)
from wattwerk.bench.report.published import Published, beside, published_bar
from wattwerk.bench.report.section import Chart, Section
from wattwerk.bench.report.speed_charts import deviation
from wattwerk.language import t
from wattwerk.metering.statistics import Ratio
from wattwerk.records import Record
from wattwerk.units import format_value

_MEDIAN: Final = "latency_p50_s"
_MEAN: Final = "latency_mean_s"
#: steps of one chart: the start and the fastest ones
_MOST_STEPS: Final = 10


# --- levels of optimisation -------------------------------------------------------------------------------------------


def levels(groups: Groups, names: Names, default: Record | None, published: Sequence[Published] = ()) -> Section | None:
    """Return what faster runtimes and lower precisions bring, from the plainest configuration of a device upwards.

    None where no model was run in two ways on one device.

    Args:
        groups: Model -> its records.
        names: What they are called.
        default: The configuration that gains are counted from.
        published: Values of a study to lay beside.
    """
    charts = []
    for model, records in groups.items():
        plain = [record for record in ranked(records) if streams_of(record) == 1]
        devices = {place_of(record): [r for r in plain if place_of(r) == place_of(record)] for record in plain}
        for device, mine in sorted(devices.items()):
            # the study's levels are those of an accelerator
            laid = published if len(devices) == 1 or on_accelerator(mine[0]) else ()
            chart = _ladder(model, mine, names, default, laid, device=" · ".join(device) if len(devices) > 1 else "")
            charts += [chart] if chart else []
    if not charts:
        return None
    return Section(
        "levels",
        t("Levels of optimisation"),
        t(
            "Configurations of a device at one batch size, each bar faster than the one above; of more than ten the "
            "plainest one and the nine fastest. The dotted line is "
            "the plainest configuration, the start."
        ),
        tuple(charts),
    )


def _ladder(
    model: str,
    records: Sequence[Record],
    names: Names,
    default: Record | None,
    published: Sequence[Published],
    *,
    device: str,
) -> Chart | None:
    start = start_of(records, default)
    if start is None:
        return None
    mine = one_each([record for record in records if record.setup.batch == start.setup.batch], names)
    gains = [(record, gain) for record in mine if record.id != start.id and (gain := speed_up(start, record))]
    if not gains:
        return None
    fastest = sorted(gains, key=lambda step: step[1].value)[-(_MOST_STEPS - 1) :]
    rows = sorted([(start, Ratio(1.0)), *fastest], key=lambda step: step[1].value)
    groups: BarGroups = []
    for (record, gain), before in zip(rows, [None, *(gain for _, gain in rows)][:-1], strict=True):
        bar = _step(record, gain, before, names, is_start=record.id == start.id)
        if groups and groups[-1][0] == names.lane(record):
            groups[-1][1].append(bar)
        else:
            groups.append((names.lane(record), [bar]))
    groups += _published_levels(published, model)
    title = " · ".join(filter(None, (model, device, t("batch {batch}", batch=start.setup.batch))))
    axis = t("times faster")
    return Chart(title, bar_chart(groups, "x_ratio", title=axis, reference=1.0, unit="×"), bar_alt(groups, axis))


def _step(record: Record, gain: Ratio, before: Ratio | None, names: Names, *, is_start: bool) -> Bar:
    """Return one level: how many times faster than the start, with its latency."""
    time = format_value(_MEDIAN, record.value(_MEDIAN))
    lines = [names.configuration(record), t("median {time}", time=time)]
    if is_start:
        lines.append(t("the start"))
    else:
        lines.append(_against_start(gain))
    if before is not None:
        lines.append(t("{times} the step above", times=times(gain.value / before.value)))
    return Bar(
        label=record.setup.precision,
        value=gain.value,
        low=gain.low,
        high=gain.high,
        colour=colour_of(record.setup.precision),
        text=time if is_start else f"{times(gain.value)}, {time}",
        hover=lines,
    )


def _against_start(gain: Ratio) -> str:
    """Return how much less or more time than the start a step takes."""
    share, told = format_value("share_ratio", abs(1 - 1 / gain.value)), significance_words(gain)
    if gain.value < 1:
        return t("{share} more time than the start, {significance}", share=share, significance=told)
    return t("{share} less time than the start, {significance}", share=share, significance=told)


def _published_levels(published: Sequence[Published], model: str) -> BarGroups:
    """Return published reductions of latency as what they are as factors."""
    groups: BarGroups = []
    for value in beside(published, "latency_reduction", model):
        if "FP16" not in value.condition:
            continue  # that of two systems is no level of optimisation
        factor = msgspec.structs.replace(value, low=1 / (1 - value.low), high=1 / (1 - value.high))
        name = f"{value.platform}, {value.condition}"
        groups.append((name, [published_bar(factor, "x_ratio", text=times(factor.value))]))
    return groups


# --- systems ----------------------------------------------------------------------------------------------------------


def systems(groups: Groups, published: Sequence[Published] = ()) -> Section | None:
    """Return latencies on several operating systems of the same hardware; None where all records are of one system.

    Args:
        groups: Model -> its records.
        published: Values of a study to lay beside.
    """
    everything = [record for records in groups.values() for record in records]
    if len({record.platform.os for record in everything}) < 2:
        return None
    names = Names(everything, without=("machine",))
    charts = [
        chart
        for model, records in groups.items()
        for batch in [smallest_batch(records, _MEAN)[0]]
        if (chart := _systems_chart(model, batch, [r for r in records if r.value(_MEAN)], names))
    ]
    told = t("Mean latency of the same configuration on the same hardware, at the smallest batch size.")
    ranges = [value for value in published if "Windows" in value.condition]
    if ranges and charts:
        low, high = format_value("x_ratio", ranges[0].low), format_value("x_ratio", ranges[0].high)
        told += " " + t(
            "Published by the study, not measured here: {low} to {high} less on Linux than on Windows ({platform}).",
            low=low,
            high=high,
            platform=ranges[0].platform,
        )
    return Section(
        "systems",
        t("Operating systems"),
        told,
        tuple(charts),
        t(
            "There are records of several operating systems, but none of the same configuration on the same hardware "
            "(processor and accelerators), so nothing can be said of the systems."
        ),
    )


def _systems_chart(model: str, batch: int | None, records: Sequence[Record], names: Names) -> Chart | None:
    """Return the configurations that were run on at least two systems, each with a bar for every system."""
    found: dict[tuple[str, ...], dict[str, Record]] = {}
    for record in sorted(ranked(records), key=lambda record: record.finished_at):
        if (record.setup.batch or 1) == batch:
            key = (names.lane(record), record.setup.precision, processing_of(record), *_hardware(record))
            found.setdefault(key, {})[record.platform.os] = record
    pairs = {key: mine for key, mine in found.items() if len(mine) > 1}
    if not pairs:
        return None
    groups: BarGroups = [
        (
            f"{key[0]} {key[1]}",
            [bar_of(mine[os], _MEAN, names, deviation, label=_short_name(os)) for os in sorted(mine)],
        )
        for key, mine in sorted(pairs.items(), key=lambda item: lane_order(*item[0][:2]))
    ]
    title = t("{model} · batch {batch}", model=model, batch=batch)
    axis = t("latency of one iteration")
    return Chart(title, bar_chart(groups, _MEAN, title=axis), bar_alt(groups, axis))


def _hardware(record: Record) -> tuple[str, ...]:
    return record.platform.cpu, *(accelerator.name for accelerator in record.platform.accelerators)


def _short_name(system: str) -> str:
    """Return the name of a system with the first part of its version: ``Ubuntu 24.04``."""
    words = system.replace("LTS", "").split()
    return " ".join(words[:2])[:16]
