"""A stand-in for pynvml, written from NVML's documentation: same functions, constants, errors and units.

It proves how the meter deals with what NVML is documented to answer; what a GPU really answers is only known on a GPU.
"""

# ruff: noqa: N802, N815, N818, D102 - names and meanings are NVML's own
from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """As in pynvml: carries the return code."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return {3: "Not Supported", 4: "Insufficient Permissions", 12: "NVML Shared Library Not Found"}.get(
            self.value, f"error {self.value}"
        )


class NVMLErrorFunctionNotFound(NVMLError):
    """The library is older than the function."""


CONSTANTS = {
    "NVML_SUCCESS": 0,
    "NVML_ERROR_NOT_SUPPORTED": 3,
    "NVML_ERROR_NO_PERMISSION": 4,
    "NVML_ERROR_DRIVER_NOT_LOADED": 9,
    "NVML_ERROR_LIBRARY_NOT_FOUND": 12,
    "NVML_ERROR_GPU_IS_LOST": 15,
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": 18,
    "NVML_FI_DEV_POWER_AVERAGE": 185,
    "NVML_FI_DEV_POWER_INSTANT": 186,
    "NVML_VALUE_TYPE_DOUBLE": 0,
    "NVML_VALUE_TYPE_UNSIGNED_INT": 1,
    "NVML_VALUE_TYPE_UNSIGNED_LONG": 2,
    "NVML_VALUE_TYPE_UNSIGNED_LONG_LONG": 3,
    "NVML_VALUE_TYPE_SIGNED_LONG_LONG": 4,
    "NVML_VALUE_TYPE_SIGNED_INT": 5,
    "NVML_VALUE_TYPE_UNSIGNED_SHORT": 6,
    "NVML_CLOCK_SM": 1,
    "NVML_CLOCK_MEM": 2,
    "NVML_TEMPERATURE_GPU": 0,
    "NVML_TEMPERATURE_THRESHOLD_SHUTDOWN": 0,
    "NVML_TEMPERATURE_THRESHOLD_SLOWDOWN": 1,
    "NVML_TEMPERATURE_THRESHOLD_GPU_MAX": 3,
    "NVML_DEVICE_MIG_ENABLE": 1,
}

#: query -> answer of a healthy GPU, in NVML's units (millijoules, milliwatts, megahertz, percent)
ANSWERS: dict[str, Any] = {
    "nvmlDeviceGetTotalEnergyConsumption": 5_000,
    "nvmlDeviceGetPowerUsage": 300_000,
    "nvmlDeviceGetTemperature": 41,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x1,
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=75, memory=30),
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=150_000_000_000, used=1_000_000_000, free=149_000_000_000),
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
    "nvmlDeviceGetName": "NVIDIA Test GPU",
    "nvmlDeviceGetMigMode": (0, 0),
    "sm clock": 1980,
    "memory clock": 3201,
    185: (1, 250_000),
    186: (1, 310_000),
    "SLOWDOWN": 92,
    "GPU_MAX": 88,
    "SHUTDOWN": 95,
}


class FakeNvml(ModuleType):
    """A module that behaves like pynvml.

    Attributes:
        answers: What each query gives; a missing one is NotSupported, an int under ``errors`` is another error.
        errors: Query -> NVML return code.
        devices: Number of GPUs, or as many as there are ``names``, for cards that differ.
        running: How often it was started and not yet shut down.
    """

    def __init__(
        self,
        answers: dict[str, Any] | None = None,
        devices: int = 1,
        start_error: int = 0,
        names: list[str] | None = None,
    ) -> None:
        super().__init__("pynvml")
        self.__dict__.update(CONSTANTS)
        self.NVMLError = NVMLError
        self.NVMLError_FunctionNotFound = NVMLErrorFunctionNotFound
        self.answers = dict(ANSWERS if answers is None else answers)
        self.errors: dict[Any, int] = {}
        self.devices = len(names) if names else devices
        self.running = 0
        self.start_error = start_error
        for query in (key for key in ANSWERS if str(key).startswith("nvmlDevice")):
            setattr(self, query, lambda *_, query=query: self.answer(query))
        if names:
            self.nvmlDeviceGetName = lambda handle: names[handle]

    def answer(self, query: Any) -> Any:
        if query in self.errors:
            raise NVMLError(self.errors[query])
        if query not in self.answers:
            raise NVMLError(3)
        return self.answers[query]

    def nvmlInit(self) -> None:
        if self.start_error:
            raise NVMLError(self.start_error)
        self.running += 1

    def nvmlShutdown(self) -> None:
        self.running -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "999.1"

    def nvmlDeviceGetCount(self) -> int:
        return self.devices

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return self.answer("handle") if "handle" in self.errors else index

    def nvmlDeviceGetPciInfo(self, handle: int) -> Any:
        return SimpleNamespace(busId=f"00000000:{0x3B + handle:02X}:00.0")

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle:08x}-aaaa-bbbb"

    def nvmlDeviceGetClockInfo(self, _handle: int, kind: int) -> int:
        return self.answer("sm clock" if kind == 1 else "memory clock")

    nvmlDeviceGetMaxClockInfo = nvmlDeviceGetClockInfo

    def nvmlDeviceGetTemperatureThreshold(self, _handle: int, kind: int) -> int:
        return self.answer({0: "SHUTDOWN", 1: "SLOWDOWN", 3: "GPU_MAX"}[kind])

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _handle: int) -> int:
        return self.answer("old reasons")

    def nvmlDeviceGetFieldValues(self, _handle: int, fields: list[int]) -> list[Any]:
        return [self._field(field) for field in fields]

    def _field(self, field: int) -> Any:
        if field not in self.answers:
            return SimpleNamespace(nvmlReturn=3, valueType=1, value=SimpleNamespace(uiVal=0))
        kind, value = self.answers[field]
        member = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")[kind]
        return SimpleNamespace(nvmlReturn=0, valueType=kind, value=SimpleNamespace(**{member: value}))
