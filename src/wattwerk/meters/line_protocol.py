"""InfluxDB's line protocol: what a trace says as lines of text, and lines as a trace again.

    wattwerk,host=edge1,scope=wall wall_power_w=41.3 1764000000123456789

A measurement, tags that say where, fields with their values, and the time since 1970 in nanoseconds. Each scope has a
line of its own, so that a dashboard can choose channels by what they cover; channels without a scope share one. A field
``unmoved_s`` tells how long before that time an edge of a counter or the answer of a slow meter can have been.

Channels are described once for each run, so that whoever reads a database later knows what its numbers are:

    wattwerk_channel,channel=gpu0_energy_j,form=counter,run=0a1b,scope=accelerator tick_s=0.1 1764000000000000000

Source: InfluxData, line protocol reference of InfluxDB 1.8 and 2.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from wattwerk.errors import ConfigError
from wattwerk.meters.base import Channel
from wattwerk.meters.trace import Trace
from wattwerk.records import Provenance, Scope

MEASUREMENT: Final = "wattwerk"
CHANNEL_MEASUREMENT: Final = "wattwerk_channel"
UNMOVED: Final = "unmoved_s"

_KEY: Final = str.maketrans({",": r"\,", "=": r"\=", " ": r"\ "})
_NAME: Final = str.maketrans({",": r"\,", " ": r"\ "})
_UNESCAPED: Final = {"key": re.compile(r"(?<!\\)="), "comma": re.compile(r"(?<!\\),"), "space": re.compile(r"(?<!\\) ")}


class Clock(NamedTuple):
    """Two readings of one moment: the clock of records, and the time of day.

    Attributes:
        perf_ns: ``time.perf_counter_ns``.
        unix_ns: Nanoseconds since 1970.
    """

    perf_ns: int
    unix_ns: int

    @classmethod
    def now(cls) -> Clock:
        """Read both; of a few tries the one in which they are nearest to each other."""
        tries = []
        for _ in range(5):
            before = time.perf_counter_ns()
            unix = time.time_ns()
            tries.append((time.perf_counter_ns() - before, before, unix))
        width, before, unix = min(tries)
        return cls(before + width // 2, unix)

    def unix(self, perf_ns: int) -> int:
        """Return the time of day of a ``time.perf_counter_ns``; set clocks do not move what was recorded before."""
        return self.unix_ns + perf_ns - self.perf_ns


class Point(NamedTuple):
    """One line.

    Attributes:
        measurement: Its first word.
        tags: Where the values come from.
        fields: Channel -> value.
        unix_ns: Nanoseconds since 1970.
    """

    measurement: str
    tags: dict[str, str]
    fields: dict[str, float]
    unix_ns: int


def points(trace: Trace, clock: Clock, tags: Mapping[str, str] | None = None) -> Iterator[Point]:
    """Yield what a trace says, a point for each sample and scope; what is NaN is left out.

    Args:
        trace: The samples.
        clock: Relates their clock to the time of day.
        tags: Added to every point: the host, a name of the run.
    """
    scopes: dict[str, list[int]] = {}
    for column, channel in enumerate(trace.channels):
        scopes.setdefault(channel.scope.value if channel.scope else "", []).append(column)
    names = [channel.name for channel in trace.channels]
    rows = zip(trace.time_ns.tolist(), trace.unmoved_ns.tolist(), trace.values.tolist(), strict=True)
    for time_ns, unmoved_ns, row in rows:
        late = {UNMOVED: (time_ns - unmoved_ns) / 1e9} if unmoved_ns != time_ns else {}
        for scope, columns in scopes.items():
            fields = {names[column]: row[column] for column in columns if math.isfinite(row[column])}
            if fields:
                about = {"scope": scope} if scope else {}
                yield Point(MEASUREMENT, {**(tags or {}), **about}, fields | late, clock.unix(time_ns))


def channel_points(trace: Trace, unix_ns: int, tags: Mapping[str, str] | None = None) -> Iterator[Point]:
    """Yield a point for each channel of a trace that tells what it is.

    Args:
        trace: Its samples do not matter.
        unix_ns: When the run began.
        tags: As for ``points``.
    """
    for channel in trace.channels:
        about = {
            "channel": channel.name,
            "form": channel.form,
            "scope": channel.scope.value if channel.scope else "",
            "provenance": channel.provenance.value,
            "low": channel.low or "",
            "high": channel.high or "",
            "contains": ";".join(channel.contains),
            "reads": "locked" if channel.name == trace.locked else "slow" if channel.name in trace.slow else "",
        }
        fields: dict[str, float] = {
            "step": channel.step,
            "signed": float(channel.signed),
            "complete": float(channel.complete),
        }
        for name in ("tick_s", "accuracy_ratio", "limit"):
            if (value := getattr(channel, name)) is not None:
                fields[name] = value
        yield Point(CHANNEL_MEASUREMENT, {**(tags or {}), **about}, fields, unix_ns)


def channel_of(about: Mapping[str, str], fields: Mapping[str, float | None]) -> Channel:
    """Return the channel that tags and fields of a description tell.

    Raises:
        ConfigError: They tell none.
    """
    try:
        plain = {
            "name": about["channel"],
            "form": about["form"],
            "scope": Scope(about["scope"]) if about.get("scope") else None,
            "provenance": Provenance(about["provenance"]),
            "low": about.get("low") or None,
            "high": about.get("high") or None,
            **{name: fields.get(name) for name in ("tick_s", "accuracy_ratio", "limit")},
            "signed": bool(fields.get("signed")),
            "step": float(fields.get("step") or 0.0),
            "contains": tuple(filter(None, str(about.get("contains") or "").split(";"))),
            "complete": bool(fields.get("complete")),
        }
        return msgspec.convert(plain, Channel)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"the description of a channel cannot be read ({error!r})", "write it with this version of wattwerk"
        ) from error


def line_of(point: Point) -> str:
    """Return a point as a line, without the line's end; tags without a value are left out.

    Raises:
        ConfigError: A tag holds a line break or ends in a backslash, which the format cannot carry.
    """
    for key, value in point.tags.items():
        if "\n" in key + value or "\r" in key + value or key.endswith("\\") or value.endswith("\\"):
            raise ConfigError(
                f"the tag {key!r} = {value!r} cannot be sent", "leave out line breaks and a backslash at the end"
            )
    tags = "".join(
        f",{key.translate(_KEY)}={value.translate(_KEY)}" for key, value in sorted(point.tags.items()) if value
    )
    fields = ",".join(f"{key.translate(_KEY)}={value!r}" for key, value in point.fields.items())
    return f"{point.measurement.translate(_NAME)}{tags} {fields} {point.unix_ns}"


def parse_line(line: str) -> Point:
    """Return the point of a line that has numbers in its fields.

    Raises:
        ConfigError: It is no such line.
    """
    try:
        head, fields, unix_ns = _UNESCAPED["space"].split(line.strip())
        measurement, *tags = _UNESCAPED["comma"].split(head)
        return Point(
            _plain(measurement),
            dict(map(_pair, tags)),
            {key: float(value.rstrip("iu")) for key, value in map(_pair, _UNESCAPED["comma"].split(fields))},
            int(unix_ns),
        )
    except ValueError as error:
        raise ConfigError(f"not a line of numbers in line protocol: {line[:80]!r}", "check the file") from error


def _pair(text: str) -> tuple[str, str]:
    key, value = _UNESCAPED["key"].split(text)
    return _plain(key), _plain(value)


def _plain(text: str) -> str:
    return re.sub(r"\\([,= ])", r"\1", text)


def batches(lines: Iterable[str], most: int = 5000) -> Iterator[str]:
    """Yield lines joined to texts of at most so many lines, as a server likes to get them."""
    held: list[str] = []
    for line in lines:
        held.append(line)
        if len(held) == most:
            yield "\n".join(held) + "\n"
            held = []
    if held:
        yield "\n".join(held) + "\n"
