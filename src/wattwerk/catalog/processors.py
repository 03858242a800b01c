"""Processors without sensors: their peak arithmetic and their power, modelled with bounds."""

from __future__ import annotations

import csv
import functools
import io
import math
import re
from importlib.resources import files
from typing import Final

import msgspec
import psutil

from wattwerk.machine import cpu_info, cpu_name, is_virtual

_FLOPS_PER_MAC: Final = 2

#: flag -> fp32 multiply-adds of one vector unit in a cycle, the widest first
_VECTOR_LANES: Final = {"avx512f": 16, "fma": 8, "asimd": 4}
#: precision -> flag -> how many times the fp32 rate; one instruction sums that many products into each lane
_VECTOR_GAIN: Final = {
    "fp32": {"": 1},
    "bf16": {"avx512_bf16": 2, "avx_ne_convert": 1, "bf16": 2},
    "fp16": {"avx512_fp16": 2, "asimdhp": 2},
    "int8": {"avx512_vnni": 4, "avx_vnni": 4, "asimddp": 4},
}
#: precision -> flag of a matrix unit -> operations of one core in a cycle.
#: Source: Intel 64 and IA-32 Architectures Optimization Reference Manual, chapter on AMX.
_MATRIX_OPS: Final = {"bf16": {"amx_bf16": 1024}, "fp16": {"amx_fp16": 1024}, "int8": {"amx_int8": 2048}}
_UNITS: Final = (1.0, 1.5, 2.0)  # vector units of a core: at least, unknown, at most
_BOOST: Final = (
    1.5  # the most that a core runs above a frequency that is not its stated maximum, as in virtual machines
)


class CpuPower(msgspec.Struct, frozen=True):
    """Power of all processor packages, or of a virtual machine's share of them, at no and at full load.

    Attributes:
        idle_w: Power at no load.
        max_w: Power with every core busy.
        idle_low_w: Lower bound of ``idle_w``.
        idle_high_w: Upper bound of ``idle_w``.
        max_low_w: Lower bound of ``max_w``.
        max_high_w: Upper bound of ``max_w``.
        source: Where the numbers come from, and for which processor.
    """

    idle_w: float
    max_w: float
    idle_low_w: float
    idle_high_w: float
    max_low_w: float
    max_high_w: float
    source: str


class _Row(msgspec.Struct, frozen=True):
    """A row of ``data/cpu_power.csv``: watts of a package of so many cores and threads, or of one thread."""

    kind: str
    pattern: str
    cores: int | None
    threads: int | None
    idle_low_w: float
    idle_w: float
    idle_high_w: float
    max_low_w: float
    max_w: float
    max_high_w: float
    source: str


@functools.cache
def _rows() -> tuple[_Row, ...]:
    text = (files("wattwerk.catalog") / "data" / "cpu_power.csv").read_text(encoding="utf-8")
    rows = [{key: value or None for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]
    return tuple(msgspec.convert(rows, list[_Row], strict=False))


def cpu_power(cpu_name: str, cores: int, virtual: bool, signature: str = "") -> CpuPower:
    """Return the power of a processor: of its design power where it is known, else by its generation, else an average.

    Args:
        cpu_name: The name as the system gives it.
        cores: Logical processors that the system sees; for a virtual machine, its virtual CPUs.
        virtual: Whether this is a virtual machine, which is given its share of the host's threads.
        signature: ``vendor/family/model`` of ``/proc/cpuinfo``: hypervisors often hide the name.
    """
    row = next(row for row in _rows() if re.search(row.pattern, f"{cpu_name}|{signature}", re.IGNORECASE))
    if row.threads and not virtual:
        share: float = max(1, math.ceil(cores / row.threads))  # packages
    else:
        share = cores / (row.threads or 1)
    return CpuPower(
        idle_w=round(share * row.idle_w, 4),
        max_w=round(share * row.max_w, 4),
        idle_low_w=round(share * row.idle_low_w, 4),
        idle_high_w=round(share * row.idle_high_w, 4),
        max_low_w=round(share * row.max_low_w, 4),
        max_high_w=round(share * row.max_high_w, 4),
        source=f"{_basis(row, share, virtual)}: {row.source}",
    )


def _basis(row: _Row, share: float, virtual: bool) -> str:
    if not row.threads:
        return f"{share:g} x a thread of its generation"
    return f"{share:.1%} of the package's threads" if virtual else f"{share:g} x the package"


def cpu_power_here() -> dict[str, float | str]:
    """Return the modelled power of this machine's processor, as the meter of the CPU model takes it."""
    info = cpu_info()
    vendor = info.get("vendor_id") or f"ARM/{info.get('CPU implementer', '')}"
    signature = f"{vendor}/{info.get('cpu family') or info.get('CPU part', '')}/{info.get('model', '')}"
    power = cpu_power(cpu_name(), psutil.cpu_count() or 1, bool(is_virtual()), signature)
    return msgspec.structs.asdict(power)


def cpu_peak_ops_per_s(precision: str = "fp32") -> tuple[float, float, float] | None:
    """Model the peak of this machine's processor: cores x frequency x vector width x multiply-add units.

    How many multiply-add units a core has is not readable; one is the lower bound, two the upper one. A virtual machine
    does not tell the highest frequency either, which widens the upper bound.

    Args:
        precision: ``fp32``, ``bf16``, ``fp16`` or ``int8``.

    Returns:
        Lower bound, estimate and upper bound in operations per second; None where the processor has no instructions
        for this precision, or the system tells too little.
    """
    info = cpu_info()
    flags = frozenset((info.get("flags") or info.get("Features") or "").split())
    frequency_hz, highest_hz = _frequencies_hz()
    bounds = _peak(flags, psutil.cpu_count(logical=False) or 0, frequency_hz, precision)
    return (bounds[0], bounds[1], bounds[2] * highest_hz / frequency_hz) if bounds else None


def _peak(flags: frozenset[str], cores: int, frequency_hz: float, precision: str) -> tuple[float, float, float] | None:
    cycles = cores * frequency_hz
    matrix = max((ops for flag, ops in _MATRIX_OPS.get(precision, {}).items() if flag in flags), default=0)
    if matrix:
        return (cycles * matrix / 2, cycles * matrix, cycles * matrix)
    lanes = next((lanes for flag, lanes in _VECTOR_LANES.items() if flag in flags), 0)
    gains = _VECTOR_GAIN.get(precision, {})
    gain = max((gain for flag, gain in gains.items() if not flag or flag in flags), default=0)
    low, middle, high = (cycles * lanes * gain * units * _FLOPS_PER_MAC for units in _UNITS)
    return (low, middle, high) if low else None


def _frequencies_hz() -> tuple[float, float]:
    """Return the stated maximum twice, else the present frequency and the most it may boost to; zeros if unknown."""
    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError, AttributeError):
        frequency = None
    if frequency and frequency.max:
        return (frequency.max * 1e6, frequency.max * 1e6)
    present_hz = float((frequency and frequency.current) or cpu_info().get("cpu MHz", 0.0)) * 1e6
    return (present_hz, present_hz * _BOOST)
