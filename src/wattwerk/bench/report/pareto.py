"""Accuracy against energy: which precisions and runtimes are worth their energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wattwerk.bench.labels import EnergyBasis, Names, common_basis, energy_on, provenance_words, ranked
from wattwerk.bench.report.base import colour_of
from wattwerk.bench.report.marks import Groups, lane_symbols
from wattwerk.bench.report.scatter import Axis, Mark, front_chart
from wattwerk.bench.report.section import Chart, Section
from wattwerk.language import t
from wattwerk.records import Record
from wattwerk.units import format_value

#: in this order: what is measured against labels says more than agreement with another precision
ACCURACIES: Final = ("top1_accuracy_ratio", "map_ratio", "miou_ratio", "agreement_ratio")


def accuracy_words(figure: str) -> str:
    """Return what a figure of accuracy is called."""
    words = {
        "top1_accuracy_ratio": t("top-1 accuracy"),
        "map_ratio": t("mean average precision (mAP)"),
        "miou_ratio": t("mean intersection over union (mIoU)"),
        "agreement_ratio": t("agreement with the fp32 outputs"),
    }
    return words[figure]


def accuracy_against_energy(groups: Groups, names: Names) -> Section | None:
    """Return one chart for each model that has accuracies; None where none has any.

    Args:
        groups: Model -> its records.
        names: What they are called.
    """
    known = {
        model: (figure, [r for r in ranked(records) if r.value(figure) is not None])
        for model, records in groups.items()
        for figure in [accuracy_of(records)]
        if figure
    }
    if not known:
        return None
    symbols = lane_symbols([record for records in groups.values() for record in records], names)
    charts = [_chart(model, figure, records, names, symbols) for model, (figure, records) in known.items()]
    return Section(
        "accuracy-energy",
        t("Accuracy against energy"),
        t(
            "Each point is a configuration; further left needs less energy, further up is more accurate. The key "
            "names those on the front: no other is better in both. Each configuration stands at the batch size where "
            "it needs the least energy. Open markers: the energy is modelled, with its bounds."
        ),
        tuple(chart for chart in charts if chart),
        t("There are accuracies, but no energies to lay them against."),
    )


def accuracy_of(records: Sequence[Record]) -> str | None:
    """Return the figure of accuracy that a model's records have."""
    return next((name for name in ACCURACIES if any(record.value(name) is not None for record in records)), None)


def _chart(model: str, figure: str, records: Sequence[Record], names: Names, symbols: dict[str, str]) -> Chart | None:
    basis = common_basis(records) if records else None
    if basis is None:
        return None
    least = _least(records, basis, names)
    best = {record.id for record in front(least, figure, basis)}
    marks = [_mark(record, figure, basis, names, symbols, chosen=record.id in best) for record in least]
    spec = front_chart(
        marks,
        Axis(basis.gross, t("energy per inference")),
        Axis(figure, accuracy_words(figure)),
    )
    return Chart(f"{model} · {accuracy_words(figure)} · {basis.words}", spec, _alt(marks, figure))


def _least(records: Sequence[Record], basis: EnergyBasis, names: Names) -> list[Record]:
    """Return the record that needs the least energy, for each lane and precision."""
    found: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=lambda record: _energy(record, basis)):
        if energy_on(record, basis):
            found.setdefault((names.lane(record), record.setup.precision), record)
    return list(found.values())


def _energy(record: Record, basis: EnergyBasis) -> float:
    value = energy_on(record, basis)
    return value.value if value else 0.0


def front(records: Sequence[Record], figure: str, basis: EnergyBasis) -> list[Record]:
    """Return the records that no other beats in both: less energy, and more accuracy.

    Args:
        records: Of one model, with both values.
        figure: The accuracy.
        basis: The energy.
    """
    best: list[Record] = []
    for record in sorted(records, key=lambda record: (_energy(record, basis), -(record.value(figure) or 0.0))):
        if not best or (record.value(figure) or 0.0) > (best[-1].value(figure) or 0.0):
            best.append(record)
    return best


def _mark(
    record: Record, figure: str, basis: EnergyBasis, names: Names, symbols: dict[str, str], *, chosen: bool
) -> Mark:
    energy, accuracy = energy_on(record, basis), record.value(figure) or 0.0
    assert energy is not None
    told = f"{format_value(basis.gross, energy.value)}, {format_value(figure, accuracy)}"
    configuration = names.configuration(record)
    return Mark(
        name=f"{told}: {configuration}",
        x=energy.value,
        y=accuracy,
        x_low=energy.low,
        x_high=energy.high,
        y_low=record.figures[figure].low,
        y_high=record.figures[figure].high,
        colour=colour_of(record.setup.precision),
        symbol=symbols[names.lane(record)],
        hover=[configuration, told, provenance_words(record.figures[basis.gross].provenance)],
        modelled=basis.modelled,
        chosen=chosen,
    )


def _alt(marks: Sequence[Mark], figure: str) -> str:
    best = "; ".join(mark.name for mark in marks if mark.chosen)
    return t(
        "{accuracy} against energy: points: {count}. On the front: {best}.",
        accuracy=accuracy_words(figure),
        count=len(marks),
        best=best,
    )
