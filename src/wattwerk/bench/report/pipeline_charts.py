"""What the phases of a pipeline take, by platform and way of processing, and over batch sizes: figures 16 and 17."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wattwerk.bench.labels import (
    Names,
    by_model,
    lane_order,
    precision_order,
    processing_of,
    processing_words,
    provenance_words,
)
from wattwerk.bench.pipeline import PHASES
from wattwerk.bench.report.bars import Bar, Tick
from wattwerk.bench.report.marks import one_each
from wattwerk.bench.report.published import Published, beside, published_bar
from wattwerk.bench.report.section import Chart, Section
from wattwerk.bench.report.stacks import Part, Stack, stack_chart
from wattwerk.language import t
from wattwerk.records import Record, Status
from wattwerk.units import format_value

_ORDER: Final = ("sequential", "vectorised", "overlapped")
_COLOURS: Final = {"preprocess": "@muted", "inference": "@accent", "postprocess": "@warn"}
_Rows = list[tuple[str, list[Stack]]]


def phase_words(phase: str) -> str:
    """Return what a phase is called."""
    words = {
        "preprocess": t("pre-processing"),
        "inference": t("inference"),
        "postprocess": t("post-processing"),
    }
    return words[phase]


def pipelines(records: Sequence[Record], published: Sequence[Published] = ()) -> Section | None:
    """Return what the phases take; None where no record is one of a pipeline.

    Args:
        records: Records of all kinds of runs that ended well or invalid.
        published: Values of a study to lay beside.
    """
    if not any(processing_of(record) for record in records):
        return None
    known = [record for record in records if record.value("inference_share_ratio") is not None]
    names = Names(known, without=("processing",))
    charts = [chart for model, mine in by_model(known).items() for chart in _charts(model, mine, names, published)]
    return Section(
        "pipelines",
        t("From photos to results"),
        t(
            "Each phase run by itself, one after the other in the bar. Diamond: the whole pipeline, which takes less "
            "than the sum where phases overlap. The text behind a bar is the whole and its bottleneck, the phase that "
            "takes the most."
        ),
        tuple(charts),
        t("No record has times of the phases."),
    )


def _charts(model: str, records: Sequence[Record], names: Names, published: Sequence[Published]) -> list[Chart]:
    """Return the phases at the smallest and the largest batch size, and over all of them for each processing."""
    batches = sorted({record.setup.batch or 1 for record in records})
    ends = [batches[0], *batches[-1:]] if len(batches) > 1 else batches
    charts = [_at_batch(model, batch, records, names, published) for batch in ends]
    if len(batches) > 1:
        for processing in sorted({processing_of(record) for record in records}, key=_place):
            charts.append(_over_batch(model, processing, [r for r in records if processing_of(r) == processing], names))
    return charts


def _place(processing: str) -> int:
    return _ORDER.index(processing) if processing in _ORDER else len(_ORDER)


def _at_batch(model: str, batch: int, records: Sequence[Record], names: Names, published: Sequence[Published]) -> Chart:
    mine = [
        each
        for processing in sorted({processing_of(record) for record in records}, key=_place)
        for each in one_each(
            [r for r in records if (r.setup.batch or 1) == batch and processing_of(r) == processing], names
        )
    ]
    several = len({record.setup.precision for record in mine}) > 1
    rows: _Rows = []
    ticks = []
    for lane in sorted({names.lane(record) for record in mine}, key=lane_order):
        group = [record for record in mine if names.lane(record) == lane]
        group.sort(key=lambda record: (precision_order(record.setup.precision), _place(processing_of(record))))
        labels = [_label(record, several) for record in group]
        rows.append((lane, [_stack(record, label, names, 1) for record, label in zip(group, labels, strict=True)]))
        ticks += [_whole(record, lane, label, 1) for record, label in zip(group, labels, strict=True)]
    for value in beside(published, "end_to_end_latency", model, batch):
        rows.append((value.platform, [Stack(published_bar(value, "pipeline_p50_s"))]))
    title = t("{model} · batch {batch}", model=model, batch=batch)
    axis = t("time of a batch")
    return Chart(title, stack_chart(rows, "pipeline_p50_s", title=axis, ticks=ticks), _alt(rows, axis))


def _label(record: Record, several: bool) -> str:
    words = processing_words(processing_of(record))
    return f"{words} {record.setup.precision}" if several else words


def _over_batch(model: str, processing: str, records: Sequence[Record], names: Names) -> Chart:
    """Return the time of one photo over batch sizes: what a larger batch makes cheaper, and what it does not."""
    rows: _Rows = []
    ticks = []
    pairs = {(names.lane(record), record.setup.precision) for record in records}
    for lane, precision in sorted(pairs, key=lambda pair: lane_order(*pair)):
        group = f"{lane} {precision}"
        mine: dict[int, Record] = {}
        for record in sorted(records, key=lambda record: (record.status is Status.OK, record.finished_at)):
            if (names.lane(record), record.setup.precision) == (lane, precision):
                mine[record.setup.batch or 1] = record
        for batch, record in sorted(mine.items()):
            label = t("batch {batch}", batch=batch)
            if not rows or rows[-1][0] != group:
                rows.append((group, []))
            rows[-1][1].append(_stack(record, label, names, batch))
            ticks.append(_whole(record, group, label, batch))
    title = t("{model} · {processing} · over batch size", model=model, processing=processing_words(processing))
    axis = t("time for one photo")
    return Chart(title, stack_chart(rows, "pipeline_p50_s", title=axis, ticks=ticks), _alt(rows, axis))


def _stack(record: Record, label: str, names: Names, divisor: int) -> Stack:
    """Return the three phases of a record as a bar, divided by the number of photos where it is of one."""
    parts = [
        Part(
            phase_words(phase),
            (record.value(f"{phase}_p50_s") or 0.0) / divisor,
            _COLOURS[phase],
            _phase_hover(record, phase, names),
        )
        for phase in PHASES
    ]
    whole = (record.value("pipeline_p50_s") or 0.0) / divisor
    total = sum(part.value for part in parts)
    worst = bottleneck(record)
    text = t(
        "{time}, {phase} {share}",
        time=format_value("pipeline_p50_s", whole),
        phase=phase_words(worst),
        share=format_value("share_ratio", record.value(f"{worst}_share_ratio"), 2),
    )
    invalid = record.status is Status.INVALID
    bar = Bar(
        label=label,
        value=total,
        high=max(total, whole),
        colour="@accent",
        text=t("{value} invalid", value=text) if invalid else text,
        faded=invalid,
    )
    return Stack(bar, parts)


def bottleneck(record: Record) -> str:
    """Return the phase of a pipeline that takes the most."""
    return max(PHASES, key=lambda phase: record.value(f"{phase}_share_ratio") or 0.0)


def _phase_hover(record: Record, phase: str, names: Names) -> list[str]:
    """Return time, share and energy of a phase, as far as the record has them."""
    figure = f"{phase}_p50_s"
    lines = [
        f"{names.configuration(record)}, {processing_words(processing_of(record))}",
        t(
            "{phase}: {time} a batch, {share}",
            phase=phase_words(phase),
            time=format_value(figure, record.value(figure)),
            share=format_value("share_ratio", record.value(f"{phase}_share_ratio")),
        ),
    ]
    energy = next((e for e in ("wall", "node", "board", "system") if record.value(_energy(phase, e)) is not None), "")
    if energy:
        name = _energy(phase, energy)
        words = {"value": format_value(name, record.value(name))}
        words["provenance"] = provenance_words(record.figures[name].provenance)
        lines.append(t("{value} for one photo ({provenance})", **words))
    return lines


def _energy(phase: str, prefix: str) -> str:
    return f"{phase}_{prefix}_energy_per_inference_j"


def _whole(record: Record, group: str, label: str, divisor: int) -> Tick:
    value = (record.value("pipeline_p50_s") or 0.0) / divisor
    return Tick((group, label), value, t("the whole pipeline"), "diamond", "x_s")


def _alt(rows: _Rows, axis: str) -> str:
    """Say in a sentence what a chart of phases shows."""
    told = [
        t("{name} {label}: {text}", name=name, label=stack.bar.label, text=stack.bar.text)
        for name, stacks in rows
        for stack in stacks
    ]
    return t("Bars made of phases, {axis}. {rows}.", axis=axis, rows="; ".join(told))
