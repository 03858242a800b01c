"""Which charts a report shows, in reading order."""

from __future__ import annotations

from collections.abc import Sequence

from wattwerk.bench.labels import Names, by_model, without_load
from wattwerk.bench.report.energy_charts import efficiency, energy, power
from wattwerk.bench.report.gain_charts import comparison
from wattwerk.bench.report.section import Section
from wattwerk.bench.report.speed_charts import latency, throughput
from wattwerk.records import Record, Status


def sections(records: Sequence[Record], *, default: Record | None = None) -> tuple[Section, ...]:
    """Return the sections of charts in reading order.

    Invalid records are drawn pale and marked; records without figures are left to the table.

    Args:
        records: Records of kind ``bench``.
        default: The configuration that gains are counted from, as in ``summary.summarise``.
    """
    shown = [record for record in without_load(records) if record.status in (Status.OK, Status.INVALID)]
    names = Names(shown)
    groups = by_model(shown)
    return (
        latency(groups, names),
        throughput(groups, names),
        efficiency(groups, names),
        comparison(groups, names, default),
        power(groups, names),
        energy(groups, names),
    )


def is_plottable(record: Record) -> bool:
    """Tell whether a record has anything that a chart can show."""
    return record.status in (Status.OK, Status.INVALID) and any(
        record.value(name) is not None for name in ("latency_mean_s", "latency_p50_s", "throughput_per_s")
    )
