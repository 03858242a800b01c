"""wattwerk: measure, lower and explain the energy that AI costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wattwerk.metering import measure

__version__ = "0.1.0"

__all__ = ["__version__", "measure"]


def __getattr__(name: str) -> Any:
    """Import ``measure`` when it is first used."""
    if name != "measure":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wattwerk import metering

    return metering.measure
