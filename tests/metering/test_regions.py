"""Regions of a program under meters whose truth is known."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from wattwerk.errors import ConfigError
from wattwerk.metering import Region, measure, session
from wattwerk.meters.recorder import MeterSpec
from wattwerk.records import Provenance, Record, Status
from wattwerk.store import Store
from wattwerk.testing import FakeMeterConfig

pytestmark = pytest.mark.alone

STEPS = FakeMeterConfig(
    prefix="wall", base_w=80.0, step_w=60.0, period_s=0.4
)  # 2 % cover what a busy machine reads late
SPECS = [MeterSpec("wattwerk.testing:FakeMeter", {"prefix": "wall", "scope": "wall", "base_w": 80.0, "step_w": 60.0,
                                                  "period_s": 0.4, "accuracy_ratio": 0.02})]  # fmt: skip


def assert_true(region: Region, specs: FakeMeterConfig = STEPS) -> None:
    """The truth lies within the bounds."""
    span, energy = region.span, region.figures["system_energy_j"]
    assert span is not None
    assert energy.low is not None
    assert energy.high is not None
    assert energy.low <= specs.energy_j(span.start_ns, span.end_ns) <= energy.high


def stored() -> dict[str, Record]:
    """Return name -> record of what was stored."""
    with Store() as store:
        return {record.subject.name: record for record in store.records()}


def test_nested_regions_share_a_recorder_and_hold_the_truth() -> None:
    """Outer and inner regions have energies that hold the truth, and paths that tell where they are."""
    with session(specs=SPECS, rate_hz=50) as running:
        with measure("training") as outer:
            for _ in range(2):
                with measure("step") as inner:
                    time.sleep(0.3)
            with measure("evaluation", keep=False) as other:
                time.sleep(0.2)
        assert running.recorder.cost().samples > 20
    for region in (outer, inner, other):
        assert_true(region)
    assert (outer.path, inner.path) == ("training", "training/step")
    assert outer.figures["duration_s"].value >= 0.8  # type: ignore[operator]
    records = stored()
    assert records.keys() == {"training", "training/step"}
    assert records["training"].kind == "region"
    assert records["training"].figures["system_energy_j"] == outer.figures["system_energy_j"]
    assert records["training"].group == records["training/step"].group
    assert {"cpu_time_s", "system_co2_g", "system_cost_eur", "wall_peak_power_w"} <= records["training"].figures.keys()


def test_threads_and_tasks_have_regions_of_their_own() -> None:
    """Regions that overlap in time, in threads and tasks, do not become each other's parts."""
    found: list[Region] = []

    def work() -> None:
        with measure("thread") as region:
            time.sleep(0.3)
        found.append(region)

    @measure("task")
    async def task(seconds: float) -> float:
        await asyncio.sleep(seconds)
        with measure("end") as region:
            await asyncio.sleep(0.05)
        found.append(region)
        return seconds

    async def both() -> list[float]:
        return await asyncio.gather(task(0.2), task(0.1))

    with session(specs=SPECS, rate_hz=50), measure("main"):
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert asyncio.run(both()) == [0.2, 0.1]
        for thread in threads:
            thread.join()
    assert sorted(region.path for region in found) == ["main/task/end"] * 2 + ["thread"] * 3
    for region in found:
        assert_true(region)


def test_a_decorator_measures_each_call_and_passes_what_it_gets() -> None:
    """Value, name and exception of the function are its own; a call that raises is recorded as failed."""

    @measure()
    def divide(a: float, *, by: float) -> float:
        """Divide."""
        return a / by

    assert divide.__doc__ == "Divide."
    with session(specs=SPECS, rate_hz=50):
        assert divide(6, by=3) == 2
        with pytest.raises(ZeroDivisionError):
            divide(6, by=0)
    with Store() as store:
        told = {(record.status, record.reason) for record in store.records()}
    assert told == {(Status.OK, ""), (Status.FAILED, "left by ZeroDivisionError")}


def test_idle_gives_net() -> None:
    """With an idle measurement before, a region has a net energy: here that of nothing, as nothing is added."""
    with session(specs=SPECS, rate_hz=50, idle_s=0.8), measure("work", keep=False) as region:
        time.sleep(0.8)
    net = region.figures["system_net_energy_j"]
    assert net.low is not None
    assert net.high is not None
    assert net.low <= 0 <= net.high
    assert region.figures["idle_wall_power_w"].value == pytest.approx(110, rel=0.1)


def test_figures_while_it_runs_and_a_second_session_are_errors() -> None:
    """Both say what to do."""
    with session(specs=SPECS), measure("a", keep=False) as region:
        with pytest.raises(ConfigError, match="has not ended"):
            _ = region.figures
        with pytest.raises(ConfigError, match="runs already"), session():
            pass


def test_a_recorder_that_dies_costs_the_energies_and_nothing_else() -> None:
    """The program goes on, is warned, and the region's time is there; its energy is unavailable with the reason."""
    dying = [MeterSpec("wattwerk.testing:FakeMeter", {"prefix": "wall", "scope": "wall", "exit_after": 3})]
    with pytest.warns(RuntimeWarning, match="process ended"), session(specs=dying), measure("a") as region:
        time.sleep(0.6)
    assert region.figures["duration_s"].value is not None
    energy = region.figures["system_energy_j"]
    assert energy.provenance is Provenance.UNAVAILABLE
    assert "process ended" in (energy.note or "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_a_recorder_of_its_own(tmp_path: Path) -> None:
    """A child that was forked within a region can measure, and does not end its parent's recorder."""
    script = """
import os
from wattwerk import measure
with measure("parent") as parent:
    child = os.fork()
    if not child:
        with measure("child") as region:
            pass
        print("child", region.path, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
print("parent", parent.value("duration_s") > 0, parent.figures["system_energy_j"].note)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[0] == "child child"
    assert answer.stdout.splitlines()[1].startswith("parent True")


def test_importing_measure_is_light() -> None:
    """Neither numpy nor a meter is imported before the first region."""
    script = "import sys, wattwerk.metering; print('numpy' in sys.modules, 'msgspec' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.split() == ["False", "False"]
