"""A peer that misbehaves: it stands between a meter and a real server, and passes on what they say until it is told."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from typing import Literal

Mood = Literal["pass", "mute", "drip", "flood", "close", "garbage", "refuse"]


class Peer:
    """A listener on loopback that passes connections on, or does what its mood says.

    ``mute`` accepts and never answers, ``drip`` sends a byte now and then for ever, ``flood`` sends 100 MB, ``close``
    hangs up at once, ``garbage`` sends noise and waits, ``refuse`` does not even listen.

    Args:
        upstream: The port of the real server.
        opening: What ``drip`` and ``flood`` begin with, such as a status line that makes the rest a body.

    Attributes:
        port: Where it listens, whatever its mood.
        sent: How many bytes the flood got rid of.
    """

    def __init__(self, upstream: int, opening: bytes = b"") -> None:
        self._upstream, self._opening = upstream, opening
        self._mood: Mood = "pass"
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent = 0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._start(self._accept, self._listener)

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def become(self, mood: Mood) -> None:
        """Change the mood, and hang up on everybody."""
        self._mood = mood
        self._hang_up()
        if mood == "refuse":
            self._stop_listening()
        elif self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._start(self._accept, self._listener)

    def _stop_listening(self) -> None:
        if self._listener:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes whoever waits in accept
            self._listener.close()
            self._listener = None

    def _hang_up(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)
        try:
            with contextlib.suppress(OSError):
                getattr(self, f"_{self._mood}")(connection)
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _pass(self, connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._upstream)) as server:
            ends = {connection: server, server: connection}
            while True:
                for ready in select.select(list(ends), [], [], 0.2)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    ends[ready].sendall(data)

    def _mute(self, connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    def _drip(self, connection: socket.socket) -> None:
        connection.recv(65536)
        for byte in self._opening or b"\x00":
            connection.sendall(bytes([byte]))
        while True:
            connection.sendall(b"a")
            time.sleep(0.05)

    def _flood(self, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(self._opening)
        for _ in range(1600):
            connection.sendall(b"7" * 62500)
            self.sent += 62500

    def _close(self, connection: socket.socket) -> None:
        return

    def _garbage(self, connection: socket.socket) -> None:
        connection.sendall(b"\xff\x00\x7f<html>\r\n\r\n" * 40)
        self._mute(connection)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_listening()
        self._hang_up()
        for thread in self._threads:
            thread.join(5)
