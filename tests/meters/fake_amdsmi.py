"""A stand-in for amdsmi, written from AMD's documentation: same functions, keys, errors and units.

It proves how the meter deals with what AMD SMI is documented to answer; what a GPU really answers is only known on one.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any


class AmdSmiException(Exception):  # noqa: N818 - the name is AMD's own
    """Base of what the functions raise."""


#: query -> answer of each release, in AMD's units: watts, ticks of ``counter_resolution`` microjoules, degrees Celsius
ROCM_5_7: dict[str, Any] = {
    "amdsmi_get_energy_count": {"power": 1000, "counter_resolution": 15.3, "timestamp": 1},
    "amdsmi_get_power_info": {"average_socket_power": 90, "power_limit": 300},
}
ROCM_6: dict[str, Any] = {
    "amdsmi_get_energy_count": {"energy_accumulator": 1000, "counter_resolution": 15.3, "timestamp": 1},
    "amdsmi_get_power_info": {"current_socket_power": 120, "average_socket_power": "N/A", "power_limit": 750},
    "amdsmi_get_temp_metric": 41,
    "amdsmi_get_gpu_asic_info": {"market_name": "AMD Test GPU"},
    "amdsmi_get_gpu_device_bdf": "0000:C1:00.0",
    "amdsmi_get_gpu_device_uuid": "aaaa-bbbb",
    "amdsmi_get_gpu_driver_info": {"driver_version": "6.99"},
}
ROCM_7 = ROCM_6 | {
    "amdsmi_get_power_info": {"socket_power": 130, "current_socket_power": 130, "average_socket_power": 125}
}


class FakeAmdSmi(ModuleType):
    """A module that behaves like amdsmi.

    Attributes:
        answers: What each query gives; a function that a release lacks is an AttributeError, an exception is raised.
        running: How often it was started and not yet shut down.
    """

    AmdSmiException = AmdSmiException
    AmdSmiTemperatureType = SimpleNamespace(EDGE=0, HOTSPOT=1, JUNCTION=1)
    AmdSmiTemperatureMetric = SimpleNamespace(CURRENT=0)

    def __init__(self, answers: dict[str, Any], devices: int = 1, start_error: bool = False) -> None:
        super().__init__("amdsmi")
        self.answers = dict(answers)
        self.devices = devices
        self.start_error = start_error
        self.running = 0

    def __getattr__(self, name: str) -> Any:
        answers = self.__dict__.get("answers", {})
        if name not in answers:
            raise AttributeError(name)
        return lambda *_: self._answer(name)

    def _answer(self, name: str) -> Any:
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def amdsmi_init(self) -> None:
        """Start."""
        if self.start_error:
            raise AmdSmiException("AMDSMI_STATUS_DRIVER_NOT_LOADED")
        self.running += 1

    def amdsmi_shut_down(self) -> None:
        """Shut down."""
        self.running -= 1

    def amdsmi_get_processor_handles(self) -> list[int]:
        """Return one handle for each GPU."""
        return list(range(self.devices))
