"""Values that others wrote to InfluxDB: a query for each channel, and the age of what it finds.

Source: InfluxData, InfluxDB 1.x API reference (/query, epoch); InfluxDB 2.x API (/api/v2/query), annotated CSV.
"""

from __future__ import annotations

import csv
import io
import math
import time
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal

import msgspec

from wattwerk.errors import ConfigError
from wattwerk.meters.http import Answer, CountedOn, HttpConfig, HttpError, HttpMeter, dig
from wattwerk.meters.mapped import MappedChannel, Quantity, check_channels, check_positive, probe_section, secret
from wattwerk.registry import Probe

_WHERE: Final = "meters.influx-query"


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


class InfluxChannel(QueryChannel, frozen=True, kw_only=True):
    """The number that a query of InfluxDB finds.

    Attributes:
        field: The column; by default the first one beside the time with InfluxQL, and ``_value`` with Flux.
    """

    field: str = ""


class InfluxQueryConfig(HttpConfig, frozen=True, kw_only=True):
    """Options of the InfluxDB meter, beside those of ``HttpConfig``.

    Attributes:
        channels: What to read.
        version: 1 asks in InfluxQL, 2 in Flux.
        database: The database, for version 1.
        org: The organisation, for version 2.
        token: The token, for version 2.
        token_env: The environment variable that holds the token, instead of it.
    """

    channels: list[InfluxChannel]
    version: Literal[1, 2] = 1
    database: str = ""
    org: str = ""
    token: str = ""
    token_env: str = ""


class FoundPoint(msgspec.Struct, frozen=True):
    """What a query found.

    Attributes:
        raw: The number.
        time_s: When it was taken, in seconds since 1970.
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


class InfluxQueryMeter(HttpMeter):
    """Ask InfluxDB for values.

    Channels: those of the configuration. A point carries the time at which it was written, and is NaN once it is older
    than ``stale_s``; a counter's point is given once, and its energy counts from opening. The age within ``stale_s`` is
    not taken into account: set ``latency_s`` to what it is on average.
    """

    name: ClassVar[str] = "influx-query"
    config: ClassVar[type[msgspec.Struct]] = InfluxQueryConfig

    @classmethod
    def probe(cls) -> Probe:
        """Tell whether the configured server answers; without a section ``[meters.influx-query]`` there is none."""
        return probe_section(cls)

    def _open(self, config: InfluxQueryConfig) -> list[Quantity]:
        check_channels(config.channels, _WHERE)
        needed = "database" if config.version == 1 else "org"
        if not getattr(config, needed):
            raise ConfigError(f"{_WHERE}: version {config.version} needs {needed}", f"add {needed}")
        if token := secret(config.token, config.token_env, f"{_WHERE}: token"):
            self._http.set_header("Authorization", f"Token {token}")
        if password := secret(config.password, config.password_env, f"{_WHERE}: password"):
            self._http.authenticate("basic", config.user, password)
        self._config = config
        self._known = [Known(spec) for spec in config.channels]
        for spec in config.channels:
            self._http.begin()
            try:
                self._find(spec)
            except ValueError as error:
                raise HttpError(f"channel {spec.name}: {error}", "correct its query and field") from error
        return [known.quantity for known in self._known]

    def _find(self, spec: InfluxChannel) -> FoundPoint:
        """Ask for one channel.

        Raises:
            HttpError: The server does not answer, or refuses the query.
            ValueError: The query finds nothing, or several series.
        """
        if self._config.version == 1:
            params = {"db": self._config.database, "q": spec.query, "epoch": "ns"}
            return parse_influxql(self._http.request("GET", "/query", params=params), spec.field)
        answer = self._http.request(
            "POST",
            "/api/v2/query",
            params={"org": self._config.org},
            json={"query": spec.query, "type": "flux"},
            headers={"Accept": "application/csv"},
        )
        return parse_flux(answer, spec.field or "_value")

    def _fetch(self) -> list[object]:
        return [self._raw(known, spec) for known, spec in zip(self._known, self._config.channels, strict=True)]

    def _raw(self, known: Known, spec: InfluxChannel) -> object:
        try:
            return known.raw(self._find(spec))
        except ValueError as error:
            return error


def parse_influxql(answer: Answer, field: str) -> FoundPoint:
    """Return the newest point of an answer to InfluxQL, with times in nanoseconds.

    Raises:
        HttpError: The server refuses the query.
        ValueError: There is no point, or there are several series.
    """
    told = answer.json()
    refusal = dig(told, "error") or dig(told, "results", 0, "error")
    if refusal:
        raise HttpError(f"{answer.place} refuses the query ({str(refusal)[:120]})", "correct query and database")
    series = dig(told, "results", 0, "series") or []
    table: Any = _single(series if isinstance(series, list) else [])
    columns, rows = dig(table, "columns"), dig(table, "values")
    if not isinstance(columns, list) or not isinstance(rows, list) or not rows or len(columns) < 2:
        raise ValueError("the answer has no rows")
    field = field or str(columns[1])
    if field not in columns or "time" not in columns:
        raise ValueError(f"the answer has no column {field!r}, but {', '.join(map(str, columns))}")
    newest = max(rows, key=lambda row: float(row[columns.index("time")]))
    return FoundPoint(newest[columns.index(field)], newest[columns.index("time")] / 1e9)


def parse_flux(answer: Answer, field: str) -> FoundPoint:
    """Return the newest point of an answer to Flux, which is CSV.

    Raises:
        HttpError: The server refuses the query.
        ValueError: There is no point, or there are several tables.
    """
    points: dict[tuple[str, str], FoundPoint] = {}
    header: list[str] = []
    for row in csv.reader(io.StringIO(answer.body.decode("utf-8", "replace"))):
        if not any(row):
            header = []
        elif row[0].startswith("#"):
            continue
        elif not header:
            header = row
            if "error" not in row and (field not in row or "_time" not in row):
                raise ValueError(f"the answer has no column {field!r} beside _time, but {', '.join(filter(None, row))}")
        else:
            cells = dict(zip(header, row, strict=False))
            if "error" in cells:
                raise HttpError(f"{answer.place} refuses the query ({cells['error'][:120]})", "correct the query")
            point = FoundPoint(cells[field], _seconds(cells["_time"]))
            table = cells.get("result", ""), cells.get("table", "")
            if table not in points or point.time_s >= points[table].time_s:
                points[table] = point
    found = _single(list(points.values()))
    assert isinstance(found, FoundPoint)
    return found


def _seconds(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _single(found: list[Any]) -> object:
    if not found:
        raise ValueError("the query finds nothing")
    if len(found) > 1:
        raise ValueError(f"the query finds {len(found)} series: narrow it to one")
    return found[0]
