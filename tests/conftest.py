"""Fixtures that every test may use."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from tests.meters.influxd import Influxd

from wattwerk.records import Figure, Platform, Record, Setup, Subject, measured

# how long an example takes says something about what else the machine does: no test fails for that
settings.register_profile("wattwerk", deadline=None)
settings.load_profile("wattwerk")


# a shell that starts the tests in the background has them ignore Ctrl-C, and so would the programs that they start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test that is marked ``alone`` wait for those beside it, and those for it, where several run at a time."""
    if "PYTEST_XDIST_WORKER" not in os.environ or fcntl is None:
        return (yield)
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        return (yield)


@pytest.fixture(autouse=True)
def wattwerk_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test away from the user's own store and configuration."""
    home = tmp_path / "wattwerk-home"
    monkeypatch.setenv("WATTWERK_HOME", str(home))
    return home


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a caller of the command line within this process, 80 columns wide: a second quicker than a process."""
    from wattwerk.cli import main

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "argv", ["wattwerk", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as leave:
            main()
        told = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, int(leave.value.code or 0), told.out, told.err)

    return call


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """Return a maker of plain records; keywords replace fields."""

    def make(record_id: str = "0123456789ab", **fields: Any) -> Record:
        figures: dict[str, Figure] = {"latency_p50_s": measured(0.0079, 0.0078, 0.0080)}
        plain: dict[str, Any] = {
            "id": record_id,
            "kind": "bench",
            "group": "aaaaaaaaaaaa",
            "subject": Subject("mobilenet-v2"),
            "platform": Platform("test machine"),
            "setup": Setup(runtime="onnxruntime", precision="fp32", batch=1, device="cpu"),
            "started_at": "2026-01-01T00:00:00.000+00:00",
            "finished_at": "2026-01-01T00:00:10.000+00:00",
            "figures": figures,
        }
        return Record(**(plain | fields))

    return make


@pytest.fixture
def fake_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install the fake runtime and meter as a plug-in, for this process and its children; return their name."""
    folder = tmp_path / "plugins"
    info = folder / "wattwerk_fake-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wattwerk-fake\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[wattwerk.runtimes]\nfake = wattwerk.testing:FakeRuntime\n"
        "[wattwerk.meters]\nfake = wattwerk.testing:FakeMeter\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return "fake"


@pytest.fixture(scope="module")
def influx_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influxd]:
    """A running InfluxDB with a database."""
    with Influxd(tmp_path_factory.mktemp("influxd")) as found:
        for name in ("power", "over_udp"):
            found.query(f"CREATE DATABASE {name}")
        yield found
