"""Energy of Apple's processors, GPU, memory and neural engine, through the library that zeus uses on a Mac.

It needs neither root nor a subprocess. ``zeus.device.soc.apple`` hands through what this library says; it is asked
directly, since the rest of zeus would make the recorder's process many times as large.

Source: zeus-apple-silicon, README (AppleEnergyMonitor.get_cumulative_energy, fields of AppleEnergyMetrics, in mJ):
https://pypi.org/project/zeus-apple-silicon/
"""

from __future__ import annotations

import importlib
import math
import platform
import time
from typing import Any, ClassVar, Final

import msgspec

from wattwerk.errors import MeasurementError, UnavailableError
from wattwerk.meters.base import Channel, Meter
from wattwerk.meters.sensor import Accumulator, check_above_zero
from wattwerk.records import Scope
from wattwerk.registry import Probe

#: Field -> channel, and what it covers. They lie beside each other; parts of the processor are in its total.
_FIELDS: Final = {
    "cpu_total_mj": ("cpu0_energy_j", Scope.CPU_PACKAGE),
    "gpu_mj": ("gpu0_energy_j", Scope.ACCELERATOR),
    "ane_mj": ("ane0_energy_j", Scope.ACCELERATOR),
    "dram_mj": ("dram0_energy_j", Scope.DRAM),
}
_J_PER_MJ: Final = 1e-3  # millijoules
_BITS: Final = 63
_ELSEWHERE: Final = "it is for Macs only: nvml, rapl and hwmon are for other machines"


class AppleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the Apple meter.

    Attributes:
        max_power_w: A counter that grows faster is a fault.
    """

    max_power_w: float = 1000.0


def _open() -> Any:
    """Return the library's monitor.

    Raises:
        UnavailableError: This is no Mac with Apple's processors, or the library is missing or refuses.
    """
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Darwin", "arm64"):
        raise UnavailableError(f"no processor of Apple's ({system}, {machine})", _ELSEWHERE)
    try:
        library = importlib.import_module("zeus_apple_silicon")
    except ImportError as error:
        raise UnavailableError(f"Apple: {error}", "`pip install zeus-apple-silicon`") from error
    try:
        return library.AppleEnergyMonitor()
    except Exception as error:  # whatever its native part raises
        raise UnavailableError(f"Apple: the counters do not open ({error})", "upgrade zeus-apple-silicon") from error


class AppleMeter(Meter):
    """Read the energy counters of a Mac with Apple's processors.

    Channels, as far as the machine has them: ``cpu0_energy_j``, ``gpu0_energy_j``, ``ane0_energy_j`` (neural engine),
    ``dram0_energy_j``, counted from opening. The GPU's SRAM, which the library tells beside, is left out: nobody says
    whether the GPU contains it.
    """

    name: ClassVar[str] = "apple"
    config: ClassVar[type[msgspec.Struct]] = AppleConfig

    @classmethod
    def probe(cls) -> Probe:
        """Tell which counters there are, or why none."""
        try:
            meter = cls(AppleConfig())
        except UnavailableError as error:
            return Probe(False, error.message, error.remedy)
        return Probe(True, ", ".join(channel.name for channel in meter.channels))

    def __init__(self, config: msgspec.Struct) -> None:
        """Open the counters.

        Raises:
            ConfigError: An option is not possible.
            UnavailableError: There are none.
        """
        assert isinstance(config, AppleConfig)
        check_above_zero("meters.apple", max_power_w=config.max_power_w)
        self._monitor = _open()
        told = self._ask()
        known = [field for field in _FIELDS if _whole(told, field) is not None]
        self._counters = {field: Accumulator(_J_PER_MJ, _BITS, config.max_power_w) for field in known}
        if not self._counters:
            raise UnavailableError("Apple: this processor tells no energy", "upgrade macOS and zeus-apple-silicon")
        self.read()

    def _ask(self) -> Any:
        try:
            return self._monitor.get_cumulative_energy()
        except Exception as error:
            raise UnavailableError(
                f"Apple: the counters cannot be read ({error})", "upgrade zeus-apple-silicon"
            ) from error

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order of ``read``."""
        found = (_FIELDS[field] for field in self._counters)
        return tuple(Channel(name=name, form="counter", scope=scope) for name, scope in found)

    def read(self) -> list[float]:
        """Return one value for each channel in joules; NaN where it is missing or cannot be.

        Raises:
            MeasurementError: The counters cannot be read.
        """
        try:
            told = self._ask()
        except UnavailableError as error:
            raise MeasurementError(error.message, error.remedy) from error
        now_ns = time.perf_counter_ns()
        return [_energy_j(counter, _whole(told, field), now_ns) for field, counter in self._counters.items()]


def _whole(told: Any, field: str) -> int | None:
    value = getattr(told, field, None)
    return value if isinstance(value, int) else None


def _energy_j(counter: Accumulator, raw: int | None, now_ns: int) -> float:
    return math.nan if raw is None else counter.energy_j(raw, now_ns)
