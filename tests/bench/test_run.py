from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.bench.conftest import SHORT, write_tiny_onnx

from wattwerk.bench.run import remaining, run_sweep
from wattwerk.bench.scenario import Configuration, Sweep, new_sweep
from wattwerk.records import Provenance, Record, Status
from wattwerk.store import Store


def configuration(model: Path | str, **fields: object) -> Configuration:
    """Return a configuration of the fake runtime unless the fields say otherwise."""
    plain = {"model": str(model), "runtime": "onnxruntime", "precision": "fp32", "batch": 1, "device": "cpu"}
    return Configuration(**(plain | fields))  # type: ignore[arg-type]


def measure(*configurations: Configuration) -> list[Record]:
    """Run a sweep in the test's own store."""
    with Store() as store:
        return run_sweep(new_sweep(configurations, SHORT), store)


def test_a_sweep_gives_a_record_with_every_figure(tiny_onnx: Path) -> None:
    """A real model on a real runtime: the record has latency, throughput, load, energy, memory and their provenance."""
    (record,) = measure(configuration(tiny_onnx, batch=4, threads=1))
    assert record.status in (Status.OK, Status.INVALID), record.reason
    figures = record.figures
    for name in ("latency_mean_s", "latency_std_s", "latency_p50_s", "latency_p90_s", "latency_p95_s", "latency_p99_s",
                 "throughput_per_s", "cpu_utilisation_ratio", "cpu_load_delta_ratio", "sampler_overhead_ratio",
                 "effective_ops_per_s"):  # fmt: skip
        assert figures[name].value is not None, name
    assert figures["latency_p50_s"].provenance is Provenance.MEASURED
    assert 1e-7 < record.value("latency_p50_s") < 1  # type: ignore[operator]
    assert record.value("latency_p50_s") <= record.value("latency_p99_s")  # type: ignore[operator]
    assert record.value("throughput_per_s") > 4  # type: ignore[operator]  # four samples an iteration, and none of them takes a second
    assert record.value("effective_ops_per_s") == pytest.approx(
        record.value("throughput_per_s") * record.subject.sample_flops  # type: ignore[operator]
    )
    assert record.setup.effective["precision"] == "fp32"
    assert record.setup.effective["threads"] == 1
    assert record.setup.protocol["quick"] is True
    cpu = figures["cpu_energy_per_inference_j"]
    assert cpu.provenance in (Provenance.MEASURED, Provenance.MODELLED)
    if cpu.provenance is Provenance.MODELLED:
        assert cpu.low < cpu.value < cpu.high  # type: ignore[operator]
        assert figures["system_power_w"].provenance is Provenance.MODELLED
    power = record.value("cpu_power_w") / record.value("throughput_per_s")  # type: ignore[operator]
    assert cpu.value == pytest.approx(power, rel=0.2)


def test_what_fails_is_a_record_and_the_sweep_goes_on(tiny_onnx: Path, fake_plugin: str) -> None:
    """A crash, a lack of memory, a conversion error and an unsupported precision each become a record with a reason."""
    fake = fake_plugin
    records = measure(
        configuration(tiny_onnx, runtime=fake, options={"fail": "crash"}),
        configuration(tiny_onnx, runtime=fake, options={"fail": "memory"}),
        configuration(tiny_onnx, runtime=fake, options={"fail": "convert"}),
        configuration(tiny_onnx, precision="bf16"),
        configuration(tiny_onnx, runtime=fake),
    )
    found = {(r.setup.runtime, r.setup.precision, str(r.setup.options.get("fail"))): r for r in records}
    assert found[fake, "fp32", "crash"].status is Status.FAILED
    assert found[fake, "fp32", "memory"].status is Status.OUT_OF_MEMORY
    assert found[fake, "fp32", "convert"].status is Status.UNSUPPORTED
    assert found["onnxruntime", "bf16", "None"].status is Status.UNSUPPORTED
    assert all(r.reason for r in records if r.status not in (Status.OK,))
    assert found[fake, "fp32", "None"].figures


def test_a_hanging_configuration_is_ended(tiny_onnx: Path, fake_plugin: str) -> None:
    """After its time is up a configuration is killed and recorded as failed."""
    from msgspec.structs import replace

    hanging = configuration(tiny_onnx, runtime=fake_plugin, options={"fail": "hang"})
    with Store() as store:
        (record,) = run_sweep(new_sweep([hanging], replace(SHORT, timeout_s=3.0)), store)
    assert record.status is Status.FAILED
    assert "within 3 s" in record.reason


def test_a_killed_worker_reads_as_lack_of_memory(tiny_onnx: Path, fake_plugin: str) -> None:
    """The kernel's SIGKILL, which is what it sends when memory runs out, is named as such."""
    (record,) = measure(configuration(tiny_onnx, runtime=fake_plugin, options={"fail": "kill"}))
    assert record.status is Status.OUT_OF_MEMORY
    assert "memory" in record.reason


def test_samples_that_do_not_suffice_are_a_record_too(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while samples are evaluated belongs to its configuration; the next one is measured all the same."""
    from wattwerk.bench import run
    from wattwerk.errors import MeasurementError

    real, calls = run.evaluate, []

    def failing_once(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise MeasurementError("a gap in the samples")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "evaluate", failing_once)
    records = measure(configuration(tiny_onnx, batch=1), configuration(tiny_onnx, batch=2))
    assert [bool(record.figures) for record in records] == [False, True]
    assert records[0].status is Status.FAILED
    assert "a gap in the samples" in records[0].reason


def test_a_rewritten_batch_is_told(tmp_path: Path) -> None:
    """A file that is fixed to a batch of 2 runs with 4 too, and that record says what the file itself has."""
    model = write_tiny_onnx(tmp_path / "fixed.onnx", batch=2)
    records = measure(configuration(model, batch=2), configuration(model, batch=4))
    told = {record.setup.batch: record.setup.effective.get("rewritten_from_batch") for record in records}
    assert told == {2: None, 4: 2}


def with_fake_meter(home: Path, lines: str) -> None:
    """Add the fake meter to the user's configuration."""
    home.mkdir()
    (home / "config.toml").write_text(f"[meters.fake]\n{lines}")


def test_a_meter_that_does_not_open_is_in_the_record(tiny_onnx: Path, fake_plugin: str, wattwerk_home: Path) -> None:
    """The record says why its values are missing; the table's legend, the record's page and the report say it too."""
    from wattwerk import terminal
    from wattwerk.bench.report.facts import conditions

    with_fake_meter(wattwerk_home, "unavailable = true")
    (record,) = measure(configuration(tiny_onnx))
    (fault,) = (fault for fault in record.setup.faults if fault.startswith("fake: "))
    assert "not available" in fault
    assert any(fault in line for line in terminal.legend([record]))
    assert any(fault in text for text in terminal._facts(record).values())
    assert fault in dict(conditions([record]))["Meters at fault"]


def test_failed_reads_and_limits_are_in_the_record(tiny_onnx: Path, fake_plugin: str, wattwerk_home: Path) -> None:
    """Reads that failed during the sweep are counted in the record, and a meter's limits stand with the machine."""
    with_fake_meter(
        wattwerk_home, 'scope = "board"\nfail_every = 4\nlimits = { fake_temperature_slowdown_celsius = 92 }'
    )
    (record,) = measure(configuration(tiny_onnx))
    assert any("failed reads" in fault for fault in record.setup.faults)
    assert record.platform.limits == {"fake_temperature_slowdown_celsius": 92.0}


@pytest.mark.parametrize("scope", ["accelerator", "wall", "board"])
def test_a_meter_that_falls_silent_costs_its_own_scope_only(
    tiny_onnx: Path, fake_plugin: str, wattwerk_home: Path, scope: str
) -> None:
    """Latency, throughput and other meters' energies stay; what the silent meter is part of is unavailable, and why."""
    with_fake_meter(wattwerk_home, f'scope = "{scope}"\nfail_after = 15')
    (record,) = measure(configuration(tiny_onnx))
    assert record.status in (Status.OK, Status.INVALID), record.reason
    for name in ("latency_p50_s", "throughput_per_s", "cpu_energy_per_inference_j", "energy_window_s"):
        assert record.value(name), name
    lost = ["system_power_w", "system_energy_per_inference_j", "system_efficiency_per_s_per_w"]
    if scope != "accelerator":  # which the model did not run on: it counts in the system's sum alone
        lost += [f"{scope}_power_w", f"{scope}_energy_per_inference_j", f"loaded_idle_{scope}_power_w"]
    for name in lost:
        assert record.figures[name].provenance is Provenance.UNAVAILABLE, name
        assert "fake_energy_j was not recorded over the whole interval" in str(record.figures[name].note), name
    assert any("failed reads" in fault for fault in record.setup.faults)


def test_cooling_down_outlives_missing_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A meter that gives nothing while the sweep waits for it to cool costs the wait, and does not end the sweep."""
    from wattwerk.bench import run
    from wattwerk.meters.base import Channel
    from wattwerk.meters.trace import Trace

    class Blind:
        """Stands for a recorder whose GPU's driver answers nothing, which no machine can be asked to do."""

        def trace(self, _since: int) -> Trace:
            return Trace([Channel(name="gpu0_throttle_count", form="gauge")], [], [])

    monkeypatch.setattr(run, "_COOL_DOWN_LIMIT_S", 0.1)
    run._cool_down(Blind())  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", ["unstorable", "unreadable"])
def test_results_that_cannot_be_stored_are_a_record_too(
    tiny_onnx: Path, fake_plugin: str, odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime that tells what JSON cannot hold, or what cannot be read here, fails alone; the next is measured."""
    from wattwerk.bench import process

    monkeypatch.setattr(process, "_DEATH_S", 1.0)
    records = measure(
        configuration(tiny_onnx, runtime=fake_plugin, options={"tell": odd}),
        configuration(tiny_onnx, runtime=fake_plugin),
    )
    found = {record.setup.options.get("tell"): record for record in records}
    assert found[odd].status is Status.FAILED
    assert found[odd].reason
    assert found[None].figures


def test_a_figure_that_is_no_number_is_not_stored(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON has no NaN, and a record with one could not be read again: its configuration failed, and says why."""
    from wattwerk.bench import run
    from wattwerk.records import measured

    monkeypatch.setattr(run, "evaluate", lambda *_: (Status.OK, "", {"load_s": measured(float("nan"))}))
    (record,) = measure(configuration(tiny_onnx))
    assert record.status is Status.FAILED
    assert "cannot be stored" in record.reason


def test_resuming_runs_only_what_is_missing(tiny_onnx: Path) -> None:
    """A sweep whose first part is stored measures the rest, in the same order."""
    sweep = new_sweep([configuration(tiny_onnx, batch=b) for b in (1, 2)], SHORT)
    first = Sweep(id=sweep.id, procedure=sweep.procedure, configurations=sweep.configurations[:1])
    with Store() as store:
        (early,) = run_sweep(first, store)
        assert remaining(sweep, store.records(sweep.id)) == [sweep.configurations[1]]
        both = run_sweep(sweep, store)
        assert len(both) == 2
        assert early in both
        assert run_sweep(sweep, store) == both


def test_the_order_is_random_but_reproducible() -> None:
    """The same seed gives the same order, another seed another one."""
    from msgspec.structs import replace

    some = [configuration("m", batch=b) for b in range(1, 30)]
    one, again = new_sweep(some, SHORT), new_sweep(reversed(some), SHORT)
    other = new_sweep(some, replace(SHORT, seed=1))
    assert one.configurations == again.configurations
    assert one.configurations != other.configurations
    assert [c.batch for c in one.configurations] != sorted(c.batch for c in one.configurations)


_SWEEP = """
import sys
from pathlib import Path
from tests.bench.conftest import SHORT
from tests.bench.test_run import configuration
from wattwerk.bench.run import Silence, run_sweep
from wattwerk.bench.scenario import Sweep
from wattwerk.store import Store

class Told(Silence):
    def finished(self, record):
        print(record.id, flush=True)

if __name__ == "__main__":
    with Store() as store:
        run_sweep(Sweep.from_json(Path(sys.argv[1]).read_text()), store, Told())
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_kills_lose_no_finished_configuration(tiny_onnx: Path, tmp_path: Path) -> None:
    """Fifty times SIGKILL at a random moment: the store opens each time and holds all that was reported as finished.

    The recorder and the worker of a killed sweep go away by themselves.
    """
    import random

    from msgspec.structs import replace

    script, plan = tmp_path / "sweep.py", tmp_path / "plan.json"
    script.write_text(_SWEEP)
    fast = replace(SHORT, windows=2, window_s=0.1, idle_s=0.1, warmup=2)
    sweep = new_sweep([configuration(tiny_onnx, batch=b) for b in range(1, 400)], fast)
    plan.write_text(sweep.to_json())
    root = Path(__file__).parents[2]
    moments = random.Random(0)
    finished: set[str] = set()
    seen = False

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(script), str(plan)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(root)},
        )

    # on a busy machine none may be done within four seconds: one is waited for, so that there is one to lose
    first = start()
    assert first.stdout is not None
    finished.add(first.stdout.readline().strip())
    first.kill()
    first.communicate(timeout=20)
    for _ in range(17):  # three sweeps at a time, in one store
        before = {p.pid for p in psutil.process_iter()}
        runs = [start() for _ in range(3)]
        deadline = time.monotonic() + moments.uniform(0.3, 4.0)
        while time.monotonic() < deadline:
            seen |= bool(_left_over(before))
            time.sleep(0.05)
        for run in runs:
            run.send_signal(signal.SIGKILL)
        for run in runs:
            told, complaint = run.communicate(timeout=20)
            assert run.returncode == -signal.SIGKILL, complaint
            finished |= set(told.split())
        with Store() as store:
            stored = {record.id for record in store.records()}
        assert finished <= stored
        _wait_until(lambda before=before: not _left_over(before))  # type: ignore[misc]
    assert seen, "no recorder or worker was ever seen, so their end proves nothing"
    assert all(finished), "no configuration was ever finished, so the test proved nothing"


def _left_over(before: set[int]) -> list[psutil.Process]:
    left = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            if process.pid not in before and any(room in words for room in ("meters.sampler", "bench.process")):
                left.append(process)
        except psutil.Error:
            continue
    return left


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "processes of a killed sweep are still there"
        time.sleep(0.1)
