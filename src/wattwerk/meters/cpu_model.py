"""A processor's energy by a model, for machines without a sensor: idle power plus what utilisation adds."""

from __future__ import annotations

import time
from typing import ClassVar, Final

import msgspec
import psutil

from wattwerk.errors import ConfigError
from wattwerk.meters.base import Channel, Meter
from wattwerk.meters.host_load import cpu_busy_s
from wattwerk.records import Provenance, Scope
from wattwerk.registry import Probe

_NEEDS: Final = "give them under [meters.cpu-model] in config.toml, or choose a device of the catalogue"


class CpuModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The numbers of the model: power of all processor packages together, in watts.

    Attributes:
        idle_w: Power at no load.
        max_w: Power with every core busy.
        idle_low_w: Lower bound of ``idle_w``.
        idle_high_w: Upper bound of ``idle_w``.
        max_low_w: Lower bound of ``max_w``.
        max_high_w: Upper bound of ``max_w``.
        source: Where the numbers come from.
    """

    idle_w: float | None = None
    max_w: float | None = None
    idle_low_w: float | None = None
    idle_high_w: float | None = None
    max_low_w: float | None = None
    max_high_w: float | None = None
    source: str = ""


class _Line(msgspec.Struct, frozen=True):
    """Power as a straight line over utilisation."""

    idle_w: float
    max_w: float

    def energy_j(self, elapsed_s: float, busy_s: float, cores: int) -> float:
        return self.idle_w * elapsed_s + (self.max_w - self.idle_w) * busy_s / cores


def _numbers(config: CpuModelConfig) -> dict[str, float]:
    """Return the six numbers, or say which ones are missing or contradict each other."""
    values = {key: value for key, value in msgspec.structs.asdict(config).items() if key != "source"}
    missing = [key for key, value in values.items() if value is None]
    missing += [] if config.source else ["source"]
    if missing:
        raise ConfigError(f"meters.cpu-model: {', '.join(missing)} missing", _NEEDS)
    for smaller, larger in _ORDER:
        if not 0 <= values[smaller] <= values[larger]:
            raise ConfigError(
                f"meters.cpu-model: {smaller} is {values[smaller]:g}, {larger} is {values[larger]:g}",
                f"make 0 <= {smaller} <= {larger}",
            )
    return values


_ORDER: Final = (
    ("idle_low_w", "idle_w"),
    ("idle_w", "idle_high_w"),
    ("max_low_w", "max_w"),
    ("max_w", "max_high_w"),
    ("idle_w", "max_w"),
    ("idle_low_w", "max_low_w"),
    ("idle_high_w", "max_high_w"),
)


class CpuModelMeter(Meter):
    """Model the energy of the processor: ``P = idle + (max - idle) * utilisation``, with bounds.

    The line is straight, so energy follows from elapsed time and busy core-seconds alone, however seldom it is read.
    """

    name: ClassVar[str] = "cpu-model"
    config: ClassVar[type[msgspec.Struct]] = CpuModelConfig

    @classmethod
    def probe(cls) -> Probe:
        """Tell what the model needs; it works wherever the operating system counts processor time."""
        return Probe(
            True,
            "models power from utilisation, no sensor; needs the processor's idle and maximum power",
            f"where the device catalogue lacks this processor, {_NEEDS}",
        )

    def __init__(self, config: msgspec.Struct) -> None:
        """Open the meter.

        Raises:
            ConfigError: A number is missing, negative or contradicts another.
        """
        assert isinstance(config, CpuModelConfig)
        values = _numbers(config)
        self._lines = [_Line(values[f"idle{bound}_w"], values[f"max{bound}_w"]) for bound in ("", "_low", "_high")]
        self._cores = psutil.cpu_count() or 1
        self._start_ns = time.perf_counter_ns()
        self._start_busy_s = self._busy_s = cpu_busy_s()

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The modelled energy and its two bounds, in the order of ``read``."""
        middle = _channel("cpu_energy_j", low="cpu_energy_low_j", high="cpu_energy_high_j")
        return (middle, _channel("cpu_energy_low_j"), _channel("cpu_energy_high_j"))

    def read(self) -> list[float]:
        """Return energy since opening, its lower and its upper bound, in joules."""
        elapsed_s = (time.perf_counter_ns() - self._start_ns) / 1e9
        self._busy_s = max(self._busy_s, cpu_busy_s())
        busy_s = self._busy_s - self._start_busy_s
        return [line.energy_j(elapsed_s, busy_s, self._cores) for line in self._lines]


def _channel(name: str, low: str | None = None, high: str | None = None) -> Channel:
    return Channel(
        name=name, form="counter", scope=Scope.CPU_PACKAGE, provenance=Provenance.MODELLED, low=low, high=high
    )
