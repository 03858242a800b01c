"""What a scan finds at real servers, and whether what it proposes works."""

from __future__ import annotations

import socket
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.meters.http_device import Device
from tests.meters.influxd import INFLUXD, Influxd, free_port
from tests.meters.peers import Peer
from tests.meters.prometheus import Scraper, needs_prometheus
from tests.meters.test_modbus import Server
from tests.meters.test_mqtt import Broker, needs_broker
from tests.meters.test_redfish import newer, service
from tests.meters.test_shelly import clamp_meters, first_generation, second_generation
from tests.meters.test_snmp import SNMPD, Agent
from tests.meters.test_tasmota import plug

from wattwerk.errors import ConfigError
from wattwerk.meters.inventory import check_sections, default_specs
from wattwerk.meters.recorder import Recorder
from wattwerk.meters.scan import Proposal, _addresses, scan
from wattwerk.meters.totals import totals_of


def target(device: Device) -> str:
    """Return the address of a device as a user names it."""
    return device.url.removeprefix("http://").removeprefix("https://")


def paste(home: Path, proposal: Proposal) -> None:
    """Put a proposal into the user's configuration."""
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(proposal.text)


def uncommented(proposal: Proposal, name: str) -> dict[str, Any]:
    """Return what a proposed section says once its comment signs are gone."""
    _, _, rest = proposal.text.partition(f"# [meters.{name}]\n")
    block = rest.partition("\n\n")[0]
    return tomllib.loads("\n".join([f"[meters.{name}]", *(line.removeprefix("# ") for line in block.splitlines())]))


def test_what_answers_over_http_becomes_sections_that_work(wattwerk_home: Path) -> None:
    """Plugs of two makers and three generations, and a management controller: pasted in, all of them are recorded."""
    replies = [first_generation(), second_generation(), clamp_meters(), {"/cm": plug()}, service("1U") | newer()]
    devices = [Device(reply) for reply in replies]
    try:
        begin = time.monotonic()
        proposal = scan([target(device) for device in devices])
        took_s = time.monotonic() - begin
        assert list(proposal.found) == ["node_a", "shelly_a", "shelly_b", "shelly_c", "tasmota_a"]
        assert took_s < 8
        assert "# Shelly PlusPlugS, 0A1B\n# It showed shelly_" in proposal.text
        assert "_power_w 42.5 W.\n" in proposal.text
        paste(wattwerk_home, proposal)
        check_sections()
        specs = [spec for spec in default_specs() if spec.section]
        with Recorder(specs) as recorder:
            faults = recorder.faults
        assert not faults
        powers = {channel.name for channel in recorder.channels if channel.name.endswith("_power_w")}
        assert {"node_a_power_w", "shelly_a0_power_w", "shelly_b0_power_w", "tasmota_a0_power_w"} <= powers
        assert "wall" in totals_of(recorder.channels)
        assert all(request.startswith("GET ") for device in devices for request in device.asked)
        assert not any("Authorization" in headers for device in devices for _, _, headers, _ in device.requests)
        again = scan([target(device) for device in devices])
        assert not again.found
        assert "is [meters.node_a] already" in again.text
    finally:
        for device in devices:
            device.__exit__()


def test_what_asks_for_a_password_is_proposed_in_comments(wattwerk_home: Path) -> None:
    """A locked plug and a locked controller are named, with the keys that are missing; nothing of it is in force."""
    with Device(second_generation()) as one, Device(service("1U") | newer()) as two:
        one.digest, two.basic = ("admin", "secret"), ("root", "secret")
        proposal = scan([target(one), target(two)])
    paste(wattwerk_home, proposal)
    check_sections()
    assert "meters" not in tomllib.loads(proposal.text)
    assert uncommented(proposal, "shelly_a")["meters"]["shelly_a"]["password_env"] == "SHELLY_PASSWORD"
    assert "# To do: it asks for user and password." in proposal.text


@pytest.mark.skipif(SNMPD is None, reason="snmpd is not installed")
def test_a_pdu_is_known_by_its_preset(tmp_path: Path, wattwerk_home: Path) -> None:
    """Of the PDUs that wattwerk knows the one whose values are there is proposed, by the community public."""
    agent = Agent(tmp_path, "rocommunity public 127.0.0.1")
    try:
        agent.put("1.3.6.1.4.1.318.1.1.26.4.3.1.5.1", "integer", 123)
        agent.put("1.3.6.1.4.1.318.1.1.26.4.3.1.9.1", "integer", 40)
        agent.open({"name": "up_power_w", "oid": "1.3.6.1.4.1.318.1.1.26.4.3.1.5.1"})
        proposal = scan([f"127.0.0.1:{agent.port}"])
        assert "# It showed pdu_a_power_w 1.23 kW." in proposal.text
        paste(wattwerk_home, proposal)
        with Recorder([spec for spec in default_specs() if spec.section]) as recorder:
            assert {channel.name for channel in recorder.channels} == {"pdu_a_power_w", "pdu_a_energy_j"}
    finally:
        for meter in agent.meters:
            meter.close()
        agent.stop()


def test_a_modbus_meter_needs_its_preset() -> None:
    """That a device speaks Modbus does not say which one it is: all presets are named, and nothing is in force."""
    server = Server()
    try:
        proposal = scan([f"127.0.0.1:{server.port}"])
    finally:
        server.end()
    assert list(proposal.found) == ["meter_a"]
    assert "eastron-sdm630" in proposal.text
    assert uncommented(proposal, "meter_a")["meters"]["meter_a"]["port"] == server.port


@needs_broker
def test_a_broker_needs_its_topics(tmp_path: Path) -> None:
    """A broker that lets everybody in, and one that wants a user: both are found, for the latter with the keys."""
    for lines, user in ((("allow_anonymous true",), False), ((), True)):
        broker = Broker(tmp_path, *lines)
        try:
            proposal = scan([f"127.0.0.1:{broker.port}"])
        finally:
            broker.end()
        section = uncommented(proposal, "mqtt_a")["meters"]["mqtt_a"]
        assert section["channels"][0]["name"] == "plug_power_w"
        assert ("user" in section) is user


@pytest.mark.skipif(INFLUXD is None, reason="needs influxd (Debian: apt-get install influxdb)")
def test_influxdb_is_found(tmp_path: Path) -> None:
    """A real server is named with its version."""
    with Influxd(tmp_path) as server:
        proposal = scan([f"127.0.0.1:{server.port}"])
    assert "# InfluxDB 1." in proposal.text
    assert uncommented(proposal, "influx_a")["meters"]["influx_a"]["url"] == server.url


@needs_prometheus
def test_prometheus_is_found(tmp_path: Path) -> None:
    """A real server is told from other web servers."""
    with Scraper(tmp_path, free_port()) as server:
        server.wait_for("vector(1)")
        assert list(scan([f"127.0.0.1:{server._port}"]).found) == ["prometheus_a"]


@pytest.mark.parametrize("mood", ["mute", "drip", "flood", "close", "garbage"])
def test_strangers_do_not_hold_it_up(mood: str) -> None:
    """Whatever a server does that is no meter, it is left out within seconds."""
    with Peer(0, b"HTTP/1.1 200 OK\r\n\r\n") as peer:
        peer.become(mood)  # type: ignore[arg-type]
        begin = time.monotonic()
        assert not scan([f"127.0.0.1:{peer.port}"]).found
        assert time.monotonic() - begin < 12


def test_a_web_server_that_is_no_meter() -> None:
    """A page that answers everything is not taken for anything; nor is a device that lies about itself in its name."""
    with Device({"/": b"<html>hello</html>"}) as page:
        page.replies |= dict.fromkeys(
            ("/shelly", "/cm", "/redfish/v1/", "/ping", "/api/v1/query"), b"<html>hello</html>"
        )
        assert not scan([target(page)]).found
    liar = second_generation()
    liar["/shelly"]["app"] = 'Plug"\n[meters.evil]\nkind = "mqtt'
    with Device(liar) as device:
        assert list(tomllib.loads(scan([target(device)]).text)["meters"]) == ["shelly_a"]


def test_the_network_is_not_asked_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without targets there is no connection, and the proposal says what the machine itself has."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    proposal = scan()
    assert (proposal.asked, proposal.found) == (0, {})
    assert proposal.text.startswith("# In this machine, used without a word here:")
    assert tomllib.loads(proposal.text) == {}


@pytest.mark.parametrize(
    ("named", "hosts", "ports"),
    [
        ("192.0.2.0/30", ["192.0.2.1", "192.0.2.2"], 7),
        ("192.0.2.7/32", ["192.0.2.7"], 7),
        ("plug.example", ["plug.example"], 7),
        ("plug.example:8080", ["plug.example"], 1),
        ("[2001:db8::1]:80", ["2001:db8::1"], 1),
        ("2001:db8::1", ["2001:db8::1"], 7),
        ("192.0.2.0/24", [f"192.0.2.{n}" for n in range(1, 255)], 7),
    ],
)
def test_targets(named: str, hosts: list[str], ports: int) -> None:
    """Names, addresses, ports and networks."""
    found = list(_addresses(named))
    assert list(dict.fromkeys(address.host for address in found)) == hosts
    assert len(found) == ports * len(hosts)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("192.0.0.0/16", "65536 addresses"),
        ("plug.example/24", "is no network"),
        ("http://192.0.2.7", "is no network"),
        ("a b", "is no address"),
        ("host:99999", "is no address"),
        ("", "is no address"),
    ],
)
def test_targets_that_are_none(named: str, told: str) -> None:
    """Each is refused with what to write instead, before anything is asked."""
    with pytest.raises(ConfigError, match=told):
        scan([named])


def test_a_name_that_nobody_knows_is_silent() -> None:
    """A host that is not there is no error: a scan tells what is."""
    assert not scan(["no-such-host.invalid"]).found
