"""How many times better each configuration is than the default."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wattwerk.bench.labels import EnergyBasis, Names, common_basis, device_of, energy_on, estimate, ranked, start_of
from wattwerk.bench.report.marks import Groups, gains_of
from wattwerk.bench.report.section import Section
from wattwerk.language import t
from wattwerk.metering.statistics import Estimate, Ratio, ratio_of
from wattwerk.records import Record


def comparison(groups: Groups, names: Names, default: Record | None) -> Section:
    """Return the energy saved over the default, at its batch size, and the speed-up of devices, for each model.

    What is faster on one device is told by the levels of optimisation.

    Args:
        groups: Model -> its records.
        names: What they are called.
        default: The configuration that gains are counted from.
    """
    charts = []
    for model, records in groups.items():
        start = start_of(ranked(records), default)
        if start is None:
            continue
        mine = [record for record in ranked(records) if record.setup.batch == start.setup.batch]
        if len({place_of(record) for record in mine}) > 1:
            title, axis = t("{model} · speed-up by device", model=model), t("times faster")
            fastest = fastest_of_devices(mine)
            charts.append(gains_of(title, axis, fastest, names, lambda r, s=start: speed_up(s, r)))  # type: ignore[misc]
        if basis := common_basis(mine):
            title = t("{model} · energy saving ({basis})", model=model, basis=basis.words)
            gain, axis = _saving(start, basis), t("times less energy")
            charts.append(gains_of(title, axis, mine, names, gain, modelled=basis.modelled))
    return Section(
        "comparison",
        t("Gains over the default"),
        t(
            "How many times less energy than the default configuration at the same batch size; where a model ran on "
            "several devices, also how many times faster the fastest of each device and precision is. The dotted line "
            "is the default, the error bar the 95 % interval. Invalid configurations are not ranked and not shown."
        ),
        tuple(chart for chart in charts if chart),
        t("No two configurations at the default's batch size have energies, and no two devices latencies, to compare."),
    )


def place_of(record: Record) -> tuple[str, str]:
    """Return machine and device that ran a record's model."""
    return record.platform.label, device_of(record).lower()


def fastest_of_devices(records: Sequence[Record]) -> list[Record]:
    """Return the record with the smallest median latency of every device and precision.

    Args:
        records: Of one model and one batch size; those without a latency are left out.
    """
    found: dict[tuple[tuple[str, str], str], Record] = {}
    timed = [record for record in records if record.value("latency_p50_s")]
    for record in sorted(timed, key=lambda record: record.value("latency_p50_s") or 0.0):
        found.setdefault((place_of(record), record.setup.precision), record)
    return list(found.values())


def speed_up(start: Record, record: Record) -> Ratio | None:
    """Return how many times faster a record is than another, by their medians; None where one has none."""
    if start.id == record.id:
        return Ratio(1.0)  # no interval: it is exactly as fast as itself
    above, below = estimate(start, "latency_p50_s"), estimate(record, "latency_p50_s")
    return ratio_of(above, below) if above and below and below.value else None


def _saving(start: Record, basis: EnergyBasis) -> Callable[[Record], Ratio | None]:
    def gain(record: Record) -> Ratio | None:
        above, below = energy_on(start, basis), energy_on(record, basis)
        if above and start.id == record.id:
            return Ratio(1.0)
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
