"""``wattwerk meter`` as a person types it: real processes, signals, streams."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("httpx")

from tests.meters.http_device import Device
from tests.meters.test_shelly import second_generation

from wattwerk.records import Record
from wattwerk.store import Store

MODEL = "[meters.cpu-model]\nidle_w = 10.0\nmax_w = 50.0\n"
METER = [sys.executable, "-m", "wattwerk", "meter"]


@pytest.fixture(autouse=True)
def configured(wattwerk_home: Path) -> None:
    """Configure a processor, so that the bounds are known on any machine."""
    wattwerk_home.mkdir()
    (wattwerk_home / "config.toml").write_text(MODEL)


def meter(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [*METER, *arguments], capture_output=True, text=True, timeout=60, check=False, input=stdin, errors="replace"
    )


def records() -> list[Record]:
    """Return what was stored."""
    with Store() as store:
        return store.records()


def test_streams_are_the_commands_and_the_block_fits_80_columns() -> None:
    """Standard input and output pass untouched; the block is on the standard error output, after the command's own."""
    answer = meter("--idle", "0.4", "--", "sh", "-c", "cat; echo oops >&2; sleep 0.7; exit 3", stdin="a\x00b\n")
    assert answer.returncode == 3
    assert answer.stdout == "a\x00b\n"
    lines = answer.stderr.splitlines()
    assert lines[0] == "oops"
    assert max(map(len, lines)) <= 80
    told = "\n".join(lines)
    for word in ("time", "CPU", "gross", "net", "mean", "peak", "system", "~", "CO2", "EUR", "modelled", "exit code 3"):
        assert word in told, told
    (record,) = records()
    assert record.kind == "command"
    assert record.id.startswith(told.rpartition("record ")[2][:6])


def test_json_and_output_and_repeat(tmp_path: Path) -> None:
    """``--output`` takes what would go to the standard error output; with ``--json`` it can be computed with."""
    path = tmp_path / "told.json"
    answer = meter("-n", "2", "--name", "rest", "--json", "-o", str(path), "--no-record", "--", "sh", "-c", "echo hi")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "hi\nhi\n", "")
    told = json.loads(path.read_text())
    assert [record["subject"]["name"] for record in told["records"]] == ["rest", "rest"]
    assert told["mean"]["duration_s"]["low"] is not None
    assert told["records"][0]["figures"]["cpu_energy_j"]["provenance"] == "modelled"
    assert records() == []


def test_options_end_at_the_command() -> None:
    """The command's own options are its own, also without the two dashes."""
    answer = meter("--no-record", "sh", "-c", "echo $0 $@", "--repeat", "--json")
    assert answer.stdout == "--repeat --json\n"


def interrupted(number: int, *arguments: str, group: bool) -> tuple[int, str]:
    """Start a command, send a signal once it runs, and return exit code and what was told."""
    process = subprocess.Popen(
        [*METER, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    (os.killpg if group else os.kill)(process.pid, number)
    _, told = process.communicate(timeout=30)
    return process.returncode, told


def test_ctrl_c_reaches_the_command_and_the_figures_are_told_nonetheless() -> None:
    """What the terminal sends to both: the command cleans up with an exit code of its own, and is measured."""
    script = "trap 'echo cleaning >&2; exit 9' INT; echo ready; while :; do sleep 0.05; done"
    code, told = interrupted(signal.SIGINT, "--", "sh", "-c", script, group=True)
    assert code == 9
    assert "cleaning" in told
    assert "energy" in told
    assert records()[0].reason == "exit code 9"


def test_a_command_that_ctrl_c_ends_gives_130() -> None:
    """128 and the signal's number, as a shell tells it; no further run is begun."""
    code, told = interrupted(signal.SIGINT, "-n", "5", "--", "sh", "-c", "echo ready; exec sleep 30", group=True)
    assert code == 130
    assert "SIGINT" in told
    assert len(records()) == 1


def test_a_signal_to_the_meter_alone_is_passed_on() -> None:
    """As a batch system ends what it started: by SIGTERM to the process that it knows."""
    code, told = interrupted(signal.SIGTERM, "--", "sh", "-c", "echo ready; exec sleep 30", group=False)
    assert code == 143
    assert "SIGTERM" in told
    assert records()[0].reason == "ended by SIGTERM"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "named"),
    [
        ([], 2, "no command"),
        (["--", "no-such-command-here"], 127, "no-such-command-here"),
        (["--", "/"], 126, "cannot be executed"),
        (["--duration", "3", "--", "true"], 2, "--duration"),
        (["--live", "--", "true"], 2, "--live"),
        (["--repeat", "2", "--live"], 2, "--repeat"),
        (["--repeat", "0", "--", "true"], 2, "--repeat 0"),
        (["--idle", "nan", "--", "true"], 2, "--idle"),
        (["--rate", "0", "--", "true"], 2, "0 Hz"),
        (["--country", "DEU", "--carbon", "3", "--", "true"], 2, "--country and --carbon"),
        (["--country", "Atlantis", "--", "true"], 2, "Atlantis"),
        (["--tariff", "cheap", "--", "true"], 2, "cheap"),
        (["--pue", "0.5", "--", "true"], 2, "PUE"),
        (["--serve", "port", "--", "true"], 2, "--serve"),
        (["--send", "nowhere", "--live"], 2, "nowhere"),
        (["--send", "ftp://host/x", "--", "true"], 2, "ftp"),
        (["--telegraf", "relay", "--dashboard", "influxdb"], 2, "--telegraf and --dashboard"),
        (["--telegraf", "relay", "--", "true"], 2, "--telegraf"),
        (["--telegraf", "reley"], 2, "relay"),
        (["--dashboard", "graphite"], 2, "graphite"),
        (["--dashboard", "influxdb", "--rate", "3"], 2, "--rate"),
    ],
)
def test_what_cannot_be_is_one_clear_line(arguments: list[str], exit_code: int, named: str) -> None:
    """Nothing is run and nothing is stored; the line names what is wrong."""
    answer = meter(*arguments)
    assert answer.returncode == exit_code, answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert named in answer.stderr
    assert records() == []


def test_configurations_are_printed() -> None:
    """Ready to be written to a file."""
    assert "[[outputs.influxdb" in meter("--telegraf", "relay").stdout
    assert json.loads(meter("--dashboard", "prometheus").stdout)["title"] == "wattwerk"


def test_a_process_that_was_started_early_is_gone_whatever_happens(tmp_path: Path) -> None:
    """Nothing of the recorder is left where the options are wrong, nor after a command."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    cases = ((["--rate", "0", "--", "true"], 2), (["--", "no-such-command-here"], 127), (["--", "true"], 0))
    for arguments, exit_code in cases:
        answer = subprocess.run([*METER, *arguments], env=environment, timeout=60, check=False, capture_output=True)
        assert answer.returncode == exit_code
        assert list(tmp_path.glob("wattwerk-recorder-*")) == []
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in listed


def test_scan_proposes_what_is_there() -> None:
    """Without addresses the sensors of the machine are told in comments; a plug at an address becomes a section."""
    assert all(line.startswith("#") for line in meter("--scan").stdout.splitlines() if line)
    with Device(second_generation()) as plug:
        proposed = tomllib.loads(meter("--scan", plug.url.removeprefix("http://")).stdout)
    assert [section.get("kind", name) for name, section in proposed["meters"].items()] == ["shelly"]


def test_calibrating_needs_a_slow_meter() -> None:
    """Where no meter is slow there is nothing to calibrate, and the machine is not loaded for it."""
    begin = time.monotonic()
    answer = meter("--calibrate")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "no slow meter to calibrate: add a section [meters.<name>]" in answer.stderr
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("wrong", [("--scan", "--calibrate"), ("--scan", "--live"), ("--write", "--", "true")])
def test_ways_of_using_it_exclude_each_other(wrong: tuple[str, ...]) -> None:
    """Options that do not go together end in one line that says so."""
    answer = meter(*wrong)
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: --")
    assert answer.stderr.count("\n") == 1
