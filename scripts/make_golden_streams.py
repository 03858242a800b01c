#!/usr/bin/env python3
"""Write the golden streams of the codec's tests with the reference implementation, nncodec 2.1.3.

    python scripts/make_golden_streams.py tests/codec/golden

Run it with a Python that has nncodec 2.1.3 (it wants numpy < 2 and torch); wattwerk itself is not needed. The streams
are the reference's own bytes for small seeded arrays. Beside each NAME.nnc stands NAME.npz, the arrays that the
reference decodes from it; manifest.json says where the units and payloads lie and with which tools each tensor was
coded, as the reference's own decoder saw it. A second run writes the same bytes.

What the public calls do not offer (profile 0, raw tensors, separate units for the tensors of a block) is
reached through the reference's inner functions.

An npz holds, one after the other in flat arrays by type, what the manifest's `arrays` list with kind, name and shape:
`value` is what a tensor decodes to, `base` and `history` are what the temporal and the history-dependent contexts of an
update refer to, `product` is the weight that a pair of factors T_G and T_H stands for.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from golden_reference import USUAL, Arrays, Streams, describe, entry, flat, inner, public, updates, with_model_set

# The arrays


def laplace(rng: np.random.Generator, *shape: int, scale: float = 0.05) -> np.ndarray:
    """Return float32 numbers as trained weights are distributed."""
    return rng.laplace(scale=scale, size=shape).astype(np.float32)


def sparse(rng: np.random.Generator, *shape: int, share: float = 0.1) -> np.ndarray:
    """Return weights of which few differ from zero, every third row none."""
    values = laplace(rng, *shape) * (rng.random(shape) < share)
    values[::3] = 0
    return values.astype(np.float32)


def small_model(seed: int = 1) -> Arrays:
    """Return one tensor of each kind: odd shapes, one row, one column, sparse, one-dimensional, whole numbers."""
    rng = np.random.default_rng(seed)
    return {
        "stem.weight": laplace(rng, 8, 3, 3, 3),
        "stem.bias": rng.normal(scale=0.1, size=8).astype(np.float32),
        "depthwise.weight": laplace(rng, 9, 1, 3, 3, scale=0.3),
        "head.weight": laplace(rng, 24, 37),
        "head.bias": rng.normal(scale=0.2, size=24).astype(np.float32),
        "sparse.weight": sparse(rng, 17, 29),
        "column": laplace(rng, 13, 1),
        "row": laplace(rng, 1, 19),
        "einzeln-größe": np.array([0.625], dtype=np.float32),
        "steps": np.array([7, 0, -123456], dtype=np.int32),
        "table": rng.integers(-9, 10, (5, 6)).astype(np.int32),
    }


def block_model(seed: int = 2) -> tuple[Arrays, dict[str, Any]]:
    """Return a convolution with batch normalisation and a layer with local scaling, and what belongs together."""
    rng = np.random.default_rng(seed)
    arrays = {
        "a.weight": laplace(rng, 12, 5, 3, 3),
        "a.gamma": (1 + laplace(rng, 12)).astype(np.float32),
        "a.beta": laplace(rng, 12),
        "a.mean": laplace(rng, 12),
        "a.var": (1 + np.abs(laplace(rng, 12))).astype(np.float32),
        "b.weight": laplace(rng, 20, 31),
        "b.bias": laplace(rng, 20),
        "b.weight_scaling": (1 + laplace(rng, 20)).astype(np.float32),
        "alone": laplace(rng, 6, 7),
    }
    kinds = {"gamma": "bn.gamma", "beta": "bn.beta", "mean": "bn.mean", "var": "bn.var"}
    kinds |= {"bias": "bias", "weight": "weight", "weight_scaling": "weight.ls"}
    names = [name for name in arrays if name != "alone"]
    types = {name: kinds[name.split(".")[1]] for name in names}
    return arrays, {"parameter_type": types, "block_identifier": {name: name.split(".")[0] for name in names}}


def factor_model(rank: int = 4) -> tuple[Arrays, dict[str, Any]]:
    """Return a weight as a product of two factors, with its bias and its scaling."""
    rng = np.random.default_rng(3)
    arrays = {
        "c.weight": laplace(rng, 21, 3, 3, 3),
        "c.bias": laplace(rng, 21),
        "c.weight_scaling": (1 + laplace(rng, 21)).astype(np.float32),
    }
    types = {"c.weight": "weight", "c.bias": "bias", "c.weight_scaling": "weight.ls"}
    return arrays, {"parameter_type": types, "block_identifier": dict.fromkeys(types, "c"), "rank": rank}


def changes(seed: int, count: int, shapes: dict[str, tuple[int, ...]], share: float = 0.3) -> list[Arrays]:
    """Return rounds of sparse changes that mostly touch the same places; a tensor named `still` never changes."""
    rng = np.random.default_rng(seed)
    places = {name: rng.random(shape) < share for name, shape in shapes.items()}
    rounds = []
    for _ in range(count):
        arrays = {}
        for name, shape in shapes.items():
            often = places[name] & (rng.random(shape) < 0.8) | (rng.random(shape) < 0.02)
            arrays[name] = (laplace(rng, *shape, scale=0.02) * often).astype(np.float32)
            if name == "still":
                arrays[name][:] = 0
        rounds.append(arrays)
    return rounds


# The streams


def uniform_cases() -> dict[str, Streams]:
    """Return uniform quantisation over the steps, and the encoder's choices."""
    cases = {}
    for qp in (-60, -38, -32, -20, -8):
        for dq in (True, False):
            cases[f"uniform_qp{-qp}_{'dq' if dq else 'plain'}"] = public(
                small_model(), qp=qp, use_dq=dq, row_skipping=dq
            )
    cases["unary_1"] = public(small_model(), cabac_unary_length_minus1=0)
    cases["unary_4_plain"] = public(small_model(), cabac_unary_length_minus1=3, use_dq=False)
    cases["no_row_skip"] = public(small_model(), row_skipping=False)
    cases["no_search"] = public(small_model(), param_opt=False)
    cases["density_0"] = public(small_model(), qp_density=0, qp=-8, nonweight_qp=-18)
    cases["density_4"] = public(small_model(), qp_density=4, qp=-128, nonweight_qp=-300)
    cases["mixed_qp"] = public(
        small_model(), qp_per_tensor={"head.weight": np.int32(-45), "sparse.weight": np.int32(-11)}
    )
    cases["bit_depth_5"] = public(small_model(), int_quant_bw=5, use_dq=False)
    cases["profile0_dq"] = inner(small_model(), profile=0)
    cases["profile0_plain"] = inner(small_model(), profile=0, dq=False)
    cases["raw"] = inner({"a": laplace(np.random.default_rng(4), 5, 7)}, raw=True)
    cases["large_levels"] = public(large_numbers())
    limits = np.array([-(2**31), 2**31 - 1, 2**30, 0, 1 - 2**31], dtype=np.int32)
    cases["integer_limits"] = public({"limits": limits})
    return {name: [(stream, {})] for name, stream in cases.items()}


def large_numbers() -> Arrays:
    """Return whole numbers up to a quarter of what int32 holds, about each power of two."""
    powers = 2 ** np.arange(1, 30, dtype=np.int64)
    ends = np.stack([powers, -powers - 1, powers + 11], axis=1)
    return {"ends": ends.astype(np.int32), "zeros": np.zeros((4, 5), np.int32), "ones": np.ones(6, np.int32)}


def scan_cases() -> dict[str, Streams]:
    """Return block scans, with tensors of one and of many block rows, whole and sparse."""
    rng = np.random.default_rng(6)
    arrays = {"tall": laplace(rng, 70, 11), "small": laplace(rng, 5, 70), "sparse": sparse(rng, 67, 19)}
    arrays |= {
        "conv": laplace(rng, 33, 2, 3, 3),
        "bias": laplace(rng, 70),
        "table": rng.integers(-3, 4, (20, 9)).astype(np.int32),
    }
    cases = {}
    for order in (1, 2, 3, 4):
        for dq in (True, False):
            cases[f"scan_{order}_{'dq' if dq else 'plain'}"] = public(
                arrays, scan_order=order, use_dq=dq, qp=-26, row_skipping=not dq
            )
    cases["scan_1_dq_row_skip"] = public(arrays, scan_order=1, qp=-20)
    cases["scan_2_profile0"] = inner(arrays, scan_order=2, profile=0, qp=-20)
    cases["scan_1_codebook"] = public(arrays, scan_order=1, codebook_mode=1, use_dq=False, qp=-16)
    return {name: [(stream, {})] for name, stream in cases.items()}


def codebook_cases() -> dict[str, Streams]:
    """Return codebooks: of a few values, one-sided, of one value, and where the reference finds them cheaper."""
    rng = np.random.default_rng(7)
    few = np.array([-0.31, -0.11, 0.0, 0.02, 0.25], dtype=np.float32)
    arrays = {
        "few": rng.choice(few, (23, 17), p=[0.1, 0.2, 0.4, 0.2, 0.1]),
        "positive": np.abs(rng.choice(few, (11, 9))),
        "negative": -np.abs(rng.choice(few, (11, 9))),
        "one_value": np.full((6, 7), 0.25, dtype=np.float32),
        "two_values": rng.choice(few[[0, 2]], (9, 9)),
        "sparse": sparse(rng, 14, 15),
        "bias": rng.choice(few, 12),
        "dense": laplace(rng, 9, 13, scale=0.5),
    }
    cases = {
        "codebook_always": public(arrays, codebook_mode=1, use_dq=False, qp=-24, nonweight_qp=-24, row_skipping=False),
        "codebook_always_fine": public({"few": arrays["few"]}, codebook_mode=1, use_dq=False, qp=-40),
        "codebook_cheaper_dq": public(arrays, codebook_mode=2, use_dq=True, qp=-24, nonweight_qp=-24),
        "codebook_cheaper_plain": public(arrays, codebook_mode=2, use_dq=False, qp=-32),
        "codebook_profile0": inner(arrays, codebook_mode=1, dq=False, profile=0, qp=-24),
        "codebook_unary_2": public(arrays, codebook_mode=1, use_dq=False, cabac_unary_length_minus1=1, qp=-28),
    }
    return {name: [(stream, {})] for name, stream in cases.items()}


def block_cases() -> dict[str, Streams]:
    """Return tensors coded together: batch normalisation, folded or not, biases, local scaling, factors."""
    arrays, blocks = block_model()
    factored, pair = factor_model()
    cases = {
        "block_dq": public(arrays, block_id_and_param_type=blocks, row_skipping=False),
        "block_plain": public(arrays, block_id_and_param_type=blocks, use_dq=False, qp=-20),
        "block_scan_1": public(arrays, block_id_and_param_type=blocks, scan_order=1, row_skipping=False),
        "block_folded": public(arrays, block_id_and_param_type=blocks, bnf=True),
        "block_profile0": inner(arrays, blocks=blocks, profile=0),
        "block_apart": inner(arrays, blocks=blocks, joined=False),
        "factors_dq": inner(factored, blocks=pair, row_skip=False),
        "factors_plain": inner(factored, blocks=pair, dq=False, qp=-24),
        "factors_scan_1": inner(factored, blocks=pair, scan_order=1, row_skip=False),
        "factors_profile0": inner(factored, blocks=pair, profile=0),
    }
    without_row_skip = ("block_dq", "block_scan_1", "factors_dq", "factors_scan_1")
    return {name: [(stream, {"row_skip": int(name not in without_row_skip)})] for name, stream in cases.items()}


def thresholds(kind: str, first: dict[str, Any], classes: np.dtype) -> dict[str, Any]:
    """Return a performance map with two thresholds, of which the second tells two classes' accuracies."""
    accuracies = np.array([[0, 0], [0.5, 0.625]], dtype=np.float32)
    return first | {
        f"{kind}_nn_accuracy": np.float32([0.75, 0.5]),
        f"{kind}_count_classes": np.array([0, 2], classes),
        f"{kind}_class_bitmask": np.array([0, 2]),
        f"{kind}_nn_class_accuracy": accuracies,
    }


def model_set() -> dict[str, Any]:
    """Return what a model's parameter set can say besides."""
    two = np.float32([0.125, 0.25])
    sparse_at = {"spm_count_thresholds": 3, "sparsification_threshold": two, "non_zero_ratio": two}
    said = thresholds("spm", sparse_at, np.dtype(np.uint8))
    said |= thresholds("ppm", {"ppm_count_pruning_ratios": 3, "pruning_ratio": two}, np.dtype(np.uint8))
    low_rank_at = {"dpm_count_thresholds": 3, "mse_threshold": two, "nn_reduction_ratio": two}
    said |= thresholds("dpm", low_rank_at, np.dtype(np.uint16))
    said |= {f"mps_{what}_flag": 1 for what in ("sparsification", "pruning", "decomposition_performance_map")}
    said |= {"base_model_id_present_flag": 1, "base_model_id": "base", "performance_metric_type": "top-1"}
    return said | {"validation_set_performance_present_flag": 1, "validation_set_performance": np.float32(0.75)}


def model_set_cases() -> dict[str, Streams]:
    """Return streams that say more of the model than the reference's encoder does by itself."""
    arrays = {"w": laplace(np.random.default_rng(10), 9, 7), "b": laplace(np.random.default_rng(11), 9)}
    cases = {
        "model_qp": with_model_set(arrays, {"mps_quantization_parameter": -37}),
        "model_maps": with_model_set(arrays, model_set()),
        "model_maps_profile0": with_model_set(arrays, model_set(), profile=0),
    }
    return {name: [(stream, {"model_qp": -37 * (name == "model_qp")})] for name, stream in cases.items()}


def update_cases() -> dict[str, Streams]:
    """Return updates in rounds, with and without the contexts that look back."""
    shapes: dict[str, tuple[int, ...]] = {"w": (21, 23), "conv": (9, 3, 3, 3), "still": (5, 6), "bias": (17,)}
    tall: dict[str, tuple[int, ...]] = {"w": (35, 14), "bias": (9,)}
    rounds, more = changes(8, 3, shapes), changes(9, 2, tall)
    return {
        "update_parent": updates(rounds, tca=False),
        "update_tca_dq": updates(rounds, tca=True, row_skipping=False),
        "update_tca_plain": updates(rounds, tca=True, use_dq=False, qp=-26),
        "update_hdsp_dq": updates(rounds, tca=False, hdsp=True, row_skipping=False),
        "update_hdsp_plain": updates(rounds, tca=False, hdsp=True, use_dq=False, qp=-26),
        "update_both": updates(rounds, tca=True, hdsp=True, row_skipping=False),
        # the reference's encoder and decoder disagree about the state after skipped rows in a dependent block scan
        "update_tca_scan_1_dq": updates(more, tca=True, scan_order=1, row_skipping=False),
        "update_tca_scan_1_plain": updates(more, tca=True, scan_order=1, use_dq=False),
        "update_hdsp_scan_1": updates(more, tca=False, hdsp=True, scan_order=1),
        "update_tca_codebook": updates(more, tca=True, codebook_mode=1, use_dq=False, qp=-20),
        "update_first": updates(rounds[:1], tca=True, pre_signalling=True),
    }


def write(folder: Path, cases: dict[str, Streams]) -> None:
    """Write the streams, their arrays and the manifest."""
    command = "python scripts/make_golden_streams.py tests/codec/golden"
    manifest: dict[str, Any] = {"reference": "nncodec 2.1.3", "command": command, "usual": USUAL, "streams": {}}
    for case, streams in cases.items():
        for index, (stream, state) in enumerate(streams):
            name = case if len(streams) == 1 else f"{case}_{index + 1}"
            units, arrays = describe(stream, state)
            (folder / f"{name}.nnc").write_bytes(stream)
            np.savez_compressed(folder / f"{name}.npz", **flat(arrays))
            manifest["streams"][name] = entry(units, arrays)
            if index:
                manifest["streams"][name]["after"] = f"{case}_{index}"
    text = json.dumps(manifest, ensure_ascii=False, separators=(",", ":"))
    (folder / "manifest.json").write_text(text.replace('},"', '},\n"') + "\n", encoding="utf-8")


def main() -> int:
    """Write everything into the folder that is named."""
    parser = argparse.ArgumentParser(description="Write the golden streams of the codec's tests")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*.nnc"), *folder.glob("*.npz")]:
        old.unlink()
    write(
        folder,
        uniform_cases() | scan_cases() | codebook_cases() | block_cases() | model_set_cases() | update_cases(),
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
