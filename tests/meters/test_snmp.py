from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import math
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pysnmp")

from wattwerk.config import to_struct
from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.presets import load_preset, preset_names
from wattwerk.meters.snmp import SnmpMeter, _raw
from wattwerk.meters.snmp_config import SnmpChannel, SnmpConfig
from wattwerk.records import Scope

SNMPD = shutil.which("snmpd", path="/usr/sbin:/usr/bin:/usr/local/sbin:/sbin")
BASE = "1.3.6.1.4.1.8072.9999.9999"
POWER, ENERGY, TEXT, NOWHERE = f"{BASE}.1.0", f"{BASE}.2.0", f"{BASE}.3.0", f"{BASE}.9.0"

pytestmark = pytest.mark.skipif(SNMPD is None, reason="snmpd is not installed")

#: Called by snmpd for each object below the roots that it passes on; the files hold type and value.
SCRIPT = """#!/bin/sh
[ "$1" = -g ] && [ -f "{folder}/$2" ] && echo "$2" && cat "{folder}/$2"
exit 0
"""

CONFIG = """
agentAddress udp:127.0.0.1:{port}
rocommunity secret-community 127.0.0.1
createUser plain SHA-256 "authentic-words"
createUser private SHA-256 "authentic-words" AES "private-words"
rouser plain auth
rouser private priv
pass .{base} {script}
pass .1.3.6.1.4.1.318 {script}
pass .1.3.6.1.4.1.13742 {script}
"""


class Agent:
    """A real snmpd whose objects are files; lines are added to its configuration."""

    def __init__(self, folder: Path, *lines: str) -> None:
        self.objects = folder / "objects"
        self.objects.mkdir()
        self.meters: list[SnmpMeter] = []
        script = folder / "pass.sh"
        script.write_text(SCRIPT.format(folder=self.objects))
        script.chmod(0o755)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._config = folder / "snmpd.conf"
        self._config.write_text(CONFIG.format(port=self.port, base=BASE, script=script) + "\n".join([*lines, ""]))
        self._environment = {"SNMP_PERSISTENT_DIR": str(folder / "state"), "PATH": "/usr/bin:/bin", "MIBS": ""}
        self.start()

    def start(self) -> None:
        """Begin to answer."""
        arguments = [str(SNMPD), "-f", "-Lo", "-C", "-c", str(self._config), "-I", "-smux"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(arguments, env=self._environment, stdout=quiet, stderr=quiet)

    def stop(self) -> None:
        """Kill the agent."""
        self._process.kill()
        self._process.wait()

    def put(self, oid: str, kind: str, value: object) -> None:
        """Let an object have a value of a type."""
        part = self.objects / "part"
        part.write_text(f"{kind}\n{value}\n")
        part.rename(self.objects / f".{oid}")

    def remove(self, oid: str) -> None:
        """Let an object vanish."""
        (self.objects / f".{oid}").unlink()

    def config(self, *channels: dict[str, Any], **options: Any) -> SnmpConfig:
        """Return the configuration that reaches this agent."""
        plain = {"host": "127.0.0.1", "port": self.port, "community": "secret-community", "channels": list(channels)}
        return to_struct(SnmpConfig, plain | options, "meters.snmp")

    def open(self, *channels: dict[str, Any], **options: Any) -> SnmpMeter:
        """Open a meter as soon as the agent is up."""
        end = time.monotonic() + 60
        while True:
            try:
                self.meters.append(SnmpMeter(self.config(*channels, **options)))
                return self.meters[-1]
            except UnavailableError as error:
                if "no answer" not in error.message.lower() and "no snmp response" not in error.message.lower():
                    raise
                if time.monotonic() > end:
                    raise


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """Start an agent with a power of 613 (times 10 W) and an energy counter of 32 bits just below its end, in Wh."""
    started = Agent(tmp_path)
    started.put(POWER, "gauge", 613)
    started.put(ENERGY, "counter", 2**32 - 2)
    started.put(TEXT, "string", "21.5")
    yield started
    for meter in started.meters:
        meter.close()
    started.stop()


@pytest.fixture
def power() -> dict[str, Any]:
    """Return the power's channel."""
    return {"name": "rack_power_w", "oid": POWER, "factor": 10.0}


@pytest.fixture
def energy() -> dict[str, Any]:
    """Return the energy's channel; a large limit, since a test lets hours pass in milliseconds."""
    return {"name": "rack_energy_j", "oid": ENERGY, "factor": 3600.0, "max_power_w": 1e9}


def test_values_become_si(agent: Agent, power: dict[str, Any], energy: dict[str, Any]) -> None:
    """A gauge is scaled, a decimal text is read, and a Counter32 goes on over its end without being told its width."""
    text = {"name": "rack_temperature_celsius", "oid": f".{TEXT}"}
    meter = agent.open(power, energy, text)
    assert [(c.name, c.form, c.scope) for c in meter.channels] == [
        ("rack_power_w", "gauge", Scope.WALL),
        ("rack_energy_j", "counter", Scope.WALL),
        ("rack_temperature_celsius", "gauge", None),
    ]
    assert meter.read() == [6130.0, (2**32 - 2) * 3600.0, 21.5]
    agent.put(ENERGY, "counter", 3)
    assert meter.read() == [6130.0, (2**32 + 3) * 3600.0, 21.5]
    assert [c.step for c in meter.channels] == [0.0, 3600.0, 0.0]
    assert meter.faults() == []


def test_a_reset_counter_does_not_go_on_silently(agent: Agent, power: dict[str, Any], energy: dict[str, Any]) -> None:
    """A counter set back far from its end gives NaN, then starts again at 0, and is a fault."""
    agent.put(ENERGY, "counter", 1000)
    meter = agent.open(power, energy | {"max_power_w": 1e5})  # asked for one object only, snmpd answers from a cache
    assert meter.read() == [6130.0, 1000 * 3600.0]
    agent.put(ENERGY, "counter", 5)
    assert math.isnan(meter.read()[1])
    assert meter.read() == [6130.0, 0.0]
    assert meter.faults() == ["rack_energy_j: 2 faults, the last one: the counter was reset"]


def test_a_missing_object_is_named_at_opening(agent: Agent, power: dict[str, Any]) -> None:
    """An OID that the agent lacks makes the meter unavailable, in versions 2c and 1 alike; the message has the OID."""
    for version in ("2c", "1"):
        with pytest.raises(UnavailableError, match=NOWHERE):
            agent.open(power, {"name": "other_power_w", "oid": NOWHERE}, version=version)


def test_version_1_reads(agent: Agent, power: dict[str, Any]) -> None:
    """SNMP version 1 gives the same value; an object that vanishes later makes the whole read raise."""
    meter = agent.open(power, {"name": "rack_temperature_celsius", "oid": TEXT}, version="1")
    assert meter.read() == [6130.0, 21.5]
    agent.remove(TEXT)
    with pytest.raises(MeasurementError, match="noSuchName"):
        meter.read()


def test_an_object_that_vanishes_is_nan(agent: Agent, power: dict[str, Any]) -> None:
    """With version 2c the other channels stay readable, and the missing one is counted."""
    meter = agent.open(power, {"name": "rack_temperature_celsius", "oid": TEXT})
    agent.remove(TEXT)
    first, second = meter.read()
    assert first == 6130.0
    assert math.isnan(second)
    assert "NoSuch" in meter.faults()[0]
    agent.put(TEXT, "string", "warm")
    assert math.isnan(meter.read()[1])
    assert "'warm' is no number" in meter.faults()[0]


def test_version_3_with_authentication(agent: Agent, power: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with SHA-256 reads, with the password from the environment; a wrong one is refused and not shown."""
    monkeypatch.setenv("SNMP_WORDS", "authentic-words")
    user = {"version": "3", "user": "plain", "auth": "sha256"}
    agent.open(power).close()  # version 3 does not tell a wrong user from an agent that is not up yet
    meter = agent.open(power, auth_password_env="SNMP_WORDS", **user)
    assert meter.read() == [6130.0]
    with pytest.raises(UnavailableError) as caught:
        SnmpMeter(agent.config(power, auth_password="wrong-words", **user))
    assert "auth" in str(caught.value.remedy)
    assert "wrong-words" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("cryptography") is None, reason="cryptography is not installed")
def test_version_3_with_privacy(agent: Agent, power: dict[str, Any]) -> None:
    """A user that has to encrypt reads with AES, and is refused without it."""
    agent.open(power).close()
    user = {"version": "3", "user": "private", "auth": "sha256", "auth_password": "authentic-words"}
    meter = agent.open(power, privacy="aes128", privacy_password="private-words", **user)
    assert meter.read() == [6130.0]
    with pytest.raises(UnavailableError, match="does not give the values"):
        SnmpMeter(agent.config(power, **user))


@pytest.mark.skipif(importlib.util.find_spec("cryptography") is not None, reason="cryptography is installed")
def test_privacy_names_what_it_lacks(agent: Agent, power: dict[str, Any]) -> None:
    """Without the library that encrypts, the meter says which one to install."""
    words = {"auth_password": "authentic-words", "privacy_password": "private-words"}
    with pytest.raises(UnavailableError, match="cryptography") as caught:
        SnmpMeter(agent.config(power, version="3", user="private", auth="sha256", privacy="aes128", **words))
    assert "pip install" in str(caught.value.remedy)


@pytest.mark.parametrize("version", ["2c", "3"])
def test_a_dead_agent_is_bounded(agent: Agent, power: dict[str, Any], version: str) -> None:
    """A read does not wait for ever when the agent is gone, and reads again when it is back."""
    agent.open(power).close()
    user = {"user": "plain", "auth": "sha256", "auth_password": "authentic-words"} if version == "3" else {}
    meter = agent.open(power, version=version, **user)
    agent.stop()
    start = time.monotonic()
    with pytest.raises(MeasurementError, match=f"127.0.0.1:{agent.port}"):
        meter.read()
    assert time.monotonic() - start < 30
    agent.start()
    end = time.monotonic() + 60
    values: list[float] = []
    while not values and time.monotonic() < end:
        try:
            values = meter.read()
        except MeasurementError as error:
            last = error
    assert values == [6130.0], last


def test_a_wrong_community_is_unavailable(agent: Agent, power: dict[str, Any]) -> None:
    """An agent says nothing to a wrong community; the remedy names it, and the community is not shown."""
    agent.open(power).close()
    with pytest.raises(UnavailableError) as caught:
        SnmpMeter(agent.config(power, community="wrong-words", timeout_s=0.5))
    assert "community" in str(caught.value.remedy)
    assert "wrong-words" not in str(caught.value)


def test_any_thread_reads(agent: Agent, power: dict[str, Any]) -> None:
    """The meter is read from other threads than the one that opened it, and from inside a running event loop."""
    meter = agent.open(power)
    found: list[list[float]] = []
    threads = [threading.Thread(target=lambda: found.append(meter.read())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def inside() -> list[float]:
        return meter.read()

    assert [*found, asyncio.run(inside())] == [[6130.0]] * 4
    meter.close()  # once more at the end of the test: closing twice does no harm


def test_apc_preset_takes_what_the_pdu_has(agent: Agent) -> None:
    """A preset's channels come with their factors; what the PDU lacks or answers with -1 is left out.

    The objects are written from the documentation of PowerNet-MIB.
    """
    table = "1.3.6.1.4.1.318.1.1.26"
    agent.put(f"{table}.4.3.1.5.1", "integer", 613)
    agent.put(f"{table}.4.3.1.9.1", "integer", 12345)
    agent.put(f"{table}.6.3.1.7.1", "integer", -1)
    agent.put(f"{table}.9.4.3.1.7.3", "integer", 240)
    meter = agent.open(preset="apc-rpdu2", prefix="left", outlets=[3])
    assert [c.name for c in meter.channels] == ["left_power_w", "left_energy_j", "left_outlet3_power_w"]
    meter.read()
    agent.put(f"{table}.4.3.1.9.1", "integer", 12346)
    assert meter.read() == [6130.0, 12346 * 3.6e5, 240.0]


def test_raritan_preset_asks_for_the_digits(agent: Agent) -> None:
    """Decimal digits that the PDU tells scale a value.

    The objects are written from the documentation of PDU2-MIB.
    """
    for kind, value, digits in ((5, 180, 0), (1, 8, 1)):
        agent.put(f"1.3.6.1.4.1.13742.6.5.2.3.1.4.1.1.{kind}", "gauge", value)
        agent.put(f"1.3.6.1.4.1.13742.6.3.3.4.1.7.1.1.{kind}", "gauge", digits)
    meter = agent.open(preset="raritan-pdu2")
    assert [c.name for c in meter.channels] == ["pdu0_power_w", "pdu0_inlet_amperes"]
    assert meter.read() == pytest.approx([180.0, 0.8])


def test_a_preset_of_another_device_is_unavailable(agent: Agent) -> None:
    """A device that has nothing of a preset is no such device."""
    with pytest.raises(UnavailableError, match="nothing of the preset"):
        agent.open(preset="ups-mib")


def test_every_preset_fits() -> None:
    """Each shipped preset names its source and holds channels that are valid, with and without outlets."""
    assert preset_names("snmp") == ["apc-rpdu", "apc-rpdu2", "raritan-pdu2", "ups-mib"]
    for name in preset_names("snmp"):
        preset = load_preset("snmp", name)
        assert "MIB" in preset.source
        tables = preset.tables("pdu0", [1, 2])
        names = [to_struct(SnmpChannel, table, name).name for table in tables]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"community": ""}, "community"),
        ({"version": "3"}, "user"),
        ({"version": "3", "user": "u", "auth": "sha", "auth_password": "short"}, "8 characters"),
        ({"version": "3", "user": "u", "privacy": "aes128"}, "privacy without auth"),
        ({"preset": "apc-rpdu3"}, "did you mean 'apc-rpdu'"),
        ({"outlets": [1]}, "outlets without a preset"),
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"channels": []}, "no channels"),
        ({"channels": [{"name": "rack_power_w", "oid": "sysDescr.0"}]}, "is no OID"),
        ({"community_env": "NOT_SET_ANYWHERE", "community": ""}, "NOT_SET_ANYWHERE is not set"),
    ],
)
def test_bad_configuration_is_named(options: dict[str, Any], words: str) -> None:
    """What cannot work is refused with the key and what to do, before anything is sent."""
    plain = {
        "host": "127.0.0.1",
        "community": "c",
        "channels": [{"name": "rack_power_w", "oid": POWER}],
    }
    with pytest.raises(ConfigError) as caught:
        SnmpMeter(to_struct(SnmpConfig, plain | options, "meters.snmp"))
    assert words in str(caught.value)


def test_a_float_in_an_opaque_is_read() -> None:
    """Net-SNMP's way to send a float is understood; other bytes are no number."""
    from pysnmp.proto.rfc1902 import Opaque

    assert _raw(Opaque(hexValue="9f780442c80000")) == 100.0
    assert _raw(Opaque(hexValue="9f7804")) == "9f7804"


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("ipaddress", "192.0.2.1", "a value of type IpAddress"),
        ("objectid", ".1.3.6.1", "a value of type ObjectIdentifier"),
        ("string", "<html>", "is no number"),
        ("string", "nan", "is no number"),
        ("string", "1e999", "inf is not finite"),
        ("gauge", "4294967295", "beyond what can be"),
    ],
)
def test_what_is_no_number_is_a_fault(agent: Agent, power: dict[str, Any], kind: str, value: str, words: str) -> None:
    """An address, an object's name, text, what is not finite and what cannot be are NaN, and told."""
    text = {"name": "rack_temperature_celsius", "oid": TEXT}
    meter = agent.open(power | {"maximum": 1e9}, text)  # asked for one object only, snmpd answers from a cache
    agent.put(POWER, kind, value)
    assert math.isnan(meter.read()[0])
    assert words in meter.faults()[0]


@pytest.mark.parametrize(("kind", "value"), [("integer", 999_999_999), ("integer", -1), ("string", "many")])
def test_digits_that_cannot_be(agent: Agent, power: dict[str, Any], kind: str, value: object) -> None:
    """A number of decimal digits that cannot be makes the meter unavailable, instead of a factor that cannot be."""
    agent.put(ENERGY, kind, value)
    with pytest.raises(UnavailableError, match="decimal digits"):
        agent.open(power | {"digits_oid": ENERGY})


@pytest.mark.parametrize("noise", [b"", b"\x30", b"<html>" * 200, bytes(1400)])
def test_noise_instead_of_an_agent(power: dict[str, Any], noise: bytes) -> None:
    """Whatever answers on the port that is no agent makes the meter unavailable within its time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.settimeout(30)

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    _, sender = peer.recvfrom(65536)
                    for _ in range(100):
                        peer.sendto(noise, sender)

        threading.Thread(target=answer, daemon=True).start()
        plain = {"host": "127.0.0.1", "port": peer.getsockname()[1], "community": "c", "timeout_s": 0.5}
        start = time.monotonic()
        with pytest.raises(UnavailableError, match="does not give the values"):
            SnmpMeter(to_struct(SnmpConfig, plain | {"channels": [power]}, "meters.snmp"))
        assert time.monotonic() - start < 30
