"""How busy the whole machine is: processor time and memory, from the operating system. Works everywhere."""

from __future__ import annotations

from typing import ClassVar, Final

import msgspec
import psutil

from wattwerk.meters.base import Channel, Meter
from wattwerk.registry import Probe

#: Time that belongs to nobody on this machine: idle, waiting for a disk, or taken by the hypervisor. ``guest`` time is
#: already part of ``user``.
_BUSY: Final = ("user", "nice", "system", "irq", "softirq", "interrupt", "dpc")


def cpu_busy_s() -> float:
    """Return the core-seconds that all cores together have been busy since boot."""
    times = psutil.cpu_times()
    return float(sum(getattr(times, name, 0.0) for name in _BUSY))


class HostLoadConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the host-load meter: none."""


class HostLoadMeter(Meter):
    """Read processor time and memory in use of the whole machine, other people's programs included.

    Channels: ``cpu_busy_s``, core-seconds summed over all logical cores, so that its rate divided by their number is
    the utilisation; ``memory_used_bytes``, the total less what is available to new programs.
    """

    name: ClassVar[str] = "host-load"
    config: ClassVar[type[msgspec.Struct]] = HostLoadConfig

    @classmethod
    def probe(cls) -> Probe:
        """Tell how many cores and how much memory are watched; always available."""
        memory_bytes = psutil.virtual_memory().total
        return Probe(True, f"{psutil.cpu_count()} logical cores, {memory_bytes / 2**30:.1f} GiB of memory")

    def __init__(self, config: msgspec.Struct) -> None:
        self._busy_s = 0.0

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order of ``read``."""
        return (
            Channel(name="cpu_busy_s", form="counter"),
            Channel(name="memory_used_bytes", form="gauge"),
        )

    def read(self) -> list[float]:
        """Return busy core-seconds and bytes in use."""
        # cores taken offline take their past with them: a counter must not follow them down
        self._busy_s = max(self._busy_s, cpu_busy_s())
        memory = psutil.virtual_memory()
        return [self._busy_s, float(memory.total - memory.available)]
