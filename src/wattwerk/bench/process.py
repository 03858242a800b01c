"""The worker as a process of its own, and the words that go to and fro.

It is a fresh interpreter: it imports nothing of the program that benches, which needs no ``if __name__ == "__main__"``.
Jobs go to its standard input and words come from its standard output, as pickles after their length; what libraries
print goes to a file. It ends when its input does, so also when its parent is killed.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from wattwerk.bench.scenario import Configuration, Procedure
from wattwerk.bench.worker import Measurement, Phase, Trouble
from wattwerk.errors import WattwerkError
from wattwerk.meters.recorder import Gate
from wattwerk.records import Status
from wattwerk.runtimes import RUNTIMES

_LENGTH_BYTES: Final = 8
_DEATH_S: Final = 10.0
_CHILD: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from wattwerk.bench.process import child; child(sys.argv[2], sys.argv[3])"
)


def send(stream: IO[bytes], value: object) -> None:
    """Write one value."""
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(len(data).to_bytes(_LENGTH_BYTES, "little") + data)
    stream.flush()


def receive(stream: IO[bytes]) -> Iterator[Any]:
    """Yield values until the stream ends."""
    while len(head := stream.read(_LENGTH_BYTES)) == _LENGTH_BYTES:
        length = int.from_bytes(head, "little")
        data = stream.read(length)
        if len(data) < length:
            return
        yield pickle.loads(data)


def child(gate: str, log: str) -> None:
    """Be the worker: measure what comes in, until the input ends."""
    from wattwerk.bench import worker

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    jobs_in, words_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(log, "ab", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    jobs: queue.Queue[tuple[Configuration, Procedure]] = queue.Queue()

    def listen() -> None:
        for job in receive(jobs_in):
            jobs.put(job)
        os._exit(0)  # nobody is there any more who would want the rest

    threading.Thread(target=listen, daemon=True).start()
    worker.be_first_to_go()
    while True:
        configuration, procedure = jobs.get()
        tell: Callable[[str], None] = lambda text: send(words_out, Phase(text))  # noqa: E731 - names the type
        send(words_out, worker.answer(configuration, procedure, Gate(gate) if gate else None, tell))


class WorkerProcess:
    """A worker; replaced when the family of runtimes changes or when it died.

    Args:
        gate: Pauses the recorder; None if there is none.
    """

    def __init__(self, gate: Gate | None) -> None:
        self._gate = gate
        self._family: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._words: queue.Queue[Any] = queue.Queue()
        self._folder = tempfile.TemporaryDirectory(prefix="wattwerk-", ignore_cleanup_errors=True)
        self._log = Path(self._folder.name) / "worker.log"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()

    def ask(
        self, configuration: Configuration, procedure: Procedure, tell: Callable[[str], None]
    ) -> Measurement | Trouble:
        """Have a configuration measured; whatever happens to the worker is part of the answer."""
        try:
            family = RUNTIMES.load(configuration.runtime).family
        except (WattwerkError, AttributeError) as error:  # a plug-in may name what its module does not have
            return Trouble(Status.UNSUPPORTED, str(error))
        process = self._ready(family)
        assert process.stdin is not None
        with suppress(OSError):
            send(process.stdin, (configuration, procedure))
        deadline = time.monotonic() + procedure.timeout_s
        try:
            while isinstance(word := self._words.get(timeout=max(0.0, deadline - time.monotonic())), Phase):
                tell(word.text)
        except queue.Empty:
            self.stop(patience_s=0.0)
            return Trouble(Status.FAILED, f"no result within {procedure.timeout_s:g} s, so it was ended")
        return self._obituary() if word is None else word

    def stop(self, patience_s: float = 5.0) -> None:
        """End the worker: politely first if there is patience, by force else."""
        process, self._process, self._family = self._process, None, None
        if process is None:
            return
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _ready(self, family: str) -> subprocess.Popen[bytes]:
        if self._process is not None and self._family == family and self._process.poll() is None:
            return self._process
        self.stop()
        gate = self._gate.path if self._gate else ""
        self._log.write_bytes(b"")
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, json.dumps(sys.path), gate, str(self._log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._process, self._family, self._words = process, family, queue.Queue()
        threading.Thread(target=_collect, args=(process, self._words), daemon=True).start()
        return process

    def _obituary(self) -> Trouble:
        code = None
        with suppress(subprocess.TimeoutExpired):  # it may live on where only its words could not be understood
            code = self._process.wait(_DEATH_S) if self._process else None
        self.stop(patience_s=0.0)
        if code is None:
            return Trouble(Status.FAILED, f"its process gave an answer that cannot be read{self._last_words()}")
        if os.name == "posix" and code == -signal.SIGKILL:
            return Trouble(Status.OUT_OF_MEMORY, "the system killed it, most likely because memory ran out")
        how = f"was ended by signal {-code}" if code and code < 0 else f"ended with exit code {code}"
        return Trouble(Status.FAILED, f"its process {how}{self._last_words()}")

    def _last_words(self) -> str:
        spoken = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"; its last words: {spoken[-1][:200]}" if spoken else ""


def _collect(process: subprocess.Popen[bytes], words: queue.Queue[Any]) -> None:
    """Pass on what a worker says; None stands for its end."""
    assert process.stdout is not None
    try:
        # a word that cannot be unpickled, from a plug-in, is as good as none
        with suppress(Exception), process.stdout as stream:
            for word in receive(stream):
                words.put(word)
    finally:
        words.put(None)
