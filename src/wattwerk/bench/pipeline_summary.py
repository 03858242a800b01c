"""A pipeline in words: which phase takes the most, what its end would bring, what another way of processing brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wattwerk.bench.labels import EnergyBasis, Names, estimate, processing_of, processing_words, times
from wattwerk.bench.pipeline import PHASES
from wattwerk.language import t
from wattwerk.metering.statistics import ratio_of
from wattwerk.records import Record
from wattwerk.units import format_value

_ORDER: Final = ("sequential", "vectorised", "overlapped")
#: What can be written better without another model.
_AROUND: Final = ("preprocess", "postprocess")


def pipeline_sentences(records: Sequence[Record], names: Names, basis: EnergyBasis | None) -> list[str]:
    """Return what the records of one model say of its pipeline; nothing where there is none.

    Args:
        records: Those of one model that may be ranked.
        names: What they are called.
        basis: The energy that they are compared by.
    """
    known = [record for record in records if _share_of(record, "inference") is not None]
    sentences = [
        _bottleneck(min(mine, key=lambda record: _time(record, "pipeline") / (record.setup.batch or 1)), names, basis)
        for processing in _ORDER
        if (mine := [record for record in known if processing_of(record) == processing])
    ]
    return sentences + _gains(known)


def _bottleneck(record: Record, names: Names, basis: EnergyBasis | None) -> str:
    """Name the phase that takes the most; without it only the others' time would be left (Amdahl's law)."""
    shares = {name: _share_of(record, name) or 0.0 for name in PHASES}
    worst = max(PHASES, key=lambda name: shares[name])
    told = ", ".join(f"{phase_words(name)} {_percent(shares[name])}" for name in PHASES)
    whole = format_value("pipeline_p50_s", _time(record, "pipeline"))
    rest = sum(_time(record, name) for name in PHASES if name != worst)
    overlapped = processing_of(record) == "overlapped"
    energy = _energy_words(record, worst, basis)
    if worst == "inference":
        without = t("processing that took no time would bring {gain} at most", gain=times(_amdahl(1 - shares[worst])))
    else:
        gain = times(_amdahl(shares[worst]))
        without = t("without it a batch would take {rest}, {gain} faster", rest=format_value("rest_s", rest), gain=gain)
    head = t("Bottleneck of {what}: {phase}", what=names.configuration(record), phase=phase_words(worst)) + energy
    where = t("{time} from result to result", time=whole) if overlapped else t("{time} a batch", time=whole)
    return t("{head} ({where}; each alone: {shares}); {without}.", head=head, where=where, shares=told, without=without)


def phase_words(phase: str) -> str:
    """Return what a phase of a pipeline is called."""
    return {
        "preprocess": t("pre-processing"),
        "inference": t("the inference"),
        "postprocess": t("post-processing"),
    }[phase]


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _amdahl(share: float) -> float:
    """Return how many times faster the whole is without a part of it."""
    return 1 / max(1 - share, 1e-9)


def _energy_words(record: Record, phase: str, basis: EnergyBasis | None) -> str:
    """Return what share of the energy of all phases one has."""
    if basis is None:
        return ""
    values = {name: record.value(f"{name}_{basis.gross}") for name in PHASES}
    known = [value for value in values.values() if value is not None]
    if len(known) < len(PHASES) or not sum(known):
        return ""
    return t(" with {share} of the energy", share=_percent((values[phase] or 0.0) / sum(known)))


def _gains(records: Sequence[Record]) -> list[str]:
    """Return what each other way of processing brings against the sequential one, where that is most."""
    sentences = []
    for processing in _ORDER[1:]:
        pairs = [
            (plain, other)
            for plain in records
            for other in records
            if processing_of(plain) == "sequential" and processing_of(other) == processing and _alike(plain, other)
        ]
        if pairs:
            best = max(pairs, key=lambda pair: _ratio(pair[0], pair[1], "pipeline"))
            sentences.append(_gain(*best, processing))
    return sentences


def _alike(first: Record, second: Record) -> bool:
    def key(record: Record) -> tuple[object, ...]:
        its = record.setup
        options = sorted((name, str(value)) for name, value in its.options.items())
        return its.runtime, its.precision, its.batch, its.device, its.threads, options, record.platform.label

    return key(first) == key(second)


def _gain(plain: Record, other: Record, processing: str) -> str:
    setup = other.setup
    where = t("{what} batch {batch}", what=f"{setup.runtime} {setup.precision}", batch=setup.batch)
    whole = _ratio(plain, other, "pipeline")
    before, after = estimate(plain, "pipeline_p50_s"), estimate(other, "pipeline_p50_s")
    if before is None or after is None:
        return ""
    if ratio_of(before, after).significant is False:
        told = t("no significant difference")
    elif whole >= 1:
        told = t("{gain} as fast from photos to results", gain=times(whole))
    else:
        told = t("{gain} slower", gain=times(1 / whole))
    around = sum(_time(plain, name) for name in _AROUND) / sum(_time(other, name) for name in _AROUND)
    return t(
        "Processing {way} against sequential ({where}): {told}; pre- and post-processing alone {gain}.",
        way=processing_words(processing),
        where=where,
        told=told,
        gain=times(around),
    )


def _ratio(plain: Record, other: Record, name: str) -> float:
    return _time(plain, name) / _time(other, name)


def _time(record: Record, name: str) -> float:
    return record.value(f"{name}_p50_s") or 1e-12


def _share_of(record: Record, name: str) -> float | None:
    return record.value(f"{name}_share_ratio")
