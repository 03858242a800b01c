"""Published weights through the whole way from a photo to a label; skipped where their packages are not installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from wattwerk.bench import photos
from wattwerk.bench.pipeline import open_pipeline
from wattwerk.bench.processing_base import Top
from wattwerk.catalog import models
from wattwerk.catalog.classes import classes_of
from wattwerk.catalog.processing import facts_of
from wattwerk.runtimes import RUNTIMES
from wattwerk.runtimes.base import LoadSpec, Precision

SCRIPT = Path(__file__).parents[2] / "scripts" / "published_models.py"
#: Photos of scikit-image and scikit-learn that show a class of ImageNet, and the classes that are right: the cat's coat
#: is a tabby's, and ImageNet has three such; it has no motorcycle, moped and motor scooter are what comes nearest.
RIGHT = {
    "coffee.png": {"espresso"},
    "camera.png": {"tripod"},
    "china.jpg": {"palace"},
    "chelsea.png": {"tabby", "tiger cat", "Egyptian cat"},
    "motorcycle_left.png": {"moped", "motor scooter"},
    "motorcycle_right.png": {"moped", "motor scooter"},
}


def shown() -> list[photos.Photo]:
    """Return the photos, each from the package that brings it along."""
    places = []
    for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = importlib.util.find_spec(package)
        places += [Path(place) / folder for place in (spec.submodule_search_locations or ())] if spec else []
    paths = [place / name for name in RIGHT for place in places if (place / name).is_file()]
    assert len(paths) == len(RIGHT)
    found = [photos.read(path) for path in paths]
    assert all(isinstance(photo, photos.Photo) for photo in found), found
    return [photo for photo in found if isinstance(photo, photos.Photo)]


@pytest.mark.parametrize("name", ["efficientnet-lite0", "mobilenet-v2-torchvision"])
def test_published_weights_know_what_a_photo_shows(name: str, tmp_path: Path) -> None:
    """Both ways of processing lead every photo to a right class of ImageNet, and to the same five labels."""
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("published_models", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    spec.loader.exec_module(script)
    path = script.write(name, tmp_path)
    if path is None:
        pytest.skip("its package is not installed; .ci/run does it")
    model = models.resolve(str(path))
    facts, some = facts_of(model), shown()
    words = classes_of(facts)
    told = {}
    for processing in ("sequential", "vectorised"):
        load = LoadSpec(precision=Precision.FP32, batch=len(some), device="cpu", threads=1)
        session = RUNTIMES.load("onnxruntime").load(model, load)
        pipeline = open_pipeline(session, model, facts, processing, some, len(some), 1, 0)
        results = pipeline.results_of(some)
        pipeline.close()
        session.close()
        told[processing] = [result.labels.tolist() for result in results if isinstance(result, Top)]
    for photo, labels in zip(some, told["sequential"], strict=True):
        assert labels[0] in {words.label(word) for word in RIGHT[photo.name]}, photo.name
    assert [labels[0] for labels in told["vectorised"]] == [labels[0] for labels in told["sequential"]]
    assert all(set(one) & set(other) for one, other in zip(*told.values(), strict=True))
