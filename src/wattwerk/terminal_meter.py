"""What people see of a measured command: a block of text like that of ``time``, good in 80 columns, without rich.

It is plain text, since a command's end should not wait for a library that draws tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from wattwerk.records import Figure, Provenance, Record
from wattwerk.units import format_value, unit_of

if TYPE_CHECKING:
    from wattwerk.metering.command import CommandOutcome

_WIDTH: Final = 80
_ENERGY: Final = "_energy_j"
_SYSTEM: Final = "system"
_KNOWN: Final = "from the load of the CPU"  # the legend says so already
_NOTHING: Final = "–"


def outcome_lines(outcome: CommandOutcome) -> list[str]:
    """Return what is told of a measured command.

    Args:
        outcome: With one run or several.
    """
    records = outcome.records
    if not records:
        return ["interrupted before the first run", *_fault_lines(outcome.faults)]
    figures = outcome.mean or records[-1].figures
    lines = [_shortened(records[0].subject.name, _WIDTH)]
    if outcome.mean:
        lines += ["", *_table([["run", "time", "CPU", "energy", "mean", ""], *map(_run_cells, enumerate(records, 1))])]
        lines += ["", f"mean of {len(records)} runs"]
    lines += _block(figures)
    if not outcome.mean and records[-1].reason:
        lines.append(records[-1].reason)
    return ["", *lines, *_fault_lines(outcome.faults), *_kept_line(outcome)]


def _block(figures: Mapping[str, Figure]) -> list[str]:
    lines = _table([["time", *_time_cells(figures)]])
    scopes = _scopes(figures)
    if scopes:
        lines += ["", *_table(_energy_rows(figures, scopes))]
    lines += ["", *_account_lines(figures)]
    return lines + _legend(figures, scopes)


def _time_cells(figures: Mapping[str, Figure]) -> list[str]:
    duration = figures["duration_s"]
    bounds = "" if duration.low is None else f"({time_text(max(0.0, duration.low))} to {time_text(duration.high)})"
    cpu, memory = figures.get("cpu_time_s"), figures.get("memory_peak_bytes")
    told = [f"{time_text(duration.value)} {bounds}".rstrip()]
    if cpu and cpu.value is not None:
        told.append(f"CPU {time_text(cpu.value)}")
    if memory and memory.value is not None:
        told.append(f"memory {format_value('memory_peak_bytes', memory.value)}")
    return told


def time_text(seconds: float | None) -> str:
    """Write a time for people: ``412 ms``, ``38.2 s``, ``1 h 02 min 05 s``."""
    if seconds is None or seconds < 100:
        return format_value("duration_s", seconds)
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours} h {minutes:02d} min {left:02d} s" if hours else f"{minutes} min {left:02d} s"


def _scopes(figures: Mapping[str, Figure]) -> dict[str, str]:
    """Return prefix -> what its line is called; a scope that is all of the system shares the system's line."""
    names = [name.removesuffix(_ENERGY) for name in figures if name.endswith(_ENERGY)]
    scopes = [name for name in names if not name.endswith(("_net", "_facility")) and name != _SYSTEM]
    system = figures.get(_SYSTEM + _ENERGY)
    same = [name for name in scopes if system and system.value is not None and _alike(figures[name + _ENERGY], system)]
    first = {_SYSTEM: ", ".join([_SYSTEM, *same])} if system else {}
    return first | {name: name for name in scopes if name not in same}


def _alike(one: Figure, other: Figure) -> bool:
    return (one.value, one.low, one.high) == (other.value, other.low, other.high)


def _energy_rows(figures: Mapping[str, Figure], scopes: Mapping[str, str]) -> list[list[str]]:
    net = any(f"{prefix}_net{_ENERGY}" in figures for prefix in scopes)
    rows = [["energy", "gross", "from … to", *(["net"] if net else []), "mean", "peak"]]
    for prefix, label in scopes.items():
        energy = figures[prefix + _ENERGY]
        names = [*([f"{prefix}_net{_ENERGY}"] if net else []), f"{prefix}_power_w", f"{prefix}_peak_power_w"]
        cells = [figure_text(name, figures.get(name)) for name in names]
        rows.append([label, figure_text(prefix + _ENERGY, energy), _bounds(prefix + _ENERGY, energy), *cells])
    return rows


def figure_text(name: str, figure: Figure | None) -> str:
    """Write a figure for a table; a modelled one is marked with a tilde."""
    if figure is None or figure.value is None:
        return _NOTHING
    return ("~" if figure.provenance is Provenance.MODELLED else "") + format_value(name, figure.value)


def _bounds(name: str, figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return ""
    return f"{format_value(name, figure.low)} … {format_value(name, figure.high)}"


def _account_lines(figures: Mapping[str, Figure]) -> list[str]:
    """Return CO2 and cost of the system, each with the value that it was computed with."""
    rows = []
    for name, figure in figures.items():
        if not name.startswith((f"{_SYSTEM}_co2_", f"{_SYSTEM}_cost_")) or figure.value is None:
            continue
        word = "CO2" if "_co2_" in name else "cost"
        rows.append([word, _money_text(name, figure), _factors(figure.note)])
    return [_shortened(line, _WIDTH) for line in _table(rows, right=False)]


def _money_text(name: str, figure: Figure) -> str:
    """Write what can be far below a cent."""
    value = figure.value or 0.0
    if unit_of(name) == "g" or value == 0 or abs(value) >= 1e-3:
        return figure_text(name, figure)
    return f"~{value:.2e} {unit_of(name).upper()}"


def _factors(note: str | None) -> str:
    """Return the factors of a note, without their sources: those are in the record."""
    parts = [part.strip() for part in (note or "").split(";")]
    found = [part for part in parts if "/kWh" in part or (part.startswith("PUE") and not part.startswith("PUE 1 ("))]
    return ", ".join(part + ")" * (part.count("(") - part.count(")")) for part in found)


def _legend(figures: Mapping[str, Figure], scopes: Mapping[str, str]) -> list[str]:
    energies = [figures[prefix + _ENERGY] for prefix in scopes]
    lines = []
    if any(energy.provenance is Provenance.MODELLED for energy in energies):
        lines.append("~ modelled, not measured: energy from the load of the CPU, CO2 and cost from it")
    else:
        lines.append("~ modelled")
    if len(scopes) > 1:
        lines.append("scopes overlap and are not to be added up")
    notes = [
        (label, energy.note or "")
        for label, energy in zip(scopes.values(), energies, strict=True)
        if energy.value is not None
    ]
    told = [(label, "; ".join(part for part in note.split("; ") if part != _KNOWN)) for label, note in notes]
    lines += [f"{label}: {note}" for label, note in told if note]
    missing = [
        f"{prefix}: {figures[prefix + _ENERGY].note}" for prefix in scopes if figures[prefix + _ENERGY].value is None
    ]
    return lines + [f"no energy of {reason}" for reason in missing]


def _run_cells(numbered: tuple[int, Record]) -> list[str]:
    number, record = numbered
    figures = record.figures
    names = (f"{_SYSTEM}{_ENERGY}", f"{_SYSTEM}_power_w")
    cpu = figures.get("cpu_time_s")
    times = time_text(figures["duration_s"].value), time_text(cpu.value if cpu else None)
    return [str(number), *times, *(figure_text(name, figures.get(name)) for name in names), record.reason]


def _table(rows: Sequence[Sequence[str]], *, right: bool = True) -> list[str]:
    """Return rows as aligned text; all columns but the first go to the right where ``right``."""
    count = max((len(row) for row in rows), default=0)
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(count)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index == 0 or not right else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _fault_lines(faults: Iterable[str]) -> list[str]:
    return [f"at fault: {' '.join(fault.split())}" for fault in faults]


def _kept_line(outcome: CommandOutcome) -> list[str]:
    if any(fault.startswith("not stored") for fault in outcome.faults):
        return []
    last = outcome.records[-1]
    reference = last.group if len(outcome.records) > 1 else last.id
    return [f"record {reference[:6]}; wattwerk results show {reference[:6]} tells all"]


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
