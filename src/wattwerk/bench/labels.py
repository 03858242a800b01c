"""What things are called, and which energy is compared: shared by the summary, the comparison and the report."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from wattwerk.language import localised, t
from wattwerk.metering.statistics import Estimate
from wattwerk.records import Figure, Provenance, Record, Status

PRECISIONS: Final = ("fp32", "tf32", "bf16", "fp16", "int8")

#: what a person starts from who has made no choice yet
_RUNTIMES: Final = ("torch", "onnxruntime", "openvino")


#: likewise, the plainest first
_PROCESSINGS: Final = ("", "sequential", "vectorised", "overlapped")


class EnergyBasis(msgspec.Struct, frozen=True):
    """One kind of energy or power that records can be compared by: one scope, one class of provenance.

    Attributes:
        prefix: First word of the figures' names: ``wall``, ``gpu``, ``system``, …
        modelled: Whether the values come from a model; the two classes are never compared with one another.
    """

    prefix: str
    modelled: bool

    @property
    def gross(self) -> str:
        """Name of the gross energy of one inference."""
        return f"{self.prefix}_energy_per_inference_j"

    @property
    def net(self) -> str:
        """Name of the net energy of one inference."""
        return f"{self.prefix}_net_energy_per_inference_j"

    @property
    def words(self) -> str:
        """What the energy covers, for a sentence."""
        provenance = Provenance.MODELLED if self.modelled else Provenance.MEASURED
        return f"{scope_words(self.prefix)}, {provenance_words(provenance)}"


def scope_words(prefix: str) -> str:
    """Return what a figure with this first word of its name covers, for a sentence."""
    return {
        "wall": t("at the wall"),
        "node": t("whole node"),
        "board": t("whole board"),
        "system": t("system"),
        "gpu": t("accelerator"),
        "cpu": t("processor package"),
        "dram": t("memory"),
    }[prefix]


def provenance_words(provenance: Provenance) -> str:
    """Return a provenance in the current language."""
    return {
        Provenance.MEASURED: t("measured"),
        Provenance.DERIVED: t("derived"),
        Provenance.MODELLED: t("modelled"),
        Provenance.UNAVAILABLE: t("unavailable"),
    }[provenance]


def status_words(status: Status) -> str:
    """Return a status in the current language."""
    return {
        Status.OK: t("ok"),
        Status.INVALID: t("invalid"),
        Status.FAILED: t("failed"),
        Status.OUT_OF_MEMORY: t("out of memory"),
        Status.UNSUPPORTED: t("unsupported"),
        Status.SKIPPED: t("skipped"),
    }[status]


def processing_words(processing: str) -> str:
    """Return a way of processing photos in the current language."""
    known = {"sequential": t("sequential"), "vectorised": t("vectorised"), "overlapped": t("overlapped")}
    return known.get(processing, processing)


#: the widest scope first, because the widest is what is paid for; what is measured comes before what is modelled
BASES: Final = tuple(
    EnergyBasis(prefix, modelled)
    for modelled in (False, True)
    for prefix in ("wall", "node", "board", "system", "gpu", "cpu")
)


def is_modelled(figure: Figure) -> bool:
    """Tell whether a value comes from a model; a value derived from measured ones does not."""
    return figure.provenance is Provenance.MODELLED


def estimate(record: Record, name: str) -> Estimate | None:
    """Return a figure with its bounds; None if the record has no value for it."""
    figure = record.figures.get(name)
    if figure is None or figure.value is None:
        return None
    return Estimate(figure.value, figure.low, figure.high)


def on_accelerator(record: Record) -> bool:
    """Tell whether the model ran on something other than the processor."""
    return "cpu" not in device_of(record).lower()


def device_of(record: Record) -> str:
    """Return the device that really ran the model."""
    return str(record.setup.effective.get("device") or record.setup.device)


def energy_on(record: Record, basis: EnergyBasis) -> Estimate | None:
    """Return the gross energy of one inference on a basis; None if the record does not have exactly this kind.

    The accelerator's energy says nothing about a model that ran on the processor, so it is left out there.
    """
    figure = record.figures.get(basis.gross)
    if figure is None or figure.value is None or is_modelled(figure) != basis.modelled:
        return None
    if basis.prefix == "gpu" and not on_accelerator(record):
        return None
    return estimate(record, basis.gross)


def common_basis(records: Sequence[Record]) -> EnergyBasis | None:
    """Return the basis that energies are compared on: the widest measured one that at least half the records have.

    Where none reaches half, the one that most records have. None where no record has any energy.
    """
    counts = {basis: sum(energy_on(record, basis) is not None for record in records) for basis in BASES}
    for basis, count in counts.items():
        if count and 2 * count >= len(records):
            return basis
    best = max(BASES, key=lambda basis: counts[basis])
    return best if counts[best] else None


def ranked(records: Iterable[Record]) -> list[Record]:
    """Return the records that may be ranked: those that ended well."""
    return [record for record in records if record.status is Status.OK]


def precision_order(precision: str) -> int:
    """Return the place of a precision in every list and chart."""
    return PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)


def lane_order(lane: str, precision: str = "") -> tuple[list[tuple[int, str]], int]:
    """Return the key by which lanes and their precisions are sorted: 4 streams stand before 16."""
    parts = [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", lane) if part]
    return parts, precision_order(precision)


def default_of(records: Sequence[Record]) -> Record | None:
    """Return what a person gets who chooses nothing: the plainest runtime, fp32, the smallest batch.

    The order of a sweep is random, so the runtime is chosen by name (torch, then onnxruntime, then openvino, then the
    first that occurs), and the one with the fewest options and the plainest processing.

    Args:
        records: Records of one model.
    """
    order = [*_RUNTIMES, *(record.setup.runtime for record in records)]

    def rank(record: Record) -> tuple[int, int, int, int, int]:
        setup = record.setup
        return (
            precision_order(setup.precision),
            setup.batch or 0,
            order.index(setup.runtime),
            len(setup.options) + (setup.threads is not None) + streams_of(record),
            _PROCESSINGS.index(processing_of(record)) if processing_of(record) in _PROCESSINGS else len(_PROCESSINGS),
        )

    return min(ranked(records), key=rank, default=None)


def start_of(usable: Sequence[Record], default: Record | None) -> Record | None:
    """Return the record of one model that gains are counted from.

    Args:
        usable: Records of one model that may be ranked.
        default: The caller's choice; for another model the one with the same runtime and precision takes its place.
    """
    if default is None:
        return default_of(usable)
    same = [record for record in usable if record.id == default.id]
    alike = [
        record
        for record in usable
        if (record.setup.runtime, record.setup.precision) == (default.setup.runtime, default.setup.precision)
    ]
    return default_of(same or alike or usable)


def option_words(options: Mapping[str, Any]) -> str:
    """Return options in a stable order: ``mode=compile, layout=channels-last``."""
    return ", ".join(f"{key}={options[key]}" for key in sorted(options))


def processing_of(record: Record) -> str:
    """Return how photos were processed before and after the model; empty for the model alone."""
    return str(record.setup.protocol.get("processing") or "")


class Names:
    """Call configurations by the least that tells them apart within a set of records.

    Device, threads, options and machine are only mentioned where they differ between the records.

    Args:
        records: All records that are named together.
        without: Parts that are left out because the reader is told them in another way: ``device``, ``threads``,
            ``options``, ``processing``, ``machine``, ``scenario``, ``streams``.
    """

    def __init__(self, records: Iterable[Record], without: Collection[str] = ()) -> None:
        records = list(records)
        parts: tuple[tuple[str, Callable[[Record], str], Callable[[Record], str]], ...] = (
            ("device", lambda r: device_of(r).lower(), device_of),  # OpenVINO writes CPU, the others cpu
            ("threads", lambda r: str(r.setup.threads), _thread_words),
            ("options", lambda r: option_words(r.setup.options), lambda r: option_words(r.setup.options)),
            ("processing", processing_of, lambda r: processing_words(processing_of(r)) or t("model alone")),
            ("machine", _machine_words, _machine_words),
            ("scenario", scenario_of, lambda r: scenario_of(r) or t("no load")),
            ("streams", lambda r: str(streams_of(r)), _stream_words),
        )
        self._parts = tuple(
            words for name, key, words in parts if name not in without and len({key(record) for record in records}) > 1
        )

    def lane(self, record: Record, *, machine: bool = True) -> str:
        """Return everything but precision and batch: ``onnxruntime``, or ``laptop · torch · cpu · mode=compile``.

        Args:
            record: One of those that are named together.
            machine: Whether the machine is mentioned, where there are several.
        """
        rest = [words(record) for words in self._parts if words is not _machine_words]
        first = record.platform.label if machine and _machine_words in self._parts else ""
        return " · ".join(filter(None, (first, record.setup.runtime, *rest)))

    def configuration(self, record: Record) -> str:
        """Return the configuration without the model: ``torch bf16 batch 1``, or ``… batch 1 (cuda:0, 8 threads)``."""
        extra = ", ".join(filter(None, (words(record) for words in self._parts)))
        setup = record.setup
        told = t("{what} batch {batch}", what=f"{setup.runtime} {setup.precision}", batch=setup.batch)
        return f"{told}{f' ({extra})' if extra else ''}"


def _machine_words(record: Record) -> str:
    return record.platform.label


def _thread_words(record: Record) -> str:
    return t("{count} threads", count=record.setup.threads) if record.setup.threads else t("auto")


def _stream_words(record: Record) -> str:
    if record.setup.protocol.get("beside"):
        return ""  # its name says what ran at the same time
    count = streams_of(record)
    return t("{count} streams", count=count) if count > 1 else t("1 stream")


def scenario_of(record: Record) -> str:
    """Return the load scenario of a record; empty where iterations were timed one by one."""
    return str(record.setup.protocol.get("scenario") or "")


def streams_of(record: Record) -> int:
    """Return how many sessions of the model ran at once."""
    count = record.setup.protocol.get("concurrent_streams")
    return count if isinstance(count, int) else 1


def without_load(records: Iterable[Record]) -> list[Record]:
    """Return the records of timed iterations: latency under a load is another thing and never ranked with theirs."""
    return [record for record in records if not scenario_of(record)]


def is_quick(record: Record) -> bool:
    """Tell whether the energy windows were shorter than a defensible figure needs."""
    return bool(record.setup.protocol.get("quick"))


def by_model(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Group records by the model's name, in the order of the names."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.subject.name):
        groups.setdefault(record.subject.name, []).append(record)
    return groups


def times(value: float) -> str:
    """Write a ratio for people: ``4.3×``, ``51×``, ``1.02×``."""
    return f"{localised(f'{value:.2f}' if value < 2 else f'{value:.1f}' if value < 10 else f'{value:,.0f}')}×"
