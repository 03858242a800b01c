"""The sampling process: opens the meters, reads them at a steady rate, and appends what they say to a file.

It imports no numpy and nothing of the measured program, writes to a file that nobody else writes, and ends when its
parent does. A meter that raises costs its own values of that moment; a meter that hangs is left behind by a fresh
thread, and taken back when it answers again.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from wattwerk import machine
from wattwerk.errors import ConfigError
from wattwerk.meters import protocol
from wattwerk.meters.base import Channel, Meter
from wattwerk.meters.gate import Gate, Keeper
from wattwerk.meters.host_load import HostLoadConfig, HostLoadMeter
from wattwerk.meters.plausibility import Plausibility
from wattwerk.meters.row_file import RowFile
from wattwerk.meters.sections import configured, named
from wattwerk.meters.tick import Edge, TickLock
from wattwerk.units import times

_OPEN_S: Final = 30.0
_HANG_NS: Final = 2_000_000_000
_EXACT_NS: Final = 500_000  # reads that took less count as one moment
_WATCH_S: Final = 0.5
_SLICE_S: Final = 0.1
_JOB_POLL_S: Final = 0.002

#: Chooses meters.
Choose = Callable[[], list[protocol.MeterSpec]]


class Source:
    """One open meter and what has happened to it."""

    def __init__(self, name: str, meter: Meter) -> None:
        self.name = name
        self.meter = meter
        self.channels = meter.channels
        self._plausibility = Plausibility(meter.channels)
        self.failures = 0
        self.last_error = ""
        self.hung = False
        self.hangs = 0

    @property
    def slow(self) -> bool:
        """Whether it is read in a thread of its own."""
        return self.meter.interval_s > 0

    def read(self) -> list[float]:
        """Return one value for each channel; NaN for all of them, and a fault, where the meter raises."""
        try:
            values = [float(value) for value in self.meter.read()]
            if len(values) != len(self.channels):
                raise ValueError(f"{len(values)} values for {len(self.channels)} channels")
        except Exception as error:
            return self.fail(error)
        return self._plausibility.judge(values, time.perf_counter_ns())

    def fail(self, error: BaseException) -> list[float]:
        """Count a failed read and return the NaN that stand for it."""
        self.failures += 1
        self.last_error = f"{type(error).__name__}: {error}"
        return [math.nan] * len(self.channels)

    def faults(self) -> list[str]:
        """Return what went wrong, in words."""
        found = []
        if self.failures:
            reads = "one failed read" if self.failures == 1 else f"{self.failures} failed reads"
            found.append(f"{self.name}: {reads}, the last one with {self.last_error}")
        if self.hangs:
            found.append(f"{self.name}: hung {times(self.hangs)}, {'still does' if self.hung else 'answers again'}")
        more = [*self.meter.faults(), *self._plausibility.faults()]
        return found + [f"{self.name}: {fault}" for fault in more]


def open_meter(spec: protocol.MeterSpec) -> Meter:
    """Open one meter within a bounded time.

    Raises:
        ConfigError: The meter or one of its options does not exist.
        Exception: Whatever the meter raises.
    """
    meter_type = protocol.load_meter(spec.name)
    config = configured(meter_type, spec.config, spec.section, f"meters.{spec.label}")
    result: list[Meter | BaseException] = []

    def work() -> None:
        try:
            result.append(meter_type(config))
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(_OPEN_S)
    if not result:
        raise TimeoutError(f"did not open within {_OPEN_S:g} s")
    if isinstance(result[0], ConfigError) and spec.section:
        raise ConfigError(f"[meters.{spec.section}]: {result[0].message}", result[0].remedy) from result[0]
    if isinstance(result[0], BaseException):
        raise result[0]
    return named(result[0], spec.section)


def open_all(specs: list[protocol.MeterSpec]) -> tuple[list[Source], list[str]]:
    """Open what opens; the host's load where nothing else does.

    Returns:
        The open meters, and why the others are not.

    Raises:
        ConfigError: A meter or one of its options does not exist, or two meters give channels of one name.
    """
    sources: list[Source] = []
    faults: list[str] = []
    for spec in specs:
        try:
            source = Source(spec.label, open_meter(spec))
        except ConfigError:
            raise
        except Exception as error:
            faults.append(f"{spec.label}: {error}" if str(error) else f"{spec.label}: {type(error).__name__}")
            continue
        _check_names(source, sources)
        sources.append(source)
    return sources or [Source("host-load", HostLoadMeter(HostLoadConfig()))], faults


def _check_names(source: Source, others: list[Source]) -> None:
    taken = {channel.name: other.name for other in others for channel in other.channels}
    if clash := next((channel.name for channel in source.channels if channel.name in taken), None):
        raise ConfigError(
            f"[meters.{taken[clash]}] and [meters.{source.name}] both give {clash}",
            "give one of them another prefix, or its channel another name",
        )


def locked_channel(sources: list[Source]) -> tuple[Source, Channel] | None:
    """Return the counter whose ticks the samples follow: the first that has any."""
    pairs = ((source, channel) for source in sources if not source.slow for channel in source.channels)
    return next((pair for pair in pairs if pair[1].form == "counter" and pair[1].tick_s), None)


class Lane:
    """Read one slow source again and again, in a thread of its own.

    Each read becomes a row in which all other channels are NaN. Its times are those at which the read ended and began,
    less the meter's latency. A read that does not return holds up nothing but this lane.

    Args:
        source: The open meter.
        first_column: Where its channels begin in a row.
        rows: Where samples go.
        keeper: Tells when to stand still.
        stop: Ends the lane.
    """

    def __init__(self, source: Source, first_column: int, rows: RowFile, keeper: Keeper, stop: threading.Event) -> None:
        self._source = source
        self._before = [math.nan] * first_column
        self._after = [math.nan] * (rows.columns - first_column - len(source.channels))
        self._rows = rows
        self._keeper = keeper
        self._stop = stop
        self._began_ns: int | None = None

    def start(self) -> None:
        """Start reading."""
        threading.Thread(target=self._run, daemon=True).start()

    def watch(self) -> None:
        """Note a read that does not return; called twice a second by the main thread."""
        began_ns = self._began_ns
        if began_ns is not None and not self._source.hung and time.perf_counter_ns() - began_ns >= _HANG_NS:
            self._source.hung = True
            self._source.hangs += 1

    def _run(self) -> None:
        interval_ns = round(self._source.meter.interval_s * 1e9)
        due_ns = time.perf_counter_ns()
        while not self._stop.is_set():
            if self._keeper.paused():
                self._stop.wait(_SLICE_S)
                continue
            left_s = (due_ns - time.perf_counter_ns()) / 1e9
            if left_s > 0:
                self._stop.wait(min(left_s, 2 * _SLICE_S))
                continue
            self._sample()
            due_ns = max(due_ns + interval_ns, time.perf_counter_ns())

    def _sample(self) -> None:
        self._began_ns = began_ns = time.perf_counter_ns()
        values = self._source.read()
        ended_ns = time.perf_counter_ns()
        self._began_ns = None
        self._source.hung = False
        latency_ns = round(self._source.meter.latency_s * 1e9)
        self._rows.append(ended_ns - latency_ns, began_ns - latency_ns, self._before + values + self._after)


class Sampler:
    """Read all sources again and again, in a thread that can be replaced; slow ones have threads of their own.

    Args:
        sources: The open meters.
        rows: Where samples go.
        keeper: Tells when to stand still.
        rate_hz: Samples a second.
    """

    def __init__(self, sources: list[Source], rows: RowFile, keeper: Keeper, rate_hz: float) -> None:
        self.sources = sources
        self.stop = threading.Event()
        self._wake = threading.Event()
        self._rows = rows
        self._keeper = keeper
        self._period_ns = round(1e9 / rate_hz)
        self._guard = threading.Lock()
        self._generation = 0
        self._reading: tuple[Source, int] | None = None
        self._lanes = self._make_lanes()
        self._leader = locked_channel(sources)
        self._lock = self._make_lock()

    def _make_lanes(self) -> list[Lane]:
        lanes, column = [], 0
        for source in self.sources:
            if source.slow:
                lanes.append(Lane(source, column, self._rows, self._keeper, self.stop))
            column += len(source.channels)
        return lanes

    def _make_lock(self) -> TickLock | None:
        if self._leader is None:
            return None
        source, channel = self._leader
        tick_ns = round((channel.tick_s or 0) * 1e9)
        return TickLock(lambda: source.meter.read_counter(channel.name), tick_ns, self._period_ns)

    def start(self) -> None:
        """Start sampling."""
        self._start_thread()
        for lane in self._lanes:
            lane.start()

    def _start_thread(self) -> None:
        threading.Thread(target=self._run, args=(self._generation,), daemon=True).start()

    def nudge(self) -> None:
        """Take a sample at once."""
        self._wake.set()

    def end(self) -> None:
        """Take no more samples."""
        self.stop.set()
        self._wake.set()

    def watch(self) -> None:
        """Leave a hanging meter behind: called twice a second by the main thread."""
        for lane in self._lanes:
            lane.watch()
        reading = self._reading
        if reading is None or time.perf_counter_ns() - reading[1] < _HANG_NS:
            return
        with self._guard:
            self._generation += 1
            self._reading = None
            reading[0].hung = True
            reading[0].hangs += 1
        self._start_thread()

    def faults(self) -> list[str]:
        """Return everything that went wrong since the start, in words."""
        lost = [f"{self._rows.lost} samples could not be written: is the disk full?"] if self._rows.lost else []
        return lost + [fault for source in self.sources for fault in source.faults()]

    def _run(self, generation: int) -> None:
        last_ns = time.perf_counter_ns() - self._period_ns
        while generation == self._generation and not self.stop.is_set():
            if self._keeper.paused():
                if self._lock:
                    self._lock.forget()
                self.stop.wait(_SLICE_S)
                continue
            wake_ns, search = self._plan(max(last_ns + self._period_ns, time.perf_counter_ns()))
            if self._wait_until(wake_ns):
                nudged = self._wake.is_set()
                self._wake.clear()
                last_ns = self._sample(generation, search and not nudged)

    def _plan(self, due_ns: int) -> tuple[int, bool]:
        if self._lock is None or self._leader is None or self._leader[0].hung:
            return due_ns, False
        return self._lock.plan(due_ns)

    def _wait_until(self, wake_ns: int) -> bool:
        """Sleep; return False if the loop has to look around first."""
        left_s = (wake_ns - time.perf_counter_ns()) / 1e9
        nudged = left_s > 0 and self._wake.wait(min(left_s, 2 * _SLICE_S))
        return (nudged or left_s <= 2 * _SLICE_S) and not self.stop.is_set()

    def _sample(self, generation: int, search: bool) -> int:
        """Take one sample of everything and write it.

        Returns:
            Its time.
        """
        edge = self._search() if search else None
        time_ns = edge.time_ns if edge else time.perf_counter_ns()
        values = [value for source in self.sources for value in self._read(source, generation)]
        ended_ns, unmoved_ns = self._align(time_ns, edge, values)
        with self._guard:
            if generation == self._generation:
                self._rows.append(ended_ns, unmoved_ns, values)
        return time_ns

    def _search(self) -> Edge | None:
        assert self._lock is not None
        assert self._leader is not None
        source = self._leader[0]
        self._reading = (source, time.perf_counter_ns())
        try:
            return self._lock.search()
        except Exception as error:
            source.fail(error)
            self._lock.forget()
            return None
        finally:
            self._reading = None

    def _read(self, source: Source, generation: int) -> list[float]:
        if source.slow or source.hung or generation != self._generation:
            return [math.nan] * len(source.channels)
        self._reading = (source, time.perf_counter_ns())
        values = source.read()
        if generation == self._generation:
            self._reading = None
        else:
            source.hung = False  # a thread that was left behind came back: so did the meter
        return values

    def _align(self, time_ns: int, edge: Edge | None, values: list[float]) -> tuple[int, int]:
        """Make the locked counter's value that of the edge; return the row's two times.

        Without a locked counter they are those at which the reads ended and began, where it matters: a busy machine
        takes the processor away in the middle of a read now and then.
        """
        if self._lock is None or self._leader is None:
            ended_ns = time.perf_counter_ns()
            return (ended_ns if ended_ns - time_ns > _EXACT_NS else time_ns), time_ns
        names = [channel.name for source in self.sources for channel in source.channels]
        column = names.index(self._leader[1].name)
        if edge is None:
            return time_ns, self._lock.observe(time_ns, values[column])
        values[column] = edge.value  # read again a moment later it may have moved once more
        return time_ns, edge.unmoved_ns


def _listen(sampler: Sampler, told: list[bool]) -> None:
    """Do what the parent says until it ends this or is gone; only in the first case it is there to clean up."""
    for line in sys.stdin.buffer:
        if line == b"sample\n":
            sampler.nudge()
        told.append(line == b"stop\n")
    sampler.end()


def _serve(sampler: Sampler, folder: Path, parent: int) -> bool:
    """Sample until told to stop or orphaned.

    Returns:
        Whether the parent is still there.
    """
    told: list[bool] = []
    threading.Thread(target=_listen, args=(sampler, told), daemon=True).start()
    sampler.start()
    written: list[str] = []
    while not sampler.stop.wait(_WATCH_S):
        sampler.watch()
        if os.getppid() != parent:  # the pipe alone does not tell where another child of the parent holds it open
            return False
        if (faults := sampler.faults()) != written:
            written = _tell(folder, faults)
    _tell(folder, sampler.faults())
    return any(told)


def _tell(folder: Path, faults: list[str]) -> list[str]:
    with contextlib.suppress(OSError):  # a full disk must not end the sampling
        protocol.write_json(folder / protocol.FAULTS, faults)
    return faults


def _await_job(folder: Path, parent: int) -> protocol.Job | None:
    """Return the job once it is there; None where the parent went away before."""
    while not (folder / protocol.JOB).exists():
        if os.getppid() != parent:
            return None
        time.sleep(_JOB_POLL_S)
    return msgspec.json.decode((folder / protocol.JOB).read_bytes(), type=protocol.Job)


def _chosen(choose: Choose | None) -> list[protocol.MeterSpec] | ConfigError:
    try:
        return choose() if choose else []
    except ConfigError as error:  # the one who asks for these meters is told
        return error


def _hello(sources: list[Source], faults: list[str]) -> protocol.Hello:
    leader = locked_channel(sources)
    accelerators = [accelerator for source in sources for accelerator in source.meter.accelerators()]
    limits = {name: value for source in sources for name, value in source.meter.limits().items()}
    return protocol.Hello(
        channels=[channel for source in sources for channel in source.channels],
        accelerators=accelerators,
        limits=limits,
        faults=faults,
        locked=leader[1].name if leader else None,
        reach_s={
            channel.name: source.meter.interval_s + source.meter.latency_s
            for source in sources
            if source.slow
            for channel in source.channels
        },
        platform=machine.describe(accelerators, limits, {}),
        meters={channel.name: source.name for source in sources for channel in source.channels},
    )


def _run(folder: Path, choose: Choose | None) -> bool:
    parent = os.getppid()
    chosen = _chosen(choose)
    job = _await_job(folder, parent)
    if job is None:
        return False
    try:
        if job.specs is None and isinstance(chosen, ConfigError):
            raise chosen
        sources, faults = open_all(job.specs or ([] if isinstance(chosen, ConfigError) else chosen))
        hello = _hello(sources, faults)
    except ConfigError as error:
        protocol.write_json(folder / protocol.HELLO, protocol.Hello(error=[error.message, error.remedy]))
        return True
    rows = RowFile(folder / protocol.ROWS, len(hello.channels), job.keep_s, job.segment_bytes)
    sampler = Sampler(sources, rows, Keeper(Gate(str(folder / protocol.GATE))), job.rate_hz)
    gc.collect()
    gc.freeze()  # what is loaded now stays: no collection has to look at it again
    protocol.write_json(folder / protocol.HELLO, hello)
    return _serve(sampler, folder, job.parent)


def main(folder: str, choose: Choose | None = None) -> None:
    """Run the sampling process: read the job in a folder, answer there, sample until the parent ends it.

    Args:
        folder: Where the job comes.
        choose: Chooses the meters, before the job is there, for one that names none.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it then ends this process
    parent_lives = _run(Path(folder), choose)
    if not parent_lives:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.flush()
    os._exit(0)  # a hanging meter's thread must not keep the process
