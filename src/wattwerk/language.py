"""The language of what people read: English as it stands in the code, or a translation of it.

A text stands in the code in English, inside ``t``; its translation stands in ``languages/CODE.toml`` under the same
words. A test reads all calls of ``t`` and holds the files to them: nothing missing, nothing left over, the same
placeholders. TOML instead of gettext's compiled catalogues: a translator edits one file and needs no tool.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import resources
from typing import Final

from wattwerk.errors import ConfigError

#: code of a language (ISO 639-1) -> its name in itself
LANGUAGES: Final = {"en": "English", "de": "Deutsch"}

_DECIMAL_MARKS: Final = {"en": ".", "de": ","}
_language: ContextVar[str] = ContextVar("language", default="en")


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Write in a language within the block.

    Args:
        language: A key of ``LANGUAGES``.

    Raises:
        ConfigError: There is no such language.
    """
    if language not in LANGUAGES:
        raise ConfigError(f"there is no language {language!r}", f"use one of {', '.join(LANGUAGES)}")
    token = _language.set(language)
    try:
        yield
    finally:
        _language.reset(token)


def current() -> str:
    """Return the code of the language that is written in."""
    return _language.get()


def t(text: str, /, **values: object) -> str:
    """Return a text in the current language, its placeholders filled in.

    Args:
        text: The English text, a literal; ``{name}`` is a placeholder.
        values: What the placeholders stand for, already written in the current language.

    Returns:
        The translation; the English text where there is none.
    """
    found = text if _language.get() == "en" else translations(_language.get()).get(text, text)
    return found.format(**values) if values else found


def localised(number: str) -> str:
    """Return a number that was written with a decimal point as the current language writes it."""
    return number.replace(".", _DECIMAL_MARKS[_language.get()])


@cache
def translations(language: str) -> dict[str, str]:
    """Return English text -> its translation."""
    file = resources.files("wattwerk").joinpath("languages", f"{language}.toml")
    return dict(tomllib.loads(file.read_text(encoding="utf-8")))
