"""Data sets, streams and several models at once in study files: what a block takes, refuses, and does after SIGKILL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.bench.colour_models import write_model, write_photo
from tests.bench.conftest import write_tiny_onnx
from tests.bench.test_study_run import SHORT, command, stored

from wattwerk.bench import study
from wattwerk.bench.scenario import Sweep
from wattwerk.bench.study_plan import Filter, sweep_of
from wattwerk.errors import ConfigError
from wattwerk.records import Record, Status
from wattwerk.store import Store


def write_study(folder: Path, *, shared: str = "", more: str = "") -> Path:
    """Write a data set of two photos, two models, and a study with a block of each kind."""
    write_photo(folder / "photos" / "red" / "a.png", "red")
    write_photo(folder / "photos" / "blue" / "b.png", "blue")
    model, tiny = write_model(folder, "classification"), write_tiny_onnx(folder / "tiny.onnx")
    path = folder / "mine.toml"
    path.write_text(
        f"""
dataset = "{folder / "photos"}"
{shared}
{SHORT}
[[block]]
name = "accuracy"
models = ["{model}"]
batches = [1, 2]
precisions = ["fp32", "int8"]
devices = ["cpu"]
[[block]]
name = "plain"
models = ["{tiny}"]
devices = ["cpu"]
dataset = ""
[[block]]
name = "cameras"
models = ["{tiny}"]
devices = ["cpu"]
streams = [2]
[[block]]
name = "both"
models = ["{model}", "{tiny}"]
devices = ["cpu"]
together = true
{more}
""",
        encoding="utf-8",
    )
    return path


def planned(path: Path, wanted: Filter | None = None) -> Sweep:
    """Return the sweep that a study file means here."""
    return sweep_of(study.read(str(path)), wanted)


def test_the_data_set_of_a_study_goes_to_what_times_iterations(tmp_path: Path) -> None:
    """Blocks take the study's data set unless they say otherwise or are streams, loads or models at once."""
    sweep = planned(write_study(tmp_path, shared="dataset_limit = 1"))
    told = {(Path(c.model).stem, c.streams, len(c.beside)): (c.dataset, c.dataset_limit) for c in sweep.configurations}
    assert told == {
        ("classification", 1, 0): (str(tmp_path / "photos"), 1),
        ("tiny", 1, 0): (None, None),
        ("tiny", 2, 0): (None, None),
        ("classification", 1, 1): (None, None),
    }
    assert {sweep.procedure_of(c).timeout_s for c in sweep.configurations if c.dataset} == {6 * 3600.0}
    assert Sweep.from_json(sweep.to_json()) == sweep


def test_a_block_has_a_data_set_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own data set takes nothing of the study's; paths are seen from the folder in which wattwerk runs."""
    write_photo(tmp_path / "own" / "green" / "c.png", "green")
    model = write_model(tmp_path, "classification")
    more = f'[[block]]\nname = "own"\nmodels = ["{model}"]\ndevices = ["cpu"]\ndataset = "own"\n'
    monkeypatch.chdir(tmp_path)
    path = write_study(tmp_path, shared=f'dataset_limit = 1\ncalibration = "{tmp_path / "photos" / "red"}"', more=more)
    found = {(c.dataset, c.dataset_limit, c.calibration) for c in planned(path).configurations if c.dataset}
    assert found == {
        (str(tmp_path / "photos"), 1, str(tmp_path / "photos" / "red")),
        (str(tmp_path / "own"), None, None),
    }
    with pytest.raises(ConfigError, match="key calibration: there is no folder nowhere"):
        study.read(str(write_study(tmp_path, shared='calibration = "nowhere"')))


def test_a_data_set_of_another_task_is_refused_with_the_block(tmp_path: Path) -> None:
    """Boxes are no labels: the error names file, block and models, and how to leave the data set out."""
    model = write_model(tmp_path, "segmentation")
    more = f'[[block]]\nname = "maps"\nmodels = ["{model}"]\ndevices = ["cpu"]\n'
    with pytest.raises(ConfigError) as caught:
        planned(write_study(tmp_path, more=more))
    assert "mine.toml, [[block]] 5 (maps): " in str(caught.value)
    assert "is a model of segmentation" in str(caught.value)
    assert str(caught.value).endswith('dataset = "" in the block leaves it out')


def test_models_at_once_are_one_for_rules_and_parts(tmp_path: Path) -> None:
    """A rule for one of the models holds for all at once; a part of the study has them where it has all of them."""
    path = write_study(tmp_path)
    models = [str(tmp_path / "classification.onnx"), str(tmp_path / "tiny.onnx")]
    assert not any(c.beside for c in planned(path, Filter(models=(models[0],))).configurations)
    assert any(c.beside for c in planned(path, Filter(models=tuple(models))).configurations)
    rule = f'[[rule]]\nmodels = ["{models[1]}"]\nblocks = ["both"]\nexclude = "not now"\n'
    course = planned(write_study(tmp_path, more=rule)).course
    assert course is not None
    assert [len(each.configuration.beside) for each in course.excluded] == [1]


@pytest.mark.slow
def test_a_killed_study_of_all_kinds_goes_on_where_it_was(tmp_path: Path) -> None:
    """After SIGKILL, --resume from another folder measures the rest, with accuracy, and repeats nothing."""
    path = write_study(tmp_path)
    running = subprocess.Popen(
        command("--study", str(path)), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 150
    while not stored() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    before = stored()
    assert before
    (tmp_path / "elsewhere").mkdir()
    again = subprocess.run(
        command("--study", str(path), "--resume", "--json"),
        capture_output=True, text=True, check=True, cwd=tmp_path / "elsewhere",
    )  # fmt: skip
    assert before.items() <= stored().items()
    assert json.loads(again.stdout)["interrupted"] is False
    with Store() as store:
        records = store.records()
    assert {record.status for record in records} <= {Status.OK, Status.INVALID}
    assert Counter(_kind(record) for record in records) == {"accuracy": 4, "plain": 1, "cameras": 1, "both": 2}
    for record in records:
        assert (record.value("top1_accuracy_ratio") is not None) == (_kind(record) == "accuracy")
        assert record.setup.protocol["study"] == "mine"


def _kind(record: Record) -> str:
    protocol = record.setup.protocol
    if protocol.get("together"):
        return "both"
    return "accuracy" if protocol.get("dataset") else "cameras" if protocol.get("concurrent_streams") else "plain"
