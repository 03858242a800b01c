"""What goes to a real InfluxDB and to a scraper while a command runs, and without one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from tests.meters.influxd import INFLUXD, Influxd, free_port

pytest.importorskip("prometheus_client")
METER = [sys.executable, "-m", "wattwerk", "meter"]


@pytest.fixture(autouse=True)
def configured(wattwerk_home: Path) -> None:
    """Configure a processor that is modelled, as there may be no sensor."""
    wattwerk_home.mkdir()
    (wattwerk_home / "config.toml").write_text("[meters.cpu-model]\nidle_w = 10.0\nmax_w = 50.0\n")


def scraped(port: int) -> str:
    """Return what Prometheus would find, once it answers."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                text: str = answer.read().decode()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return text


@pytest.mark.skipif(INFLUXD is None, reason="needs influxd")
def test_a_command_is_sent_and_served_while_it_runs(influx_server: Influxd) -> None:
    """The data base holds the run's totals afterwards, the scraper found them meanwhile; the exit code passes."""
    port, url = free_port(), f"{influx_server.url}/write?db=power"
    process = subprocess.Popen(
        [*METER, "--send", url, "--serve", str(port), "--", "sh", "-c", "sleep 3; exit 6"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    served = scraped(port)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 6, told
    assert "at fault" not in told
    assert 'wattwerk_total_energy_joules_total{provenance="modelled",scope="system"}' in served
    (series,) = influx_server.query("SELECT last(energy_j) FROM wattwerk_total WHERE scope = 'system'", "power")
    assert 10 * 2.5 <= series["values"][0][1] <= 50 * 10


def test_serving_without_a_command_ends_by_ctrl_c(tmp_path: Path) -> None:
    """Where values go is told; a file gets lines; Ctrl-C ends it with what was watched."""
    port, path = free_port(), tmp_path / "power.lp"
    process = subprocess.Popen(
        [*METER, "--serve", f"127.0.0.1:{port}", "--send", f"file:{path}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert "wattwerk_power_watts" in scraped(port) or "wattwerk_energy_joules" in scraped(port)
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    told, places = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"http://127.0.0.1:{port}/metrics" in places
    assert str(path) in places
    assert "watched for" in told
    assert "wattwerk_total" in path.read_text()


def test_a_server_that_is_not_there_is_told_before_the_command_runs() -> None:
    """A URL that nothing answers at is an error with exit code 3; the command is not started."""
    answer = subprocess.run(
        [*METER, "--send", f"http://127.0.0.1:{free_port()}/write?db=power", "--", "echo", "ran"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (answer.returncode, answer.stdout) == (3, "")
    assert len(answer.stderr.strip().splitlines()) == 1
