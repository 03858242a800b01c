"""AMD GPUs through AMD SMI: energy accumulator, power, temperature. Reads only, changes no setting.

Source: AMD, AMD SMI documentation, Python API (amdsmi_get_energy_count, amdsmi_get_power_info, amdsmi_get_temp_metric)
and its changelog for ROCm 5.7 to 7. Fields and units of ``amdsmi_power_info_t`` are those of
https://rocm.docs.amd.com/projects/amdsmi/en/docs-7.1.1/doxygen/docBin/html/structamdsmi__power__info__t.html and of the
same page for 5.7.1, 6.2.1 and 6.4.1.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar, Final

import msgspec

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.base import Channel, Meter
from wattwerk.meters.sensor import Accumulator, check_above_zero, within
from wattwerk.records import Accelerator, Scope
from wattwerk.registry import Probe

#: Names of the momentary power, newest first: ROCm 7, ROCm 6 on Instinct MI300 and later.
_MOMENTARY: Final = ("socket_power", "current_socket_power")
_AVERAGE: Final = "average_socket_power"
#: The newer name, then that of older releases such as ROCm 5.7, where the accumulator was called power.
_ENERGY: Final = ("energy_accumulator", "power")
_BITS: Final = 64


class AmdGpuConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the AMD SMI meter.

    Attributes:
        devices: Indices of the GPUs to watch, as ``amd-smi list`` counts them; None watches all.
        max_power_w: A power beyond it, or an accumulator that grows faster, is a fault.
    """

    devices: list[int] | None = None
    max_power_w: float = 5000.0


def _load() -> ModuleType:
    """Import and start AMD SMI.

    Raises:
        UnavailableError: There is no package, library or driver.
    """
    try:
        smi = importlib.import_module("amdsmi")
    except (ImportError, OSError, KeyError, AttributeError) as error:  # its library is looked for while it is imported
        raise UnavailableError(
            f"AMD SMI: {error}", "install ROCm, then `pip install /opt/rocm/share/amd_smi`, of the same version"
        ) from error
    try:
        smi.amdsmi_init()
    except _errors(smi) as error:
        raise UnavailableError(
            f"AMD SMI does not start ({error})",
            "load the driver (`sudo modprobe amdgpu`); join the groups render, video",
        ) from error
    return smi


def _errors(smi: ModuleType) -> tuple[type[BaseException], ...]:
    """Return what its functions raise; the base class has not been exported by every release."""
    names = ("AmdSmiException", "AmdSmiLibraryException", "AmdSmiParameterException")
    return tuple(kind for name in names if isinstance(kind := getattr(smi, name, None), type)) or (RuntimeError,)


def _number(value: object) -> float:
    """Return a number; NaN for the text N/A, which stands for what a GPU does not tell."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


class _Gpu:
    """One GPU: its handle and the values that it gave when it was asked for each."""

    def __init__(self, smi: ModuleType, index: int, handle: Any, max_w: float) -> None:
        self._smi, self._handle, self._max_w = smi, handle, max_w
        self._failures: tuple[type[BaseException], ...] = (*_errors(smi), AttributeError, KeyError, TypeError)
        self._counter: Accumulator | None = None
        self.prefix = f"amd{index}"
        candidates: dict[str, Callable[[], float]] = {
            "energy_j": self._energy_j,
            "power_w": self._power_w,
            "power_average_w": lambda: self._watts(_AVERAGE),
            "temperature_celsius": self._celsius,
        }
        self.reads = {f"{self.prefix}_{word}": read for word, read in candidates.items() if not math.isnan(read())}
        if f"{self.prefix}_power_w" not in self.reads and f"{self.prefix}_power_average_w" in self.reads:
            # consumer GPUs tell an average alone: it is the power that there is
            self.reads[f"{self.prefix}_power_w"] = self.reads.pop(f"{self.prefix}_power_average_w")

    def _ask(self, name: str, *more: Any) -> Any:
        try:
            return getattr(self._smi, name)(self._handle, *more)
        except self._failures:
            return None

    def _watts(self, *keys: str) -> float:
        told = self._ask("amdsmi_get_power_info")
        if not isinstance(told, dict):
            return math.nan
        values = (within(_number(told.get(key)), 0.0, self._max_w) for key in keys)
        return next((value for value in values if not math.isnan(value)), math.nan)

    def _power_w(self) -> float:
        return self._watts(*_MOMENTARY)

    def _energy_j(self) -> float:
        told = self._ask("amdsmi_get_energy_count")
        if not isinstance(told, dict):
            return math.nan
        raw = next((told[key] for key in _ENERGY if key in told), None)
        joules = _number(told.get("counter_resolution")) / 1e6
        if not isinstance(raw, int) or not 0 < joules < 1:
            return math.nan
        if self._counter is None:
            if raw == 0 or raw == (1 << _BITS) - 1:  # a GPU without an accumulator shows either
                return math.nan
            self._counter = Accumulator(joules, _BITS, self._max_w)
        return self._counter.energy_j(raw, time.perf_counter_ns())

    def _celsius(self) -> float:
        try:
            kinds, metrics = self._smi.AmdSmiTemperatureType, self._smi.AmdSmiTemperatureMetric
            kind = getattr(kinds, "HOTSPOT", None) or kinds.JUNCTION
            metric = metrics.CURRENT
        except AttributeError:
            return math.nan
        return within(_number(self._ask("amdsmi_get_temp_metric", kind, metric)), -100.0, 200.0)

    def channels(self) -> list[Channel]:
        return [
            Channel(
                name=name,
                form="counter" if name.endswith("_j") else "gauge",
                scope=None if name.endswith("celsius") else Scope.ACCELERATOR,
            )
            for name in self.reads
        ]

    def accelerator(self) -> Accelerator:
        asic = self._ask("amdsmi_get_gpu_asic_info") or {}
        address = self._ask("amdsmi_get_gpu_device_bdf") or self._ask("amdsmi_get_device_bdf") or ""
        uuid = self._ask("amdsmi_get_gpu_device_uuid") or self._ask("amdsmi_get_device_uuid") or ""
        return Accelerator(
            name=str(asic.get("market_name") or "unknown AMD GPU"),
            driver=str((self._ask("amdsmi_get_gpu_driver_info") or {}).get("driver_version", "")),
            memory_bytes=None,
            power_limit_w=None,
            prefix=self.prefix,
            address=str(address).lower(),
            uuid=str(uuid),
        )


def _open(smi: ModuleType, config: AmdGpuConfig) -> list[_Gpu]:
    try:
        handles = list(smi.amdsmi_get_processor_handles())
    except _errors(smi) as error:
        raise UnavailableError(f"AMD SMI gives no GPU ({error})", "look at what `amd-smi list` says") from error
    if not handles:
        raise UnavailableError("AMD SMI finds no GPU", "give the container /dev/kfd and /dev/dri")
    if bad := [index for index in config.devices or [] if not 0 <= index < len(handles)]:
        raise ConfigError(f"meters.amdgpu: no GPU {bad[0]}", f"use indices from 0 to {len(handles) - 1}")
    wanted = range(len(handles)) if config.devices is None else config.devices
    gpus = [_Gpu(smi, index, handles[index], config.max_power_w) for index in wanted]
    if not any(gpu.reads for gpu in gpus):
        raise UnavailableError(
            "AMD SMI starts, but no GPU tells energy or power", "use the hwmon meter, or a wall meter"
        )
    return gpus


class AmdGpuMeter(Meter):
    """Read AMD GPUs.

    Channels of GPU 0, those that it supports: ``amd0_energy_j`` (since opening), ``amd0_power_w`` (momentary where the
    GPU tells, else its average), ``amd0_power_average_w``, ``amd0_temperature_celsius`` (the hottest spot).
    """

    name: ClassVar[str] = "amdgpu"
    config: ClassVar[type[msgspec.Struct]] = AmdGpuConfig

    @classmethod
    def probe(cls) -> Probe:
        """Tell which GPUs answer, or why none."""
        try:
            meter = cls(AmdGpuConfig())
        except UnavailableError as error:
            return Probe(False, error.message, error.remedy)
        try:
            return Probe(True, "; ".join(f"{gpu.accelerator().name} ({', '.join(gpu.reads)})" for gpu in meter._gpus))
        finally:
            meter.close()

    def __init__(self, config: msgspec.Struct) -> None:
        """Open the meter.

        Raises:
            ConfigError: There is no GPU of a given index.
            UnavailableError: There is no package, driver or GPU, or no query is supported.
        """
        assert isinstance(config, AmdGpuConfig)
        check_above_zero("meters.amdgpu", max_power_w=config.max_power_w)
        self._smi = _load()
        try:
            self._gpus = _open(self._smi, config)
        except (UnavailableError, ConfigError):
            self.close()
            raise
        self._reads = {name: read for gpu in self._gpus for name, read in gpu.reads.items()}

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order of ``read``."""
        return tuple(channel for gpu in self._gpus for channel in gpu.channels())

    def read(self) -> list[float]:
        """Return one value for each channel, NaN where a single query failed.

        Raises:
            MeasurementError: Every query failed, as when a GPU is lost.
        """
        values = [read() for read in self._reads.values()]
        if all(math.isnan(value) for value in values):
            raise MeasurementError("AMD SMI answers no query any more", "look at what `amd-smi` and `dmesg` say")
        return values

    def read_counter(self, name: str) -> float:
        """Return one channel's value with one call into the driver."""
        return self._reads[name]()

    def accelerators(self) -> list[Accelerator]:
        """Return name, driver, PCI address and UUID of each GPU."""
        return [gpu.accelerator() for gpu in self._gpus]

    def close(self) -> None:
        """Release AMD SMI."""
        with contextlib.suppress(*_errors(self._smi)):
            self._smi.amdsmi_shut_down()
