"""Starting the recorder's process, before anything that takes long is imported.

A fresh interpreter needs some 0.2 s until it can open meters. ``early`` lets it begin while the command line still
imports what it needs; the recorder takes it over. Nothing but the standard library is imported here.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

STDERR: Final = "stderr"

#: What runs in the process; it awaits its job in the folder.
SAMPLER: Final = "wattwerk.meters.sampler"
#: The same, choosing this machine's meters while it waits.
SAMPLER_HERE: Final = "wattwerk.metering.sampler_here"

_CHILD: Final = (
    "import sys; from importlib import import_module; sys.path[:] = sys.argv[1].split(chr(10)); "
    "import_module(sys.argv[2]).main(sys.argv[3])"
)


class Launched(NamedTuple):
    """A process that awaits its job.

    Attributes:
        folder: Through which it is talked to.
        process: The process.
        chooses: Whether it chooses the meters itself.
    """

    folder: Path
    process: subprocess.Popen[bytes]
    chooses: bool


def launch(module: str = SAMPLER) -> Launched:
    """Start a process; it ends when its standard input does, or with this process.

    Args:
        module: One of those above.
    """
    folder = Path(tempfile.mkdtemp(prefix="wattwerk-recorder-"))
    with (folder / STDERR).open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, "\n".join(sys.path), module, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            # a group of its own: Ctrl-C in the terminal reaches the parent only, also while the child still starts
            process_group=0 if os.name == "posix" else None,
        )
    return Launched(folder, process, module == SAMPLER_HERE)


_early: list[Launched] = []


def early() -> None:
    """Start the process for the recorder that this program will need; at the program's end it is gone in any case."""
    _early.append(launch(SAMPLER_HERE))
    atexit.register(_discard)


def take() -> Launched | None:
    """Return the process that was started early, once."""
    return _early.pop() if _early else None


def give_back(launched: Launched) -> None:
    """Leave a process that was taken and is not needed to the program's end."""
    _early.append(launched)


def _discard() -> None:
    while (launched := take()) is not None:
        launched.process.kill()
        launched.process.wait()
        if launched.process.stdin:
            with contextlib.suppress(OSError):
                launched.process.stdin.close()
        shutil.rmtree(launched.folder, ignore_errors=True)
