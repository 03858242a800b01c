"""Study files: what is checked before anything runs, what the rules do, and what a machine lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattwerk.bench import study
from wattwerk.bench.scenario import Sweep
from wattwerk.bench.study_plan import Filter, sweep_of
from wattwerk.errors import ConfigError, UnavailableError

BLOCK = '[[block]]\nname = "latency"\nmodels = ["resnet-18"]\n'


def write(folder: Path, text: str) -> str:
    """Write a study file and return its path."""
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def planned(folder: Path, text: str, wanted: Filter | None = None) -> Sweep:
    """Return the sweep that a study file means here."""
    return sweep_of(study.read(write(folder, text)), wanted)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("blok = 1\n" + BLOCK, "unknown key 'blok': did you mean 'block'?"),
        ("title = 'none'\n", "key block is missing: add block = "),
        ("block = []\n", "there is no [[block]]"),
        ("budget_s = -1\n" + BLOCK, "key budget_s: -1 is negative"),
        ("budget_s = 'long'\n" + BLOCK, "key budget_s: Expected `float`, got `str`: write it like budget_s = 1200"),
        (BLOCK + "batch = [1]\n", "[[block]] 1 (latency): unknown key 'batch': did you mean 'batches'?"),
        (
            BLOCK + "batches = ['one']\n",
            "[[block]] 1 (latency): key batches[0]: Expected `int`, got `str`: write it like",
        ),
        (BLOCK + "batches = [0]\n", "[[block]] 1 (latency): key batches: 0 is not possible"),
        (BLOCK + "runtimes = []\n", "[[block]] 1 (latency): key runtimes is empty"),
        (BLOCK + "runtimes = ['tenserrt']\n", "[[block]] 1 (latency): key runtimes: unknown runtime 'tenserrt'"),
        (BLOCK + "precisions = ['fp23']\n", "key precisions: unknown precision 'fp23': did you mean 'fp32'?"),
        (BLOCK + "devices = ['8?']\n", "key devices: '8?' is no device"),
        (BLOCK + "processings = ['quick']\n", "key processings: unknown processing 'quick'"),
        (BLOCK + "scenarios = ['servr']\n", "key scenarios: unknown scenario 'servr': did you mean 'server'?"),
        (BLOCK + "images = 'photos'\n", "key images without processings"),
        (BLOCK + "load = { percentile = 90 }\n", "key load without scenarios"),
        ('[[block]]\nname = "a"\nmodels = ["resnet-19"]\n', "[[block]] 1 (a): key models: "),
        ('[[block]]\nmodels = ["resnet-18"]\n', '[[block]] 1: key name is missing: add name = "latency"'),
        (BLOCK + BLOCK, "two blocks are called 'latency'"),
        (BLOCK + "[procedure]\niteration = 3\n", "[procedure]: unknown key 'iteration': did you mean 'iterations'?"),
        (BLOCK + "[procedure]\nwindows = 1\n", "[procedure]: windows is 1"),
        (BLOCK + "[[rule]]\nmodels = ['resnet-18']\n", "[[rule]] 1: it does nothing"),
        (
            BLOCK + "dataset = 'nowhere'\n",
            "[[block]] 1 (latency): key dataset: there is no folder",
        ),
        (BLOCK + "dataset_limit = 5\n", "[[block]] 1 (latency): key dataset_limit without dataset: add dataset = "),
        (BLOCK + "calibration = 'x'\n", "key calibration without dataset: add dataset = "),
        ("dataset_limit = 5\n" + BLOCK, "mine.toml: key dataset_limit without dataset"),
        ("dataset = 'nowhere'\n" + BLOCK, "mine.toml: key dataset: there is no folder"),
        (BLOCK + "dataset = 'x'\ndataset_limit = 0\n", "key dataset_limit: 0 is not possible: use 1 or more"),
        (BLOCK + "dataset_limit = 'few'\n", "key dataset_limit: Expected `int | null`, got `str`: write it like"),
        (
            BLOCK + "dataset = 'x'\nscenarios = ['offline']\n",
            "key dataset does not go with key scenarios: leave one of them out, or write two blocks",
        ),
        (BLOCK + "dataset = 'x'\nstreams = [1, 2]\n", "key dataset does not go with key streams"),
        (BLOCK + "processings = ['sequential']\nstreams = [2]\n", "key processings does not go with key streams"),
        (BLOCK + "together = true\n", "[[block]] 1 (latency): key together needs several models: name two or more"),
        (BLOCK + "together = 'yes'\n", "key together: Expected `bool`, got `str`: write it like together = true"),
        (BLOCK + "together = true\nstreams = [2]\n", "key streams does not go with key together"),
        (
            BLOCK + 2 * "[[rule]]\nname = 'a'\nbatches = [8]\nexclude = 'x'\n",
            "two rules are called 'a': give each rule a name of its own",
        ),
        (
            BLOCK + "[[rule]]\nblocks = ['latenci']\nexclude = 'x'\n",
            "[[rule]] 1: key blocks: there is no block 'latenci'",
        ),
        (BLOCK + "[[rule]]\nprocedure = { windoes = 3 }\n", "[[rule]] 1, procedure: unknown key 'windoes'"),
        ("block = [[[\n", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_file_table_key_and_remedy(tmp_path: Path, text: str, named: str) -> None:
    """Each mistake is an error of one line that names the file and the place."""
    with pytest.raises(ConfigError) as caught:
        study.read(write(tmp_path, text))
    assert named in str(caught.value)
    assert "mine.toml" in str(caught.value)
    assert caught.value.remedy


def test_a_study_is_found_by_name_or_by_path(tmp_path: Path) -> None:
    """``ipa`` is shipped; a wrong name is answered with the nearest one."""
    assert study.read("ipa").name == "ipa"
    assert study.read(write(tmp_path, BLOCK)).name == "mine"
    with pytest.raises(ConfigError, match="did you mean 'ipa'"):
        study.read("ipaa")


def test_the_shipped_study_is_that_of_the_source() -> None:
    """Five models, 20 and 200 iterations, 5 and 20 of two models on the CPU, batch sizes up to 32 (section 4.1.4)."""
    checked = study.read("ipa")
    sweep = sweep_of(checked, Filter(runtimes=("onnxruntime",), devices=("cpu",)))
    assert {model for block in checked.blocks for model in block.models} == {
        "resnet-50", "vit-b-16", "detr-r50", "yolov9-c", "segformer-b5",
    }  # fmt: skip
    assert max(batch for block in checked.blocks for batch in block.batches) == 32
    for configuration in sweep.configurations:
        procedure = sweep.procedure_of(configuration)
        few = configuration.model in ("segformer-b5", "yolov9-c")
        assert (procedure.warmup, procedure.iterations) == ((5, 20) if few else (20, 200))


def test_rules_change_the_procedure_and_exclude(tmp_path: Path) -> None:
    """A rule holds where all of its conditions do; later ones override earlier ones."""
    sweep = planned(
        tmp_path,
        '[[block]]\nname = "a"\nmodels = ["resnet-18", "mobilenet-v2"]\nbatches = [1, 8, 16]\ndevices = ["cpu"]\n'
        '[[rule]]\nmodels = ["resnet-18"]\nbatch_above = 8\nexclude = "memory"\n'
        "[[rule]]\nprocedure = { iterations = 50, windows = 3 }\n"
        '[[rule]]\nmodels = ["mobilenet-v2"]\nbatches = [1]\nprocedure = { iterations = 20 }\n',
    )
    made = {(c.model, c.batch): sweep.procedure_of(c) for c in sweep.configurations}
    assert sweep.course is not None
    assert sweep.course.excluded_count == 1
    (excluded,) = sweep.course.excluded
    assert (excluded.configuration.batch, excluded.told()) == (16, "excluded by the study (rule 1): memory")
    assert ("resnet-18", 16) not in made
    assert len(made) == 5
    assert {key: procedure.iterations for key, procedure in made.items() if procedure.iterations != 50} == {
        ("mobilenet-v2", 1): 20
    }
    assert {procedure.windows for procedure in made.values()} == {3}


def test_what_a_machine_lacks_is_left_out_with_its_reason(tmp_path: Path) -> None:
    """A device and a precision that are not here are no error; where nothing is left there is one, with the reasons."""
    lacking = BLOCK + 'devices = ["rocket"]\nbatches = [1, 2]\n'
    sweep = planned(
        tmp_path, lacking.replace("rocket", "cpu") + lacking.replace("latency", "far") + 'precisions = ["fp32"]\n'
    )
    assert sweep.course is not None
    (left_out,) = sweep.course.left_out
    assert left_out.count == 2
    assert "no device rocket" in left_out.reason
    assert {c.device for c in sweep.configurations} == {"cpu"}
    refused = planned(tmp_path, BLOCK + 'devices = ["cpu"]\nprecisions = ["fp32", "tf32"]\n')
    assert refused.course is not None
    assert "cannot run tf32 on cpu" in refused.course.left_out[0].reason
    with pytest.raises(UnavailableError, match=r"nothing of the study mine can run here: .*rocket"):
        planned(tmp_path, lacking)


def test_a_part_of_a_study_can_be_asked_for(tmp_path: Path) -> None:
    """Models and batch sizes choose among what the study has; nothing left is an error."""
    text = '[[block]]\nname = "a"\nmodels = ["resnet-18", "mobilenet-v2"]\nbatches = [1, 8]\ndevices = ["cpu"]\n'
    sweep = planned(tmp_path, text, Filter(models=("resnet-18",), batches=(8,)))
    assert [(c.model, c.batch) for c in sweep.configurations] == [("resnet-18", 8)]
    with pytest.raises(ConfigError, match="nothing to measure"):
        planned(tmp_path, text, Filter(models=("resnet-50",)))


def test_the_first_block_decides_what_two_ask_for(tmp_path: Path) -> None:
    """A configuration of two blocks is measured once, with the rank of the first."""
    other = BLOCK.replace("latency", "more") + 'devices = ["cpu"]\nbatches = [1, 2]\n'
    sweep = planned(tmp_path, BLOCK + 'devices = ["cpu"]\n' + other)
    assert sweep.course is not None
    ranks = dict(zip((c.batch for c in sweep.configurations), sweep.course.ranks, strict=True))
    assert ranks == {1: 0, 2: 1}
    assert Sweep.from_json(sweep.to_json()) == sweep


def test_what_is_excluded_in_one_block_and_wanted_in_another_is_measured(tmp_path: Path) -> None:
    """A rule of one block does not hide what another block asks for; several that a rule excludes share a line."""
    text = (
        BLOCK + 'devices = ["cpu"]\nbatches = [1, 2, 4]\n'
        '[[block]]\nname = "more"\nmodels = ["resnet-18"]\ndevices = ["cpu"]\nbatches = [2]\n'
        '[[rule]]\nname = "few"\nblocks = ["latency"]\nexclude = "no time"\n'
    )
    sweep = planned(tmp_path, text)
    assert [configuration.batch for configuration in sweep.configurations] == [2]
    assert sweep.course is not None
    assert [(each.rule, each.count) for each in sweep.course.excluded] == [("few", 2)]
    with pytest.raises(ConfigError, match=r"its rules exclude all 2 \(few: no time\)"):
        planned(tmp_path, text, Filter(batches=(1, 4)))
