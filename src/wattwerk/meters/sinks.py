"""Where lines of line protocol go: an InfluxDB over HTTP, a UDP listener, or a file.

A sink never stops a measurement: what a server does not take at once waits, up to a bound, and what is lost in the end
is counted.
"""

from __future__ import annotations

import os
import socket
import time
from abc import ABC, abstractmethod
from collections import deque
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from wattwerk.errors import ConfigError, UnavailableError

HELD_BYTES: Final = 16 << 20
DATAGRAM_BYTES: Final = 1400  # fits into one Ethernet frame, so that no datagram is lost for a part of it
_TIMEOUT_S: Final = 5.0
_PAUSE_S: Final = 5.0
_FORMS: Final = (
    "http://HOST:8086/write?db=NAME, http://HOST:8086/api/v2/write?org=ORG&bucket=NAME, udp://HOST:8089, file:PATH"
)


class Sink(ABC):
    """Takes lines.

    Attributes:
        lost_count: Lines that were given up.
        last_error: Why, in words; empty if nothing was lost or is waiting.
    """

    lost_count: int = 0
    last_error: str = ""

    @abstractmethod
    def write(self, text: str) -> None:
        """Take whole lines, each ended by a line break. Raises nothing for a receiver that does not answer."""

    def close(self) -> None:
        """Send what is waiting, as far as it can be."""
        return


class FileSink(Sink):
    """Appends to a file, which Telegraf can tail and ``influx -import`` can read.

    Args:
        path: The file.

    Raises:
        ConfigError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written ({error.strerror})", "choose another file") from error

    def write(self, text: str) -> None:
        """Append lines."""
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            self.lost_count += text.count("\n")
            self.last_error = str(error)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class UdpSink(Sink):
    """Sends datagrams of whole lines; nobody says whether they arrive.

    Args:
        host: Of the listener: InfluxDB's or Telegraf's.
        port: Its port.

    Raises:
        UnavailableError: The host's name is not known.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        except OSError as error:
            raise UnavailableError(f"the host {host!r} is not known ({error})", "check the name") from error
        self._address = address
        self._socket = socket.socket(family, kind)

    def write(self, text: str) -> None:
        """Send lines, as many to a datagram as fit."""
        held = b""
        for line in text.encode().splitlines(keepends=True):
            if held and len(held) + len(line) > DATAGRAM_BYTES:
                self._send(held)
                held = b""
            held += line
        if held:
            self._send(held)

    def _send(self, datagram: bytes) -> None:
        try:
            self._socket.sendto(datagram, self._address)
        except OSError as error:
            self.lost_count += datagram.count(b"\n")
            self.last_error = str(error)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class HttpSink(Sink):
    """Writes to InfluxDB 1.x or 2.x, or to anything that takes its requests, such as Telegraf or VictoriaMetrics.

    A server that does not answer is asked again after a pause; meanwhile lines wait, the oldest giving way beyond
    ``held_bytes``. A server that refuses lines as wrong loses these lines only.

    Args:
        url: With path and query as the server wants them; the precision is added.
        user: For basic authentication, with ``password``.
        password: Likewise.
        token: For token authentication.
        held_bytes: How much may wait.

    Raises:
        UnavailableError: The server refuses the database or the credentials, or nothing answers there.
    """

    def __init__(
        self, url: str, *, user: str = "", password: str = "", token: str = "", held_bytes: int = HELD_BYTES
    ) -> None:
        import httpx

        parts = urlsplit(url)
        query = urlencode([*parse_qsl(parts.query), ("precision", "ns")])
        self._url = urlunsplit(parts._replace(query=query))
        self._errors = httpx.TransportError
        headers = {"Authorization": f"Token {token}"} if token else {}
        self._client = httpx.Client(
            timeout=_TIMEOUT_S, auth=(user, password) if user else None, headers=headers, trust_env=False
        )
        self._waiting: deque[str] = deque()
        self._waiting_bytes, self._held_bytes = 0, held_bytes
        self._again_s = 0.0
        try:
            self._check()
        except UnavailableError:
            self._client.close()
            raise

    def _check(self) -> None:
        """Write nothing, which tells whether the server would take something."""
        place = urlunsplit(urlsplit(self._url)._replace(query=""))
        try:
            answer = self._client.post(self._url, content=b"")
        except self._errors as error:
            raise UnavailableError(
                f"{place} does not answer ({error})", "start the server, check host and port"
            ) from error
        if answer.status_code in (401, 403):
            raise UnavailableError(
                f"{place} refuses the credentials ({answer.status_code})",
                "set INFLUX_TOKEN, or INFLUX_USERNAME and INFLUX_PASSWORD",
            )
        if answer.status_code == 404:
            raise UnavailableError(
                f"{place} does not know this database or path: {_told(answer.text)}", "create it, check the URL"
            )

    def write(self, text: str) -> None:
        """Send lines, or let them wait."""
        self._waiting.append(text)
        self._waiting_bytes += len(text)
        while self._waiting_bytes > self._held_bytes and len(self._waiting) > 1:
            self._give_up(self._waiting.popleft())
        if time.monotonic() >= self._again_s:
            self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting:
            text = self._waiting[0]
            try:
                answer = self._client.post(self._url, content=text.encode())
            except self._errors as error:
                return self._pause(str(error) or type(error).__name__)
            if answer.status_code >= 500 or answer.status_code == 429:
                return self._pause(f"{answer.status_code}: {_told(answer.text)}")
            self._waiting.popleft()
            if answer.status_code >= 400:
                self.last_error = f"{answer.status_code}: {_told(answer.text)}"
                self._give_up(text)
            else:
                self._waiting_bytes -= len(text)

    def _pause(self, error: str) -> None:
        self.last_error = error
        self._again_s = time.monotonic() + _PAUSE_S

    def _give_up(self, text: str) -> None:
        self._waiting_bytes -= len(text)
        self.lost_count += text.count("\n")

    def close(self) -> None:
        """Try once more to send what waits, count the rest as lost, and close the connection."""
        self._send_waiting()
        while self._waiting:
            self._give_up(self._waiting.popleft())
        self._client.close()


def _told(answer: str) -> str:
    return " ".join(answer.split())[:200]


def open_sink(url: str) -> Sink:
    """Return the sink of a URL.

    ``http://HOST:8086/write?db=NAME`` (InfluxDB 1.x), ``http://HOST:8086/api/v2/write?org=ORG&bucket=NAME`` (2.x),
    ``udp://HOST:8089`` or ``file:PATH``. Credentials come from ``INFLUX_TOKEN``, or ``INFLUX_USERNAME`` and
    ``INFLUX_PASSWORD``, so that they stand in no shell history; those in the URL go before.

    Raises:
        ConfigError: The URL is none of these.
        UnavailableError: Nothing answers there, or it refuses.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} has no usable port ({error})", f"use one of {_FORMS}") from error
    if parts.scheme == "file" and parts.path:
        return FileSink(Path(unquote(parts.path)))
    if parts.scheme == "udp" and parts.hostname:
        return UdpSink(parts.hostname, port or 8089)
    if parts.scheme in ("http", "https") and parts.hostname and parts.path.strip("/"):
        host = parts.netloc.rpartition("@")[2]
        return HttpSink(
            urlunsplit(parts._replace(netloc=host)),
            user=unquote(parts.username or "") or os.environ.get("INFLUX_USERNAME", ""),
            password=unquote(parts.password or "") or os.environ.get("INFLUX_PASSWORD", ""),
            token=os.environ.get("INFLUX_TOKEN", ""),
        )
    raise ConfigError(f"{url!r} is no place to write to", f"use one of {_FORMS}")
