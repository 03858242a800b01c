"""The table of all records: every value that a reader compares, sortable, with what went wrong."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final

from wattwerk.bench.labels import (
    BASES,
    Names,
    energy_on,
    estimate,
    is_modelled,
    is_quick,
    precision_order,
    scope_words,
    status_words,
)
from wattwerk.bench.report.markup import escaped, unbroken
from wattwerk.language import recorded, t
from wattwerk.records import Record, Status
from wattwerk.units import format_value

#: of most rows; the page reserves so much before it lays the table out
_ROW_PX: Final = 46


def _columns() -> list[tuple[str, str]]:
    """Return heading and figure of each column of values."""
    return [
        ("p50", "latency_p50_s"),
        ("p99", "latency_p99_s"),
        (t("Throughput"), "throughput_per_s"),
        (t("GPU power"), "gpu_power_w"),
        (t("CPU power"), "cpu_power_w"),
        (t("System power"), "system_power_w"),
        (t("Gross energy"), "energy"),
        (t("Net energy"), "net_energy"),
        (t("1/s/W, accelerator"), "accelerator_efficiency_per_s_per_w"),
        (t("1/s/W, system"), "system_efficiency_per_s_per_w"),
        (t("Of peak"), "peak_share_ratio"),
        (t("Peak memory"), "memory_peak_bytes"),
    ]


def records_table(records: Sequence[Record]) -> str:
    """Return the section with the table of all records."""
    names = Names(records)
    columns = [(head, figure) for head, figure in _columns() if any(_figure_name(r, figure) for r in records)]
    several = _several_machines(records)
    heads = [(t("Model"), False), *([(t("Machine"), False)] if several else []), (t("Runtime"), False)]
    heads += [(t("Precision"), False), (t("Batch"), True), (t("Status"), False), *((head, True) for head, _ in columns)]
    head = "".join(
        f'<th scope="col"{" class=number" if number else ""}><button type="button">{html.escape(text)}</button></th>'
        for text, number in heads
    )
    rows = "".join(_row(record, names, [figure for _, figure in columns], several) for record in _table_order(records))
    intro = t(
        "Click a heading to sort. Energies are for one inference, of the widest scope that the record has; hatched "
        "cells with a tilde are modelled, with their bounds."
    )
    return (
        f'<section id="records-table" aria-labelledby="records-title"><h2 id="records-title">{t("All records")}</h2>'
        f'<p class="intro">{escaped(intro)}</p>'
        f'<div class="table" style="contain-intrinsic-block-size:auto {_ROW_PX * (len(records) + 1)}px" role="region" '
        f'aria-label="{t("Table, scrolls sideways")}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="actions"><button class="button" id="download" type="button">{t("Download the records (JSON)")}'
        f"</button><span>{t('Every figure with its scope, provenance and bounds.')}</span></p></section>\n"
    )


def _table_order(records: Sequence[Record]) -> list[Record]:
    def order(record: Record) -> tuple[str, str, str, int, int]:
        setup = record.setup
        return (
            record.subject.name,
            record.platform.label,
            setup.runtime,
            precision_order(setup.precision),
            setup.batch or 0,
        )

    return sorted(records, key=order)


def _several_machines(records: Sequence[Record]) -> bool:
    return len({record.platform.label for record in records}) > 1


def _row(record: Record, names: Names, figures: Sequence[str], several_machines: bool) -> str:
    setup = record.setup
    effective = str(setup.effective.get("precision") or setup.precision)
    asked = setup.precision
    precision = asked if effective == asked else t("{asked} (ran {effective})", asked=asked, effective=effective)
    status = record.status.value
    quick = f"<small>{t('quick')}</small>" if is_quick(record) and record.status is Status.OK else ""
    reason = f"<small>{escaped(recorded(record.reason))}</small>" if record.reason else ""
    machine = f'<td class="name">{html.escape(record.platform.label)}</td>' if several_machines else ""
    cells = (
        f'<td class="name">{html.escape(record.subject.name)}</td>{machine}'
        f'<td class="name">{html.escape(names.lane(record, machine=False))}</td>'
        f'<td data-value="{precision_order(setup.precision)}">{html.escape(precision)}</td>'
        f'<td class="number" data-value="{setup.batch or ""}">{setup.batch or "–"}</td>'
        f'<td class="{"reason" if reason else "plain"}"><span class="status {status}">'
        f"{status_words(record.status)}</span>{quick}{reason}</td>"
    )
    cells += "".join(_cell(record, figure) for figure in figures)
    return f'<tr class="{status}">{cells}</tr>'


def _figure_name(record: Record, column: str) -> str | None:
    """Return the name of the figure in a column; for energies, that of the widest scope, measured before modelled."""
    if column not in ("energy", "net_energy"):
        return column if record.value(column) is not None else None
    basis = next((basis for basis in BASES if energy_on(record, basis)), None)
    if basis is None:
        return None
    name = basis.gross if column == "energy" else basis.net
    return name if record.value(name) is not None else None


def _cell(record: Record, column: str) -> str:
    name = _figure_name(record, column)
    value = estimate(record, name) if name else None
    if name is None or value is None:
        return '<td class="number" data-value="">–</td>'
    modelled = is_modelled(record.figures[name])
    small = ""
    if column in ("energy", "net_energy"):
        small += f"<small>{scope_words(name.partition('_')[0])}</small>"
    if modelled and value.low is not None and value.high is not None:
        small += (
            f"<small>{unbroken(format_value(name, value.low))} – {unbroken(format_value(name, value.high))}</small>"
        )
    kind = "number modelled" if modelled else "number"
    text = f"{'~' if modelled else ''}{format_value(name, value.value)}"
    return f'<td class="{kind}" data-value="{value.value:.6g}">{unbroken(text)}{small}</td>'
