"""What the meters have in common that ask a database: a query for each channel, and the age of what it finds."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from typing import Any, ClassVar

import msgspec

from wattwerk.errors import ConfigError
from wattwerk.meters.http import CountedOn, HttpMeter
from wattwerk.meters.http_client import HttpError
from wattwerk.meters.mapped import MappedChannel, Quantity, check_channels, check_positive, secret


class StaleError(ValueError):
    """What was found is too old, or from the future."""


class QueryChannel(MappedChannel, frozen=True, kw_only=True):
    """The number that a query finds.

    Attributes:
        query: What to ask; it has to find one series.
        stale_s: A value older than this is NaN, in seconds; so is one that lies this far in the future.

    Raises:
        ConfigError: As for ``MappedChannel``; the query is empty, or stale_s is no time.
    """

    query: str
    stale_s: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.query.strip():
            raise ConfigError(f"channel {self.name}: the query is empty", "write what to ask")
        check_positive(self, f"channel {self.name}", "stale_s")


class FoundPoint(msgspec.Struct, frozen=True):
    """What a query found.

    Attributes:
        raw: The number.
        time_s: When it was taken, in seconds since 1970; a finite number.
    """

    raw: object
    time_s: float


class Known:
    """One channel and the newest point of it."""

    def __init__(self, spec: QueryChannel) -> None:
        self.spec = spec
        self.quantity = CountedOn(spec, spec.stale_s) if spec.channel().form == "counter" else Quantity(spec)
        self._told_s = float("-inf")

    def raw(self, point: FoundPoint) -> object:
        """Return a point's number; StaleError where it is too old, NaN where a counter's point was told before."""
        age_s = time.time() - point.time_s
        if abs(age_s) > self.spec.stale_s:
            when = "old" if age_s > 0 else "in the future: compare the clocks"
            return StaleError(f"the newest value is {abs(age_s):.0f} s {when}")
        if self.quantity.channel.form == "counter":  # told again, it would say that nothing was used since
            if point.time_s <= self._told_s:
                return math.nan
            self._told_s = point.time_s
        return point.raw


class QueryMeter(HttpMeter):
    """A meter that asks a database. How it asks is up to the derived class.

    Attributes:
        scheme: What stands before a token in the header ``Authorization``.
    """

    scheme: ClassVar[str] = "Bearer"

    def _open(self, config: Any) -> list[Quantity]:
        where = f"meters.{self.name}"
        check_channels(config.channels, where)
        if token := secret(config.token, config.token_env, f"{where}: token"):
            self._http.set_header("Authorization", f"{self.scheme} {token}")
        if password := secret(config.password, config.password_env, f"{where}: password"):
            self._http.authenticate("basic", config.user, password)
        self._config = config
        self._known = [Known(spec) for spec in config.channels]
        for spec in config.channels:
            self._http.begin()
            try:
                self._find(spec)
            except ValueError as error:
                raise HttpError(f"channel {spec.name}: {error}", "correct its query") from error
        return [known.quantity for known in self._known]

    @abstractmethod
    def _find(self, spec: Any) -> FoundPoint:
        """Ask for one channel.

        Raises:
            HttpError: The server does not answer, or refuses the query.
            ValueError: The query finds nothing, or several series.
        """

    def _fetch(self) -> list[object]:
        return [self._raw(known) for known in self._known]

    def _raw(self, known: Known) -> object:
        try:
            return known.raw(self._find(known.spec))
        except ValueError as error:
            return error
