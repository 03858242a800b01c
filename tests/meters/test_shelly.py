from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("httpx")

from tests.meters.http_device import Device, named, open_meter, seconds

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.http import CountedOn
from wattwerk.meters.http_client import Http
from wattwerk.meters.mapped import MappedChannel
from wattwerk.meters.protocol import MeterSpec
from wattwerk.meters.recorder import Recorder
from wattwerk.meters.shelly import ShellyConfig, ShellyMeter
from wattwerk.records import Scope

SECOND_NS = 1_000_000_000


def first_generation() -> dict[str, Any]:
    """Return a plug's replies, written from the documentation: Shelly, Gen1 Device API, Shelly Plug."""
    return {
        "/shelly": {"type": "SHPLG-S", "mac": "5ECF7F1632E8", "auth": False, "fw": "20230913", "num_meters": 1},
        "/status": {
            "relays": [{"ison": True}],
            "meters": [
                {"power": 81.5, "is_valid": True, "timestamp": 1570000000, "counters": [80.1, 79, 81], "total": 1200}
            ],
            "uptime": 86400,
        },
    }


def second_generation() -> dict[str, Any]:
    """Return a plug's replies, written from the documentation: Shelly, Gen2+ Device API, Switch."""
    switch = {
        "id": 0,
        "output": True,
        "apower": 42.5,
        "voltage": 231.2,
        "current": 0.19,
        "aenergy": {"total": 1000.0, "by_minute": [700.1, 701, 699.8], "minute_ts": 1626935779},
        "temperature": {"tC": 40.1, "tF": 104.2},
    }
    return {
        "/shelly": {"id": "shellyplusplugs-0a1b", "mac": "0A1B", "gen": 2, "app": "PlusPlugS", "auth_en": False},
        "/rpc/Shelly.GetStatus": {"sys": {"uptime": 7}, "switch:0": switch, "wifi": {"rssi": -60}},
        "/rpc/Switch.GetStatus?id=0": switch,
    }


def clamp_meters() -> dict[str, Any]:
    """Return the replies of a three-phase and of a clamp meter in one, from the same documentation: EM, EM1."""
    em = {"id": 0, "total_act_power": 2400.5, "total_current": 12.1, "a_act_power": 800.0, "a_voltage": 230.1}
    em1 = {"id": 0, "act_power": -310.0, "voltage": 229.9, "current": 1.4, "pf": -0.98}
    return {
        "/shelly": {"mac": "0A1B", "gen": 3, "app": "Pro3EM", "auth_en": False},
        "/rpc/Shelly.GetStatus": {"em:0": em, "emdata:0": {}, "em1:0": em1, "em1data:0": {}, "switch:0": {"id": 0}},
        "/rpc/EM.GetStatus?id=0": em,
        "/rpc/EMData.GetStatus?id=0": {"id": 0, "total_act": 5000.0, "total_act_ret": 10.0},
        "/rpc/EM1.GetStatus?id=0": em1,
        "/rpc/EM1Data.GetStatus?id=0": {"id": 0, "total_act_energy": 100.0, "total_act_ret_energy": 7.0},
    }


@pytest.fixture
def plug() -> Iterator[Device]:
    """Serve a plug of the second generation."""
    with Device(second_generation()) as device:
        yield device


def opened(device: Device, **options: Any) -> ShellyMeter:
    """Return a meter of the device."""
    return open_meter(ShellyMeter, device, **options)


def test_first_generation_counts_watt_minutes() -> None:
    """A plug of the first generation gives watts, and one watt-minute more is 60 J since opening."""
    with Device(first_generation()) as device:
        meter = opened(device)
        assert named(meter) == {"shelly0_power_w": 81.5, "shelly0_energy_j": 0.0}
        device.replies["/status"]["meters"][0]["total"] = 1201
        assert named(meter)["shelly0_energy_j"] == 60.0
        assert {channel.scope for channel in meter.channels} == {Scope.WALL}
        meter.close()


def test_second_generation_counts_watt_hours(plug: Device) -> None:
    """A plug of the second generation gives watts, volts, amperes, and 3600 J for a watt-hour, over one connection."""
    meter = opened(plug)
    found = named(meter)
    assert found.pop("shelly0_energy_j") == 0.0
    assert found == {"shelly0_power_w": 42.5, "shelly0_volts": 231.2, "shelly0_amperes": 0.19}
    plug.replies["/rpc/Switch.GetStatus?id=0"]["aenergy"]["total"] = 1000.5
    assert named(meter)["shelly0_energy_j"] == pytest.approx(1800.0)
    assert plug.connections == 1
    meter.close()


def test_clamp_meters_count_in_components_of_their_own() -> None:
    """EM and EM1 have power in one component and energy in another; a relay that does not measure is no channel."""
    with Device(clamp_meters()) as device:
        meter = opened(device, allow_negative=True)
        found = named(meter)
        assert found["shelly0_power_w"] == 2400.5
        assert found["shelly_em1_0_power_w"] == -310.0
        device.replies["/rpc/EMData.GetStatus?id=0"]["total_act"] = 5180.0  # a minute of 10.8 kW at once
        device.replies["/rpc/EM1Data.GetStatus?id=0"]["total_act_energy"] = 101.0
        found = named(meter)
        assert found["shelly0_energy_j"] == pytest.approx(648000.0)
        assert found["shelly_em1_0_energy_j"] == pytest.approx(3600.0)
        assert not any("switch" in name for name in found)
        meter.close()


def test_components_choose_one() -> None:
    """With components only these are read, and one that does not exist is named with those that do."""
    with Device(clamp_meters()) as device:
        meter = opened(device, components=["em1:0"], prefix="pv")
        assert [channel.name for channel in meter.channels][:2] == ["pv0_power_w", "pv0_energy_j"]
        assert meter.paths == ["/rpc/EM1.GetStatus?id=0", "/rpc/EM1Data.GetStatus?id=0"]
        meter.close()
        with pytest.raises(UnavailableError, match=r"nothing as switch:0: it measures em:0, em1:0"):
            opened(device, components=["switch:0"])


def test_negative_power_is_missing_unless_allowed(plug: Device) -> None:
    """Fed-in power is NaN and a fault on a consumption meter, and negative where it is allowed."""
    plug.replies["/rpc/Switch.GetStatus?id=0"]["apower"] = -42.5
    meter = opened(plug)
    assert math.isnan(named(meter)["shelly0_power_w"])
    assert "beyond what can be" in meter.faults()[0]
    meter.close()
    meter = opened(plug, allow_negative=True)
    assert named(meter)["shelly0_power_w"] == -42.5
    assert meter.channels[0].signed
    meter.close()


def test_limit_text_and_invalid_become_missing() -> None:
    """A power beyond max_power_w, a text, a lacking key and a value that the device calls invalid are NaN, never 0."""
    with Device(first_generation()) as device:
        entry = device.replies["/status"]["meters"][0]
        meter = opened(device, max_power_w=3000)
        for power in (3001, "on", None, True):
            entry["power"] = power
            assert math.isnan(named(meter)["shelly0_power_w"])
        entry.update(power=5.0, is_valid=False)
        assert all(map(math.isnan, meter.read()))
        entry["is_valid"] = True
        assert named(meter)["shelly0_power_w"] == 5.0
        meter.close()


def test_energy_goes_on_across_a_restart() -> None:
    """A device that counts from 0 after a restart: one reading is missing, then energy goes on from where it was."""
    with Device(first_generation()) as device:
        entry = device.replies["/status"]["meters"][0]
        meter = opened(device)
        meter.read()
        entry["total"] = 1210
        assert named(meter)["shelly0_energy_j"] == 600.0
        entry["total"] = 2
        assert math.isnan(named(meter)["shelly0_energy_j"])
        assert named(meter)["shelly0_energy_j"] == 720.0
        entry["total"] = 3
        assert named(meter)["shelly0_energy_j"] == 780.0
        assert "restarted" in meter.faults()[0]
        meter.close()


def test_unexplained_jump_begins_at_zero() -> None:
    """A counter that falls to more than can have been used since is no restart: energy begins again at 0."""
    counter = CountedOn(MappedChannel(name="plug_energy_j", max_power_w=100))
    readings = [(5000, 0), (5050, 1), (3000, 2), (3000, 3), (3010, 4)]
    found = [counter.value(raw, at_s * SECOND_NS) for raw, at_s in readings]
    assert found[:2] == [0.0, 50.0]
    assert math.isnan(found[2])
    assert found[3:] == [0.0, 10.0]


@pytest.mark.parametrize("generation", [1, 2])
def test_credentials(generation: int) -> None:
    """Basic authentication opens the first generation and digest the second; a wrong password is refused, not told."""
    with Device(first_generation() if generation == 1 else second_generation()) as device:
        if generation == 1:
            device.basic = ("owner", "pass-word")
        else:
            device.digest = ("admin", "pass-word")
        user = {"user": "owner"} if generation == 1 else {}
        meter = opened(device, password="pass-word", **user)
        assert named(meter)["shelly0_power_w"] > 0
        meter.close()
        for options in ({"password": "wrong-word"}, {}):
            with pytest.raises(UnavailableError, match=r"answers 401.*check user and password") as error:
                opened(device, **options)
            assert "wrong-word" not in str(error.value)


def test_late_answer_is_bounded(plug: Device) -> None:
    """A device that answers too late costs no more than timeout_s, and is read again once it is quick."""
    meter = opened(plug, timeout_s=0.3)
    plug.delay_s = 30
    assert seconds(meter.read) < 10
    with pytest.raises(MeasurementError, match=r"does not answer within 0\.3 s"):
        meter.read()
    plug.delay_s = 0
    assert named(meter)["shelly0_power_w"] == 42.5
    meter.close()


def test_dripping_answer_is_bounded() -> None:
    """A body that comes byte by byte costs no more than the time limit, although each byte comes in time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.02)

        threading.Thread(target=drip, daemon=True).start()
        http = Http("shelly", f"http://127.0.0.1:{listener.getsockname()[1]}", 0.3)
        assert seconds(lambda: http.get("/shelly")) < 10
        http.close()


def test_recorder_reads_it(plug: Device) -> None:
    """The recorder opens the meter by its import path, reads it in a thread of its own, and has its channels."""
    spec = MeterSpec("wattwerk.meters.shelly:ShellyMeter", {"url": plug.url, "interval_s": 0.1})
    with Recorder([spec]) as recorder:
        deadline = time.monotonic() + 5
        while plug.asked.count("GET /rpc/Switch.GetStatus?id=0") < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "shelly0_power_w" in [channel.name for channel in recorder.trace().channels]


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (404, "answers 404"),
        (b"<html>", "answers no JSON"),
        ({"name": "x"}, "no answer of a Shelly"),
        ([1], "no answer"),
    ],
)
def test_something_else_is_unavailable(plug: Device, reply: Any, text: str) -> None:
    """What does not answer as a Shelly is unavailable, with its address and what it said."""
    plug.replies["/shelly"] = reply
    with pytest.raises(UnavailableError, match=text) as error:
        opened(plug)
    assert plug.url in str(error.value)


def test_device_exchanged_while_reading(plug: Device) -> None:
    """A device of another generation at the same address makes reads fail with 404, it gives no numbers."""
    meter = opened(plug)
    plug.replies.clear()
    plug.replies.update(first_generation())
    with pytest.raises(MeasurementError, match="answers 404"):
        meter.read()
    meter.close()


def test_relay_without_metering_is_unavailable(plug: Device) -> None:
    """A relay that does not measure is unavailable."""
    plug.replies["/rpc/Shelly.GetStatus"] = {"switch:0": {"id": 0, "output": True}}
    with pytest.raises(UnavailableError, match="no component that measures"):
        opened(plug)


def test_nobody_there_is_unavailable(plug: Device) -> None:
    """An address where nothing listens is unavailable, with the address."""
    url = plug.url
    plug.__exit__()
    with pytest.raises(UnavailableError, match=f"{url}/shelly does not answer"):
        ShellyMeter(ShellyConfig(url=url))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"url": "ftp://host"}, "neither http nor https"),
        ({"url": "http://a:secret@host"}, "holds credentials"),
        ({"timeout_s": 0}, "timeout_s = 0"),
        ({"max_power_w": math.nan}, "max_power_w"),
        ({"password_env": "NO_SUCH_VARIABLE_HERE"}, "is not set"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_bad_configuration_names_the_key(plug: Device, options: dict[str, Any], text: str) -> None:
    """A configuration that cannot be used is a ConfigError that names the key and no password."""
    with pytest.raises(ConfigError, match=text) as error:
        opened(plug, **options)
    assert "secret" not in str(error.value)
