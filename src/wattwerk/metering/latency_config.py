"""Put a latency that was found out into the user's ``config.toml``, and change nothing else in it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from wattwerk.config import home
from wattwerk.errors import ConfigError

_OURS: Final = "calibrated "


def set_latencies(latencies: Mapping[str, tuple[float, str]], path: Path | None = None) -> Path:
    """Write ``latency_s`` into sections ``[meters.<name>]``, and keep a copy of the file as it was.

    What stands there stays: comments, order, line ends. The file is replaced at once, and only if it then says what it
    said before but for these values.

    Args:
        latencies: Name of the meter's section -> its latency in seconds, and a comment without ``#``.
        path: The file; by default the user's ``config.toml``.

    Returns:
        The copy of the old file.

    Raises:
        ConfigError: The file cannot be read or written, has no such section, or it is not certain where to write.
    """
    path = (path or home() / "config.toml").resolve()
    try:
        before = path.read_bytes()
        text = before.decode("utf-8")
        old = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {path} ({error})", "write the lines into it by hand") from error
    wanted = old
    for name, (latency_s, comment) in latencies.items():
        text = _with_latency(text, name, latency_s, comment, path)
        wanted = _changed(wanted, name, latency_s)
    try:
        same = tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        same = False
    if not same:
        raise ConfigError(f"it is not certain where to write in {path}", "write the lines into it by hand")
    return _replace(path, before, text.encode("utf-8"))


def _changed(values: dict[str, Any], name: str, latency_s: float) -> dict[str, Any]:
    meters = values.get("meters", {})
    return {**values, "meters": {**meters, name: {**meters.get(name, {}), "latency_s": latency_s}}}


def _with_latency(text: str, name: str, latency_s: float, comment: str, path: Path) -> str:
    """Return the text with one value more, or replaced."""
    lines = text.splitlines(keepends=True)
    word = rf"(?:{re.escape(name)}|\"{re.escape(name)}\"|'{re.escape(name)}')"
    header = re.compile(rf"[ \t]*\[[ \t]*meters[ \t]*\.[ \t]*{word}[ \t]*\][ \t]*(?:#.*)?[\r\n]*")
    places = [place for place, line in enumerate(lines) if header.fullmatch(line)]
    if len(places) != 1:
        raise ConfigError(
            f"{path} has {'no' if not places else 'more than one'} line [meters.{name}]", "write the lines by hand"
        )
    first = places[0] + 1
    end = next((place for place in range(first, len(lines)) if lines[place].lstrip().startswith("[")), len(lines))
    line_end = "\r\n" if lines[places[0]].endswith("\r\n") else "\n"
    if not lines[places[0]].endswith("\n"):
        lines[places[0]] += line_end
    new = f"latency_s = {latency_s}  # {comment}{line_end}"
    taken = re.compile(r"[ \t]*latency_s[ \t]*=[^#\r\n]*(#[^\r\n]*)?[\r\n]*")
    for place in range(first, end):
        if match := taken.fullmatch(lines[place]):
            theirs = match[1] or ""
            kept = [] if not theirs or theirs.lstrip("# ").startswith(_OURS) else [theirs + line_end]
            return "".join([*lines[:place], *kept, new, *lines[place + 1 :]])
    return "".join([*lines[:first], new, *lines[first:]])


def _replace(path: Path, before: bytes, after: bytes) -> Path:
    try:
        copy = _free(path)
        shutil.copy2(path, copy)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(after)
                file.flush()
                os.fsync(file.fileno())
            shutil.copymode(path, part)
            if path.read_bytes() != before:
                raise ConfigError(f"{path} was changed meanwhile", "try again")
            os.replace(part, path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            copy.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"cannot write {path} ({error.strerror})", "write the lines into it by hand") from error
    return copy


def _free(path: Path) -> Path:
    """Return a name for the copy that no file has yet."""
    names = (path.with_name(f"{path.name}.bak{number or ''}") for number in range(10**6))
    return next(name for name in names if not name.exists())
