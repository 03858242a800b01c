"""What the labels of a model are called: ImageNet, COCO, or a list of the user's own."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from wattwerk.catalog.processing import Processing
from wattwerk.errors import ConfigError

IMAGENET: Final = "imagenet"
COCO: Final = "coco"
#: Labels of a model of COCO that numbers them by category id; the others count the 80 classes from 0.
_COCO_IDS_COUNT: Final = 91


class Classes:
    """The words that stand for labels.

    Args:
        count: Labels of the model.
        words: Pairs of a word and its label; a word of two labels stands for none.
    """

    def __init__(self, count: int, words: Iterable[tuple[str, int]]) -> None:
        self.count = count
        self._labels: dict[str, set[int]] = {}
        for word, label in words:
            self._labels.setdefault(_plain(word), set()).add(label)

    def label(self, word: str) -> int:
        """Return the label that a word stands for: a name, a WordNet id, or the label as a number.

        Raises:
            ConfigError: The word stands for none of the model's labels, or for several.
        """
        found = self._labels.get(_plain(word), set())
        if len(found) == 1:
            return next(iter(found))
        if found:
            raise ConfigError(
                f"the class {word!r} stands for several labels ({', '.join(map(str, sorted(found)))})",
                "write its WordNet id or its number",
            )
        if re.fullmatch(r"[0-9]{1,9}", word.strip()):
            number = int(word)
            if number < self.count:
                return number
            raise ConfigError(
                f"the label {number} is not among the model's {self.count}", f"use 0 to {self.count - 1}, or names"
            )
        if not self._labels:
            raise ConfigError(
                f"nobody says which label the class {word!r} is",
                "write numbers, or name a list under `classes` in the model's .processing.toml (docs/accuracy.md)",
            )
        near = get_close_matches(_plain(word), self._labels, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of its {self.count} names, or a number"
        raise ConfigError(f"the model has no class {word!r}", hint)


def _plain(word: str) -> str:
    """Return a name as it is compared: ``Coffee_Mug`` and ``coffee mug`` are the same."""
    return " ".join(re.findall(r"[^\W_]+", word.casefold()))


@lru_cache(maxsize=8)
def classes_of(facts: Processing) -> Classes:
    """Return the words for a model's labels, as the key ``classes`` of its facts says.

    Raises:
        ConfigError: The list cannot be read, or does not fit the number of labels.
    """
    if not facts.classes:
        return Classes(facts.labels_count, ())
    if facts.classes == IMAGENET:
        return Classes(facts.labels_count, _imagenet(facts.labels_count))
    if facts.classes == COCO:
        return Classes(facts.labels_count, _coco(facts.labels_count))
    return Classes(facts.labels_count, _listed(Path(facts.classes), facts.labels_count))


def _rows(name: str) -> list[dict[str, str]]:
    text = (files("wattwerk.catalog") / "data" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))


def _imagenet(count: int) -> list[tuple[str, int]]:
    """Return WordNet ids and names; models with one label more have the background first (TensorFlow's)."""
    rows = _rows("imagenet.csv")
    _check_count(IMAGENET, count, (len(rows), len(rows) + 1))
    first = count - len(rows)
    pairs = [(row["wordnet"], index) for index, row in enumerate(rows, first)]
    # a whole line of names, as other lists give it, and each name by itself
    pairs += [(row["names"], index) for index, row in enumerate(rows, first)]
    return pairs + [(name, index) for index, row in enumerate(rows, first) for name in row["names"].split(",")]


def _coco(count: int) -> list[tuple[str, int]]:
    rows = _rows("coco.csv")
    _check_count(COCO, count, (len(rows), _COCO_IDS_COUNT))
    by_id = count == _COCO_IDS_COUNT
    return [(row["name"], int(row["id"]) if by_id else index) for index, row in enumerate(rows)]


def _listed(path: Path, count: int) -> list[tuple[str, int]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the list of classes {path} ({error})", "correct `classes`") from error
    names = [line.strip() for line in lines if line.strip()]
    _check_count(str(path), count, (len(names),))
    return [(name, index) for index, name in enumerate(names)]


def _check_count(name: str, count: int, possible: Sequence[int]) -> None:
    if count not in possible:
        raise ConfigError(
            f"labels_count is {count}, the classes of {name} are {' or '.join(map(str, possible))}",
            "correct `labels_count` or `classes`",
        )
