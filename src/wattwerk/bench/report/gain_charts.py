"""How many times better each configuration is than the default."""

from __future__ import annotations

from collections.abc import Callable

from wattwerk.bench.labels import EnergyBasis, Names, common_basis, energy_on, estimate, ranked, start_of
from wattwerk.bench.report.marks import Groups, gains_of
from wattwerk.bench.report.section import Section
from wattwerk.language import t
from wattwerk.metering.statistics import Estimate, Ratio, ratio_of
from wattwerk.records import Record


def comparison(groups: Groups, names: Names, default: Record | None) -> Section:
    """Return the gains in latency and in energy over the default, at its batch size, for each model."""
    charts = []
    for model, records in groups.items():
        start = start_of(ranked(records), default)
        if start is None:
            continue
        mine = [record for record in ranked(records) if record.setup.batch == start.setup.batch]
        if len(mine) < 2:
            continue
        basis = common_basis(mine)
        title, axis = t("{model} · speed-up", model=model), t("times faster")
        charts.append(gains_of(title, axis, mine, names, lambda r, s=start: speed_up(s, r)))  # type: ignore[misc]
        if basis:
            title = t("{model} · energy saving ({basis})", model=model, basis=basis.words)
            gain, axis = _saving(start, basis), t("times less energy")
            charts.append(gains_of(title, axis, mine, names, gain, modelled=basis.modelled))
    return Section(
        "comparison",
        t("Precision and runtime compared"),
        t(
            "How many times better than the default configuration at the same batch size; the dotted line is the "
            "default, the error bar the 95 % interval. Invalid configurations are not ranked and not shown."
        ),
        tuple(chart for chart in charts if chart),
        t("There is only one configuration at the default's batch size, so there is nothing to compare it with."),
    )


def speed_up(start: Record, record: Record) -> Ratio | None:
    """Return how many times faster a record is than another, by their medians; None where one has none."""
    above, below = estimate(start, "latency_p50_s"), estimate(record, "latency_p50_s")
    return ratio_of(above, below) if above and below and below.value else None


def _saving(start: Record, basis: EnergyBasis) -> Callable[[Record], Ratio | None]:
    def gain(record: Record) -> Ratio | None:
        above, below = energy_on(start, basis), energy_on(record, basis)
        if not above or not below or not below.value:
            return None
        return _model_ratio(above, below) if basis.modelled else ratio_of(above, below)

    return gain


def _model_ratio(above: Estimate, below: Estimate) -> Ratio:
    """Return a ratio with all that the bounds of a model allow; they are no confidence intervals."""
    value = above.value / below.value
    if None in (above.low, above.high, below.low, below.high) or not below.low or below.low <= 0:
        return Ratio(value)
    return Ratio(value, above.low / below.high, above.high / below.low)  # type: ignore[operator]
