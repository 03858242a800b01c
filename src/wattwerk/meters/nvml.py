"""NVIDIA GPUs through NVML: energy counter, power, clocks, temperature, throttling. Reads only, changes no setting.

Source: NVIDIA, NVML API reference; the meaning of each field is quoted in docs/meters.md.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, ClassVar, Final, Literal

import msgspec

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.base import Channel, Meter
from wattwerk.records import Accelerator, Scope
from wattwerk.registry import Probe

#: Seen on an H200: the energy counter moves every 97 to 103 ms.
ENERGY_TICK_S: Final = 0.1

#: Bit of the clock event reasons -> name; the numbers are part of NVML's stable interface.
_REASONS: Final = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}

#: Reasons that make a measurement invalid. ``sw_power_cap`` is not one of them: a GPU that runs at its power limit is
#: at its normal operating point under full load, which a reader has to know but which repeats.
INVALIDATING: Final = frozenset(
    {"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"}
)


def throttle_reasons(mask: float) -> list[str]:
    """Return the names of the reasons in a value of ``gpu…_throttle_count``, a bit mask; unknown bits as ``bit_9``."""
    bits = 0 if math.isnan(mask) else int(mask)
    return [_REASONS.get(1 << bit, f"bit_{bit}") for bit in range(bits.bit_length()) if bits >> bit & 1]


def invalidating_reasons(mask: float) -> list[str]:
    """Return those of a mask's reasons that make a measurement invalid."""
    return [reason for reason in throttle_reasons(mask) if reason in INVALIDATING]


class NvmlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the NVML meter.

    Attributes:
        devices: Indices of the GPUs to watch as ``nvidia-smi`` counts them (``CUDA_VISIBLE_DEVICES`` does not change
            these); None watches all.
    """

    devices: list[int] | None = None


class _Field(msgspec.Struct, frozen=True):
    """One readable value of one GPU."""

    channel: Channel
    read: Callable[[], float]


def _load() -> ModuleType:
    """Import and start NVML.

    Raises:
        UnavailableError: There is no driver, or it does not answer.
    """
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise UnavailableError(f"NVML: {error}", "`pip install nvidia-ml-py`") from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise UnavailableError(f"NVML does not start ({error})", _remedy(nvml, error)) from error
    return nvml


def _remedy(nvml: ModuleType, error: Any) -> str:
    remedies = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "install the NVIDIA driver; start a container with `--gpus all`",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "load the driver (`sudo modprobe nvidia`) and look at `nvidia-smi`",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "library and kernel module differ: reboot after the driver's update",
        nvml.NVML_ERROR_NO_PERMISSION: "give this user access to /dev/nvidia*; start a container with `--gpus all`",
        nvml.NVML_ERROR_GPU_IS_LOST: "the GPU fell off the bus: reboot, and look at `dmesg` for Xid errors",
    }
    return remedies.get(getattr(error, "value", None), "look at what `nvidia-smi` says")


def _field_value(nvml: ModuleType, handle: Any, field: int) -> float:
    """Return one of the numbered field values, whatever integer type the driver chose."""
    value = nvml.nvmlDeviceGetFieldValues(handle, [field])[0]
    if value.nvmlReturn != nvml.NVML_SUCCESS:
        raise nvml.NVMLError(value.nvmlReturn)
    members = {
        nvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
        nvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
        nvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_SHORT: "usVal",
    }
    return float(getattr(value.value, members[value.valueType]))


def _event_reasons(nvml: ModuleType, handle: Any) -> float:
    """Return the mask under its new name, or its old one on drivers that lack the new one."""
    try:
        return float(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except (AttributeError, nvml.NVMLError_FunctionNotFound):
        return float(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _candidates(nvml: ModuleType, handle: Any, prefix: str) -> Iterable[list[_Field]]:
    """Yield what a GPU may offer; of each list the first one that answers is taken."""

    def field(suffix: str, read: Callable[[], float], **more: Any) -> _Field:
        form: Literal["counter", "gauge"] = "counter" if suffix == "energy_j" else "gauge"
        return _Field(Channel(name=f"{prefix}_{suffix}", form=form, **more), read)

    power: dict[str, Any] = {"scope": Scope.ACCELERATOR}
    yield [
        field("energy_j", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, tick_s=ENERGY_TICK_S, **power)
    ]
    yield [
        field("power_w", lambda: _field_value(nvml, handle, nvml.NVML_FI_DEV_POWER_INSTANT) / 1e3, **power),
        field("power_w", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3, **power),
    ]
    yield [field("power_average_w", lambda: _field_value(nvml, handle, nvml.NVML_FI_DEV_POWER_AVERAGE) / 1e3, **power)]
    yield [field("clock_sm_hz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6)]
    yield [field("clock_memory_hz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1e6)]
    yield [
        field("temperature_celsius", lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)))
    ]
    yield [field("throttle_count", lambda: _event_reasons(nvml, handle))]
    yield [field("utilisation_ratio", lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)]
    yield [field("memory_used_bytes", lambda: float(nvml.nvmlDeviceGetMemoryInfo(handle).used))]


def _text(answer: str | bytes | None) -> str:
    """Return a text that older versions of pynvml give as bytes, and that may be missing."""
    return answer.decode("ascii", "replace") if isinstance(answer, bytes) else answer or ""


class _Gpu:
    """One GPU: its handle and the fields that answered when asked one by one."""

    def __init__(self, nvml: ModuleType, index: int) -> None:
        self.nvml = nvml
        self.prefix = f"gpu{index}"
        self.handle = nvml.nvmlDeviceGetHandleByIndex(index)
        answers = [self._first(options) for options in _candidates(nvml, self.handle, self.prefix)]
        self.fields = [field for field in answers if field]

    def _first(self, options: list[_Field]) -> _Field | None:
        return next((field for field in options if self._ask(field.read) is not None), None)

    def _ask(self, query: Callable[[], Any]) -> Any | None:
        try:
            return query()
        # AttributeError: an older pynvml lacks the function; KeyError: a field value of a type this one does not know
        except (self.nvml.NVMLError, AttributeError, KeyError):
            return None

    def read(self) -> list[float]:
        values = [self._ask(field.read) for field in self.fields]
        return [math.nan if value is None else value for value in values]

    def accelerator(self) -> Accelerator:
        nvml, handle = self.nvml, self.handle
        memory = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total)
        limit_mw = self._ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
        return Accelerator(
            name=self._ask(lambda: nvml.nvmlDeviceGetName(handle)) or "unknown NVIDIA GPU",
            driver=self._ask(nvml.nvmlSystemGetDriverVersion) or "",
            memory_bytes=None if memory is None else int(memory),
            power_limit_w=None if limit_mw is None else limit_mw / 1e3,
            prefix=self.prefix,
            address=_text(self._ask(lambda: nvml.nvmlDeviceGetPciInfo(handle).busId)).lower(),
            uuid=_text(self._ask(lambda: nvml.nvmlDeviceGetUUID(handle))),
        )

    def limits(self) -> dict[str, float]:
        nvml, handle = self.nvml, self.handle
        queries: dict[str, Callable[[], float]] = {
            "power_limit_w": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
            "power_limit_default_w": lambda: nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle) / 1e3,
            "clock_sm_max_hz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6,
            "clock_memory_max_hz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1e6,
        }
        for word in ("GPU_MAX", "SLOWDOWN", "SHUTDOWN"):
            threshold = getattr(nvml, f"NVML_TEMPERATURE_THRESHOLD_{word}")
            name = f"temperature_{word.removeprefix('GPU_').lower()}_celsius"
            queries[name] = functools.partial(nvml.nvmlDeviceGetTemperatureThreshold, handle, threshold)
        answers = {name: self._ask(query) for name, query in queries.items()}
        return {f"{self.prefix}_{name}": float(value) for name, value in answers.items() if value is not None}

    def mig(self) -> bool:
        mode = self._ask(lambda: self.nvml.nvmlDeviceGetMigMode(self.handle)[0])
        return bool(mode == self.nvml.NVML_DEVICE_MIG_ENABLE)


def _open(nvml: ModuleType, devices: list[int] | None) -> list[_Gpu]:
    try:
        count = nvml.nvmlDeviceGetCount()
        if not count:
            raise UnavailableError("NVML finds no GPU", "pass one through to this container or virtual machine")
        if bad := [index for index in devices or [] if not 0 <= index < count]:
            raise ConfigError(f"meters.nvml: no GPU {bad[0]}", f"use indices from 0 to {count - 1}")
        gpus = [_Gpu(nvml, index) for index in (range(count) if devices is None else devices)]
    except nvml.NVMLError as error:
        raise UnavailableError(f"NVML does not give the GPU ({error})", _remedy(nvml, error)) from error
    if not any(gpu.fields for gpu in gpus):
        raise UnavailableError(
            "NVML starts, but supports no query on this GPU, as on Jetson boards",
            "use a wall meter, or the board's own power sensors; nothing here can make NVML answer",
        )
    return gpus


class NvmlMeter(Meter):
    """Read NVIDIA GPUs.

    Channels of GPU 0, those that it supports: ``gpu0_energy_j`` (since the driver was loaded), ``gpu0_power_w``
    (instantaneous where the GPU tells, else NVML's own average), ``gpu0_power_average_w`` (over one second),
    ``gpu0_clock_sm_hz``, ``gpu0_clock_memory_hz``, ``gpu0_temperature_celsius``, ``gpu0_throttle_count`` (a bit mask,
    see ``throttle_reasons``), ``gpu0_utilisation_ratio``, ``gpu0_memory_used_bytes``.
    """

    name: ClassVar[str] = "nvml"
    config: ClassVar[type[msgspec.Struct]] = NvmlConfig

    @classmethod
    def probe(cls) -> Probe:
        """Tell which GPUs answer and what they do not tell; asks each field, since starting alone proves nothing."""
        try:
            meter = cls(NvmlConfig())
        except UnavailableError as error:
            return Probe(False, error.message, error.remedy)
        try:
            return Probe(True, "; ".join(_describe(gpu) for gpu in meter._gpus))
        finally:
            meter.close()

    def __init__(self, config: msgspec.Struct) -> None:
        """Open the meter.

        Raises:
            ConfigError: There is no GPU of a given index.
            UnavailableError: There is no driver, no GPU, no permission, or no query is supported.
        """
        assert isinstance(config, NvmlConfig)
        self._nvml = _load()
        try:
            self._gpus = _open(self._nvml, config.devices)
        except (UnavailableError, ConfigError):
            self._nvml.nvmlShutdown()
            raise
        self._reads = {field.channel.name: field.read for gpu in self._gpus for field in gpu.fields}

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order of ``read``."""
        return tuple(field.channel for gpu in self._gpus for field in gpu.fields)

    def read(self) -> list[float]:
        """Return one value for each channel, NaN where a single query failed.

        Raises:
            MeasurementError: Every query failed, as when a GPU is lost.
        """
        values = [value for gpu in self._gpus for value in gpu.read()]
        if all(math.isnan(value) for value in values):
            raise MeasurementError("NVML answers no query any more", "look at what `nvidia-smi` says")
        return values

    def read_counter(self, name: str) -> float:
        """Return one channel's value with one call into the driver."""
        return self._reads[name]()

    def accelerators(self) -> list[Accelerator]:
        """Return name, driver, memory, enforced power limit, PCI address and UUID of each GPU."""
        return [gpu.accelerator() for gpu in self._gpus]

    def limits(self) -> dict[str, float]:
        """Return limits of power, clock and temperature, such as ``gpu0_temperature_slowdown_celsius``."""
        return {name: value for gpu in self._gpus for name, value in gpu.limits().items()}

    def close(self) -> None:
        """Release NVML."""
        self._nvml.nvmlShutdown()


def _describe(gpu: _Gpu) -> str:
    accelerator = gpu.accelerator()
    text = f"{accelerator.name} (driver {accelerator.driver})"
    suffixes = {field.channel.name.removeprefix(f"{gpu.prefix}_") for field in gpu.fields}
    if missing := [suffix for suffix in ("energy_j", "power_w") if suffix not in suffixes]:
        text += f", does not tell {' and '.join(missing)}"
    return text + (", MIG is on: all values are the whole card's" if gpu.mig() else "")
