"""Texts as HTML."""

from __future__ import annotations

import html
import re
from typing import Final

from wattwerk.language import FOREIGN

_UNIT: Final = re.compile(r"(?<=\d) (?=(?:%|°C|1/s|[nµmkMGT]?(?:s|W|J|B|Hz))(?!\w))")


def escaped(text: str) -> str:
    """Return a text as HTML; what is English in a page of another language is marked as such."""
    return html.escape(text).replace(FOREIGN[0], '<span lang="en">').replace(FOREIGN[1], "</span>")


def unbroken(text: str) -> str:
    """Return a text as HTML in which a value and its unit stay on one line."""
    return escaped(_UNIT.sub("\u00a0", text))
