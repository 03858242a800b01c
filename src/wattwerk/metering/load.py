"""A load that can be switched on and off at once: busy processes, or a command of the user's, stopped and continued.

Stopping and continuing (SIGSTOP, SIGCONT) takes milliseconds, where starting a program anew would take seconds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import psutil

from wattwerk.errors import ConfigError, MeasurementError

_END_S: Final = 3.0

#: One core, busy with matrices that stay in its caches; it ends when nobody holds its input any more.
_BUSY: Final = """
import os, sys, threading
def watch():
    sys.stdin.buffer.read()
    os._exit(0)
threading.Thread(target=watch, daemon=True).start()
import numpy
a = numpy.full((192, 192), 0.5, numpy.float32)
b = a.copy()
while True:
    numpy.matmul(a, a, out=b)
"""
_ONE_THREAD: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


class Load:
    """Processes that load the machine when told to; a context, at whose end they are gone.

    Args:
        command: What loads the machine; by default one busy process for each processor.
        processes: How many busy processes; None for one for each processor. Without meaning for a command.

    Attributes:
        switches: Times of ``time.perf_counter_ns`` and whether the load was on from then on.

    Raises:
        ConfigError: The command cannot be started.
    """

    def __init__(self, command: Sequence[str] = (), processes: int | None = None) -> None:
        self.command = tuple(command)
        self.switches: list[tuple[int, bool]] = []
        self._count = 1 if command else processes or psutil.cpu_count() or 1
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            for _ in range(self._count):
                self._running.append(self._start())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """What it is, in words."""
        return " ".join(self.command) if self.command else f"{self._count} busy processes"

    def _start(self) -> subprocess.Popen[bytes]:
        words = list(self.command) or [sys.executable, "-c", _BUSY]
        # a group of its own, in this session: what the command starts is stopped along with it, and the system
        # continues and ends a stopped group whose parent is gone
        group: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = None if self.command else {**os.environ, **_ONE_THREAD}
        try:
            return subprocess.Popen(words, stdin=subprocess.PIPE, env=environment, **quiet, **group)
        except OSError as error:
            raise ConfigError(
                f"the load {words[0]} does not start ({error.strerror})", "correct the command"
            ) from error

    def switch(self, on: bool) -> None:
        """Switch it on or off, and remember when.

        Raises:
            MeasurementError: The command has ended.
        """
        before_ns = time.perf_counter_ns()
        for process in self._running:
            if process.poll() is not None:
                raise MeasurementError(
                    f"the load {self.name} ended (exit status {process.returncode})",
                    "use one that runs until it is ended",
                )
            _signal(process, on)
        self.switches.append(((before_ns + time.perf_counter_ns()) // 2, on))

    def close(self) -> None:
        """End its processes."""
        for process in self._running:
            _end(process)
        self._running = []


def _signal(process: subprocess.Popen[bytes], on: bool) -> None:
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGCONT if on else signal.SIGSTOP)
        else:
            one = psutil.Process(process.pid)
            for each in [one, *one.children(recursive=True)]:
                each.resume() if on else each.suspend()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started: asked first, then forced."""
    if process.stdin:
        process.stdin.close()
    with contextlib.suppress(ProcessLookupError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGTERM)
        else:
            process.terminate()
    _signal(process, True)  # one that is stopped ends when it is continued
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
        process.wait()


def phases_s(pulses: int, shortest_s: float, longest_s: float, seed: int) -> list[float]:
    """Return how long the load is on and off in turn, in random order, so that no delay looks like another.

    Raises:
        ConfigError: There are fewer than 6 pulses, or the lengths are not possible.
    """
    if pulses < 6:
        raise ConfigError(f"{pulses} pulses", "use 6 or more: the confidence interval comes from their differences")
    if not 0.1 <= shortest_s < longest_s <= 600:
        raise ConfigError(f"pulses of {shortest_s:g} to {longest_s:g} s", "use 0.1 s or more, and a longer longest one")
    # evenly spread lengths in random order: every recording has long and short ones
    random = np.random.default_rng(seed)
    lengths = np.linspace(shortest_s, longest_s, pulses)
    both = np.stack([random.permutation(lengths), random.permutation(lengths)], axis=1)
    return [float(each) for each in both.ravel()]
