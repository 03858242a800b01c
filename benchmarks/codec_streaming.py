#!/usr/bin/env python3
"""A large checkpoint, shard by shard through the codec: throughput and peak memory.

    python benchmarks/codec_streaming.py [--json] [--parameters 7e9] [--shard-parameters 5e8] [--dtype bfloat16]
        [--qp -38] [--threads 0] [--folder DIR]

The tensors have the shapes of a language model with 7 thousand million parameters, and seeded normal values whose
spread differs from row to row. More or fewer parameters mean more or fewer layers; below one layer, narrower ones.

Three processes take turns at each shard: one makes it and writes it to a file, which is not counted; one reads it
tensor by tensor and packs it (`pack_file`); one unpacks the stream (`iter_unpack`). No process ever holds a shard, and
on disk there is one at a time. Reading and writing files is part of the figures. GB are those of the shard as it lies
in its file. The first values of each tensor are compared with the original afterwards; with dependent quantisation an
error may be up to two steps.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

Shape = tuple[int, ...]
Shard = list[tuple[str, Shape]]
Answer = dict[str, Any]
LAYER = 4 * 4096 * 4096 + 3 * 4096 * 11008 + 2 * 4096  # parameters of a layer at full width
COMPARED = 4096  # values at the start of each tensor


def tensors(parameters: float) -> Iterator[tuple[str, Shape]]:
    """Yield names and shapes of about so many parameters in all."""
    scale = min(1.0, (parameters / (LAYER + 2 * 32000 * 4096)) ** 0.5)
    width, inner, words = (max(8, int(size * scale) // 8 * 8) for size in (4096, 11008, 32000))
    layer = 4 * width * width + 3 * width * inner + 2 * width
    layers = max(1, round((parameters - 2 * words * width) / layer))
    yield "embed_tokens.weight", (words, width)
    for index in range(layers):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"layers.{index}.self_attn.{name}.weight", (width, width)
        for name in ("gate_proj", "up_proj"):
            yield f"layers.{index}.mlp.{name}.weight", (inner, width)
        yield f"layers.{index}.mlp.down_proj.weight", (width, inner)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"layers.{index}.{name}.weight", (width,)
    yield "lm_head.weight", (words, width)


def shards(parameters: float, shard_parameters: float) -> Iterator[Shard]:
    """Yield the shards: names and shapes of their tensors."""
    shard: Shard = []
    size = 0
    for name, shape in tensors(parameters):
        if shard and size + elements(shape) > shard_parameters:
            yield shard
            shard, size = [], 0
        shard.append((name, shape))
        size += elements(shape)
    yield shard


def elements(shape: Shape) -> int:
    """Return the number of elements."""
    return int(np.prod(shape, dtype=np.int64))


def dtype_of(name: str) -> Any:
    """Return the element type of a name; bfloat16 comes from ml_dtypes, which ONNX brings along."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def make(shard: Shard, path: str, dtype: str, seed: int) -> int:
    """Write a shard's values into a file; return its size in bytes."""
    rng = np.random.default_rng(seed)
    with Path(path).open("wb") as file:
        for _, shape in shard:
            rows = 0.02 * np.exp(0.2 * rng.standard_normal((shape[0],) + (1,) * (len(shape) - 1), dtype=np.float32))
            values = rng.standard_normal(shape, dtype=np.float32)
            values *= rows
            file.write(values.astype(dtype_of(dtype)).data.cast("B") if dtype != "bfloat16" else _bytes(values))
    return Path(path).stat().st_size


def _bytes(values: np.ndarray[Any, Any]) -> memoryview:
    return values.astype(dtype_of("bfloat16")).view(np.uint16).data.cast("B")


def read(shard: Shard, path: str, dtype: str) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield the tensors of a shard's file, one in memory at a time."""
    with Path(path).open("rb") as file:
        for name, shape in shard:
            yield name, np.fromfile(file, dtype_of(dtype), elements(shape)).reshape(shape)


def measured(work: Callable[[], Any]) -> tuple[Any, Answer]:
    """Return a result, and what it took: all threads of this process, and its peak memory so far."""
    cpu_ns, wall_ns = time.process_time_ns(), time.perf_counter_ns()
    result = work()
    wall_ns, cpu_ns = time.perf_counter_ns() - wall_ns, time.process_time_ns() - cpu_ns
    return result, {"wall_s": wall_ns / 1e9, "cpu_s": cpu_ns / 1e9, "rss_peak_bytes": peak()}


def peak() -> int:
    """Return the peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def pack_shard(shard: Shard, path: str, stream: str, options: argparse.Namespace) -> Answer:
    """Pack a shard's file into a stream."""
    from wattwerk.codec import pack_file

    source = read(shard, path, options.dtype)
    size, costs = measured(lambda: pack_file(source, stream, qp=options.qp, threads=options.threads))
    return costs | {"size_bytes": size}


def unpack_shard(shard: Shard, path: str, stream: str, options: argparse.Namespace) -> Answer:
    """Unpack a stream, then compare the first values of each tensor with the shard's file."""
    from wattwerk.codec import iter_unpack

    def work() -> Answer:
        with Path(stream).open("rb") as file:
            return {n: a.reshape(-1)[:COMPARED].copy() for n, a in iter_unpack(file, threads=options.threads)}

    firsts, costs = measured(work)
    return costs | {"wrong_count": wrong(firsts, shard, path, options)}


def wrong(firsts: Answer, shard: Shard, path: str, options: argparse.Namespace) -> int:
    """Return how many tensors are missing or further from the original than two steps and their type's rounding."""
    from wattwerk.codec.quantisation import step_size

    dtype, position, count = dtype_of(options.dtype), 0, 0
    for name, shape in shard:
        original = np.fromfile(path, dtype, min(COMPARED, elements(shape)), offset=position).astype(np.float32)
        position += elements(shape) * dtype.itemsize
        known = name in firsts and firsts[name].dtype == dtype
        limit = 2 * step_size(options.qp, 2) + np.abs(original) / 128
        count += not known or bool((np.abs(firsts[name].astype(np.float32) - original) > limit).any())
    return count


def run(options: argparse.Namespace) -> Answer:
    """Return the figures of all shards together."""
    started = multiprocessing.get_context("spawn")
    pack_costs, unpack_costs, sizes = [], [], []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder))
        maker, packer, unpacker = (
            stack.enter_context(ProcessPoolExecutor(1, mp_context=started)) for _ in ("make", "pack", "unpack")
        )
        idle = {"pack": packer.submit(peak).result(), "unpack": unpacker.submit(peak).result()}
        path, stream = os.path.join(folder, "shard.bin"), os.path.join(folder, "shard.nnc")
        all_shards = list(shards(options.parameters, options.shard_parameters))
        for index, shard in enumerate(all_shards):
            sizes.append(maker.submit(make, shard, path, options.dtype, index).result())
            pack_costs.append(packer.submit(pack_shard, shard, path, stream, options).result())
            unpack_costs.append(unpacker.submit(unpack_shard, shard, path, stream, options).result())
            print(line_of(index, sizes[-1], pack_costs[-1], unpack_costs[-1]), file=sys.stderr, flush=True)
    shapes = [shape for shard in all_shards for _, shape in shard]
    parameters, itemsize = sum(map(elements, shapes)), dtype_of(options.dtype).itemsize
    packed = sum(cost["size_bytes"] for cost in pack_costs)
    return {
        "parameters_count": parameters,
        "shards_count": len(all_shards),
        "dtype": options.dtype,
        "qp": options.qp,
        "threads": options.threads or len(os.sched_getaffinity(0)),
        "size_bytes": sum(sizes),
        "packed_bytes": packed,
        "bits_per_parameter": round(8 * packed / parameters, 3),
        "largest_shard_bytes": max(sizes),
        "largest_tensor_bytes": max(map(elements, shapes)) * itemsize,
        "wrong_count": sum(cost["wrong_count"] for cost in unpack_costs),
        **figures_of("pack", pack_costs, sum(sizes), parameters, idle["pack"]),
        **figures_of("unpack", unpack_costs, sum(sizes), parameters, idle["unpack"]),
    }


def figures_of(step: str, costs: list[Answer], size: int, parameters: int, idle: int) -> Answer:
    """Return throughput and memory of one step."""
    wall, cpu = (sum(cost[key] for cost in costs) for key in ("wall_s", "cpu_s"))
    return {
        f"{step}_wall_s": round(wall, 3),
        f"{step}_cpu_s": round(cpu, 3),
        f"{step}_gb_per_s": round(size / wall / 1e9, 4),
        f"{step}_parameters_per_s": round(parameters / wall),
        f"{step}_cpu_ns_per_parameter": round(1e9 * cpu / parameters, 2),
        f"{step}_rss_idle_bytes": idle,
        f"{step}_rss_first_shard_bytes": costs[0]["rss_peak_bytes"],
        f"{step}_rss_peak_bytes": costs[-1]["rss_peak_bytes"],
    }


def line_of(index: int, size: int, packing: Answer, unpacking: Answer) -> str:
    """Return one line about a shard."""
    return (
        f"shard {index}: {size / 1e9:.2f} GB to {packing['size_bytes'] / 1e9:.2f} GB; "
        f"pack {size / packing['wall_s'] / 1e9:.3f} GB/s, {packing['rss_peak_bytes'] / 1e6:.0f} MB at most; "
        f"unpack {size / unpacking['wall_s'] / 1e9:.3f} GB/s, {unpacking['rss_peak_bytes'] / 1e6:.0f} MB at most"
    )


def main() -> int:
    """Print the figures; fail if any tensor comes back wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--parameters", type=float, default=7e9)
    parser.add_argument("--shard-parameters", type=float, default=5e8, help="most parameters of a shard")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--qp", type=int, default=-38)
    parser.add_argument("--threads", type=int, default=0, help="0: one for each processor")
    parser.add_argument(
        "--folder", help="for one shard and its stream at a time; the system's temporary folder if not given"
    )
    figures = run(parser.parse_args())
    print(
        json.dumps(figures, indent=1)
        if parser.parse_args().json
        else "\n".join(f"{k}: {v}" for k, v in figures.items())
    )
    return 1 if figures["wrong_count"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
