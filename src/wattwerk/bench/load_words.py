"""What was found under a load, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from wattwerk.bench.labels import BASES, SCOPE_WORDS, Names, is_quick, scenario_of
from wattwerk.records import Provenance, Record, Status
from wattwerk.units import format_value


def load_sentences(records: Sequence[Record]) -> list[str]:
    """Return a sentence for each record of a load that LoadGen calls valid, and one on what quick runs are good for."""
    loaded = [record for record in records if scenario_of(record)]
    names = Names(loaded)
    valid = [record for record in loaded if record.status is Status.OK]
    sentences = [f"{_subject(record, names)}: {_found(record)}." for record in valid]
    if any(is_quick(record) for record in valid):
        sentences.append(
            "LoadGen's verdicts are on runs shorter than MLPerf's minimums; use --full for those. "
            "None of them is an MLPerf result."
        )
    return sentences


def _subject(record: Record, names: Names) -> str:
    scenario = scenario_of(record)
    configuration = names.configuration(record).replace(f", {scenario})", ")").replace(f" ({scenario})", "")
    return f"{scenario.capitalize()}: {record.subject.name}, {configuration}"


def _found(record: Record) -> str:
    """Return the figure that the scenario is about, the limit, and the energy."""
    protocol = record.setup.protocol
    percent = f"{protocol.get('latency_percentile'):g}"
    reached = _text(record, f"query_p{percent}_s")
    limit = protocol.get("latency_limit_s")
    kept = f" (limit {format_value('limit_s', float(limit))})" if isinstance(limit, int | float) else ""
    if scenario_of(record) == "offline":
        told = f"{_rate(record, 'samples_per_s')} samples per second"
    elif scenario_of(record) == "server":
        told = f"up to {_rate(record, 'target_queries_per_s')} queries per second with {percent} % in {reached}{kept}"
    else:
        told = f"{percent} % of the queries within {reached}{kept}, {_rate(record, 'queries_per_s')} a second"
    return ", ".join((told, _energy(record)))


def _text(record: Record, name: str) -> str:
    return format_value(name, record.value(name))


def _rate(record: Record, name: str) -> str:
    return _text(record, name).removesuffix(" 1/s")


def _energy(record: Record) -> str:
    """Return the widest energy, measured before modelled, of a query or, where there is only one, of a sample."""
    offline = scenario_of(record) == "offline"
    ending, noun = ("energy_per_inference_j", "sample") if offline else ("energy_per_query_j", "query")
    for basis in BASES:
        figure = record.figures.get(f"{basis.prefix}_{ending}")
        if figure is None or figure.value is None:
            continue
        if (figure.provenance is Provenance.MODELLED) == basis.modelled:
            told = format_value(ending, figure.value)
            return f"{told} a {noun} ({SCOPE_WORDS[basis.prefix]}, {figure.provenance.value})"
    return "energy unavailable"
