"""What the recorder and its sampling process tell each other: a job, an answer, and rows in a file.

Everything passes through one private folder. The sampling process only ever writes there, so it never waits for the
measured process, and all that it wrote before a crash is still there afterwards.
"""

from __future__ import annotations

import importlib
import os
import struct
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.meters import METERS, Meter
from wattwerk.meters.base import Channel
from wattwerk.records import Accelerator, Platform

JOB: Final = "job.json"
HELLO: Final = "hello.json"
FAULTS: Final = "faults.json"
ROWS: Final = "rows"
GATE: Final = "gate"

S = TypeVar("S", bound=msgspec.Struct)


class MeterSpec(msgspec.Struct, frozen=True):
    """Which meter to open, and how.

    Attributes:
        name: A name of the registry, or an import path ``package.module:Class``.
        config: Its options, plain values as TOML gives them.
        section: The name of its section ``[meters.<section>]``, where that is not the meter's.
    """

    name: str
    config: dict[str, Any] = {}
    section: str = ""

    @property
    def label(self) -> str:
        """What people call it: its section, or else its name."""
        return self.section or self.name


class Job(msgspec.Struct, frozen=True):
    """What the sampling process is to do.

    Attributes:
        specs: The meters; None where the process chooses them itself.
        rate_hz: Samples a second.
        parent: The process whose end ends the sampling.
        keep_s: How long samples are kept at least, in seconds; None for ever.
        segment_bytes: Size of a file of rows.
    """

    specs: list[MeterSpec] | None
    rate_hz: float
    parent: int
    keep_s: float | None = None
    segment_bytes: int = 4_000_000


class Hello(msgspec.Struct, frozen=True):
    """What the sampling process opened.

    Attributes:
        channels: The columns of the rows.
        accelerators: What the meters watch.
        limits: Fixed limits of what they watch.
        faults: Meters that could not be opened, and why.
        locked: The counter whose ticks the samples follow.
        reach_s: Of the channels of slow meters: how long after a time their next value may come.
        platform: The machine, without versions of packages: which of them matter is the parent's to know.
        meters: Channel -> the name of its meter.
        error: Message and remedy of a ConfigError that ends the recorder; empty if all is well.
    """

    channels: list[Channel] = []
    accelerators: list[Accelerator] = []
    limits: dict[str, float] = {}
    faults: list[str] = []
    locked: str | None = None
    reach_s: dict[str, float] = {}
    platform: Platform | None = None
    meters: dict[str, str] = {}
    error: list[str | None] = []


def row_format(columns: int) -> struct.Struct:
    """Return the layout of a row: its two times, as ``Trace`` explains them, then the values."""
    return struct.Struct(f"<qq{columns}d")


def write_json(path: Path, value: object) -> None:
    """Write a file so that a reader sees either all of it or none."""
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(value))
    os.replace(part, path)


def load_meter(name: str) -> type[Meter]:
    """Return the meter of a registry name or an import path ``package.module:Class``.

    Raises:
        ConfigError: There is no such meter.
        UnavailableError: Its module cannot be imported.
    """
    if ":" not in name:
        return METERS.load(name)
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise UnavailableError(
            f"{name} cannot be imported ({error})", "check the path, install what it needs"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Meter)):
        raise ConfigError(f"{name} is no meter", "name a class derived from wattwerk.meters.Meter")
    return found
