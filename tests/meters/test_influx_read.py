"""Reading from InfluxDB 2: replies written from its documentation, since no registry here has the server.

Source: InfluxData, InfluxDB 2 API reference, POST /api/v2/query; "Annotated CSV"; "InfluxDB 1.x compatibility", /query.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.meters.http_device import Device

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.influx_read import InfluxDatabase
from wattwerk.records import Provenance, Scope

CHANNEL = """,result,table,_start,_stop,_time,_value,_field,_measurement,channel,form,host,provenance,reads,run,scope\r
,_result,0,1970-01-01T00:00:00Z,2026-01-01T00:00:00Z,2025-11-24T16:00:00.000000001Z,0.1,tick_s,wattwerk_channel,gpu0_energy_j,counter,edge1,measured,locked,r1,accelerator\r
,_result,1,1970-01-01T00:00:00Z,2026-01-01T00:00:00Z,2025-11-24T16:00:00.000000001Z,0,step,wattwerk_channel,gpu0_energy_j,counter,edge1,measured,locked,r1,accelerator\r
\r
,result,table,_start,_stop,_time,_value,_field,_measurement,channel,form,host,provenance,run\r
,_result,2,1970-01-01T00:00:00Z,2026-01-01T00:00:00Z,2025-11-24T16:00:00.000000001Z,0,step,wattwerk_channel,load_ratio,gauge,edge1,measured,r1\r
\r
"""
HEADER = ",result,table,_start,_stop,_time,_value,_field,_measurement,host,run,scope\r\n"
ROW = ",_result,{table},1970-01-01T00:00:00Z,2026-01-01T00:00:00Z,2025-11-24T16:00:{time}Z,{value},{field},wattwerk,edge1,r1,{scope}\r\n"  # noqa: E501
FIRST_NS = 1_764_000_000_000_000_000  # 2025-11-24T16:00:00Z


def samples() -> str:
    """Return 50 W counted every 100 ms, with times to the nanosecond, and a load in a table of its own."""
    rows = [HEADER]
    for n in range(21):
        time = f"{n / 10 + 1e-9:.9f}".zfill(12)
        rows.append(ROW.format(table=0, time=time, value=5 * n, field="gpu0_energy_j", scope="accelerator"))
    for n in range(0, 21, 2):
        time = f"{n / 10 + 1e-9:.9f}".zfill(12)
        rows.append(ROW.format(table=1, time=time, value=0.5, field="load_ratio", scope=""))
    rows.insert(23, "\r\n" + HEADER)
    return "".join(rows) + "\r\n"


@pytest.fixture
def server() -> Iterator[Device]:
    """A server that answers as documented."""
    with Device({}) as device:

        def answer(*_: object) -> bytes:
            query = json.loads(device.requests[-1][3])["query"]
            return (CHANNEL if "wattwerk_channel" in query else samples()).encode()

        device.replies["/api/v2/query?org=lab"] = answer
        yield device


def test_a_trace_in_flux(server: Device) -> None:
    """Channels, times to the nanosecond, gaps and energy come out of annotated CSV; the request is as documented."""
    with InfluxDatabase(server.url, org="lab", bucket='po"wer${x}', token="secret") as database:
        trace = database.trace("r1", since_ns=FIRST_NS, until_ns=FIRST_NS + 2 * 10**9)
    assert [(c.name, c.form, c.scope, c.tick_s) for c in trace.channels] == [
        ("gpu0_energy_j", "counter", Scope.ACCELERATOR, 0.1),
        ("load_ratio", "gauge", None, None),
    ]
    assert trace.locked == "gpu0_energy_j"
    assert trace.time_ns.tolist() == [FIRST_NS + n * 10**8 + 1 for n in range(21)]
    energy = trace.energy("gpu0_energy_j", FIRST_NS + 500_000_001, FIRST_NS + 1_500_000_001)
    assert energy.value_j == pytest.approx(50)
    assert energy.low_j <= 50 <= energy.high_j
    assert energy.provenance is Provenance.MEASURED
    assert trace.mean("load_ratio", 0, 2 * FIRST_NS) == 0.5
    method, _, headers, body = server.requests[-1]
    asked: dict[str, Any] = json.loads(body)
    assert (method, asked["type"], asked["dialect"]["header"]) == ("POST", "flux", True)
    assert headers.get("Authorization", headers.get("authorization")) == "Token secret"
    assert r'from(bucket: "po\"wer\${x}")' in asked["query"]
    assert 'r["run"] == "r1"' in asked["query"]
    assert f"time(v: {FIRST_NS - 10**10})" in asked["query"]


def test_what_flux_refuses(server: Device) -> None:
    """An error inside the answer, an answer that is none, and wrong credentials are told with the place."""
    with InfluxDatabase(server.url, org="lab", bucket="power") as database:
        server.replies["/api/v2/query?org=lab"] = b",error,reference\r\n,bucket not found,897\r\n"
        with pytest.raises(ConfigError, match="bucket power: bucket not found"):
            database.runs()
        server.replies["/api/v2/query?org=lab"] = b"<html>\r\n<p>hello</p>\r\n"
        with pytest.raises(ConfigError, match="no point"):
            database.runs()
        server.replies["/api/v2/query?org=lab"] = 401
        with pytest.raises(UnavailableError, match="refuses the credentials"):
            database.runs()
        server.replies["/api/v2/query?org=lab"] = b"\r\n"
        with pytest.raises(MeasurementError, match="describes no channels of run r9"):
            database.trace("r9")


def test_version_1_compatibility() -> None:
    """InfluxDB 2 answers InfluxQL at /query where a bucket is mapped to a database; the token goes along."""
    with Device({}) as device:
        rows = {
            "wattwerk_channel": (
                ["time", "accuracy_ratio", "channel", "form", "host", "provenance", "run", "scope", "signed", "step"],
                [[FIRST_NS, 0.01, "wall_power_w", "gauge", "edge1", "measured", "r1", "wall", 0, 0]],
            ),
            "wattwerk": (
                ["time", "wall_power_w", "unmoved_s"],
                [[FIRST_NS + n * 10**9, 40.0 + n, None] for n in range(5)],
            ),
        }

        def answer(*_: object) -> dict[str, Any]:
            query = parse_qs(urlsplit(device.requests[-1][1]).query)
            assert query["db"] == ["power"]
            assert query["epoch"] == ["ns"]
            name = "wattwerk_channel" if "wattwerk_channel" in query["q"][0] else "wattwerk"
            series = [{"name": name, "columns": rows[name][0], "values": rows[name][1]}]
            return {"results": [{"statement_id": 0, "series": series}]}

        device.replies["/query"] = answer
        with InfluxDatabase(device.url, "power", token="secret") as database:
            trace = database.trace()
        assert trace.energy("wall_power_w", FIRST_NS, FIRST_NS + 4 * 10**9).value_j == pytest.approx(168)
        headers = device.requests[-1][2]
        assert headers.get("Authorization", headers.get("authorization")) == "Token secret"
