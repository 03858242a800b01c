"""Texts and their translations."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest

import wattwerk
from wattwerk.errors import ConfigError
from wattwerk.language import LANGUAGES, speaking, t, translations
from wattwerk.units import format_value, times

SOURCES = sorted(Path(wattwerk.__file__).parent.rglob("*.py"))
TRANSLATED = [language for language in LANGUAGES if language != "en"]


def _texts(source: Path) -> set[str]:
    """Return the first arguments of all calls of ``t`` in a file; what is no literal is an error."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "t":
            assert isinstance(node.args[0], ast.Constant), f"{source}:{node.lineno}: t takes a literal"
            found.add(str(node.args[0].value))
    return found


def _placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("language", TRANSLATED)
def test_every_text_is_translated(language):
    """Each text in the code has a translation, and each translation has its text in the code."""
    texts = set().union(*map(_texts, SOURCES))
    assert texts == set(translations(language))


@pytest.mark.parametrize("language", TRANSLATED)
def test_placeholders_are_kept(language):
    """A translation fills in what its text fills in."""
    wrong = [text for text, other in translations(language).items() if _placeholders(text) != _placeholders(other)]
    assert wrong == []


def test_a_language_holds_within_its_block_only():
    """Texts and decimal marks follow the language, and the one before comes back, after an error too."""

    def fails_in_german() -> None:
        with speaking("de"):
            assert (times(3), format_value("x_s", 0.00793)) == ("3-mal", "7,93 ms")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails_in_german()
    assert (times(3), format_value("x_s", 0.00793)) == ("3 times", "7.93 ms")
    assert t("once") == "once"


def test_an_unknown_language_is_named():
    """The error names the language and those that there are."""
    with pytest.raises(ConfigError, match="'fr'") as caught, speaking("fr"):
        pass
    assert "en, de" in str(caught.value.remedy)
