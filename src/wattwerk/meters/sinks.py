"""Where lines of line protocol go: an InfluxDB over HTTP, a UDP listener, or a file.

A sink never stops a measurement: what a server does not take at once waits, up to a bound, in memory or in a file, and
what is lost in the end is counted.
"""

from __future__ import annotations

import os
import socket
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.meters.spool import Spool

HELD_BYTES: Final = 16 << 20
DATAGRAM_BYTES: Final = 1400  # fits into one Ethernet frame, so that no datagram is lost for a part of it
_TIMEOUT_S: Final = 5.0
_PAUSE_S: Final = 5.0
_LATER: Final = (401, 403, 404, 408, 429)  # what an administrator or time can mend: the lines are not at fault
_FORMS: Final = (
    "http://HOST:8086/write?db=NAME, http://HOST:8086/api/v2/write?org=ORG&bucket=NAME, udp://HOST:8089, file:PATH"
)


class Sink(ABC):
    """Takes lines.

    Attributes:
        lost_count: Lines that were given up.
        waiting_count: Lines that wait for the receiver.
        last_error: Why, in words; empty if nothing was lost or is waiting.
    """

    lost_count: int = 0
    waiting_count: int = 0
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

    A server that does not answer, or refuses database or credentials, is asked again after a pause; meanwhile lines
    wait, and are sent in order when it is back. A server that refuses lines as wrong loses these lines only.

    Args:
        url: With path and query as the server wants them; the precision is added.
        user: For basic authentication, with ``password``.
        password: Likewise.
        token: For token authentication.
        held_bytes: How much may wait; beyond it the oldest lines give way.
        spool: A file where lines wait, also beyond the end of the process; None lets them wait in memory.
        patient: Whether a server that does not answer yet is no error.

    Raises:
        ConfigError: The spool cannot be used.
        UnavailableError: The server refuses the database or the credentials, or nothing answers there.
    """

    def __init__(
        self,
        url: str,
        *,
        user: str = "",
        password: str = "",
        token: str = "",
        held_bytes: int = HELD_BYTES,
        spool: Path | None = None,
        patient: bool = False,
    ) -> None:
        import httpx

        parts = urlsplit(url)
        query = urlencode([*parse_qsl(parts.query), ("precision", "ns")])
        self._url = urlunsplit(parts._replace(query=query))
        self._errors = httpx.TransportError
        self._spool = Spool(spool, held_bytes)
        headers = {"Authorization": f"Token {token}"} if token else {}
        self._client = httpx.Client(
            timeout=_TIMEOUT_S, auth=(user, password) if user else None, headers=headers, trust_env=False
        )
        self._refused_count = 0
        self._again_s = 0.0
        try:
            self._check(patient)
        except UnavailableError:
            self._client.close()
            self._spool.close()
            raise

    def _check(self, patient: bool) -> None:
        """Write nothing, which tells whether the server would take something."""
        place = urlunsplit(urlsplit(self._url)._replace(query=""))
        try:
            answer = self._client.post(self._url, content=b"")
        except self._errors as error:
            if patient:
                return self._pause(str(error) or type(error).__name__)
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
        """Send lines, after those that wait, or let them wait."""
        if time.monotonic() >= self._again_s:
            self._send_waiting()
        if self._spool.count or time.monotonic() < self._again_s or not self._post(text):
            self._spool.add(text)
        self._count()

    def _send_waiting(self) -> None:
        while waiting := self._spool.first():
            if not self._post("".join(text for _, text in waiting), alone=len(waiting) == 1):
                return
            self._spool.remove([number for number, _ in waiting])

    def _post(self, text: str, *, alone: bool = True) -> bool:
        """Send lines; return whether they are done with, be it that they arrived or that they are wrong."""
        try:
            answer = self._client.post(self._url, content=text.encode())
        except self._errors as error:
            self._pause(str(error) or type(error).__name__)
            return False
        if answer.status_code >= 500 or answer.status_code in _LATER:
            self._pause(f"{answer.status_code}: {_told(answer.text)}")
            return False
        if answer.status_code < 400:
            self.last_error = self.last_error if self.lost_count else ""
        elif alone:
            self.last_error = f"{answer.status_code}: {_told(answer.text)}"
            self._refused_count += text.count("\n")
        else:  # one of several texts is wrong: only that one is to be lost
            return all(self._post(line) for line in text.splitlines(keepends=True))
        return True

    def _pause(self, error: str) -> None:
        self.last_error = error
        self._again_s = time.monotonic() + _PAUSE_S

    def _count(self) -> None:
        self.lost_count = self._refused_count + self._spool.lost_count
        self.waiting_count = self._spool.count
        self.last_error = self.last_error or self._spool.last_error

    def close(self) -> None:
        """Try once more to send what waits, and close the connection; what waits in memory only is lost then."""
        self._send_waiting()
        self._count()
        self.lost_count += self._spool.close()
        self._client.close()


def _told(answer: str) -> str:
    return " ".join(answer.split())[:200]


def open_sink(
    url: str,
    *,
    user: str = "",
    password: str = "",
    token: str = "",
    held_bytes: int = HELD_BYTES,
    spool: Path | None = None,
    patient: bool = False,
) -> Sink:
    """Return the sink of a URL.

    ``http://HOST:8086/write?db=NAME`` (InfluxDB 1.x), ``http://HOST:8086/api/v2/write?org=ORG&bucket=NAME`` (2.x),
    ``udp://HOST:8089`` or ``file:PATH``. Credentials that are not given come from ``INFLUX_TOKEN``, or
    ``INFLUX_USERNAME`` and ``INFLUX_PASSWORD``, so that they stand in no shell history; those in the URL go before.

    Args:
        url: Where to write.
        user: As for ``HttpSink``, and so are the others; none of them matters to UDP and files.
        password: Likewise.
        token: Likewise.
        held_bytes: Likewise.
        spool: Likewise.
        patient: Likewise.

    Raises:
        ConfigError: The URL is none of these, or the spool cannot be used.
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
            user=unquote(parts.username or "") or user or os.environ.get("INFLUX_USERNAME", ""),
            password=unquote(parts.password or "") or password or os.environ.get("INFLUX_PASSWORD", ""),
            token=token or os.environ.get("INFLUX_TOKEN", ""),
            held_bytes=held_bytes,
            spool=spool,
            patient=patient,
        )
    raise ConfigError(f"{url!r} is no place to write to", f"use one of {_FORMS}")
