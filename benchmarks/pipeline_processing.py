"""Sequential beside vectorised processing in one run: pre- and post-processing of a batch, as ratios.

    python benchmarks/pipeline_processing.py detr-r50 --batch 32
    python benchmarks/pipeline_processing.py detr-r50 --batch 32 --runtime torch --device cuda:0 --precision fp32 \
        --images FOLDER

Each round runs both ways one after the other, in turn first and second, so that a slow change of the machine strikes
both. The ratio of each round is told by its median with its 95 % interval. The inference runs ``--inference`` times
between, so that the share of the pipeline is known; on a CPU a batch of 32 takes half a minute. With ``--inference 0``
the model is not loaded, and outputs are made up.

Needs Pillow; vectorised processing on the CPU needs OpenCV and simplejpeg, on a GPU only torch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import numpy as np

from wattwerk.bench import photos as photo_source
from wattwerk.bench.pipeline import Pipeline, processor_for
from wattwerk.bench.processing_base import Detections, Result, Segments
from wattwerk.catalog import models
from wattwerk.catalog.processing import facts_of
from wattwerk.errors import WattwerkError
from wattwerk.metering.statistics import median_interval
from wattwerk.runtimes import RUNTIMES
from wattwerk.runtimes.base import Arrays, Effective, LoadSpec, Precision, Session

WAYS = ("sequential", "vectorised")


class MadeUp(Session):
    """A session without a model: outputs of the right shapes, in memory that can be reached."""

    def __init__(self, model: models.CatalogModel, batch: int, shapes: dict[str, tuple[int, ...]]) -> None:
        stream = np.random.default_rng(0)
        self._outputs = {name: stream.random((batch, *shape), np.float32) * 0.2 for name, shape in shapes.items()}
        self._inputs: dict[str, Any] = {}
        self.effective = Effective(precision=Precision.FP32, device="cpu", threads=None, streams=1)

    def bind(self, inputs: Arrays) -> Callable[[], object]:
        """Keep the inputs."""
        self._inputs = dict(inputs)
        return lambda: None

    def shared_inputs(self) -> dict[str, Any] | None:
        """Return the arrays that were bound."""
        return self._inputs

    def shared_outputs(self) -> dict[str, Any] | None:
        """Return the outputs."""
        return self._outputs

    def bound_outputs(self) -> dict[str, Any]:
        """Return the outputs."""
        return self._outputs

    def close(self) -> None:
        """Do nothing."""


def output_shapes(model: models.CatalogModel) -> dict[str, tuple[int, ...]]:
    """Return the shapes of one sample's outputs."""
    import onnx

    graph = onnx.load_from_string(model.onnx_bytes()).graph
    return {node.name: tuple(d.dim_value for d in node.type.tensor_type.shape.dim)[1:] for node in graph.output}


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = perf_counter_ns()
    call()
    return (perf_counter_ns() - start) / 1e9


def alike(first: list[Result], second: list[Result]) -> bool:
    """Tell whether two ways gave the same labels for every image of outputs that are the same."""
    return all(
        np.array_equal(a.labels, b.labels)
        and (isinstance(a, Segments) or np.allclose(a.scores, b.scores, rtol=1e-4))  # type: ignore[union-attr]
        and (not isinstance(a, Detections) or np.allclose(a.boxes, b.boxes, atol=0.05))  # type: ignore[union-attr]
        for a, b in zip(first, second, strict=True)
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="detr-r50")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--images")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--inference", type=int, default=1, help="timed runs of the model; 0 leaves it out")
    parser.add_argument("--json", help="write the figures into this file too")
    asked = parser.parse_args()
    try:
        told = measure(asked)
    except WattwerkError as error:
        sys.exit(f"error: {error}")
    if asked.json:
        with open(asked.json, "w", encoding="utf-8") as file:
            json.dump(told, file, indent=2)


def opened(asked: argparse.Namespace) -> tuple[Session, dict[str, Pipeline]]:
    """Load the model once and return a pipeline for each way through it."""
    model = models.resolve(asked.model)
    if asked.inference:
        spec = LoadSpec(precision=Precision(asked.precision), batch=asked.batch, device=asked.device)
        session = RUNTIMES.load(asked.runtime).load(model, spec)
    else:
        session = MadeUp(model, asked.batch, output_shapes(model))
    some = photo_source.load(asked.images).photos
    print(f"{len(some)} photos, {', '.join(f'{p.width}x{p.height}' for p in some)}")
    facts, shape = facts_of(model), model.inputs[0].shape
    blank = np.zeros((asked.batch, *shape), np.float32)
    call = session.bind({model.inputs[0].name: blank})  # once for both, since it runs the model
    found = {}
    for way in WAYS:
        processor = processor_for(way, facts, shape, asked.batch, None, session)
        found[way] = Pipeline(session, call, blank, model, facts, processor, some, asked.batch, seed=0)
    return session, found


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Run both ways in turn and tell how long each took."""
    session, pipelines = opened(asked)
    print(f"{asked.model}, batch {asked.batch}; vectorised on {pipelines['vectorised'].place}")
    for pipeline in pipelines.values():
        for _ in range(2):
            pipeline.preprocess()
    inference_s = [seconds(pipelines["vectorised"].infer) for _ in range(max(1, asked.inference))]
    results = {way: pipeline.postprocess() for way, pipeline in pipelines.items()}
    same = alike(*results.values())
    taken: dict[str, dict[str, list[float]]] = {phase: {way: [] for way in WAYS} for phase in ("pre", "post")}
    for index in range(asked.rounds):
        for way in WAYS if index % 2 else WAYS[::-1]:
            taken["pre"][way].append(seconds(pipelines[way].preprocess))
            taken["post"][way].append(seconds(pipelines[way].postprocess))
    told = told_of(taken, statistics.median(inference_s) if asked.inference else None)
    told["results_alike"] = same
    print(f"results of the same outputs alike: {same}")
    for pipeline in pipelines.values():
        pipeline.close()
    session.close()
    return told


def told_of(taken: dict[str, dict[str, list[float]]], inference_s: float | None) -> dict[str, Any]:
    """Print a line for each phase, and return the figures."""
    both = {way: [a + b for a, b in zip(taken["pre"][way], taken["post"][way], strict=True)] for way in WAYS}
    told: dict[str, Any] = {"inference_s": inference_s}
    print(f"{'':22}{'sequential':>12}{'vectorised':>12}  ratio (95 %)")
    for phase, ways in {**taken, "both": both}.items():
        medians = {way: statistics.median(ways[way]) for way in WAYS}
        ratio = median_interval([a / b for a, b in zip(ways["sequential"], ways["vectorised"], strict=True)])
        bounds = "" if ratio.low is None or ratio.high is None else f" ({ratio.low:.1f} to {ratio.high:.1f})"
        row = "".join(f"{medians[way] * 1e3:10.2f}ms" for way in WAYS)
        print(f"{phase:22}{row}  {ratio.value:.1f}{bounds}")
        told[phase] = {way: medians[way] for way in WAYS} | {"ratio": ratio.value, "low": ratio.low, "high": ratio.high}
    if inference_s is not None:
        shares = {way: statistics.median(both[way]) / (statistics.median(both[way]) + inference_s) for way in WAYS}
        print(f"{'inference':22}{inference_s * 1e3:10.1f}ms")
        print(f"{'pre + post, share':22}" + "".join(f"{shares[way]:12.2%}" for way in WAYS))
        told["share"] = shares
    return told


if __name__ == "__main__":
    main()
