"""Several models at once in words: what each loses beside the others, and whether it pays."""

from __future__ import annotations

from collections.abc import Sequence

from wattwerk.bench.labels import EnergyBasis, Names, energy_on, estimate, times
from wattwerk.language import t
from wattwerk.records import Record
from wattwerk.units import format_value


def together_sentences(records: Sequence[Record], names: Names, basis: EnergyBasis | None) -> list[str]:
    """Return a sentence for each record of a model that ran beside others.

    Args:
        records: Those of one model that may be ranked.
        names: What they are called.
        basis: The energy that they are compared by.
    """
    beside = [record for record in records if record.value("slowdown_ratio") is not None]
    return [_sentence(record, names, basis) for record in beside]


def _sentence(record: Record, names: Names, basis: EnergyBasis | None) -> str:
    told = t(
        "Beside {others} a batch takes {latency} ({configuration}) instead of {alone} alone, {kept} of the throughput "
        "are kept; all together do {gain} what taking turns would",
        others=str(record.setup.protocol.get("beside")),
        configuration=names.configuration(record),
        latency=format_value("latency_p50_s", record.value("latency_p50_s")),
        alone=format_value("latency_p50_s", record.value("alone_latency_p50_s")),
        kept=format_value("kept_ratio", record.value("throughput_kept_ratio")),
        gain=times(record.value("taking_turns_ratio") or 0.0),
    )
    alone = estimate(record, f"alone_{basis.gross}") if basis else None
    mine = energy_on(record, basis) if basis else None
    if basis is None or alone is None or mine is None:
        return f"{told}."
    return t(
        "{told}. Its share of the energy is {energy} a sample instead of {alone} alone.",
        told=told,
        energy=format_value(basis.gross, mine.value),
        alone=format_value(basis.gross, alone.value),
    )
