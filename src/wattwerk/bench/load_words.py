"""What was found under a load, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from wattwerk.bench.labels import BASES, Names, is_quick, provenance_words, scenario_of, scope_words
from wattwerk.language import localised, t
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
            t(
                "LoadGen's verdicts are on runs shorter than MLPerf's minimums; use --full for those. "
                "None of them is an MLPerf result."
            )
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
    kept = ""
    if isinstance(limit, int | float):
        kept = t(" (limit {limit})", limit=format_value("limit_s", float(limit)))
    if scenario_of(record) == "offline":
        told = t("{rate} samples per second", rate=_rate(record, "samples_per_s"))
    elif scenario_of(record) == "server":
        rate = _rate(record, "target_queries_per_s")
        told = t(
            "up to {rate} queries per second with {percent} % in {time}{limit}",
            rate=rate,
            percent=localised(percent),
            time=reached,
            limit=kept,
        )
    else:
        told = t(
            "{percent} % of the queries within {time}{limit}, {rate} a second",
            percent=localised(percent),
            time=reached,
            limit=kept,
            rate=_rate(record, "queries_per_s"),
        )
    return ", ".join((told, _energy(record)))


def _text(record: Record, name: str) -> str:
    return format_value(name, record.value(name))


def _rate(record: Record, name: str) -> str:
    return _text(record, name).removesuffix(" 1/s")


def _energy(record: Record) -> str:
    """Return the widest energy, measured before modelled, of a query or, where there is only one, of a sample."""
    offline = scenario_of(record) == "offline"
    ending = "energy_per_inference_j" if offline else "energy_per_query_j"
    for basis in BASES:
        figure = record.figures.get(f"{basis.prefix}_{ending}")
        if figure is None or figure.value is None:
            continue
        if (figure.provenance is Provenance.MODELLED) == basis.modelled:
            value = format_value(ending, figure.value)
            told = t("{energy} a sample", energy=value) if offline else t("{energy} a query", energy=value)
            return f"{told} ({scope_words(basis.prefix)}, {provenance_words(figure.provenance)})"
    return t("energy unavailable")
