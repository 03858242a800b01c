"""Traces as InfluxDB's lines and back."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattwerk.errors import ConfigError
from wattwerk.meters.base import Channel
from wattwerk.meters.line_protocol import Clock, Point, batches, line_of, parse_line, points
from wattwerk.meters.trace import Trace
from wattwerk.records import Scope

CHANNELS = (
    Channel(name="wall_power_w", form="gauge", scope=Scope.WALL),
    Channel(name="gpu0_power_w", form="gauge", scope=Scope.ACCELERATOR),
    Channel(name="host_load_ratio", form="gauge"),
)
TEXT = st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=12).filter(lambda t: not t.endswith("\\"))
NAMES = TEXT.filter(lambda text: "\\" not in text)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def test_a_trace_as_lines():
    """Each sample has a line for each scope; what is NaN is left out, the time is that of day, tags are sorted."""
    trace = Trace(CHANNELS, [10**9, 2 * 10**9], [[41.5, np.nan, 0.25], [np.nan, 300.0, np.nan]])
    clock = Clock(perf_ns=0, unix_ns=1_764_000_000_000_000_000)
    assert [line_of(point) for point in points(trace, clock, {"run": "a b", "host": "edge1"})] == [
        r"wattwerk,host=edge1,run=a\ b,scope=wall wall_power_w=41.5 1764000001000000000",
        r"wattwerk,host=edge1,run=a\ b host_load_ratio=0.25 1764000001000000000",
        r"wattwerk,host=edge1,run=a\ b,scope=accelerator gpu0_power_w=300.0 1764000002000000000",
    ]


@given(st.dictionaries(NAMES, NAMES, max_size=4), st.dictionaries(NAMES, NUMBERS, min_size=1, max_size=4))
def test_lines_are_read_back(tags, fields):
    """Whatever signs names and tags have, and whatever the numbers: a line gives the point that it was made of."""
    point = Point("watt werk,=", tags, fields, 1_764_000_000_123_456_789)
    line = line_of(point)
    assert "\n" not in line
    assert parse_line(line) == point


@pytest.mark.parametrize(
    "line", ["", "wattwerk", "wattwerk a=1", 'wattwerk a="text" 1', "wattwerk a=1 soon", "a,b c=1 2"]
)
def test_what_is_no_line_is_named(line):
    """A text that is no line of numbers is an error that shows it."""
    with pytest.raises(ConfigError, match="not a line of numbers"):
        parse_line(line)


@pytest.mark.parametrize("tag", ["two\nlines", "back\\"])
def test_tags_that_cannot_be_sent(tag):
    """A tag that the format cannot carry is an error that names it, and no broken line."""
    with pytest.raises(ConfigError, match="the tag 'run'"):
        line_of(Point("wattwerk", {"run": tag}, {"a_w": 1.0}, 1))


def test_batches_lose_nothing():
    """Twelve lines in batches of five are three texts with all lines in order."""
    lines = [f"wattwerk a_w={number} {number}" for number in range(12)]
    found = list(batches(lines, 5))
    assert [text.count("\n") for text in found] == [5, 5, 2]
    assert "".join(found).splitlines() == lines


def test_the_clock_tells_the_time_of_day():
    """A moment ago is a moment ago on both clocks, within a millisecond."""
    clock = Clock.now()
    assert clock.unix(time.perf_counter_ns()) == pytest.approx(time.time_ns(), abs=1e6)
