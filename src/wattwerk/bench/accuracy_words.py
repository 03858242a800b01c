"""Accuracy in words: what each precision gets right, and what it gives for that in time and energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wattwerk.bench.labels import EnergyBasis, Names, energy_on, precision_order, processing_of, times
from wattwerk.language import localised, t
from wattwerk.records import Figure, Record
from wattwerk.units import format_value

#: The figures that stand for accuracy in a table, and their names there; a record has one of them.
MAIN: Final = {
    "top1_accuracy_ratio": "top-1",
    "map_ratio": "mAP",
    "miou_ratio": "mIoU",
    "agreement_ratio": "agreement",
}
_EQUAL_RATIO: Final = 0.0005  # half of the last digit that is told


def main_accuracy(record: Record) -> tuple[str, Figure] | None:
    """Return name and figure of a record's accuracy; None where it was not asked for."""
    return next(((name, record.figures[name]) for name in MAIN if name in record.figures), None)


def accuracy_sentences(records: Sequence[Record], names: Names, basis: EnergyBasis | None) -> list[str]:
    """Return what the records of one model say of accuracy: the most accurate, then each other against fp32.

    Args:
        records: Those of one model that may be ranked.
        names: What they are called.
        basis: The energy that they are compared by.
    """
    known = [
        record for record in records if (found := main_accuracy(record)) is not None and found[1].value is not None
    ]
    sentences = []
    for name in MAIN:
        group = [record for record in known if name in record.figures]
        if group:
            sentences.append(_first(name, group, names))
            sentences += _against_fp32(name, group, names, basis)
    return sentences


def _value(record: Record, name: str) -> float:
    return record.value(name) or 0.0


def _first(name: str, records: Sequence[Record], names: Names) -> str:
    best = max(records, key=lambda record: (_value(record, name), -precision_order(record.setup.precision)))
    count = format_value("accuracy_images_count", best.value("accuracy_images_count"))
    figure = best.figures[name]
    value = format_value(name, figure.value)
    if name == "agreement_ratio":
        others = [record for record in records if record.setup.precision != "fp32"]
        if not others:
            return t("There is nothing to compare with fp32, and the photos have no labels.")
        worst = min(others, key=lambda record: _value(record, name))
        return t(
            "Agreement with fp32 over {count} photos without labels: {configuration} {value} at least.",
            count=count,
            configuration=names.configuration(worst),
            value=format_value(name, worst.value(name)),
        )
    bounds = "" if figure.low is None else f" ({format_value(name, figure.low)} … {format_value(name, figure.high)})"
    return t(
        "Most accurate: {configuration}: {metric} {value}{bounds} over {count} photos.",
        configuration=names.configuration(best),
        metric=MAIN[name],
        value=value,
        bounds=bounds,
        count=count,
    )


def _against_fp32(name: str, records: Sequence[Record], names: Names, basis: EnergyBasis | None) -> list[str]:
    """Return a sentence for each lower precision of each runtime: its fastest record against its like in fp32."""
    if name == "agreement_ratio":
        return []
    sentences = []
    lower = {(r.setup.runtime, r.setup.precision) for r in records if r.setup.precision != "fp32"}
    for runtime, precision in sorted(lower):
        pairs = [
            (plain, other)
            for plain in records
            for other in records
            if other.setup.runtime == runtime and other.setup.precision == precision
            if plain.setup.precision == "fp32" and _alike(plain) == _alike(other)
        ]
        if pairs:
            plain, other = max(pairs, key=lambda pair: pair[1].value("throughput_per_s") or 0.0)
            sentences.append(_trade(name, plain, other, names, basis))
    return sentences


def _alike(record: Record) -> tuple[object, ...]:
    setup = record.setup
    options = sorted((key, str(value)) for key, value in setup.options.items())
    return (
        setup.runtime,
        setup.batch,
        setup.device,
        setup.threads,
        options,
        processing_of(record),
        record.platform.label,
    )


def _trade(name: str, plain: Record, other: Record, names: Names, basis: EnergyBasis | None) -> str:
    """Return what a lower precision costs in accuracy and brings in time and energy."""
    change = _value(other, name) - _value(plain, name)
    if abs(change) < _EQUAL_RATIO:
        points = t("as accurate as fp32")
    else:
        points = t("{points} points against fp32", points=localised(f"{100 * change:+.1f}"))
    speed = times(_ratio(other.value("throughput_per_s"), plain.value("throughput_per_s")))
    told = t(
        "{configuration}: {metric} {value}, {points}, with {speed} the throughput",
        configuration=names.configuration(other),
        metric=MAIN[name],
        value=format_value(name, other.value(name)),
        points=points,
        speed=speed,
    )
    energies = [energy_on(record, basis) for record in (other, plain)] if basis else []
    if len(energies) == 2 and energies[0] and energies[1]:
        share = times(_ratio(energies[0].value, energies[1].value))
        return t("{told} and {share} the energy.", told=told, share=share)
    return f"{told}."


def _ratio(value: float | None, other: float | None) -> float:
    return (value or 0.0) / (other or 1e-12)
