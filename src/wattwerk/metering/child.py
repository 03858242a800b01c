"""Running a command as if nobody watched: streams, signals and exit code pass; its processor time is counted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any, Final, NamedTuple

from wattwerk.errors import ConfigError, WattwerkError

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
_BY_SIGNAL: Final = 128

#: What a terminal sends to the command as well: it is the command's to end by it, or not.
_SHARED: Final = ("SIGINT", "SIGQUIT")
#: What only this process gets, and passes on.
_PASSED: Final = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class CommandError(WattwerkError):
    """Report a command that could not be started.

    Args:
        message: What is wrong.
        remedy: What to do next.
        exit_code: 127 where there is none of its name, 126 where it cannot be executed.
    """

    def __init__(self, message: str, remedy: str, exit_code: int) -> None:
        super().__init__(message, remedy)
        self.exit_code = exit_code  # type: ignore[misc] # a shell has two codes for what is one kind of error


class Ended(NamedTuple):
    """How a command ended, and what the system counted of it.

    Attributes:
        exit_code: As a shell tells it: 128 and the signal's number for a command that a signal ended.
        signal: The signal's name; empty if none ended it.
        start_ns: ``time.perf_counter_ns`` when it was started.
        end_ns: The same when it had ended.
        user_s: Processor time in its own code, its children that have ended included; None where nobody counts it.
        system_s: Processor time in the kernel, likewise.
        memory_peak_bytes: Peak of its largest process; None where it is not more than what this process took itself,
            which the system counts with it.
        memory_bound_bytes: What the peak is at most where it is not known.
    """

    exit_code: int
    signal: str
    start_ns: int
    end_ns: int
    user_s: float | None
    system_s: float | None
    memory_peak_bytes: int | None
    memory_bound_bytes: int | None


def check(argv: Sequence[str]) -> None:
    """Refuse a command that cannot be started, before anything is measured for it.

    Raises:
        ConfigError: There is none.
        CommandError: It is not found or cannot be executed.
    """
    if not argv or not argv[0]:
        raise ConfigError("no command to measure", "write it after two dashes: wattwerk meter -- COMMAND…")
    name = argv[0]
    if shutil.which(name):
        return
    there = os.path.exists(name) if os.sep in name else bool(shutil.which(name, os.F_OK))
    if there:
        raise _not_executable(name)
    raise _not_found(name)


def _not_found(name: str) -> CommandError:
    return CommandError(f"{name}: no such command", "check its name and PATH", NOT_FOUND)


def _not_executable(name: str, reason: str = "it is a folder, or not executable") -> CommandError:
    return CommandError(f"{name} cannot be executed ({reason})", "chmod +x, or name its interpreter", NOT_EXECUTABLE)


def run(argv: Sequence[str]) -> Ended:
    """Run a command to its end.

    Raises:
        CommandError: It could not be started.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    own_bytes = _own_peak_bytes()
    with _Signals() as signals:
        start_ns = time.perf_counter_ns()
        try:
            # what this process was given open, such as a build's job server, is the command's too
            process = subprocess.Popen(list(argv), close_fds=False)
        except FileNotFoundError as error:
            raise _not_found(argv[0]) from error
        except OSError as error:
            raise _not_executable(argv[0], error.strerror or str(error)) from error
        signals.pid = process.pid
        status, usage = _wait(process)
        end_ns = time.perf_counter_ns()
    number = -status if status < 0 else 0
    peak_bytes = None if usage is None else _in_bytes(usage.ru_maxrss)
    known = peak_bytes is not None and peak_bytes > own_bytes
    return Ended(
        exit_code=_BY_SIGNAL + number if number else status,
        signal=signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}" if number else "",
        start_ns=start_ns,
        end_ns=end_ns,
        user_s=None if usage is None else usage.ru_utime,
        system_s=None if usage is None else usage.ru_stime,
        memory_peak_bytes=peak_bytes if known else None,
        memory_bound_bytes=None if known or peak_bytes is None else peak_bytes,
    )


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, Any]:
    """Return exit status and resource usage; the latter is None where the system has no ``wait4``."""
    if not hasattr(os, "wait4"):
        return process.wait(), None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # it is waited for: nobody else may do it again
    return process.returncode, usage


def _own_peak_bytes() -> int:
    """Return this process' peak memory: a process starts its life as a copy of its parent, and keeps that peak."""
    try:
        import resource
    except ImportError:
        return 0
    return _in_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _in_bytes(maxrss: int) -> int:
    return maxrss if sys.platform == "darwin" else maxrss * 1024


class _Signals:
    """Outlives what ends the command, and passes on what only this process gets.

    A handler that does nothing, unlike an ignored signal, is not inherited by the command.
    """

    def __init__(self) -> None:
        self.pid: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for name in (*_SHARED, *_PASSED):
            number = getattr(signal, name, None)
            if number is None or signal.getsignal(number) is signal.SIG_IGN:  # as under nohup
                continue
            self._before[number] = signal.signal(number, self._pass_on if name in _PASSED else _outlive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if self.pid is not None:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def _outlive(_number: int, _frame: FrameType | None) -> None:
    return
