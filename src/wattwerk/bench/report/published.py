"""Values that somebody else published, to be laid beside one's own: never ranked with them, always marked as such.

``data/ipa.csv`` holds those of the benchmarks of Fraunhofer IPA, which this report's charts are modelled on, each with
its place in the study.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

import msgspec

from wattwerk.bench.report.bars import Bar
from wattwerk.language import t
from wattwerk.units import format_value

#: unit in the file -> its value in SI units, a ratio as a fraction of one
_UNITS: Final = {"W": 1.0, "ms": 1e-3, "TOPS": 1e12, "percent": 0.01, "percentage points": 0.01}
#: name of a model there -> names of it here
_MODELS: Final = {
    "resnet50": ("resnet-50",),
    "vit": ("vit-b-16",),
    "detr": ("detr-r50",),
    "segformer": ("segformer-b5",),
    "yolov9": ("yolov9-c",),
}
#: those that its means are over
FIVE_MODELS: Final = frozenset(name for names in _MODELS.values() for name in names)
_NAMES: Final = {
    "i7-13700": "Intel i7-13700",
    "rtx-4090": "NVIDIA RTX 4090",
    "hailo-8": "Hailo-8",
    "jetson-orin-nx-16g": "Jetson Orin NX 16 GB",
}


class Published(msgspec.Struct, frozen=True):
    """One value of a publication.

    Attributes:
        quantity: What it is a value of, such as ``system_power``.
        platform: What it was measured on, as people call it.
        models: Names of the models here that it is about; empty for a mean over several.
        condition: Under what condition, in the publication's words.
        batch: The batch size of the condition; None where it names none.
        low: Lower end of a range, or the value; SI units, a ratio as a fraction of one.
        high: Upper end of a range, or the value.
        source: Where it was published.
    """

    quantity: str
    platform: str
    models: frozenset[str]
    condition: str
    batch: int | None
    low: float
    high: float
    source: str = ""

    @property
    def value(self) -> float:
        """The value; the middle of a range."""
        return (self.low + self.high) / 2


@functools.cache
def ipa_study() -> tuple[Published, ...]:
    """Return the values of the study.

    Source: Fraunhofer IPA, study of AI hardware and software for computer vision, figures 11 to 19 and chapter 4.2.
    """
    text = (files("wattwerk.bench.report") / "data" / "ipa.csv").read_text(encoding="utf-8")
    return tuple(_published(row) for row in csv.DictReader(io.StringIO(text)))


def _published(row: dict[str, str]) -> Published:
    low, _, high = row["value"].partition("-")
    factor = _UNITS[row["unit"]]
    words = row["condition"].split()
    batch = next((int(word) for before, word in itertools.pairwise(words) if before == "batch"), None)
    return Published(
        quantity=row["quantity"],
        platform=_NAMES.get(row["platform"], row["platform"]),
        models=_models(row["model"]),
        condition=row["condition"],
        batch=batch,
        low=float(low) * factor,
        high=float(high or low) * factor,
        source=row["source"],
    )


def _models(words: str) -> frozenset[str]:
    if words == "all models":
        return FIVE_MODELS
    return frozenset(name for each in words.split(" and ") for name in _MODELS.get(each, ()))


def plain_name(model: str) -> str:
    """Return a model's name without the word that it is run in a pipeline."""
    return model.removesuffix(" (pipeline)")


def beside(
    published: Sequence[Published], quantity: str, model: str | None = None, batch: int | None = None
) -> list[Published]:
    """Return the values to lay beside one's own.

    Args:
        published: All values.
        quantity: What they are values of.
        model: Name of one's own model, with or without ``(pipeline)``; None for means over several.
        batch: The batch size; None for any.
    """
    plain = plain_name(model) if model else None
    return [
        value
        for value in published
        if value.quantity == quantity
        and (plain in value.models if plain else not value.models)
        and (batch is None or value.batch == batch)
    ]


def published_bar(value: Published, figure: str, *, label: str | None = None, text: str | None = None) -> Bar:
    """Return a published value as a bar: an outline that is called published.

    Args:
        value: The value.
        figure: Name of a figure with its unit.
        label: Text at the axis, where ``published`` does not say enough.
        text: The value in words, where the figure's form does not fit.
    """
    ranged = value.low != value.high
    words = text or (_range(value, figure) if ranged else format_value(figure, value.value))
    return Bar(
        label=label or t("published"),
        value=value.value,
        low=value.low if ranged else None,
        high=value.high if ranged else None,
        colour="@text",
        text=words,
        hover=[value.platform, t("{value}, published, not measured here", value=words), value.condition, value.source],
        published=True,
    )


def _range(value: Published, figure: str) -> str:
    low, high = format_value(figure, value.low), format_value(figure, value.high)
    unit = high.partition(" ")[2]
    return f"{low.removesuffix(unit).strip()}–{high}" if low.endswith(unit) else f"{low} – {high}"
