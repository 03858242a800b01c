from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wattwerk.bench import photos as photo_source
from wattwerk.bench.photos import Photo
from wattwerk.bench.processing_arrays import suppressed
from wattwerk.bench.processing_base import TOLERANCE_LEVELS, Detections, Processor, Segments, Top, place
from wattwerk.bench.processing_planted import planted
from wattwerk.bench.processing_sequential import Sequential, overlap
from wattwerk.bench.processing_vectorised import Vectorised
from wattwerk.catalog import models
from wattwerk.catalog.processing import Processing, facts_of
from wattwerk.errors import ConfigError

BATCH = 7


@pytest.fixture(scope="module")
def some() -> list[Photo]:
    """Return a batch of the real photos, in which one comes twice."""
    return photo_source.batch_at(photo_source.load(None).photos, 0, BATCH)


def facts(layout: str = "places", **fields: object) -> Processing:
    """Return the facts of a model with three labels."""
    plain = {"layout": layout, "labels_count": 3, "resize": "stretch", "source": "a test"}
    return Processing(**(plain | fields))  # type: ignore[arg-type]


def both(its: Processing, size: int, batch: int = BATCH) -> list[Processor]:
    """Return the sequential processor, the vectorised one and, where torch is there, the one on a device."""
    found: list[Processor] = [
        Sequential(its, (3, size, size), batch, 1),
        Vectorised(its, (3, size, size), batch, 2),
    ]
    try:
        import torch  # noqa: F401
    except ImportError:
        return found
    from wattwerk.bench.processing_torch import OnDevice

    return [*found, OnDevice(its, (3, size, size), batch, 2, "cpu")]


def outputs_for(processor: Processor, outputs: list[np.ndarray]) -> list[object]:
    """Return outputs as the processor gets them: tensors for the one on a device."""
    if type(processor).__name__ != "OnDevice":
        return list(outputs)
    import torch

    return [torch.from_numpy(each) for each in outputs]


@pytest.mark.parametrize("name", ["mobilenet-v2", "resnet-50", "vit-b-16", "detr-r50", "segformer-b5", "yolov9-c"])
def test_all_ways_make_the_same_input_of_real_photos(name: str, some: list[Photo]) -> None:
    """Every pixel of crop, stretch and letterbox, bilinear and bicubic, is within one level of 255 of Pillow's."""
    its = facts_of(models.resolve(name))
    size = models.resolve(name).inputs[0].shape[1]
    found = []
    for processor in both(its, size):
        out = np.full((BATCH, 3, size, size), np.nan, np.float32)
        processor.preprocess(some, outputs_for(processor, [out])[0])
        processor.close()
        found.append(out * np.array(its.std, np.float32).reshape(3, 1, 1) * 255)
    for other in found[1:]:
        assert np.abs(other - found[0]).max() <= TOLERANCE_LEVELS
        assert np.abs(other - found[0]).mean() < 0.3
    assert np.ptp(found[0]) > 200


def test_a_staged_batch_is_the_same_as_one_made_in_place(some: list[Photo]) -> None:
    """What the overlapped way decodes ahead and copies later is what the others write straight into the input."""
    its = facts(resize="letterbox")
    for processor in both(its, 96)[1:]:
        direct, later = (np.zeros((BATCH, 3, 96, 96), np.float32) for _ in range(2))
        processor.preprocess(some, outputs_for(processor, [direct])[0])
        processor.stage(some)
        processor.unload(outputs_for(processor, [later])[0])
        processor.close()
        np.testing.assert_array_equal(direct, later)


def assert_equal(first: list[object], second: list[object]) -> None:
    """Compare two lists of results: labels exactly, scores and boxes within the rounding of float32."""
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert type(a) is type(b)
        np.testing.assert_array_equal(a.labels, b.labels)  # type: ignore[attr-defined]
        if not isinstance(a, Segments):
            np.testing.assert_allclose(a.scores, b.scores, rtol=1e-5)  # type: ignore[attr-defined]
        if isinstance(a, Detections):
            np.testing.assert_allclose(a.boxes, b.boxes, rtol=1e-5, atol=1e-3)  # type: ignore[attr-defined]


@pytest.mark.parametrize("layout", ["logits", "queries", "places", "map"])
def test_all_ways_give_the_same_results(layout: str, some: list[Photo]) -> None:
    """Top labels, DETR's queries, YOLO's places after suppression, and maps are the same for a whole batch."""
    shapes = {
        "logits": [(BATCH, 50)],
        "queries": [(BATCH, 30, 51), (BATCH, 30, 4)],
        "places": [(BATCH, 4, 400), (BATCH, 50, 400)],
        "map": [(BATCH, 50, 40, 40)],
    }
    its = facts(layout, labels_count=50, resize="letterbox" if layout == "places" else "stretch")
    stream = np.random.default_rng(1)
    outputs = [stream.random(shape, np.float32) * 0.2 for shape in shapes[layout]]
    if its.task == "detection":
        outputs = planted(outputs, its, (3, 320, 320), 0)
    reference, *others = ((each, each.postprocess(outputs_for(each, outputs), some)) for each in both(its, 320))
    for processor, results in others:
        assert_equal(reference[1], results)
        processor.close()
    if its.task == "detection":
        assert all(len(each.scores) >= 3 for each in reference[1]), "nothing was found, so nothing was compared"
    for photo, result in zip(some, reference[1], strict=True):
        if isinstance(result, Segments):
            assert result.labels.shape == (photo.height, photo.width)


def test_equal_scores_go_by_their_place() -> None:
    """Labels that tie are told in the order of the labels, boxes that tie in the order of their places."""
    logits = np.zeros((1, 6), np.float32)
    boxes = np.array([[[5, 25, 5], [5, 25, 5], [4, 4, 4], [4, 4, 4]]], np.float32)
    scores = np.full((1, 3, 3), 0.9, np.float32)
    photo = [Photo("a", b"", 30, 30)]
    for processor in both(facts("logits", top_count=3), 30, 1)[:2]:
        (top,) = processor.postprocess([logits], photo)
        assert isinstance(top, Top)
        assert top.labels.tolist() == [0, 1, 2]
    for processor in both(facts(), 30, 1):
        (found,) = processor.postprocess(outputs_for(processor, [boxes, scores]), photo)
        assert isinstance(found, Detections)
        assert found.boxes.tolist() == [[3, 3, 7, 7], [23, 23, 27, 27]]


def test_suppression_by_hand() -> None:
    """Two boxes that share half of one of them overlap by a third; label and threshold decide which one stays."""
    boxes = np.array([[[10, 15, 10], [10, 10, 10], [10, 10, 10], [10, 10, 10]]], np.float32)  # centres 10, 15, 10
    scores = np.array([[[0.9, 0.8, 0.0], [0.0, 0.0, 0.7], [0.0, 0.0, 0.0]]], np.float32)
    photo = [Photo("a", b"", 40, 80)]
    assert overlap((5, 5, 15, 15), (10, 5, 20, 15)) == pytest.approx(1 / 3)
    for most, kept in ((0.4, [0.9, 0.8, 0.7]), (0.3, [0.9, 0.7])):  # the third box is of another label: it stays
        for processor in both(facts(overlap_most_ratio=most), 40, 1):
            (found,) = processor.postprocess(outputs_for(processor, [boxes, scores]), photo)
            assert isinstance(found, Detections)
            np.testing.assert_allclose(found.scores, kept)
            np.testing.assert_allclose(found.boxes[0], [5, 10, 15, 30])  # the photo is twice as high as the input


def test_one_output_of_boxes_and_scores_is_taken_apart() -> None:
    """YOLO's boxes and scores in one array (batch, 4 + labels, places) give what two arrays give."""
    one = np.zeros((1, 7, 5), np.float32)
    one[0, :4, 2], one[0, 5, 2] = (20, 20, 10, 10), 0.9
    for processor in both(facts(), 40, 1):
        (found,) = processor.postprocess(outputs_for(processor, [one]), [Photo("a", b"", 40, 40)])
        assert isinstance(found, Detections)
        assert (found.labels.tolist(), found.boxes.tolist()) == ([1], [[15, 15, 25, 25]])


def test_detr_by_hand() -> None:
    """A query counts if its likeliest label but "no object" is above the threshold; its box is cut at the photo."""
    logits = np.full((1, 3, 4), -20, np.float32)
    logits[0, 0, 2] = 5  # label 2
    logits[0, 1, 3] = 5  # no object
    logits[0, 2] = (1, 1, 1, -20)  # three labels at a third each
    boxes = np.array([[[0.5, 0.5, 0.5, 1.5], [0.1, 0.1, 0.1, 0.1], [0.2, 0.2, 0.1, 0.1]]], np.float32)
    for processor in both(facts("queries", score_least_ratio=0.5), 800, 1):
        (found,) = processor.postprocess(outputs_for(processor, [logits, boxes]), [Photo("a", b"", 200, 100)])
        assert isinstance(found, Detections)
        assert found.labels.tolist() == [2]
        np.testing.assert_allclose(found.boxes, [[50, 0, 150, 100]])
        np.testing.assert_allclose(found.scores, [1.0], rtol=1e-6)


def brute_force(boxes: np.ndarray, groups: np.ndarray, most: float) -> list[int]:
    """Return what stays, pair by pair."""
    kept: list[int] = []
    for index in range(len(boxes)):
        rivals = [other for other in kept if groups[other] == groups[index]]
        if all(overlap(tuple(boxes[index]), tuple(boxes[other])) <= most for other in rivals):
            kept.append(index)
    return kept


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 40), st.integers(1, 5), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_suppression_is_that_of_pairs(count: int, groups_count: int, seed: int, most: float) -> None:
    """Whatever the boxes (equal and empty ones too), groups and threshold: rounds keep what a loop over pairs keeps."""
    stream = np.random.default_rng(seed)
    corner, extent = stream.integers(0, 12, (count, 2)), stream.integers(0, 8, (count, 2))
    boxes = np.concatenate((corner, corner + extent), axis=1).astype(np.float64)
    groups = stream.integers(0, groups_count, count)
    assert suppressed(boxes, groups, most).tolist() == brute_force(boxes, groups, most)


def test_where_a_photo_lies() -> None:
    """A crop takes the middle of the short side scaled, a letterbox centres the photo, a stretch fills the input."""
    wide = Photo("wide", b"", 640, 480)
    crop = place(wide, facts("logits", resize="crop", short_side=256), 224, 224)
    assert crop[:4] == (341, 256, 58, 16)
    box = place(wide, facts(resize="letterbox"), 640, 640)
    assert (box.width, box.height, box.left, box.top) == (640, 480, 0, 80)
    assert place(wide, facts(), 64, 32)[:2] == (32, 64)


def jpeg(path: Path, size: tuple[int, int], **options: object) -> None:
    """Write a photo of one colour on the left and another on the right."""
    image = Image.new("RGB", size, (200, 30, 30))
    image.paste((20, 20, 220), (size[0] // 2, 0, *size))
    image.save(path, **options)


def test_photos_of_a_folder(tmp_path: Path) -> None:
    """Damaged and cut-off files are named and left out; grey, transparent and turned ones become upright RGB JPEGs."""
    jpeg(tmp_path / "a.jpg", (64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg(tmp_path / "b.jpg", (64, 48), exif=exif)
    Image.new("LA", (30, 20)).save(tmp_path / "c.png")
    (tmp_path / "d.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:500])
    (tmp_path / "e.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image either, and nobody expects one")
    found = photo_source.load(str(tmp_path))
    assert [(p.name, p.width, p.height) for p in found.photos] == [
        ("a.jpg", 64, 48),
        ("b.jpg", 48, 64),
        ("c.png", 30, 20),
    ]
    assert found.photos[0].data == (tmp_path / "a.jpg").read_bytes()
    assert all(Image.open(io.BytesIO(p.data)).mode == "RGB" for p in found.photos)
    assert [line.partition(":")[0] for line in found.refused] == ["d.jpg", "e.png"]


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    """An empty folder, one that is missing, and one with nothing but damaged files are each named with the reason."""
    with pytest.raises(ConfigError, match="no usable photo in"):
        photo_source.load(str(tmp_path))
    with pytest.raises(ConfigError, match="cannot read the folder"):
        photo_source.load(str(tmp_path / "missing"))
    (tmp_path / "e.png").write_text("no image")
    with pytest.raises(ConfigError, match=r"e\.png"):
        photo_source.load(str(tmp_path))


def test_every_catalog_model_has_its_facts() -> None:
    """All built-in models say how photos become inputs, with a source, and their task and label count fit the graph."""
    for name in models.names():
        model = models.resolve(name)
        its = facts_of(model)
        assert its.task == model.task
        assert its.source


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("labels = 3", "unknown key"),
        ("std = [1, 0, 1]", "std has to be more than 0"),
        ('layout = "map"\nresize = "letterbox"', "a map goes with stretch only"),
        ('layout = "queries"', "means 2 outputs"),
    ],
)
def test_wrong_facts_are_named(tmp_path: Path, lines: str, reason: str) -> None:
    """A wrong file beside a model says what is wrong; a model without one says which file to write."""
    from wattwerk.testing import SmallModel

    path = tmp_path / "small.onnx"
    path.write_bytes(SmallModel().onnx_bytes())
    with pytest.raises(ConfigError, match=r"write small\.processing\.toml"):
        facts_of(models.resolve(str(path)))
    plain = {"layout": '"logits"', "labels_count": "10", "resize": '"stretch"', "source": '"a test"'}
    plain |= dict(line.split(" = ") for line in lines.splitlines())
    (tmp_path / "small.processing.toml").write_text("".join(f"{key} = {value}\n" for key, value in plain.items()))
    with pytest.raises(ConfigError, match=reason):
        facts_of(models.resolve(str(path)))
