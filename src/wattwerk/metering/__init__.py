"""Metering: the energy of any command and of any region of a program, as figures and records.

    from wattwerk.metering import measure

    with measure("training"):
        train()

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from wattwerk.metering.command import CommandOutcome, run_command
    from wattwerk.metering.regions import Region, measure, session

__all__ = ["CommandOutcome", "Region", "measure", "run_command", "session"]

_HOMES: Final = {
    "CommandOutcome": "command",
    "Region": "regions",
    "measure": "regions",
    "run_command": "command",
    "session": "regions",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
