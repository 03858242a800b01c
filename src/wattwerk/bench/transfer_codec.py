"""What encoding and decoding cost here: times are measured, energy is read from a sensor or modelled from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Final

import msgspec
import psutil

from wattwerk.bench.energy import energy_channels
from wattwerk.catalog import processors
from wattwerk.metering.interval import scaled, summed
from wattwerk.meters import inventory
from wattwerk.meters.recorder import Recorder
from wattwerk.meters.trace import Trace
from wattwerk.records import Figure, Provenance, Scope

#: Scopes in which a codec's work can be seen, the widest first; a graphics card sees none of it.
_SCOPES: Final = (Scope.WALL, Scope.NODE, Scope.BOARD, Scope.CPU_PACKAGE)
_MARGIN_S: Final = 0.3  # recorded on both sides of the work


class Work(msgspec.Struct, frozen=True):
    """One piece of work.

    Attributes:
        wall_s: Time it took.
        cpu_s: Processor time it took, all threads together.
        energy: Energy it took.
    """

    wall_s: float
    cpu_s: float
    energy: Figure


class Span(msgspec.Struct, frozen=True):
    """When some work ran, how often, and the times of its fastest run: what else the machine does slows the others.

    Attributes:
        start_ns: ``time.perf_counter_ns`` before the first run.
        end_ns: The same after the last.
        runs: How many there were.
        wall_s: Time of the fastest run.
        cpu_s: Processor time of the same run, all threads together.
    """

    start_ns: int
    end_ns: int
    runs: int
    wall_s: float
    cpu_s: float


def timed(work: Callable[[], object], at_least_s: float = 0.0) -> Span:
    """Run something once, or again and again until some time has passed."""
    marks = [(time.perf_counter_ns(), time.process_time_ns())]
    while len(marks) < 2 or marks[-1][0] - marks[0][0] < at_least_s * 1e9:
        work()
        marks.append((time.perf_counter_ns(), time.process_time_ns()))
    wall_ns, cpu_ns = min((b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks))
    return Span(marks[0][0], marks[-1][0], len(marks) - 1, wall_ns / 1e9, cpu_ns / 1e9)


def cost(
    encode: Callable[[], object],
    decode: Callable[[], object],
    *,
    meter: bool,
    at_least_s: float = 0.0,
    powers_w: tuple[float | None, float | None] = (None, None),
) -> tuple[Work, Work]:
    """Return what encoding and decoding cost.

    Args:
        encode: Encodes once.
        decode: Decodes once.
        meter: Read the sensors meanwhile; without any, and where False, energy is modelled.
        at_least_s: Repeat each for so long.
        powers_w: Power of the device while it encodes and while it decodes, where that is known better.
    """
    with _recorded(meter) as recorder:
        time.sleep(_MARGIN_S if recorder else 0.0)
        spans = [timed(work, at_least_s) for work in (encode, decode)]
        trace = recorder.trace(until_ns=spans[1].end_ns) if recorder else None
    return _work(spans[0], trace, powers_w[0]), _work(spans[1], trace, powers_w[1])


@contextmanager
def _recorded(meter: bool) -> Iterator[Recorder | None]:
    if not meter:
        yield None
        return
    with Recorder(inventory.default_specs(), rate_hz=50.0) as recorder:
        yield recorder


def _work(span: Span, trace: Trace | None, power_w: float | None) -> Work:
    if power_w is not None:
        energy = Figure(power_w * span.wall_s, Provenance.MODELLED, Scope.NODE, note="its time and the power given")
    else:
        sensor = None if trace is None else _sensed(trace, span)
        energy = sensor or modelled_energy(span.wall_s, span.cpu_s, "no sensor here" if trace is not None else None)
    return Work(span.wall_s, span.cpu_s, energy)


def _sensed(trace: Trace, span: Span) -> Figure | None:
    """Return one run's energy by the widest sensor; None if nothing is measured."""
    for scope in _SCOPES:
        channels = [c for c in energy_channels(trace, scope) if c.provenance is Provenance.MEASURED]
        if channels:
            parts = [trace.energy(channel.name, span.start_ns, span.end_ns) for channel in channels]
            note = f"mean of {span.runs} runs; what else the machine did is in it"
            return scaled(summed(parts, scope, note), 1 / span.runs)
    return None


def modelled_energy(wall_s: float, cpu_s: float, reason: str | None = None, power: Sequence[float] = ()) -> Figure:
    """Model the processor's energy from the time that work really took: idle power, and what each busy core adds.

    Idle power is counted for the work's time, but for no more than its processor time: what lies beyond is waiting for
    other programs, which is not the work's.

    Args:
        wall_s: Time it took.
        cpu_s: Processor time it took, all threads together.
        reason: Why nothing was measured.
        power: Idle and full power, each as lower bound, value and upper bound, and the number of logical processors;
            the catalogue's numbers for this machine if they are not given.
    """
    found = processors.cpu_power_here()
    names = ("idle_low_w", "idle_w", "idle_high_w", "max_low_w", "max_w", "max_high_w")
    numbers = list(power) or [*(float(found[name]) for name in names), float(psutil.cpu_count() or 1)]
    own_s, busy_s = min(wall_s, cpu_s), cpu_s / numbers[6]
    low, value, high = (numbers[i] * own_s + (numbers[i + 3] - numbers[i]) * busy_s for i in range(3))
    source = "given numbers" if power else str(found["source"])
    note = f"from {cpu_s:.3g} s of processor time; {source}" + (f"; {reason}" if reason else "")
    return Figure(value, Provenance.MODELLED, Scope.CPU_PACKAGE, low, high, note)
