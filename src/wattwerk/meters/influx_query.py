"""Values that others wrote to InfluxDB: a query for each channel, and the age of what it finds.

Source: InfluxData, InfluxDB 1.x API reference (/query, epoch); InfluxDB 2.x API (/api/v2/query), annotated CSV.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal

import msgspec

from wattwerk.errors import ConfigError
from wattwerk.meters.http import HttpConfig, dig
from wattwerk.meters.http_client import Answer, HttpError
from wattwerk.meters.mapped import Quantity, number
from wattwerk.meters.query import FoundPoint, QueryChannel, QueryMeter

_WHERE: Final = "meters.influx-query"


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


class InfluxQueryMeter(QueryMeter):
    """Ask InfluxDB for values.

    Channels: those of the configuration. A point carries the time at which it was written, and is NaN once it is older
    than ``stale_s``; a counter's point is given once, and its energy counts from opening. The age within ``stale_s`` is
    not taken into account: set ``latency_s`` to what it is on average.
    """

    name: ClassVar[str] = "influx-query"
    config: ClassVar[type[msgspec.Struct]] = InfluxQueryConfig
    scheme: ClassVar[str] = "Token"

    def _open(self, config: InfluxQueryConfig) -> list[Quantity]:
        needed = "database" if config.version == 1 else "org"
        if not getattr(config, needed):
            raise ConfigError(f"{_WHERE}: version {config.version} needs {needed}", f"add {needed}")
        return super()._open(config)

    def _find(self, spec: InfluxChannel) -> FoundPoint:
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
    table = _single(series if isinstance(series, list) else [])
    columns, rows = dig(table, "columns"), dig(table, "values")
    if not isinstance(columns, list) or not isinstance(rows, list) or not rows or len(columns) < 2:
        raise ValueError("the answer has no rows")
    field = field or str(columns[1])
    if field not in columns or "time" not in columns:
        raise ValueError(f"the answer has no column {field!r}, but {', '.join(map(str, columns))}")
    places = columns.index(field), columns.index("time")
    points = [FoundPoint(dig(row, places[0]), number(dig(row, places[1])) / 1e9) for row in rows]
    return max(points, key=lambda point: point.time_s)


def parse_flux(answer: Answer, field: str) -> FoundPoint:
    """Return the newest point of an answer to Flux, which is CSV.

    Raises:
        HttpError: The server refuses the query.
        ValueError: There is no point, or there are several tables.
    """
    points: dict[tuple[str, str], FoundPoint] = {}
    header: list[str] = []
    for row in _rows(answer):
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
            point = FoundPoint(cells.get(field), _seconds(cells.get("_time", "")))
            table = cells.get("result", ""), cells.get("table", "")
            if table not in points or point.time_s >= points[table].time_s:
                points[table] = point
    found = _single(list(points.values()))
    assert isinstance(found, FoundPoint)
    return found


def _rows(answer: Answer) -> Iterator[list[str]]:
    """Yield the rows of CSV.

    Raises:
        ValueError: It is none.
    """
    try:
        yield from csv.reader(io.StringIO(answer.body.decode("utf-8", "replace")))
    except csv.Error as error:
        raise ValueError(f"the answer is no CSV ({error})") from error


def _seconds(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _single(found: list[Any]) -> object:
    if not found:
        raise ValueError("the query finds nothing")
    if len(found) > 1:
        raise ValueError(f"the query finds {len(found)} series: narrow it to one")
    return found[0]
