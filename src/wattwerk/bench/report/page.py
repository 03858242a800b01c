"""The page around the charts: words, cards, the way of measuring, the key, the table of all records."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Final

from wattwerk import __version__
from wattwerk.bench.labels import (
    PRECISIONS,
    Names,
    by_model,
    is_modelled,
    precision_order,
    times,
)
from wattwerk.bench.report.bars import has_published
from wattwerk.bench.report.energy_charts import EFFICIENCIES
from wattwerk.bench.report.facts import conditions, machine_facts, method_facts
from wattwerk.bench.report.marks import lane_symbols
from wattwerk.bench.report.markup import escaped, unbroken
from wattwerk.bench.report.records_table import records_table
from wattwerk.bench.report.section import Chart, Section
from wattwerk.bench.summary import Choice, Goal, ModelSummary, Summary, quick_sentence, value_words
from wattwerk.language import current, day, t
from wattwerk.records import Provenance, Record, Status

#: the page may run its own scripts and nothing else; it can load nothing from anywhere
_POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)

_DASHED: Final = (
    '<svg class="mark long" viewBox="0 0 40 16" aria-hidden="true"><path d="M1 8h38" stroke-dasharray="7 5"/></svg>'
)
_MARKS: Final = {
    "circle": '<circle cx="8" cy="8" r="5"/>',
    "square": '<rect x="3.5" y="3.5" width="9" height="9"/>',
    "diamond": '<path d="M8 2l6 6-6 6-6-6z"/>',
    "triangle-up": '<path d="M8 2.5l6 10.5H2z"/>',
    "cross": '<path d="M6 2h4v4h4v4h-4v4H6v-4H2V6h4z"/>',
    "star": '<path d="M8 1.5l2 4.3 4.7.5-3.5 3.1 1 4.6L8 11.6 3.8 14l1-4.6L1.3 6.3 6 5.8z"/>',
    "hexagon": '<path d="M8 2l5.2 3v6L8 14l-5.2-3V5z"/>',
    "triangle-down": '<path d="M8 13.5L2 3h12z"/>',
}


def page(
    records: Sequence[Record],
    summary: Summary,
    sections: Sequence[Section],
    *,
    title: str | None,
    parts: Mapping[str, str],
) -> str:
    """Return the whole page.

    Args:
        records: All records, for the table and the way of measuring.
        summary: What the sweep showed.
        sections: The charts.
        title: The heading; None names the models.
        parts: ``style``, ``script``, ``specs`` and ``texts`` (safe JSON), ``plotly`` and ``records`` (packed).
    """
    heading = html.escape(title or page_title(records))
    numbers = count()
    body = "".join(_section(section, numbers) for section in sections)
    return (
        f'<!doctype html>\n<html lang="{current()}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="generator" content="wattwerk {__version__}">\n<link rel="icon" href="data:,">\n'
        f"<title>{heading}</title>\n<style>\n{parts['style']}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#summary">{t("Skip to the summary")}</a>\n<div class="page">\n'
        f"{_head(heading, records, sections)}<main>\n{_summary(summary)}{_method(records)}{_key(records, sections)}"
        f"{body}{records_table(records)}</main>\n{_foot()}</div>\n"
        f'<script type="application/json" id="specs">{parts["specs"]}</script>\n'
        f'<script type="application/json" id="texts">{parts["texts"]}</script>\n'
        f'<script type="text/plain" id="records">{parts["records"]}</script>\n'
        f'<script type="text/plain" id="plotly">{parts["plotly"]}</script>\n'
        f"<script>\n{parts['script']}</script>\n</body>\n</html>\n"
    )


def script_texts() -> dict[str, str]:
    """Return what the page's script says."""
    return {
        "failed": t("This chart could not be drawn; its values are in the table of all records."),
        "none": t("No chart in this browser."),
        "records": t("records"),
        "hatched": t("hatched: modelled, the error bar shows its bounds"),
        "dashed": t("dashed, open marker: modelled"),
    }


def page_title(records: Sequence[Record]) -> str:
    """Return a heading that names the models and the machine."""
    models = list(by_model(records))
    told = ", ".join(models[:3]) + (t(" and {count} more", count=len(models) - 3) if len(models) > 3 else "")
    platforms = sorted({record.platform.label for record in records})
    if len(platforms) == 1:
        return t("{models} on {machine}", models=told, machine=platforms[0])
    return t("{models} on {count} machines", models=told, count=len(platforms))


def _head(heading: str, records: Sequence[Record], sections: Sequence[Section]) -> str:
    days = sorted({record.started_at[:10] for record in records})
    when = day(days[0]) if len(days) == 1 else t("{low} to {high}", low=day(days[0]), high=day(days[-1]))
    links = [("summary", t("Summary")), ("method", t("How it was measured"))]
    links += [(section.key, section.title) for section in sections if section.charts]
    links.append(("records-table", t("All records")))
    items = "".join(f'<li><a href="#{key}">{html.escape(text)}</a></li>' for key, text in links)
    one = t("Latency, power and energy of one configuration, measured {when}.", when=when)
    many = t("Latency, power and energy of {count} configurations, measured {when}.", count=len(records), when=when)
    fallback = t(
        "This browser cannot unpack the charts. Every value is in the table below; Chrome 80, Firefox 113, Safari 16.4 "
        "or newer also draw the charts."
    )
    scripts = t("Charts and sorting need JavaScript; every value is in the table below.")
    return (
        f'<header><p class="brand">wattwerk</p><h1>{heading}</h1>'
        f'<p class="lead">{escaped(one if len(records) == 1 else many)}</p>'
        f'<nav aria-label="{t("Sections")}"><ul>{items}</ul></nav>'
        f'<p class="notice" id="fallback" hidden>{escaped(fallback)}</p>'
        f'<noscript><p class="notice">{escaped(scripts)}</p></noscript>'
        "</header>\n"
    )


def _foot() -> str:
    told = t(
        "Made by wattwerk {version}. This file holds everything it shows and loads nothing. It contains plotly.js, "
        "© Plotly, Inc., under the MIT licence.",
        version=__version__,
    )
    return f"<footer>{escaped(told)}</footer>\n"


# --- summary ----------------------------------------------------------------------------------------------------------


def _summary(summary: Summary) -> str:
    several = len(summary.models) > 1
    models = "".join(_model(model, several) for model in summary.models)
    told = quick_sentence()
    words = "".join(f"<li>{escaped(sentence)}</li>" for sentence in summary.sentences if sentence != told)
    quick = f'<p class="notice">{html.escape(told)}</p>' if summary.quick else ""
    return (
        f'<section id="summary" aria-labelledby="summary-title"><h2 id="summary-title">{t("Summary")}</h2>'
        f'{models}{quick}<ul class="words">{words}</ul></section>\n'
    )


def _model(model: ModelSummary, several: bool) -> str:
    heading = f"<h3>{html.escape(model.model)}</h3>" if several else ""
    cards = "".join(_card(choice, model) for choice in model.choices)
    return f'<div class="model">{heading}<div class="cards">{cards}</div></div>'


def _card(choice: Choice, model: ModelSummary) -> str:
    small = []
    if choice.goal.startswith("energy") and model.energy_basis:
        small.append(model.energy_basis)
    if choice.low is not None and choice.high is not None:
        low, high = value_words(choice.figure, choice.low), value_words(choice.figure, choice.high)
        small.append(t("{low} to {high}", low=low, high=high))
    return (
        f'<div class="card"><p class="goal">{_goal(choice.goal)}</p>'
        f'<p class="value">{value_words(choice.figure, choice.value)}</p>'
        f'<p class="what">{html.escape(choice.configuration)}</p><p class="gain">{_gain(choice, model)}</p>'
        f'<p class="small">{unbroken("; ".join(small))}</p></div>'
    )


def _goal(goal: Goal) -> str:
    return {
        "latency": t("Fastest"),
        "throughput": t("Highest throughput"),
        "energy": t("Least energy per inference"),
        "energy_at_batch": t("Least energy, default's batch"),
    }[goal]


def _gain(choice: Choice, model: ModelSummary) -> str:
    if choice.record_id == model.default_id:
        return t("the default configuration")
    if choice.gain_ratio is None:
        return t("not comparable with the default")
    told = _gain_words(choice.goal, times(choice.gain_ratio))
    if choice.gain_significant is not False:
        return told
    if choice.provenance is Provenance.MODELLED:
        return t("{gain}, but the bounds overlap", gain=told)
    return t("no significant difference from the default")


def _gain_words(goal: Goal, gain: str) -> str:
    if goal == "latency":
        return t("{gain} faster than the default", gain=gain)
    return t("{gain} the default", gain=gain) if goal == "throughput" else t("{gain} less than the default", gain=gain)


# --- way of measuring and key -----------------------------------------------------------------------------------------


def _method(records: Sequence[Record]) -> str:
    blocks = [*machine_facts(records), (t("Procedure"), method_facts(records)), (t("Conditions"), conditions(records))]
    facts = "".join(_facts(title, lines) for title, lines in blocks if lines)
    intro = t(
        "Every figure carries where it comes from: measured, derived from measured values, or modelled within bounds. "
        "Modelled and measured values are never ranked against each other."
    )
    return (
        f'<section id="method" aria-labelledby="method-title"><h2 id="method-title">{t("How it was measured")}</h2>'
        f'<p class="intro">{escaped(intro)}</p>'
        f'<div class="facts">{facts}</div></section>\n'
    )


def _facts(title: str, lines: Sequence[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{unbroken(text)}</dd>" for name, text in lines)
    return f"<div><h3>{html.escape(title)}</h3><dl>{items}</dl></div>"


def _key(records: Sequence[Record], sections: Sequence[Section]) -> str:
    """Return the key to all charts: colour is precision, the marker is the runtime, hatching is a model."""
    shown = [record for record in records if record.status in (Status.OK, Status.INVALID)]
    present = sorted({record.setup.precision for record in shown}, key=precision_order)
    items = [
        f'<span class="swatch" style="background:var(--{p if p in PRECISIONS else "other"})"></span>{html.escape(p)}'
        for p in present
    ]
    curves = len({record.setup.batch for record in shown}) > 1
    if curves:
        symbols = lane_symbols(shown, Names(shown))
        items += [f"{_mark(symbol)}{html.escape(lane)}" for lane, symbol in symbols.items()]
    if any(is_modelled(figure) for record in shown for figure in record.figures.values()):
        items.append(f'<span class="swatch hatched"></span>{t("hatched: modelled, the error bar shows its bounds")}')
    if curves and any(is_modelled(r.figures[name]) for r in shown for name in EFFICIENCIES if name in r.figures):
        items.append(f"{_DASHED}{t('dashed, open marker: modelled')}")
    if any(record.status is Status.INVALID for record in shown):
        told = t("pale, “invalid”: throttled or drifting, never ranked")
        items.append(f'<span class="swatch invalid"></span>{told}')
    if any(has_published(chart.spec) for section in sections for chart in section.charts):
        told = t("published by others, never ranked")
        items.append(f'<span class="swatch published"></span>{told}')
    listed = "".join(f"<li>{item}</li>" for item in items)
    return f'<ul class="key" aria-label="{t("Key to the charts")}">{listed}</ul>\n'


def _mark(symbol: str) -> str:
    return f'<svg class="mark full" viewBox="0 0 16 16" aria-hidden="true">{_MARKS[symbol]}</svg>'


# --- charts -----------------------------------------------------------------------------------------------------------


def _section(section: Section, numbers: count[int]) -> str:
    charts = "".join(_chart(chart, next(numbers)) for chart in section.charts)
    content = f'<div class="charts">{charts}</div>' if charts else f'<p class="intro">{escaped(section.note)}</p>'
    intro = f'<p class="intro">{escaped(section.intro)}</p>' if charts else ""
    return (
        f'<section id="{section.key}" aria-labelledby="{section.key}-title">'
        f'<h2 id="{section.key}-title">{html.escape(section.title)}</h2>{intro}{content}</section>\n'
    )


def _downloads(chart: Chart) -> str:
    buttons = "".join(
        f'<button type="button" data-form="{form}" aria-label="{html.escape(told)}">{form.upper()}</button>'
        for form in ("png", "svg", "csv")
        for told in [t("{form} of {chart}", form=form.upper(), chart=chart.title)]
    )
    return f'<span class="downloads">{buttons}</span>'


def _chart(chart: Chart, number: int) -> str:
    return (
        f"<figure><figcaption><h3>{html.escape(chart.title)}</h3>{_downloads(chart)}</figcaption>"
        f'<div class="chart" role="img" aria-label="{html.escape(chart.alt)}" data-spec="{number}" '
        f'style="min-height:{chart.spec["height"]}px"><p class="waiting">{t("Drawing …")}</p></div></figure>'
    )
