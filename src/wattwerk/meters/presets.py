"""Known devices: the channels of a meter or PDU as a file in ``data`` tells them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from wattwerk.config import read_toml, to_struct
from wattwerk.errors import ConfigError
from wattwerk.meters.mapped import MappedChannel
from wattwerk.registry import suggestion

_DATA: Final = Path(__file__).parent / "data"

C = TypeVar("C", bound=MappedChannel)


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The channels of a known device, as one of the files in ``data`` tells them.

    Attributes:
        source: Where the maker published them.
        channels: Tables of channels, their names and those in ``contains`` without prefix.
        outlet_channels: Tables that stand for each wanted outlet, whose number replaces ``{outlet}``.
        verified: Whether they were compared with that publication; nobody has compared any with the device itself.
    """

    source: str
    channels: list[dict[str, Any]]
    outlet_channels: list[dict[str, Any]] = []
    verified: bool = True

    def tables(self, prefix: str, outlets: Sequence[int] = ()) -> list[dict[str, Any]]:
        """Return the tables of all channels, their names beginning with a prefix."""
        each = [_fill(table, outlet) for outlet in outlets for table in self.outlet_channels]
        return [_prefixed(table, prefix) for table in [*self.channels, *each]]


def _fill(table: dict[str, Any], outlet: int) -> dict[str, Any]:
    number_of = {key: value.replace("{outlet}", str(outlet)) for key, value in table.items() if isinstance(value, str)}
    return table | number_of


def _prefixed(table: dict[str, Any], prefix: str) -> dict[str, Any]:
    inner = {"contains": [f"{prefix}_{name}" for name in table["contains"]]} if "contains" in table else {}
    return table | {"name": f"{prefix}_{table['name']}"} | inner


def preset_names(kind: str) -> list[str]:
    """Return the names of the presets that are shipped for a kind of meter, such as ``modbus``."""
    return sorted(path.stem for path in (_DATA / kind).glob("*.toml"))


def load_preset(kind: str, name: str) -> Preset:
    """Read one of the presets that are shipped.

    Raises:
        ConfigError: There is none of this name.
    """
    known = preset_names(kind)
    if name not in known:
        raise ConfigError(f"meters.{kind}: there is no preset {name!r}", suggestion(name, known))
    return to_struct(Preset, read_toml(_DATA / kind / f"{name}.toml"), f"preset {name}")


def preset_doubts(kind: str, name: str) -> list[str]:
    """Return what has to be known before the values of a preset are believed; nothing where no preset is named.

    Raises:
        ConfigError: There is none of this name.
    """
    if not name or load_preset(kind, name).verified:
        return []
    return [f"the preset {name} was not compared with the maker's document: compare power and energy with the display"]


def preset_channels(kind: str, name: str, channel: type[C], prefix: str, outlets: Sequence[int] = ()) -> list[C]:
    """Return the channels of a preset; none where no preset is named.

    Raises:
        ConfigError: There is none of this name.
    """
    tables = load_preset(kind, name).tables(prefix, outlets) if name else []
    return [to_struct(channel, table, f"preset {name}") for table in tables]
