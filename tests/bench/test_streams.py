from __future__ import annotations

import time
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.bench.conftest import SHORT

from wattwerk.bench import plan
from wattwerk.bench.run import run_sweep
from wattwerk.bench.scenario import Configuration, new_sweep
from wattwerk.bench.streams import run_together
from wattwerk.bench.summary import summarise
from wattwerk.errors import ConfigError
from wattwerk.records import Provenance, Record, Status
from wattwerk.records import measured as as_measured
from wattwerk.store import Store


def test_streams_begin_together_and_share_a_device() -> None:
    """Calls that wait without the processor run side by side; each stream has every iteration of its own."""
    start, streams = run_together([lambda: time.sleep(0.02)] * 3, 0.3, 2)
    assert [len(ends) for ends in streams] == pytest.approx([15, 15, 15], abs=6)
    for ends in streams:
        assert start < ends[0]
        assert list(ends) == sorted(ends)
    assert max(ends[0] for ends in streams) - start < 0.15e9


def test_an_error_in_one_stream_is_raised() -> None:
    """What a call raises in a thread comes out, after the others have ended."""

    def failing() -> None:
        raise MemoryError("does not fit")

    with pytest.raises(MemoryError, match="does not fit"):
        run_together([lambda: time.sleep(0.01), failing], 0.05, 1)


def test_an_error_in_the_first_call_of_a_stream_holds_nobody_up() -> None:
    """Where a thread fails before all have begun, the others do not wait for it for ever, nor begin."""
    calls = 0

    def counted() -> None:
        nonlocal calls
        calls += 1

    def failing() -> None:
        raise MemoryError("no room for its plans")

    with pytest.raises(MemoryError, match="no room for its plans"):
        run_together([counted, failing], 60.0, 1)
    assert calls == 2


def measured(model: Path, *streams: int, **fields: object) -> dict[int, Record]:
    """Measure a model with these numbers of streams."""
    plain = {"model": str(model), "runtime": "onnxruntime", "precision": "fp32", "batch": 2, "device": "cpu"}
    with Store() as store:
        sweep = new_sweep([Configuration(**(plain | fields), streams=count) for count in streams], SHORT)  # type: ignore[arg-type]
        records = run_sweep(sweep, store)
    return {int(record.setup.protocol.get("concurrent_streams") or 1): record for record in records}


def test_what_streams_share_adds_up(tiny_onnx: Path) -> None:
    """The streams' throughputs add up to the whole, and so do the shares of the energy, which are marked as such."""
    records = measured(tiny_onnx, 1, 3, threads=1)
    record = records[3]
    assert record.status in (Status.OK, Status.INVALID), record.reason
    assert record.value("streams_count") == 3
    numbers = range(1, 4)
    rates = [record.value(f"stream{n}_throughput_per_s") or 0 for n in numbers]
    assert sum(rates) == pytest.approx(record.value("throughput_per_s"), rel=0.05)
    assert sum(record.value(f"stream{n}_busy_share_ratio") or 0 for n in numbers) == pytest.approx(1)
    shared = [record.figures[f"cpu_stream{n}_energy_per_inference_j"] for n in numbers]
    weighted = sum((figure.value or 0) * rate for figure, rate in zip(shared, rates, strict=True)) / sum(rates)
    assert weighted == pytest.approx(record.value("cpu_energy_per_inference_j"), rel=0.05)
    assert all(figure.provenance in (Provenance.DERIVED, Provenance.MODELLED) for figure in shared)
    assert all("not measured" in (figure.note or "") for figure in shared)
    low, high = sorted(record.value(f"stream{n}_latency_p50_s") or 0 for n in numbers)[::2]
    assert low <= (record.value("latency_p50_s") or 0) <= high
    assert "streams_count" not in records[1].figures
    # which number of streams is best is the machine's business: here three are, so that the summary has to name them
    best = replace(record, status=Status.OK, figures=record.figures | {"throughput_per_s": as_measured(1e9)})
    assert "3 streams" in " ".join(summarise([records[1], best]).sentences)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"streams": (0,)}, "0 streams are not possible"),
        ({"streams": (2,), "scenarios": ("server",)}, "leave one of them out"),
    ],
)
def test_what_streams_cannot_be_is_refused(tiny_onnx: Path, asked: dict[str, object], told: str) -> None:
    """Numbers that cannot be and a load beside streams are errors before anything runs."""
    with pytest.raises(ConfigError, match=told):
        plan.configurations_of(plan.to_request({"models": (str(tiny_onnx),)} | asked))
