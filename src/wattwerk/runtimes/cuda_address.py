"""Which card a CUDA device is: its place on the PCI bus, as the driver tells it.

CUDA counts the fastest card first, NVML goes along the bus, and ``CUDA_VISIBLE_DEVICES`` renumbers the former only. The
address is what both sides have in common.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_LIBRARY: Final = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
_LENGTH: Final = 32


def cuda_address(device: str) -> str:
    """Return the PCI address of a CUDA device, such as ``0000:3b:00.0``; empty where the driver cannot be asked.

    Not every version of PyTorch tells it and none of ONNX Runtime, so the driver itself is asked: it counts devices as
    every library of this process does.

    Args:
        device: The device as a runtime names it; the number after its colon counts.
    """
    index = device.rpartition(":")[2]
    if not (index.isascii() and index.isdecimal()):
        return ""
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return ""
    handle, text = ctypes.c_int(), ctypes.create_string_buffer(_LENGTH)
    told = (
        driver.cuInit(0) == 0
        and driver.cuDeviceGet(ctypes.byref(handle), int(index)) == 0
        and driver.cuDeviceGetPCIBusId(text, _LENGTH, handle) == 0
    )
    return text.value.decode("ascii", "replace").lower() if told else ""
