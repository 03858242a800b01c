from __future__ import annotations

import json
import math
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx")

from tests.meters.http_device import Device, seconds
from tests.meters.influxd import INFLUXD, Influxd

from wattwerk.config import to_struct
from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.influx_query import InfluxQueryConfig, InfluxQueryMeter
from wattwerk.records import Scope

needs_influxd = pytest.mark.skipif(INFLUXD is None, reason="needs influxd (Debian: apt-get install influxdb)")
QUERY = "SELECT last(kilowatts) FROM rack"
POWER = {"name": "rack_power_w", "query": QUERY, "factor": 1000}
ENERGY = {"name": "rack_energy_j", "query": "SELECT last(kwh) FROM rack", "factor": 3.6e6}

#: Written from the documentation: InfluxData, InfluxDB 2.x, annotated CSV.
FLUX = """#datatype,string,long,dateTime:RFC3339,dateTime:RFC3339,dateTime:RFC3339,double,string,string\r
#group,false,false,true,true,false,false,true,true\r
#default,_result,,,,,,,\r
,result,table,_start,_stop,_time,_value,_field,_measurement\r
,,0,2024-01-01T00:00:00Z,2034-01-01T00:00:00Z,{early},1.0,power,rack\r
,,0,2024-01-01T00:00:00Z,2034-01-01T00:00:00Z,{late},{value},power,rack\r
\r
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxd]:
    """Start a server that asks for credentials."""
    if INFLUXD is None:
        pytest.skip("needs influxd (Debian: apt-get install influxdb)")
    with Influxd(tmp_path_factory.mktemp("influxd"), auth=True) as found:
        yield found


@pytest.fixture
def database(server: Influxd) -> str:
    """Return the name of an empty database."""
    for order in ("DROP", "CREATE"):
        server.query(f"{order} DATABASE building", u="admin", p="secret")
    return "building"


def write(server: Influxd, fields: str, age_s: float = 0.0, tags: str = "") -> None:
    """Write a point of that age."""
    moment = round((time.time() - age_s) * 1e9)
    url = f"{server.url}/write?db=building&u=admin&p=secret"
    urllib.request.urlopen(url, data=f"rack{tags} {fields} {moment}".encode(), timeout=5).close()


def opened(url: str, *channels: dict[str, Any], **options: Any) -> InfluxQueryMeter:
    """Return a meter with the server's credentials."""
    defaults = {"url": url, "channels": list(channels), "database": "building", "user": "admin", "password": "secret"}
    return InfluxQueryMeter(to_struct(InfluxQueryConfig, defaults | options, "meters.influx-query"))


def flux_answer(value: object, age_s: float = 0.0) -> bytes:
    """Return a server's answer of two points, the newer one of that value and age."""
    moments = (time.gmtime(time.time() - age_s - older) for older in (30, 0))
    early, late = (time.strftime("%Y-%m-%dT%H:%M:%S.123456789Z", moment) for moment in moments)
    return FLUX.format(early=early, late=late, value=value).encode()


def flux(device: Device, **options: Any) -> InfluxQueryMeter:
    """Return a meter that asks in Flux."""
    channel = {"name": "rack_power_w", "query": 'from(bucket: "b") |> last()'} | options
    return opened(device.url, channel, version=2, org="lab", token="to-ken", database="", password="")


@needs_influxd
def test_power_and_energy(server: Influxd, database: str) -> None:
    """Of a real server power comes in watts, and energy in joules since opening, each point of it once."""
    write(server, "kilowatts=1.5,kwh=100", age_s=2)
    meter = opened(server.url, POWER, ENERGY | {"scope": "node"})
    assert meter.read() == [1500, 0]
    power_w, energy_j = meter.read()
    assert power_w == 1500
    assert math.isnan(energy_j)
    write(server, "kilowatts=2,kwh=100.001")
    assert meter.read() == [2000, pytest.approx(3600)]
    assert meter.faults() == []
    assert [channel.scope for channel in meter.channels] == [Scope.WALL, Scope.NODE]
    meter.close()


@needs_influxd
def test_stale_points_are_missing(server: Influxd, database: str) -> None:
    """A point older than stale_s is NaN, and so is one as far in the future; the fault tells which."""
    write(server, "kilowatts=1.5", age_s=30)
    meter = opened(server.url, POWER | {"stale_s": 10})
    assert math.isnan(meter.read()[0])
    assert "30 s old" in meter.faults()[0]
    write(server, "kilowatts=1.5", age_s=1)
    assert meter.read() == [1500]
    write(server, "kilowatts=1.5", age_s=-30)
    assert math.isnan(meter.read()[0])
    assert "in the future" in meter.faults()[0]
    meter.close()


@needs_influxd
def test_field_and_newest_row(server: Influxd, database: str) -> None:
    """Of several rows the newest counts, in whatever order they come; field names the column."""
    for age_s, volts in ((5, 230), (1, 231)):
        write(server, f"kilowatts=1,v={volts}", age_s=age_s)
    channel = {"name": "rack_volts", "query": "SELECT kilowatts, v FROM rack ORDER BY time DESC", "field": "v"}
    meter = opened(server.url, channel)
    assert meter.read() == [231]
    meter.close()
    with pytest.raises(UnavailableError, match="no column 'u', but time, kilowatts, v"):
        opened(server.url, channel | {"field": "u"})


@needs_influxd
def test_negative_and_restarted(server: Influxd, database: str) -> None:
    """A negative power is NaN unless minimum allows it; a counter that begins at 0 again goes on."""
    write(server, "kilowatts=-1,kwh=100", age_s=3)
    meter = opened(server.url, POWER, POWER | {"name": "pv_power_w", "minimum": -5000}, ENERGY)
    found = meter.read()
    assert math.isnan(found[0])
    assert found[1:] == [-1000, 0]
    write(server, "kwh=0.001", age_s=2)
    assert math.isnan(meter.read()[2])
    write(server, "kwh=0.002", age_s=1)
    assert meter.read()[2] == pytest.approx(7200)
    meter.close()


@needs_influxd
@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("SELECT last(nothing) FROM rack", "finds nothing"),
        ("SELECT oops FORM rack", "refuses|answers 400"),
        ("SELECT last(kilowatts) FROM rack GROUP BY side", "finds 2 series"),
    ],
)
def test_unusable_query_is_unavailable(server: Influxd, database: str, query: str, text: str) -> None:
    """A query that finds nothing, cannot be read, or finds two series makes the meter unavailable."""
    for side in ("left", "right"):
        write(server, "kilowatts=1", tags=f",side={side}")
    with pytest.raises(UnavailableError, match=text):
        opened(server.url, POWER | {"query": query})


@needs_influxd
def test_wrong_password_and_database(server: Influxd, database: str) -> None:
    """A wrong password is refused with 401 and not told; a database that does not exist is named by the server."""
    with pytest.raises(UnavailableError, match=r"answers 401.*check user and password") as error:
        opened(server.url, POWER, password="wrong-word")
    assert "wrong-word" not in str(error.value)
    with pytest.raises(UnavailableError, match="database not found: cellar"):
        opened(server.url, POWER, database="cellar")


@needs_influxd
def test_server_that_goes_and_comes(tmp_path: Path) -> None:
    """While a real server is gone reads fail in time, and after its return the meter goes on by itself."""
    with Influxd(tmp_path) as server:
        server.query("CREATE DATABASE building")
        write(server, "kilowatts=1")
        meter = opened(server.url, POWER, password="")
        server.stop()
        assert seconds(meter.read) < 10
        with pytest.raises(MeasurementError, match="does not answer"):
            meter.read()
        server.start()
        assert meter.read() == [1000]
        meter.close()


def test_flux_sends_query_and_token() -> None:
    """With version 2 the query goes as Flux with organisation and token, and the newest row of its CSV counts."""
    with Device({"/api/v2/query": lambda request: flux_answer(250.5)}) as device:
        meter = flux(device)
        assert meter.read() == [250.5]
        method, path, headers, body = device.requests[-1]
        assert (method, path) == ("POST", "/api/v2/query?org=lab")
        assert headers["Authorization"] == "Token to-ken"
        assert json.loads(body) == {"query": 'from(bucket: "b") |> last()', "type": "flux"}
        device.replies["/api/v2/query"] = flux_answer(250.5, age_s=90)
        assert math.isnan(meter.read()[0])
        meter.close()


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (b"\r\n", "finds nothing"),
        (
            b"#datatype,string,string\r\n,error,reference\r\n,memory is short,897\r\n",
            "refuses the query .memory is short",
        ),
        (b"<html>\r\n", "no column '_value'"),
        (flux_answer(1) + flux_answer(2).replace(b",,0,", b",,1,"), "finds 2 series"),
        (flux_answer(1).replace(b"Z,1,", b"?,1,"), "correct its query"),
        (401, "answers 401"),
        (404, "answers 404"),
    ],
)
def test_flux_without_a_value_is_unavailable(reply: Any, text: str) -> None:
    """Nothing, an error in the CSV, other columns, two tables and a refusal are unavailable; no token is told."""
    with Device({"/api/v2/query": reply}) as device, pytest.raises(UnavailableError, match=text) as error:
        flux(device)
    assert "to-ken" not in str(error.value)


def test_late_answer_is_bounded() -> None:
    """A server that answers too late costs no more than timeout_s, however many channels there are."""
    with Device({"/api/v2/query": flux_answer(5)}) as device:
        channels = [{"name": f"rack{number}_power_w", "query": "from(bucket: 1)"} for number in range(5)]
        meter = opened(device.url, *channels, version=2, org="lab", database="", password="", timeout_s=0.4)
        device.delay_s = 0.15
        assert seconds(meter.read) < 10
        with pytest.raises(MeasurementError, match="does not answer within"):
            meter.read()
        meter.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"database": ""}, "needs database"),
        ({"version": 2}, "needs org"),
        ({"channels": []}, "no channels"),
        ({"channels": [POWER | {"query": " "}]}, "query is empty"),
        ({"channels": [POWER | {"stale_s": 0}]}, "stale_s = 0"),
        ({"token": "a", "token_env": "B"}, "both given"),
    ],
)
def test_bad_configuration_names_the_key(options: dict[str, Any], text: str) -> None:
    """A configuration that cannot be used is a ConfigError that names the key."""
    with pytest.raises(ConfigError, match=text):
        opened("http://127.0.0.1:1", POWER, **options)
