from __future__ import annotations

import contextlib
import gc
import json
import math
import shutil
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paho.mqtt")
import paho.mqtt.client as paho

from wattwerk.config import to_struct
from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.meters.mqtt import MqttConfig, MqttMeter, parse_path, pick
from wattwerk.records import Scope

_PLACES = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
MOSQUITTO = shutil.which("mosquitto", path=_PLACES)
PASSWD = shutil.which("mosquitto_passwd", path=_PLACES)
OPENSSL = shutil.which("openssl", path=_PLACES)

needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")

POWER = {"name": "plug_power_w", "topic": "tele/plug/SENSOR", "path": "ENERGY.Power"}
ENERGY = {"name": "plug_energy_j", "topic": "tele/plug/SENSOR", "path": "ENERGY.Total", "factor": 3.6e6}
BARE = {"name": "meter_power_w", "topic": "meter/power"}


def sensor(power_w: object, total_kwh: float = 1.0) -> str:
    """Return a message as a plug with Tasmota publishes it, by that firmware's documentation."""
    return json.dumps({"Time": "2026-01-01T00:00:00", "ENERGY": {"Total": total_kwh, "Power": power_w}})


def eventually(check: Callable[[], object], limit_s: float = 10.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + limit_s
    while not check():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def arrives(meter: MqttMeter, *expected: float) -> None:
    """Wait until the newest value that each channel ever gave is the expected one; a counter gives each value once."""
    newest = [math.nan] * len(expected)

    def check() -> bool:
        for place, value in enumerate(meter.read()):
            newest[place] = newest[place] if math.isnan(value) else value
        return newest == pytest.approx(list(expected))

    eventually(check)


class Broker:
    """A real mosquitto, with a client that publishes to it."""

    def __init__(self, folder: Path, *lines: str, user: str = "", password: str = "") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.meters: list[MqttMeter] = []
        self._config = folder / "mosquitto.conf"
        # "user root": started by root it would become a user who cannot read the test's files; else it means nothing
        first = (f"listener {self.port} 127.0.0.1", "persistence false", "user root")
        self._config.write_text("\n".join([*first, *lines, ""]))
        self._login = (user, password)
        self.start()

    def start(self) -> None:
        """Start the broker and wait until it listens."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen([str(MOSQUITTO), "-c", str(self._config)], stdout=quiet, stderr=quiet)
        eventually(self._listens)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Kill the broker."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Close every meter that was opened, then kill the broker."""
        for meter in self.meters:
            meter.close()
        self.stop()

    def publish(self, topic: str, *payloads: str | bytes, retain: bool = False) -> None:
        """Publish messages in their order, and return when the broker has them."""
        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        if self._login[0]:
            client.username_pw_set(*self._login)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        for payload in payloads:
            client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(5)
        client.disconnect()
        client.loop_stop()

    def config(self, *channels: dict[str, Any], **options: Any) -> MqttConfig:
        """Return the configuration that reaches this broker."""
        plain = {"host": "127.0.0.1", "port": self.port, "channels": list(channels)}
        return to_struct(MqttConfig, plain | options, "meters.mqtt")

    def open(self, *channels: dict[str, Any], **options: Any) -> MqttMeter:
        """Open a meter on this broker."""
        self.meters.append(MqttMeter(self.config(*channels, **options)))
        return self.meters[-1]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """Start a broker that lets everybody in."""
    started = Broker(tmp_path, "allow_anonymous true")
    yield started
    started.end()


@needs_broker
def test_messages_become_channels(broker: Broker) -> None:
    """Numbers inside JSON and bare ones become SI values: none before the first message, a counter's once."""
    meter = broker.open(POWER, ENERGY, BARE)
    assert [(c.name, c.form, c.scope) for c in meter.channels] == [
        ("plug_power_w", "gauge", Scope.WALL),
        ("plug_energy_j", "counter", Scope.WALL),
        ("meter_power_w", "gauge", Scope.WALL),
    ]
    assert all(math.isnan(value) for value in meter.read())
    broker.publish("tele/plug/SENSOR", sensor(42.5, 10.0), sensor(43, 10.25))
    broker.publish("meter/power", " 17.5\n")
    arrives(meter, 43.0, 10.25 * 3.6e6, 17.5)
    assert meter.read() == pytest.approx([43.0, math.nan, 17.5], nan_ok=True)
    assert meter.faults() == []


@needs_broker
@pytest.mark.parametrize("payload", ["warm", "nan", "inf", "true", "1_0", "-1", "", b"\xff\xfe", "99999"])
def test_what_is_no_number_is_nan_and_a_fault(broker: Broker, payload: str | bytes) -> None:
    """A message that is no possible number takes the old value away, and is counted."""
    meter = broker.open(BARE | {"maximum": 5000.0})
    broker.publish("meter/power", "17", payload)
    eventually(meter.faults)
    assert math.isnan(meter.read()[0])
    assert meter.faults()[0].startswith("meter_power_w: 1 faults")
    broker.publish("meter/power", "18")
    eventually(lambda: meter.read() == [18.0])


@needs_broker
def test_a_message_without_the_path_is_a_fault_of_its_channel(broker: Broker) -> None:
    """JSON that lacks one channel's key costs that channel only; what is no JSON costs all of the topic."""
    meter = broker.open(POWER, ENERGY)
    broker.publish("tele/plug/SENSOR", '{"ENERGY": {"Power": 5}}')
    eventually(lambda: meter.read()[0] == 5.0)
    assert meter.faults() == ["plug_energy_j: 1 faults, the last one: the message has no 'Total'"]
    broker.publish("tele/plug/SENSOR", '{"ENERGY": ' + "[" * 5000)
    eventually(lambda: len(meter.faults()) == 2)
    assert all(math.isnan(value) for value in meter.read())


@needs_broker
def test_an_old_value_is_nan(broker: Broker) -> None:
    """A value holds for stale_s and not longer."""
    meter = broker.open(BARE | {"stale_s": 0.4}, BARE | {"name": "slow_power_w"})
    broker.publish("meter/power", "17")
    eventually(lambda: meter.read() == [17.0, 17.0])
    eventually(lambda: math.isnan(meter.read()[0]))
    assert meter.read()[1] == 17.0


@needs_broker
def test_retained_messages_count_only_if_wanted(broker: Broker) -> None:
    """A retained message, of unknown age, is left out unless its channel says otherwise."""
    broker.publish("meter/power", "17", retain=True)
    meter = broker.open(BARE, BARE | {"name": "old_power_w", "retained": True})
    eventually(lambda: meter.read()[1] == 17.0)
    assert math.isnan(meter.read()[0])


@needs_broker
def test_a_broker_that_comes_back(broker: Broker) -> None:
    """While the broker is dead there is no value; after it came back the next message counts, and the loss is told."""
    meter = broker.open(BARE)
    broker.publish("meter/power", "17")
    eventually(lambda: meter.read() == [17.0])
    broker.stop()
    eventually(lambda: math.isnan(meter.read()[0]))
    broker.start()

    def again() -> bool:
        broker.publish("meter/power", "18")  # until the meter has come back too, nobody listens
        return meter.read() == [18.0]

    eventually(again)
    assert meter.faults() == [f"the connection to 127.0.0.1:{broker.port} was lost once"]


@needs_broker
def test_a_counter_that_is_reset(broker: Broker) -> None:
    """Energy goes on where the plug's counter stands; set back, it starts again at 0 and is a fault."""
    meter = broker.open(ENERGY)
    topic = "tele/plug/SENSOR"
    broker.publish(topic, sensor(1, 5.0), sensor(1, 5.5))
    arrives(meter, 5.5 * 3.6e6)
    broker.publish(topic, sensor(1, 0.0))
    eventually(meter.faults)
    assert math.isnan(meter.read()[0])
    broker.publish(topic, sensor(1, 0.1))
    arrives(meter, 0.0)
    broker.publish(topic, sensor(1, 0.2))
    arrives(meter, 0.1 * 3.6e6)


@needs_broker
@pytest.mark.skipif(PASSWD is None, reason="mosquitto_passwd is not installed")
def test_user_and_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right password reads, from the environment; a wrong one and none are refused and not shown."""
    file = tmp_path / "passwords"
    file.touch(mode=0o600)
    subprocess.run([str(PASSWD), "-b", str(file), "reader", "right-words"], check=True, capture_output=True)
    lines = ("allow_anonymous false", f"password_file {file}")
    broker = Broker(tmp_path, *lines, user="reader", password="right-words")
    try:
        monkeypatch.setenv("MQTT_WORDS", "right-words")
        meter = broker.open(BARE, user="reader", password_env="MQTT_WORDS")
        broker.publish("meter/power", "17")
        eventually(lambda: meter.read() == [17.0])
        for options in ({"user": "reader", "password": "wrong-words"}, {}):
            with pytest.raises(UnavailableError, match="refuses") as caught:
                broker.open(BARE, **options)
            assert "check user and password" in str(caught.value)
            assert "words" not in str(caught.value)
    finally:
        broker.end()


@needs_broker
@pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")
def test_tls(tmp_path: Path) -> None:
    """TLS reads where the broker's certificate is known, and is refused where it is not."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(key)]
    command = [str(OPENSSL), "req", "-x509", *made, "-out", str(certificate), *subject]
    subprocess.run(command, check=True, capture_output=True)
    broker = Broker(tmp_path, "allow_anonymous true", f"certfile {certificate}", f"keyfile {key}")
    try:
        broker.open(BARE, tls=True, ca_file=str(certificate))
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            broker.open(BARE, tls=True)
        with pytest.raises(ConfigError, match="ca_file"):
            broker.open(BARE, tls=True, ca_file=str(tmp_path / "missing.pem"))
    finally:
        broker.end()


@needs_broker
def test_nothing_is_left_to_the_collector(broker: Broker) -> None:
    """A closed meter frees its client, and with it the sockets of its loop, as soon as nobody holds it any more."""
    meter = MqttMeter(broker.config(BARE))
    client = weakref.ref(meter._client)
    gc.disable()
    try:
        meter.close()
        del meter
        assert client() is None
    finally:
        gc.enable()


def test_nobody_there_is_unavailable() -> None:
    """A closed port is named with what to check."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        config = to_struct(MqttConfig, {"host": "127.0.0.1", "port": port, "channels": [BARE]}, "meters.mqtt")
        with pytest.raises(UnavailableError, match=f"127.0.0.1:{port} does not answer"):
            MqttMeter(config)


def test_a_mute_server_is_bounded() -> None:
    """A server that accepts and says nothing is given up after timeout_s."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        plain = {"host": "127.0.0.1", "port": mute.getsockname()[1], "channels": [BARE], "timeout_s": 0.5}
        start = time.monotonic()
        with pytest.raises(UnavailableError, match=r"does not greet within 0\.5 s"):
            MqttMeter(to_struct(MqttConfig, plain, "meters.mqtt"))
        assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("", []),
        ("apower", ["apower"]),
        ("ENERGY.Power", ["ENERGY", "Power"]),
        ("meters[0].power", ["meters", 0, "power"]),
        ("[2][10].x", [2, 10, "x"]),
        ('["switch:0.a"].b', ["switch:0.a", "b"]),
        ('a["b.c"][1]', ["a", "b.c", 1]),
    ],
)
def test_paths(path: str, steps: list[str | int]) -> None:
    """A path is keys with dots between, indices in brackets, and keys with dots of their own in quotes."""
    assert parse_path(path) == steps


@pytest.mark.parametrize("path", [".a", "a..b", "a[b]", "a[0", "a.", "[0]x", "a]"])
def test_bad_paths_are_refused(path: str) -> None:
    """What is no path is refused, with the place."""
    with pytest.raises(ConfigError, match="at character"):
        parse_path(path)


def test_pick_goes_down_a_message() -> None:
    """A path leads through objects and lists; a key into a list is not there."""
    message = b'{"meters": [{"power": 1.5}, {"power": "2"}]}'
    assert pick(message, ["meters", 1, "power"]) == "2"
    with pytest.raises(ValueError, match="has no 'power'"):
        pick(message, ["meters", "power"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"channels": []}, "no channels"),
        ({"channels": [BARE, BARE]}, "two channels are called meter_power_w"),
        ({"channels": [BARE | {"topic": "meter/+"}]}, "without + and #"),
        ({"channels": [BARE | {"name": "meter_power"}]}, "ends in no known unit"),
        ({"channels": [BARE | {"name": "Meter_power_w"}]}, "small letters"),
        ({"channels": [BARE | {"form": "counter"}]}, "form = 'counter' does not fit"),
        ({"channels": [BARE | {"name": "l1_volts", "scope": "wall"}]}, "only a power or an energy has a scope"),
        ({"channels": [BARE | {"factor": 0.0}]}, "factor = 0"),
        ({"channels": [ENERGY | {"factor": -1.0}]}, "factor = -1"),
        ({"channels": [ENERGY | {"max_power_w": 0.0}]}, "max_power_w = 0"),
        ({"channels": [BARE | {"stale_s": 0.0}]}, "stale_s = 0"),
        ({"channels": [BARE | {"stale": 1.0}]}, "stale"),
        ({"password": "words"}, "a password without a user"),
        ({"user": "u", "password": "words", "password_env": "WORDS"}, "both given"),
        ({"user": "u", "password_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE is not set"),
        ({"timeout_s": 0.0}, "timeout_s = 0"),
        ({"keepalive_s": 0}, "keepalive_s = 0"),
        ({"interval_s": math.nan}, "interval_s = nan"),
        ({"latency_s": -1.0}, "latency_s = -1"),
        ({"port": 70000}, "port = 70000"),
        ({"host": ""}, "host is empty"),
        ({"channels": [BARE | {"maximum": -1.0}]}, "nothing is between 0 and -1"),
        ({"channels": [BARE | {"accuracy_ratio": -0.01}]}, "accuracy_ratio = -0.01"),
        ({"keepalive": 3}, "did you mean 'keepalive_s'"),
    ],
)
def test_bad_configuration_is_named(options: dict[str, Any], text: str) -> None:
    """What cannot work is refused with the key and what to do, before anything is sent."""
    with pytest.raises(ConfigError) as caught:
        MqttMeter(to_struct(MqttConfig, {"host": "127.0.0.1", "channels": [BARE]} | options, "meters.mqtt"))
    assert text in str(caught.value)


def test_probe_says_what_to_add(wattwerk_home: Path) -> None:
    """Without a section there is nothing to find; with one, the probe tries it."""
    probe = MqttMeter.probe()
    assert not probe.available
    assert "[meters.mqtt]" in str(probe.remedy)
    wattwerk_home.mkdir()
    section = '[meters.mqtt]\nhost = "127.0.0.1"\nport = 1\n[[meters.mqtt.channels]]\nname = "a_power_w"\ntopic = "a"\n'
    (wattwerk_home / "config.toml").write_text(section)
    assert "127.0.0.1:1 does not answer" in MqttMeter.probe().detail


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without paho-mqtt the meter says what to install."""
    monkeypatch.delitem(sys.modules, "wattwerk.meters.mqtt_client", raising=False)
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(UnavailableError, match="paho") as caught:
        MqttMeter(to_struct(MqttConfig, {"host": "127.0.0.1", "channels": [BARE]}, "meters.mqtt"))
    assert caught.value.remedy == '`pip install "wattwerk[meters]"`'


def test_a_packet_of_a_hundred_megabytes_is_not_taken_in() -> None:
    """A broker that announces 100 MB and sends them loses the connection at once, and a fault says so."""
    size = 100_000_000
    length = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21])
    sent, done = [0], threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            connection.sendall(b"\x20\x02\x00\x00")  # CONNACK
            subscribe = connection.recv(4096)
            connection.sendall(b"\x90\x03" + subscribe[2:4] + b"\x00")  # SUBACK
            connection.sendall(b"\x30" + length)
            while sent[0] < size:
                connection.sendall(b"7" * 65536)
                sent[0] += 65536
        done.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        options = {"host": "127.0.0.1", "port": listener.getsockname()[1], "channels": [BARE]}
        meter = MqttMeter(to_struct(MqttConfig, options, "meters.mqtt"))
        assert done.wait(10)
        eventually(lambda: any("100000000 bytes" in fault for fault in meter.faults()))
        assert math.isnan(meter.read()[0])
        meter.close()
    assert sent[0] < 20_000_000  # what the system's buffers hold
