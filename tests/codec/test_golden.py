import math
from typing import Any

import numpy as np
import pytest
from tests.codec.golden_streams import Golden, entry_points, load, names, step_of, updates, width_of

from wattwerk.codec import UpdateDecoder, _native, unpack

NAMES = names()
PLAIN = [name for name in NAMES if not name.startswith("update")]


def native_arguments(golden: Golden, tensor: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords that a tensor's encoder and decoder share."""
    name = tensor["name"]
    base = golden.arrays.get("base", {}).get(name)
    history = golden.arrays.get("history", {}).get(name)
    return {
        "width": width_of(tensor),
        "profile": tensor["profile"],
        "dependent": bool(tensor["dependent"]),
        "unary_length": tensor["unary_length"],
        "scan_order": tensor["scan_order"],
        "parent": bool(tensor["parent"]),
        "base": None if base is None else base.ravel(),
        "history": None if history is None else history.ravel(),
        # the first profile knows no truncation by the codebook
        "codebook_size": len(tensor["codebook"] or ()) if tensor["profile"] else 0,
        "codebook_zero": tensor["codebook_zero"] if tensor["profile"] else 0,
    }


def decode_unit(golden: Golden, unit: dict[str, Any]) -> list[tuple[np.ndarray[Any, Any], bytes]]:
    """Return the levels and the parameter sets of each tensor of a unit; the payload has to end where the unit ends."""
    decoder = _native.Decoder(golden.data, unit["payload"], unit["end"])
    decoded = []
    for tensor, points in zip(unit["tensors"], entry_points(unit), strict=True):
        if not tensor["integer"]:
            assert decoder.bypass(6 + tensor["qp_density"], True) == tensor["qp"] - tensor["model_qp"]
        count = math.prod(tensor["shape"])
        levels = decoder.tensor(count, entry_points=points, **native_arguments(golden, tensor))
        decoded.append((levels, decoder.parameter_sets))
    assert decoder.finish() == unit["end"] - unit["payload"]
    return decoded


def values_of(levels: np.ndarray[Any, Any], tensor: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return what the levels stand for, computed here in float32."""
    if tensor["codebook"] is not None:
        levels = np.asarray(tensor["codebook"], np.int32)[levels + tensor["codebook_zero"]]
    shaped = levels.reshape(tensor["shape"])
    return shaped if tensor["integer"] else shaped.astype(np.float32) * np.float32(step_of(tensor))


@pytest.mark.parametrize("name", NAMES)
def test_payloads_decode_to_the_references_values(name: str) -> None:
    """The arithmetic decoder reads what the reference wrote, to the last bit and to the last byte of each unit."""
    golden = load(name)
    for unit in golden.units:
        for tensor, (levels, _) in zip(unit["tensors"], decode_unit(golden, unit), strict=True):
            np.testing.assert_array_equal(values_of(levels, tensor), golden.values[tensor["name"]])


def is_distorted(tensor: dict[str, Any]) -> bool:
    """Return whether the reference may have coded other levels than it had quantised.

    With dependent quantisation, rows skipped in blocks move its trellis and its coder differently, so that a row which
    it did not mark as empty can be empty in the stream.
    """
    return bool(tensor["dependent"] and tensor["scan_order"] and tensor["row_skip"])


@pytest.mark.parametrize("name", NAMES)
def test_the_same_decisions_give_the_same_bytes(name: str) -> None:
    """With the reference's levels and parameter sets our encoder writes the reference's payloads and entry points."""
    golden = load(name)
    for unit in golden.units:
        if any(is_distorted(tensor) for tensor in unit["tensors"]):
            continue
        encoder = _native.Encoder()
        for tensor, (levels, sets) in zip(unit["tensors"], decode_unit(golden, unit), strict=True):
            if not tensor["integer"]:
                encoder.bypass(tensor["qp"] - tensor["model_qp"], 6 + tensor["qp_density"])
            rows = bool(tensor["row_skip"])
            tools = native_arguments(golden, tensor) | {
                "row_skip": rows,
                "force_row_skip": rows,
                "parameter_sets": sets,
            }
            encoder.tensor(levels, **tools)
        assert encoder.finish() == golden.data[unit["payload"] : unit["end"]]
        assert encoder.entry_points == list(entry_points(unit))


@pytest.mark.parametrize("name", PLAIN)
def test_streams_unpack_to_the_references_arrays(name: str) -> None:
    """Whole streams unpack to the reference's arrays: the same names, types, shapes and numbers."""
    golden = load(name)
    arrays = unpack(golden.data)
    expected = {name: value for name, value in golden.values.items() if not name.endswith(("_G", "_H"))}
    products = golden.arrays.get("product", {})
    assert set(arrays) == set(expected) | set(products)
    for tensor, value in expected.items():
        assert arrays[tensor].dtype == value.dtype
        np.testing.assert_array_equal(arrays[tensor], value)
    for tensor, value in products.items():
        np.testing.assert_allclose(arrays[tensor], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("chain", updates(), ids=lambda chain: chain[0])
def test_updates_unpack_round_by_round(chain: list[str]) -> None:
    """Differences that refer to the rounds before decode to the reference's arrays in every round."""
    decoder = UpdateDecoder()
    for name in chain:
        golden = load(name)
        arrays = decoder.decode(golden.data)
        assert set(arrays) == set(golden.values)
        for tensor, value in golden.values.items():
            np.testing.assert_array_equal(arrays[tensor], value)
