#!/usr/bin/env python3
"""What each tool of the codec is worth on a model: bytes at equal error, and processor time.

    python benchmarks/codec_tools.py [--json] [--model efficientnet-lite0] [--qp -32] [--folder build/codec-models]
        [--torch-python python]

The defaults pack the model at several QPs, which gives bytes as a function of the error; every other setting is
compared with that function at its own error: 0.97 means 3 % fewer bytes than the defaults would need for the same
error. The error is the root of the summed squares over the weights' own, over all tensors of two or more dimensions.
Times are processor seconds of one thread, the least of three.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from codec_models import MODELS, prepare
from wattwerk.codec import pack, unpack
from wattwerk.codec.reduce_decompose import Decompose
from wattwerk.codec.reduce_quantise import KMeans, LocalScale, Uniform
from wattwerk.codec.reduce_sparsity import Sparsify

HERE = Path(__file__).parent
Answer = dict[str, Any]
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "uniform quantisation": {"dependent": False},
    "blocks of 8": {"scan_order": 1},
    "blocks of 64": {"scan_order": 4},
    "unary length 1": {"unary_length": 1},
    "unary length 11": {"unary_length": 11},
    "without row skip": {"row_skip": False},
    "rate weight 1": {"rate_weight": 1.0},
    "rate weight 8": {"rate_weight": 8.0},
    "codebook if smaller": {"codebook": "auto"},
    "search in all levels": {"search_limit": 1 << 30},
    "profile 0": {"profile": 0},
}


def reductions(qp: int) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Return reduction passes and the options to pack their results with."""
    return {
        "local scaling": (LocalScale(qp=qp), {"dependent": False}),
        "k-means 16": (KMeans(clusters=16), {}),
        "k-means 64": (KMeans(clusters=64), {}),
        "uniform 8 bits": (Uniform(bits=8), {}),
        "low rank, 99.9 % of the energy": (Decompose(energy=0.999), {}),
        "sparsify 10 %": (Sparsify(sparsity=0.1), {}),
    }


def measured(arrays: Answer, original: Answer, **options: Any) -> Answer:
    """Pack and unpack; return bytes, error and times."""
    encode, decode = [], []
    for _ in range(3):
        start = time.process_time_ns()
        stream = pack(arrays, threads=1, **options)
        encode.append(time.process_time_ns() - start)
        start = time.process_time_ns()
        decoded = unpack(stream, threads=1)
        decode.append(time.process_time_ns() - start)
    error = relative_error(original, decoded)
    return {
        "size_bytes": len(stream),
        "error": error,
        "encode_cpu_s": min(encode) / 1e9,
        "decode_cpu_s": min(decode) / 1e9,
    }


def relative_error(original: Answer, decoded: Answer) -> float:
    """Return the error of all weights over the weights."""
    error = norm = 0.0
    for name, value in original.items():
        if value.ndim > 1:
            error += float(np.sum(np.square(decoded[name].astype(np.float64) - value)))
            norm += float(np.sum(np.square(value, dtype=np.float64)))
    return math.sqrt(error / norm)


def run(arrays: Answer, qp: int) -> list[Answer]:
    """Return a record for each setting."""
    curve = sorted(
        (r["error"], r["size_bytes"]) for r in (measured(arrays, arrays, qp=q) for q in range(qp - 8, qp + 9, 2))
    )
    errors, sizes = (np.log([point[part] for point in curve]) for part in (0, 1))
    records = []
    settings = [(name, arrays, options) for name, options in OPTIONS.items()]
    settings += [(name, step(arrays), options) for name, (step, options) in reductions(qp).items()]
    for name, reduced, options in settings:
        record = {"setting": name, **measured(reduced, arrays, qp=qp, **options)}
        inside = errors[0] <= math.log(record["error"]) <= errors[-1]
        usual = math.exp(np.interp(math.log(record["error"]), errors, sizes))
        record["at_equal_error_ratio"] = round(record["size_bytes"] / usual, 4) if inside else None
        records.append(record)
        print(line_of(record), file=sys.stderr, flush=True)
    return records


def line_of(record: Answer) -> str:
    """Return one line of the table."""
    return (
        f"{record['setting']:32} {record['size_bytes'] / 1e6:8.3f} MB  error {record['error']:.5f}  "
        f"at equal error {record['at_equal_error_ratio']}  encode {record['encode_cpu_s']:.3f} s  "
        f"decode {record['decode_cpu_s']:.3f} s"
    )


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--model", choices=MODELS, default="efficientnet-lite0")
    parser.add_argument("--qp", type=int, default=-32)
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has torch, to read weights with")
    parser.add_argument("--folder", type=Path, default=HERE.parent / "build" / "codec-models", help="for the weights")
    options = parser.parse_args()
    with np.load(prepare(options.model, options.folder, options.torch_python)) as file:
        arrays = {name: file[name] for name in file.files}
    records = run(arrays, options.qp)
    print(json.dumps(records, indent=1) if options.json else "\n".join(map(line_of, records)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
