"""How meters talk HTTP: httpx over connections that keep one deadline, whatever a server sends and however slowly.

The timeouts of httpx hold for each single receive, so a server that sends a byte now and then is never late. Here each
of them gets what is left until the deadline.

Source: httpx, Transports (https://www.python-httpx.org/advanced/transports/); httpcore, Network backends
(https://www.encode.io/httpcore/network-backends/).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx

from wattwerk.meters.resolve import resolve


class Deadline:
    """Until when something has to be done; ``time.monotonic``."""

    def __init__(self) -> None:
        self.end_s = 0.0

    def left_s(self, wanted_s: float | None = None) -> float:
        """Return the time that is left, or less if less is wanted.

        Raises:
            httpcore.ReadTimeout: None is.
        """
        left_s = self.end_s - time.monotonic()
        if left_s <= 0:
            raise httpcore.ReadTimeout("the time is up")
        return left_s if wanted_s is None else min(left_s, wanted_s)


class _Stream(httpcore.NetworkStream):
    """A connection; whatever the caller allows for one step, the deadline holds."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left_s(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left_s(timeout))
        return _Stream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left_s = self._deadline.left_s(timeout)
        end_s = time.monotonic() + left_s
        try:
            addresses = resolve(host, left_s)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        for place, address in enumerate(addresses):
            share_s = max((end_s - time.monotonic()) / (len(addresses) - place), 0.001)
            try:
                return _Stream(
                    super().connect_tcp(address, port, share_s, local_address, socket_options), self._deadline
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if place == len(addresses) - 1:
                    raise
        raise httpcore.ConnectError(f"{host} has no address")


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        self._stream.close()


class BoundedTransport(httpx.BaseTransport):
    """Connections that are kept open, all with one deadline.

    Args:
        deadline: Until when whatever is going on has to be done.
        trust: What a server's certificate is checked with.
    """

    def __init__(self, deadline: Deadline, trust: ssl.SSLContext | None) -> None:
        self._pool = httpcore.ConnectionPool(ssl_context=trust, network_backend=_Backend(deadline))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its answer, the body not yet read."""
        url = request.url
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        answer = self._pool.handle_request(asked)
        return httpx.Response(
            status_code=answer.status,
            headers=answer.headers,
            stream=_Body(answer.stream),
            extensions=answer.extensions,
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()
