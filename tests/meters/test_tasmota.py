from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("httpx")

from tests.meters.http_device import Device, named, open_meter, query_of, seconds

from wattwerk.errors import MeasurementError, UnavailableError
from wattwerk.meters.tasmota import TasmotaMeter
from wattwerk.records import Scope


def plug() -> dict[str, Any]:
    """Return a plug's reply to Status 10, written from the documentation: Tasmota, Power monitoring."""
    energy = {
        "TotalStartTime": "2024-01-01T00:00:00",
        "Total": 3.185,
        "Yesterday": 3.058,
        "Today": 0.127,
        "Power": 25,
        "ApparentPower": 43,
        "Factor": 0.58,
        "Voltage": 229,
        "Current": 0.188,
    }
    return {"StatusSNS": {"Time": "2024-11-07T10:00:00", "ENERGY": energy}}


def two_channels() -> dict[str, Any]:
    """Return the reply of a device with two channels, written from the same documentation."""
    energy = {"Total": 1.0, "Power": [10, 20.5], "Voltage": 230, "Current": [0.05, 0.1]}
    return {"StatusSNS": {"ENERGY": energy}}


@pytest.fixture
def device() -> Iterator[Device]:
    """Serve a plug."""
    with Device({"/cm": plug()}) as found:
        yield found


def opened(device: Device, **options: Any) -> TasmotaMeter:
    """Return a meter of the device."""
    return open_meter(TasmotaMeter, device, **options)


def test_plug_gives_power_and_counts_kilowatt_hours(device: Device) -> None:
    """A plug gives watts, volts and amperes, and a thousandth of a kilowatt-hour more is 3600 J since opening."""
    meter = opened(device)
    assert named(meter) == {
        "tasmota0_power_w": 25,
        "tasmota0_energy_j": 0,
        "tasmota0_volts": 229,
        "tasmota0_amperes": 0.188,
    }
    device.replies["/cm"]["StatusSNS"]["ENERGY"]["Total"] = 3.186
    assert named(meter)["tasmota0_energy_j"] == pytest.approx(3600)
    assert meter.channels[0].scope is Scope.WALL
    assert meter.channels[1].step == 3600
    meter.close()


def test_channels_are_numbered_and_share_what_is_one() -> None:
    """Lists become numbered channels; a counter and a voltage that several channels share have no number."""
    with Device({"/cm": two_channels()}) as device:
        meter = opened(device, prefix="strip")
        found = named(meter)
        assert found == {
            "strip0_power_w": 10,
            "strip1_power_w": 20.5,
            "strip_energy_j": 0,
            "strip_volts": 230,
            "strip0_amperes": 0.05,
            "strip1_amperes": 0.1,
        }
        device.replies["/cm"]["StatusSNS"]["ENERGY"]["Power"] = [11]
        assert math.isnan(named(meter)["strip1_power_w"])
        meter.close()


def test_credentials_are_parameters_and_never_told(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    """User and password go as parameters; the device's warning is a refusal; no message or log has them."""

    def answer(request: Any) -> Any:
        asked = query_of(request)
        if asked.get("user") == "admin" and asked.get("password") == "pass & word":
            return plug()
        return {"WARNING": "Need user=<username>&password=<password>"}

    device.replies["/cm"] = answer
    caplog.set_level(logging.INFO)
    meter = opened(device, password="pass & word")
    assert named(meter)["tasmota0_power_w"] == 25
    device.replies["/cm"] = 500
    with pytest.raises(MeasurementError, match="answers 500") as failed:
        meter.read()
    meter.close()
    device.replies["/cm"] = answer
    with pytest.raises(UnavailableError, match="refuses: check user and password") as refused:
        opened(device, password="other word")
    told = f"{failed.value}{refused.value}{caplog.text}"
    assert "word" not in told.replace("password", "")


def test_negative_power_is_missing_unless_allowed(device: Device) -> None:
    """Fed-in power is NaN on a consumption meter, and negative where it is allowed."""
    device.replies["/cm"]["StatusSNS"]["ENERGY"]["Power"] = -300
    for allowed in (False, True):
        meter = opened(device, allow_negative=allowed)
        assert str(named(meter)["tasmota0_power_w"]) == ("-300.0" if allowed else "nan")
        meter.close()


def test_energy_goes_on_when_total_is_set_to_zero(device: Device) -> None:
    """A total that begins at 0 again costs one reading; energy goes on from where it was."""
    meter = opened(device)
    energy = device.replies["/cm"]["StatusSNS"]["ENERGY"]
    meter.read()
    energy["Total"] = 0.001
    assert math.isnan(named(meter)["tasmota0_energy_j"])
    assert named(meter)["tasmota0_energy_j"] == pytest.approx(3600)
    energy["Total"] = 0.002
    assert named(meter)["tasmota0_energy_j"] == pytest.approx(7200)
    meter.close()


def test_late_answer_is_bounded(device: Device) -> None:
    """A device that answers too late costs no more than timeout_s."""
    meter = opened(device, timeout_s=0.3)
    device.delay_s = 30
    assert seconds(meter.read) < 10
    with pytest.raises(MeasurementError, match="does not answer within"):
        meter.read()
    meter.close()


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (401, "answers 401.*check user and password"),
        (404, "answers 404.*check the address"),
        (b"{", "answers no JSON"),
        ({"StatusSNS": {"Time": "2024-11-07T10:00:00"}}, "use a device with power metering"),
        ([], "tells no StatusSNS"),
    ],
)
def test_something_else_is_unavailable(device: Device, reply: Any, text: str) -> None:
    """What refuses, does not measure, or is no Tasmota is unavailable at opening, and fails to be read later."""
    meter = opened(device)
    device.replies["/cm"] = reply
    with pytest.raises(MeasurementError):
        meter.read()
    meter.close()
    with pytest.raises(UnavailableError, match=text):
        opened(device)
