"""A running recorder in the terminal: channels with their course, power and energy so far, totals, faults.

    with Recorder(default_specs()) as recorder:
        watched = watch(recorder, duration_s=60)

In a terminal this is one table that renews itself; elsewhere a plain line every second. Ctrl-C ends it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.table import Table
from rich.text import Text

from wattwerk import terminal
from wattwerk.meters.live import Live
from wattwerk.meters.live_rows import KEEP_S, Floats, LiveRows, Row
from wattwerk.meters.recorder import Recorder
from wattwerk.meters.totals import SYSTEM, Total
from wattwerk.records import Provenance
from wattwerk.units import format_value

_REFRESH_S: Final = 0.5
_PLAIN_S: Final = 1.0
_BARS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_BARS: Final = ".:-=+*#@"
_FAULT_LINES: Final = 3
_NAME_WIDTH: Final = 24
_LEAST_SPARK: Final = 8
_WIDTHS: Final = {"Now": 8, "Mean": 8, "Peak": 8, "Energy": 8, "Age": 5}


class Watched(msgspec.Struct, frozen=True):
    """What was watched.

    Attributes:
        start_ns: When it began, as ``time.perf_counter_ns``.
        end_ns: When it ended.
        totals: Name of a scope, or ``system`` -> total at the end.
        faults: What went wrong, in words.
    """

    start_ns: int
    end_ns: int
    totals: dict[str, Total]
    faults: list[str]


class View:
    """What is drawn of what a recorder says now.

    Args:
        live: Follows the recorder.
        faults: Returns what went wrong so far, in words.
    """

    def __init__(self, live: Live, faults: Callable[[], Sequence[str]]) -> None:
        self.live = live
        self.faults = faults
        self.start_ns = time.perf_counter_ns()
        self._rows = LiveRows(live)

    def rows(self) -> list[Row]:
        """Return a line for each measured part, and then for each other gauge."""
        return self._rows.rows()

    def watched(self) -> Watched:
        """Return what was seen until now."""
        return Watched(self.start_ns, time.perf_counter_ns(), self.live.totals(), list(self.faults()))

    def render(self, console: Console, limit_s: float | None = None) -> RenderableType:
        """Return the view as it fits the terminal."""
        rows, totals, faults = self.rows(), self.live.totals(), list(self.faults())
        elapsed_s = (time.perf_counter_ns() - self.start_ns) / 1e9
        until = f" of {limit_s:g} s" if limit_s else ""
        room = max(2, console.height - len(_ordered(totals)) - min(len(faults), _FAULT_LINES + 1) - 6)
        head = Text(f"{elapsed_s:.0f} s{until} · Ctrl-C ends", style="dim")
        parts: list[RenderableType] = [head, _table(rows[:room], console)]
        if len(rows) > room:
            parts.append(Text(f"… and {len(rows) - room} more", style="dim"))
        parts += [Text(""), _totals_table(totals, console)]
        parts += [Text(line, style="yellow", no_wrap=True, overflow="ellipsis") for line in faults[:_FAULT_LINES]]
        if len(faults) > _FAULT_LINES:
            parts.append(Text(f"… and {len(faults) - _FAULT_LINES} more", style="yellow"))
        return Group(*parts)


def sparkline(course: Floats, width: int, bars: str = _BARS) -> str:
    """Draw values as bars between zero and the largest of them; what is not there is blank.

    Args:
        course: float64 (any,).
        width: Characters.
        bars: From the lowest to the highest.
    """
    pieces = np.array_split(course, width) if len(course) >= width else [course[i : i + 1] for i in range(width)]
    means = np.array([piece[np.isfinite(piece)].mean() if np.isfinite(piece).any() else np.nan for piece in pieces])
    if not np.isfinite(means).any():
        return " " * width
    top = max(float(np.nanmax(means)), 0.0)
    step = [0 if top == 0 else min(len(bars) - 1, max(0, int(mean / top * len(bars)))) for mean in np.nan_to_num(means)]
    return "".join(bars[s] if np.isfinite(mean) else " " for s, mean in zip(step, means, strict=True))


def _columns(width: int, rows: Sequence[Row]) -> tuple[list[str], int, int]:
    """Return which columns fit, how wide the names are, and what is left for the sparkline."""
    names = min(max((len(row.name) for row in rows), default=0), _NAME_WIDTH)
    names = max(names, len("Channel"))
    chosen = ["Now", "Mean", "Peak", "Energy", "Age"]
    if not any(row.age for row in rows):
        chosen.remove("Age")
    for dropped in ("Peak", "Mean", "Energy"):
        if width - names - sum(_WIDTHS[name] + 2 for name in chosen) < _LEAST_SPARK + 2:
            chosen.remove(dropped)
    left = width - names - 2 - sum(_WIDTHS[name] + 2 for name in chosen)
    return chosen, names, min(left, 2 * round(KEEP_S))


def _table(rows: Sequence[Row], console: Console) -> Table:
    chosen, names, spark = _columns(console.width, rows)
    bars = _BARS if "utf" in console.encoding.lower() else _PLAIN_BARS
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Channel", no_wrap=True, overflow="ellipsis", width=names)
    if spark >= _LEAST_SPARK:
        table.add_column(f"Last {KEEP_S:g} s", no_wrap=True, width=spark)
    for name in chosen:
        table.add_column(name, justify="right", no_wrap=True, width=_WIDTHS[name])
    for row in rows:
        cells = {
            "Now": row.mark + format_value(row.unit, row.now),
            "Mean": row.mark + format_value(row.unit, row.mean),
            "Peak": row.mark + format_value(row.unit, row.peak),
            "Energy": "" if math.isnan(row.energy_j) else row.mark + format_value("energy_j", row.energy_j),
            "Age": row.age,
        }
        course = [Text(sparkline(row.course, spark, bars), style="cyan")] if spark >= _LEAST_SPARK else []
        old = "yellow" if math.isnan(row.now) else ""
        table.add_row(Text(row.name), *course, *(Text(cells[name], style=old) for name in chosen))
    return table


def _totals_table(totals: dict[str, Total], console: Console) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Total", no_wrap=True, overflow="ellipsis", max_width=20)
    table.add_column("of", no_wrap=True, overflow="ellipsis", max_width=max(6, console.width - 42))
    for name in ("Now", "Energy"):
        table.add_column(name, justify="right", no_wrap=True, width=_WIDTHS[name])
    for scope, total in _ordered(totals):
        mark = "~" if total.provenance is Provenance.MODELLED else ""
        cells = mark + format_value("power_w", total.power_w), mark + _energy_text(total)
        style = "bold" if scope.startswith(SYSTEM) else ""
        table.add_row(Text(scope), Text(_made_of(total)), *map(Text, cells), style=style)
    return table


def _ordered(totals: dict[str, Total]) -> list[tuple[str, Total]]:
    """Return the totals, that of the system first; a scope that is all of it shares its line."""
    system = totals.get(SYSTEM)
    same = [scope for scope, total in totals.items() if scope != SYSTEM and system and total.parts == system.parts]
    first = [(", ".join([SYSTEM, *same]), system)] if system else []
    return first + [(scope, total) for scope, total in totals.items() if scope not in (SYSTEM, *same)]


def _energy_text(total: Total) -> str:
    """Write the energy; before any time has passed of which it is known, there is none, and not 0."""
    return format_value("energy_j", total.energy_j if math.isfinite(total.mean_w) else None)


def _made_of(total: Total) -> str:
    names = [name.removesuffix("_energy_j").removesuffix("_power_w") for name in total.parts]
    gap = f", {total.gap_s:.1f} s unknown" if total.gap_s >= 0.05 else ""
    return " + ".join(names) + gap


def summary_lines(watched: Watched) -> list[str]:
    """Return in words what was watched."""
    length_s = (watched.end_ns - watched.start_ns) / 1e9
    lines = [f"watched for {length_s:.1f} s"]
    for scope, total in _ordered(watched.totals):
        mark = "~" if total.provenance is Provenance.MODELLED else ""
        mean = f", {mark}{format_value('power_w', total.mean_w)} on average" if math.isfinite(total.mean_w) else ""
        lines.append(f"{scope} ({_made_of(total)}): {mark}{_energy_text(total)}{mean}")
    if any(total.provenance is Provenance.MODELLED for total in watched.totals.values()):
        lines.append("~ modelled from the load of the CPU, not measured")
    if len(_ordered(watched.totals)) > 1:
        lines.append("scopes overlap and are not to be added up")
    return lines + watched.faults


def plain_line(view: View) -> str:
    """Return the totals now as one line."""
    elapsed_s = (time.perf_counter_ns() - view.start_ns) / 1e9
    told = []
    for scope, total in _ordered(view.live.totals()):
        mark = "~" if total.provenance is Provenance.MODELLED else ""
        power, energy = format_value("power_w", total.power_w), _energy_text(total)
        told.append(f"{scope} {mark}{power} {mark}{energy}")
    faults = len(view.faults())
    more = [f"{faults} fault{'s' if faults > 1 else ''}"] if faults else []
    return "; ".join([f"{elapsed_s:.1f} s", *(told or ["no meter of power or energy"]), *more])


def watch(
    recorder: Recorder,
    *,
    duration_s: float | None = None,
    total: Sequence[str] = (),
    faults: Callable[[], Sequence[str]] | None = None,
    console: Console | None = None,
) -> Watched:
    """Show what a running recorder says, until Ctrl-C or for a time, and then what it was in all.

    Args:
        recorder: A running one.
        duration_s: How long; None until Ctrl-C.
        total: The channels that make up the system's total; by default those that lie inside no other.
        faults: Returns what else went wrong, in words, such as ``Streaming.faults``.
        console: Where to draw.

    Raises:
        ConfigError: A channel of ``total`` is not there.
        MeasurementError: The sampling process ended by itself.
    """
    console = console or terminal.out
    with Live(recorder, keep_s=KEEP_S, total=total) as live:
        view = View(
            live, lambda: [*(f"meter at fault: {one}" for one in recorder.faults), *(faults() if faults else [])]
        )
        with contextlib.suppress(KeyboardInterrupt):
            (_draw if console.is_terminal else _tell)(view, console, duration_s)
        watched = view.watched()
    for line in summary_lines(watched):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return watched


def _draw(view: View, console: Console, duration_s: float | None) -> None:
    with Screen(console=console, auto_refresh=False, transient=True) as screen:
        while _left_s(view, duration_s) > 0:
            screen.update(view.render(console, duration_s), refresh=True)
            time.sleep(min(_REFRESH_S, max(0.0, _left_s(view, duration_s))))


def _tell(view: View, console: Console, duration_s: float | None) -> None:
    while (left_s := _left_s(view, duration_s)) > 0:
        time.sleep(min(_PLAIN_S, left_s))
        console.print(plain_line(view), soft_wrap=True, highlight=False, markup=False)


def _left_s(view: View, duration_s: float | None) -> float:
    passed_s = (time.perf_counter_ns() - view.start_ns) / 1e9
    return math.inf if duration_s is None else duration_s - passed_s
