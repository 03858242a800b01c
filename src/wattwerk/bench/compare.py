"""Two sets of records side by side: speed-up, throughput and energy, each with its significance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from wattwerk.bench.labels import (
    BASES,
    EnergyBasis,
    Names,
    device_of,
    energy_on,
    estimate,
    option_words,
    scenario_of,
    streams_of,
    times,
)
from wattwerk.bench.naming import told_apart
from wattwerk.errors import ConfigError
from wattwerk.metering.statistics import Ratio, geometric_mean, ratio_of
from wattwerk.records import Record, Status

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_KEY: Final = ("model", "runtime", "precision", "batch", "device", "threads", "options", "scenario", "streams")


class Row(msgspec.Struct, frozen=True):
    """One pair of records; every ratio is above 1 where B is better.

    Attributes:
        configuration: What both have in common, in words.
        a_id: Id of the record of A.
        b_id: Id of the record of B.
        speed_up: Median latency of A over that of B; None where one has none.
        throughput: Throughput of B over that of A.
        energy: Energy per inference of A over that of B, of one scope and one class of provenance.
        energy_basis: What that energy covers, in words.
        regressions: What got worse by more than the tolerance: ``latency``, ``throughput``, ``energy``, ``status``.
        notes: What a reader has to know about this pair.
    """

    configuration: str
    a_id: str
    b_id: str
    speed_up: Ratio | None
    throughput: Ratio | None
    energy: Ratio | None
    energy_basis: str | None
    regressions: tuple[str, ...]
    notes: tuple[str, ...]


class Comparison(msgspec.Struct, frozen=True):
    """B against A.

    Attributes:
        rows: One for each pair.
        tolerance_ratio: How much worse B may be before that is a regression.
        only_in_a: Configurations without a counterpart in B.
        only_in_b: Configurations without a counterpart in A.
        differences: What differs where two single records are compared: ``precision: fp32 → int8``.
    """

    rows: tuple[Row, ...]
    tolerance_ratio: float
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    differences: tuple[str, ...]

    @property
    def regressed(self) -> bool:
        """Whether B is worse than A anywhere, beyond tolerance and noise."""
        return any(row.regressions for row in self.rows)

    def mean(self, metric: str) -> float | None:
        """Return the geometric mean of ``speed_up``, ``throughput`` or ``energy``; None where no pair has it."""
        values = [ratio.value for row in self.rows if (ratio := getattr(row, metric)) and ratio.value > 0]
        return geometric_mean(values) if values else None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        told: dict[str, Any] = msgspec.to_builtins(self)
        means = {f"{name}_mean_ratio": self.mean(name) for name in ("speed_up", "throughput", "energy")}
        return told | means | {"regressed": self.regressed}

    def table(self) -> Table:
        """Return the comparison as a table for ``rich``; its marks are words, so it reads well without colour."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(caption=escape(self._caption()), caption_justify="left")
        table.add_column("Configuration", overflow="fold", ratio=2)
        for heading in ("Speed-up", "Throughput", "Energy"):
            table.add_column(heading, justify="right")
        table.add_column("Verdict", overflow="fold", ratio=1)
        for row in self.rows:
            cells = (_cell(row.speed_up), _cell(row.throughput), _cell(row.energy))
            verdict = f"worse: {', '.join(row.regressions)}" if row.regressions else "; ".join(row.notes) or "fine"
            table.add_row(escape(row.configuration), *cells, escape(verdict), style="red" if row.regressions else None)
        return table

    def render(self, console: Console) -> None:
        """Print the table, what differs, and what has no counterpart."""
        from rich.markup import escape

        console.print(self.table())
        for title, lines in (
            ("Differs", self.differences),
            ("Only in A", self.only_in_a),
            ("Only in B", self.only_in_b),
        ):
            if lines:
                console.print(escape(f"{title}: {'; '.join(lines)}"))

    def _caption(self) -> str:
        bases = sorted({row.energy_basis for row in self.rows if row.energy_basis})
        energy = f" Energy: {'; '.join(bases)}." if bases else ""
        return f"Above 1× B is better; ~ marks what noise can explain. Tolerance {self.tolerance_ratio:.1%}.{energy}"


def _cell(ratio: Ratio | None) -> str:
    if ratio is None:
        return "–"
    return f"{'' if ratio.significant else '~'}{times(ratio.value)}"


def compare(a: Sequence[Record], b: Sequence[Record], *, tolerance_ratio: float = 0.05) -> Comparison:
    """Compare B with A, configuration by configuration.

    Records are matched by model, runtime, precision, batch, device, threads and options; of several with the same
    configuration the newest counts. Files of one name are told apart by content, then by path. A single record on each
    side is compared whatever differs.

    A pair has regressed where B is worse by more than the tolerance and the difference is significant; where a record
    carries no interval, the tolerance alone decides, because a check that cannot tell must not pass in silence.
    A configuration that ran in A and fails in B has regressed too.

    Args:
        a: The records compared with: the old state, the baseline.
        b: The records that are judged.
        tolerance_ratio: How much worse B may be, as a fraction.

    Raises:
        ConfigError: A side has no benchmarks, nothing matches, or the tolerance is not a fraction from 0 to below 1.
    """
    _check(a, b, tolerance_ratio)
    a, b = _benches(a, "A"), _benches(b, "B")
    a, b = told_apart(a), told_apart(b, like=a)
    names = Names([*a, *b])
    if len(a) == len(b) == 1:
        row = _row(a[0], b[0], names, tolerance_ratio)
        return Comparison((row,), tolerance_ratio, (), (), _differences(a[0], b[0]))
    left, right = _newest(a), _newest(b)
    rows = tuple(_row(left[key], right[key], names, tolerance_ratio) for key in sorted(left.keys() & right.keys()))
    if not rows:
        raise ConfigError("no configuration of A occurs in B", "compare two single records by their ids instead")
    return Comparison(
        rows,
        tolerance_ratio,
        tuple(_label(left[key], names) for key in sorted(left.keys() - right.keys())),
        tuple(_label(right[key], names) for key in sorted(right.keys() - left.keys())),
        (),
    )


def _check(a: Sequence[Record], b: Sequence[Record], tolerance_ratio: float) -> None:
    for side, records in (("A", a), ("B", b)):
        if not records:
            raise ConfigError(f"side {side} of the comparison has no records", "name a record, a sweep or a file")
    if not 0 <= tolerance_ratio < 1:
        raise ConfigError(f"a tolerance of {tolerance_ratio} is not possible", "use a fraction such as 0.05")


def _benches(records: Sequence[Record], side: str) -> list[Record]:
    """Return the records of benchmarks; transfers have neither latency nor throughput."""
    found = [record for record in records if record.kind == "bench"]
    if not found:
        kinds = ", ".join(sorted({record.kind for record in records}))
        raise ConfigError(
            f"side {side} of the comparison has records of kind {kinds} only, which have no latency to compare",
            "read them with `wattwerk results show ID`",
        )
    return found


def _fields(record: Record) -> dict[str, object]:
    """Return what records are matched by."""
    setup = record.setup
    values = (
        record.subject.name,
        setup.runtime,
        setup.precision,
        setup.batch,
        setup.device,
        setup.threads,
        option_words(setup.options),
        scenario_of(record),
        streams_of(record),
    )
    return dict(zip(_KEY, values, strict=True))


def _newest(records: Sequence[Record]) -> dict[tuple[str, ...], Record]:
    """Return key -> newest record; the batch is padded so that keys sort as numbers do."""
    found: dict[tuple[str, ...], Record] = {}
    for record in sorted(records, key=lambda record: record.finished_at):
        found[tuple(f"{value:09d}" if isinstance(value, int) else str(value) for value in _fields(record).values())] = (
            record
        )
    return found


def _differences(a: Record, b: Record) -> tuple[str, ...]:
    """Return what differs between two single records, beyond what was measured."""
    first = _fields(a) | {"platform": a.platform.label, "ran on": device_of(a)} | dict(a.setup.effective)
    second = _fields(b) | {"platform": b.platform.label, "ran on": device_of(b)} | dict(b.setup.effective)
    keys = [key for key in (first | second) if first.get(key) != second.get(key)]
    return tuple(f"{key}: {_shown(first.get(key))} → {_shown(second.get(key))}" for key in keys)


def _shown(value: object) -> str:
    return "–" if value in (None, "") else str(value)


def _label(record: Record, names: Names) -> str:
    return f"{record.subject.name}, {names.configuration(record)}"


def _row(a: Record, b: Record, names: Names, tolerance_ratio: float) -> Row:
    label = _label(a, names) if _fields(a) == _fields(b) else f"{_label(a, names)} → {_label(b, names)}"
    speed_up = throughput = energy = basis = None
    if {a.status, b.status} <= {Status.OK, Status.INVALID}:
        speed_up = _ratio(a, b, "latency_p50_s") or _ratio(a, b, "query_p50_s")
        throughput = _ratio(b, a, "throughput_per_s") or _ratio(b, a, "samples_per_s")
        basis = _shared_basis(a, b)
        energy = _ratio(a, b, basis.gross) if basis else None
    notes = [f"{side} {record.status.value}: {record.reason}" for side, record in (("A", a), ("B", b)) if record.reason]
    regressions: tuple[str, ...] = ()
    if a.status is Status.OK and b.status is Status.OK:
        modelled = bool(basis and basis.modelled)
        judged = (("latency", speed_up, False), ("throughput", throughput, False), ("energy", energy, modelled))
        regressions = tuple(
            word for word, ratio, of_model in judged if ratio and _worse(ratio, tolerance_ratio, of_model)
        )
        notes += _missing_notes(a, b, energy)
    elif a.status is Status.OK:  # what cannot be trusted any more may not pass in silence
        regressions = ("status",)
    return Row(
        label, a.id, b.id, speed_up, throughput, energy, basis.words if basis else None, regressions, tuple(notes)
    )


def _ratio(numerator: Record, denominator: Record, name: str) -> Ratio | None:
    above, below = estimate(numerator, name), estimate(denominator, name)
    return ratio_of(above, below) if above and below and below.value else None


def _shared_basis(a: Record, b: Record) -> EnergyBasis | None:
    """Return the widest measured basis that both have, or the widest modelled one."""
    return next((basis for basis in BASES if energy_on(a, basis) and energy_on(b, basis)), None)


def _worse(ratio: Ratio, tolerance_ratio: float, modelled: bool) -> bool:
    if ratio.significant is None and modelled:
        return False  # a model without bounds proves nothing
    return ratio.value < 1 / (1 + tolerance_ratio) and ratio.significant is not False


def _missing_notes(a: Record, b: Record, energy: Ratio | None) -> list[str]:
    """Say why there is no energy ratio although a side has energies, and which energy was lost from A to B."""
    notes = []
    basis = next((basis for basis in BASES if energy_on(a, basis)), None)
    lost = b.figures.get(basis.gross) if basis else None
    if basis and lost and lost.value is None:  # as where a meter fell silent: a narrower energy is compared, or none
        notes.append(f"B has no energy ({basis.words}): {lost.note}")
    if energy is None and any(energy_on(record, basis) for record in (a, b) for basis in BASES):
        notes.append("energies of different scope or provenance are not compared")
    return notes
