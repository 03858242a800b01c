"""What people see of packing: a bar for what takes longer than a second, and what a stream is made of."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from wattwerk.terminal import err, out, say, value_text
from wattwerk.units import format_value

if TYPE_CHECKING:
    from wattwerk.codec.inspection import Inspection, TensorSummary
    from wattwerk.codec.model_packing import Packed
    from wattwerk.codec.model_unpacking import Unpacked
    from wattwerk.records import Record

_DELAY_S: Final = 1.0
_LONGEST_TEXT: Final = 200  # signs of a text that travels along; a packed graph has many more

#: What tools are called in a table, as far as their names are too long for it.
_SHORT: Final[Mapping[str, str]] = {
    "dependent quantisation": "dq",
    "temporal contexts": "tca",
    "byte planes": "bytes",
    "difference": "diff",
}


class WorkProgress:
    """A bar on the standard error output, once the work has taken a second; nothing without a terminal."""

    def __init__(self, shown: bool) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=err,
            transient=True,
            disable=not (shown and err.is_terminal),
        )
        self._task = self._progress.add_task("working", total=1.0)
        self._timer = threading.Timer(_DELAY_S, self._progress.start)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._timer.join()
        self._progress.stop()

    def __call__(self, what: str, share: float) -> None:
        """Show what is done at the moment, and which share of it is done."""
        self._progress.update(self._task, description=what, completed=share)


def print_packed(done: Packed) -> None:
    """Say what packing gave."""
    say(
        f"{done.input} → {done.output}: {size(done.input_bytes)} → {size(done.output_bytes)}, "
        f"{format_value('saved_ratio', done.saved_ratio)} less; {done.tensors_count} tensors, {_times(done)}"
    )


def print_unpacked(done: Unpacked) -> None:
    """Say what unpacking gave."""
    say(
        f"{done.input} → {done.output}: {size(done.input_bytes)} → {size(done.output_bytes)}; "
        f"{done.tensors_count} tensors, {_times(done)}"
    )


def _times(done: Packed | Unpacked) -> str:
    return f"{format_value('wall_s', done.wall_s)}, processor {format_value('cpu_s', done.cpu_s)}"


def size(count: float) -> str:
    """Write bytes for people."""
    return format_value("size_bytes", count)


def inspection_dict(name: str, found: Inspection, units: bool) -> dict[str, Any]:
    """Return an inspection as plain values for JSON; long texts are cut off."""
    told: dict[str, Any] = {"file": name, **msgspec.to_builtins(found)}
    told |= {"bits_per_weight": found.bits_per_weight, "ratio": found.ratio}
    told["metadata"] = {key: _cut(text) for key, text in (found.metadata or {}).items()}
    if not units:
        del told["units"]
    return told


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:40]}… ({len(text)} characters)"


def print_inspection(name: str, found: Inspection, units: bool) -> None:
    """Print what a stream is made of."""
    say(
        f"{name}: {size(found.size_bytes)}{' update' if found.update else ''}, {found.values / 1e6:.3g} M values, "
        f"{found.bits_per_weight:.3g} bits each; {found.ratio:.3g} times smaller than the {size(found.original_bytes)} "
        "of its tensors"
    )
    checked = "every payload decoded" if found.checked else "payloads not decoded"
    origin = f", from {found.container}" if found.container else ""
    say(f"Profile {found.profile}, {len(found.units)} units, {len(found.tensors)} tensors, {checked}{origin}")
    for key, text in (found.metadata or {}).items():
        say(f"{key}: {_cut(text)}")
    out.print()
    if units:
        out.print(_units_table(found))
        out.print()
    out.print(_tensors_table(found))
    if line := _legend(found):
        out.print()
        say(line)


def _units_table(found: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("Byte", "Size", "Header"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("Unit", no_wrap=True)
    table.add_column("Content", overflow="fold")
    for unit in found.units:
        numbers = (str(unit.offset_bytes), str(unit.size_bytes), str(unit.header_bytes))
        table.add_row(*numbers, unit.type, Text(unit.detail if unit.type == "NDU" else _cut(unit.detail)))
    return table


def _tensors_table(found: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Tensor", overflow="fold", min_width=12)
    table.add_column("Shape", overflow="fold", min_width=8)
    table.add_column("Type", no_wrap=True)
    for column in ("QP", "Zero", "Bits", "Share"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("Tools", overflow="fold", min_width=5)
    for tensor in found.tensors:
        table.add_row(*map(Text, _cells(tensor)))
    return table


def _cells(tensor: TensorSummary) -> list[str]:
    return [
        tensor.name,
        "×".join(map(str, tensor.shape)) or "scalar",
        tensor.dtype.replace("float", "f").replace("uint", "u").replace("int", "i"),
        "" if tensor.qp is None else str(tensor.qp),
        "" if tensor.zeros is None else f"{tensor.zeros:.0%}",
        f"{tensor.bits_per_weight:.2f}" if tensor.bits_per_weight else "",
        f"{tensor.share:.1%}",
        " ".join(_SHORT.get(tool, tool.replace("block ", "")) for tool in tensor.tools),
    ]


def _legend(found: Inspection) -> str:
    used = dict.fromkeys(tool for tensor in found.tensors for tool in tensor.tools if tool in _SHORT)
    return ", ".join(f"{_SHORT[tool]}: {tool}" for tool in used)


def print_transfer(record: Record) -> None:
    """Print the balance of a transfer: both ways side by side, what it saves, and up to which link rate."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(Text(record.subject.name), no_wrap=True, max_width=28)
    table.add_column("as it is", justify="right", no_wrap=True)
    table.add_column("packed", justify="right", no_wrap=True)
    table.add_column("bounds", justify="right", no_wrap=True)
    for title, raw, packed in _TRANSFER_ROWS:
        cells = [value_text(record, name) if name else "" for name in (raw, packed)]
        table.add_row(title, *cells, _bounds(record, packed))
    out.print(table, highlight=False)
    say(f"Saved: {value_text(record, 'saving_ratio')} of the energy{_within(record, 'saving_ratio')}")
    rate = record.figures["break_even_link_rate_bit_per_s"]
    if rate.value is None:
        say(f"No link rate from which that turns: {rate.note}")
    else:
        say(
            f"Packing pays below an upload of {value_text(record, 'break_even_link_rate_bit_per_s')}"
            f"{_within(record, 'break_even_link_rate_bit_per_s')}, the download in the same proportion"
        )
    setup = record.setup.protocol
    say(
        f"~ modelled: {format_value('up_bit_per_s', _number(setup, 'up_bit_per_s'))} up, "
        f"{format_value('down_bit_per_s', _number(setup, 'down_bit_per_s'))} down, "
        f"{_number(setup, 'sender_transfer_w'):g} W sending, {_number(setup, 'receiver_transfer_w'):g} W receiving "
        f"({setup['source']})"
    )
    say(f"Encoding: {record.figures['encode_energy_j'].provenance.value}, {record.figures['encode_energy_j'].note}")


_TRANSFER_ROWS: Final = (
    ("Size", "raw_size_bytes", "packed_size_bytes"),
    ("Time", "raw_transfer_s", "packed_transfer_s"),
    ("Energy to encode", "", "encode_energy_j"),
    ("Energy to send", "raw_transfer_energy_j", "send_energy_j"),
    ("Energy to decode", "", "decode_energy_j"),
    ("Energy in all", "raw_transfer_energy_j", "packed_transfer_energy_j"),
)


def _bounds(record: Record, name: str) -> str:
    figure = record.figures[name]
    if figure.low is None or figure.high is None:
        return ""
    return f"{format_value(name, figure.low)} … {format_value(name, figure.high)}"


def _within(record: Record, name: str) -> str:
    bounds = _bounds(record, name)
    return f" ({bounds})" if bounds else ""


def _number(setup: Mapping[str, Any], name: str) -> float:
    return float(setup[name])
