from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.ipmi import IpmiConfig, IpmiMeter, parse_period_s, parse_power
from wattwerk.records import Scope

#: Written from the documentation: ipmitool's ``dcmi power reading``.
READING = """
    Instantaneous power reading:                   220 Watts
    Minimum during sampling period:                 70 Watts
    Maximum during sampling period:                600 Watts
    Average power reading over sample period:      215 Watts
    IPMI timestamp:                           Wed Nov 25 10:00:00 2026
    Sampling period:                          00000002 Seconds.
    Power reading state is:                   activated
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], tuple[str, ...]]:
    """Return what writes a script that stands in the command's place."""

    def write(body: str) -> tuple[str, ...]:
        path = tmp_path / "ipmitool"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return (str(path),)

    return write


def printing(text: str) -> str:
    """Return a script's body that prints a text."""
    return f"cat <<'END'\n{text}\nEND"


def test_a_reading(script: Callable[[str], tuple[str, ...]]) -> None:
    """The momentary power is read, of the scope node; the stated sampling period is the latency."""
    meter = IpmiMeter(IpmiConfig(command=script('test "$*" = "dcmi power reading" || exit 1\n' + printing(READING))))
    assert meter.read() == [220.0]
    assert (meter.channels[0].name, meter.channels[0].scope) == ("ipmi_power_w", Scope.NODE)
    assert (meter.interval_s, meter.latency_s) == (1.0, 2.0)


@pytest.mark.parametrize(
    "text",
    [
        READING.replace("220 Watts", "0 Watts"),
        READING.replace("220 Watts", "-5 Watts"),
        READING.replace("220 Watts", "65535 Watts"),
        READING.replace("220 Watts", "2x0 Watts"),
        READING.replace(" activated", " deactivated"),
        READING[:40],
        "",
    ],
)
def test_what_cannot_be_is_missing(text: str) -> None:
    """0 W of a node that runs, an absurd number, a cut answer and a reading that is switched off are NaN."""
    assert math.isnan(parse_power(text, 20000.0))


def test_periods() -> None:
    """Milliseconds and seconds are known; one that is beyond belief is not taken."""
    assert parse_period_s("Sampling period: 00000500 Milliseconds") == 0.5
    assert math.isnan(parse_period_s("Sampling period: 00086400 Seconds."))


def test_a_remote_bmc_keeps_its_password(
    script: Callable[[str], tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The password goes through the environment, not through the command line, and stands in no message."""
    command = script(f'echo "$*" >{tmp_path}/words; echo "Error: $IPMI_PASSWORD" | wc -c; exit 1')
    config = IpmiConfig(host="bmc.example", user="wattwerk", password_env="MY_BMC", command=command)
    with pytest.raises(ConfigError, match="MY_BMC is not set"):
        IpmiMeter(config)
    monkeypatch.setenv("MY_BMC", "geheim")
    with pytest.raises(UnavailableError, match=r"BMC at bmc\.example tells no power \(14\)") as caught:
        IpmiMeter(config)
    assert "geheim" not in str(caught.value)
    words = (tmp_path / "words").read_text().strip()
    assert words == "-I lanplus -H bmc.example -U wattwerk -E dcmi power reading"
    with pytest.raises(ConfigError, match="user is empty"):
        IpmiMeter(IpmiConfig(host="bmc.example"))


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("DCMI not supported!", "wall meter"),
        ("Could not open device at /dev/ipmi0 or /dev/ipmi/0: No such file or directory", "modprobe"),
        ("Error: Unable to establish IPMI v2 / RMCP+ session", "password"),
        ("    Instantaneous power reading: 0 Watts", "by hand"),
        ("", "by hand"),
    ],
)
def test_refusals(script: Callable[[str], tuple[str, ...]], text: str, remedy: str) -> None:
    """What ipmitool says is told, with what to do about it."""
    with pytest.raises(UnavailableError) as caught:
        IpmiMeter(IpmiConfig(command=script(f"{printing(text)} >&2\nexit 1")))
    assert remedy in str(caught.value.remedy)


def test_a_bmc_that_stops(script: Callable[[str], tuple[str, ...]], tmp_path: Path) -> None:
    """A BMC that refuses later fails the read; one that hangs is given up in time, its children ended too."""
    meter = IpmiMeter(IpmiConfig(command=script(printing(READING)), timeout_s=0.2))
    script("echo Command not supported; exit 1")
    with pytest.raises(MeasurementError, match="not supported"):
        meter.read()
    script(f"sleep 60 & echo $! >{tmp_path}/child; wait")
    start_s = time.monotonic()
    with pytest.raises(MeasurementError, match=r"did not answer within 0\.2 s"):
        meter.read()
    assert time.monotonic() - start_s < 5
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "cmdline")
    while child.exists() and child.read_bytes() and time.monotonic() - start_s < 5:  # a zombie has no command line
        time.sleep(0.01)
    assert not child.exists() or not child.read_bytes()


def test_probe_never_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without ipmitool, and with a section that is wrong, probe says what to do."""
    monkeypatch.setenv("WATTWERK_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install ipmitool" in str(IpmiMeter.probe().remedy)
    (tmp_path / "config.toml").write_text("[meters.ipmi]\nhosst = 1\n")
    assert "host" in str(IpmiMeter.probe().remedy)
