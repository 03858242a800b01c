"""What a recorder wrote to InfluxDB, as a trace again: energies of an interval, computed later from the data base.

InfluxDB 1.x is asked in InfluxQL; so is 2.x where the bucket is mapped to a database, and otherwise it is asked in
Flux. Times are nanoseconds since 1970, in place of ``time.perf_counter_ns``.

Source: InfluxData, InfluxDB 1.x API reference (/query, epoch), InfluxQL reference; InfluxDB 2.x API reference
(/api/v2/query) and 1.x compatibility; annotated CSV.
"""

from __future__ import annotations

import calendar
import csv
import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

import msgspec

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.base import Channel
from wattwerk.meters.line_protocol import CHANNEL_MEASUREMENT, MEASUREMENT, UNMOVED, channel_of
from wattwerk.meters.trace import Trace

_TIMEOUT_S: Final = 30.0
_PAGE: Final = 20_000
_EVER_NS: Final = 9_000_000_000_000_000_000
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")


class StoredRun(msgspec.Struct, frozen=True):
    """One recording in a data base.

    Attributes:
        run: Its name.
        host: The machine's name.
        started_ns: When forwarding began, in nanoseconds since 1970.
        channels: What was recorded.
        locked: The counter whose ticks the samples follow, if any.
        slow: Channels of slow meters.
    """

    run: str
    host: str
    started_ns: int
    channels: tuple[Channel, ...]
    locked: str | None = None
    slow: tuple[str, ...] = ()


class Row(NamedTuple):
    """Part of a point: its time, and tags and fields together."""

    unix_ns: int
    values: dict[str, Any]


class InfluxDatabase:
    """A data base that a ``Forwarder`` or Telegraf filled.

    Args:
        url: Of the server, such as ``http://influx.example:8086``.
        database: To ask in InfluxQL; with InfluxDB 2.x the one that the bucket is mapped to.
        org: To ask in Flux, with ``bucket``.
        bucket: Likewise.
        user: For basic authentication.
        password: Likewise.
        token: For token authentication.

    Raises:
        ConfigError: Not one of database, or org and bucket.
        UnavailableError: httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        database: str = "",
        *,
        org: str = "",
        bucket: str = "",
        user: str = "",
        password: str = "",
        token: str = "",
    ) -> None:
        if bool(database) == bool(org and bucket):
            raise ConfigError(f"{url}: which database?", "give database to ask in InfluxQL, or org and bucket for Flux")
        try:
            import httpx
        except ImportError as error:
            raise UnavailableError("reading from InfluxDB needs httpx", '`pip install "wattwerk[meters]"`') from error
        self.url, self.database, self.org, self.bucket = url.rstrip("/"), database, org, bucket
        self._errors = (httpx.TransportError, httpx.InvalidURL)
        headers = {"Authorization": f"Token {token}"} if token else {}
        auth = (user, password) if user else None
        self._client = httpx.Client(timeout=_TIMEOUT_S, auth=auth, headers=headers, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def runs(self, run: str = "", host: str = "") -> list[StoredRun]:
        """Return the recordings, the oldest first.

        Args:
            run: Only this one.
            host: Only those of this machine.

        Raises:
            ConfigError: The server refuses, or what it has is no description of channels.
            UnavailableError: It does not answer.
        """
        described: dict[tuple[str, str], dict[str, Row]] = {}
        for row in self._rows(CHANNEL_MEASUREMENT, {"run": run, "host": host}, (), 0, _EVER_NS):
            key = str(row.values.get("run") or ""), str(row.values.get("host") or "")
            kept = described.setdefault(key, {}).setdefault(str(row.values.get("channel")), row)
            kept.values.update({name: value for name, value in row.values.items() if value is not None})
        return sorted((_stored_run(key, rows) for key, rows in described.items()), key=lambda one: one.started_ns)

    def trace(
        self,
        run: str = "",
        *,
        host: str = "",
        since_ns: int = 0,
        until_ns: int = _EVER_NS,
        margin_s: float = 10.0,
        channels: Sequence[Channel] = (),
        measurement: str = MEASUREMENT,
        tags: Mapping[str, str] | None = None,
    ) -> Trace:
        """Return what was recorded.

        Args:
            run: Of which run; may be left out where there is only one.
            host: Of which machine, likewise.
            since_ns: From this time on, in nanoseconds since 1970.
            until_ns: Up to this time.
            margin_s: How much more is read on both sides, so that ``Trace.energy`` reaches the ends.
            channels: What to read where no recorder described it, as with values that Telegraf collected.
            measurement: Where these values are.
            tags: More tags that they have, such as the number of a board.

        Raises:
            ConfigError: As for ``runs``; several runs fit.
            MeasurementError: No run fits, or there is no sample in this time.
            UnavailableError: The server does not answer.
        """
        about = StoredRun(run, host, 0, tuple(channels)) if channels else self._one_run(run, host)
        margin_ns = round(margin_s * 1e9)
        since_ns, until_ns = max(0, since_ns - margin_ns), min(_EVER_NS, until_ns + margin_ns)
        names = [channel.name for channel in about.channels]
        tags = {"run": about.run, "host": about.host, **(tags or {})}
        found = _samples(self._rows(measurement, tags, (*names, UNMOVED), since_ns, until_ns), names)
        if not found:
            raise MeasurementError(f"{self._place} has no sample of {', '.join(names)} in this time", "widen it")
        times = sorted(found)
        unmoved = [unix_ns - round(found[unix_ns][-1] * 1e9) for unix_ns in times]
        values = [found[unix_ns][:-1] for unix_ns in times]
        return Trace(about.channels, times, values, unmoved, about.locked, about.slow)

    def _one_run(self, run: str, host: str) -> StoredRun:
        found = self.runs(run, host)
        if not found:
            wanted = " ".join(filter(None, [run and f"run {run}", host and f"host {host}"])) or "any run"
            raise MeasurementError(f"{self._place} describes no channels of {wanted}", "name another, or give channels")
        if len(found) > 1:
            names = ", ".join(f"{one.run} on {one.host}" for one in found[-5:])
            raise ConfigError(f"{self._place} has {len(found)} such runs", f"name one of them, such as {names}")
        return found[0]

    @property
    def _place(self) -> str:
        return f"{self.url}, {f'database {self.database}' if self.database else f'bucket {self.bucket}'}"

    def _rows(
        self, measurement: str, tags: Mapping[str, str], fields: Sequence[str], since_ns: int, until_ns: int
    ) -> Iterator[Row]:
        """Yield rows of a measurement: of these fields, or with all tags and fields."""
        ask = self._influxql if self.database else self._flux
        return ask(measurement, {key: value for key, value in tags.items() if value}, fields, since_ns, until_ns)

    def _influxql(
        self, measurement: str, tags: Mapping[str, str], fields: Sequence[str], since_ns: int, until_ns: int
    ) -> Iterator[Row]:
        what = ", ".join(map(_name, fields)) or "*"
        where = "".join(f" AND {_name(key)} = {_text(value)}" for key, value in tags.items())
        while True:
            query = (
                f"SELECT {what} FROM {_name(measurement)} WHERE time >= {since_ns} AND time <= {until_ns}{where}"
                f" ORDER BY time LIMIT {_PAGE}"
            )
            rows = self._page(query)
            full = len(rows) == _PAGE
            last_ns = rows[-1].unix_ns if rows else 0
            # rows of one time may go on in the next page: that page begins with all of them
            yield from (row for row in rows if not full or row.unix_ns < last_ns)
            if not full:
                return
            if rows[0].unix_ns == last_ns:
                raise MeasurementError(f"{self._place} has over {_PAGE} rows of one moment", "name run and host")
            since_ns = last_ns

    def _page(self, query: str) -> list[Row]:
        answer = self._ask("GET", "/query", params={"db": self.database, "q": query, "epoch": "ns"})
        told = self._json(answer)
        results = told.get("results") or [{}]
        if error := told.get("error") or results[0].get("error"):
            raise ConfigError(f"{self._place}: {error}", "check the database's name")
        found = []
        for series in results[0].get("series", []):
            place = series["columns"].index("time")
            for values in series["values"]:
                found.append(Row(int(values[place]), dict(zip(series["columns"], values, strict=True))))
        return found

    def _flux(
        self, measurement: str, tags: Mapping[str, str], fields: Sequence[str], since_ns: int, until_ns: int
    ) -> Iterator[Row]:
        tests = [f"r._measurement == {_flux_text(measurement)}"]
        tests += [f"r[{_flux_text(key)}] == {_flux_text(value)}" for key, value in tags.items()]
        if fields:
            tests.append("(" + " or ".join(f"r._field == {_flux_text(field)}" for field in fields) + ")")
        query = (
            f"from(bucket: {_flux_text(self.bucket)}) "
            f"|> range(start: time(v: {since_ns}), stop: time(v: {until_ns + 1})) "
            f"|> filter(fn: (r) => {' and '.join(tests)})"
        )
        answer = self._ask(
            "POST",
            "/api/v2/query",
            params={"org": self.org},
            json={"query": query, "type": "flux", "dialect": {"header": True, "annotations": []}},
            headers={"Accept": "application/csv"},
        )
        return _flux_rows(answer.text, self._place)

    def _ask(self, method: str, path: str, **request: Any) -> Any:
        try:
            answer = self._client.request(method, self.url + path, **request)
        except self._errors as error:
            raise UnavailableError(
                f"{self.url} does not answer ({error or type(error).__name__})", "start the server, check host and port"
            ) from error
        if answer.status_code in (401, 403):
            raise UnavailableError(
                f"{self.url} refuses the credentials ({answer.status_code})", "give user and password, or a token"
            )
        if answer.status_code >= 400:
            told = " ".join(answer.text.split())[:200]
            raise ConfigError(f"{self._place}: answer {answer.status_code}: {told}", "check the database's name")
        return answer

    def _json(self, answer: Any) -> dict[str, Any]:
        try:
            told = answer.json()
            if not isinstance(told, dict):
                raise ValueError("no object")
        except ValueError as error:
            raise ConfigError(f"{self.url} does not answer as InfluxDB ({error})", "check host and port") from error
        return told


def _stored_run(key: tuple[str, str], rows: Mapping[str, Row]) -> StoredRun:
    reads = {name: str(row.values.get("reads") or "") for name, row in rows.items()}
    return StoredRun(
        run=key[0],
        host=key[1],
        started_ns=min(row.unix_ns for row in rows.values()),
        channels=tuple(channel_of(row.values, row.values) for row in rows.values()),
        locked=next((name for name, how in reads.items() if how == "locked"), None),
        slow=tuple(name for name, how in reads.items() if how == "slow"),
    )


def _samples(rows: Iterable[Row], names: Sequence[str]) -> dict[int, list[float]]:
    """Return time -> one value for each name, NaN where there is none, and then how long it was unmoved."""
    column = {name: place for place, name in enumerate((*names, UNMOVED))}
    found: dict[int, list[float]] = {}
    for row in rows:
        sample = found.setdefault(row.unix_ns, [math.nan] * len(names) + [0.0])
        for name, value in row.values.items():
            if name in column and value is not None:
                sample[column[name]] = float(value)
    return {unix_ns: sample for unix_ns, sample in found.items() if any(map(math.isfinite, sample[:-1]))}


def _flux_rows(text: str, place: str) -> Iterator[Row]:
    """Yield a row for each field of an answer to Flux; a table of other columns begins with an empty line."""
    header: list[str] = []
    for cells in csv.reader(text.splitlines()):
        if not any(cells):
            header = []
        elif cells[0].startswith("#"):
            continue
        elif not header:
            header = cells
        else:
            about = dict(zip(header, cells, strict=False))
            if "error" in about:
                raise ConfigError(f"{place}: {about['error'][:200]}", "check org, bucket and the server's version")
            try:
                yield Row(_unix_ns(about["_time"]), {**about, about["_field"]: float(about["_value"])})
            except (KeyError, ValueError) as error:
                raise ConfigError(f"{place}: an answer that is no point ({error!r})", "check the bucket") from error


def _unix_ns(text: str) -> int:
    """Return RFC 3339 in UTC as nanoseconds since 1970, all nine digits of them."""
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no time in UTC")
    seconds = calendar.timegm(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S"))
    return seconds * 1_000_000_000 + int((found[2] or "0").ljust(9, "0"))


def _name(text: str) -> str:
    """Quote an identifier of InfluxQL."""
    return '"' + text.replace("\\", "\\\\").replace('"', r"\"") + '"'


def _text(text: str) -> str:
    """Quote a string of InfluxQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", r"\'") + "'"


def _flux_text(text: str) -> str:
    """Quote a string of Flux, in which ``${`` would begin an expression."""
    return json.dumps(text, ensure_ascii=False).replace("${", r"\${")
