"""How back ends plug in: one visible dict a room, entry points for third parties, and a probe for each."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

import msgspec

from wattwerk.errors import ConfigError, UnavailableError

T = TypeVar("T")


class Probe(msgspec.Struct, frozen=True):
    """Tell whether a back end works on this machine.

    Attributes:
        available: Whether it can be used now.
        detail: What was found (a version, a device), or the reason why it cannot be used.
        remedy: What to do so that it can be used; None where nothing helps or nothing is needed.
    """

    available: bool
    detail: str
    remedy: str | None = None


@functools.cache
def _points(group: str, _path: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return name and import path of a group's entry points; reading them of all packages takes some 20 ms."""
    from importlib.metadata import entry_points

    return tuple((point.name, point.value) for point in entry_points(group=group))


class Registry(Generic[T]):
    """Name the back ends of one room without importing any of them.

    Args:
        room: The room's name, which is also the entry-point group ``wattwerk.<room>``.
        built_in: Name -> import path ``package.module:attribute``.
    """

    def __init__(self, room: str, built_in: Mapping[str, str]) -> None:
        self.room = room
        self._built_in = dict(built_in)

    def paths(self) -> dict[str, str]:
        """Return name -> import path, the built-in ones first.

        Raises:
            ConfigError: A third party's entry point takes a name that is already taken.
        """
        paths = dict(self._built_in)
        for name, value in _points(f"wattwerk.{self.room}", tuple(sys.path)):
            if paths.get(name, value) != value:
                raise ConfigError(
                    f"two {self.room} are called {name!r} ({paths[name]} and {value})",
                    "uninstall one of the two packages",
                )
            paths[name] = value
        return paths

    def names(self) -> list[str]:
        """Return all names, the built-in ones first."""
        return list(self.paths())

    def load(self, name: str) -> T:
        """Import and return the back end of a name.

        Raises:
            ConfigError: No back end has this name.
            UnavailableError: Its module cannot be imported.
        """
        paths = self._built_in if name in self._built_in else self.paths()  # entry points are slow to read
        if name not in paths:
            raise ConfigError(f"unknown {self.room.removesuffix('s')} {name!r}", suggestion(name, paths))
        module, _, attribute = paths[name].partition(":")
        try:
            loaded: Any = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            raise UnavailableError(f"{name} cannot be imported ({error})", "install what it needs") from error
        return loaded  # type: ignore[no-any-return]


def suggestion(name: str, known: Mapping[str, object] | list[str]) -> str:
    """Return a remedy that names the nearest known name, or all of them."""
    near = get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}"
