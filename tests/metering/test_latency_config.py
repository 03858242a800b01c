from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import pytest

from wattwerk.errors import ConfigError
from wattwerk.metering.latency_config import set_latencies

TEXT = """# my machine
[machine]
label = "bench 3"   # on the left

[ meters."shelly" ]  # behind the desk
url = "http://192.0.2.7"

# the rack
[meters.snmp]
host = "192.0.2.8"
latency_s = 0.5  # from the manual
[[meters.snmp.channels]]
name = "rack_power_w"
oid = "1.3.6.1.4.1"
"""


def written(path: Path, text: str, **latencies: float) -> str:
    """Write latencies into a file, and return its text."""
    path.write_bytes(text.encode())
    set_latencies({name: (value, f"calibrated today: {name}") for name, value in latencies.items()}, path)
    return path.read_bytes().decode()


def test_only_the_latencies_change(tmp_path: Path) -> None:
    """Sections get their value; every other line, the comments included, is as it was; the old file is kept."""
    path = tmp_path / "config.toml"
    text = written(path, TEXT, shelly=1.25, snmp=0.75)
    lines = text.splitlines()
    assert set(TEXT.splitlines()) - set(lines) == {"latency_s = 0.5  # from the manual"}
    assert set(lines) - set(TEXT.splitlines()) == {
        "latency_s = 1.25  # calibrated today: shelly",
        "latency_s = 0.75  # calibrated today: snmp",
        "# from the manual",
    }
    assert tomllib.loads(text)["meters"]["shelly"] == {"url": "http://192.0.2.7", "latency_s": 1.25}
    assert (tmp_path / "config.toml.bak").read_text() == TEXT
    again = written(path, text, shelly=1.5)
    assert again == text.replace("latency_s = 1.25", "latency_s = 1.5")
    assert (tmp_path / "config.toml.bak1").read_text() == text
    assert sorted(os.listdir(tmp_path)) == ["config.toml", "config.toml.bak", "config.toml.bak1"]


def test_line_ends_rights_and_links_stay(tmp_path: Path) -> None:
    """A file with Windows' line ends keeps them, a private one stays private, and a link stays a link."""
    real, link = tmp_path / "real.toml", tmp_path / "config.toml"
    real.write_bytes(TEXT.replace("\n", "\r\n").encode())
    real.chmod(0o600)
    link.symlink_to(real)
    set_latencies({"shelly": (2.0, "c")}, link)
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert real.read_bytes().count(b"\n") == real.read_bytes().count(b"\r\n") == TEXT.count("\n") + 1


def test_a_header_at_the_very_end(tmp_path: Path) -> None:
    """A section without a line end behind it gets one."""
    text = written(tmp_path / "config.toml", '[meters.shelly]\nurl = "a"\n[meters.snmp]', snmp=1.0)
    assert tomllib.loads(text)["meters"]["snmp"] == {"latency_s": 1.0}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[meters.other]\n",
        'meters.shelly.url = "a"\n',
        'meters = { shelly = { url = "a" } }\n',
        'note = """\n[meters.shelly]\n"""\n',
        'note = """\n[meters.shelly]\n"""\n[meters.shelly]\nurl = "a"\n',
        '[meters.shelly]\nnote = """\nlatency_s = 3\n"""\n',
        "[meters.shelly]\nurl = \n",
        "[meters.shelly\n",
    ],
)
def test_what_is_not_certain_is_refused(tmp_path: Path, text: str) -> None:
    """No such section, another way to write it, a text that looks like one, and no TOML: nothing is written."""
    path = tmp_path / "config.toml"
    with pytest.raises(ConfigError, match="by hand"):
        written(path, text, shelly=1.0)
    assert path.read_bytes() == text.encode()
    assert os.listdir(tmp_path) == ["config.toml"]


def test_a_missing_file(tmp_path: Path) -> None:
    """Without a file there is nothing to write into."""
    with pytest.raises(ConfigError, match="cannot read"):
        set_latencies({"shelly": (1.0, "c")}, tmp_path / "config.toml")
