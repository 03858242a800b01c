"""What the meters that are read over HTTP have in common: options, and counters that go on over a restart."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from typing import Any, Final

import msgspec

from wattwerk.errors import MeasurementError, UnavailableError
from wattwerk.meters.http_client import Http, HttpError
from wattwerk.meters.mapped import MappedChannel, MappedMeter, Quantity, check_positive
from wattwerk.records import Scope

_MOST_VOLTS_OR_AMPERES: Final = 1e5


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

    def other(self, name: str) -> MappedChannel:
        """Return a channel for volts or amperes."""
        return MappedChannel(name=name, scope=None, maximum=_MOST_VOLTS_OR_AMPERES)

    def energy(self, name: str, factor: float, step: float | None = None) -> MappedChannel:
        """Return a channel for a counter whose unit has ``factor`` joules."""
        return MappedChannel(name=name, scope=self.scope, factor=factor, step=step, max_power_w=self.max_power_w)


class HttpMeter(MappedMeter):
    """A meter over HTTP: what it asks for is up to the derived class."""

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
        self._paced(config)
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
