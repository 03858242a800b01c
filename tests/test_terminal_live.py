"""The live view: what it shows of a recorder whose truth is known, at several widths, and how it ends."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from rich.console import Console

from wattwerk.errors import ConfigError, MeasurementError
from wattwerk.meters.live import Live
from wattwerk.meters.recorder import MeterSpec, Recorder
from wattwerk.terminal_live import View, plain_line, sparkline, summary_lines, watch

pytestmark = pytest.mark.alone

FAKE = "wattwerk.testing:FakeMeter"
GPU = MeterSpec(FAKE, {"prefix": "gpu0", "base_w": 70.0, "step_w": 230.0, "period_s": 0.4, "tick_s": 0.1})
PLUG = MeterSpec(FAKE, {"prefix": "plug", "scope": "wall", "base_w": 400.0, "interval_s": 0.2})
LOST = MeterSpec(FAKE, {"prefix": "dram0", "scope": "dram", "base_w": 12.0, "fail_after": 3})
CPU_MODEL = MeterSpec(
    "cpu-model",
    {"idle_w": 20.0, "idle_low_w": 15.0, "idle_high_w": 25.0, "max_w": 90.0, "max_low_w": 80.0, "max_high_w": 99.0,
     "source": "the test"},
)  # fmt: skip


def terminal(width: int, height: int = 30, encoding: str = "utf-8") -> tuple[Console, io.TextIOWrapper]:
    """Return a terminal without colours, and what it is written to."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace", write_through=True)
    return Console(file=file, width=width, height=height, no_color=True, force_terminal=False), file


def shown(view: View, width: int, height: int = 30, encoding: str = "utf-8") -> list[str]:
    """Return the lines of the view in such a terminal."""
    console, file = terminal(width, height, encoding)
    console.print(view.render(console, 60.0))
    file.seek(0)
    return file.read().splitlines()


def test_what_is_shown() -> None:
    """Mean, peak and energy are the fakes' truth; the system is the wall; a lost meter is named, old and unknown."""
    with Recorder([GPU, PLUG, LOST]) as recorder, Live(recorder) as live:
        view = View(live, lambda: [f"meter at fault: {fault}" for fault in recorder.faults])
        end = time.monotonic() + 3.2
        while time.monotonic() < end:
            time.sleep(0.1)
            view.rows()
        rows = {row.name: row for row in view.rows()}
        for width in (30, 40, 56, 80, 132):
            lines = shown(view, width)
            assert max(map(len, lines)) <= width
            assert lines[1].split()[0] == "Channel"
            assert any("400 W" in line for line in lines)
        lines = shown(view, 80)
        short = shown(view, 80, height=10)
        plain = shown(view, 80, encoding="ascii")
        line = plain_line(view)
        told = summary_lines(view.watched())
    assert rows["gpu0"].mean == pytest.approx(185, rel=0.1)
    assert (rows["gpu0"].peak, rows["plug"].peak) == (300, 400)
    assert rows["plug"].mean == pytest.approx(400, rel=0.05)
    assert 400 * 2 < rows["plug"].energy_j < 400 * 5
    assert np.isnan(rows["dram0"].now)
    assert 2 < rows["dram0"].age_s < 6
    assert rows["gpu0"].age == ""
    assert 0 < rows["plug"].age_s < 1
    assert rows["plug"].age.endswith(" s")
    system = next(text for text in lines if text.startswith("system"))
    assert system.split()[:5] == ["system,", "wall", "plug", "400", "W"]
    dram = next(text for text in lines if text.startswith("dram "))
    assert "s unknown" in dram
    assert " – " in dram
    assert any(text.startswith("meter at fault: wattwerk.testing:FakeMeter:") for text in lines)
    assert "… and" in " ".join(short)
    assert any(c in "".join(plain) for c in "@#*")
    assert "system, wall 400 W" in line
    assert line.endswith("1 fault")
    assert told[1].startswith("system, wall (plug): ")
    assert " W on average" in told[1]
    assert "scopes overlap and are not to be added up" in told


def test_modelled_values_have_a_mark() -> None:
    """A modelled power has a tilde everywhere, and the summary says what it means."""
    with Recorder([CPU_MODEL]) as recorder, Live(recorder) as live:
        view = View(live, list)
        time.sleep(1.5)
        lines = shown(view, 80)
        told = summary_lines(view.watched())
    assert next(line for line in lines if line.startswith("cpu")).count("~") >= 3
    assert "~ modelled from the load of the CPU, not measured" in told


def test_no_meter_of_power() -> None:
    """Where only the load is known, the view says so, and shows it."""
    with Recorder([MeterSpec("host-load", {})]) as recorder:
        console, file = terminal(80)
        watched = watch(recorder, duration_s=0.5, console=console)
        file.seek(0)
        assert "no meter of power or energy" in file.read()
    assert watched.totals == {}


def test_sparklines() -> None:
    """Bars stand between zero and the largest value; what was not measured is blank; nothing at all is all blank."""
    assert sparkline(np.array([0.0, 50.0, 100.0]), 3) == "▁▅█"
    assert sparkline(np.array([np.nan, 100.0, np.nan, 99.0]), 4) == " █ █"
    assert sparkline(np.array([10.0, 10.0, 0.0, 0.0]), 2) == "█▁"
    assert sparkline(np.full(8, np.nan), 5) == "     "
    assert sparkline(np.zeros(4), 4) == "▁▁▁▁"
    assert sparkline(np.array([-5.0, 5.0]), 2) == "▁█"


def test_a_total_that_cannot_be() -> None:
    """A channel that is not there is an error with the nearest one, and no empty view."""
    with Recorder([GPU]) as recorder, pytest.raises(ConfigError, match="did you mean 'gpu0_power_w'"):
        watch(recorder, duration_s=1, total=["gpu_power_w"])


def test_a_recorder_that_dies() -> None:
    """If the sampling process ends, watching ends with the reason."""
    dying = MeterSpec(FAKE, {"exit_after": 5})
    console, _ = terminal(80)
    with Recorder([dying]) as recorder, pytest.raises(MeasurementError, match="the recorder's process ended"):
        watch(recorder, duration_s=10, console=console)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("in_terminal", [True, False])
def test_ctrl_c_ends_it_with_a_summary(in_terminal: bool) -> None:
    """Ctrl-C is the end and no error, in a terminal and in a pipe; the pipe has got plain lines before."""
    program = textwrap.dedent(f"""
        from rich.console import Console
        from wattwerk.meters.recorder import MeterSpec, Recorder
        from wattwerk.terminal_live import watch
        with Recorder([MeterSpec("{FAKE}", {{"scope": "wall", "base_w": 40.0}})]) as recorder:
            print("ready", flush=True)
            watched = watch(recorder, console=Console(width=80, height=24, force_terminal={in_terminal}))
            print(f"after {{watched.totals['system'].energy_j / 40:.1f}} s", flush=True)
    """)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(1.6)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "system, wall (fake): " in told
    found = re.search(r"([\d.]+) W on average", told)
    assert found
    assert float(found[1]) == pytest.approx(40, rel=0.05)
    assert 0.9 < float(told.rpartition("after ")[2].split()[0]) < 3
    assert ("\x1b[" in told) == in_terminal
    assert ("s; system, wall 40.0 W" in told) == (not in_terminal)
