"""Configuration files: TOML, read into frozen types; an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import platformdirs

from wattwerk.errors import ConfigError
from wattwerk.registry import suggestion

S = TypeVar("S", bound=msgspec.Struct)


def home() -> Path:
    """Return the folder that holds the store and ``config.toml``: ``WATTWERK_HOME``, or the platform's data folder."""
    chosen = os.environ.get("WATTWERK_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("wattwerk"))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: The file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror})", "check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML ({error})", "correct that line") from error


def to_struct(kind: type[S], values: dict[str, Any], where: str) -> S:
    """Convert plain values into a frozen config type, strictly.

    Args:
        kind: The config type.
        values: Plain values, as TOML gives them.
        where: What the values belong to, for the error's text.

    Raises:
        ConfigError: A key is unknown or a value is of the wrong type or out of range.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key in values:
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {key!r}", suggestion(key, fields) if fields else "remove it")
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}", "correct the value") from error


def user_section(*keys: str) -> dict[str, Any]:
    """Return one section of the user's ``config.toml``; empty where the file or the section is missing.

    Raises:
        ConfigError: The file is not TOML, or the section is not a table.
    """
    path = home() / "config.toml"
    section: Any = read_toml(path) if path.exists() else {}
    for key in keys:
        section = section.get(key, {})
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: [{'.'.join(keys)}] is not a table", "write it as a TOML table")
    return dict(section)
