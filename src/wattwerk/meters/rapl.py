"""Energy counters of Intel and AMD processors, read from Linux' powercap tree.

Source: Linux kernel documentation, power/powercap/powercap.rst; Intel SDM volume 3B, section 16.10 (RAPL).
"""

from __future__ import annotations

import math
import os
import re
import time
import weakref
from pathlib import Path
from typing import ClassVar, Final

import msgspec

from wattwerk.errors import UnavailableError
from wattwerk.meters.base import Channel, Meter
from wattwerk.records import Scope
from wattwerk.registry import Probe

POWERCAP: Final = "/sys/class/powercap"

#: Only the MSR interface: ``intel-rapl-mmio:0`` counts the same package a second time.
_ZONE: Final = re.compile(r"intel-rapl:(\d+)(?::(\d+))?")

#: No processor package takes more; a jump beyond it is a glitch of the counter, not energy.
_MAX_POWER_W: Final = 5000.0
_GLITCHES_BEFORE_REBASE: Final = 3
_ZERO_CHECK_S: Final = 0.05


class RaplConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the RAPL meter.

    Attributes:
        root: The folder that holds the zones.
    """

    root: str = POWERCAP


class _Zone(msgspec.Struct, frozen=True):
    folder: Path
    channel: Channel


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


def _kind(name: str) -> tuple[str, Scope] | None:
    """Return prefix and scope of a zone; None for what lies inside a package (core, uncore) and would count twice."""
    if name.startswith("package"):
        return "cpu", Scope.CPU_PACKAGE
    if name == "dram":
        return "dram", Scope.DRAM
    # psys is what enters the board's regulators: package and memory included, power supply, fans and plug-in cards not.
    # "node" would claim too much; the scope of its own keeps it from being summed with the packages.
    return ("psys", Scope.BOARD) if name == "psys" else None


def _zones(root: Path) -> list[_Zone]:
    """Find the zones that count, numbered within their kind in the order of their addresses."""
    found = [(match, folder) for folder in root.iterdir() if (match := _ZONE.fullmatch(folder.name))]
    found.sort(key=lambda pair: (int(pair[0][1]), int(pair[0][2] or -1)))
    zones: list[_Zone] = []
    numbers = {"cpu": 0, "dram": 0, "psys": 0}
    for _, folder in found:
        if kind := _kind(_text(folder / "name")):
            prefix, scope = kind
            name = f"{prefix}{numbers[prefix]}_energy_j"
            zones.append(_Zone(folder, Channel(name=name, form="counter", scope=scope)))
            numbers[prefix] += 1
    return zones


class _Counter:
    """One energy counter that grows for ever: wrap-around undone, glitches kept out."""

    def __init__(self, zone: _Zone) -> None:
        self.channel = zone.channel
        self._range_uj = int(_text(zone.folder / "max_energy_range_uj"))
        self._file = os.open(zone.folder / "energy_uj", os.O_RDONLY)
        self._closer = weakref.finalize(self, os.close, self._file)
        self._last_uj = self.raw_uj()
        self._last_ns = time.perf_counter_ns()
        self._sum_uj = 0
        self._glitches = 0

    def raw_uj(self) -> int:
        return int(os.pread(self._file, 32, 0))  # the kernel computes the text anew at every read from offset 0

    def energy_j(self) -> float:
        """Return energy since opening in joules; NaN where the counter shows what cannot be."""
        now_ns, raw_uj = time.perf_counter_ns(), self.raw_uj()
        delta_uj = raw_uj - self._last_uj
        if delta_uj < 0:
            delta_uj += self._range_uj
        allowed_uj = _MAX_POWER_W * (now_ns - self._last_ns) / 1e3 + 1e6
        if 0 <= delta_uj <= allowed_uj:
            self._sum_uj += delta_uj
        elif (glitches := self._glitches + 1) < _GLITCHES_BEFORE_REBASE:
            # most glitches last one read: the next one is compared with the last good value and loses nothing
            self._glitches = glitches
            return math.nan
        self._glitches, self._last_uj, self._last_ns = 0, raw_uj, now_ns
        return self._sum_uj / 1e6

    def close(self) -> None:
        self._closer()


def _open(root: Path) -> list[_Counter]:
    """Open every counter that counts.

    Raises:
        UnavailableError: There is none, or none may be read.
    """
    try:
        return _drop_dead(root, [_Counter(zone) for zone in _zones(root)])
    except FileNotFoundError as error:
        raise UnavailableError(f"RAPL: {error.filename} does not exist", _absent_remedy()) from error
    except PermissionError as error:
        raise UnavailableError(f"RAPL: {error.filename} is readable by root only", _permission_remedy(root)) from error
    except (OSError, ValueError) as error:
        raise UnavailableError(f"RAPL: {root} cannot be read ({error})", _absent_remedy()) from error


def _drop_dead(root: Path, counters: list[_Counter]) -> list[_Counter]:
    if not counters:
        raise UnavailableError(f"RAPL: {root} lists no processor package", _absent_remedy())
    if any(counter.raw_uj() == 0 for counter in counters):
        time.sleep(_ZERO_CHECK_S)  # a true counter moves every millisecond
    dead = [counter for counter in counters if counter.raw_uj() == 0]
    for counter in dead:
        counter.close()
    if len(dead) == len(counters):
        raise UnavailableError(
            "RAPL: the counters stand at 0, as in most virtual machines", "measure on the host, or use a wall meter"
        )
    return [counter for counter in counters if counter not in dead]


def _absent_remedy() -> str:
    return "on a machine of your own: `sudo modprobe intel_rapl_msr`; a virtual machine has none: measure on the host"


def _permission_remedy(root: Path) -> str:
    return f"until the next boot: `sudo chmod a+r {root}/*/energy_uj`; for good: the udev rule in docs/meters.md"


class RaplMeter(Meter):
    """Read the energy counters of processor packages, memory and platform.

    Channels: ``cpu0_energy_j`` … one a package, ``dram0_energy_j`` … one a package that has it, ``psys0_energy_j``
    where the board measures itself. Energy is counted from opening.
    """

    name: ClassVar[str] = "rapl"
    config: ClassVar[type[msgspec.Struct]] = RaplConfig

    @classmethod
    def probe(cls, root: str = POWERCAP) -> Probe:
        """Tell which counters are readable, or why none is."""
        try:
            meter = cls(RaplConfig(root))
        except UnavailableError as error:
            return Probe(False, error.message, error.remedy)
        names = ", ".join(channel.name for channel in meter.channels)
        meter.close()
        return Probe(True, names)

    def __init__(self, config: msgspec.Struct) -> None:
        assert isinstance(config, RaplConfig)
        self._counters = _open(Path(config.root))

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order of ``read``."""
        return tuple(counter.channel for counter in self._counters)

    def read(self) -> list[float]:
        """Return energy since opening for each counter, in joules."""
        return [counter.energy_j() for counter in self._counters]

    def close(self) -> None:
        """Close the counters' files."""
        for counter in self._counters:
            counter.close()
        self._counters = []
