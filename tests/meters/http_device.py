"""A device on loopback: a real HTTP server whose replies a test writes down."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote

from wattwerk.config import to_struct
from wattwerk.meters.base import Meter

M = TypeVar("M", bound=Meter)


class Device:
    """Answers GET, POST and DELETE with what stands in ``replies``.

    Attributes:
        replies: Path, with its query where that matters -> JSON value, bytes, a status, or a function that answers.
        basic: User and password that each path but those in ``free`` needs, in the header.
        digest: Likewise, as digest with SHA-256.
        delay_s: How long it thinks before it answers.
        asked: Method and path of every request so far.
        connections: How many were opened.
    """

    def __init__(self, replies: dict[str, Any]) -> None:
        self.replies = replies
        self.basic: tuple[str, str] | None = None
        self.digest: tuple[str, str] | None = None
        self.free = {"/shelly", "/redfish/v1/"}
        self.delay_s = 0.0
        self.asked: list[str] = []
        self.requests: list[Any] = []
        self.connections = 0
        self._wake = threading.Event()
        self._scheme = "http"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def secure(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._scheme = "https"
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        device = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # header and body go separately: the second would wait for 40 ms

            def setup(self) -> None:
                super().setup()
                device.connections += 1

            def log_message(self, *_: object) -> None:
                return

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                device.requests.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
                device.asked.append(f"{self.command} {self.path}")
                if device.delay_s:
                    device._wake.wait(device.delay_s)
                status, headers, body = device._answer(self)
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # whoever asked has gone
                    self.close_connection = True

            do_POST = do_DELETE = do_GET  # noqa: N815 - names that http.server calls

        return Handler

    def _answer(self, request: Any) -> tuple[int, dict[str, str], bytes]:
        path = request.path.partition("?")[0]
        if path not in self.free and (refusal := self._refusal(request)):
            return 401, {"WWW-Authenticate": refusal}, b"401 Unauthorized"
        reply = self.replies.get(request.path, self.replies.get(path, 404))
        if callable(reply):
            reply = reply(request)
        if isinstance(reply, tuple):
            return reply
        if isinstance(reply, int):
            return reply, {}, b"no"
        return 200, {}, reply if isinstance(reply, bytes) else json.dumps(reply).encode()

    def _refusal(self, request: Any) -> str:
        given = request.headers.get("Authorization", "")
        if self.basic and given != "Basic " + base64.b64encode(":".join(self.basic).encode()).decode():
            return 'Basic realm="device"'
        if self.digest and not _digest_fits(self.digest, given, request.command):
            return 'Digest qop="auth", realm="device", nonce="60dc2c69", algorithm=SHA-256'
        return ""


def _digest_fits(credentials: tuple[str, str], given: str, method: str) -> bool:
    """Check a digest by RFC 7616, section 3.4.1."""
    parts = {key: quoted or bare for key, quoted, bare in re.findall(r'(\w+)=(?:"([^"]*)"|([^ ,]+))', given)}
    if not given.startswith("Digest ") or parts.get("nonce") != "60dc2c69":
        return False

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    first = digest(f"{credentials[0]}:device:{credentials[1]}")
    second = digest(f"{method}:{parts['uri']}")
    whole = ":".join([first, parts["nonce"], parts["nc"], parts["cnonce"], parts["qop"], second])
    return parts["username"] == credentials[0] and parts["response"] == digest(whole)


def query_of(request: Any) -> dict[str, str]:
    """Return the parameters of a request."""
    return {key: unquote(values[0]) for key, values in parse_qs(request.path.partition("?")[2]).items()}


def open_meter(kind: type[M], device: Device, **options: Any) -> M:
    """Return a meter of the device."""
    return kind(to_struct(kind.config, {"url": device.url} | options, f"meters.{kind.name}"))


def named(meter: Meter) -> dict[str, float]:
    """Read, and return the values by name."""
    return dict(zip((channel.name for channel in meter.channels), meter.read(), strict=True))


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes, even if it raises."""
    begin = time.monotonic()
    try:
        work()
    except Exception:
        return time.monotonic() - begin
    return time.monotonic() - begin
