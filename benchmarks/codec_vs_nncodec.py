#!/usr/bin/env python3
"""Our NNC codec beside the reference, nncodec 2.1.3: bytes, processor seconds, wall time, error, memory.

    python benchmarks/codec_vs_nncodec.py --nncodec-python /path/to/its/venv/bin/python [--json]
        [--models efficientnet-lite0 crepe small-cnn resnet-18 resnet-50 resnet-152] [--qps -20 -32 -38]
        [--repeats 3] [--folder build/codec-models]

`python -m venv nncodec-env && nncodec-env/bin/pip install nncodec==2.1.3` makes the reference's environment, torch and
opencv included.

Each codec runs in a process of its own (codec_worker.py), the reference in an environment of its own, as it needs
numpy < 2. Both take their turns on the same arrays, call by call, so that what else the machine does meets both;
reported is the median of the repeats. Processor seconds are those of the process, all threads together. The reference
knows one thread; ours runs with one and with two. Every stream is decoded by both codecs, and both have to get the same
numbers to the last bit. Peak memory is that of a fresh process which loads the model and encodes it once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from codec_models import MODELS, prepare

HERE = Path(__file__).parent
Answer = dict[str, Any]
Call = Callable[..., Answer]


@contextmanager
def worker(codec: str, python: str) -> Iterator[Call]:
    """Yield a call to a codec in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [python, str(HERE / "codec_worker.py"), codec],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def call(do: str, **arguments: Any) -> Answer:
        process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        process.stdin.flush()
        answer: Answer = json.loads(process.stdout.readline() or '{"error": "the process has ended"}')
        if "error" in answer:
            raise RuntimeError(f"{codec} cannot {do}: {answer['error']}")
        return answer

    try:
        yield call
    finally:
        process.stdin.close()
        process.wait()


class Duel:
    """Both codecs at one model and one setting.

    Args:
        ours: Call to our codec, the model loaded.
        theirs: Call to the reference, the model loaded.
        folder: For the streams.
        options: Of both encoders.
    """

    def __init__(self, ours: Call, theirs: Call, folder: Path, options: dict[str, Any]) -> None:
        self.ours, self.theirs, self.options = ours, theirs, options
        self.our_stream, self.their_stream = str(folder / "ours.nnc"), str(folder / "theirs.nnc")
        self.costs: dict[str, list[Answer]] = {}

    def fight(self, repeats: int) -> Answer:
        """Return the figures of so many rounds."""
        for _ in range(repeats):
            self._round()
        return self._figures() | self._both_ways()

    def _round(self) -> None:
        for threads in (1, 2):
            told = self.ours("encode", out=self.our_stream, options=self.options | {"threads": threads})
            self.costs.setdefault(f"encode_{threads}", []).append(told)
        told = self.theirs("encode", out=self.their_stream, options=self.options)
        self.costs.setdefault("encode_theirs", []).append(told)
        for threads in (1, 2):
            told = self.ours("decode", stream=self.our_stream, threads=threads)
            self.costs.setdefault(f"decode_{threads}", []).append(told)
        self.costs.setdefault("decode_theirs", []).append(self.theirs("decode", stream=self.their_stream))

    def _median(self, what: str, cost: str) -> float:
        return statistics.median(told[cost] for told in self.costs[what])

    def _figures(self) -> Answer:
        figures: Answer = {}
        for step in ("encode", "decode"):
            for who in ("1", "2", "theirs"):
                name = {"1": "ours", "2": "ours_2_threads", "theirs": "nncodec"}[who]
                figures[f"{step}_{name}_cpu_s"] = round(self._median(f"{step}_{who}", "cpu_s"), 4)
                figures[f"{step}_{name}_wall_s"] = round(self._median(f"{step}_{who}", "wall_s"), 4)
            theirs = {cost: self._median(f"{step}_theirs", cost) for cost in ("cpu_s", "wall_s")}
            figures[f"{step}_cpu_ratio"] = round(theirs["cpu_s"] / self._median(f"{step}_1", "cpu_s"), 2)
            figures[f"{step}_wall_ratio"] = round(theirs["wall_s"] / self._median(f"{step}_1", "wall_s"), 2)
            figures[f"{step}_wall_2_threads_ratio"] = round(theirs["wall_s"] / self._median(f"{step}_2", "wall_s"), 2)
        figures["size_ours_bytes"] = self.costs["encode_1"][-1]["size_bytes"]
        figures["size_nncodec_bytes"] = self.costs["encode_theirs"][-1]["size_bytes"]
        figures["size_ratio"] = round(figures["size_ours_bytes"] / figures["size_nncodec_bytes"], 5)
        return figures

    def _both_ways(self) -> Answer:
        told = {
            (who, stream): call("decode", stream=stream)
            for who, call in (("ours", self.ours), ("theirs", self.theirs))
            for stream in (self.our_stream, self.their_stream)
        }
        return {
            "mismatches_in_ours_count": differing(told["ours", self.our_stream], told["theirs", self.our_stream]),
            "mismatches_in_nncodecs_count": differing(
                told["ours", self.their_stream], told["theirs", self.their_stream]
            ),
            "relative_error_ours": told["ours", self.our_stream]["relative_error"],
            "relative_error_nncodec": told["ours", self.their_stream]["relative_error"],
        }


def differing(first: Answer, second: Answer) -> int:
    """Return how many tensors differ in name, type, shape or any bit."""
    names = first["digests"].keys() | second["digests"].keys()
    return sum(first["digests"].get(name) != second["digests"].get(name) for name in names)


def peaks(python: dict[str, str], arrays: Path, folder: Path, options: dict[str, Any]) -> Answer:
    """Return the peak memory of loading a model alone and of encoding it, in fresh processes."""
    figures: Answer = {}
    for codec in ("wattwerk", "nncodec"):
        with worker(codec, python[codec]) as call:
            call("load", arrays=str(arrays))
            before = call("memory")["rss_peak_bytes"]
            call("encode", out=str(folder / "memory.nnc"), options=options | {"threads": 1})
            name = "ours" if codec == "wattwerk" else codec
            figures[f"memory_{name}_loaded_bytes"] = before
            figures[f"memory_{name}_encode_bytes"] = call("memory")["rss_peak_bytes"]
    return figures


def measure(model: str, options: argparse.Namespace) -> list[Answer]:
    """Return one record for each setting of a model."""
    arrays = prepare(model, options.folder, options.nncodec_python)
    python = {"wattwerk": sys.executable, "nncodec": options.nncodec_python}
    records = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours, theirs = (stack.enter_context(worker(codec, python[codec])) for codec in ("wattwerk", "nncodec"))
        size_bytes = ours("load", arrays=str(arrays))["size_bytes"]
        theirs("load", arrays=str(arrays))
        for qp in options.qps:
            for dependent in (False, True):
                setting = {"qp": qp, "dependent": dependent}
                figures = Duel(ours, theirs, folder, setting).fight(options.repeats)
                records.append({"model": model, "size_bytes": size_bytes, **setting, **figures})
                print(line_of(records[-1]), file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as name:
        records[-1] |= peaks(python, arrays, Path(name), {"qp": options.qps[-1], "dependent": True})
    return records


def line_of(record: Answer) -> str:
    """Return one line of the table."""
    bad = record["mismatches_in_ours_count"] + record["mismatches_in_nncodecs_count"]
    return (
        f"{record['model']:19} {record['qp']:4} {'dq' if record['dependent'] else '--'} "
        f"{record['size_ours_bytes'] / 1e6:8.3f} MB ({record['size_ratio']:.4f}) "
        f"encode {record['encode_ours_cpu_s']:7.3f} s ({record['encode_cpu_ratio']:5.1f}x cpu, "
        f"{record['encode_wall_2_threads_ratio']:5.1f}x wall on two) "
        f"decode {record['decode_ours_cpu_s']:6.3f} s ({record['decode_cpu_ratio']:4.1f}x cpu, "
        f"{record['decode_wall_2_threads_ratio']:4.1f}x wall on two) "
        f"error {record['relative_error_ours']:.5f} ({record['relative_error_nncodec']:.5f}), {bad} mismatches"
    )


def summary(records: list[Answer]) -> Answer:
    """Return the geometric mean and the worst of each ratio, and the sum of the mismatches."""
    figures: Answer = {}
    ratios = [key for key in records[0] if key.endswith("_ratio")]
    for key in ratios:
        values = [record[key] for record in records]
        figures[f"{key}_mean"] = round(math.exp(statistics.fmean(map(math.log, values))), 4)
        figures[f"{key}_worst"] = max(values) if key == "size_ratio" else min(values)
    figures["mismatches_count"] = sum(v for r in records for k, v in r.items() if k.startswith("mismatches"))
    return figures


def main() -> int:
    """Print the figures; fail if any number differs between the codecs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nncodec-python", required=True, help="a Python that has nncodec 2.1.3")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--qps", nargs="+", type=int, default=[-20, -38, -32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=HERE.parent / "build" / "codec-models", help="for the weights")
    options = parser.parse_args()
    records = [record for model in options.models for record in measure(model, options)]
    figures = {"summary": summary(records), "records": records}
    if options.json:
        print(json.dumps(figures, indent=1))
    else:
        print("\n".join([*map(line_of, records), *(f"{key}: {value}" for key, value in figures["summary"].items())]))
    return 1 if figures["summary"]["mismatches_count"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
