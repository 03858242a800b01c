"""What a report in German may not say: words of the English texts, and where people would read them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

from wattwerk.language import recorded_texts, translations

_WORD = re.compile(r"[^\W\d_]{2,}")
#: words of every day that no German text has, whether or not a text of the report has them
_COMMON = """
    the of and with without from than that this these which what where when while because only every each other more
    less least most by for not are is it its at to or on measured modelled derived unavailable failed invalid
    machine power energy latency throughput efficiency median mean speed clock memory driver yes none
"""
#: names, units and proper terms that both languages share
_SHARED = frozenset({"an", "in", "so", "am", "was", "log", "no"})


class VisibleText(HTMLParser):
    """Collects what people see or hear of a page in its own language, and what plotly writes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._silent: list[str] = []
        self._specs = ""
        self.feed(text)
        self.found += [text for text in _strings(json.loads(self._specs)) if not text.startswith("@")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep texts of attributes; what is marked as English, and code, is not read."""
        attributes = dict(attrs)
        if tag in ("script", "style") or (tag == "span" and attributes.get("lang") == "en") or self._silent:
            self._silent.append("specs" if attributes.get("id") == "specs" else tag)
        self.found += [value for key, value in attrs if key in ("aria-label", "title", "alt", "data-file") and value]

    def handle_endtag(self, tag: str) -> None:
        """Read on."""
        if self._silent:
            self._silent.pop()

    def handle_data(self, data: str) -> None:
        """Keep what is read."""
        if not self._silent:
            self.found.append(data)
        elif self._silent[-1] == "specs":
            self._specs += data


def _strings(value: object, key: str = "") -> list[str]:
    """Return the texts of specifications: those under keys whose values people read."""
    if isinstance(value, dict):
        return [text for name, each in value.items() for text in _strings(each, name)]
    if isinstance(value, list):
        return [text for each in value for text in _strings(each, key)]
    read = key in ("text", "ticktext", "name", "hovertext", "head", "rows", "file", "title")
    return [re.sub(r"</?b>|<br>|<extra></extra>", " ", value)] if isinstance(value, str) and read else []


def english_words() -> frozenset[str]:
    """Return words that occur in English texts of the package and in no German one."""
    english = " ".join([*translations("de"), *(pattern.pattern for pattern, _ in recorded_texts("de"))])
    german = " ".join([*translations("de").values(), *(text for _, text in recorded_texts("de"))])
    english, german = (re.sub(r"\{\w+\}|\(\?P<\w+>\.\+\?\)|\\.", " ", text) for text in (english, german))
    return frozenset(_words(english + _COMMON)) - _words(german) - _SHARED


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


def english_in(page: str, names: set[str]) -> dict[str, str]:
    """Return English words that people would read in a German page, each with a text that has it.

    Args:
        page: HTML.
        names: Names of models, machines and the like, which stay as they are; they are removed first.
    """
    forbidden = english_words()
    found: dict[str, str] = {}
    for text in VisibleText(page).found:
        plain = re.sub(
            "\u2068.*?\u2069|`[^`]*`|--\\w+|\\w+_\\w+", " ", text, flags=re.DOTALL
        )  # said by others, or code
        for name in sorted(names, key=len, reverse=True):
            plain = plain.replace(name, " ")
        for word in _words(plain) & forbidden:
            found.setdefault(word, plain.strip()[:120])
    return found
