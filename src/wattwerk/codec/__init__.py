"""Pack named arrays into NNC streams (ISO/IEC 15938-17) and unpack them.

`pack` and `unpack` are the two ends; `pack_file` and `iter_unpack` do the same with one tensor in memory at a time;
`inspect` tells what a stream is made of; `pack_update` and `apply_update` send only what changed. NumPy is all that is
needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wattwerk.codec.inspection import Inspection, inspect
    from wattwerk.codec.options import PackOptions
    from wattwerk.codec.packing import pack, pack_file
    from wattwerk.codec.unpacking import iter_unpack, unpack, unpack_file
    from wattwerk.codec.update import UpdateDecoder, UpdateEncoder, apply_update, pack_update

__all__ = [
    "Inspection",
    "PackOptions",
    "UpdateDecoder",
    "UpdateEncoder",
    "apply_update",
    "inspect",
    "iter_unpack",
    "pack",
    "pack_file",
    "pack_update",
    "unpack",
    "unpack_file",
]

_HOMES = {
    "Inspection": "inspection",
    "PackOptions": "options",
    "UpdateDecoder": "update",
    "UpdateEncoder": "update",
    "apply_update": "update",
    "inspect": "inspection",
    "iter_unpack": "unpacking",
    "pack": "packing",
    "pack_file": "packing",
    "pack_update": "update",
    "unpack": "unpacking",
    "unpack_file": "unpacking",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
