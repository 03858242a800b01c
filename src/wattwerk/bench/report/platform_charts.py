"""Mean power of system and accelerator, and load of the processor: figures 13 and 15 of the study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from wattwerk.bench.labels import Names, is_modelled, lane_order, on_accelerator
from wattwerk.bench.report.bars import Bar, bar_chart
from wattwerk.bench.report.base import colour_of
from wattwerk.bench.report.marks import BarGroups, Groups, bar_alt, bars_of, one_each, smallest_batch, why_none
from wattwerk.bench.report.published import FIVE_MODELS, Published, beside, plain_name, published_bar
from wattwerk.bench.report.section import Chart, Section
from wattwerk.language import t
from wattwerk.records import Record, Status
from wattwerk.units import format_value

_SYSTEM: Final = "system_power_w"
_DELTA: Final = "cpu_load_delta_ratio"


def _device_power(record: Record) -> str:
    """Return the power of what ran the model: the accelerator's, or the processor's."""
    return "gpu_power_w" if on_accelerator(record) else "cpu_power_w"


# --- mean power -------------------------------------------------------------------------------------------------------


def mean_power(groups: Groups, names: Names, published: Sequence[Published] = ()) -> Section | None:
    """Return the mean power over all models, of the system and of what ran them, for each lane and precision.

    Args:
        groups: Model -> its records.
        names: What they are called.
        published: Values of a study to lay beside.
    """
    rows = _rows(groups, names)
    laid = _published_power(published) if FIVE_MODELS & set(map(plain_name, groups)) else []
    if not rows or (len(groups) < 2 and len({lane for lane, _ in rows}) < 2 and not laid):
        return None  # one bar, which the charts of each model's power show as well
    common = _common(rows)
    if not common:
        return None
    bars: dict[str, list[Bar]] = {}
    for (lane, precision), mine in sorted(rows.items(), key=lambda item: lane_order(*item[0])):
        chosen = [mine[model] for model in common if model in mine]
        bars.setdefault(lane, []).extend(_pair(precision, chosen))
    rows_of_bars, axis = list(bars.items()) + laid, t("mean power")
    title = t("Mean over {models}", models=", ".join(common))
    told = t(
        "At the smallest batch size, mean over the models that all of these configurations ran. Upper bar: the "
        "system. Lower, pale bar: what ran the model, which lies inside the system."
    )
    if laid:
        told += " " + t("Published values are means over five models at batch 1.")
    chart = Chart(title, bar_chart(rows_of_bars, _SYSTEM, title=axis), bar_alt(rows_of_bars, axis))
    return Section(
        "mean-power",
        t("Mean power of system and accelerator"),
        told,
        (chart,),
    )


def _rows(groups: Groups, names: Names) -> dict[tuple[str, str], dict[str, Record]]:
    """Return lane and precision -> model -> the record at the model's smallest batch size."""
    rows: dict[tuple[str, str], dict[str, Record]] = {}
    for model, records in groups.items():
        _, mine = smallest_batch([r for r in records if r.status is Status.OK], _SYSTEM)
        for record in one_each(mine, names):
            rows.setdefault((names.lane(record), record.setup.precision), {})[model] = record
    return rows


def _common(rows: dict[tuple[str, str], dict[str, Record]]) -> list[str]:
    """Return the models that all have: means over different models could not be compared."""
    return sorted(set.intersection(*(set(mine) for mine in rows.values())))


def _pair(precision: str, records: Sequence[Record]) -> list[Bar]:
    system = _mean_bar(precision, records, lambda _: _SYSTEM)
    if any(record.value(_device_power(record)) is None for record in records):
        return [system]
    device = _mean_bar(precision, records, _device_power)
    which = t("accelerator") if on_accelerator(records[0]) else t("processor")
    text = f"{device.text} {which}"
    return [system, msgspec.structs.replace(device, secondary=True, faded=True, text=text)]


def _mean_bar(precision: str, records: Sequence[Record], name: Callable[[Record], str]) -> Bar:
    """Return the mean of a figure; its bounds are the means of the bounds, as if all erred to the same side."""
    figures = [record.figures[name(record)] for record in records]
    ends = [(figure.low, figure.high) for figure in figures]
    bounded = all(low is not None and high is not None for low, high in ends)
    value = _mean(figure.value for figure in figures)
    models = [
        f"{record.subject.name}: {format_value(_SYSTEM, figure.value)}"
        for record, figure in zip(records, figures, strict=True)
    ]
    return Bar(
        label=precision,
        value=value,
        low=_mean(low for low, _ in ends) if bounded else None,
        high=_mean(high for _, high in ends) if bounded else None,
        colour=colour_of(precision),
        text=format_value(_SYSTEM, value),
        hover=models,
        modelled=any(is_modelled(figure) for figure in figures),
    )


def _mean(values: object) -> float:
    known = [float(value) for value in values]  # type: ignore[attr-defined]
    return sum(known) / len(known)


def _published_power(published: Sequence[Published]) -> BarGroups:
    groups: BarGroups = []
    accelerators = {value.platform: value for value in beside(published, "accelerator_power")}
    for value in beside(published, "system_power"):
        bars = [published_bar(value, _SYSTEM)]
        if inner := accelerators.get(value.platform):
            which = t("processor") if value.platform.startswith("Intel") else t("accelerator")
            words = f"{format_value(_SYSTEM, inner.value)} {which}"
            bars.append(msgspec.structs.replace(published_bar(inner, _SYSTEM, text=words), secondary=True))
        groups.append((value.platform, bars))
    return groups


# --- load of the processor --------------------------------------------------------------------------------------------


def cpu_load(groups: Groups, names: Names, published: Sequence[Published] = ()) -> Section:
    """Return how much busier the processor is while a model runs than in the idle machine.

    Args:
        groups: Model -> its records.
        names: What they are called.
        published: Values of a study to lay beside.
    """
    charts = []
    for model, records in groups.items():
        batch, mine = smallest_batch(records, _DELTA)
        if not mine:
            continue
        title = t("{model} · batch {batch}", model=model, batch=batch)
        laid = [
            (value.platform, [published_bar(value, _DELTA)])
            for value in beside(published, "cpu_load_delta", model, batch)
        ]
        chart = bars_of(title, mine, names, _DELTA, t("load above idle"), beside=laid)
        charts += [chart] if chart else []
    return Section(
        "cpu-load",
        t("Load of the processor"),
        t(
            "Busy share of all logical processors while the model runs, minus that of the idle machine, in percentage "
            "points, at the smallest batch size. What an accelerator leaves to the processor shows here."
        ),
        tuple(charts),
        why_none(groups, _DELTA),
    )
