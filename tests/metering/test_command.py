"""Commands that are measured: real processes, and meters whose truth is known."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from wattwerk.errors import ConfigError
from wattwerk.metering import run_command
from wattwerk.metering.child import CommandError
from wattwerk.meters.recorder import MeterSpec
from wattwerk.records import Figure, Provenance, Status
from wattwerk.store import Store

pytestmark = pytest.mark.alone

FAKE = "wattwerk.testing:FakeMeter"
#: The accuracy that is stated covers what a busy machine reads late.
SPECS = [
    MeterSpec(FAKE, {"prefix": "wall", "scope": "wall", "base_w": 80.0, "accuracy_ratio": 0.02}),
    MeterSpec(FAKE, {"prefix": "gpu0", "base_w": 200.0, "accuracy_ratio": 0.02}),
    MeterSpec(FAKE, {"prefix": "gpu1", "base_w": 100.0, "accuracy_ratio": 0.02}),
]
BUSY = "import time\nend = time.perf_counter() + 0.4\nwhile time.perf_counter() < end: pass"


def holds(figure: Figure, truth: float) -> bool:
    """Return whether the bounds hold the truth."""
    return figure.low is not None and figure.high is not None and figure.low <= truth <= figure.high


def test_a_command_has_time_energy_processor_time_and_a_record() -> None:
    """The energy holds what the meter truly gave over the command's time; the record is stored under its line."""
    outcome = run_command([sys.executable, "-c", BUSY, "--token", "abc"], specs=SPECS, account={"country": "DEU"})
    assert (outcome.exit_code, outcome.faults) == (0, [])
    (record,) = outcome.records
    figures = record.figures
    duration_s = figures["duration_s"].value or 0.0
    assert 0.4 <= duration_s < 5
    assert holds(figures["wall_energy_j"], 80 * duration_s)
    assert holds(figures["wall_power_w"], 80)
    assert figures["gpu_energy_j"].provenance is Provenance.DERIVED  # of two cards
    assert holds(figures["gpu_energy_j"], 300 * duration_s)
    assert figures["wall_peak_power_w"].value == 80
    assert 0.2 <= (figures["cpu_time_s"].value or 0) <= duration_s + 0.1
    assert figures["system_co2_g"].provenance is Provenance.MODELLED
    assert "Germany" in (figures["system_co2_g"].note or "")
    assert record.subject.name.endswith("--token '***'")
    with Store() as store:
        assert store.find(record.id) == [record]


@pytest.mark.parametrize(
    ("script", "exit_code", "reason"),
    [("exit 0", 0, ""), ("exit 3", 3, "exit code 3"), ("kill -TERM $$", 143, "ended by SIGTERM")],
)
def test_exit_codes_pass(script: str, exit_code: int, reason: str) -> None:
    """Also that of a command which a signal ended, as a shell tells it; the record says why it failed."""
    outcome = run_command(["sh", "-c", script], specs=SPECS)
    assert outcome.exit_code == exit_code
    (record,) = outcome.records
    assert (record.status is Status.OK, record.reason) == (exit_code == 0, reason)
    assert record.setup.effective["exit_code"] == exit_code


def test_what_cannot_be_started_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    """127 for what is not there, 126 for what is not executable, and nothing is stored."""
    file = tmp_path / "data.txt"
    file.write_text("x")
    for argv, exit_code in ((["no-such-command-here"], 127), ([str(tmp_path / "none")], 127), ([str(file)], 126)):
        with pytest.raises(CommandError) as caught:
            run_command(argv, specs=SPECS)
        assert caught.value.exit_code == exit_code
    for wrong in ({"repeat": 0}, {"pause_s": -1.0}, {"idle_s": float("nan")}):
        with pytest.raises(ConfigError):
            run_command(["true"], specs=SPECS, **wrong)  # type: ignore[arg-type]
    with Store() as store:
        assert store.records() == []


def test_repeats_are_listed_and_their_mean_has_an_interval() -> None:
    """Three runs are three records of one series; the mean lies within its interval, which holds each run's mean."""
    outcome = run_command(["sleep", "0.15"], repeat=3, pause_s=0.05, specs=SPECS)
    durations = [record.figures["duration_s"].value or 0.0 for record in outcome.records]
    assert len({record.group for record in outcome.records}) == 1
    assert [record.setup.protocol["run"] for record in outcome.records] == [1, 2, 3]
    mean = outcome.mean["duration_s"]
    assert mean.value == pytest.approx(sum(durations) / 3)
    assert holds(mean, mean.value or 0.0)
    assert outcome.mean["wall_energy_j"].provenance is Provenance.MEASURED


def test_repeats_stop_at_a_failure_unless_it_is_ignored() -> None:
    """The exit code is that of the last run."""
    assert len(run_command(["false"], repeat=3, specs=SPECS, keep=False).records) == 1
    ignored = run_command(["false"], repeat=3, specs=SPECS, keep=False, ignore_failure=True)
    assert (len(ignored.records), ignored.exit_code) == (3, 1)


def test_the_bounds_of_a_modelled_mean_stay_those_of_the_model() -> None:
    """Repeating a run does not tell more about the machine's processor."""
    model = {"idle_w": 10.0, "max_w": 50.0, "idle_low_w": 5.0, "idle_high_w": 15.0, "max_low_w": 40.0,
             "max_high_w": 60.0, "source": "a test"}  # fmt: skip
    outcome = run_command(["sleep", "0.3"], repeat=3, specs=[MeterSpec("cpu-model", model)], keep=False)
    energy = outcome.mean["cpu_energy_j"]
    assert energy.provenance is Provenance.MODELLED
    assert energy.low is not None
    assert energy.value is not None
    lows = [record.figures["cpu_energy_j"].low or 0.0 for record in outcome.records]
    assert energy.low == pytest.approx(sum(lows) / 3)


def test_idle_gives_net() -> None:
    """The idle machine draws what the meter gives anyway: net of it nothing is left, within bounds."""
    outcome = run_command(["sleep", "0.4"], idle_s=0.5, specs=SPECS, keep=False)
    figures = outcome.records[0].figures
    assert holds(figures["wall_net_energy_j"], 0.0)
    assert figures["idle_wall_power_w"].value == pytest.approx(80, rel=0.02)  # half a second, read some ms late
    assert outcome.records[0].setup.protocol["idle_s"] == pytest.approx(0.5, abs=0.3)


def test_bad_meters_cost_their_own_figures_and_are_named() -> None:
    """One sleeps 30 s, one raises, one says -5 W, one freezes: the others' figures are there, on time."""
    specs = [
        SPECS[0],
        MeterSpec(FAKE, {"prefix": "gpu0", "interval_s": 0.1, "hang_after": 3, "hang_s": 30.0}),
        MeterSpec(FAKE, {"prefix": "node", "scope": "node", "fail_after": 2}),
        MeterSpec(FAKE, {"prefix": "board", "scope": "board", "lie_after": 2, "accuracy_ratio": 0.02}),
        MeterSpec(FAKE, {"prefix": "dram0", "scope": "dram", "freeze_after": 2}),
    ]
    began = time.monotonic()
    outcome = run_command(["sleep", "2.6"], specs=specs)
    assert time.monotonic() - began < 15
    figures = outcome.records[0].figures
    assert holds(figures["wall_energy_j"], 80 * (figures["duration_s"].value or 0.0))
    assert figures["system_energy_j"].provenance is Provenance.MEASURED
    assert holds(figures["board_energy_j"], 100 * (figures["duration_s"].value or 0.0))  # its counter does not lie
    for silent in ("gpu_energy_j", "node_energy_j", "dram_energy_j"):
        assert figures[silent].provenance is Provenance.UNAVAILABLE
    assert "stood still" in (figures["dram_energy_j"].note or "")
    told = "\n".join(outcome.faults)
    for word in ("hung", "failed reads", "board_power_w"):
        assert word in told, told
    assert outcome.records[0].setup.faults


def test_a_recorder_that_dies_costs_the_energies_only() -> None:
    """Exit code, time and processor time are there; the energy is unavailable with the reason."""
    outcome = run_command(["sh", "-c", "sleep 0.6; exit 4"], specs=[MeterSpec(FAKE, {"exit_after": 2})])
    assert outcome.exit_code == 4
    figures = outcome.records[0].figures
    assert figures["duration_s"].value
    assert "process ended" in (figures["system_energy_j"].note or "")


def test_a_store_that_cannot_be_written_is_told(wattwerk_home: Path) -> None:
    """The exit code passes all the same."""
    wattwerk_home.mkdir()
    (wattwerk_home / "records.db").write_bytes(b"my diary" * 1000)
    outcome = run_command(["sh", "-c", "exit 5"], specs=SPECS)
    assert outcome.exit_code == 5
    assert any("not stored" in fault for fault in outcome.faults)
