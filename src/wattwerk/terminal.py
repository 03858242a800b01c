"""What people see in a terminal: tables, a progress line, errors; good in 80 columns and without colour."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from wattwerk.errors import WattwerkError
from wattwerk.records import Figure, Provenance, Record, Status, Subject, faults_of
from wattwerk.units import format_value, rough_time

if TYPE_CHECKING:
    from wattwerk.bench.forecast import Forecast
    from wattwerk.bench.scenario import Configuration
    from wattwerk.registry import Probe

out = Console()
err = Console(stderr=True)

_MARKS = {Status.OK: "", Status.INVALID: "invalid", Status.FAILED: "failed", Status.OUT_OF_MEMORY: "no memory",
          Status.UNSUPPORTED: "unsupported", Status.SKIPPED: "skipped"}  # fmt: skip

#: Where there is no progress line, the time left is told no more often than this.
_TOLD_EVERY_S = 60.0

#: What the subject of a kind of record is, where it is no model.
_SUBJECTS = {"command": "Command", "region": "Region"}

#: Energies from the widest scope to the narrowest measured one; a table shows the first that is there.
_ENERGIES = ("wall", "node", "board", "gpu", "cpu")


def print_json(value: Any) -> None:
    """Write a value as indented JSON to the standard output, and nothing else."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def say(line: str) -> None:
    """Write one line of plain words, whatever signs a name in it has."""
    out.print(line, soft_wrap=True, highlight=False, markup=False)


def print_error(error: WattwerkError) -> None:
    """Write an error to the standard error output as one line: what failed, and what to do."""
    line = " ".join(str(error).split())
    err.print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)


def shown_energy(record: Record) -> tuple[str, Figure] | None:
    """Return scope word and figure of the energy per inference that a table shows; measured goes before modelled."""
    found = [(word, record.figures.get(f"{word}_energy_per_inference_j")) for word in _ENERGIES]
    usable = [(word, figure) for word, figure in found if figure is not None and figure.value is not None]
    usable.sort(key=lambda pair: pair[1].provenance is Provenance.MODELLED)
    return usable[0] if usable else None


def value_text(record: Record, name: str) -> str:
    """Write a figure for a table; a modelled one is marked with a tilde."""
    figure = record.figures.get(name)
    if figure is None or figure.value is None:
        return "–"
    return ("~" if figure.provenance is Provenance.MODELLED else "") + format_value(name, figure.value)


def energy_text(record: Record) -> str:
    """Write the energy of one inference with its scope."""
    shown = shown_energy(record)
    if shown is None:
        return "–"
    return f"{value_text(record, f'{shown[0]}_energy_per_inference_j')} {shown[0].upper()}"


def records_table(records: Sequence[Record], *, with_id: bool) -> Table:
    """Return a table with a line for each record."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    if with_id:
        table.add_column("Id", style="dim", no_wrap=True)
    table.add_column("Model", overflow="fold", min_width=8)
    table.add_column("Runtime", overflow="fold", min_width=8)
    table.add_column("Prec.", no_wrap=True)
    accurate = any(_accuracy(record) for record in records)
    for name in ("Batch", "p50", "1/s", "Energy", *(["Acc."] if accurate else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for record in _told_apart(records):
        cells = [*([record.id[:6]] if with_id else []), *_cells(record)]
        if accurate:
            cells.append(format_value("accuracy_ratio", found[1].value) if (found := _accuracy(record)) else "")
        table.add_row(*map(Text, cells), style=_style(record))
    return table


def _accuracy(record: Record) -> tuple[str, Figure] | None:
    from wattwerk.bench.accuracy_words import main_accuracy

    return main_accuracy(record)


def _accuracy_lines(records: Sequence[Record]) -> list[str]:
    """Return what the column of accuracy holds, and why it is empty where it is."""
    from wattwerk.bench.accuracy_words import MAIN

    found = [(record, pair) for record in records if (pair := _accuracy(record)) is not None]
    words = [MAIN[name] for _, (name, figure) in found if figure.value is not None]
    told = [f"Acc.: {word if word != 'agreement' else 'agreement with fp32'}" for word in dict.fromkeys(words)]
    return told + [f"no accuracy: {_name(r)}: {figure.note}" for r, (_, figure) in found if figure.value is None]


def _cells(record: Record) -> list[str]:
    setup = record.setup
    load = str(setup.protocol.get("scenario") or "")
    streams = f"{count} streams" if (count := setup.protocol.get("concurrent_streams")) else ""
    head = [
        f"{record.subject.name} {load}{streams}".strip(),
        _runtime_of(record),
        setup.precision,
        str(setup.batch or ""),
    ]
    if not record.figures:
        return [*head, _MARKS[record.status], "", ""]
    if record.kind == "transfer":
        return [*head, "", "", _transfer_text(record)]
    if record.kind in ("command", "region"):
        return [*head, "", "", f"{value_text(record, 'system_energy_j')} in {value_text(record, 'duration_s')}"]
    mark = "!" if record.status is Status.INVALID else ""
    rate = value_text(record, "samples_per_s" if load else "throughput_per_s").removesuffix(" 1/s")
    return [*head, mark + _median_text(record), rate, energy_text(record)]


def _median_text(record: Record) -> str:
    """Write the median latency: of an iteration, or of a query under a load."""
    return value_text(record, "query_p50_s" if record.setup.protocol.get("scenario") else "latency_p50_s")


def _transfer_text(record: Record) -> str:
    """Write the energy of a packed transfer, and how far it is from that of a raw one."""
    saving = record.figures.get("saving_ratio")
    change = "" if saving is None or saving.value is None else f" ({-saving.value:+.0%} by packing)"
    return value_text(record, "packed_transfer_energy_j") + change


def _style(record: Record) -> str:
    return {Status.OK: "", Status.INVALID: "yellow"}.get(record.status, "red")


def legend(records: Sequence[Record]) -> list[str]:
    """Return the lines that explain the marks of a table, only those that are needed."""
    lines, records = [], _told_apart(records)
    if any(f.provenance is Provenance.MODELLED for r in records for f in r.figures.values()):
        lines.append("~ modelled from the load of the CPU, not measured")
    lines += _accuracy_lines(records)
    lines += [f"! invalid: {_name(r)}: {r.reason}" for r in records if r.status is Status.INVALID]
    lines += [f"meter at fault: {fault}" for fault in faults_of(records)]
    return [*dict.fromkeys(lines), *_without_figures(records)]


def _without_figures(records: Sequence[Record]) -> list[str]:
    """Return a line for each reason for which there are no figures."""
    names: dict[tuple[Status, str], list[str]] = {}
    for record in records:
        if record.reason and not record.figures:
            names.setdefault((record.status, record.reason), []).append(_name(record))
    return [
        f"{_MARKS[status]}: {each[0]}{f' and {len(each) - 1} more' if len(each) > 1 else ''}: {reason}"
        for (status, reason), each in names.items()
    ]


def _told_apart(records: Sequence[Record]) -> list[Record]:
    from wattwerk.bench.naming import told_apart

    return told_apart(records)


def _name(record: Record) -> str:
    setup = record.setup
    streams = f", {count} streams" if (count := setup.protocol.get("concurrent_streams")) else ""
    load = f", {scenario}" if (scenario := setup.protocol.get("scenario")) else ""
    return f"{record.subject.name}, {_runtime_of(record)} {setup.precision}, batch {setup.batch}{load}{streams}"


def _runtime_of(record: Record) -> str:
    """Return the runtime, with how photos were processed around it where they were."""
    processing = record.setup.protocol.get("processing")
    return f"{record.setup.runtime} {processing}" if processing else record.setup.runtime


def record_page(record: Record) -> list[Table]:
    """Return one record as two tables: what, where and how, and the figures."""
    head = Table(box=None, pad_edge=False, show_header=False)
    head.add_column(style="bold", no_wrap=True)
    head.add_column(overflow="fold")
    for key, value in _facts(record).items():
        head.add_row(key, Text(value))
    figures = Table(box=None, pad_edge=False, header_style="bold")
    figures.add_column("Figure", no_wrap=True)
    figures.add_column("Value", justify="right", no_wrap=True)
    figures.add_column("95 % / bounds", justify="right", overflow="fold")
    figures.add_column("", no_wrap=True)
    for name, figure in record.figures.items():
        bounds = (
            f"{format_value(name, figure.low)} … {format_value(name, figure.high)}" if figure.low is not None else ""
        )
        figures.add_row(name, format_value(name, figure.value), bounds, figure.provenance.value)
    return [head, figures]


def _facts(record: Record) -> dict[str, str]:
    setup, subject = record.setup, record.subject
    effective = ", ".join(f"{key} {value}" for key, value in setup.effective.items() if value is not None)
    series = "series" if record.kind in _SUBJECTS else "sweep"
    facts = {
        "Record": f"{record.id} of {series} {record.group}, {record.started_at}",
        "Status": record.status.value + (f": {record.reason}" if record.reason else ""),
        _SUBJECTS.get(record.kind, "Model"): f"{subject.name} {subject.task}".strip()
        + (f", SHA-256 {subject.digest}" if subject.digest else ""),
        "Size": _size(subject),
        "Machine": f"{record.platform.label}, {record.platform.os}",
        "Setup": f"{setup.runtime} {setup.precision}, batch {setup.batch}, {setup.device}" if setup.runtime else "",
        "Effective": effective,
        "Meters": "; ".join(setup.faults),
        "Limits": ", ".join(f"{name} {format_value(name, value)}" for name, value in record.platform.limits.items()),
        "Load": _load_text(setup.protocol),
        "Logs": str(setup.protocol.get("logs") or ""),
        "Protocol": _protocol(record),
    }
    return {key: value for key, value in facts.items() if value}


def _size(subject: Subject) -> str:
    if subject.parameters_count is None and subject.sample_flops is None:
        return ""
    flops = format_value("sample_flops", subject.sample_flops)
    return f"{(subject.parameters_count or 0) / 1e6:.1f} M parameters, {flops} a sample"


def _protocol(record: Record) -> str:
    protocol = record.setup.protocol
    if record.kind in _SUBJECTS:
        return ", ".join(f"{key} {value}" for key, value in protocol.items() if value is not None)
    return "quick: short energy windows" if protocol.get("quick") else "full"


def _load_text(protocol: Mapping[str, Any]) -> str:
    """Write scenario, limit, length and verdict of a load; empty where there is none."""
    if not protocol.get("scenario"):
        return ""
    percent, limit = protocol.get("latency_percentile"), protocol.get("latency_limit_s")
    limited = f"limit {format_value('limit_s', limit)} at {percent:g} % ({protocol['latency_limit_source']})"
    version = f"LoadGen {protocol.get('loadgen')} says {protocol.get('verdict')}"
    return "; ".join(
        (
            str(protocol["scenario"]),
            *([limited] if limit else []),
            f"{protocol.get('load_mode')} ({protocol.get('min_duration_s'):g} s, {protocol.get('min_query_count')} "
            f"{'samples' if protocol['scenario'] == 'offline' else 'queries'})",
            *([version] if protocol.get("verdict") else []),
        )
    )


def probes_table(title: str, probes: dict[str, Probe]) -> Table:
    """Return what a room has to offer here: available or not, what was found, and the remedy.

    A meter also says whether a measurement uses it, and if not although it could, why.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("Found, or reason and remedy", overflow="fold")
    for name, probe in probes.items():
        used = getattr(probe, "used", None)
        detail = Text(probe.detail)
        if reason := getattr(probe, "reason", ""):
            detail.append(f"\n{'not all of it' if used else 'not used'}: {reason}")
        if probe.remedy:
            detail.append(f"\n→ {probe.remedy}", style="dim")
        table.add_row(name, _mark(probe.available, used), detail)
    return table


def _mark(available: bool, used: bool | None) -> Text:
    """Return whether a back end works; of a meter also whether it is used, or is to be used and does not work."""
    if not available:
        return Text("fails", style="red") if used else Text("no", style="yellow")
    if used is None:
        return Text("yes", style="green")
    return Text("used", style="green") if used else Text("off")


def print_examination(found: dict[str, dict[str, Probe]]) -> None:
    """Print what ``wattwerk doctor`` found."""
    for title, probes in found.items():
        out.print(probes_table(title.capitalize(), probes))
        out.print()


def models_table(found: Sequence[dict[str, Any]]) -> Table:
    """Return the built-in models as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Model", no_wrap=True)
    table.add_column("Task", no_wrap=True)
    for name in ("Parameters", "Operations", "Input"):
        table.add_column(name, justify="right", no_wrap=True)
    for subject in found:
        size = f"{subject['parameters_count'] / 1e6:.2f} M"
        shapes = ", ".join("×".join(str(d) for d in shape[1:]) for shape in subject["inputs"].values())
        operations = format_value("sample_flops", subject["sample_flops"])
        table.add_row(subject["name"], subject["task"], size, operations, shapes)
    return table


def forecast_table(forecast: Forecast) -> Table:
    """Return what a sweep will do, a line for each configuration; what will not run is dim."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Configuration", overflow="fold")
    for name in ("Iteration", "Time", "At least", "At most"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("From", overflow="fold")
    for row in forecast.rows:
        its = row.expected
        bounds = (rough_time(its.low_s), rough_time(its.high_s)) if not row.reason else ("", "")
        whole = "too long" if row.reason else rough_time(its.total_s)
        iteration = format_value("iteration_s", its.iteration_s, 2)
        cells = (row.configuration.label(), iteration, whole, *bounds, "; ".join((its.basis, *its.more)))
        table.add_row(*map(Text, cells), style="dim" if row.reason else "")
    return table


class SweepProgress:
    """A progress line on the standard error output; a plain line for each result where there is no terminal."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._label = ""
        self._done: list[Record] = []
        self._next_told_s = time.monotonic() + _TOLD_EVERY_S
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=err,
            transient=True,
            disable=not (shown and err.is_terminal),
        )
        self._task = self._progress.add_task("measuring the idle machine", total=None, left="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, configuration: Configuration, index: int, count: int) -> None:
        """Show which configuration runs."""
        self._label = configuration.label()
        self._progress.update(self._task, completed=index - 1, total=count)
        self.phase("starting")

    def phase(self, text: str) -> None:
        """Show what is going on within the configuration."""
        self._progress.update(self._task, description=self._short(" · ".join(filter(None, (text, self._label)))))

    def finished(self, record: Record) -> None:
        """Show the result."""
        self._progress.advance(self._task)
        self._done.append(record)
        if self._shown:
            told = _MARKS[record.status] or f"{_median_text(record)}, {energy_text(record)}"
            if record.figures and record.status is Status.INVALID:
                told = f"{_median_text(record)}, invalid"
            self._progress.console.print(
                f"{_name(_told_apart(self._done)[-1])}: {told}", soft_wrap=True, highlight=False, markup=False
            )

    def planned(self, sentence: str) -> None:
        """Show what the sweep will do."""
        if self._shown:
            self._progress.console.print(sentence, soft_wrap=True, highlight=False, markup=False)

    def expects(self, left_s: float) -> None:
        """Show how long the rest is expected to take."""
        self._progress.update(self._task, left=f"{rough_time(left_s)} left")
        if self._shown and not err.is_terminal and time.monotonic() >= self._next_told_s:
            self._next_told_s = time.monotonic() + _TOLD_EVERY_S
            err.print(f"about {rough_time(left_s)} left", highlight=False)

    def warned(self, text: str) -> None:
        """Show a warning; on the standard error output, so also beside JSON."""
        self._progress.console.print(f"warning: {text}", soft_wrap=True, highlight=False, markup=False)

    @staticmethod
    def _short(text: str) -> str:
        width = max(20, err.width - 54)
        return text if len(text) <= width else text[: width - 1] + "…"
