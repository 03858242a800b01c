"""Commands that meters run: one answer within a time limit, or lines for as long as the meter is open."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError

_LONGEST_LINE: Final = 65536
_EXIT_S: Final = 0.5


def _start(
    command: Sequence[str], where: str, install: str, merge: bool, more: Mapping[str, str] = MappingProxyType({})
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, so that ending it ends its children too.

    Raises:
        ConfigError: The command is empty.
        UnavailableError: It does not exist or may not be run.
    """
    if not command or not command[0]:
        raise ConfigError(f"{where}: command is empty", "give the command as a list of words, or leave it out")
    if shutil.which(command[0]) is None:
        raise UnavailableError(f"{where}: there is no command {command[0]}", install)
    try:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge else subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C", **more},
        )
    except OSError as error:
        raise UnavailableError(f"{where}: {command[0]} does not start ({error.strerror})", install) from error


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_EXIT_S)
            if number == signal.SIGKILL:
                return


class Answer(str):
    """What a command printed.

    Attributes:
        status: Its exit status.
    """

    status: int = 0

    def summary(self) -> str:
        """Return the last line that is not empty, as the reason in a message."""
        lines = [line.strip() for line in self.splitlines() if line.strip()]
        return lines[-1][:200] if lines else f"exit status {self.status}, no text"


def ask(
    command: Sequence[str],
    timeout_s: float,
    where: str,
    install: str,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Answer:
    """Run a command and return what it printed on both of its streams.

    Args:
        command: Its words.
        timeout_s: After this time it is ended.
        where: The meter, for the errors' text.
        install: What to do if it does not exist.
        environment: What is added to its environment, such as a password, which other users do not see there.

    Raises:
        ConfigError: The command is empty.
        UnavailableError: It does not exist.
        MeasurementError: It did not end in time.
    """
    process = _start(command, where, install, True, environment)
    try:
        text, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(
            f"{where}: {command[0]} did not answer within {timeout_s:g} s", f"run it by hand; raise {where}.timeout_s"
        ) from error
    finally:
        if process.poll() is None:
            _end(process)
        assert process.stdout
        process.stdout.close()
    answer = Answer(text.decode("utf-8", "replace"))
    answer.status = process.returncode
    return answer


class Lines:
    """The newest line of a command that prints for ever; it is started again once if it ends.

    Args:
        command: Its words.
        where: The meter, for the errors' text.
        install: What to do if it does not exist.

    Raises:
        ConfigError: The command is empty.
        UnavailableError: It does not exist.
    """

    def __init__(self, command: Sequence[str], where: str, install: str) -> None:
        self._command, self._where, self._install = list(command), where, install
        self._new = threading.Condition()
        self._line = ""
        self._time_s = -1e9
        self._closed = False
        self._restarts = 1
        self._process = _start(self._command, where, install, merge=False)
        self._thread = threading.Thread(target=self._run, name=f"wattwerk-{where}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            process = self._process
            assert process.stdout
            with process.stdout as stream:
                while raw := stream.readline(_LONGEST_LINE):
                    self._take(raw.decode("utf-8", "replace").strip())
            process.wait()
            with self._new:
                if self._closed or not self._restarts:
                    break
                self._restarts -= 1
                try:
                    self._process = _start(self._command, self._where, self._install, merge=False)
                except UnavailableError:
                    break
        with self._new:
            self._new.notify_all()

    def _take(self, line: str) -> None:
        if not line:
            return
        with self._new:
            self._line, self._time_s = line, time.monotonic()
            self._new.notify_all()

    @property
    def alive(self) -> bool:
        """Whether a line can still come."""
        return self._thread.is_alive()

    def first(self, timeout_s: float) -> str:
        """Return the newest line, waiting for the first one; empty where none came or the command ended."""
        end_s = time.monotonic() + timeout_s
        with self._new:
            while not self._line and self.alive and (left_s := end_s - time.monotonic()) > 0:
                self._new.wait(min(left_s, 0.05))
            return self._line

    def newest(self, stale_s: float) -> str:
        """Return the newest line; empty where it is older than ``stale_s`` seconds."""
        with self._new:
            return self._line if time.monotonic() - self._time_s <= stale_s else ""

    def close(self) -> None:
        """End the command."""
        with self._new:
            self._closed = True
            process = self._process
        _end(process)
        self._thread.join(2.0)
