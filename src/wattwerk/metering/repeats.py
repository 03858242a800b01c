"""The mean of several runs, figure by figure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from wattwerk.records import Figure, Provenance, Record, unavailable


def mean_figures(records: Sequence[Record]) -> dict[str, Figure]:
    """Return the mean of each figure over several runs; empty for fewer than two.

    The bounds of a measured figure are its 95 % confidence interval over the runs. Those of a modelled one stay those
    of the model, as means: what is not known of the machine does not get better by repeating.
    """
    if len(records) < 2:
        return {}
    names = dict.fromkeys(name for record in records for name in record.figures)
    return {name: _mean([record.figures.get(name) for record in records]) for name in names}


def _mean(figures: Sequence[Figure | None]) -> Figure:
    known = [figure for figure in figures if figure is not None]
    missing = next((figure for figure in known if figure.value is None), None)
    if missing or len(known) < len(figures):
        reason = missing.note if missing else "not every run has it"
        return unavailable(f"missing in a run: {reason}", scope=known[0].scope)
    if any(figure.provenance is Provenance.MODELLED for figure in known):
        return _mean_of_modelled(known)
    from wattwerk.metering.statistics import mean_interval  # a single run, which is the usual case, needs none

    interval = mean_interval([figure.value or 0.0 for figure in known])
    return msgspec.structs.replace(known[0], value=interval.value, low=interval.low, high=interval.high)


def _mean_of_modelled(figures: Sequence[Figure]) -> Figure:
    def mean(values: Sequence[float | None]) -> float | None:
        there = [value for value in values if value is not None]
        return sum(there) / len(there) if len(there) == len(values) else None

    low, value, high = (mean([getattr(figure, end) for figure in figures]) for end in ("low", "value", "high"))
    return Figure(value, Provenance.MODELLED, figures[0].scope, low, high, figures[0].note)
