"""Every runtime, device and precision that this machine has goes through the same checks.

Tolerances against ONNX Runtime in fp32, as the largest difference relative to the largest reference value: fp32 1e-4,
tf32 5e-3, fp16 1e-2, bf16 5e-2. Int8 is judged by the direction of the output vector instead: cosine over 0.98.
"""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from wattwerk.bench.streams import run_together
from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.runtimes import RUNTIMES
from wattwerk.runtimes.base import LoadSpec, Precision, Session
from wattwerk.testing import FakeRuntime, SmallModel

TOLERANCE = {Precision.FP32: 1e-4, Precision.TF32: 5e-3, Precision.FP16: 1e-2, Precision.BF16: 5e-2}
LEAST_COSINE = 0.98
#: on the CPU compiled in fp32 only: int8 is in tests/runtimes/test_torch.py
SLOW = {("torch-compile", "cpu"): {Precision.FP32}}


def cases() -> list[Any]:
    """List every runtime with every device and precision that it claims here."""
    found = []
    for name in RUNTIMES.names():
        runtime = RUNTIMES.load(name)
        for device in runtime.devices():
            for precision in runtime.precisions(device):
                if precision in SLOW.get((name, device), set(Precision)):
                    found.append(pytest.param(name, device, precision, id=f"{name}-{device}-{precision}"))
    return found


def load(model: Any, name: str, device: str, precision: Precision, batch: int = 2, **fields: Any) -> Session:
    """Load a model, with calibration samples for int8."""
    spec = LoadSpec(precision=precision, batch=batch, device=device, calibration=model.calibration, **fields)
    return RUNTIMES.load(name).load(model, spec)


def assert_close(ours: npt.NDArray[np.float32], reference: npt.NDArray[np.float32], precision: Precision) -> None:
    """Compare with the precision's tolerance."""
    assert ours.shape == reference.shape
    if precision is Precision.INT8:
        cosine = float(np.vdot(ours, reference) / (np.linalg.norm(ours) * np.linalg.norm(reference)))
        assert cosine > LEAST_COSINE
    else:
        assert np.abs(ours - reference).max() <= TOLERANCE[precision] * np.abs(reference).max()


@pytest.fixture(scope="module")
def small_model() -> SmallModel:
    """Return a model that every runtime takes in no time."""
    return SmallModel()


@pytest.mark.parametrize(("name", "device", "precision"), cases())
def test_session(name: str, device: str, precision: Precision, small_model: SmallModel) -> None:
    """A session agrees with the reference, runs as asked, and its timed call computes the same again and again."""
    inputs = small_model.samples(2, seed=1)
    reference_session = load(small_model, "onnxruntime", "cpu", Precision.FP32)
    reference = reference_session.outputs(inputs)
    reference_session.close()

    session = load(small_model, name, device, precision)
    try:
        assert session.effective.precision is precision
        assert session.effective.device == device
        assert (session.effective.threads or 0) >= (1 if device == "cpu" else 0)
        outputs = session.outputs(inputs)
        assert set(outputs) == set(small_model.output_names())
        assert outputs["scores"].dtype == np.float32
        assert_close(outputs["scores"], reference["scores"], precision)
        session.outputs(small_model.samples(2, seed=2))  # other inputs in between must leave nothing behind
        call = session.bind(inputs)
        for _ in range(2):
            call()
            np.testing.assert_array_equal(session.bound_outputs()["scores"], outputs["scores"])
    finally:
        session.close()
    session.close()


@pytest.mark.parametrize(("name", "device", "precision"), cases())
def test_sessions_side_by_side(name: str, device: str, precision: Precision, small_model: SmallModel) -> None:
    """Sessions that are called at the same time from threads of their own compute what each computes alone."""
    inputs = [small_model.samples(2, seed=seed) for seed in (1, 2)]
    with ExitStack() as stack:
        sessions = [load(small_model, name, device, precision, concurrent=True) for _ in inputs]
        for session in sessions:
            stack.callback(session.close)
        alone = [session.outputs(own)["scores"] for session, own in zip(sessions, inputs, strict=True)]
        assert np.abs(alone[0] - alone[1]).max() > 0
        calls = [session.bind(own) for session, own in zip(sessions, inputs, strict=True)]
        _, ends = run_together(calls, 0.1, 20)
        assert min(len(each) for each in ends) >= 20
        for session, expected in zip(sessions, alone, strict=True):
            assert_close(session.bound_outputs()["scores"], expected, precision)
            assert session.effective.precision is precision


@pytest.mark.parametrize(
    ("name", "device", "precision"), [case for case in cases() if case.values[0] != "torch-compile"]
)
def test_catalog_model(name: str, device: str, precision: Precision) -> None:
    """The catalog's mobilenet-v2 gives the same scores on every runtime; int8 only has to load and keep its shape."""
    if RUNTIMES.load(name).family == "torch":
        pytest.importorskip("transformers")  # builds the model
    models = pytest.importorskip("wattwerk.catalog.models")
    model = models.resolve("mobilenet-v2")
    random = np.random.default_rng(3)
    inputs = {each.name: random.standard_normal((1, *each.shape)).astype(np.float32) for each in model.inputs}

    def calibration() -> Any:
        return iter([inputs])

    def outputs(*where: Any) -> dict[str, npt.NDArray[np.float32]]:
        spec = LoadSpec(precision=where[2], batch=1, device=where[1], calibration=calibration)
        session = RUNTIMES.load(where[0]).load(model, spec)
        try:
            return session.outputs(inputs)
        finally:
            session.close()

    reference = outputs("onnxruntime", "cpu", Precision.FP32)
    for key, ours in outputs(name, device, precision).items():
        if precision is Precision.INT8:
            assert ours.shape == reference[key].shape
        else:
            assert_close(ours, reference[key], precision)


@pytest.mark.parametrize("name", RUNTIMES.names())
def test_probe_explains(name: str) -> None:
    """A probe says what was found, or why it is not there and what to do."""
    probe = RUNTIMES.load(name).probe()
    assert probe.detail
    assert probe.available or probe.remedy


@pytest.fixture(params=[name for name in RUNTIMES.names() if RUNTIMES.load(name).devices()])
def usable(request: pytest.FixtureRequest) -> str:
    """Name a runtime that has a device here."""
    return str(request.param)


def test_unknown_option(usable: str, small_model: SmallModel) -> None:
    """An unknown option is bad use, and the nearest known one is named."""
    runtime = RUNTIMES.load(usable)
    known = runtime.config.__struct_fields__[0]
    with pytest.raises(ConfigError, match=f"did you mean '{known}'"):
        load(small_model, usable, runtime.devices()[0], Precision.FP32, options={known + "x": True})


def test_unknown_device(usable: str, small_model: SmallModel) -> None:
    """An unknown device is bad use, and known ones are named."""
    with pytest.raises(ConfigError, match="abacus") as caught:
        load(small_model, usable, "abacus", Precision.FP32)
    assert RUNTIMES.load(usable).devices()[0] in str(caught.value)


def test_refused_precisions(usable: str, small_model: SmallModel) -> None:
    """A precision that a runtime does not claim for a device is refused with the reason, never replaced."""
    runtime = RUNTIMES.load(usable)
    device = runtime.devices()[-1]
    refused = set(Precision) - set(runtime.precisions(device))
    assert Precision.TF32 in refused or device != "cpu"
    for precision in refused:
        with pytest.raises(UnavailableError, match=f"cannot run {precision} on {device}: ") as caught:
            load(small_model, usable, device, precision)
        assert caught.value.remedy


@pytest.mark.parametrize("field", [{"batch": 0}, {"threads": 0}])
def test_absurd_numbers(usable: str, small_model: SmallModel, field: dict[str, int]) -> None:
    """No batch and no threads are bad use."""
    with pytest.raises(ConfigError):
        load(small_model, usable, RUNTIMES.load(usable).devices()[0], Precision.FP32, **field)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_threads_and_inputs(name: str, small_model: SmallModel) -> None:
    """One thread asked for is one thread reported; inputs that do not fit the model are bad use."""
    pytest.importorskip(name)
    session = load(small_model, name, "cpu", Precision.FP32, threads=1)
    try:
        assert session.effective.threads == 1
        with pytest.raises(ConfigError, match="shape"):
            session.bind(small_model.samples(3))
        with pytest.raises(ConfigError, match="did you mean 'image'"):
            session.bind({"imag": small_model.samples(2)["image"]})
        with pytest.raises(ConfigError, match="missing"):
            session.bind({})
    finally:
        session.close()


def test_no_calibration(small_model: SmallModel) -> None:
    """Int8 without calibration samples is bad use, not a guess."""
    spec = LoadSpec(precision=Precision.INT8, batch=1, device="cpu")
    with pytest.raises(ConfigError, match="calibration"):
        RUNTIMES.load("onnxruntime").load(small_model, spec)


def test_paths_are_the_named_runtimes() -> None:
    """Every import path leads to a runtime that calls itself by its registered name."""
    for name, path in RUNTIMES.paths().items():
        module, _, attribute = path.partition(":")
        assert getattr(importlib.import_module(module), attribute).name == name


def test_fake_runtime_keeps_the_contract(small_model: SmallModel) -> None:
    """The shipped test double computes from its inputs, repeats itself, and refuses like the real ones."""
    inputs = small_model.samples(2)
    session = FakeRuntime.load(small_model, LoadSpec(precision=Precision.BF16, batch=2, device="cpu"))
    outputs = session.outputs(inputs)["scores"]
    assert outputs[:, 1] == pytest.approx(inputs["image"].reshape(2, -1).max(axis=1))
    assert session.effective.precision is Precision.BF16
    with pytest.raises(UnavailableError, match="tf32"):
        FakeRuntime.load(small_model, LoadSpec(precision=Precision.TF32, batch=2, device="cpu"))
