"""Lines written to a real InfluxDB, a real UDP listener and a file."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from tests.meters.influxd import INFLUXD, Influxd, free_port

from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.meters.line_protocol import Point, batches, line_of
from wattwerk.meters.sinks import DATAGRAM_BYTES, HttpSink, open_sink

NOW_NS = 1_764_000_000_000_000_000
needs_influxd = pytest.mark.skipif(INFLUXD is None, reason="needs influxd (Debian: apt-get install influxdb)")


def lines(count: int, first: int = 0) -> str:
    """Return lines of a meter that gives its number as power."""
    each = range(first, first + count)
    made = (line_of(Point("wattwerk", {"scope": "wall", "run": "a b"}, {"wall_power_w": n}, NOW_NS + n)) for n in each)
    return "".join(batches(made, 10**9))


@needs_influxd
def test_what_is_written_over_http_is_there(influx_server: Influxd) -> None:
    """12,000 lines in batches arrive all, with tags, full precision of time, and values."""
    sink = open_sink(f"{influx_server.url}/write?db=power")
    for text in batches(iter(lines(12_000).splitlines())):
        sink.write(text)
    sink.close()
    assert (sink.lost_count, sink.last_error) == (0, "")
    found = influx_server.query("SELECT wall_power_w FROM wattwerk WHERE run = 'a b' AND scope = 'wall'", "power")
    assert found[0]["values"] == [[NOW_NS + n, n] for n in range(12_000)]


@needs_influxd
def test_what_is_written_over_udp_is_there(influx_server: Influxd) -> None:
    """200 lines over UDP reach the server, in datagrams that each fit into a frame."""
    sink = open_sink(f"udp://127.0.0.1:{influx_server.udp_port}")
    sink.write(lines(200))
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = influx_server.query("SELECT count(wall_power_w) FROM wattwerk", "over_udp")
        if found and found[0]["values"][0][1] == 200:
            break
        time.sleep(0.1)
    sink.close()
    assert found[0]["values"][0][1] == 200


def test_datagrams_hold_whole_lines() -> None:
    """No datagram is larger than its bound, none cuts a line, and all lines are there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(5)
        sink = open_sink(f"udp://127.0.0.1:{listener.getsockname()[1]}")
        sink.write(lines(100))
        sink.close()
        received = b""
        while received.count(b"\n") < 100:
            datagram = listener.recv(65536)
            assert len(datagram) <= DATAGRAM_BYTES
            assert datagram.endswith(b"\n")
            received += datagram
    assert received.decode() == lines(100)


@needs_influxd
def test_lines_wait_for_a_server_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written while the server is down arrives when it is back, and nothing is lost."""
    monkeypatch.setattr("wattwerk.meters.sinks._PAUSE_S", 0.0)
    server = Influxd(tmp_path)
    server.query("CREATE DATABASE power")
    sink = open_sink(f"{server.url}/write?db=power")
    sink.write(lines(10))
    server.stop()
    started = time.monotonic()
    sink.write(lines(10, 10))
    assert time.monotonic() - started < 2
    assert sink.last_error
    server.start()
    sink.write(lines(10, 20))
    sink.close()
    found = server.query("SELECT wall_power_w FROM wattwerk", "power")
    server.stop()
    assert [value for _, value in found[0]["values"]] == list(range(30))
    assert sink.lost_count == 0


@needs_influxd
def test_a_server_that_never_comes_back_costs_lines_and_no_memory(tmp_path: Path) -> None:
    """Beyond the bound the oldest lines are given up and counted; at the end all that waits is counted, too."""
    server = Influxd(tmp_path)
    server.query("CREATE DATABASE power")
    sink = HttpSink(f"{server.url}/write?db=power", held_bytes=3 * len(lines(10)))
    server.stop()
    for _ in range(10):
        sink.write(lines(10))
    assert 60 <= sink.lost_count <= 80
    sink.close()
    assert sink.lost_count == 100
    assert "refused" in sink.last_error


@needs_influxd
def test_wrong_lines_cost_themselves_only(influx_server: Influxd) -> None:
    """A batch that the server calls wrong is lost and told; the next one arrives."""
    sink = open_sink(f"{influx_server.url}/write?db=power")
    sink.write("nonsense\n")
    assert sink.lost_count == 1
    assert "400" in sink.last_error
    sink.write(f"after a_w=7 {NOW_NS}\n")
    sink.close()
    assert influx_server.query("SELECT a_w FROM after", "power")[0]["values"] == [[NOW_NS, 7]]


@needs_influxd
def test_a_missing_database_is_named(influx_server: Influxd) -> None:
    """Opening a sink of a database that does not exist says so, before anything is measured."""
    with pytest.raises(UnavailableError, match=r"does not know this database or path.*elsewhere"):
        open_sink(f"{influx_server.url}/write?db=elsewhere")


@needs_influxd
def test_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without or with wrong credentials opening fails and shows none; from the environment or the URL they work."""
    server = Influxd(tmp_path, auth=True)
    server.query("CREATE DATABASE power", u="admin", p="secret")
    url = f"{server.url}/write?db=power"
    with pytest.raises(UnavailableError, match="INFLUX_TOKEN"):
        open_sink(url)
    with pytest.raises(UnavailableError) as caught:
        open_sink(url.replace("//", "//admin:wrong-word@"))
    assert "wrong-word" not in str(caught.value)
    open_sink(url.replace("//", "//admin:secret@")).close()
    monkeypatch.setenv("INFLUX_USERNAME", "admin")
    monkeypatch.setenv("INFLUX_PASSWORD", "secret")
    sink = open_sink(url)
    sink.write(lines(3))
    sink.close()
    found = server.query("SELECT count(wall_power_w) FROM wattwerk", "power", u="admin", p="secret")
    server.stop()
    assert found[0]["values"][0][1] == 3


def test_nobody_answers() -> None:
    """A port where nobody listens is an error that names the place, not a measurement without a record."""
    with pytest.raises(UnavailableError, match="does not answer"):
        open_sink(f"http://127.0.0.1:{free_port()}/write?db=power")


def test_a_file_grows(tmp_path: Path) -> None:
    """Lines are appended to what a file held before."""
    path = tmp_path / "power.lp"
    for first in (0, 5):
        sink = open_sink(f"file:{path}")
        sink.write(lines(5, first))
        sink.close()
    assert path.read_text() == lines(10)


@pytest.mark.parametrize("url", ["", "power.lp", "http://host", "http://host:port/write", "ftp://host/x", "udp://"])
def test_places_that_are_none(url: str) -> None:
    """A text that is no place is an error that lists the forms."""
    with pytest.raises(ConfigError, match="use one of http://HOST:8086/write"):
        open_sink(url)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """A file that cannot be written is named."""
    with pytest.raises(ConfigError, match="cannot be written"):
        open_sink(f"file:{tmp_path}")
