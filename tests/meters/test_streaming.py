"""What ``config.toml`` says about sinks and endpoint, done by a running recorder."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import pytest

from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.meters.line_protocol import parse_line
from wattwerk.meters.recorder import MeterSpec, Recorder
from wattwerk.meters.streaming import streaming

pytest.importorskip("prometheus_client")
SPECS = [
    MeterSpec("wattwerk.testing:FakeMeter", {"prefix": "case", "scope": "wall", "base_w": 40.0}),
    MeterSpec("wattwerk.testing:FakeMeter", {"prefix": "switch", "scope": "switch", "base_w": 25.0}),
    MeterSpec("wattwerk.testing:FakeMeter", {"prefix": "gpu0", "base_w": 30.0}),
]


def configure(home: Path, text: str) -> None:
    """Write a configuration."""
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(text)


def stream(recorder: Recorder, *, exporter: bool = False) -> None:
    """Stream for no time at all."""
    with streaming(recorder, exporter=exporter):
        return


def test_sinks_and_endpoint_of_the_configuration(tmp_path: Path, wattwerk_home: Path) -> None:
    """Tags, interval and total are those of [forward]; file and endpoint get the same total of case and switch."""
    path = tmp_path / "power.lp"
    configure(
        wattwerk_home,
        f'[sinks.file]\nurl = "file:{path}"\n[exporter]\nport = 0\n'
        '[forward]\ninterval_s = 0.2\ntotal = ["case_power_w", "switch_power_w"]\n'
        'tags = {run = "seven", room = "a b"}\n',
    )
    with Recorder(SPECS) as recorder, streaming(recorder, exporter=True) as stream:
        time.sleep(1.2)
        assert stream.exporter is not None
        with urllib.request.urlopen(f"http://127.0.0.1:{stream.exporter.port}/metrics", timeout=5) as answer:
            served = answer.read().decode()
        assert stream.places()[0] == "run seven goes to file"
        assert f"http://127.0.0.1:{stream.exporter.port}/metrics" in stream.places()[1]
        assert stream.faults() == []
    lines = [parse_line(line) for line in path.read_text().splitlines()]
    assert {(line.tags["run"], line.tags["room"]) for line in lines} == {("seven", "a b")}
    totals = [line for line in lines if line.measurement == "wattwerk_total" and line.tags["scope"] == "system"]
    assert len(totals) >= 4
    assert {line.fields["power_w"] for line in totals} == {65.0}
    assert 'wattwerk_total_power_watts{provenance="derived",scope="system"} 65.0' in served
    assert 'wattwerk_total_power_watts{provenance="measured",scope="accelerator"} 30.0' in served


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[forward]\ninterval_s = 0", "forwarding every 0 s"),
        ("[forward]\ntotal = ['wall_power_w']", "wall_power_w gives neither energy nor power"),
        ("[forward]\ntags = {run = \"a\\nb\"}", "cannot be sent"),
        ("[exporter]\nprot = 1", "did you mean 'port'"),
        ("[exporter]\nport = 99999", "cannot be listened at"),
    ],
)  # fmt: skip
def test_sections_that_cannot_be_used(text: str, message: str, tmp_path: Path, wattwerk_home: Path) -> None:
    """A wrong section is an error that says what is wrong, and everything that was opened is closed again."""
    configure(wattwerk_home, f'[sinks.file]\nurl = "file:{tmp_path}/a.lp"\n{text}\n')
    with Recorder(SPECS[:1]) as recorder, pytest.raises(ConfigError, match=message):
        stream(recorder, exporter="exporter" in text)


def test_a_token_that_is_not_there(wattwerk_home: Path) -> None:
    """A variable that should hold the token and is not set is named."""
    configure(
        wattwerk_home,
        '[sinks.cloud]\nurl = "http://127.0.0.1:1"\norg = "o"\nbucket = "b"\ntoken_env = "NOBODY_SETS_THIS"\n',
    )
    with Recorder(SPECS[:1]) as recorder, pytest.raises(ConfigError, match="NOBODY_SETS_THIS is not set"):
        stream(recorder)


def test_without_a_spool_the_server_has_to_be_there(wattwerk_home: Path) -> None:
    """Where nothing may wait on disk, a server that does not answer is an error before anything is measured."""
    configure(wattwerk_home, '[sinks.x]\nurl = "http://127.0.0.1:1"\ndatabase = "d"\nspool_bytes = 0\n')
    with Recorder(SPECS[:1]) as recorder, pytest.raises(UnavailableError, match="does not answer"):
        stream(recorder)
