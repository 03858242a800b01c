"""The recorder: meters read in a process of their own while the measured program runs undisturbed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import numpy as np

from wattwerk.errors import ConfigError, MeasurementError
from wattwerk.launch import STDERR, Launched, launch
from wattwerk.meters import containment, protocol
from wattwerk.meters.base import Channel
from wattwerk.meters.gate import Gate
from wattwerk.meters.protocol import MeterSpec
from wattwerk.meters.row_file import SEGMENT_BYTES
from wattwerk.meters.tail import RowReader, Tail, row_type
from wattwerk.meters.trace import Trace, middles
from wattwerk.records import Accelerator, Platform

__all__ = ["Gate", "MeterSpec", "Recorder", "RecorderCost"]

_START_S: Final = 120.0
_STOP_S: Final = 5.0
_POLL_S: Final = 0.005
_READY_S: Final = 15.0  # the most that any meter is waited for
_FAST_READY_S: Final = 4.0  # a fast meter that hangs holds up the first sample for two seconds
_SLOW_START_S: Final = 0.5


class RecorderCost(msgspec.Struct, frozen=True):
    """What recording costs the machine.

    Attributes:
        cpu_s: Processor time of the sampling process, its start included.
        samples: Samples taken.
        wall_s: Time since the start.
        rss_bytes: Memory of the sampling process.
    """

    cpu_s: float
    samples: int
    wall_s: float
    rss_bytes: int


class Recorder:
    """Read meters at a steady rate in a separate process, from entering the context to leaving it.

    The process is a fresh interpreter: it imports nothing of the program that is being measured, and the program
    needs no ``if __name__ == "__main__"``. It hands its samples over through a file, so neither side ever waits for
    the other. Times are ``time.perf_counter_ns``, which all processes share on Linux, macOS and Windows
    (CLOCK_MONOTONIC, mach_absolute_time, QueryPerformanceCounter); a system where each process has its own zero is not
    supported.

    Meters that do not open are named in ``faults`` and left out; where none opens, the host's load is recorded.

    Args:
        specs: The meters, as ``inventory.default_specs`` chooses them.
        rate_hz: Samples a second.
        contains: What lies inside what, as ``containment.state`` takes it; by default the table ``[contains]`` of the
            user's ``config.toml``.
        keep_s: How long samples are kept at least, in seconds, for a recording of days that others follow: disk and
            memory stay bounded, and ``trace`` gives the newest ones only. None keeps all.
        launched: The process where one was started early; one that chooses the meters itself leaves out ``specs``.

    Attributes:
        channels: What is recorded; known after the start.
        accelerators: What the meters watch.
        limits: Fixed limits of what they watch, such as ``gpu0_temperature_slowdown_celsius``.
        platform: The machine, without versions of packages; known after the start.
        locked: The counter whose ticks the samples follow; None if there is no such counter.
        meters: Channel -> the name of its meter.
        gate: Pauses and resumes the sampling, also from other processes.

    Raises:
        ConfigError: The rate is not between 0.1 and 1000 Hz, keep_s is no time, or ``[contains]`` cannot be used.
    """

    def __init__(
        self,
        specs: Sequence[MeterSpec],
        rate_hz: float = 10.0,
        contains: Mapping[str, Sequence[str]] | None = None,
        *,
        launched: Launched | None = None,
        keep_s: float | None = None,
    ) -> None:
        if not 0.1 <= rate_hz <= 1000:
            raise ConfigError(f"a sampling rate of {rate_hz:g} Hz", "use 0.1 to 1000 Hz")
        if keep_s is not None and not 0 < keep_s < float("inf"):
            raise ConfigError(f"keeping samples for {keep_s:g} s", "use a number above 0, or leave it out to keep all")
        self._keep_s = keep_s
        self._segment_bytes = SEGMENT_BYTES
        self._specs = None if launched and launched.chooses else list(specs)
        self._launched = launched
        self._rate_hz = rate_hz
        self._contains = containment.user_contains() if contains is None else contains
        self._process: subprocess.Popen[bytes] | None = None
        self._rows: list[np.ndarray[Any, Any]] = []
        self._reader: RowReader | None = None
        self._final_cost: RecorderCost | None = None
        self.channels: tuple[Channel, ...] = ()
        self.accelerators: list[Accelerator] = []
        self.limits: dict[str, float] = {}
        self.platform = Platform("")
        self.locked: str | None = None
        self.meters: dict[str, str] = {}
        self._reach_s: dict[str, float] = {}
        self._faults: list[str] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the sampling process and wait until its meters are open.

        Raises:
            ConfigError: A meter or one of its options does not exist, or what lies inside what contradicts itself.
            MeasurementError: The process ended or did not answer.
        """
        launched = self._launched or launch()
        self._folder, self._process = launched.folder, launched.process
        self._start_ns = time.perf_counter_ns()
        self.gate = Gate.create(self._folder / protocol.GATE)
        job = protocol.Job(self._specs, self._rate_hz, os.getpid(), self._keep_s, self._segment_bytes)
        protocol.write_json(self._folder / protocol.JOB, job)
        try:
            self._take(self._hello())
        except BaseException:
            self._end()
            raise

    def _hello(self) -> protocol.Hello:
        path = self._folder / protocol.HELLO
        deadline = time.monotonic() + _START_S
        while not path.exists():
            self._check_alive()
            if time.monotonic() > deadline:
                raise MeasurementError(f"the recorder did not start within {_START_S:g} s", "leave out one meter")
            time.sleep(_POLL_S)
        return msgspec.json.decode(path.read_bytes(), type=protocol.Hello)

    def _take(self, hello: protocol.Hello) -> None:
        if hello.error:
            raise ConfigError(str(hello.error[0]), hello.error[1])
        channels, strange = containment.state(hello.channels, self._contains)
        self.channels = tuple(channels)
        self.accelerators = hello.accelerators
        self.limits = hello.limits
        self.platform = hello.platform or self.platform
        self.locked = hello.locked
        self.meters = hello.meters
        self._reach_s = hello.reach_s
        self._faults = [*hello.faults, *strange]
        self._reader = self._new_reader()

    def _check_alive(self) -> None:
        if self._process is None or self._process.poll() is None:
            return
        lines = (self._folder / STDERR).read_text(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit status {self._process.returncode}"
        raise MeasurementError(
            f"the recorder's process ended ({reason})", "measure again; leave out the last meter added"
        )

    @property
    def faults(self) -> list[str]:
        """What went wrong: meters that did not open, failed reads, hanging meters."""
        path = self._folder / protocol.FAULTS
        return self._faults + (msgspec.json.decode(path.read_bytes(), type=list[str]) if path.exists() else [])

    def trace(self, since_ns: int = 0, until_ns: int | None = None, timeout_s: float = 5.0) -> Trace:
        """Return what has been recorded so far, or as much of it as ``keep_s`` says.

        Args:
            since_ns: Leave out what is older.
            until_ns: Wait until samples exist beyond this time, enough of them for ``Trace.energy`` to reach it.
            timeout_s: How long to wait for these at most.

        Raises:
            MeasurementError: The sampling process ended by itself.
        """
        deadline = time.monotonic() + timeout_s
        if until_ns is not None and self.locked is None:
            self.nudge()
        wanted_ns = None if until_ns is None else until_ns + self._reach_ns()
        while True:
            self._check_alive()
            self._read_rows()
            if wanted_ns is None or time.monotonic() > deadline or self._process is None:
                break
            assert until_ns is not None
            if self._last_ns >= wanted_ns and self._slow_meters_reach(until_ns):
                break
            time.sleep(_POLL_S)
        rows = np.concatenate([*self._rows, np.empty(0, row_type(len(self.channels)))])
        rows = rows[np.argsort(rows["time_ns"], kind="stable")]  # slow meters write when they have answered
        rows = rows[np.searchsorted(rows["time_ns"], since_ns) :]
        return Trace(self.channels, rows["time_ns"], rows["values"], rows["unmoved_ns"], self.locked, self.slow)

    @property
    def slow(self) -> tuple[str, ...]:
        """Names of the channels of slow meters, which are read in threads of their own."""
        return tuple(self._reach_s)

    def nudge(self) -> None:
        """Have a sample taken now, for an interval that begins or ends; a slow meter takes its time all the same."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # it is gone: whoever asks for samples is told
                os.write(self._process.stdin.fileno(), b"sample\n")  # nothing that stays in a buffer if it is gone

    def check(self) -> None:
        """Raise a MeasurementError if the sampling process ended by itself."""
        self._check_alive()

    def await_ready(self) -> None:
        """Wait until an interval that begins now has readings before it; what does not answer is not waited for.

        Raises:
            MeasurementError: The sampling process ended by itself.
        """
        began_ns = time.perf_counter_ns()
        while (waited_s := (time.perf_counter_ns() - began_ns) / 1e9) < _READY_S and not self._is_ready(waited_s):
            time.sleep(_POLL_S)

    def _is_ready(self, waited_s: float) -> bool:
        self._check_alive()
        self._read_rows()
        rows = np.concatenate([*self._rows, np.empty(0, row_type(len(self.channels)))])
        seen = np.isfinite(rows["values"])
        fast = [index for index, channel in enumerate(self.channels) if channel.name not in self._reach_s]
        times = rows["time_ns"][seen[:, fast].any(axis=1)]
        if fast and waited_s < _FAST_READY_S and (not len(times) or times[-1] - times[0] < self._reach_ns()):
            return False
        late = {name for name, reach_s in self._reach_s.items() if waited_s < 1.5 * reach_s + _SLOW_START_S}
        return bool(seen[:, [channel.name in late for channel in self.channels]].any(axis=0).all())

    def follow(self, *, skip: bool = False) -> Tail:
        """Return a reader of the samples as they come, for another thread or a recording of days.

        Close it before the recorder stops.

        Args:
            skip: Leave out what was sampled before.

        Raises:
            MeasurementError: The recorder does not run.
        """
        if self._process is None:
            raise MeasurementError("the recorder does not run", "start it first")
        return Tail(self._new_reader(skip=skip), self.channels, self.locked, self.slow)

    def _new_reader(self, *, skip: bool = False) -> RowReader:
        return RowReader(self._folder / protocol.ROWS, len(self.channels), self._segment_bytes, skip=skip)

    def _reach_ns(self) -> int:
        """Return how far beyond a time a sample has to be so that every counter has moved after that time."""
        ticks = [channel.tick_s for channel in self.channels if channel.tick_s]
        return round(1.2e9 * max(ticks, default=0.0))

    @property
    def _last_ns(self) -> int:
        """Time of the newest sample; those of slow meters lie in the past."""
        times = (
            rows["time_ns"] if self.locked else middles(rows["time_ns"], rows["unmoved_ns"]) for rows in self._rows[-1:]
        )
        return max((int(each[-1]) for each in times), default=0)

    def _slow_meters_reach(self, until_ns: int) -> bool:
        """Return whether slow meters have answered for a time, or had their chance to."""
        waited_s = (time.perf_counter_ns() - until_ns) / 1e9
        late = {name for name, reach_s in self._reach_s.items() if waited_s < 1.5 * reach_s}
        if not late:
            return True
        columns = [index for index, channel in enumerate(self.channels) if channel.name in late]
        newer = [
            rows["values"][middles(rows["time_ns"], rows["unmoved_ns"]) >= until_ns][:, columns]
            for rows in self._rows[-64:]
        ]
        return bool(newer) and bool(np.isfinite(np.concatenate(newer)).any(axis=0).all())

    def _read_rows(self) -> None:
        if self._process is None or self._reader is None:
            return
        while len(rows := self._reader.read()):
            self._rows.append(rows)
            self._forget()

    def _forget(self) -> None:
        """Let go what nobody wants any more."""
        if self._keep_s is not None:
            oldest_ns = time.perf_counter_ns() - round(self._keep_s * 1e9)
            while self._rows and int(self._rows[0]["time_ns"].max()) < oldest_ns:
                self._rows.pop(0)

    def cost(self) -> RecorderCost:
        """Return what the recording has cost so far; after the end, what it cost in all."""
        if self._process is not None and self._process.poll() is None:
            import psutil

            process = psutil.Process(self._process.pid)
            times = process.cpu_times()
            wall_s = (time.perf_counter_ns() - self._start_ns) / 1e9
            rss_bytes = process.memory_info().rss
            samples = self._reader.written() if self._reader else 0
            self._final_cost = RecorderCost(times.user + times.system, samples, wall_s, rss_bytes)
        if self._final_cost is None:
            raise MeasurementError("the recorder has not run", "start it first")
        return self._final_cost

    def stop(self, *, count: bool = True) -> None:
        """End the sampling process; what was recorded stays available.

        Args:
            count: Whether ``cost`` can be asked for afterwards.
        """
        if self._process is None:
            return
        if count and self._process.poll() is None:
            self.cost()
        self._end()

    def _end(self) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.communicate(b"stop\n", timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self.channels:
            self._read_rows()
            self._faults = self.faults
        if self._reader:
            self._reader.close()
        self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)
