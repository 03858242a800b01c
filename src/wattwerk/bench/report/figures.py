"""Which charts a report shows, in reading order."""

from __future__ import annotations

from collections.abc import Sequence

from wattwerk.bench.labels import Names, by_model, without_load
from wattwerk.bench.report.energy_charts import efficiency, efficiency_bars, energy, power
from wattwerk.bench.report.gain_charts import comparison
from wattwerk.bench.report.level_charts import levels, systems
from wattwerk.bench.report.load_charts import loads, streams
from wattwerk.bench.report.pareto import accuracy_against_energy
from wattwerk.bench.report.pipeline_charts import pipelines
from wattwerk.bench.report.platform_charts import cpu_load, mean_power
from wattwerk.bench.report.published import Published
from wattwerk.bench.report.roofline import rooflines
from wattwerk.bench.report.section import Section
from wattwerk.bench.report.speed_charts import latency, throughput
from wattwerk.records import Record, Status


def sections(
    records: Sequence[Record], *, default: Record | None = None, published: Sequence[Published] = ()
) -> tuple[Section, ...]:
    """Return the sections of charts in reading order; what the records are not about is left out.

    Invalid records are drawn pale and marked; records without figures are left to the table.

    Args:
        records: Records of kind ``bench``.
        default: The configuration that gains are counted from, as in ``summary.summarise``.
        published: Values of a study to lay beside.
    """
    usable = [record for record in records if record.status in (Status.OK, Status.INVALID)]
    shown = without_load(usable)
    found = [*(_timed(shown, default, published) if shown else ()), loads(usable)]
    return tuple(section for section in found if section is not None)


def _timed(
    shown: Sequence[Record], default: Record | None, published: Sequence[Published]
) -> tuple[Section | None, ...]:
    """Return the sections of records without a load."""
    names = Names(shown)
    groups = by_model(shown)
    return (
        latency(groups, names),
        throughput(groups, names),
        efficiency_bars(groups, names),
        efficiency(groups, names),
        levels(groups, names, default, published),
        comparison(groups, names, default),
        power(groups, names),
        mean_power(groups, names, published),
        energy(groups, names),
        accuracy_against_energy(groups, names),
        cpu_load(groups, names, published),
        pipelines(shown, published),
        rooflines(groups, names, published),
        systems(groups, published),
        streams(groups),
    )


def is_plottable(record: Record) -> bool:
    """Tell whether a record has anything that a chart can show."""
    figures = ("latency_mean_s", "latency_p50_s", "throughput_per_s", "samples_per_s")
    return record.status in (Status.OK, Status.INVALID) and any(record.value(name) is not None for name in figures)
