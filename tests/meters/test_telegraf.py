"""Telegraf's configurations: checked by TOML, by the documented options, and with the lines that Telegraf passes on.

Telegraf itself is not started here: no package registry that the tests use has it. A real mosquitto and a real InfluxDB
stand on both sides of it, and the test passes lines on as the documentation says that Telegraf does.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.meters.influxd import INFLUXD, Influxd, free_port

from wattwerk.errors import ConfigError
from wattwerk.meters.base import Channel
from wattwerk.meters.forward import Forwarder
from wattwerk.meters.influx_read import InfluxDatabase
from wattwerk.meters.line_protocol import parse_line
from wattwerk.meters.recorder import MeterSpec, Recorder
from wattwerk.meters.sinks import open_sink
from wattwerk.meters.telegraf import TELEGRAF_CONFIGS, telegraf_config
from wattwerk.records import Scope

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
needs_influxd = pytest.mark.skipif(INFLUXD is None, reason="needs influxd (Debian: apt-get install influxdb)")

#: Options that plugins have, and their types, as the sample.conf of each tells in influxdata/telegraf, folder plugins/;
#: those of the agent and of every input stand in docs/CONFIGURATION.md.
AGENT: Final[dict[str, type]] = {
    "interval": str, "round_interval": bool, "metric_batch_size": int, "metric_buffer_limit": int,
    "collection_jitter": str, "flush_interval": str, "flush_jitter": str, "precision": str, "debug": bool,
    "quiet": bool, "logfile": str, "hostname": str, "omit_hostname": bool, "statefile": str, "buffer_strategy": str,
    "buffer_directory": str,
}  # fmt: skip
INPUT: Final[dict[str, type]] = {
    "alias": str, "interval": str, "name_override": str, "name_prefix": str, "name_suffix": str, "tags": dict,
    "data_format": str,
}  # fmt: skip
PLUGINS: Final[dict[str, dict[str, type]]] = {
    "inputs.influxdb_listener": {
        "service_address": str, "read_timeout": str, "write_timeout": str, "max_body_size": int, "database_tag": str,
        "retention_policy_tag": str, "basic_username": str, "basic_password": str, "tls_cert": str, "tls_key": str,
        "tls_allowed_cacerts": list, "parser_type": str,
    },
    "inputs.socket_listener": {
        "service_address": str, "socket_mode": str, "max_connections": int, "read_timeout": str,
        "read_buffer_size": str, "keep_alive_period": str, "content_encoding": str, "splitting_strategy": str,
    },
    "inputs.tail": {
        "files": list, "initial_read_offset": str, "pipe": bool, "watch_method": str, "max_undelivered_lines": int,
        "character_encoding": str, "path_tag": str, "filters": list,
    },
    "inputs.mqtt_consumer": {
        "servers": list, "topics": list, "topic_tag": str, "qos": int, "connection_timeout": str,
        "max_undelivered_messages": int, "persistent_session": bool, "client_id": str, "username": str,
        "password": str, "tls_ca": str, "tls_cert": str, "tls_key": str, "insecure_skip_verify": bool,
    },
    "inputs.execd": {
        "command": list, "environment": list, "signal": str, "restart_delay": str, "buffer_size": str,
    },
    "outputs.influxdb": {
        "urls": list, "database": str, "database_tag": str, "exclude_database_tag": bool,
        "skip_database_creation": bool, "retention_policy": str, "timeout": str, "username": str, "password": str,
        "content_encoding": str,
    },
    "outputs.influxdb_v2": {
        "urls": list, "token": str, "organization": str, "bucket": str, "bucket_tag": str, "timeout": str,
        "content_encoding": str,
    },
}  # fmt: skip
SIGNALS: Final = {"none", "STDIN", "SIGHUP", "SIGUSR1", "SIGUSR2"}


def uncommented(text: str) -> str:
    """Return a configuration with its alternative output instead of the first one."""
    before, _, after = text.partition("# In place of the output above")
    return before.partition("[[outputs.influxdb]]")[0] + after.partition("\n")[2].replace("# ", "")


def plugins(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and options of every plugin."""
    read = tomllib.loads(text)
    for kind in ("inputs", "outputs"):
        for name, uses in read[kind].items():
            yield from ((f"{kind}.{name}", use) for use in uses)


@pytest.mark.parametrize("name", TELEGRAF_CONFIGS)
@pytest.mark.parametrize("version", [1, 2])
def test_options_are_documented(name: str, version: int) -> None:
    """Each file is TOML; every plugin has inputs and outputs with options that its documentation has, of its types."""
    text = telegraf_config(name) if version == 1 else uncommented(telegraf_config(name))
    read = tomllib.loads(text)
    assert set(read) == {"agent", "inputs", "outputs"}
    assert [key for key, value in read["agent"].items() if not isinstance(value, AGENT[key])] == []
    assert list(read["outputs"]) == [f"influxdb{'' if version == 1 else '_v2'}"]
    for plugin, options in plugins(text):
        known = PLUGINS[plugin] | (INPUT if plugin.startswith("inputs") else {})
        assert [key for key, value in options.items() if not isinstance(value, known.get(key, type(None)))] == []
        assert options.get("signal", "none") in SIGNALS
        assert options.get("data_format", "influx") == "influx"


@pytest.mark.parametrize("name", TELEGRAF_CONFIGS)
def test_commented_options_are_documented_too(name: str) -> None:
    """What a user may uncomment is an option of the plugin that it stands in."""
    plugin = ""
    for line in telegraf_config(name).splitlines():
        if found := re.match(r"(?:# )?\[\[(\S+)\]\]", line):
            plugin = found[1]
        elif plugin and (found := re.match(r" +# (\w+) = ", line)):
            assert found[1] in PLUGINS[plugin], line


def test_a_name_that_is_none() -> None:
    """Another name is refused with the nearest one."""
    with pytest.raises(ConfigError, match="did you mean 'sensors'"):
        telegraf_config("sensor")


def test_the_sinks_named_in_the_relay_reach_its_inputs() -> None:
    """The addresses in the comments for wattwerk are those at which the plugins listen, and the folder that is read."""
    text = telegraf_config("relay")
    found = dict(plugins(text))
    assert found["inputs.influxdb_listener"]["service_address"] == ":8186"
    assert found["inputs.socket_listener"]["service_address"] == "udp://:8094"
    assert re.findall(r'url = "(.*)"', text) == [
        "http://TELEGRAF-HOST:8186",
        "udp://TELEGRAF-HOST:8094",
        "file:/var/lib/wattwerk/power.lp",
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxd]:
    """A running InfluxDB with a database."""
    with Influxd(tmp_path_factory.mktemp("influxd")) as found:
        found.query("CREATE DATABASE power")
        yield found


@needs_influxd
def test_what_a_relay_passes_on_is_a_trace(server: Influxd, tmp_path: Path) -> None:
    """Lines taken from UDP and from a file, written again in one batch, are the recorder's energy, counted once.

    This stands for Telegraf with relay.conf: it parses lines, adds no tag and writes them.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(0.5)
        port = listener.getsockname()[1]
        path = tmp_path / "power.lp"
        meter = MeterSpec("wattwerk.testing:FakeMeter", {"prefix": "plug", "scope": "wall", "base_w": 40.0})
        with Recorder([meter]) as recorder:
            sinks = {"udp": open_sink(f"udp://127.0.0.1:{port}"), "file": open_sink(f"file:{path}")}
            with Forwarder(recorder, sinks, tags={"run": "relayed"}, interval_s=0.2):
                time.sleep(1.5)
        received = path.read_bytes()
        while True:
            try:
                received += listener.recv(65536)
            except TimeoutError:
                break
    lines = received.decode().splitlines()
    relay = open_sink(f"{server.url}/write?db=power")
    relay.write("\n".join(lines) + "\n")
    relay.close()
    assert (relay.lost_count, relay.last_error) == (0, "")
    moments = {point.unix_ns for point in map(parse_line, lines) if "plug_power_w" in point.fields}
    with InfluxDatabase(server.url, "power") as database:
        trace = database.trace("relayed")
    assert set(trace.time_ns.tolist()) == moments
    times, _ = trace.readings("plug_energy_j")
    assert trace.energy("plug_energy_j", int(times[0]), int(times[-1])).mean_power_w == pytest.approx(40, rel=1e-3)


@needs_influxd
@pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto (Debian: apt-get install mosquitto)")
def test_what_micro_controllers_send_has_an_energy(server: Influxd, tmp_path: Path) -> None:
    """Messages in the form of sensors.conf, through a real broker into a real data base, give each board's energy.

    This stands for Telegraf with sensors.conf: it subscribes to the topics, parses the lines and writes them.
    """
    paho = pytest.importorskip("paho.mqtt.client")
    options = dict(plugins(telegraf_config("sensors")))["inputs.mqtt_consumer"]
    example = [line[2:].strip() for line in telegraf_config("sensors").splitlines() if "slot_power_w=" in line]
    assert [parse_line(line).fields["slot_power_w"] for line in example] == [31.25, 31.5]
    port, first_ns = free_port(), 1_764_000_000_000_000_000
    with (tmp_path / "log").open("wb") as log:
        assert MOSQUITTO is not None
        broker = subprocess.Popen([MOSQUITTO, "-p", str(port)], stdout=log, stderr=log)
    received: list[str] = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=options["client_id"])
    client.on_message = lambda _client, _data, message: received.append(message.payload.decode())
    client.on_connect = lambda *_: client.subscribe([(topic, options["qos"]) for topic in options["topics"]])
    ready: list[bool] = []
    client.on_subscribe = lambda *_: ready.append(True)
    deadline = time.monotonic() + 10
    try:
        while True:
            try:
                client.connect("127.0.0.1", port)
                break
            except OSError:
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.05)
        client.loop_start()
        while not ready and time.monotonic() < deadline:
            time.sleep(0.02)
        for board, power_w in ((1, 30.0), (2, 50.0)):
            moments = [first_ns + n * 100_000_000 for n in range(21)]
            text = "".join(f"wattwerk,board={board},scope=accelerator slot_power_w={power_w} {t}\n" for t in moments)
            client.publish(f"sensors/board{board}/power", text, qos=1).wait_for_publish(5)
        while len(received) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        client.disconnect()
        client.loop_stop()
        broker.terminate()
        broker.wait(10)
    sink = open_sink(f"{server.url}/write?db=power")
    sink.write("".join(received))
    sink.close()
    channel = Channel(name="slot_power_w", form="gauge", scope=Scope.ACCELERATOR)
    with InfluxDatabase(server.url, "power") as database:
        for board, energy_j in ((1, 60.0), (2, 100.0)):
            trace = database.trace(channels=[channel], tags={"board": str(board)})
            assert trace.energy("slot_power_w", first_ns, first_ns + 2 * 10**9).value_j == pytest.approx(energy_j)
