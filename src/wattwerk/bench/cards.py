"""Which card of the meters ran the model: its energy has to be that card's, or nobody's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from wattwerk.records import Accelerator

#: A prefix that no channel has.
_NO_CHANNELS: Final = "unknown"


class Card(NamedTuple):
    """What ran the model.

    Attributes:
        prefix: First word of the channels of its meter, such as ``gpu0``; None for the CPU. Where no meter watches the
            card, or none can be told to be it, a word that no channel begins with.
        reason: Why the meter's card is not known; empty if it is.
    """

    prefix: str | None
    reason: str = ""


def card_of(device: str, address: str = "", accelerators: Sequence[Accelerator] = ()) -> Card:
    """Return which of the cards that the meters watch a device is.

    The address decides. Without one the number does: NVML counts along the bus, CUDA likewise where all cards are alike
    or ``CUDA_DEVICE_ORDER`` says so, and ``CUDA_VISIBLE_DEVICES`` renumbers. An accelerator of another kind, such as
    OpenVINO's ``gpu``, is none of NVML's.

    Args:
        device: As its runtime names it.
        address: Its PCI address as its runtime tells it; empty where it does not.
        accelerators: What the meters watch.
    """
    family, _, index = device.lower().partition(":")
    if "cpu" in device.lower():
        return Card(None)
    if family not in ("cuda", "tensorrt") or not (index.isascii() and index.isdecimal()):
        return Card(_NO_CHANNELS)
    watched = [card for card in accelerators if card.prefix]
    if place := _place(address):
        places = {_place(card.address): card.prefix for card in watched}
        if place in places:
            return Card(places[place])
        if any(places):
            return Card(_NO_CHANNELS, f"no meter watches the card at {address}; see [meters.nvml] in config.toml")
    return _by_number(int(index), watched)


def _place(address: str) -> tuple[int, ...]:
    """Return an address as numbers, since domains are written with four digits or with eight."""
    try:
        return tuple(int(part, 16) for part in address.partition(".")[0].split(":"))
    except ValueError:
        return ()


def _by_number(index: int, watched: Sequence[Accelerator]) -> Card:
    words = [word.strip() for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    word = words[index] if index < len(words) else "" if words else str(index)
    if not (word.isascii() and word.isdecimal()):
        fitting = [card.prefix for card in watched if word and card.uuid.lower().startswith(word.lower())]
        if len(fitting) == 1:
            return Card(fitting[0])
        return Card(_NO_CHANNELS, f"no meter knows a card {word!r}, which CUDA_VISIBLE_DEVICES names")
    alike = len({card.name for card in watched}) <= 1
    if alike or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return Card(f"gpu{word}")
    return Card(
        _NO_CHANNELS,
        "this machine's cards differ and the runtime does not tell which one it used; set CUDA_DEVICE_ORDER=PCI_BUS_ID",
    )
