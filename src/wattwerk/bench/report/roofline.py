"""Operations per second against what the device could do: the roofline, or bars where its bandwidth is not known."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Final

import msgspec

from wattwerk.bench.labels import Names, device_of, is_modelled, on_accelerator, precision_order
from wattwerk.bench.report.bars import Bar, Tick, bar_chart
from wattwerk.bench.report.base import Spec, base_layout, colour_of, lines, short
from wattwerk.bench.report.marks import BarGroups, Groups, bar_alt, bar_of, grouped, lane_symbols, series, why_none
from wattwerk.bench.report.published import Published, beside, published_bar
from wattwerk.bench.report.scatter import Axis, scaled
from wattwerk.bench.report.section import Chart, Section
from wattwerk.catalog.devices import find_accelerator
from wattwerk.catalog.traffic import bytes_moved, traffic_of
from wattwerk.language import t
from wattwerk.records import Record, Status
from wattwerk.units import format_value

_EFFECTIVE: Final = "effective_ops_per_s"
_SHARE: Final = "peak_share_ratio"
_PIPELINE: Final = " (pipeline)"


class _Place(msgspec.Struct, frozen=True):
    """Where a record stands over a roofline: operations per byte, layer by layer and at most."""

    record: Record
    intensity: float
    most: float


def rooflines(groups: Groups, names: Names, published: Sequence[Published] = ()) -> Section:
    """Return for each model and device a roofline, and bars where the bandwidth or the model's bytes are not known.

    Args:
        groups: Model -> its records.
        names: What they are called.
        published: Values of a study to lay beside.
    """
    symbols = lane_symbols([record for records in groups.values() for record in records], names)
    charts = []
    for model, records in groups.items():
        known = [record for record in records if record.value(_EFFECTIVE)]
        under, rest = _split(known)
        charts += [
            _roofline(f"{model} · {device}" if len(under) > 1 else model, places, bandwidth, names, symbols)
            for (device, bandwidth), places in under.items()
        ]
        laid = beside(published, "effective_rate", model)
        if rest or (laid and known):
            charts.append(_bars(model, rest or known, names, laid))
    return Section(
        "roofline",
        t("Operations per second against the peak"),
        t(
            "The roof is what the device can do at most: to the left its memory limits it, to the right its "
            "arithmetic at each precision. Lines run from the smallest to the largest batch size. The operations per "
            "byte are modelled, so the lines are dashed: marker: each heavy layer reads and writes memory; end of the "
            "error bar: only weights, inputs and outputs do. Bars: where the bandwidth or the bytes are not known; "
            "the diamond is the peak."
        ),
        tuple(charts),
        why_none(groups, _EFFECTIVE),
    )


# --- roofline ---------------------------------------------------------------------------------------------------------


def _split(records: Sequence[Record]) -> tuple[dict[tuple[str, float], list[_Place]], list[Record]]:
    """Return device and bandwidth -> records with a place under a roof, and the records without one."""
    under: dict[tuple[str, float], list[_Place]] = {}
    rest = []
    for record in records:
        bandwidth, place = bandwidth_of(record), _place(record)
        if bandwidth and place and peak_of(record):
            under.setdefault((record.platform.label, bandwidth), []).append(place)
        else:
            rest.append(record)
    return under, rest


def bandwidth_of(record: Record) -> float | None:
    """Return the memory bandwidth of the accelerator that ran the model, in bytes per second; None if not known."""
    names = {accelerator.name for accelerator in record.platform.accelerators}
    if len(names) != 1 or not on_accelerator(record):
        return None
    device = find_accelerator(names.pop())
    return device.bandwidth_gb_per_s * 1e9 if device and device.bandwidth_gb_per_s else None


def peak_of(record: Record) -> float | None:
    """Return the device's peak at the record's precision in operations per second: what its share is of."""
    effective, share = record.value(_EFFECTIVE), record.value(_SHARE)
    return effective / share if effective and share else None


def intensity_of(record: Record) -> tuple[float, float] | None:
    """Return operations per byte, layer by layer and at most; None where the bytes are not known.

    Only built-in models at their own input size are known: of others no graph is at hand.
    """
    traffic = traffic_of(record.subject.name.removesuffix(_PIPELINE)) if not record.subject.digest else None
    flops = record.subject.sample_flops
    if traffic is None or flops is None or flops != traffic.sample_flops:
        return None
    batch = record.setup.batch or 1
    moved = bytes_moved(traffic, _precision(record), batch)
    return (flops * batch / moved[0], flops * batch / moved[1]) if moved else None


def _precision(record: Record) -> str:
    return str(record.setup.effective.get("precision") or record.setup.precision)


def _place(record: Record) -> _Place | None:
    found = intensity_of(record)
    return _Place(record, *found) if found else None


def _roofline(title: str, places: Sequence[_Place], bandwidth: float, names: Names, symbols: dict[str, str]) -> Chart:
    """Return one chart: the roofs of the precisions that ran, and a line for each lane and precision."""
    roofs = _roofs(places)
    intensities = [value for place in places for value in (place.intensity, place.most)]
    ridge = max(roofs) / bandwidth
    x_range = min(*intensities, min(roofs) / bandwidth) / 2, max(*intensities, ridge) * 3
    values = [place.record.value(_EFFECTIVE) or 0.0 for place in places]
    _, x_axis = scaled(Axis("x_count", t("operations per byte, modelled")), x_range, log=True)
    y_axis = Axis(_EFFECTIVE, t("operations per second"))
    y_factor, y = scaled(y_axis, [min(values) / 1.5, max(roofs) * 1.6], log=True)
    layout = base_layout("")
    layout["xaxis"] |= x_axis
    layout["yaxis"] |= y
    ends = [10**end for end in x_axis["range"]]
    data = [_roof(peak, bandwidth, ends, y_factor) for peak in roofs]
    found = {place.record.id: place for place in places}
    for name, records in series([place.record for place in places], names).items():
        mine = [found[record.id] for record in records]
        data.append(_line(name, mine, names, symbols[names.lane(records[0])], y_factor))
    layout["annotations"] = [_roof_name(peak, precisions, ends[1], y_factor) for peak, precisions in roofs.items()] + [
        _slope_name(bandwidth, max(roofs), y_factor)
    ]
    return Chart(title, {"data": data, "layout": layout, "height": 380}, _alt(places, bandwidth))


def _roofs(places: Sequence[_Place]) -> dict[float, list[str]]:
    """Return peak -> the precisions that have it, the highest first."""
    roofs: dict[float, list[str]] = {}
    for place in sorted(places, key=lambda place: precision_order(_precision(place.record))):
        peak = float(f"{peak_of(place.record) or 0.0:.4g}")  # the share is rounded, so its peaks are as well
        precisions = roofs.setdefault(peak, [])
        if _precision(place.record) not in precisions:
            precisions.append(_precision(place.record))
    return dict(sorted(roofs.items(), reverse=True))


def _roof(peak: float, bandwidth: float, ends: Sequence[float], factor: float) -> Spec:
    xs = [ends[0], peak / bandwidth, ends[1]]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [short(x) for x in xs],
        "y": [short(min(peak, bandwidth * x) / factor) for x in xs],
        "line": {"color": "@muted", "width": 1.6},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _line(name: str, places: Sequence[_Place], names: Names, symbol: str, factor: float) -> Spec:
    """Return the records of a lane and precision, joined from the smallest to the largest batch size."""
    mine = sorted(places, key=lambda place: place.record.setup.batch or 1)
    colour = colour_of(mine[0].record.setup.precision)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": html.escape(name),
        "x": [short(place.intensity) for place in mine],
        "y": [short((place.record.value(_EFFECTIVE) or 0.0) / factor) for place in mine],
        "line": {"color": colour, "width": 1.6, "dash": "dash"},
        "marker": {
            "symbol": ["x-thin-open" if p.record.status is Status.INVALID else f"{symbol}-open" for p in mine],
            "size": 8,
            "color": colour,
            "line": {"width": 1.6, "color": colour},
        },
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [short(place.most - place.intensity) for place in mine],
            "arrayminus": [0.0 for _ in mine],
            "color": f"{colour}/50",
            "thickness": 1,
            "width": 3,
            "visible": True,
        },
        "hovertext": [lines(_hover(place, names)) for place in mine],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "showlegend": False,
    }


def _hover(place: _Place, names: Names) -> list[str]:
    record = place.record
    share = record.value(_SHARE)
    return [
        names.configuration(record),
        t(
            "{rate}, {share} of the peak",
            rate=format_value(_EFFECTIVE, record.value(_EFFECTIVE)),
            share=format_value(_SHARE, share),
        ),
        t(
            "{low} to {high} operations per byte (modelled)",
            low=format_value("x_count", float(f"{place.intensity:.3g}")),
            high=format_value("x_count", float(f"{place.most:.3g}")),
        ),
    ]


def _roof_name(peak: float, precisions: Sequence[str], x: float, factor: float) -> Spec:
    """Return the name of a roof, above its right end."""
    text = f"{', '.join(precisions)} {format_value(_EFFECTIVE, peak)}"
    return _note(text, x, peak / factor, "right", "bottom")


def _slope_name(bandwidth: float, peak: float, factor: float) -> Spec:
    """Return the name of the slope, to the left of its upper end, where no point can be."""
    text = f"{format_value('x_bytes', bandwidth)}/s"
    return _note(text, peak / bandwidth / 1.3, peak / factor / 1.3, "right", "bottom")


def _note(text: str, x: float, y: float, x_anchor: str, y_anchor: str) -> Spec:
    return {
        "x": math.log10(x),
        "y": math.log10(y),
        "text": html.escape(text),
        "showarrow": False,
        "xanchor": x_anchor,
        "yanchor": y_anchor,
        "font": {"size": 12, "color": "@text"},
    }


def _alt(places: Sequence[_Place], bandwidth: float) -> str:
    best = max(places, key=lambda place: place.record.value(_SHARE) or 0.0).record
    return t(
        "Roofline with a bandwidth of {bandwidth}: points: {count}. Nearest to its peak: {share} "
        "({runtime} {precision} at batch {batch}).",
        bandwidth=f"{format_value('x_bytes', bandwidth)}/s",
        count=len(places),
        share=format_value(_SHARE, best.value(_SHARE)),
        runtime=best.setup.runtime,
        precision=best.setup.precision,
        batch=best.setup.batch,
    )


# --- bars -------------------------------------------------------------------------------------------------------------


def _bars(model: str, records: Sequence[Record], names: Names, laid: Sequence[Published]) -> Chart:
    """Return the highest rate of each lane and precision, with the peak as a mark where it is known."""
    best: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=lambda r: (r.status is Status.OK, r.value(_EFFECTIVE) or 0.0)):
        best[names.lane(record), record.setup.precision] = record
    mine = list(best.values())
    groups: BarGroups = grouped(mine, names, lambda record: [_bar(record, names)])
    groups += [(value.platform, [_published(value)]) for value in laid]
    ticks = [
        Tick((names.lane(record), _label(record)), peak, _peak_words(record), "diamond", _EFFECTIVE)
        for record in mine
        if (peak := peak_of(record))
    ]
    axis = t("operations per second")
    return Chart(model, bar_chart(groups, _EFFECTIVE, title=axis, ticks=ticks), bar_alt(groups, axis))


def _label(record: Record) -> str:
    return f"{record.setup.precision} b{record.setup.batch}"


def _bar(record: Record, names: Names) -> Bar:
    """Return the rate with its share of the peak; a tilde where the peak is modelled."""
    bar = bar_of(record, _EFFECTIVE, names, label=_label(record))
    share = record.figures.get(_SHARE)
    if share is None or share.value is None:
        return bar
    told = f"{'~' if is_modelled(share) else ''}{format_value(_SHARE, share.value)}"
    return msgspec.structs.replace(bar, text=f"{bar.text}, {told}")


def _peak_words(record: Record) -> str:
    modelled = is_modelled(record.figures[_SHARE])
    where = device_of(record)
    return t("peak of {device}, modelled", device=where) if modelled else t("peak of {device}", device=where)


def _published(value: Published) -> Bar:
    return published_bar(value, _EFFECTIVE, label=t("published, b{batch}", batch=value.batch))
