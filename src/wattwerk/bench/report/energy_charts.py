"""Efficiency by accelerator and by system, power by scope, energy of an inference: figures 11 to 14 of the study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from wattwerk.bench.labels import EnergyBasis, Names, common_basis, energy_on, on_accelerator, scope_words
from wattwerk.bench.report.bars import Bar, Tick, bar_chart
from wattwerk.bench.report.marks import Groups, bar_alt, bar_of, bars_of, curves_of, grouped, one_each, why_none
from wattwerk.bench.report.section import Chart, Section
from wattwerk.language import t
from wattwerk.records import Record, Status

POWER_PREFIXES: Final = ("wall", "node", "board", "gpu", "cpu", "dram")
EFFICIENCIES: Final = ("accelerator_efficiency_per_s_per_w", "system_efficiency_per_s_per_w")


def _scope_of(efficiency_name: str) -> str:
    return t("by system") if efficiency_name.startswith("system") else t("by accelerator")


def efficiency(groups: Groups, names: Names) -> Section:
    """Return samples per joule over batch size, by accelerator and by system."""
    charts = [
        chart
        for figure in EFFICIENCIES
        for chart in curves_of(groups, names, figure, t("efficiency"), extra=_scope_of(figure))
    ]
    charts.sort(key=lambda chart: chart.title.partition(" · ")[0])  # a model's two charts stand side by side
    return Section(
        "efficiency",
        t("Efficiency over batch size"),
        t(
            "Samples per second for each watt, which is samples per joule: by accelerator alone, and by the whole "
            "system."
        ),
        tuple(charts),
        why_none(groups, "system_efficiency_per_s_per_w"),
    )


def efficiency_bars(groups: Groups, names: Names) -> Section | None:
    """Return samples per joule at the smallest batch size; None where the curves over batch size are bars already."""
    charts = []
    for model, records in groups.items():
        for figure in EFFICIENCIES:
            own = figure.startswith("system")  # the accelerator says nothing of a model that ran on the processor
            mine = [r for r in records if r.value(figure) is not None and (own or on_accelerator(r))]
            batches = sorted({record.setup.batch or 1 for record in mine})
            if len(batches) < 2:
                continue
            title = t("{model} · {scope} · batch {batch}", model=model, scope=_scope_of(figure), batch=batches[0])
            smallest = [record for record in mine if record.setup.batch == batches[0]]
            chart = bars_of(title, smallest, names, figure, t("efficiency"))
            charts += [chart] if chart else []
    if not charts:
        return None
    return Section(
        "efficiency-bars",
        t("Efficiency by model and platform"),
        t("Samples per second for each watt at the smallest batch size. Higher is better."),
        tuple(charts),
    )


def power(groups: Groups, names: Names) -> Section:
    """Return the mean power of each scope while the model runs, with the idle powers as marks."""
    charts = []
    for model, records in groups.items():
        for prefix in POWER_PREFIXES:
            mine = [r for r in records if r.value(f"{prefix}_power_w") is not None]
            batch = _most_common_batch(mine)
            mine = [r for r in mine if r.setup.batch == batch]
            title = t("{model} · {scope} · batch {batch}", model=model, scope=scope_words(prefix), batch=batch)
            ticks = _idle_ticks(mine, names, prefix)
            chart = bars_of(title, mine, names, f"{prefix}_power_w", t("mean power"), ticks=ticks)
            charts += [chart] if chart else []
    return Section(
        "power",
        t("Power by scope, idle and loaded"),
        t(
            "Bars: mean power while the model runs. Diamond: model loaded, nothing running. Circle: machine idle. "
            "Scopes that overlap are never summed."
        ),
        tuple(charts),
        why_none(groups, "gpu_power_w", "cpu_power_w"),
    )


def _most_common_batch(records: Sequence[Record]) -> int | None:
    """Return the batch size that most records have, the largest of equals."""
    counts = Counter(record.setup.batch or 1 for record in records)
    return max(counts, key=lambda batch: (counts[batch], batch), default=None)


def _idle_ticks(records: Sequence[Record], names: Names, prefix: str) -> list[Tick]:
    kinds = (("loaded_idle", t("model loaded, idle"), "diamond"), ("idle", t("machine idle"), "circle"))
    return [
        Tick((names.lane(record), record.setup.precision), value, words, symbol)
        for record in one_each(records, names)
        for kind, words, symbol in kinds
        if (value := record.value(f"{kind}_{prefix}_power_w")) is not None
    ]


def energy(groups: Groups, names: Names) -> Section:
    """Return the energy of an inference, gross and net, at the batch size that needs the least."""
    charts = [
        _energy_chart(f"{model} · {basis.words}", records, basis, names)
        for model, records in groups.items()
        if (basis := common_basis(records)) is not None
    ]
    return Section(
        "energy",
        t("Energy per inference"),
        t(
            "At the batch size that needs the least (b32: batch 32). Upper bar: gross. Lower, pale bar: net, without "
            "what the machine draws with the model loaded and nothing running. Error bars: 95 % interval or model "
            "bounds."
        ),
        tuple(charts),
        why_none(groups, "gpu_energy_per_inference_j", "cpu_energy_per_inference_j"),
    )


def _energy_chart(title: str, records: Sequence[Record], basis: EnergyBasis, names: Names) -> Chart:
    rows: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=lambda record: (record.status is not Status.OK, _energy_value(record, basis))):
        if energy_on(record, basis):
            rows.setdefault((names.lane(record), record.setup.precision), record)
    bars = grouped(list(rows.values()), names, lambda record: energy_bars(record, basis, names))
    axis = t("energy per inference")
    return Chart(title, bar_chart(bars, basis.gross, title=axis), bar_alt(bars, axis))


def _energy_value(record: Record, basis: EnergyBasis) -> float:
    value = energy_on(record, basis)
    return value.value if value else 0.0


def energy_bars(record: Record, basis: EnergyBasis, names: Names, label: str | None = None) -> list[Bar]:
    """Return the gross energy of an inference, and below it the net one where the record has it."""
    label = label or f"{record.setup.precision} b{record.setup.batch}"
    gross = bar_of(record, basis.gross, names, label=label)
    if record.value(basis.net) is None:
        return [gross]
    net = bar_of(record, basis.net, names, label=label)
    return [gross, msgspec.structs.replace(net, secondary=True, faded=True, text=t("{value} net", value=net.text))]
