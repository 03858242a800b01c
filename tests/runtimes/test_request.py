"""What is checked before a model is touched, what a library's failure means, and the fake runtime as a plug-in."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from wattwerk.errors import ConversionError, UnavailableError
from wattwerk.runtimes import RUNTIMES
from wattwerk.runtimes.base import LoadSpec, Precision
from wattwerk.runtimes.request import failures, is_out_of_memory, probe_package
from wattwerk.testing import FakeRuntime, SmallModel


def spec(batch: int = 1, **options: object) -> LoadSpec:
    """Ask the fake runtime for fp32."""
    return LoadSpec(precision=Precision.FP32, batch=batch, device="cpu", options=options)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 20.00 GiB",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 123",
        "std::bad_alloc",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes",
    ],
)
def test_out_of_memory(text: str, small_model: SmallModel) -> None:
    """What libraries write when memory runs out becomes a MemoryError that names model, batch and device."""
    with (
        pytest.raises(MemoryError, match="small-model at batch 7 does not fit on cpu"),
        failures(small_model, spec(7), "Library"),
    ):
        raise RuntimeError(text)


def test_out_of_memory_behind_another_error() -> None:
    """Memory that ran out inside of a compiler is found behind the compiler's own error."""
    outer = RuntimeError("backend failed")
    outer.__cause__ = RuntimeError("CUDA out of memory")
    assert is_out_of_memory(outer)
    assert not is_out_of_memory(RuntimeError("backend failed"))


def test_other_failures(small_model: SmallModel) -> None:
    """Any other failure becomes one line; our own errors pass unchanged."""
    with (
        pytest.raises(ConversionError, match=r"Library cannot take small-model in fp32 \(first line\)"),
        failures(small_model, spec(), "Library"),
    ):
        raise ValueError("first line\nsecond line")
    with pytest.raises(UnavailableError, match="as it was"), failures(small_model, spec(), "Library"):
        raise UnavailableError("as it was")


def test_probe_package() -> None:
    """A missing package is named, with the command that installs it, and nothing is imported."""
    probe = probe_package("no_such_package", "pip install it", "numpy", "nor_this")
    assert (probe.available, probe.remedy) == (False, "pip install it")
    assert probe.detail == "no_such_package, nor_this not installed"
    assert probe_package("msgspec", "-").detail.startswith("msgspec ")


def test_probes_import_nothing_heavy() -> None:
    """All probes together import no runtime: ``wattwerk doctor`` and the tests of what is there stay quick."""
    code = (
        "import sys\nfrom wattwerk.runtimes import RUNTIMES\n"
        "[RUNTIMES.load(name).probe() for name in RUNTIMES.names()]\n"
        "print([name for name in ('torch', 'onnxruntime', 'openvino', 'onnx', 'nncf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_plugin(fake_plugin: str, small_model: SmallModel) -> None:
    """A runtime from another package is found by its entry point, here and in child processes."""
    assert RUNTIMES.load(fake_plugin) is FakeRuntime
    code = f"from wattwerk.runtimes import RUNTIMES; print(RUNTIMES.load({fake_plugin!r}).name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "fake"


def test_fake_latency(small_model: SmallModel) -> None:
    """The fake runtime's call takes as long as asked, and not much longer."""
    call = FakeRuntime.load(small_model, spec(latency_s=0.01)).bind(small_model.samples(1))
    taken_s = []
    for _ in range(5):
        start_ns = time.perf_counter_ns()
        call()
        taken_s.append((time.perf_counter_ns() - start_ns) / 1e9)
    assert 0.01 <= min(taken_s) < 0.02


def test_fake_failures(small_model: SmallModel) -> None:
    """The fake runtime fails in the asked-for way, from the asked-for batch on, at loading or when run."""
    with pytest.raises(MemoryError):
        FakeRuntime.load(small_model, spec(4, fail="memory", fail_from_batch=4))
    FakeRuntime.load(small_model, spec(3, fail="memory", fail_from_batch=4)).close()
    with pytest.raises(ConversionError):
        FakeRuntime.load(small_model, spec(fail="convert"))
    call = FakeRuntime.load(small_model, spec(fail="memory", fail_at="run")).bind(small_model.samples(1))
    with pytest.raises(MemoryError):
        call()


def test_fake_crash() -> None:
    """``crash`` ends the process at once, as a driver's fault would."""
    code = (
        "from wattwerk.testing import FakeRuntime, SmallModel\n"
        "from wattwerk.runtimes.base import LoadSpec, Precision\n"
        "options = {'fail': 'crash'}\n"
        "FakeRuntime.load(SmallModel(), LoadSpec(precision=Precision.FP32, batch=1, device='cpu', options=options))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 70
