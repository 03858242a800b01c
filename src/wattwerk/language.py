"""The language of what people read: English as it stands in the code, or a translation of it.

A text stands in the code in English, inside ``t``; its translation stands in ``languages/CODE.toml`` under the same
words. A test reads all calls of ``t`` and holds the files to them: nothing missing, nothing left over, the same
placeholders. TOML instead of gettext's compiled catalogues: a translator edits one file and needs no tool.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache, reduce
from importlib import resources
from typing import Final

from wattwerk.errors import ConfigError

#: code of a language (ISO 639-1) -> its name in itself
LANGUAGES: Final = {"en": "English", "de": "Deutsch"}

#: code -> decimal mark and mark of thousands, as plotly writes them too
SEPARATORS: Final = {"en": ".,", "de": ",."}
#: stand around a text that is English whatever the current language is: they isolate it and cannot be seen
FOREIGN: Final = ("\u2068", "\u2069")

#: placeholders of recorded texts that stand for what others said; all other ones stand for numbers and names
_SENTENCES: Final = frozenset({"error", "reason", "words"})
#: what may stand before a recorded text and a colon: a meter, a channel, a kind of error
_NAME: Final = re.compile(r"\[?[A-Za-z][\w.-]*\]?")
_MOST_PARTS: Final = 50
_NUMBER: Final = re.compile(r"[+-]?[\d.]+ ?(%|[a-zA-Zµ]{1,2})?")
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
    """Return a number that was written with a decimal point, and commas in thousands, as the current language does."""
    return number.translate(str.maketrans(".,", SEPARATORS[_language.get()]))


def day(moment: str) -> str:
    """Return the day of an ISO 8601 moment for people: ``2026-11-03`` or ``03.11.2026``."""
    year, month, date = moment[:10].split("-")
    return f"{date}.{month}.{year}" if _language.get() == "de" else moment[:10]


def recorded(text: str) -> str:
    """Return a text that stands in a record, which is English there, in the current language.

    Records keep notes and reasons as sentences; ``languages/CODE.records.toml`` has those that this package writes,
    with a placeholder for each part that varies. What is not among them, such as the message of a driver, stays as it
    is, between the two letters ``FOREIGN``, so that a page can say in which language it is.

    Args:
        text: A note, a reason or a fault; several may stand in it with semicolons or commas between.
    """
    if _language.get() == "en" or not text:
        return text
    known = len(re.findall("[:;,] ", text)) <= _MOST_PARTS  # what is longer is none of ours
    found = _recorded(text, _language.get()) if known else None
    return f"{FOREIGN[0]}{text}{FOREIGN[1]}" if found is None else found


@lru_cache(maxsize=1024)
def _recorded(text: str, language: str) -> str | None:
    """Return the translation of a recorded text, as a whole or part by part; None where something is not known."""
    if told := _list(text, "; ", language):
        return told
    for pattern, other in recorded_texts(language):
        if match := pattern.fullmatch(text):
            return other.format(**{name: _part(name, part, language) for name, part in match.groupdict().items()})
    if told := _list(text, ", ", language) or _after_name(text, language):
        return told
    found = [told for mark in ("; ", ": ") if (told := _as_far_as_known(text, mark, language))]
    return min(found, key=_foreign_length, default=None)


def _after_name(text: str, language: str) -> str | None:
    """Return the translation of a text that follows a name and a colon."""
    name, mark, rest = text.partition(": ")
    known = _recorded(rest, language) if mark and _NAME.fullmatch(name) else None
    return f"{name}: {known}" if known else None


def _foreign_length(text: str) -> int:
    return sum(len(part.partition(FOREIGN[1])[0]) for part in text.split(FOREIGN[0])[1:])


def _as_far_as_known(text: str, mark: str, language: str) -> str | None:
    """Return the translation of the front, such as what failed, with the rest marked if it is not known."""
    parts = text.split(mark)
    for count in range(len(parts) - 1, 0, -1):
        if front := _recorded(mark.join(parts[:count]), language):
            rest = mark.join(parts[count:])
            return f"{front}{mark}{_recorded(rest, language) or f'{FOREIGN[0]}{rest}{FOREIGN[1]}'}"
    return None


def _list(text: str, mark: str, language: str) -> str | None:
    """Return the translation of several texts with a mark between; None unless each is known."""
    parts = [_recorded(part, language) for part in text.split(mark)] if mark in text else [None]
    return None if None in parts else mark.join(filter(None, parts))


def _part(name: str, text: str, language: str) -> str:
    """Return what a placeholder stands for: a number with its decimal mark, another recorded text, or a name."""
    first, _, second = text.partition(" and ")
    if second and _NUMBER.fullmatch(first) and _NUMBER.fullmatch(second):
        return t("{first} and {second}", first=localised(first), second=localised(second))
    words = text.split(" or ")
    if len(words) > 1 and not any(" " in word for word in words):
        return reduce(lambda front, last: t("{front} or {last}", front=front, last=last), words)
    if _NUMBER.fullmatch(text):
        return re.sub(r"(?<=\d)%", " %", localised(text))
    known = _recorded(text, language)
    return known or (f"{FOREIGN[0]}{text}{FOREIGN[1]}" if name in _SENTENCES else text)


@cache
def translations(language: str) -> dict[str, str]:
    """Return English text -> its translation."""
    return _table(f"{language}.toml")


@cache
def recorded_texts(language: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Return patterns of texts that stand in records, each with its translation."""
    return tuple((_pattern(text), other) for text, other in _table(f"{language}.records.toml").items())


def _pattern(text: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", text)
    # only what others said may hold a semicolon: else it is where the next text begins
    wild = {part: ".+?" if part in _SENTENCES else "[^;]+?" for part in parts[1::2]}
    named = (f"(?P<{part}>{wild[part]})" if index % 2 else re.escape(part) for index, part in enumerate(parts))
    return re.compile("".join(named), re.DOTALL)


def _table(name: str) -> dict[str, str]:
    file = resources.files("wattwerk").joinpath("languages", name)
    return dict(tomllib.loads(file.read_text(encoding="utf-8")))
