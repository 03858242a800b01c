from __future__ import annotations

import json
import math
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx")

from tests.meters.http_device import Device, named, open_meter, seconds

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.redfish import RedfishMeter
from wattwerk.records import Scope

ROOT = "/redfish/v1"


def link(path: str) -> dict[str, str]:
    """Return a link to a resource."""
    return {"@odata.id": f"{ROOT}{path}"}


def service(*chassis: str) -> dict[str, Any]:
    """Return a controller's replies, written from the documentation: DMTF, Redfish schema guide, with their links."""
    return {
        f"{ROOT}/": {"RedfishVersion": "1.15.0"},
        f"{ROOT}/Chassis": {"Members": [link(f"/Chassis/{name}") for name in chassis]},
    }


def older(name: str = "1") -> dict[str, Any]:
    """Return a chassis with the deprecated resource Power, from the same documentation."""
    return {
        f"{ROOT}/Chassis/{name}": {"Id": name, "Power": link(f"/Chassis/{name}/Power")},
        f"{ROOT}/Chassis/{name}/Power": {
            "PowerControl": [
                {
                    "MemberId": "0",
                    "PowerConsumedWatts": 344,
                    "PowerMetrics": {"IntervalInMin": 30, "AverageConsumedWatts": 319},
                }
            ]
        },
    }


def newer(name: str = "1U") -> dict[str, Any]:
    """Return a chassis with EnvironmentMetrics and sensors, from the same documentation."""
    sensor = f"{ROOT}/Chassis/{name}/Sensors/TotalPower"
    return {
        f"{ROOT}/Chassis/{name}": {
            "Id": name,
            "EnvironmentMetrics": link(f"/Chassis/{name}/EnvironmentMetrics"),
            "Power": link(f"/Chassis/{name}/Power"),
        },
        f"{ROOT}/Chassis/{name}/EnvironmentMetrics": {
            "PowerWatts": {"DataSourceUri": sensor, "Reading": 374},
            "EnergykWh": {"Reading": 325675},
        },
        sensor: {"Id": "TotalPower", "ReadingType": "Power", "Reading": 374.5, "ReadingUnits": "W"},
    }


@pytest.fixture
def device() -> Iterator[Device]:
    """Serve a newer controller."""
    with Device(service("1U") | newer()) as found:
        yield found


def opened(device: Device, **options: Any) -> RedfishMeter:
    """Return a meter of the device."""
    return open_meter(RedfishMeter, device, **options)


def test_environment_metrics(device: Device) -> None:
    """Of a newer controller power and energy come with one request, and kilowatt-hours count in joules."""
    meter = opened(device)
    assert named(meter) == {"node_power_w": 374, "node_energy_j": 0}
    device.asked.clear()
    device.replies[f"{ROOT}/Chassis/1U/EnvironmentMetrics"]["EnergykWh"]["Reading"] = 325675.001
    assert named(meter)["node_energy_j"] == pytest.approx(3600, rel=1e-3)
    assert device.asked == [f"GET {ROOT}/Chassis/1U/EnvironmentMetrics"]
    assert {channel.scope for channel in meter.channels} == {Scope.NODE}
    meter.close()


def test_deprecated_power() -> None:
    """Of an older controller the momentary power counts, not the average of half an hour."""
    with Device(service("1") | older()) as device:
        meter = opened(device)
        assert named(meter) == {"node_power_w": 344}
        device.replies[f"{ROOT}/Chassis/1/Power"]["PowerControl"][0]["PowerConsumedWatts"] = None
        assert math.isnan(named(meter)["node_power_w"])
        meter.close()


def test_link_to_nothing_falls_back() -> None:
    """A chassis that links to EnvironmentMetrics without having it is read from Power."""
    replies = service("1") | older()
    replies[f"{ROOT}/Chassis/1"]["EnvironmentMetrics"] = link("/Chassis/1/EnvironmentMetrics")
    with Device(replies) as device:
        meter = opened(device)
        assert named(meter) == {"node_power_w": 344}
        meter.close()


def test_several_chassis_have_to_be_chosen() -> None:
    """Two chassis with power could overlap: which one has to be said, and a wrong name is told."""
    with Device(service("1", "1U", "fans") | older() | newer() | {f"{ROOT}/Chassis/fans": {"Id": "fans"}}) as device:
        with pytest.raises(UnavailableError, match=r"several chassis: 1, 1U: set chassis"):
            opened(device)
        meter = opened(device, chassis="1")
        assert named(meter) == {"node_power_w": 344}
        meter.close()
        with pytest.raises(UnavailableError, match=r"no power of chassis 'fans'"):
            opened(device, chassis="fans")


def test_named_sensors(device: Device) -> None:
    """Named sensors are read as what their units say, and one in another unit is refused."""
    energy = f"{ROOT}/Chassis/1U/Sensors/Energy"
    device.replies[energy] = {"Reading": 2.0, "ReadingUnits": "kW.h"}
    meter = opened(device, sensors=[f"{ROOT}/Chassis/1U/Sensors/TotalPower", energy])
    assert named(meter) == {"node0_power_w": 374.5, "node1_energy_j": 0}
    meter.close()
    device.replies[energy]["ReadingUnits"] = "Cel"
    with pytest.raises(UnavailableError, match="measures in 'Cel'"):
        opened(device, sensors=[energy])


def test_basic_authentication(device: Device) -> None:
    """Basic authentication opens the controller; without it, 401 names the remedy and no password."""
    device.basic = ("root", "pass-word")
    meter = opened(device, user="root", password="pass-word")
    assert named(meter)["node_power_w"] == 374
    meter.close()
    with pytest.raises(UnavailableError, match=r"answers 401.*check user and password") as error:
        opened(device, user="root", password="wrong-word")
    assert "wrong-word" not in str(error.value)


def test_session_is_opened_renewed_and_closed(device: Device) -> None:
    """A session's token opens the controller, one that has ended is renewed in the same read, and closing logs out."""
    tokens: list[str] = []
    metrics = device.replies[f"{ROOT}/Chassis/1U/EnvironmentMetrics"]

    def log_in(request: Any) -> tuple[int, dict[str, str], bytes]:
        assert json.loads(device.requests[-1][3]) == {"UserName": "root", "Password": "pass-word"}
        tokens.append(f"token{len(tokens)}")
        place = f"{device.url}{ROOT}/SessionService/Sessions/{len(tokens)}"
        return 201, {"X-Auth-Token": tokens[-1], "Location": place}, b"{}"

    device.replies[f"{ROOT}/SessionService/Sessions"] = log_in
    device.replies[f"{ROOT}/SessionService/Sessions/2"] = 204
    device.replies[f"{ROOT}/Chassis/1U/EnvironmentMetrics"] = lambda request: (
        metrics if request.headers.get("X-Auth-Token") == tokens[-1] else 401
    )
    meter = opened(device, user="root", password="pass-word", session=True)
    tokens.append("of somebody else")
    tokens.pop(0)
    assert named(meter)["node_power_w"] == 374
    meter.close()
    assert device.asked[-1].startswith(f"DELETE {ROOT}/SessionService/Sessions/")


def test_late_answer_is_bounded(device: Device) -> None:
    """A controller that answers too late costs no more than timeout_s."""
    meter = opened(device, timeout_s=0.3)
    device.delay_s = 30
    assert seconds(meter.read) < 10
    with pytest.raises(MeasurementError, match="does not answer within"):
        meter.read()
    meter.close()


def test_negative_power_and_restart(device: Device) -> None:
    """A negative power is NaN; a counter that begins at 0 again goes on after one missing reading."""
    metrics = device.replies[f"{ROOT}/Chassis/1U/EnvironmentMetrics"]
    meter = opened(device)
    meter.read()
    metrics["PowerWatts"]["Reading"] = -1
    metrics["EnergykWh"]["Reading"] = 0.001
    assert all(map(math.isnan, meter.read()))
    assert named(meter)["node_energy_j"] == pytest.approx(3600)
    meter.close()


@pytest.mark.parametrize(
    ("reply", "text"), [(404, "answers 404"), (b"<html>", "answers no JSON"), ([1], "no Redfish service")]
)
def test_something_else_is_unavailable(device: Device, reply: Any, text: str) -> None:
    """What is no Redfish service is unavailable."""
    device.replies[f"{ROOT}/"] = reply
    with pytest.raises(UnavailableError, match=text):
        opened(device)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_certificates_are_checked(tmp_path: Path, device: Device) -> None:
    """A certificate of the controller's own is refused, unless ca_file names it or verify is off."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    order = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=bmc -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [*order.split(), "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    device.secure(context)
    with pytest.raises(UnavailableError, match=r"CERTIFICATE_VERIFY_FAILED.*set ca_file"):
        opened(device)
    for options in ({"ca_file": str(certificate)}, {"verify": False}):
        meter = opened(device, **options)
        assert named(meter)["node_power_w"] == 374
        meter.close()
    with pytest.raises(ConfigError, match="ca_file"):
        opened(device, ca_file=str(tmp_path / "none.pem"))
