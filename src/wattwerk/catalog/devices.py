"""Accelerators and processors: what they can do at most, from data sheets or modelled, with the source.

``data/devices.csv`` holds the accelerators: dense arithmetic, one row per variant, each with its source and how far it
is confirmed (A: the vendor's own document, B: a curated collection, C: a secondary text).
"""

from __future__ import annotations

import csv
import functools
import io
import re
from importlib.resources import files
from typing import Any, Final

import msgspec

from wattwerk.catalog.processors import CpuPower, cpu_peak_ops_per_s, cpu_power, cpu_power_here

__all__ = [
    "CpuPower",
    "Device",
    "Peak",
    "cpu_peak_ops_per_s",
    "cpu_power",
    "cpu_power_here",
    "find_accelerator",
    "peak_here",
    "peak_ops_per_s",
]

_TERA: Final = 1e12
_PEAK_COLUMNS: Final = {
    "fp32": "fp32_tflops",
    "tf32": "tf32_tflops",
    "bf16": "bf16_tflops",
    "fp16": "fp16_tflops",
    "int8": "int8_tops",
}


class Device(msgspec.Struct, frozen=True):
    """One accelerator of the catalogue; None stands for what no source states.

    Attributes:
        vendor: Its maker.
        name: Its name and variant.
        pattern: Regular expression for the names that drivers give it; empty where none is known.
        int8_tops: Dense int8, in 10^12 operations per second.
        fp16_tflops: Dense fp16 with fp32 accumulation, matrix units included.
        bf16_tflops: Dense bf16, likewise.
        tf32_tflops: Dense tf32, likewise.
        fp32_tflops: fp32 without matrix units.
        memory_gb: Memory in 10^9 bytes.
        bandwidth_gb_per_s: Memory bandwidth in 10^9 bytes per second.
        tdp_w: Design power.
        release_year: When it came out.
        source: Where the row comes from.
        confidence: ``A``, ``B`` or ``C``; see the module.
        notes: What a reader has to know.
    """

    vendor: str
    name: str
    pattern: str
    int8_tops: float | None
    fp16_tflops: float | None
    bf16_tflops: float | None
    tf32_tflops: float | None
    fp32_tflops: float | None
    memory_gb: float | None
    bandwidth_gb_per_s: float | None
    tdp_w: float | None
    release_year: int | None
    source: str
    confidence: str
    notes: str


class Peak(msgspec.Struct, frozen=True):
    """The most operations that a device can do in a second; a multiply-add counts as two.

    Attributes:
        value: The best estimate; the data sheet's number for an accelerator.
        low: Lower bound; equal to ``value`` where the number is stated rather than modelled.
        high: Upper bound.
        source: Where it comes from.
    """

    value: float
    low: float
    high: float
    source: str


@functools.cache
def accelerators() -> tuple[Device, ...]:
    """Return all rows of the catalogue."""
    text = (files("wattwerk.catalog") / "data" / "devices.csv").read_text(encoding="utf-8")
    texts = {"vendor", "name", "pattern", "source", "confidence", "notes"}
    rows: list[dict[str, Any]] = []
    for row in csv.DictReader(io.StringIO(text)):
        rows.append({key: value if key in texts else value or None for key, value in row.items()})
    return tuple(msgspec.convert(rows, list[Device], strict=False))


def find_accelerator(name: str) -> Device | None:
    """Find an accelerator by the name that a driver or a person gives it.

    Only a whole name matches: a laptop, PCIe or NVL variant or a slice of a GPU has other figures than its namesake.

    Args:
        name: Such as ``NVIDIA H200`` or ``NVIDIA A100-SXM4-80GB``.
    """
    wanted = " ".join(name.split())
    for device in accelerators():
        names = {device.name.casefold(), f"{device.vendor} {device.name}".casefold()}
        if wanted.casefold() in names:
            return device
        if device.pattern and re.fullmatch(device.pattern, wanted, re.IGNORECASE):
            return device
    return None


def peak_ops_per_s(device: Device, precision: str) -> float | None:
    """Return the dense peak of an accelerator; None where no source states it.

    Args:
        device: The accelerator.
        precision: ``fp32``, ``tf32``, ``bf16``, ``fp16`` or ``int8``.
    """
    value: float | None = getattr(device, _PEAK_COLUMNS[precision])
    return None if value is None else value * _TERA


def peak_here(device: str, precision: str, device_name: str = "") -> Peak | None:
    """Return the peak of a device of this machine; None where it is not known.

    Args:
        device: As a runtime names it: ``cpu`` or ``cuda:0``.
        precision: ``fp32``, ``tf32``, ``bf16``, ``fp16`` or ``int8``.
        device_name: The accelerator's name as its driver gives it.
    """
    if device.casefold().startswith("cpu"):
        bounds = cpu_peak_ops_per_s(precision)
        source = "modelled: cores x frequency x vector width x one to two multiply-add units"
        return Peak(bounds[1], bounds[0], bounds[2], source) if bounds else None
    found = find_accelerator(device_name)
    value = peak_ops_per_s(found, precision) if found else None
    return Peak(value, value, value, f"{found.name}: {found.source}") if found and value else None
