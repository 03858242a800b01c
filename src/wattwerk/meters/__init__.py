"""Meters: what reads power, energy and load. A new one is one file here and one line in ``METERS``."""

from wattwerk.meters.base import Meter
from wattwerk.registry import Registry

METERS: Registry[type[Meter]] = Registry(
    "meters",
    {
        "nvml": "wattwerk.meters.nvml:NvmlMeter",
        "rapl": "wattwerk.meters.rapl:RaplMeter",
        "cpu-model": "wattwerk.meters.cpu_model:CpuModelMeter",
        "host-load": "wattwerk.meters.host_load:HostLoadMeter",
    },
)

__all__ = ["METERS", "Meter"]
