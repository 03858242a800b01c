"""The result of a sweep in words: the best configuration for latency, throughput and energy, and what it gains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from wattwerk.bench.accuracy_words import accuracy_sentences
from wattwerk.bench.labels import (
    EnergyBasis,
    Names,
    by_model,
    common_basis,
    energy_on,
    estimate,
    is_quick,
    ranked,
    start_of,
    status_words,
    times,
    without_load,
)
from wattwerk.bench.load_words import load_sentences
from wattwerk.bench.naming import machines_told_apart, told_apart
from wattwerk.bench.pipeline_summary import pipeline_sentences
from wattwerk.bench.together_words import together_sentences
from wattwerk.language import localised, recorded, t
from wattwerk.metering.statistics import Estimate, Ratio, ratio_of
from wattwerk.records import Provenance, Record, Status
from wattwerk.units import format_value

Goal = Literal["latency", "throughput", "energy", "energy_at_batch"]

_GOALS: Final[tuple[Goal, ...]] = ("latency", "throughput", "energy", "energy_at_batch")
_ENERGY_GOALS: Final[frozenset[Goal]] = frozenset({"energy", "energy_at_batch"})
_LATENCY: Final = "latency_p50_s"
_THROUGHPUT: Final = "throughput_per_s"


class Choice(msgspec.Struct, frozen=True):
    """The best configuration for one goal.

    Attributes:
        goal: ``latency``, ``throughput``, ``energy``, or ``energy_at_batch``, the least energy at the default's batch.
        record_id: The record's id.
        configuration: The configuration in words.
        figure: Name of the figure that it is best in.
        value: That figure's value.
        low: Its lower bound, where it has one.
        high: Its upper bound, likewise.
        provenance: Where the value comes from.
        gain_ratio: How many times better than the default; None where both cannot be compared.
        gain_significant: Whether that gain is more than the noise; None where nobody can tell.
        ties: Configurations that do not differ significantly from the best one, the nearest three.
        text: The sentence.
    """

    goal: Goal
    record_id: str
    configuration: str
    figure: str
    value: float
    low: float | None
    high: float | None
    provenance: Provenance
    gain_ratio: float | None
    gain_significant: bool | None
    ties: tuple[str, ...]
    text: str


class ModelSummary(msgspec.Struct, frozen=True):
    """What was found for one model.

    Attributes:
        model: The model's name.
        default_id: Id of the record that gains are counted from; None where no record may be ranked.
        default_configuration: That record's configuration in words.
        energy_basis: What the compared energy covers and whether it is modelled, in words; None without any energy.
        choices: At most one for each goal.
        sentences: The same in words.
    """

    model: str
    default_id: str | None
    default_configuration: str
    energy_basis: str | None
    choices: tuple[Choice, ...]
    sentences: tuple[str, ...]


class Exclusion(msgspec.Struct, frozen=True):
    """A configuration that is not ranked, and why."""

    record_id: str
    configuration: str
    status: Status
    reason: str


class Summary(msgspec.Struct, frozen=True):
    """What was found, structured and in words.

    Attributes:
        models: One for each model.
        counts: Status -> number of records.
        exclusions: The configurations that failed, were refused, or are marked invalid.
        quick: Whether any record was taken in quick mode.
        sentences: Everything in words, in the order in which it is to be read.
    """

    models: tuple[ModelSummary, ...]
    counts: dict[str, int]
    exclusions: tuple[Exclusion, ...]
    quick: bool
    sentences: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        told: dict[str, Any] = msgspec.to_builtins(self)
        return told


def summarise(records: Sequence[Record], *, default: Record | None = None) -> Summary:
    """Say which configurations are best and how far they are from the default.

    Records that failed or are invalid are counted with their reasons and never ranked. Energies are compared on one
    basis for each model (``labels.common_basis``); modelled values only ever with modelled ones.

    Args:
        records: Records of kind ``bench``, in any order; may be empty.
        default: The configuration that gains are counted from. Its runtime and precision are the default for the
            other models too; None chooses by ``labels.default_of``.
    """
    records = machines_told_apart(told_apart(records))
    names = Names(records)
    models = tuple(_model(model, group, names, default) for model, group in by_model(without_load(records)).items())
    exclusions = tuple(
        Exclusion(record.id, f"{record.subject.name}, {names.configuration(record)}", record.status, record.reason)
        for record in records
        if record.status is not Status.OK
    )
    counts = {status.value: count for status, count in Counter(record.status for record in records).items()}
    quick = any(is_quick(record) for record in records if record.figures)
    sentences = [*_model_sentences(models), *load_sentences(records), *_exclusion_sentences(records, names)]
    if quick:
        sentences.append(quick_sentence())
    return Summary(models, counts, exclusions, quick, tuple(sentences))


def quick_sentence() -> str:
    """Return what a reader has to know of records that were taken in quick mode."""
    return t(
        "Quick mode: the energy windows are shorter than a defensible figure needs; use --full for figures to keep."
    )


def _model_sentences(models: Sequence[ModelSummary]) -> list[str]:
    if len(models) == 1:
        return list(models[0].sentences)
    return [f"{model.model}: {sentence}" for model in models for sentence in model.sentences]


def _exclusion_sentences(records: Sequence[Record], names: Names) -> list[str]:
    sentences = []
    for status in Status:
        mine = [record for record in records if record.status is status and status is not Status.OK]
        reasons = Counter(map(_reason, mine))
        if reasons:
            # a fourth and last one takes no more room than its number
            common = reasons.most_common(4 if len(reasons) == 4 else 3)
            who = {_reason(r): f" ({r.subject.name}, {names.configuration(r)})" for r in mine}
            alone = len(records) == 1  # nothing else could be meant
            told = "; ".join(
                f"{reason} ({n}×)" if n > 1 else f"{reason}{'' if alone else who[reason]}" for reason, n in common
            )
            more = t("; and {count} more reasons", count=len(reasons) - 3) if len(reasons) > 4 else ""
            words = t("invalid (kept, shown, not ranked)") if status is Status.INVALID else status_words(status)
            counted = t("{count} of {all} {words}", count=reasons.total(), all=len(records), words=words)
            sentences.append(f"{counted}: {told}{more}.")
    return sentences


def _reason(record: Record) -> str:
    return recorded(record.reason) if record.reason else t("no reason given")


def _model(model: str, records: Sequence[Record], names: Names, default: Record | None) -> ModelSummary:
    usable = ranked(records)
    start = start_of(usable, default)
    basis = common_basis(usable)
    found = [_choice(goal, _candidates(goal, usable, start), start, names, basis) for goal in _GOALS]
    choices = tuple(choice for choice in found if choice)
    sentences = [choice.text for choice in choices] or [t("No configuration gave a figure that can be ranked.")]
    if choices and basis is None:
        sentences.append(t("Energy is unavailable for every configuration."))
    elif basis and (without := sum(energy_on(record, basis) is None for record in usable)):
        told = t("{count} of {all} are not in the energy ranking", count=without, all=len(usable))
        sentences.append(t("{told}: no energy {basis}.", told=told, basis=basis.words))
    sentences += accuracy_sentences(usable, names, basis)
    sentences += pipeline_sentences(usable, names, basis)
    sentences += together_sentences(usable, names, basis)
    return ModelSummary(
        model=model,
        default_id=start.id if start else None,
        default_configuration=names.configuration(start) if start else "",
        energy_basis=basis.words if basis else None,
        choices=choices,
        sentences=tuple(sentences),
    )


def _candidates(goal: Goal, usable: Sequence[Record], start: Record | None) -> Sequence[Record]:
    """Return the records that compete for a goal; a batch of its own is worth telling only where there are others."""
    if goal != "energy_at_batch":
        return usable
    same = [record for record in usable if start and record.setup.batch == start.setup.batch]
    return same if 1 < len(same) < len(usable) else []


def _choice(
    goal: Goal, usable: Sequence[Record], start: Record | None, names: Names, basis: EnergyBasis | None
) -> Choice | None:
    """Return the best record for a goal, or None where no record has its figure."""
    figure = {"latency": _LATENCY, "throughput": _THROUGHPUT}.get(goal) or (basis.gross if basis else "")
    values = {
        record.id: value
        for record in usable
        if (value := energy_on(record, basis) if goal in _ENERGY_GOALS and basis else estimate(record, figure))
    }
    known = [record for record in usable if record.id in values]
    if not known:
        return None
    sign = -1 if goal == "throughput" else 1
    best = min(known, key=lambda record: sign * values[record.id].value)
    modelled = best.figures[figure].provenance is Provenance.MODELLED
    gains = {record.id: _gain(goal, values[best.id], values[record.id], modelled) for record in known}
    ties = tuple(
        names.configuration(record)
        for record in sorted(known, key=lambda record: sign * values[record.id].value)
        # a model's bounds are so wide that nearly everything would tie; the sentence says that they overlap
        if not modelled and record not in (best, start) and gains[record.id].significant is False
    )[:3]
    gain = gains.get(start.id) if start and start is not best else None
    start_words = (
        f"{names.configuration(start)}: {value_words(figure, values[start.id].value)}" if gain and start else ""
    )
    if len(known) == 1:
        told = t("the only one")
    elif best is start:
        told = t("the default configuration itself")
    else:
        told = _comparison_words(goal, start_words, gain, modelled)
    return Choice(
        goal=goal,
        record_id=best.id,
        configuration=names.configuration(best),
        figure=figure,
        value=values[best.id].value,
        low=values[best.id].low,
        high=values[best.id].high,
        provenance=best.figures[figure].provenance,
        gain_ratio=gain.value if gain else None,
        gain_significant=gain.significant if gain else None,
        ties=ties,
        text=f"{_title(goal)}: {names.configuration(best)}: {_best_words(goal, figure, values[best.id], basis)}, "
        f"{told}{_tie_words(ties)}.",
    )


def _title(goal: Goal) -> str:
    return {
        "latency": t("Fastest"),
        "throughput": t("Highest throughput"),
        "energy": t("Least energy per inference"),
        "energy_at_batch": t("Least energy at the default's batch size"),
    }[goal]


def _gain(goal: Goal, best: Estimate, other: Estimate, modelled: bool) -> Ratio:
    """Return how many times better the best one is; above 1 is better for every goal."""
    first, second = (best, other) if goal == "throughput" else (other, best)
    if second.value == 0:
        return Ratio(1.0, significant=None)
    if not modelled:
        return ratio_of(first, second)
    # a model's bounds are no confidence intervals: they say what is possible, so they have to be apart
    apart = None
    if None not in (best.low, best.high, other.low, other.high):
        apart = bool(best.high < other.low or other.high < best.low)  # type: ignore[operator]
    return Ratio(first.value / second.value, significant=apart)


def _best_words(goal: Goal, figure: str, value: Estimate, basis: EnergyBasis | None) -> str:
    """Return the best value; for an energy with what it covers and, if it is modelled, its bounds."""
    told = value_words(figure, value.value)
    return f"{told} ({basis.words}{_bounds(figure, value, basis)})" if goal in _ENERGY_GOALS and basis else told


def value_words(figure: str, value: float) -> str:
    """Return a value as a sentence needs it: ``1/s`` reads badly there."""
    if figure != _THROUGHPUT:
        return format_value(figure, value)
    return t("{rate} per second", rate=localised(f"{value:,.{0 if value >= 100 else 1}f}"))


def _comparison_words(goal: Goal, start_words: str, gain: Ratio | None, modelled: bool) -> str:
    """Return how far the best one is from the default."""
    if gain is None:
        return t("not comparable with the default")
    if gain.significant is False and not modelled:
        return t("no significant difference from the default ({default})", default=start_words)
    doubt = t("; not significant, because the bounds of the model overlap") if gain.significant is False else ""
    return f"{_gain_words(goal, times(gain.value), start_words)}{doubt}"


def _gain_words(goal: Goal, gain: str, default: str) -> str:
    if goal == "latency":
        return t("{gain} faster than the default ({default})", gain=gain, default=default)
    if goal == "throughput":
        return t("{gain} the throughput of the default ({default})", gain=gain, default=default)
    return t("{gain} less energy than the default ({default})", gain=gain, default=default)


def _tie_words(ties: Sequence[str]) -> str:
    *front, last = ties or ("",)
    told = t("{front} or {last}", front=", ".join(front), last=last) if front else last
    return t("; no significant difference from {others}", others=told) if ties else ""


def _bounds(figure: str, value: Estimate, basis: EnergyBasis) -> str:
    """Return the model's bounds in words; a confidence interval is left to the tables."""
    if not basis.modelled or value.low is None or value.high is None:
        return ""
    return ": " + t("{low} to {high}", low=format_value(figure, value.low), high=format_value(figure, value.high))
