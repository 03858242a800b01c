"""Samples on their way to a data base while they are recorded, and read back from there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.meters.influxd import INFLUXD, Influxd, free_port

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.base import Channel
from wattwerk.meters.forward import Forwarder
from wattwerk.meters.influx_read import InfluxDatabase
from wattwerk.meters.line_protocol import Clock, parse_line
from wattwerk.meters.recorder import MeterSpec, Recorder
from wattwerk.meters.sink_config import open_all_configured, sink_configs
from wattwerk.meters.sinks import Sink, open_sink
from wattwerk.records import Scope

FAKE = "wattwerk.testing:FakeMeter"
TICKING = MeterSpec(FAKE, {"prefix": "gpu0", "base_w": 200.0, "step_w": 150.0, "tick_s": 0.1, "accuracy_ratio": 0.02})
WALL = {"prefix": "plug", "scope": "wall", "base_w": 320.0, "step_w": 150.0}
SLOW = MeterSpec(FAKE, {**WALL, "interval_s": 0.2, "delay_s": 0.03, "latency_s": 0.1})
GAPPY = MeterSpec(FAKE, {"prefix": "cpu0", "scope": "cpu_package", "base_w": 50.0, "fail_every": 4})
needs_influxd = pytest.mark.skipif(INFLUXD is None, reason="needs influxd (Debian: apt-get install influxdb)")


@needs_influxd
def test_energies_come_back_from_the_data_base(influx_server: Influxd) -> None:
    """Value, bounds, provenance, scope and samples of each energy are the same from the data base as from the recorder.

    The counter is locked to ticks, one meter is slow and lags behind, one fails at every fourth read; both clocks are
    read once, within microseconds, so energies differ by no more than the power in that time.
    """
    with Recorder([TICKING, SLOW, GAPPY], rate_hz=20) as recorder:
        clock = Clock.now()
        sinks = {"influx": open_sink(f"{influx_server.url}/write?db=power")}
        with Forwarder(recorder, sinks, tags={"run": "round trip's", "host": "edge 1"}, interval_s=0.2) as forwarder:
            time.sleep(0.7)
            start = time.perf_counter_ns()
            time.sleep(1.6)
            end = time.perf_counter_ns()
            time.sleep(0.6)
        kept = recorder.trace(until_ns=end)
        assert [(s.lost_count, s.waiting_count, s.error) for s in forwarder.states()] == [(0, 0, "")]
    with InfluxDatabase(influx_server.url, "power") as database:
        found = database.trace("round trip's", since_ns=clock.unix(start), until_ns=clock.unix(end))
    assert found.locked == kept.locked == "gpu0_energy_j"
    assert set(found.slow) == set(kept.slow) == {"plug_energy_j", "plug_power_w"}
    assert sorted(found.channels, key=lambda c: c.name) == sorted(kept.channels, key=lambda c: c.name)
    for channel in kept.channels:
        before = kept.energy(channel.name, start, end)
        after = found.energy(channel.name, clock.unix(start), clock.unix(end))
        assert (after.samples, after.provenance, after.scope) == (before.samples, before.provenance, before.scope)
        assert after.note == before.note
        for field in ("value_j", "low_j", "high_j"):
            assert getattr(after, field) == pytest.approx(getattr(before, field), abs=470 * 2e-4), (channel.name, field)
    truth = 1.6 * 275  # of the GPU: 200 W, and half of the time 150 W more
    gpu = found.energy("gpu0_energy_j", clock.unix(start), clock.unix(end))
    assert gpu.low_j * 0.9 <= truth * (end - start) / 1.6e9 <= gpu.high_j * 1.1


@needs_influxd
def test_totals_count_nothing_twice(influx_server: Influxd) -> None:
    """The data base's total of the system is the wall's energy, and not that of the wall and what is behind it."""
    with Recorder([TICKING, SLOW]) as recorder:
        sinks = {"influx": open_sink(f"{influx_server.url}/write?db=power")}
        with Forwarder(recorder, sinks, tags={"run": "totals"}, interval_s=0.2):
            time.sleep(2.6)
    last = influx_server.query("SELECT last(power_w) FROM wattwerk_total WHERE run = 'totals' GROUP BY scope", "power")
    found = {series["tags"]["scope"]: series["values"][0][1] for series in last}
    assert set(found) == {"system", "wall", "accelerator"}
    assert found["system"] == found["wall"]
    assert found["wall"] in (320.0, 470.0)
    assert found["accelerator"] in (200.0, 350.0)
    energy = influx_server.query(
        "SELECT max(energy_j) FROM wattwerk_total WHERE run = 'totals' GROUP BY scope", "power"
    )
    joules = {series["tags"]["scope"]: series["values"][0][1] for series in energy}
    assert joules["system"] == joules["wall"] > 1.3 * joules["accelerator"] > 0


@needs_influxd
def test_over_udp_and_into_a_file(influx_server: Influxd, tmp_path: Path) -> None:
    """The same samples reach a UDP listener and a file; each line of the file can be read."""
    path = tmp_path / "power.lp"
    with Recorder([GAPPY]) as recorder:
        sinks = {"udp": open_sink(f"udp://127.0.0.1:{influx_server.udp_port}"), "file": open_sink(f"file:{path}")}
        with Forwarder(recorder, sinks, tags={"run": "both"}, interval_s=0.1):
            time.sleep(1.0)
    kept = [parse_line(line) for line in path.read_text().splitlines()]
    powers = {point.unix_ns for point in kept if "cpu0_power_w" in point.fields and point.measurement == "wattwerk"}
    deadline = time.monotonic() + 10
    count = 0
    while count < len(powers) and time.monotonic() < deadline:
        time.sleep(0.1)
        found = influx_server.query("SELECT count(cpu0_power_w) FROM wattwerk WHERE run = 'both'", "over_udp")
        count = found[0]["values"][0][1] if found else 0
    assert len(powers) > 5
    assert len(powers) - 1 <= count <= len(powers)  # a busy machine may lose a datagram, and nobody sends it again


@needs_influxd
def test_a_server_that_is_away_for_the_whole_run(
    tmp_path: Path, wattwerk_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was recorded while the server was away waits on disk, is told, and is sent by the next run."""
    monkeypatch.setattr("wattwerk.meters.sinks._PAUSE_S", 0.2)
    server = Influxd(tmp_path)
    server.query("CREATE DATABASE power")
    server.stop()
    wattwerk_home.mkdir()
    (wattwerk_home / "config.toml").write_text(f'[sinks.influx]\nurl = "{server.url}"\ndatabase = "power"\n')
    with Recorder([GAPPY]) as recorder, Forwarder(recorder, open_all_configured(), tags={"run": "one"}) as forwarder:
        time.sleep(1.5)
        recorded = len(recorder.trace().time_ns)
        told = forwarder.faults()
    assert "lines wait" in told[0]
    assert "sink influx: " in told[0]
    state = forwarder.states()[0]
    assert state.waiting_count == state.sent_count > recorded / 2
    assert state.lost_count == 0
    server.start()
    with Recorder([GAPPY]) as recorder, Forwarder(recorder, open_all_configured(), tags={"run": "two"}) as forwarder:
        time.sleep(0.5)
    assert forwarder.faults() == []
    with InfluxDatabase(server.url, "power") as database:
        assert [one.run for one in database.runs()] == ["one", "two"]
        assert len(database.trace("one").time_ns) >= 0.7 * recorded
        with pytest.raises(ConfigError, match="has 2 such runs: name one of them"):
            database.trace()
        with pytest.raises(MeasurementError, match="describes no channels of run three"):
            database.trace("three")
    server.stop()


def test_lost_lines_are_told(tmp_path: Path) -> None:
    """A server that never comes back costs what goes beyond the bound, oldest first, and the faults say how much."""
    sink = open_sink(
        f"http://127.0.0.1:{free_port()}/write?db=x", spool=tmp_path / "s.db", held_bytes=2000, patient=True
    )
    with Recorder([GAPPY]) as recorder, Forwarder(recorder, {"influx": sink}, interval_s=0.1) as forwarder:
        time.sleep(2.0)
        told = forwarder.faults()[0]
    state = forwarder.states()[0]
    assert state.lost_count + state.waiting_count == state.sent_count
    assert state.lost_count > state.waiting_count > 0
    assert "were lost" in told


def test_a_sink_that_raises_is_a_fault_and_no_end_of_the_measurement() -> None:
    """An error that nobody expects ends its own sink, is told, and leaves recorder and other sinks alone."""

    class Broken(Sink):
        def write(self, text: str) -> None:
            raise RuntimeError("out of order")

    with Recorder([GAPPY]) as recorder, Forwarder(recorder, {"broken": Broken()}, interval_s=0.1) as forwarder:
        time.sleep(0.4)
        assert forwarder.faults() == ["sink broken: forwarding ended: RuntimeError: out of order"]
        assert len(recorder.trace().time_ns) > 0


def test_a_recorder_that_dies_is_told(tmp_path: Path) -> None:
    """If the sampling process ends by itself, what it left is sent, and the faults say that nothing more comes."""
    path = tmp_path / "power.lp"
    dying = MeterSpec(FAKE, {"exit_after": 5})
    with Recorder([dying]) as recorder:
        with Forwarder(recorder, {"file": open_sink(f"file:{path}")}, interval_s=0.1) as forwarder:
            deadline = time.monotonic() + 10
            while not forwarder.faults() and time.monotonic() < deadline:
                time.sleep(0.05)
        assert "sink file: forwarding ended: MeasurementError: the recorder's process ended" in forwarder.faults()[0]
    lines = [parse_line(line) for line in path.read_text().splitlines()]
    assert sum("fake_power_w" in line.fields for line in lines) >= 4


@needs_influxd
def test_values_that_no_recorder_described(influx_server: Influxd) -> None:
    """Energy of what a micro-controller sent through Telegraf: channels are given, ten readings of 12 W over 9 s."""
    sink = open_sink(f"{influx_server.url}/write?db=power")
    first_ns = 1_764_000_000_000_000_000
    sink.write("".join(f"naa,board=2 slot_power_w=12.0 {first_ns + n * 10**9}\n" for n in range(10)))
    sink.close()
    channel = Channel(name="slot_power_w", form="gauge", scope=Scope.ACCELERATOR, accuracy_ratio=0.01)
    with InfluxDatabase(influx_server.url, "power") as database:
        trace = database.trace(channels=[channel], measurement="naa")
        energy = trace.energy("slot_power_w", first_ns, first_ns + 9 * 10**9)
        assert energy.value_j == pytest.approx(108)
        assert (energy.low_j, energy.high_j) == pytest.approx((108 * 0.99, 108 * 1.01))
        with pytest.raises(MeasurementError, match="has no sample of slot_power_w in this time"):
            database.trace(channels=[channel], measurement="naa", until_ns=first_ns - 10**12)


@needs_influxd
def test_pages(influx_server: Influxd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in pages of seven rows, a trace is the same, also where a page ends between two rows of one time."""
    sink = open_sink(f"{influx_server.url}/write?db=power")
    lines = [f"paged,scope={scope} {scope}_w={n}.0 {10**18 + n}" for n in range(100) for scope in ("a", "b")]
    sink.write("\n".join(lines) + "\n")
    sink.close()
    channels = [Channel(name="a_w", form="gauge"), Channel(name="b_w", form="gauge")]
    with InfluxDatabase(influx_server.url, "power") as database:
        whole = database.trace(channels=channels, measurement="paged")
        monkeypatch.setattr("wattwerk.meters.influx_read._PAGE", 7)
        paged = database.trace(channels=channels, measurement="paged")
    assert whole.time_ns.tolist() == paged.time_ns.tolist() == [10**18 + n for n in range(100)]
    assert whole.values.tolist() == paged.values.tolist() == [[n, n] for n in range(100)]


@needs_influxd
def test_a_data_base_that_is_not_there(influx_server: Influxd) -> None:
    """A missing database, a wrong port and another server are errors that name the place."""
    with (
        InfluxDatabase(influx_server.url, "cellar") as database,
        pytest.raises(ConfigError, match=r"cellar: .*not found"),
    ):
        database.runs()
    nobody = f"http://127.0.0.1:{free_port()}"
    with InfluxDatabase(nobody, "power") as database, pytest.raises(UnavailableError, match="does not answer"):
        database.runs()
    with pytest.raises(ConfigError, match="which database"):
        InfluxDatabase(influx_server.url)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sinks]\ninflux = 3", r"\[sinks.influx\] is not a table"),
        ('[sinks.influx]\nurl = "http://h:8086"', "which database"),
        ('[sinks.influx]\nurl = "http://h:8086"\nbucket = "b"', "bucket needs org"),
        ('[sinks.influx]\nurl = "udp://h:1"\ndatabase = "b"', "takes no database"),
        ('[sinks.influx]\nurl = "http://h:8086"\ndatabse = "b"', "unknown key 'databse'"),
        ('[sinks.influx]\nurl = "http://h:8086"\ndatabase = "b"\nspool_bytes = -1', "use 0 or more"),
        ('[sinks."a/b"]\nurl = "file:x"', "this name cannot be used"),
    ],
)
def test_sections_that_cannot_be_used(text: str, message: str, wattwerk_home: Path) -> None:
    """A wrong section is an error that names it, before anything is opened."""
    wattwerk_home.mkdir()
    (wattwerk_home / "config.toml").write_text(text + "\n")
    with pytest.raises(ConfigError, match=message):
        sink_configs()


def test_no_sink_is_configured() -> None:
    """Without any section the error says what to write."""
    with pytest.raises(ConfigError, match=r"add a section \[sinks.influx\]"):
        open_all_configured()
