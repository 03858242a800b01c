"""The streams in golden/, which the reference wrote, with what it decodes from them and with which tools."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "golden"
Arrays = dict[str, np.ndarray[Any, Any]]
#: Value of the coder's register, state of the dependent quantiser, bits since the block row before.
EntryPoint = tuple[int, int, int]


@functools.cache
def manifest() -> dict[str, Any]:
    """Return what the script that made the streams noted."""
    noted: dict[str, Any] = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
    return noted


@dataclass(frozen=True)
class Golden:
    """One stream.

    Attributes:
        name: Name of the case; rounds of an update end with their number.
        data: The stream.
        arrays: What tensors decode to and refer to, by kind (value, product, base, history) and name.
        units: Data units with a payload: start, payload and end in bytes, and the tools of each tensor.
        after: Name of the round before; empty without one.
    """

    name: str
    data: bytes
    arrays: dict[str, Arrays]
    units: list[dict[str, Any]]
    after: str

    @property
    def values(self) -> Arrays:
        """What the reference decodes, by tensor; factors stay factors."""
        return self.arrays["value"]


def names() -> list[str]:
    """Return the names of all streams."""
    return list(manifest()["streams"])


def updates() -> list[list[str]]:
    """Return the names of the rounds of each update, in order."""
    chains: dict[str, list[str]] = {}
    for name in names():
        if name.startswith("update"):
            after = manifest()["streams"][name].get("after", "")
            chains[name] = [*chains.pop(after, []), name]
    return list(chains.values())


@functools.cache
def load(name: str) -> Golden:
    """Return one stream."""
    noted = manifest()["streams"][name]
    units = [unit | {"tensors": [_tools(tensor) for tensor in unit["tensors"]]} for unit in noted["units"]]
    data = (FOLDER / f"{name}.nnc").read_bytes()
    return Golden(name, data, _arrays(name, noted["arrays"]), units, noted.get("after", ""))


def _tools(tensor: dict[str, Any]) -> dict[str, Any]:
    usual: dict[str, Any] = manifest()["usual"]
    return usual | tensor


def _arrays(name: str, listing: list[Any]) -> dict[str, Arrays]:
    arrays: dict[str, Arrays] = {"value": {}}
    with np.load(FOLDER / f"{name}.npz") as flat:
        stores = {kind: flat[kind] for kind in flat.files}
    offsets = dict.fromkeys(stores, 0)
    for kind, tensor, shape, dtype in listing:
        start, end = offsets[dtype], offsets[dtype] + math.prod(shape)
        arrays.setdefault(kind, {})[tensor] = stores[dtype][start:end].reshape(shape)
        offsets[dtype] = end
    return arrays


def width_of(tensor: dict[str, Any]) -> int:
    """Return the length of a row: the product of all dimensions but the first."""
    return math.prod(tensor["shape"][1:])


def entry_points(unit: dict[str, Any]) -> Iterator[list[EntryPoint]]:
    """Yield the entry points of each tensor of a unit."""
    packed = [(word >> 3 & 255, word & 7, word >> 11) for word in unit.get("entry_points", ())]
    for tensor in unit["tensors"]:
        order = tensor["scan_order"]
        count = -(-tensor["shape"][0] // (4 << order)) - 1 if order else 0
        yield packed[:count]
        packed = packed[count:]


def step_of(tensor: dict[str, Any]) -> float:
    """Return the step between the levels of a tensor; 1 for whole numbers. Source: ISO/IEC 15938-17, dequantisation."""
    if tensor["integer"]:
        return 1.0
    density, qp = tensor["qp_density"], tensor["qp"]
    mantissa = (1 << density) + (qp & ((1 << density) - 1))
    return math.ldexp(mantissa, (qp >> density) - density)
