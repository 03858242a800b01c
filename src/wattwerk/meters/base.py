"""What every meter offers: a probe, named channels, and one quick read of all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import msgspec

from wattwerk.records import Accelerator, Provenance, Scope
from wattwerk.registry import Probe


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """One series of values that a meter gives.

    Attributes:
        name: Unique among all meters in use; its last word is the unit: ``gpu0_energy_j``, ``gpu0_power_w``.
        form: ``counter`` only grows (the meter itself undoes wrap-around), ``gauge`` is a momentary value.
        scope: What a power or energy covers; None for clocks, temperatures and loads.
        provenance: ``measured`` or ``modelled``.
        tick_s: How often a counter moves; None if faster than anyone reads it.
        accuracy_ratio: The sensor's own error bound as a fraction, where its maker states one.
        low: Name of the channel that carries the lower bound of a modelled channel.
        high: Name of the channel that carries the upper bound of a modelled channel.
        limit: Largest value that can be; what is beyond it is a fault of the meter.
        signed: Whether a power or an energy may be negative, as where solar power is fed in.
        step: By how much a counter grows at least when it moves, in its unit; 0 if that is too little to matter.
        contains: Names of parts or channels that lie inside what this one measures, also patterns such as ``cpu*``.
        complete: Whether all that lies inside is named; otherwise the scope says more, see ``containment``.
    """

    name: str
    form: Literal["counter", "gauge"]
    scope: Scope | None = None
    provenance: Provenance = Provenance.MEASURED
    tick_s: float | None = None
    accuracy_ratio: float | None = None
    low: str | None = None
    high: str | None = None
    limit: float | None = None
    signed: bool = False
    step: float = 0.0
    contains: tuple[str, ...] = ()
    complete: bool = False


class Meter(ABC):
    """A source of channels; opened in the recorder's process, read at its rate.

    Attributes:
        name: The name in the registry.
        config: The frozen type of the meter's options; unknown keys are rejected.
        interval_s: How far apart reads make sense, for a meter that is slow to answer or to renew its values. The
            recorder reads such a meter in a thread of its own, so that it delays no other. 0 reads it with all others.
        latency_s: How much older than the read its values are.
    """

    name: ClassVar[str]
    config: ClassVar[type[msgspec.Struct]]
    interval_s: float = 0.0
    latency_s: float = 0.0

    @classmethod
    @abstractmethod
    def probe(cls) -> Probe:
        """Tell whether the meter works here, or why not and what to do."""

    @abstractmethod
    def __init__(self, config: msgspec.Struct) -> None:
        """Open the meter.

        Raises:
            UnavailableError: It cannot be read here.
        """

    @property
    @abstractmethod
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order of ``read``."""

    @abstractmethod
    def read(self) -> list[float]:
        """Return one value for each channel, in SI units; NaN where this one gave nothing this time."""

    def read_counter(self, name: str) -> float:
        """Return one channel's value; a meter overrides this where one channel is cheaper to read than all of them.

        The recorder calls it every few milliseconds to find the moment at which a counter with ``tick_s`` moves.
        """
        names = [channel.name for channel in self.channels]
        return self.read()[names.index(name)]

    def accelerators(self) -> list[Accelerator]:
        """Return the accelerators that this meter watches."""
        return []

    def limits(self) -> dict[str, float]:
        """Return fixed limits of what the meter watches; as in channels, the last word of a name is the unit."""
        return {}

    def faults(self) -> list[str]:
        """Return what was wrong with values that the meter left out, in words."""
        return []

    def close(self) -> None:
        """Release the sensor."""
        return
