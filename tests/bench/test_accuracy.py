from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tests.bench.colour_models import BOX, write_model, write_photo
from tests.bench.conftest import SHORT
from tests.bench.samples import record

from wattwerk import terminal
from wattwerk.bench import accuracy_metrics as metrics
from wattwerk.bench import dataset, plan
from wattwerk.bench.accuracy import Examination
from wattwerk.bench.accuracy_metrics import share
from wattwerk.bench.run import remaining, run_sweep
from wattwerk.bench.scenario import Configuration, new_sweep
from wattwerk.bench.summary import summarise
from wattwerk.bench.worker import load_spec
from wattwerk.catalog import models
from wattwerk.catalog.classes import classes_of
from wattwerk.catalog.processing import facts_of
from wattwerk.errors import ConfigError
from wattwerk.language import speaking
from wattwerk.records import Figure, Provenance, Status, derived
from wattwerk.runtimes import RUNTIMES
from wattwerk.runtimes.base import Session
from wattwerk.store import Store


def configuration(model: Path, folder: Path, precision: str, **fields: object) -> Configuration:
    """Return a configuration with a data set."""
    plain = {"model": str(model), "runtime": "onnxruntime", "device": "cpu", "batch": 2, "dataset": str(folder)}
    return Configuration(**(plain | fields), precision=precision)  # type: ignore[arg-type]


def figures(model: Path, folder: Path, precision: str, **fields: object) -> dict[str, Figure]:
    """Return the figures of a data set from a loaded model, as the worker makes them."""
    its, resolved = configuration(model, folder, precision, **fields), models.resolve(str(model))

    def load(other: Configuration) -> Session:
        return RUNTIMES.load(other.runtime).load(resolved, load_spec(other, SHORT, resolved))

    examination = Examination(resolved, its, lambda text: None)
    session = load(its)
    examination.look(session)
    session.close()
    return examination.figures(load)


def test_a_sweep_stores_accuracy_beside_speed(tmp_path: Path) -> None:
    """Each precision's stored record has latency and accuracy, and the key of the plan knows the data set."""
    folder = tmp_path / "set"
    write_photo(folder / "red" / "a.png", "red")
    model = write_model(tmp_path, "classification")
    with Store() as store:
        sweep = new_sweep([configuration(model, folder, precision) for precision in ("fp32", "int8")], SHORT)
        run_sweep(sweep, store)
        records = store.records(sweep.id)
        assert remaining(sweep, records) == []
    for each in records:
        assert each.status in (Status.OK, Status.INVALID), each.reason
        assert each.value("latency_p50_s")
        assert each.value("top1_accuracy_ratio") == 1
        assert each.setup.protocol["dataset"] == str(folder)


def test_class_folders_give_the_share_of_right_photos(tmp_path: Path) -> None:
    """Four of five photos lie in the folder of their colour: top-1 is 80 % with Wilson's bounds, in fp32 and int8."""
    folder = tmp_path / "set"
    for index, (kind, colour) in enumerate([("red", "red"), ("red", "red"), ("1", "green"), ("blue", "blue")]):
        write_photo(folder / kind / f"{index}.png", colour)
    write_photo(folder / "blue" / "wrong.png", "red")
    (folder / "red" / "broken.jpg").write_bytes(b"no photo")
    model = write_model(tmp_path, "classification")
    for precision in ("fp32", "int8"):
        found = figures(model, folder, precision)
        top1 = found["top1_accuracy_ratio"]
        assert top1.value == pytest.approx(0.8)
        assert (top1.low, top1.high) == pytest.approx((0.3755, 0.9638), abs=1e-3)
        assert top1.provenance is Provenance.MEASURED
        assert found["top5_accuracy_ratio"].value == 1  # there are three labels
        assert found["accuracy_images_count"].value == 5
        assert "1 more files" in str(found["accuracy_images_count"].note)


@pytest.mark.parametrize("name", ["labels.csv", "truth.tsv", "val.txt"])
def test_a_labels_file_says_what_is_true(tmp_path: Path, name: str) -> None:
    """CSV, TSV and plain text, with or without a heading, by name or number; photos in the folder or in images/."""
    for index, colour in enumerate(["red", "green", "blue"]):
        write_photo(tmp_path / ("images" if index else "") / f"{index}.jpg", colour)
    write_photo(tmp_path / "unlabelled.jpg", "red")
    mark = {"csv": ",", "tsv": "\t", "txt": " "}[name[-3:]]
    rows = ["file,label", "0.jpg,red", "1.jpg,1", "2.jpg,Blue"]
    (tmp_path / name).write_text("\n".join(row.replace(",", mark) for row in rows[name == "val.txt" :]))
    found = dataset.read(str(tmp_path))
    assert [(item.path.name, item.truth) for item in found.items] == [
        ("0.jpg", "red"),
        ("1.jpg", "1"),
        ("2.jpg", "Blue"),
    ]
    assert "1 photos" in found.left_out[0]
    assert dataset.read(str(tmp_path / name)).items == found.items


def coco(folder: Path, *boxes: tuple[int, list[float], str]) -> Path:
    """Write two photos and COCO annotations: number of the photo, box, category."""
    for number in (1, 2):
        write_photo(folder / "images" / f"{number}.jpg", "red", width=40, height=20 * number)
    names = {"red": 7, "green": 12, "blue": 90}
    content = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)],
        "categories": [{"id": number, "name": name} for name, number in names.items()],
        "annotations": [
            {"id": index, "image_id": photo, "category_id": names[name], "bbox": box, "iscrowd": 0}
            for index, (photo, box, name) in enumerate(boxes, 1)
        ],
    }
    path = folder / "annotations" / "instances_test.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    return path


def box(height: int) -> list[float]:
    """Return the box that the detector sees in a photo of 40 pixels' width, as COCO writes it."""
    x, y, wide, high = BOX
    return [(x - wide / 2) * 40, (y - high / 2) * height, wide * 40, high * height]


def test_coco_boxes_give_the_mean_average_precision(tmp_path: Path) -> None:
    """A detector that sees what is annotated has an mAP of 1; with one of two labels never found it has half."""
    model = write_model(tmp_path, "detection")
    right = coco(tmp_path / "right", (1, box(20), "green"), (2, box(40), "green"))
    found = figures(model, right.parents[1], "fp32")
    assert (found["map_ratio"].value, found["map50_ratio"].value) == (1, 1)
    half = coco(tmp_path / "half", (1, box(20), "green"), (2, box(40), "green"), (2, [1, 1, 9, 9], "blue"))
    assert figures(model, half, "fp32")["map50_ratio"].value == pytest.approx(0.5)


def test_masks_give_the_mean_intersection_over_union(tmp_path: Path) -> None:
    """Half of a red photo is masked green and a quarter is not known: red covers 1 of 3 quarters, green none."""
    folder = tmp_path / "set"
    write_photo(folder / "images" / "a.png", "red")
    mask = np.zeros((20, 40), np.uint8)
    mask[5:15], mask[15:] = 1, 255
    (folder / "masks").mkdir()
    Image.fromarray(mask).save(folder / "masks" / "a.png")
    model = write_model(tmp_path, "segmentation")
    for processing in ("sequential", "overlapped"):
        found = figures(model, folder, "fp32", processing=processing)
        assert found["miou_ratio"].value == pytest.approx((1 / 3 + 0) / 2)


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_photos_without_labels_give_the_agreement_with_fp32(tmp_path: Path, task: str) -> None:
    """int8 answers as fp32 does for these plain colours, and the record says that this is what was compared."""
    for index, colours in enumerate([("red",), ("green", "blue"), ("blue",)]):
        write_photo(tmp_path / "set" / f"{index}.png", *colours)
    model = write_model(tmp_path, task)
    for precision in ("int8", "fp32"):
        found = figures(model, tmp_path / "set", precision)
        agreement = found["agreement_ratio"]
        assert agreement.value is not None
        assert agreement.value > 0.9, agreement
        assert ("fp32 itself" in str(agreement.note)) == (precision == "fp32")
        assert "no labels" in str(agreement.note)
        assert ("agreement_map50_ratio" in found) == (task == "detection")


def test_shares_and_means_are_those_of_scikit_learn() -> None:
    """Top-k and mIoU of random answers are what scikit-learn finds from all scores and from all pixels."""
    from sklearn.metrics import jaccard_score, top_k_accuracy_score

    stream = np.random.default_rng(0)
    scores, labels = stream.random((200, 10)), stream.integers(0, 10, 200)
    tops = list(np.argsort(-scores, axis=1))
    for k in (1, 5):
        expected = top_k_accuracy_score(labels, scores, k=k, labels=range(10))
        assert metrics.top_share(tops, labels.tolist(), k).value == pytest.approx(expected)
    truth, found = stream.integers(0, 4, (3, 8, 9)), stream.integers(0, 4, (3, 8, 9))
    overlap = metrics.Overlap(6)
    for one, other in zip(truth, found, strict=True):
        overlap.add(one, other, "photo")
    assert overlap.mean().value == pytest.approx(jaccard_score(truth.ravel(), found.ravel(), average="macro"))


def test_a_class_goes_by_name_synset_or_number() -> None:
    """ImageNet's words lead to the index; a model with a background class has them one further; doubles are refused."""
    plain = classes_of(facts_of(models.resolve("resnet-50")))
    assert [plain.label(word) for word in ("n03063599", "coffee mug", "Coffee_Mug", "504", "espresso")] == [
        *[504] * 4,
        967,
    ]
    assert classes_of(facts_of(models.resolve("mobilenet-v2"))).label("espresso") == 968
    assert classes_of(facts_of(models.resolve("detr-r50"))).label("toothbrush") == 90
    assert classes_of(facts_of(models.resolve("yolov9-c"))).label("toothbrush") == 79
    with pytest.raises(ConfigError, match="several labels"):
        plain.label("crane")
    with pytest.raises(ConfigError, match="did you mean 'espresso'"):
        plain.label("expresso")


def _mixed(folder: Path) -> None:
    write_photo(folder / "red" / "a.png", "red")
    write_photo(folder / "b.png", "red")


def _absent(folder: Path) -> None:
    write_photo(folder / "a.png", "red")
    (folder / "labels.csv").write_text("a.png,red\ngone.png,red\n")


def _unknown(folder: Path) -> None:
    write_photo(folder / "mauve" / "a.png", "red")


def _beyond(folder: Path) -> None:
    write_photo(folder / "3" / "a.png", "red")


def _twice(folder: Path) -> None:
    write_photo(folder / "a.png", "red")
    (folder / "labels.csv").write_text("a.png,red\na.png,green\n")


def _masks(folder: Path) -> None:
    write_photo(folder / "a.png", "red")
    write_photo(folder / "masks" / "a.png", "red")


def _other_task(folder: Path) -> None:
    coco(folder, (1, box(20), "green"))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: folder.rmdir(), "there is no folder"),
        (lambda folder: None, "there is no photo in"),
        (_mixed, "mixes folders of classes and photos without labels"),
        (_absent, "1 of 2 photos are not in"),
        (_unknown, "the model has no class 'mauve'"),
        (_beyond, "label 3 is not among the model's 3"),
        (_twice, "names photos twice"),
        (_masks, "is a data set of segmentation"),
        (_other_task, "is a data set of detection"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused(tmp_path: Path, make: object, told: str) -> None:
    """Each mistake is an error in words before anything is measured."""
    folder = tmp_path / "set"
    folder.mkdir()
    make(folder)  # type: ignore[operator]
    asked = {"models": (str(write_model(tmp_path, "classification")),), "dataset": str(folder)}
    with pytest.raises(ConfigError, match=told):
        plan.configurations_of(plan.to_request(asked))


def test_masks_have_to_fit_the_model_and_the_photo(tmp_path: Path) -> None:
    """A label that the model does not have and a picture with colours are errors."""
    model = write_model(tmp_path, "segmentation")
    folder = tmp_path / "set"
    write_photo(folder / "a.png", "red")
    write_photo(folder / "masks" / "a.png", "red")
    asked = {"models": (str(model),), "dataset": str(folder)}
    with pytest.raises(ConfigError, match=r"has colours \(RGB\)"):
        plan.configurations_of(plan.to_request(asked))
    Image.fromarray(np.full((20, 40), 3, np.uint8)).save(folder / "masks" / "a.png")
    with pytest.raises(ConfigError, match="has the label 3, the model has 0 to 2"):
        plan.configurations_of(plan.to_request(asked))


def test_a_model_without_a_pipeline_is_refused(tmp_path: Path, tiny_onnx: Path) -> None:
    """Where nobody says how photos become inputs there is no accuracy."""
    write_photo(tmp_path / "set" / "a.png", "red")
    asked = {"models": (str(tiny_onnx),), "dataset": str(tmp_path / "set")}
    with pytest.raises(ConfigError, match="nobody says how photos become inputs"):
        plan.configurations_of(plan.to_request(asked))
    with pytest.raises(ConfigError, match="go with --dataset only"):
        plan.configurations_of(plan.to_request({"models": ("resnet-18",), "dataset_limit": 4}))


def test_the_summary_and_the_table_show_accuracy_beside_speed() -> None:
    """A lower precision is told with its points, throughput and energy against fp32, in German too."""
    values = {"latency_p50_s": 0.01, "cpu_energy_per_inference_j": 1.0, "accuracy_images_count": 1000}
    beside = {name: derived(value) for name, value in values.items()}
    plain = record(figures=beside | {"top1_accuracy_ratio": share(720, 1000), "throughput_per_s": derived(100)})
    fast = record(
        precision="int8", figures=beside | {"top1_accuracy_ratio": share(700, 1000), "throughput_per_s": derived(250)}
    )
    told = " ".join(summarise([plain, fast]).sentences)
    assert "Most accurate: onnxruntime fp32 batch 1: top-1 72.0 % (69.1 % … 74.7 %) over 1000 photos." in told
    assert (
        "int8 batch 1: top-1 70.0 %, -2.0 points against fp32, with 2.5× the throughput and 1.00× the energy." in told
    )
    with speaking("de"):
        assert "-2,0 Prozentpunkte gegenüber fp32" in " ".join(summarise([plain, fast]).sentences)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal.records_table([plain, fast], with_id=False))
    assert "70.0 %" in console.export_text()
    assert "Acc.: top-1" in terminal.legend([plain, fast])
