from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.bench.samples import latencies, modelled, record

from wattwerk.bench import campaign, photos
from wattwerk.bench.pipeline import PHASES, PROCESSINGS, Pipeline, open_pipeline
from wattwerk.bench.processing_base import Result, Top
from wattwerk.bench.summary import summarise
from wattwerk.catalog import models
from wattwerk.catalog.processing import facts_of
from wattwerk.errors import ConfigError
from wattwerk.records import Figure, Record, Status, derived, measured
from wattwerk.runtimes import RUNTIMES
from wattwerk.runtimes.base import LoadSpec, Precision
from wattwerk.testing import SmallModel

_FACTS = """
layout = "logits"
labels_count = 10
resize = "stretch"
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
source = "a test"
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Write a small real model of images (3, 24, 24) and the facts of its photos."""
    path = tmp_path / "small.onnx"
    path.write_bytes(SmallModel().onnx_bytes())
    (tmp_path / "small.processing.toml").write_text(_FACTS)
    return path


@pytest.fixture
def opened(small: Path, fake_plugin: str) -> Callable[[str, str, int], Pipeline]:
    """Return a maker of pipelines: runtime, processing, batch."""

    def make(runtime: str, processing: str, batch: int) -> Pipeline:
        model = models.resolve(str(small))
        spec = LoadSpec(precision=Precision.FP32, batch=batch, device="cpu")
        session = RUNTIMES.load(runtime).load(model, spec)
        some = photos.load(None).photos
        return open_pipeline(session, model, facts_of(model), processing, some, batch, 2, seed=0)

    return make


def runtimes() -> list[str]:
    """Return the runtimes that take an ONNX file here, and the fake one, which shares no memory."""
    return [name for name in ("onnxruntime", "openvino") if RUNTIMES.load(name).probe().available] + ["fake"]


def tops(results: list[Result]) -> list[tuple[list[int], list[float]]]:
    """Return labels and scores, rounded to what the rounding of pixels leaves."""
    assert all(isinstance(each, Top) for each in results)
    return [(each.labels.tolist(), each.scores.round(2).tolist()) for each in results if isinstance(each, Top)]


@pytest.mark.parametrize("runtime", runtimes())
def test_every_way_gives_the_same_results_batch_after_batch(
    runtime: str, opened: Callable[[str, str, int], Pipeline]
) -> None:
    """Sequential, vectorised and overlapped tell the same labels of each of the photos' batches, through a runtime."""
    told = {}
    for processing in PROCESSINGS:
        pipeline = opened(runtime, processing, 4)
        told[processing] = [tops(pipeline.run()) for _ in range(3)]
        pipeline.preprocess()  # what runs ahead is given up when a phase runs alone
        pipeline.infer()
        assert len(pipeline.postprocess()) == 4
        pipeline.close()
    assert told["vectorised"] == told["sequential"]
    assert told["overlapped"] == told["sequential"]
    if runtime != "fake":
        assert told["sequential"][0] != told["sequential"][1]


@pytest.mark.parametrize("way", ["sequential", "vectorised", "on device"])
def test_tensors_are_shared_with_those_who_take_them(way: str) -> None:
    """A session that shares torch tensors, as on a GPU, gives arrays to the ways on the CPU, and the same results."""
    torch = pytest.importorskip("torch")
    from wattwerk.bench.processing_sequential import Sequential
    from wattwerk.bench.processing_torch import OnDevice
    from wattwerk.bench.processing_vectorised import Vectorised
    from wattwerk.catalog.processing import Processing

    model, shape = SmallModel(), (3, 24, 24)
    session = RUNTIMES.load("torch").load(model, LoadSpec(precision=Precision.FP32, batch=4, device="cpu"))
    in_host = session.shared_inputs, session.shared_outputs
    for name, arrays in zip(("shared_inputs", "shared_outputs"), in_host, strict=True):
        tensors = lambda arrays=arrays: {key: torch.from_numpy(each) for key, each in arrays().items()}  # noqa: E731
        setattr(session, name, tensors)  # stands for a GPU, which CI does not have
    facts = Processing(layout="logits", labels_count=10, resize="stretch", source="a test", top_count=2)
    makers = {
        "sequential": lambda: Sequential(facts, shape, 4, 1),
        "vectorised": lambda: Vectorised(facts, shape, 4, 2),
        "on device": lambda: OnDevice(facts, shape, 4, 2, "cpu"),
    }
    blank = np.zeros((4, *shape), np.float32)
    call = session.bind({"image": blank})
    model.origin = "real"  # type: ignore[attr-defined]
    some = photos.load(None).photos
    pipeline = Pipeline(session, call, blank, model, facts, makers[way](), some, 4, 0)  # type: ignore[arg-type]
    results = [tops(pipeline.run()) for _ in range(2)]
    pipeline.close()
    session.close()
    expected = np.stack([np.asarray(one) for one in _by_hand(facts, some, model)])
    assert [labels for batch in results for labels, _ in batch] == expected.tolist()


def _by_hand(facts: object, some: tuple[photos.Photo, ...], model: SmallModel) -> list[list[int]]:
    """Return the two likeliest labels of eight photos, from the second batch on, one photo at a time."""
    import torch

    from wattwerk.bench.processing_sequential import Sequential

    told = []
    for index in range(4, 12):
        out = np.empty((1, 3, 24, 24), np.float32)
        Sequential(facts, (3, 24, 24), 1, 1).preprocess([some[index % len(some)]], out)  # type: ignore[arg-type]
        told.append(model.torch_module()(torch.from_numpy(out))[0].argsort(descending=True)[:2].tolist())
    return told


def test_a_pipeline_is_measured_phase_by_phase(small: Path, tmp_path: Path) -> None:
    """A campaign gives each way a record with time, throughput, energy and share of each phase; damage is named."""
    warned: list[str] = []
    ways = ("sequential", "overlapped")

    class Heard(campaign.Silence):
        def warned(self, text: str) -> None:
            warned.append(text)

    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in photos.load(None).photos[:2]:
        (folder / photo.name).with_suffix(".jpg").write_bytes(photo.data)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    procedure = {"iterations": 8, "warmup": 4, "warmup_s": 0.0, "windows": 2, "window_s": 0.1, "idle_s": 0.1}
    asked = {
        "models": (str(small),),
        "processings": ways,
        "images": str(folder),
        "batches": (2,),
        "procedure": procedure,
    }
    outcome = campaign.bench(asked, None, listener=Heard())
    assert [line.partition(":")[2].partition(":")[0].strip() for line in warned] == ["broken.jpg"]
    by_way = {str(found.setup.protocol["processing"]): found for found in outcome.records}
    assert set(by_way) == set(ways)
    for found in by_way.values():
        assert found.status in (Status.OK, Status.INVALID), found.reason
        assert found.kind == "bench"
        shares = [found.value(f"{phase}_share_ratio") or 0.0 for phase in PHASES]
        assert sum(shares) == pytest.approx(1)
        for phase in PHASES:
            figures = {name: found.figures[f"{phase}_{name}"] for name in ("p50_s", "throughput_per_s")}
            assert all(figure.value for figure in figures.values())
            energy = found.figures[f"{phase}_cpu_energy_per_inference_j"]
            assert energy.value is not None
            assert energy.scope
        assert found.value("pipeline_p50_s") == found.value("latency_p50_s")
        assert found.setup.effective["photos_count"] == 2
    assert outcome.summary is not None
    assert outcome.summary.models[0].model == "small (pipeline)"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"processings": ("vectorized",)}, "unknown processing"),
        ({"images": "/nowhere/at/all"}, "cannot read the folder"),
        ({"pipeline": True, "models": ("tiny.onnx",)}, "nobody says how photos become inputs"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_measured(
    asked: dict[str, object], reason: str, small: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown way, a folder that is not there, and a model without facts are errors that say what to do."""
    monkeypatch.chdir(tiny_onnx.parent)
    with pytest.raises(ConfigError, match=reason):
        campaign.bench({"models": (str(small),)} | asked, None)


def test_a_lost_package_is_named(monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
    """Without OpenCV a vectorised pipeline is refused with the extra that brings it."""
    import sys

    from wattwerk.bench.processing_vectorised import opencv
    from wattwerk.errors import UnavailableError

    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UnavailableError, match=r"wattwerk\[pipeline\]"):
        opencv()


def of_pipeline(processing: str, times_s: tuple[float, float, float]) -> Record:
    """Return a record whose phases took the given times."""
    whole = sum(times_s)
    figures: dict[str, Figure] = latencies(whole, 8) | {"pipeline_p50_s": measured(whole, whole * 0.99, whole * 1.01)}
    for name, value in zip(PHASES, times_s, strict=True):
        figures[f"{name}_p50_s"] = measured(value, value * 0.99, value * 1.01)
        figures[f"{name}_share_ratio"] = derived(value / whole)
        figures[f"{name}_system_energy_per_inference_j"] = modelled(value * 2)
    figures["system_energy_per_inference_j"] = modelled(whole * 2)
    made = record(batch=8, figures=figures, options={"way": processing})
    made.setup.protocol["processing"] = processing
    made.setup.options.clear()
    return made


def test_the_summary_names_the_bottleneck_and_what_its_end_would_bring() -> None:
    """By hand: 300 ms of 400 ms before the model; without them 100 ms, 4 times faster. Vectorised: 400 ms to 125 ms."""
    records = [of_pipeline("sequential", (0.3, 0.08, 0.02)), of_pipeline("vectorised", (0.03, 0.08, 0.015))]
    text = "\n".join(summarise(records).sentences)
    assert (
        "(sequential): pre-processing with 75 % of the energy (400 ms a batch; each alone: pre-processing 75 %" in text
    )
    assert "without it a batch would take 100 ms, 4.0× faster." in text
    assert "(vectorised): the inference" in text
    assert "processing that took no time would bring 1.56× at most." in text
    assert "Processing vectorised against sequential (onnxruntime fp32 batch 8): 3.2× as fast" in text
    assert "pre- and post-processing alone 7.1×" in text


@pytest.mark.parametrize("runtime", [name for name in runtimes() if name != "fake"])
def test_what_is_written_into_shared_inputs_is_what_runs(runtime: str) -> None:
    """Shared inputs are the memory that the call reads, ``refill`` fills it, and shared outputs are what came of it."""
    model = SmallModel()
    session = RUNTIMES.load(runtime).load(model, LoadSpec(precision=Precision.FP32, batch=2, device="cpu"))
    first, second = model.samples(2, 1), model.samples(2, 2)
    expected = session.outputs(second)["scores"]
    call = session.bind(first)
    shared = session.shared_inputs()
    assert shared is not None
    np.copyto(shared["image"], second["image"])
    call()
    outputs = session.shared_outputs()
    assert outputs is not None
    np.testing.assert_array_equal(outputs["scores"], expected)
    session.refill(first)()
    before = session.bound_outputs()["scores"]
    np.testing.assert_allclose(before, session.outputs(first)["scores"], rtol=1e-6)
    session.close()
