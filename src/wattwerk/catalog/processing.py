"""What a model wants of a photo and what its outputs mean: facts with sources, apart from the code that uses them."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from wattwerk import config
from wattwerk.catalog.models import CatalogModel
from wattwerk.errors import ConfigError

Layout = Literal["logits", "queries", "places", "map"]
Triple = tuple[float, float, float]

#: layout of the outputs -> the task that it belongs to
TASKS: Final[dict[Layout, str]] = {
    "logits": "classification",
    "queries": "detection",
    "places": "detection",
    "map": "segmentation",
}
#: layout -> how many outputs there may be
_OUTPUTS: Final[dict[Layout, tuple[int, ...]]] = {"logits": (1,), "queries": (2,), "places": (1, 2), "map": (1,)}


class Processing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How photos become a model's input, and its outputs become results.

    Attributes:
        layout: What the outputs are. ``logits`` (batch, labels); ``queries``: logits (batch, queries, labels + "no
            object") and boxes (batch, queries, 4) as centre and size in [0, 1]; ``places``: boxes (batch, 4, places) as
            centre and size in pixels of the input and scores (batch, labels, places), as two outputs or one after the
            other in one; ``map``: logits (batch, labels, height, width).
        labels_count: Number of labels, without "no object".
        classes: What they are called: ``imagenet`` (1000, or 1001 with the background first), ``coco`` (80, or 91 by
            category id), or a text file beside the model's with a name a line; empty where nobody says.
        resize: ``crop``: the short side to ``short_side``, then the middle; ``stretch`` to the input's size;
            ``letterbox``: as large as fits, the rest filled.
        short_side: The short side before the crop, in pixels; 0 takes the input's.
        filter: The filter of the resize, antialiased where it shrinks.
        mean: What is subtracted of red, green and blue in [0, 1].
        std: What the rest is divided by.
        fill: Grey value beside a letterboxed photo, 0 to 255.
        top_count: How many labels of an image are told, the likeliest first.
        score_least_ratio: A detection has to score more than this.
        overlap_most_ratio: Of two boxes of a label that overlap more than this, the lower score goes (``places`` only).
        detections_most_count: Detections of an image at most.
        source: Where all this is published.
    """

    layout: Layout
    labels_count: int
    resize: Literal["crop", "stretch", "letterbox"]
    source: str
    classes: str = ""
    short_side: int = 0
    filter: Literal["bilinear", "bicubic"] = "bilinear"
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    fill: int = 114
    top_count: int = 5
    score_least_ratio: float = 0.5
    overlap_most_ratio: float = 0.45
    detections_most_count: int = 300

    def __post_init__(self) -> None:
        if self.labels_count < 1 or self.top_count < 1 or self.detections_most_count < 1:
            raise ValueError("labels_count, top_count and detections_most_count have to be 1 or more")
        if self.classes not in ("", "imagenet", "coco") and not self.classes.endswith(".txt"):
            raise ValueError("classes has to be imagenet, coco, or a .txt file with a name a line")
        if min(self.std) <= 0:
            raise ValueError("std has to be more than 0")
        if not 0 <= self.fill <= 255:
            raise ValueError("fill has to be a grey value from 0 to 255")
        if not (0 <= self.score_least_ratio <= 1 and 0 <= self.overlap_most_ratio <= 1):
            raise ValueError("score_least_ratio and overlap_most_ratio have to be from 0 to 1")
        if self.layout != "logits" and self.resize == "crop":
            raise ValueError("a crop leaves parts of the photo without a result: use stretch or letterbox")
        if self.layout == "map" and self.resize != "stretch":
            raise ValueError("a map goes with stretch only")

    @property
    def task(self) -> str:
        """``classification``, ``detection`` or ``segmentation``."""
        return TASKS[self.layout]


@lru_cache(maxsize=1)
def _known() -> dict[str, Any]:
    return tomllib.loads((files("wattwerk.catalog") / "data" / "processing.toml").read_text(encoding="utf-8"))


def facts_of(model: CatalogModel) -> Processing:
    """Return what is known of a model's photos and outputs.

    For a built-in model the catalogue knows; for ``name.onnx`` the file ``name.processing.toml`` beside it.

    Raises:
        ConfigError: Nothing is known, it is wrong, or the model takes something other than one RGB image.
    """
    name, beside = model.reference.name, Path(model.reference.name).expanduser().with_suffix(".processing.toml")
    if name in _known():
        values, where = _known()[name], f"processing of {name}"
    elif name.endswith(".onnx") and beside.is_file():
        values, where = config.read_toml(beside), str(beside)
        if str(values.get("classes", "")).endswith(".txt"):
            values["classes"] = str((beside.parent / values["classes"]).resolve())
    else:
        remedy = (
            f"write {beside.name} beside it (docs/pipelines.md)" if name.endswith(".onnx") else "use a model of the "
        )
        remedy += "" if name.endswith(".onnx") else "catalog, or an ONNX file with a .processing.toml beside it"
        raise ConfigError(f"nobody says how photos become inputs of {name}", remedy)
    facts = config.to_struct(Processing, values, where)
    _check(facts, model, where)
    return facts


def _check(facts: Processing, model: CatalogModel, where: str) -> None:
    shapes = [spec.shape for spec in model.inputs]
    one_image = len(shapes) == 1 and len(shapes[0]) == 3 and shapes[0][0] == 3 and model.inputs[0].dtype == "float32"
    if not one_image:
        raise ConfigError(
            f"{model.name} takes {', '.join(map(str, shapes))}, no single RGB image (3, height, width) of float32",
            "a pipeline needs a model of images with the channels first",
        )
    if facts.resize == "crop" and 0 < facts.short_side < max(shapes[0][1:]):
        raise ConfigError(f"{where}: short_side {facts.short_side} is less than the input's", "use the input's or more")
    count = len(model.output_names())
    if count not in _OUTPUTS[facts.layout]:
        wanted = " or ".join(map(str, _OUTPUTS[facts.layout]))
        raise ConfigError(
            f"{where}: layout {facts.layout!r} means {wanted} outputs, the model has {count}", "correct it"
        )
