"""Which sweep ``--resume`` takes up, with real stores and real processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.bench.conftest import SHORT

from wattwerk.bench import campaign
from wattwerk.bench.lease import take
from wattwerk.bench.run import Silence, run_sweep
from wattwerk.bench.scenario import Configuration, Sweep, new_sweep
from wattwerk.errors import ConfigError
from wattwerk.store import Store

HOLD = """
import sys, time
from pathlib import Path
from wattwerk.bench.lease import take
held = take(Path(sys.argv[1]), sys.argv[2])
print(held is not None, flush=True)
time.sleep(60)
"""


class Heard(Silence):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warned(self, text: str) -> None:
        """Keep it."""
        self.warnings.append(text)


def planned(model: Path, *batches: int) -> Sweep:
    """Put a sweep's plan into the store, as one that was cut off before its first record."""
    configurations = [
        Configuration(model=str(model), runtime="onnxruntime", precision="fp32", batch=batch, device="cpu")
        for batch in batches
    ]
    sweep = new_sweep(configurations, SHORT)
    with Store() as store:
        store.add_plan(sweep.id, sweep.to_json())
    return sweep


def resume(listener: Silence | None = None) -> campaign.Outcome:
    """Go on with what was cut off."""
    return campaign.bench({}, None, resume=True, listener=listener)


def test_a_finished_sweep_is_not_taken_up_after_deletion(tiny_onnx: Path) -> None:
    """One record of a finished sweep is deleted: nothing was cut off."""
    planned(tiny_onnx, 1, 2)
    records = resume().records
    assert len(records) == 2
    with Store() as store:
        assert store.delete([records[0].id]) == 1
    with pytest.raises(ConfigError, match="no sweep that was cut off"):
        resume()


def test_what_is_missing_decides_what_was_cut_off(tiny_onnx: Path) -> None:
    """A sweep that was ended before its last record is taken up; one that was ended right after it is done."""
    sweep = planned(tiny_onnx, 1, 2)
    with Store() as store:
        run_sweep(Sweep(id=sweep.id, procedure=SHORT, configurations=sweep.configurations[:1]), store)
    assert len(resume().records) == 2
    again = planned(tiny_onnx, 4)
    with Store() as store:
        run_sweep(again, store)
    with pytest.raises(ConfigError, match="no sweep that was cut off"):
        resume()


def test_a_running_sweep_is_left_alone_until_its_process_is_killed(tiny_onnx: Path, wattwerk_home: Path) -> None:
    """While another process holds the newest sweep, the one before is taken up; after SIGKILL the newest is free."""
    older = planned(tiny_onnx, 1)
    time.sleep(0.01)  # plans are ordered by the millisecond
    newer = planned(tiny_onnx, 2)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(wattwerk_home / "records.db"), newer.id], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "True"
        assert resume().sweep == older.id
        with pytest.raises(ConfigError, match=f"{newer.id} is running"):
            resume()
    finally:
        holder.kill()
        holder.communicate()
    assert resume().sweep == newer.id
    assert not list((wattwerk_home / "running").iterdir())


def test_a_lease_is_given_once(tmp_path: Path) -> None:
    """Within one process too a sweep is taken only once, and again after it was let go."""
    store = tmp_path / "records.db"
    first, other = take(store, "a"), take(store, "b")
    assert first is not None
    assert other is not None
    with other:
        assert take(store, "a") is None
    first.release()
    first.release()
    again = take(store, "a")
    assert again is not None
    again.release()


def test_an_unreadable_plan_is_skipped_with_a_warning(tiny_onnx: Path) -> None:
    """A newer plan that cannot be read is named, with the remedy, and the older sweep goes on."""
    sweep = planned(tiny_onnx, 1)
    time.sleep(0.01)  # plans are ordered by the millisecond
    with Store() as store:
        store.add_plan("f" * 12, '{"id": 3}')
    heard = Heard()
    assert resume(heard).sweep == sweep.id
    (warning,) = heard.warnings
    assert "f" * 12 in warning
    assert "afresh" in warning
