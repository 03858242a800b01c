"""Write seeds for the native fuzzers from the golden streams: `PYTHONPATH=. python scripts/make_fuzz_corpus.py FOLDER`.

`FOLDER/fuzz_decode` gets each unit's payload behind its arguments, `FOLDER/fuzz_roundtrip` the levels in it. Merge them
into the corpus with `build/fuzz/fuzz_decode -merge=1 tests/fuzz/corpus/fuzz_decode FOLDER/fuzz_decode`.
"""

from __future__ import annotations

import hashlib
import math
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tests.codec.golden_streams import Golden, entry_points, load, names, width_of
from tests.codec.test_golden import decode_unit, native_arguments

LONGEST_SIDE = 600  # as in tests/fuzz/common.h
MOST_TENSORS = 3


def fits(unit: dict[str, Any]) -> bool:
    """Return whether the fuzzers' fields can say what a unit is."""
    return len(unit["tensors"]) <= MOST_TENSORS and all(
        max(tensor["shape"][0], width_of(tensor)) <= LONGEST_SIDE and len(tensor["codebook"] or ()) <= 256
        for tensor in unit["tensors"]
    )


def arguments(golden: Golden, tensor: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return a tensor's fields, and the parent's levels and the history behind them."""
    tools = native_arguments(golden, tensor)
    base, history = tools["base"], tools["history"]
    flags = (
        tools["profile"]
        | tools["dependent"] << 1
        | tools["parent"] << 2
        | (history is not None) << 3
        | (base is not None) << 4
        | (tools["codebook_size"] > 0) << 5
        | bool(tensor["row_skip"]) << 6
    )
    sizes = (tensor["shape"][0], tools["width"] - 1, max(tools["codebook_size"] - 1, 0), tools["codebook_zero"])
    fields = struct.pack("<BBBHHBB", flags, tools["unary_length"] & 255, tools["scan_order"], *sizes)
    sides = b"" if base is None else np.clip(base, -128, 127).astype(np.int8).tobytes()
    if history is not None:
        sides += np.packbits(history == 1, bitorder="little").tobytes()
    return fields, sides


def decode_seed(golden: Golden, unit: dict[str, Any]) -> bytes:
    """Return a unit as the decoder's fuzzer reads it."""
    first = unit["tensors"][0]
    seed = bytes([len(unit["tensors"]) - 1, 0 if first["integer"] else 6 + first["qp_density"]])
    for tensor, points in zip(unit["tensors"], entry_points(unit), strict=True):
        fields, sides = arguments(golden, tensor)
        words = [(offset << 11 | value << 3 | state) & 0xFFFFFFFF for value, state, offset in points]
        seed += fields + b"\0" + struct.pack(f"<{len(words)}I", *words) + sides
    return seed + golden.data[unit["payload"] : unit["end"]]


def roundtrip_seeds(golden: Golden, unit: dict[str, Any]) -> list[bytes]:
    """Return a unit's levels as the round trip's fuzzer reads them: as levels, and as values."""
    as_levels, as_values = (bytes([mode, len(unit["tensors"]) - 1, 12]) for mode in (0, 1))
    for tensor, (levels, _) in zip(unit["tensors"], decode_unit(golden, unit), strict=True):
        fields, sides = arguments(golden, tensor)
        small = [
            struct.pack("b", level) if -128 < level < 128 else b"\x80" + struct.pack("<i", level)
            for level in levels.tolist()
        ]
        numbers = b"".join(small[: math.prod(tensor["shape"])])
        as_levels += fields + sides + b"\0" + numbers
        as_values += fields + b"\0" + bytes([100, 0, 0x38]) + numbers
    return [as_levels, as_values]


def main(folder: Path) -> None:
    """Write all seeds."""
    for name in names():
        golden = load(name)
        for unit in golden.units:
            if not fits(unit):
                continue
            for fuzzer, seeds in (
                ("fuzz_decode", [decode_seed(golden, unit)]),
                ("fuzz_roundtrip", roundtrip_seeds(golden, unit)),
            ):
                (folder / fuzzer).mkdir(parents=True, exist_ok=True)
                for seed in seeds:
                    (folder / fuzzer / hashlib.sha1(seed).hexdigest()).write_bytes(seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
