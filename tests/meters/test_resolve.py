from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("httpx")
pytest.importorskip("pymodbus")
pytest.importorskip("paho.mqtt")
pytest.importorskip("pysnmp")

from tests.meters import test_modbus, test_mqtt

from wattwerk.config import to_struct
from wattwerk.errors import UnavailableError
from wattwerk.meters import resolve as looking
from wattwerk.meters.base import Meter
from wattwerk.meters.modbus import ModbusMeter
from wattwerk.meters.mqtt import MqttMeter
from wattwerk.meters.resolve import resolve
from wattwerk.meters.shelly import ShellyMeter
from wattwerk.meters.snmp import SnmpMeter

NAME = "meter.example"
SNMP = {"name": "pdu_power_w", "oid": "1.3.6.1.4.1.1"}


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let the look-up of a name hang, as with a name server that is away: the system's own cannot be made to.

    Yields:
        The names that were asked for.
    """
    asked: list[str] = []
    end, plain = threading.Event(), socket.getaddrinfo

    def hang(host: Any, *arguments: Any, **options: Any) -> Any:
        if host != NAME:
            return plain(host, *arguments, **options)
        asked.append(str(host))
        end.wait(20)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield asked
    end.set()
    for look_up in list(looking._pending.values()):  # the next test asks anew
        look_up.join(5)


def test_names_and_addresses() -> None:
    """An address is its own, a name has addresses, and one that does not exist is an error."""
    assert resolve("192.0.2.7", 0.1) == ["192.0.2.7"]
    assert resolve("::1", 0.1) == ["::1"]
    assert {"127.0.0.1", "::1"} & set(resolve("localhost", 5))
    with pytest.raises(OSError, match=r".") as error:
        resolve("a" * 70 + ".invalid", 5)  # no label may be so long
    assert not isinstance(error.value, TimeoutError)


def test_a_name_server_that_hangs(silence: list[str]) -> None:
    """The time holds; whoever asks again meanwhile waits for the same answer, and no thread is added."""
    for _ in range(3):
        begin_s = time.monotonic()
        with pytest.raises(TimeoutError, match=NAME):
            resolve(NAME, 0.1)
        assert time.monotonic() - begin_s < 2
    assert silence == [NAME]
    assert list(looking._pending) == [NAME]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ShellyMeter, {"url": f"http://{NAME}"}),
        (ModbusMeter, {"host": NAME, "channels": [test_modbus.POWER]}),
        (MqttMeter, {"host": NAME, "channels": [test_mqtt.BARE]}),
        (SnmpMeter, {"host": NAME, "community": "public", "channels": [SNMP]}),
    ],
)
def test_meters_keep_their_time(silence: list[str], kind: type[Meter], options: dict[str, Any]) -> None:
    """Opening a meter whose name nobody tells ends within its own time, and the error names the address."""
    begin_s = time.monotonic()
    with pytest.raises(UnavailableError, match=NAME):
        kind(to_struct(kind.config, {**options, "timeout_s": 0.3}, kind.name))
    assert time.monotonic() - begin_s < 4
    assert silence
