"""Every meter on a network against peers that misbehave, on real sockets: it ends in time, says so, and recovers."""

from __future__ import annotations

import contextlib
import json
import math
import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

pytest.importorskip("httpx")
pytest.importorskip("pymodbus")
pytest.importorskip("paho.mqtt")

from tests.meters import test_modbus, test_mqtt, test_prometheus_query, test_redfish, test_shelly, test_tasmota
from tests.meters.http_device import Device, seconds
from tests.meters.peers import Mood, Peer

from wattwerk.config import to_struct
from wattwerk.errors import MeasurementError, UnavailableError
from wattwerk.meters.base import Meter
from wattwerk.meters.influx_query import InfluxQueryMeter
from wattwerk.meters.modbus import ModbusMeter
from wattwerk.meters.mqtt import MqttMeter
from wattwerk.meters.prometheus_query import PrometheusQueryMeter
from wattwerk.meters.redfish import RedfishMeter
from wattwerk.meters.shelly import ShellyMeter
from wattwerk.meters.tasmota import TasmotaMeter

TIMEOUT_S = 0.1
LONG_S = 20.0  # for what would otherwise never end, on however slow a machine
MOODS = [mood for mood in get_args(Mood) if mood != "pass"]


def rack() -> dict[str, Any]:
    """Return a reply of InfluxDB 1.x, written from the documentation: Query data with the InfluxDB API."""
    row = [time.time_ns(), 400]
    return {"/query": {"results": [{"series": [{"name": "rack", "columns": ["time", "last"], "values": [row]}]}]}}


#: Over HTTP: meter -> its class, what its device replies, options besides the address.
HTTP: dict[str, tuple[type[Meter], Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "shelly1": (ShellyMeter, test_shelly.first_generation, {}),
    "shelly2": (ShellyMeter, test_shelly.second_generation, {}),
    "tasmota": (TasmotaMeter, lambda: {"/cm": test_tasmota.plug()}, {}),
    "redfish": (RedfishMeter, lambda: test_redfish.service("1U") | test_redfish.newer(), {}),
    "redfish-power": (RedfishMeter, lambda: test_redfish.service("1") | test_redfish.older(), {}),
    "influx": (InfluxQueryMeter, rack, {"database": "b", "channels": [{"name": "rack_power_w", "query": "q"}]}),
    "prometheus": (
        PrometheusQueryMeter,
        lambda: {"/api/v1/query": test_prometheus_query.vector(str(time.time()))},
        {"channels": [{"name": "rack_power_w", "query": "q", "maximum": 1e12}]},
    ),
}


def opened(name: str, port: int, timeout_s: float = TIMEOUT_S) -> Meter:
    """Open the meter that reads a port of this machine."""
    kind, _, more = HTTP.get(name, (ModbusMeter if name == "modbus" else MqttMeter, None, {}))
    place = {"url": f"http://127.0.0.1:{port}"} if name in HTTP else {"host": "127.0.0.1", "port": port}
    if name == "modbus":
        more = {"channels": [test_modbus.POWER]}
    if name == "mqtt":
        more, timeout_s = {"channels": [test_mqtt.BARE], "keepalive_s": 1}, max(timeout_s, 0.5)
    return kind(to_struct(kind.config, place | more | {"timeout_s": timeout_s}, name))


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Any, int]]:
    """Start the real server of a meter; yield the meter's name, the server, and its port."""
    name: str = request.param
    if name in HTTP:
        with Device(HTTP[name][1]()) as device:
            yield name, device, int(device.url.rpartition(":")[2])
        return
    if name == "mqtt" and test_mqtt.MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    started: Any = test_modbus.Server() if name == "modbus" else test_mqtt.Broker(tmp_path, "allow_anonymous true")
    yield name, started, started.port
    started.end()


def read(meter: Meter) -> list[float]:
    """Read; what could not be read is NaN, and nothing but a MeasurementError may be raised."""
    try:
        return meter.read()
    except MeasurementError:
        return [math.nan]


def answers(meter: Meter, name: str, server: Any) -> bool:
    """Wait until the meter has a value."""
    end_s = time.monotonic() + LONG_S
    while time.monotonic() < end_s:
        if name == "mqtt":
            server.publish("meter/power", "17")
        if not math.isnan(read(meter)[0]):
            return True
        time.sleep(0.02)
    return False


EACH = pytest.mark.parametrize("server", [*HTTP, "modbus", "mqtt"], indirect=True)


@EACH
def test_a_peer_that_misbehaves_while_it_is_read(server: tuple[str, Any, int]) -> None:
    """Whatever the peer does, a read ends, has no value, and takes little memory; afterwards values come again."""
    name, real, port = server
    with Peer(port, b"HTTP/1.1 200 OK\r\nX: " if name in HTTP else b"") as peer, contextlib.ExitStack() as stack:
        meter = opened(name, peer.port, timeout_s=5.0)
        stack.callback(meter.close)
        if name in HTTP:
            meter._http._timeout_s = TIMEOUT_S  # type: ignore[attr-defined]
        elif name == "modbus":
            meter._line._timeout_s = TIMEOUT_S  # type: ignore[attr-defined]
        else:
            meter._client.reconnect_delay_set(0.05, 1)  # type: ignore[attr-defined] # a second otherwise
        assert answers(meter, name, real)
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for mood in MOODS:
            peer.become(mood)
            end_s = time.monotonic() + LONG_S  # a broker's loss is noticed by another thread
            while not math.isnan(read(meter)[0]) and time.monotonic() < end_s:
                time.sleep(0.01)
            found: list[float] = []
            assert seconds(lambda: found.extend(read(meter))) < LONG_S  # noqa: B023 - called at once
            assert math.isnan(found[0]), mood
            peer.become("pass")
            assert answers(meter, name, real), mood
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 64 * 1024


@EACH
@pytest.mark.parametrize("mood", MOODS)
def test_a_peer_that_misbehaves_from_the_beginning(server: tuple[str, Any, int], mood: Mood) -> None:
    """Opening ends, with the peer's address in what it says."""
    name, _, port = server
    with Peer(port, b"HTTP/1.1 200 OK\r\nX: " if name in HTTP else b"") as peer:
        peer.become(mood)
        start_s = time.monotonic()
        with pytest.raises(UnavailableError, match=f"127.0.0.1:{peer.port}"):
            opened(name, peer.port).close()
        assert time.monotonic() - start_s < LONG_S


@pytest.mark.parametrize("server", list(HTTP), indirect=True)
def test_a_body_without_end(server: tuple[str, Any, int]) -> None:
    """Of a body of 100 MB only the beginning is read; one that drips is given up when the time is over."""
    name, _, port = server
    with Peer(port, b"HTTP/1.1 200 OK\r\n\r\n") as peer:
        peer.become("flood")
        with pytest.raises(UnavailableError, match="answers more than 4000000 bytes"):
            opened(name, peer.port, timeout_s=LONG_S).close()
        assert peer.sent < 50_000_000
        peer.become("drip")
        with pytest.raises(UnavailableError, match=r"does not answer within 0\.1 s"):
            opened(name, peer.port).close()


BODIES = [
    *(b"", b"<html><body>Login</body></html>", b"[]", b"{}", b"null", b"true", b"3", b'"text"', b"1e999", b"\xff\xfe"),
    *(b'{"Power": NaN}', b"[" * 100_000, b'{"error": {"code": 7}}', b'[[["a"]]]', b'{"StatusSNS": [1]}'),
    *(b'{"results": [{"series": [{"columns": ["time", "v"], "values": [1, null, "x"]}]}]}', b'{"meters": [1, null]}'),
    b'{"status": "success", "data": {"resultType": "vector", "result": [7]}}',
    b'{"switch:0": {"apower": {}}, "em:0": [], "gen": "x", "mac": 7, "Members": [1, {"@odata.id": 3}]}',
    b'{"Members": [{"@odata.id": "@elsewhere.example/"}], "mac": "", "type": 1, "meters": {}}',
]


@pytest.mark.parametrize("server", list(HTTP), indirect=True)
def test_another_body(server: tuple[str, Any, int]) -> None:
    """An empty body, a web page, other types of JSON and noise are no value when read, and unavailable at opening."""
    name, device, port = server
    meter = opened(name, port, timeout_s=LONG_S)
    for body in BODIES:
        device.replies.update(dict.fromkeys(device.replies, body))
        assert all(map(math.isnan, read(meter))), body
        with pytest.raises(UnavailableError):
            opened(name, port, timeout_s=LONG_S).close()
    meter.close()


def replaced(value: Any, other: Any) -> Any:
    """Return a JSON value with all its numbers, also those in text, replaced."""
    if isinstance(value, dict):
        return {key: replaced(each, other) for key, each in value.items()}
    if isinstance(value, list):
        return [replaced(each, other) for each in value]
    number = isinstance(value, int | float) or (isinstance(value, str) and re.fullmatch(r"[\d.]+", value))
    return other if number and not isinstance(value, bool) else value


@pytest.mark.parametrize("server", list(HTTP), indirect=True)
@pytest.mark.parametrize("other", ["text", "", None, [], {}, True, "1e999", "NaN", "-1e300", "1e300", "1" * 400])
def test_another_number(server: tuple[str, Any, int], other: Any) -> None:
    """Where a number stood there is text, nothing, a list, infinity or what cannot be: no value, and no traceback."""
    name, device, port = server
    meter = opened(name, port, timeout_s=LONG_S)
    shapes = {path: json.dumps(replaced(reply, "@")) for path, reply in device.replies.items()}
    for text in {json.dumps(other), other if isinstance(other, str) and other[-1:].isdigit() else "null"}:
        device.replies.update({path: shape.replace('"@"', text).encode() for path, shape in shapes.items()})
        assert all(map(math.isnan, read(meter)))
        with contextlib.suppress(UnavailableError):
            opened(name, port, timeout_s=LONG_S).close()
    meter.close()
