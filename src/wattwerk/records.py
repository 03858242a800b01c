"""The one record that everything writes: what was run, where, how, when, and its figures.

A figure is a named value with its scope, provenance and bounds. Reports, comparisons and advice read figures by name
and need no case per kind of record. docs/records.md lists the names.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec

from wattwerk.errors import StoreError
from wattwerk.units import unit_of

SCHEMA_VERSION: Final = 1


class Provenance(StrEnum):
    """Where a value comes from; a modelled value is never ranked against a measured one."""

    MEASURED = "measured"
    DERIVED = "derived"
    MODELLED = "modelled"
    UNAVAILABLE = "unavailable"


class Scope(StrEnum):
    """What a power or energy value covers; overlapping scopes are never summed."""

    ACCELERATOR = "accelerator"
    CPU_PACKAGE = "cpu_package"
    DRAM = "dram"
    BOARD = "board"
    NODE = "node"
    SWITCH = "switch"
    CONTROL_SERVER = "control_server"
    WALL = "wall"


class Status(StrEnum):
    """How a measurement ended; every status but OK has a reason."""

    OK = "ok"
    INVALID = "invalid"  # it ran, but was throttled or drifted: kept, shown as such, never ranked
    FAILED = "failed"
    OUT_OF_MEMORY = "out_of_memory"
    UNSUPPORTED = "unsupported"
    SKIPPED = "skipped"  # a study had no time left for it, or a rule of it excludes it


class Figure(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A value that people may rely on.

    Attributes:
        value: In the SI unit that the figure's name ends in; None if and only if it is unavailable.
        provenance: Where the value comes from.
        scope: What a power or energy covers; None for times, rates and sizes.
        low: Lower bound: of the 95 % confidence interval if measured, of the model if modelled.
        high: Upper bound, likewise.
        note: Why the value is unavailable, or what a reader has to know about it.
    """

    value: float | None
    provenance: Provenance
    scope: Scope | None = None
    low: float | None = None
    high: float | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        if (self.value is None) != (self.provenance is Provenance.UNAVAILABLE):
            raise ValueError("a figure has no value if and only if its provenance is unavailable")


def measured(
    value: float,
    low: float | None = None,
    high: float | None = None,
    *,
    scope: Scope | None = None,
    note: str | None = None,
) -> Figure:
    """Return a measured figure."""
    return Figure(float(value), Provenance.MEASURED, scope, low, high, note)


def derived(
    value: float,
    low: float | None = None,
    high: float | None = None,
    *,
    scope: Scope | None = None,
    note: str | None = None,
) -> Figure:
    """Return a figure computed from measured ones."""
    return Figure(float(value), Provenance.DERIVED, scope, low, high, note)


def unavailable(note: str, *, scope: Scope | None = None) -> Figure:
    """Return a figure that has no value, with the reason."""
    return Figure(None, Provenance.UNAVAILABLE, scope, note=note)


class TensorSpec(msgspec.Struct, frozen=True):
    """One input of a model.

    Attributes:
        name: The input's name.
        shape: Its shape without the batch dimension, such as ``(3, 224, 224)``.
        dtype: Its numpy dtype's name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


class Subject(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was run.

    Attributes:
        name: The model's name in the catalog, its file's name, or the command.
        task: ``classification``, ``detection``, ``segmentation`` or empty.
        parameters_count: Number of parameters.
        sample_flops: Floating-point operations for one sample; a multiply-add counts as two.
        weights: ``seeded:<seed>``, or where real ones came from.
        inputs: Input name -> shape, with the word ``batch`` for the batch dimension.
        digest: SHA-256 of the model file, empty for built-in models.
    """

    name: str
    task: str = ""
    parameters_count: int | None = None
    sample_flops: float | None = None
    weights: str = ""
    inputs: dict[str, list[int | str]] = {}
    digest: str = ""


class Accelerator(msgspec.Struct, frozen=True, omit_defaults=True):
    """One accelerator of the machine.

    Attributes:
        name: The product's name.
        driver: The driver's version.
        memory_bytes: Its memory.
        power_limit_w: The power limit that is enforced.
        prefix: First word of its channels and limits, such as ``gpu0``.
        address: Its place on the PCI bus, such as ``00000000:3b:00.0``.
        uuid: Its serial identity, known while measuring; a record does not carry it.
    """

    name: str
    driver: str = ""
    memory_bytes: int | None = None
    power_limit_w: float | None = None
    prefix: str = ""
    address: str = ""
    uuid: str = ""


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where it was run.

    Attributes:
        label: What the machine is called.
        os: The system's name and version.
        kernel: The kernel's version.
        python: The interpreter's version.
        cpu: The processor's name.
        cpu_physical_count: Its cores.
        cpu_logical_count: Its threads.
        memory_bytes: Main memory.
        virtual_machine: Whether it is one; None where the system does not tell.
        accelerators: Those that the meters watch.
        packages: Name -> version of what can change a figure.
        limits: Fixed limits that the meters tell, named as their channels: ``gpu0_temperature_slowdown_celsius``.
    """

    label: str
    os: str = ""
    kernel: str = ""
    python: str = ""
    cpu: str = ""
    cpu_physical_count: int | None = None
    cpu_logical_count: int | None = None
    memory_bytes: int | None = None
    virtual_machine: bool | None = None
    accelerators: list[Accelerator] = []
    packages: dict[str, str] = {}
    limits: dict[str, float] = {}


class Setup(msgspec.Struct, frozen=True, omit_defaults=True):
    """How it was run: what was asked for, and under ``effective`` what the runtime really did.

    Attributes:
        runtime: The runtime's name.
        precision: The precision asked for.
        batch: Samples in one iteration.
        device: The device, as the runtime names it.
        threads: Threads asked for; None leaves the choice to the runtime.
        options: Options of the runtime.
        effective: Precision, threads, streams, device and more, as the runtime reports them.
        protocol: Iterations, windows, seed: how the measuring was done.
        faults: What had gone wrong with the meters by the end: one that did not open, that hung, reads that failed.
    """

    runtime: str = ""
    precision: str = ""
    batch: int | None = None
    device: str = ""
    threads: int | None = None
    options: dict[str, Any] = {}
    effective: dict[str, str | int | float | bool | None] = {}
    protocol: dict[str, str | int | float | bool | None] = {}
    faults: list[str] = []


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement: what, where, how, when, and its figures.

    Attributes:
        id: Twelve hexadecimal digits; the first ones are enough wherever an id is asked for.
        kind: ``bench``; other kinds are new sets of names, not new types.
        group: The sweep or series it belongs to, an id too.
        started_at: ISO 8601 in UTC.
        finished_at: ISO 8601 in UTC.
        status: How it ended.
        reason: Why it did not end well; empty for ``ok``.
        figures: Name -> figure; the unit is the last word of the name.
    """

    id: str
    kind: str
    group: str
    subject: Subject
    platform: Platform
    setup: Setup
    started_at: str
    finished_at: str
    status: Status = Status.OK
    reason: str = ""
    figures: dict[str, Figure] = {}
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name in self.figures:
            unit_of(name)

    def value(self, name: str) -> float | None:
        """Return the value of a figure; None if the record does not have it."""
        figure = self.figures.get(name)
        return figure.value if figure else None


def faults_of(records: Iterable[Record]) -> list[str]:
    """Return what went wrong with the meters, each fault once: of one whose count grew, the last word."""
    last: dict[tuple[str, str], str] = {}
    for record in sorted(records, key=lambda record: record.finished_at):
        for fault in record.setup.faults:
            last[record.group, re.sub(r"\d+", "#", fault).partition(",")[0]] = fault
    return list(dict.fromkeys(last.values()))


def new_id() -> str:
    """Return a fresh random id of twelve hexadecimal digits."""
    return os.urandom(6).hex()


def now() -> str:
    """Return the present moment as ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def to_json(record: Record) -> bytes:
    """Write a record as one line of JSON."""
    return msgspec.json.encode(record)


def from_json(data: bytes | str) -> Record:
    """Read a record of this or an older schema version.

    Raises:
        StoreError: The text is no record, or comes from a newer wattwerk.
    """
    try:
        version = msgspec.json.decode(data, type=_Versioned).schema_version
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"a record of schema version {version}, this wattwerk reads up to {SCHEMA_VERSION}", "upgrade wattwerk"
            )
        return msgspec.json.decode(data, type=Record)
    except (msgspec.DecodeError, ValueError) as error:
        raise StoreError(f"not a wattwerk record ({error})", "check the file") from error


class _Versioned(msgspec.Struct):
    schema_version: int
