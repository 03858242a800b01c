"""Command lines without their secrets: what a record keeps of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

MASK: Final = "***"

_WORD: Final = r"(?:pass|passwd|password|passphrase|secret|secrets|token|key|apikey|credential|credentials|auth)"
#: ``--api-key``, ``HF_TOKEN``: a name whose last word says that its value is a secret
_NAME: Final = rf"[-\w.]*(?<![a-zA-Z]){_WORD}|[-\w.]*(?:apikey|password|passwd|secret|token)"
_OPTION: Final = re.compile(rf"-{{1,2}}(?:{_NAME})", re.IGNORECASE)
_ASSIGNED: Final = re.compile(rf"((?<![-\w.])(?:{_NAME})[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s&;,]+)", re.IGNORECASE)
#: the same option inside a script that is one argument
_SPACED: Final = re.compile(rf"((?<![-\w.])-{{1,2}}(?:{_NAME})\s+)(\"[^\"]*\"|'[^']*'|[^\s&;,]+)", re.IGNORECASE)
_BEARER: Final = re.compile(r"\b(bearer|basic)\s+[^\s\"']+", re.IGNORECASE)
_LOGIN: Final = re.compile(r"(\w+://[^\s/:@]*:)[^\s/@]+(?=@)")
#: Tokens that are known by how they begin: Hugging Face, OpenAI, GitHub, GitLab, Slack, AWS
_KNOWN: Final = re.compile(r"\b(?:hf_|sk-|gh[oprsu]_|github_pat_|glpat-|xox[abprs]-|AKIA)[\w-]{8,}")


def masked(arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments with everything masked that looks like a secret.

    After an option such as ``--password``, in ``NAME=value`` with a name such as ``API_KEY``, in a URL's login, after
    ``Bearer``, and what begins like a known service's token.
    """
    told, after = [], False
    for argument in arguments:
        told.append(MASK if after else _within(argument))
        after = bool(_OPTION.fullmatch(argument))
    return told


def _within(argument: str) -> str:
    argument = _BEARER.sub(rf"\1 {MASK}", argument)
    argument = _LOGIN.sub(rf"\1{MASK}", argument)
    argument = _KNOWN.sub(MASK, argument)
    return _SPACED.sub(rf"\1{MASK}", _ASSIGNED.sub(rf"\1{MASK}", argument))
