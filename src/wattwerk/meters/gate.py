"""Pausing the recorder from any process, and knowing that it really stands still."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import msgspec

from wattwerk.errors import MeasurementError

_WORD: Final = 8
_POLL_S: Final = 0.001


def _read(path: str, word: int) -> int:
    with open(path, "rb") as file:
        file.seek(word * _WORD)
        return int.from_bytes(file.read(_WORD), "little")


def _write(path: str, word: int, value: int) -> None:
    with open(path, "r+b", buffering=0) as file:
        file.seek(word * _WORD)
        file.write(value.to_bytes(_WORD, "little"))


class Gate(msgspec.Struct, frozen=True):
    """Pause and resume a recorder, from its own process or any other one on this machine.

    It is a path and nothing else, so it passes to other processes in any way. One process at a time may use it.

    Attributes:
        path: File of two numbers: how often the state was asked to change, and how far the sampling process has
            followed. Odd numbers mean paused.
    """

    path: str

    @classmethod
    def create(cls, path: Path) -> Gate:
        """Make the file, open for sampling."""
        path.write_bytes(bytes(2 * _WORD))
        return cls(str(path))

    def pause(self, timeout_s: float = 5.0) -> None:
        """Stop sampling, and return once no meter is read any more.

        Raises:
            MeasurementError: The recorder does not answer or is gone.
        """
        self._ask(True, timeout_s)

    def resume(self, timeout_s: float = 5.0) -> None:
        """Go on sampling, and return once the sampling process has noticed.

        Raises:
            MeasurementError: The recorder does not answer or is gone.
        """
        self._ask(False, timeout_s)

    def _ask(self, paused: bool, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        try:
            wanted = _read(self.path, 0)
            if wanted % 2 != paused:
                wanted += 1
                _write(self.path, 0, wanted)
            while _read(self.path, 1) != wanted:
                if time.monotonic() > deadline:
                    raise MeasurementError(f"the recorder did not answer within {timeout_s:g} s", "look at its faults")
                time.sleep(_POLL_S)
        except OSError as error:
            raise MeasurementError(f"the recorder is gone ({error.strerror})", "start it again") from error


class Keeper:
    """The sampling process' side of a gate."""

    def __init__(self, gate: Gate) -> None:
        self._path = gate.path
        self._file = open(gate.path, "rb", buffering=0)  # noqa: SIM115 - stays open for the life of the process
        self._done = 0

    def paused(self) -> bool:
        """Return whether sampling has to stand still, and let whoever asked know that it does."""
        self._file.seek(0)
        wanted = int.from_bytes(self._file.read(_WORD), "little")
        if wanted != self._done:
            _write(self._path, 1, wanted)
            self._done = wanted
        return bool(wanted % 2)
