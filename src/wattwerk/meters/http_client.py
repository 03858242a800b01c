"""The client of all meters over HTTP: one time limit for everything that belongs to a read, and bounded answers.

Source: httpx client API; IETF RFC 7617 (basic authentication), RFC 7616 (digest), RFC 6750 (bearer tokens).
"""

from __future__ import annotations

import logging
import ssl
import time
from typing import Any, Final, Literal

import msgspec

from wattwerk.errors import ConfigError
from wattwerk.meters.mapped import load_library

_MOST_BYTES: Final = 4_000_000
_SHOWN: Final = 120


class HttpError(Exception):
    """A request that gave nothing usable.

    Args:
        message: What the server did; it starts with its address.
        remedy: What to do.
        status: The HTTP status, where there was an answer.
    """

    def __init__(self, message: str, remedy: str, status: int | None = None) -> None:
        super().__init__(message)
        self.message, self.remedy, self.status = message, remedy, status


class Answer(msgspec.Struct, frozen=True):
    """A complete answer.

    Attributes:
        place: The address asked, without its query.
        status: The HTTP status.
        headers: Its headers, names in small letters.
        body: Its body.
    """

    place: str
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body's JSON value.

        Raises:
            HttpError: It is none.
        """
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise HttpError(
                f"{self.place} answers no JSON: {self.text()!r}", "check the address: is it this kind of device?"
            ) from error

    def text(self) -> str:
        """Return the beginning of the body, as text for people."""
        return " ".join(self.body[: 4 * _SHOWN].decode("utf-8", "replace").split())[:_SHOWN]


class Http:
    """A connection that is kept open, with one time limit for everything that belongs to a read.

    Args:
        meter: The meter's name, for messages.
        url: The server's address: ``http://host:port``, a path included where the server has one.
        timeout_s: What ``begin`` allows.
        headers: Sent with every request.
        verify: Whether a server's certificate is checked.
        ca_file: Certificates to check it with; empty for the system's.

    Raises:
        ConfigError: The address or the certificates cannot be used.
        UnavailableError: httpx is not installed.
    """

    def __init__(
        self,
        meter: str,
        url: str,
        timeout_s: float,
        *,
        headers: dict[str, str] | None = None,
        verify: bool = True,
        ca_file: str = "",
    ) -> None:
        self._httpx = load_library("httpx", meter)
        transport = load_library("wattwerk.meters.http_transport", meter)
        self.url = _checked_url(self._httpx, meter, url)
        self._timeout_s = timeout_s
        self._deadline = transport.Deadline()
        core = transport.httpcore
        self._late = (core.TimeoutException, self._httpx.TimeoutException)
        # the last ones: what httpx raises on a challenge of digest authentication that makes no sense
        self._broken = (core.NetworkError, core.ProtocolError, core.UnsupportedProtocol, self._httpx.HTTPError,
                        self._httpx.InvalidURL, self._httpx.StreamError, OSError, LookupError, ValueError,
                        NotImplementedError)  # fmt: skip
        for name in ("httpx", "httpcore"):  # they log addresses, in which Tasmota wants its password
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = self._httpx.Client(
            headers={"Accept-Encoding": "identity", **(headers or {})},
            transport=transport.BoundedTransport(self._deadline, self._trust(meter, verify, ca_file)),
            event_hooks={"request": [self._limit]},
            trust_env=False,
        )
        self.begin()

    def authenticate(self, scheme: Literal["basic", "digest"], user: str, password: str) -> None:
        """Send credentials from now on."""
        kind = self._httpx.DigestAuth if scheme == "digest" else self._httpx.BasicAuth
        self._client.auth = kind(user, password)

    def set_header(self, name: str, value: str) -> None:
        """Send a header from now on; an empty value sends it no more."""
        self._client.headers.pop(name, None)
        if value:
            self._client.headers[name] = value

    def begin(self) -> None:
        """Start the time that all requests until the next call may take together."""
        self._deadline.end_s = time.monotonic() + self._timeout_s

    def _limit(self, request: Any) -> None:
        """Give a request, also the second one of digest authentication, half of the time left for connecting."""
        left_s = self._deadline.left_s()
        request.extensions["timeout"] = dict.fromkeys(("read", "write", "pool"), left_s) | {"connect": left_s / 2}

    def request(self, method: str, path: str, **options: Any) -> Answer:
        """Ask, and return what the server says if it is a success.

        Args:
            method: ``GET``, ``POST`` or ``DELETE``.
            path: What follows the server's address.
            options: As httpx takes them: ``params``, ``json``, ``data``, ``headers``.

        Raises:
            HttpError: There is no answer in time, or none with a status of success.
        """
        place = self.url + path.partition("?")[0]
        if not path.startswith("/"):  # put behind the address, it could name another host, which would get the password
            raise HttpError(f"{self.url} refers to {path[:_SHOWN]!r}, which is no path", "see whether it is up to date")
        try:
            answer = self._ask(method, path, place, options)
        except self._late as error:
            raise HttpError(
                f"{place} does not answer within {self._timeout_s:g} s", "check the address and the network"
            ) from error
        except self._broken as error:
            text = str(error) or type(error).__name__
            trust = "set ca_file to its certificate" if "CERTIFICATE" in text.upper() else "check the address"
            raise HttpError(f"{place} does not answer ({text})", f"{trust}; see whether it is up") from error
        if not 200 <= answer.status < 300:
            raise HttpError(
                f"{place} answers {answer.status}: {answer.text()!r}", _remedy(answer.status), answer.status
            )
        return answer

    def _ask(self, method: str, path: str, place: str, options: dict[str, Any]) -> Answer:
        with self._client.stream(method, self.url + path, **options) as found:
            body = bytearray()
            for chunk in found.iter_raw():  # as it comes: what is packed could unpack to a thousand times as much
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise HttpError(f"{place} answers more than {_MOST_BYTES} bytes", "narrow the query")
            headers = {key.lower(): value for key, value in found.headers.items()}
            return Answer(place, found.status_code, headers, bytes(body))

    def get(self, path: str, **params: str) -> Any:
        """Return the JSON value of a GET request.

        Raises:
            HttpError: There is none.
        """
        return self.request("GET", path, params=params or None).json()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _trust(self, meter: str, verify: bool, ca_file: str) -> ssl.SSLContext | None:
        if not self.url.startswith("https:"):
            return None
        try:
            context = ssl.create_default_context(cafile=(verify and ca_file) or None)
        except OSError as error:
            raise ConfigError(
                f"meters.{meter}: ca_file = {ca_file!r} cannot be used ({error})", "name a PEM file of certificates"
            ) from error
        if not verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


def _checked_url(httpx: Any, meter: str, url: str) -> str:
    where = f"meters.{meter}: the address"
    try:
        parts = httpx.URL(url if "://" in url else f"http://{url}")
    except httpx.InvalidURL as error:
        raise ConfigError(f"{where} is none ({error})", "write it like http://192.0.2.7") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ConfigError(f"{where} has no host, or is neither http nor https", "write it like http://192.0.2.7")
    if parts.userinfo:
        raise ConfigError(f"{where} holds credentials", "use user and password_env instead")
    return str(parts).rstrip("/")


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "check user and password or token, and what they may read"
    return "check the address: is it this kind of device?" if status in (404, 405) else "see the device's own log"
