"""Streams between our codec and the reference, both ways: every model, step and tool, without one wrong number.

WATTWERK_NNCODEC_PYTHON names a Python that has nncodec 2.1.3 (benchmarks/codec_vs_nncodec.py says how to get one).
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wattwerk.codec import pack, unpack
from wattwerk.codec.reduce_decompose import Decompose
from wattwerk.codec.reduce_quantise import KMeans, LocalScale, Uniform

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("WATTWERK_NNCODEC_PYTHON", "")
Arrays = dict[str, np.ndarray[Any, Any]]
Call = Callable[..., dict[str, Any]]

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(not PYTHON, reason="WATTWERK_NNCODEC_PYTHON names no Python that has nncodec 2.1.3"),
]


def laplace(seed: int, *shape: int, scale: float = 0.05) -> np.ndarray[Any, Any]:
    """Return float32 numbers as trained weights are distributed."""
    return np.random.default_rng(seed).laplace(scale=scale, size=shape).astype(np.float32)


def odd_shapes() -> Arrays:
    """One row, one column, one number, many dimensions, whole numbers."""
    shapes = [(1,), (7,), (1, 1), (13, 2), (3, 1, 5), (2, 3, 4, 5, 2), (41, 67), (257,)]
    arrays: Arrays = {f"größe {shape}": laplace(index, *shape) for index, shape in enumerate(shapes)}
    integers = np.random.default_rng(1).integers(-(2**29), 2**29, (9, 11)).astype(np.int32)
    return arrays | {"integers": integers, "table": (integers // 2**26).astype(np.int32)}


def convolutions() -> Arrays:
    """A small network, large enough for units of more than 32 kB and for rows of zeros."""
    arrays = {f"conv{index}.weight": laplace(index, 32, 16, 3, 3) for index in range(3)}
    arrays |= {f"norm{index}.weight": 1 + laplace(9 + index, 32) for index in range(3)}
    return arrays | {"head.weight": laplace(7, 300, 400, scale=0.02), "head.bias": laplace(8, 300)}


def sparse() -> Arrays:
    """Mostly zeros, and whole rows of them; one tensor is all zeros."""
    rng = np.random.default_rng(3)
    arrays = {}
    for name, share in (("tenth", 0.1), ("hundredth", 0.01), ("none", 0.0)):
        values = laplace(4, 90, 77, scale=0.2) * (rng.random((90, 77)) < share)
        values[rng.random(90) < 0.4] = 0
        arrays[name] = values.astype(np.float32)
    return arrays


def few_values() -> Arrays:
    """Values that a codebook suits: few different ones, of both signs, of one sign, of one value."""
    rng = np.random.default_rng(5)
    levels = np.array([-0.75, -0.5, 0, 0.125, 0.875], dtype=np.float32)
    both = rng.choice(levels, (60, 40))
    return {"both": both, "positive": np.abs(both), "negative": -np.abs(both), "one": np.full((5, 6), 0.5, np.float32)}


def large_values() -> Arrays:
    """Values of which the finest steps make the largest levels, and more than there are."""
    variances = {f"variance {scale}": np.abs(laplace(scale, 300, scale=float(scale))) for scale in (9, 900, 90000)}
    return variances | {"weight": laplace(1, 20, 30, scale=5e3), "tiny": laplace(2, 20, 30, scale=1e-9)}


MODELS = {
    "odd shapes": odd_shapes,
    "convolutions": convolutions,
    "sparse": sparse,
    "few values": few_values,
    "large values": large_values,
}
TOOLS: dict[str, dict[str, Any]] = {
    "plain": {"dependent": False},
    "dependent": {"dependent": True},
    "without row skip": {"dependent": True, "row_skip": False},
    "blocks of 8": {"dependent": False, "scan_order": 1},
    "blocks of 16": {"dependent": True, "scan_order": 2},
    "blocks of 64": {"dependent": True, "scan_order": 4},
    "codebook": {"dependent": False, "codebook": "on"},
    "codebook if smaller": {"dependent": True, "codebook": "auto"},
    "short unary": {"dependent": True, "unary_length": 1},
    "long unary": {"dependent": False, "unary_length": 40},
    "first profile": {"dependent": True, "profile": 0},
}
QPS = (-60, -38, -32, -20, -8)
#: What the reference's encoder cannot do: it ends with an error, has no option for it, or takes hours.
IMPOSSIBLE_THERE = {
    "first profile": set(MODELS),
    **{tools: {"odd shapes"} for tools in TOOLS if "blocks" in tools},
    **{tools: set(MODELS) - {"few values"} for tools in TOOLS if "codebook" in tools},
}


@pytest.fixture(scope="module")
def codecs() -> Iterator[dict[str, Call]]:
    """Yield a call to each codec, in processes of their own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = {}
    for codec, python in (("wattwerk", sys.executable), ("nncodec", PYTHON)):
        command = [python, str(ROOT / "benchmarks" / "codec_worker.py"), codec]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        started[codec] = subprocess.Popen(command, text=True, env=environment, **pipes)
    yield {codec: caller(process) for codec, process in started.items()}
    for process in started.values():
        process.communicate()


def caller(process: subprocess.Popen[str]) -> Call:
    """Return a call to a process of codec_worker.py."""

    def call(do: str, **arguments: Any) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"do": do, **arguments}, default=str) + "\n")
        process.stdin.flush()
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        assert "error" not in answer, f"{do} {arguments}: {answer['error']}"
        return answer

    return call


def check_both_decode_alike(codecs: dict[str, Call], stream: Path) -> dict[str, Any]:
    """Decode a stream with both codecs, compare every tensor's type, shape and bits, and return what ours told."""
    ours, theirs = (codecs[codec]("decode", stream=stream) for codec in ("wattwerk", "nncodec"))
    assert ours["digests"] == theirs["digests"]
    return ours


@pytest.mark.parametrize(("model", "tools"), list(itertools.product(MODELS, TOOLS)))
def test_each_decodes_what_the_other_encoded(codecs: dict[str, Call], tmp_path: Path, model: str, tools: str) -> None:
    """Both encoders' streams decode to the same numbers in both decoders, at every step size."""
    arrays = MODELS[model]()
    np.savez(tmp_path / "arrays.npz", **arrays)
    encoders = ["wattwerk"] if model in IMPOSSIBLE_THERE.get(tools, ()) else ["wattwerk", "nncodec"]
    for codec in encoders:
        codecs[codec]("load", arrays=tmp_path / "arrays.npz")
    for codec, qp in itertools.product(encoders, QPS):
        stream = tmp_path / f"{codec}.nnc"
        codecs[codec]("encode", out=stream, options=TOOLS[tools] | {"qp": qp})
        told = check_both_decode_alike(codecs, stream)
        assert list(told["digests"]) == list(arrays)


def decoded_there(codecs: dict[str, Call], folder: Path, stream: bytes) -> Arrays:
    """Return what the reference decodes from a stream of ours."""
    (folder / "stream.nnc").write_bytes(stream)
    codecs["nncodec"]("decode", stream=folder / "stream.nnc", keep=str(folder / "arrays.npz"))
    with np.load(folder / "arrays.npz") as file:
        return {name: file[name] for name in file.files}


def test_every_type_decodes_there(codecs: dict[str, Call], tmp_path: Path) -> None:
    """Types and shapes that the standard does not know make streams which the reference decodes to the same values."""
    arrays: Arrays = {
        "half": laplace(0, 5, 6).astype(np.float16),
        "double": laplace(1, 5, 6).astype(np.float64),
        "number": np.array(0.5, dtype=np.float32),
        "nothing": np.zeros((0, 3), dtype=np.float32),
        "small": np.arange(-9, 9, dtype=np.int8).reshape(3, 6),
        "unsigned": np.arange(12, dtype=np.uint16),
        "truth": np.array([[True, False], [False, True]]),
        "counter": np.array(12345, dtype=np.int64),
        "wide": np.array([2**40, -(2**50)], dtype=np.int64),
        "broken": np.array([[1.0, np.nan], [-np.inf, 2.0]], dtype=np.float32),
        "plain": laplace(2, 4, 9),
    }
    stream = pack(arrays, non_finite="raw", metadata={"source": "a test"})
    ours, theirs = unpack(stream), decoded_there(codecs, tmp_path, stream)
    assert list(ours) == list(arrays)
    assert set(theirs) == set(arrays) - {"nothing"}
    for name in set(arrays) - {"nothing", "wide", "broken"}:
        np.testing.assert_array_equal(theirs[name].ravel(), ours[name].astype(theirs[name].dtype).ravel())


@pytest.mark.parametrize("dependent", [True, False])
@pytest.mark.parametrize("scan_order", [0, 1])
@pytest.mark.parametrize(
    "reduction",
    [Decompose(size=0.3), KMeans(clusters=9), LocalScale(qp=-16), Uniform(bits=5)],
    ids=lambda r: type(r).__name__,
)
def test_reduced_weights_decode_there(
    codecs: dict[str, Call], tmp_path: Path, reduction: Any, scan_order: int, dependent: bool
) -> None:
    """Factors, codebooks, scaled and gridded weights decode there as here."""
    reduced = reduction({"a.weight": laplace(0, 40, 30), "b.weight": laplace(1, 24, 4, 3, 3), "b.bias": laplace(2, 24)})
    stream = pack(reduced, qp=-24, scan_order=scan_order, dependent=dependent)
    ours, theirs = unpack(stream, apply_scaling=False), decoded_there(codecs, tmp_path, stream)
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        # the product of factors is rounded as each linear algebra pleases
        np.testing.assert_allclose(theirs[name], value, rtol=0, atol=1e-6 if isinstance(reduction, Decompose) else 0)


@pytest.mark.parametrize("dependent", [True, False])
@pytest.mark.parametrize("temporal", [True, False])
@pytest.mark.parametrize("history", [True, False])
@pytest.mark.parametrize("encoder", ["wattwerk", "nncodec"])
def test_updates_stay_in_step(
    codecs: dict[str, Call], tmp_path: Path, encoder: str, history: bool, temporal: bool, dependent: bool
) -> None:
    """Over ten rounds of an update both decoders follow either encoder, with each of the contexts that look back."""
    rng = np.random.default_rng(6)
    options = {"qp": -28, "dependent": dependent, "temporal_contexts": temporal, "history_contexts": history}
    session = f"{encoder} {options}"
    for round_ in range(10):
        changes = {"w": laplace(round_, 40, 30), "conv": laplace(90 + round_, 8, 3, 3, 3), "bias": laplace(round_, 8)}
        for name, values in changes.items():
            changes[name] = (values * (rng.random(values.shape) < 0.2)).astype(np.float32)
        np.savez(tmp_path / "changes.npz", **changes)
        stream = tmp_path / "update.nnc"
        paths = {"arrays": tmp_path / "changes.npz", "out": stream}
        codecs[encoder]("encode_update", session=session, options=options, **paths)
        ours, theirs = (codecs[codec]("decode_update", session=session, stream=stream) for codec in codecs)
        assert ours["digests"] == theirs["digests"]
