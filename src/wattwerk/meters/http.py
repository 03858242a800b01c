"""What the meters that are read over HTTP have in common: a client with a time limit, and counters that go on.

Source: httpx client API; IETF RFC 7617 (basic authentication), RFC 7616 (digest), RFC 6750 (bearer tokens).
"""

from __future__ import annotations

import logging
import math
import ssl
import time
from abc import abstractmethod
from typing import Any, Final, Literal

import msgspec

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.base import Channel, Meter
from wattwerk.meters.mapped import MappedChannel, Quantity, check_positive, described_faults, load_library
from wattwerk.records import Scope

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

    Two things are beyond the limit: a resolver that does not answer, and a server that sends its headers bit by bit.

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
        self.url = _checked_url(self._httpx, meter, url)
        self._timeout_s = timeout_s
        self._end = 0.0
        for name in ("httpx", "httpcore"):  # they log addresses, in which Tasmota wants its password
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = self._httpx.Client(
            headers=headers or {},
            verify=_trust(meter, verify, ca_file) if self.url.startswith("https:") else True,
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
        self._end = time.monotonic() + self._timeout_s

    def _limit(self, request: Any) -> None:
        """Give a request, also the second one of digest authentication, the time that is left."""
        left_s = self._end - time.monotonic()
        if left_s <= 0:
            raise self._httpx.ReadTimeout("the time is up")
        # connecting and answering get a half each; a connection that is kept has to answer only
        request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), left_s / 2)

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
        try:
            answer = self._ask(method, path, place, options)
        except self._httpx.TimeoutException as error:
            raise HttpError(
                f"{place} does not answer within {self._timeout_s:g} s", "check the address and the network"
            ) from error
        except (self._httpx.HTTPError, self._httpx.InvalidURL, ssl.SSLError) as error:
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
            body = b""
            for chunk in found.iter_bytes():
                body += chunk
                if time.monotonic() > self._end:
                    raise self._httpx.ReadTimeout("the time is up")
                if len(body) > _MOST_BYTES:
                    raise HttpError(f"{place} answers more than {_MOST_BYTES} bytes", "narrow the query")
            return Answer(place, found.status_code, {key.lower(): value for key, value in found.headers.items()}, body)

    def get(self, path: str, **params: str) -> Any:
        """Return the JSON value of a GET request.

        Raises:
            HttpError: There is none.
        """
        return self.request("GET", path, params=params or None).json()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


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


def _trust(meter: str, verify: bool, ca_file: str) -> ssl.SSLContext | bool:
    if not verify:
        return False
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise ConfigError(
            f"meters.{meter}: ca_file = {ca_file!r} cannot be used ({error})", "name a PEM file of certificates"
        ) from error


def _remedy(status: int) -> str:
    if status in (401, 403):
        return "check user and password or token, and what they may read"
    return "check the address: is it this kind of device?" if status in (404, 405) else "see the device's own log"


class CountedOn(Quantity):
    """A channel whose counter may begin again at 0 when its device restarts; energy counts from opening.

    Where the device shows less than before, and what it shows is an energy that was possible since then, it restarted:
    what it shows was used meanwhile, and the sum goes on. What was used between the last reading before and the restart
    is lost, which is counted as a fault. Any other jump is handled as ``Quantity`` does.

    Args:
        spec: What the number means.
        renewed_s: How far apart the device renews its counter; that much energy may come at once.
    """

    def __init__(self, spec: MappedChannel, renewed_s: float = 0.0) -> None:
        super().__init__(spec)
        self._renewed_s = renewed_s
        self._offset_j = 0.0

    def _count(self, raw: float, time_ns: int) -> float:
        if self._good is None:
            self._offset_j = raw * self.spec.factor if raw >= 0 else 0.0
        elif raw >= 0 and self._doubtful and self._grown(self._good, raw, time_ns) is None and raw < self._good[0]:
            since_restart = self._grown((0.0, self._good[1]), raw, time_ns)
            if since_restart is not None and self._grown(self._doubtful, raw, time_ns) is not None:
                self.fault("the device restarted, and the energy just before that is missing")
                self._total_j += since_restart
                self._good, self._doubtful = (raw, time_ns), None
                return self._total_j - self._offset_j
        total_j = super()._count(raw, time_ns)
        if total_j < self._offset_j:  # a jump that nothing explains: begin at 0, so that a trace sees it
            self._offset_j = 0.0
        return total_j - self._offset_j

    def _grown(self, since: tuple[float, int], raw: float, time_ns: int) -> float | None:
        return super()._grown((since[0], since[1] - round(self._renewed_s * 1e9)), raw, time_ns)


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options that every meter over HTTP has.

    Attributes:
        url: The address, such as ``http://192.0.2.7``; without a scheme it is ``http``.
        user: The user's name; empty for none, or for the device's only one.
        password: The password; empty for none.
        password_env: The environment variable that holds the password, instead of it.
        verify: Whether a server's certificate is checked.
        ca_file: Certificates to check it with; empty for the system's.
        timeout_s: What a read may take, in seconds.
        interval_s: How far apart reads make sense, in seconds.
        latency_s: How far the values lag behind, in seconds; 0 unless known.
    """

    url: str
    user: str = ""
    password: str = ""
    password_env: str = ""
    verify: bool = True
    ca_file: str = ""
    timeout_s: float = 1.0
    interval_s: float = 1.0
    latency_s: float = 0.0


class DeviceConfig(HttpConfig, frozen=True, kw_only=True):
    """Options of a device with channels of its own.

    Attributes:
        prefix: What the channels' names begin with.
        scope: What power and energy cover.
        allow_negative: Whether a negative power is real, as where solar power is fed in; otherwise it is NaN.
        max_power_w: A power beyond it is NaN, and a counter that grows faster did not count energy.
    """

    prefix: str = "meter"
    scope: Scope = Scope.WALL
    allow_negative: bool = False
    max_power_w: float = 1e5

    def power(self, name: str) -> MappedChannel:
        """Return a channel for a power in watts."""
        lowest = -self.max_power_w if self.allow_negative else None
        return MappedChannel(name=name, scope=self.scope, minimum=lowest, maximum=self.max_power_w)

    def energy(self, name: str, factor: float, step: float | None = None) -> MappedChannel:
        """Return a channel for a counter whose unit has ``factor`` joules."""
        return MappedChannel(name=name, scope=self.scope, factor=factor, step=step, max_power_w=self.max_power_w)


class HttpMeter(Meter):
    """A meter over HTTP: what it asks for is up to the derived class.

    Attributes:
        interval_s: How far apart reads make sense, as configured.
        latency_s: How far the values lag behind, as configured.
    """

    interval_s = 1.0

    def __init__(self, config: msgspec.Struct) -> None:
        """Ask once for everything.

        Raises:
            ConfigError: The configuration cannot be used.
            UnavailableError: The device does not answer, refuses, or is another one.
        """
        assert isinstance(config, HttpConfig)
        check_positive(config, f"meters.{self.name}", "timeout_s", "interval_s")
        if isinstance(config, DeviceConfig):
            check_positive(config, f"meters.{self.name}", "max_power_w")
        self.interval_s, self.latency_s = config.interval_s, config.latency_s
        self._http = Http(self.name, config.url, config.timeout_s, verify=config.verify, ca_file=config.ca_file)
        try:
            self._quantities = self._open(config)
        except HttpError as error:
            self._http.close()
            raise UnavailableError(f"{self.name}: {error.message}", error.remedy) from error
        except BaseException:
            self._http.close()
            raise

    @abstractmethod
    def _open(self, config: Any) -> list[Quantity]:
        """Find out what there is to read."""

    @abstractmethod
    def _fetch(self) -> list[object]:
        """Return a raw number for each quantity.

        Where there is none, it is None, or an exception that says why, and a fault; a NaN is nothing new, and no fault.
        """

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order of ``read``."""
        return tuple(quantity.channel for quantity in self._quantities)

    def read(self) -> list[float]:
        """Return one value for each channel, in SI units; NaN where it is missing, stale, or cannot be.

        Raises:
            MeasurementError: The device does not answer in time, or answers something else.
        """
        self._http.begin()
        try:
            found = self._fetch()
        except HttpError as error:
            raise MeasurementError(f"{self.name}: {error.message}", error.remedy) from error
        now_ns = time.perf_counter_ns()
        return [_judge(quantity, raw, now_ns) for quantity, raw in zip(self._quantities, found, strict=True)]

    def faults(self) -> list[str]:
        """Return what was wrong with values so far, in words."""
        return described_faults(self._quantities)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def _judge(quantity: Quantity, raw: object, now_ns: int) -> float:
    if isinstance(raw, float) and math.isnan(raw):
        return raw
    return quantity.fault(str(raw)) if isinstance(raw, Exception) else quantity.value(raw, now_ns)


def dig(value: object, *steps: str | int) -> object:
    """Return what stands at a place of a JSON value; None where there is nothing."""
    for step in steps:
        if isinstance(value, dict) or (isinstance(value, list) and isinstance(step, int) and step < len(value)):
            value = value.get(step) if isinstance(value, dict) else value[step]  # type: ignore[index]
        else:
            return None
    return value
