"""A study that runs, is killed and goes on, through the real command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from wattwerk.records import Status
from wattwerk.store import Store

SHORT = """
[procedure]
warmup = 2
warmup_s = 0.0
iterations = 8
windows = 2
window_s = 0.3
idle_s = 0.1
"""

STUDY = (
    f"budget_s = 600{SHORT}"
    + """
[[block]]
name = "batches"
models = ["{model}"]
batches = [1, 2, 4, 8]
devices = ["cpu", "rocket"]
[[rule]]
batches = [8]
exclude = "not asked for"
"""
)


def command(*arguments: str) -> list[str]:
    """Return the command line of ``wattwerk bench``."""
    return [sys.executable, "-m", "wattwerk", "bench", *arguments]


def stored() -> dict[str, Status]:
    """Return id -> status of all records."""
    with Store() as store:
        return {record.id: record.status for record in store.records()}


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_was(tiny_onnx: Path, tmp_path: Path) -> None:
    """After SIGKILL in the middle, --resume measures what is missing, repeats nothing and finishes the study."""
    path = tmp_path / "mine.toml"
    path.write_text(STUDY.format(model=tiny_onnx), encoding="utf-8")
    running = subprocess.Popen(
        command("--study", str(path)), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 150
    while Counter(stored().values())[Status.OK] < 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    before = stored()
    done = Counter(before.values())[Status.OK]
    assert 1 <= done < 3
    rest = subprocess.run(
        command("--study", str(path), "--resume", "--estimate", "--json"), capture_output=True, text=True, check=True
    )
    told = json.loads(rest.stdout)
    assert (told["done_count"], told["configurations_count"]) == (done, 3 - done)
    assert stored() == before
    again = subprocess.run(
        command("--study", str(path), "--resume", "--json"), capture_output=True, text=True, check=True
    )
    after = stored()
    assert before.items() <= after.items()
    assert Counter(after.values()) == {Status.OK: 3, Status.UNSUPPORTED: 1, Status.SKIPPED: 1}
    outcome = json.loads(again.stdout)
    assert Path(outcome["report"]).is_file()
    batches = [(r["setup"]["batch"], r["setup"]["device"]) for r in outcome["records"]]
    assert sorted(batches) == [(1, "cpu"), (1, "rocket"), (2, "cpu"), (4, "cpu"), (8, "cpu")]
    (excluded,) = [r for r in outcome["records"] if r["status"] == "skipped"]
    assert excluded["reason"] == "excluded by the study (rule 1): not asked for"
    assert excluded["setup"]["protocol"]["rule"] == "rule 1"
    refused = subprocess.run(command("--study", str(path), "--resume"), capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "no sweep of the study" in refused.stderr


def test_an_estimate_measures_nothing_and_study_options_are_checked(tiny_onnx: Path, tmp_path: Path) -> None:
    """--estimate tells counts, time and reasons as JSON; what a study says itself cannot be given beside it."""
    path = tmp_path / "mine.toml"
    path.write_text(STUDY.format(model=tiny_onnx), encoding="utf-8")
    told = subprocess.run(
        command("--study", str(path), "--estimate", "--json"), capture_output=True, text=True, check=True
    )
    found = json.loads(told.stdout)
    assert found["configurations_count"] == 3
    assert found["excluded_count"] == 1
    (excluded,) = found["excluded"]
    assert (excluded["rule"], excluded["reason"]) == ("rule 1", "not asked for")
    assert found["low_s"] <= found["total_s"] <= found["high_s"]
    assert [(each["count"], "rocket" in each["reason"]) for each in found["left_out"]] == [(4, True)]
    assert 3 < found["total_s"] < 60
    assert not stored()
    refused = subprocess.run(command("--study", str(path), "--full"), capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "full cannot be given" in refused.stderr
