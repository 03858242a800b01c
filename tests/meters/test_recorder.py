from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.meters.test_host_meters import NUMBERS

from wattwerk.errors import ConfigError, MeasurementError
from wattwerk.meters.recorder import Gate, MeterSpec, Recorder
from wattwerk.meters.row_file import RowFile
from wattwerk.records import Provenance
from wattwerk.testing import FakeMeterConfig

pytestmark = pytest.mark.alone

FAKE = "wattwerk.testing:FakeMeter"
HOST = MeterSpec("host-load")


def fake(**config: Any) -> MeterSpec:
    """Return a fake meter."""
    return MeterSpec(FAKE, config)


def gone(pid: int, timeout_s: float = 5.0) -> bool:
    """Wait until a process has ended; one that nobody has waited for yet has ended, too."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_a_known_power_is_found_again() -> None:
    """A square wave from 100 to 300 W, counted in ticks of 100 ms: the true energy lies within the bounds."""
    config = {"base_w": 100.0, "step_w": 200.0, "period_s": 1.4, "tick_s": 0.1}
    with Recorder([fake(**config)]) as recorder:
        time.sleep(0.4)
        start = time.perf_counter_ns()
        time.sleep(2.0)
        end = time.perf_counter_ns()
        trace = recorder.trace(until_ns=end)
    truth = FakeMeterConfig(**config).energy_j(start, end)
    for channel, provenance in (("fake_energy_j", Provenance.MEASURED), ("fake_power_w", Provenance.DERIVED)):
        energy = trace.energy(channel, start, end)
        assert energy.low_j <= truth <= energy.high_j
        assert energy.value_j == pytest.approx(truth, rel=0.08)
        assert energy.provenance is provenance


def test_samples_sit_on_ticks() -> None:
    """Samples are locked to the counter: their times lie just behind whole multiples of the tick."""
    with Recorder([fake(tick_s=0.1), HOST]) as recorder:
        assert recorder.locked == "fake_energy_j"
        time.sleep(2.5)
        trace = recorder.trace()
    late_ms = trace.time_ns % 100_000_000 / 1e6
    assert np.median(late_ms) < 4
    assert np.median(trace.time_ns - trace.unmoved_ns) < 8e6
    assert 20 <= len(trace.time_ns) <= 27


def test_a_read_that_was_held_up_tells_from_when_to_when() -> None:
    """Where a read takes long, as when a busy machine interrupts it, the sample spans it; else it does not."""
    with Recorder([fake(delay_s=0.03)], rate_hz=20) as recorder:
        time.sleep(0.5)
        held = recorder.trace()
    with Recorder([fake()], rate_hz=20) as recorder:
        time.sleep(0.5)
        quick = recorder.trace()
    assert np.min(held.time_ns - held.unmoved_ns) >= 30_000_000
    assert np.min(quick.time_ns - quick.unmoved_ns) == 0


def test_an_interval_that_ends_within_a_read_is_waited_for() -> None:
    """A read that had begun before the end says too little about it: the next one is waited for."""
    with Recorder([fake(delay_s=0.1)], rate_hz=20) as recorder:
        recorder.await_ready()
        for _ in range(6):
            start = time.perf_counter_ns()
            time.sleep(0.15)
            end = time.perf_counter_ns()
            assert recorder.trace(until_ns=end).energy("fake_energy_j", start, end).value_j > 0


def test_without_ticks_the_rate_is_kept() -> None:
    """At 50 Hz samples come 20 ms apart."""
    with Recorder([HOST], rate_hz=50) as recorder:
        time.sleep(1.0)
        trace = recorder.trace()
    assert np.median(np.diff(trace.time_ns)) == pytest.approx(20e6, rel=0.15)


def test_the_modelled_processor_records() -> None:
    """The model's energy over an interval lies between idle and maximum power, with its bounds around it."""
    with Recorder([MeterSpec("cpu-model", NUMBERS), HOST]) as recorder:
        time.sleep(0.3)
        start = time.perf_counter_ns()
        time.sleep(0.5)
        end = time.perf_counter_ns()
        trace = recorder.trace(until_ns=end)
    energy = trace.energy("cpu_energy_j", start, end)
    # the system counts processor time in steps of up to 10 ms: over half a second that is 2 % of 40 W at either end
    assert 9.9 <= energy.mean_power_w <= 51.7
    assert energy.low_j < energy.value_j < energy.high_j
    assert energy.provenance is Provenance.MODELLED


def test_the_process_is_light() -> None:
    """The sampling process takes under 60 MB and 5 % of a core; it loads neither numpy nor the parent's program."""
    with Recorder([HOST]) as recorder:
        pid = recorder._process.pid if recorder._process else 0
        begin_s = recorder.cost().cpu_s
        time.sleep(2.0)
        cost = recorder.cost()
        maps = Path(f"/proc/{pid}/maps")
        assert not maps.exists() or "numpy" not in maps.read_text()
    assert cost.rss_bytes < 60e6
    assert cost.cpu_s - begin_s < 0.1
    assert cost.samples >= 15
    assert recorder.cost().wall_s >= cost.wall_s  # the last cost stays available


def test_a_raising_meter_costs_only_its_own_values() -> None:
    """A meter that raises at every third read gives NaN there, is counted, and the others miss nothing."""
    with Recorder([fake(fail_every=3), HOST], rate_hz=50) as recorder:
        time.sleep(1.2)
        trace = recorder.trace()
        time.sleep(0.6)
        faults = recorder.faults
    lost = np.isnan(trace.values[:, 0])
    assert 0.2 < lost.mean() < 0.45
    assert np.isfinite(trace.values[:, 2:]).all()
    assert any("failed reads" in fault and "OSError" in fault for fault in faults)


def test_a_hanging_meter_is_left_behind() -> None:
    """A meter that hangs for good is named after two seconds, and the others go on being recorded."""
    with Recorder([fake(hang_after=3), HOST], rate_hz=20) as recorder:
        time.sleep(3.6)
        trace = recorder.trace(since_ns=time.perf_counter_ns() - 500_000_000)
        faults = recorder.faults
        start = time.monotonic()
    assert len(trace.time_ns) > 3
    assert np.isnan(trace.values[:, 0]).all()
    assert np.isfinite(trace.values[:, 2]).all()
    assert any("hung once" in fault for fault in faults)
    assert time.monotonic() - start < 3  # and it does not keep the process from ending


def test_a_hanging_meter_is_taken_back() -> None:
    """A meter that answers again after three seconds is read again."""
    with Recorder([fake(hang_after=3, hang_s=3.0), HOST], rate_hz=20) as recorder:
        time.sleep(4.2)
        trace = recorder.trace(since_ns=time.perf_counter_ns() - 300_000_000)
        faults = recorder.faults
    assert np.isfinite(trace.values[:, 0]).all()
    assert any("answers again" in fault for fault in faults)


def test_a_slow_meter_delays_no_other() -> None:
    """A meter whose reads take 0.3 s has values of its own pace and true times; the quick one keeps its 20 Hz."""
    slow = fake(prefix="slow", interval_s=0.1, delay_s=0.3, latency_s=0.5, step_w=50.0, period_s=2.0)
    with Recorder([fake(), slow], rate_hz=20.0) as recorder:
        time.sleep(3.0)
        end_ns = time.perf_counter_ns() - 10**9
        trace = recorder.trace(until_ns=end_ns)
    quick = np.isfinite(trace.values[:, 1])
    spacing_s = np.diff(trace.time_ns[quick]) / 1e9
    assert np.median(spacing_s) == pytest.approx(0.05, rel=0.1)
    its = np.isfinite(trace.values[:, 2])
    assert np.median(np.diff(trace.time_ns[its]) / 1e9) == pytest.approx(0.3, rel=0.2)
    truth = FakeMeterConfig(step_w=50.0, period_s=2.0)
    start_ns = end_ns - 10**9
    energy = trace.energy("slow_energy_j", start_ns, end_ns)
    true_j = truth.energy_j(start_ns, end_ns)
    assert energy.low_j <= true_j <= energy.high_j
    assert energy.value_j == pytest.approx(true_j, rel=0.1)


def test_waiting_for_a_slow_meter_ends() -> None:
    """A trace waits for the slow meter's next value, but not for one that hangs; the fault is told."""
    waiting = fake(prefix="slow", interval_s=0.5)
    hanging = fake(prefix="dead", interval_s=0.5, hang_after=2)
    with Recorder([fake(), waiting, hanging]) as recorder:
        time.sleep(3.5)
        until_ns = time.perf_counter_ns()
        trace = recorder.trace(until_ns=until_ns)
        waited_s = (time.perf_counter_ns() - until_ns) / 1e9
        faults = recorder.faults
    assert trace.energy("slow_power_w", until_ns - 10**9, until_ns).value_j == pytest.approx(100.0)
    assert waited_s < 1.5
    assert any("hung once, still does" in fault for fault in faults)
    with pytest.raises(MeasurementError, match="dead_power_w"):
        trace.energy("dead_power_w", until_ns - 10**9, until_ns)


def test_meters_that_do_not_open_are_faults() -> None:
    """Without any meter left the host's load is recorded, and the reason is told."""
    with Recorder([fake(unavailable=True), MeterSpec("nowhere.at_all:Meter")]) as recorder:
        assert [channel.name for channel in recorder.channels] == ["cpu_busy_s", "memory_used_bytes"]
        assert any("not available" in fault for fault in recorder.faults)
        assert any("cannot be imported" in fault for fault in recorder.faults)


def test_two_meters_with_the_same_channel() -> None:
    """Whose is the energy? The start ends with both sections and the channel."""
    specs = [MeterSpec(FAKE, {"prefix": "desk"}, section="one"), MeterSpec(FAKE, section="desk")]
    with pytest.raises(ConfigError, match=r"\[meters.one\] and \[meters.desk\] both give desk_energy_j"):
        Recorder(specs).start()
    with Recorder([fake(base_w=1.0), fake(prefix="other", accelerator="X")]) as recorder:
        assert len(recorder.channels) == 4
        assert [accelerator.name for accelerator in recorder.accelerators] == ["X"]


@pytest.mark.parametrize("spec", [MeterSpec("nmvl"), fake(base_watts=3.0), MeterSpec("cpu-model", {"idle_w": 1.0})])
def test_the_users_mistakes_are_config_errors(spec: MeterSpec) -> None:
    """An unknown meter, an unknown option and missing numbers end the start, and leave no process behind."""
    recorder = Recorder([spec])
    with pytest.raises(ConfigError):
        recorder.start()
    assert recorder._process is None
    assert not recorder._folder.exists()


@pytest.mark.parametrize("rate_hz", [0, -1, 1e6, float("nan")])
def test_absurd_rates_are_refused(rate_hz: float) -> None:
    """A rate outside of 0.1 to 1000 Hz is refused before anything starts."""
    with pytest.raises(ConfigError, match="sampling rate"):
        Recorder([HOST], rate_hz)


def test_a_pause_stops_sampling() -> None:
    """After pause() returns no sample is taken until resume()."""
    with Recorder([HOST], rate_hz=100) as recorder:
        time.sleep(0.2)
        recorder.gate.pause()
        before = recorder.trace()
        time.sleep(0.5)
        assert len(recorder.trace().time_ns) == len(before.time_ns)
        recorder.gate.resume()
        time.sleep(0.3)
        assert len(recorder.trace().time_ns) > len(before.time_ns) + 5


def pause_from_elsewhere(gate: Gate) -> None:
    """Pause, as a worker process does."""
    gate.pause()


def test_another_process_can_pause() -> None:
    """The gate passes to a freshly spawned sibling process, which pauses the recorder."""
    with Recorder([HOST], rate_hz=50) as recorder:
        assert pickle.loads(pickle.dumps(recorder.gate)) == recorder.gate
        sibling = multiprocessing.get_context("spawn").Process(target=pause_from_elsewhere, args=(recorder.gate,))
        sibling.start()
        sibling.join(20)
        assert sibling.exitcode == 0
        count = len(recorder.trace().time_ns)
        time.sleep(0.3)
        assert len(recorder.trace().time_ns) == count
        recorder.gate.resume()


def test_a_gate_without_recorder_raises() -> None:
    """Pausing a recorder that has ended is an error, not a hang."""
    with Recorder([HOST]) as recorder:
        gate = recorder.gate
    with pytest.raises(MeasurementError, match="gone"):
        gate.pause()


def test_a_stopped_process_does_not_hang_the_gate() -> None:
    """A sampling process that stands still makes pause() raise after its timeout."""
    with Recorder([HOST]) as recorder:
        assert recorder._process
        os.kill(recorder._process.pid, signal.SIGSTOP)
        while psutil.Process(recorder._process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)  # the signal takes its time, and until then the process answers
        try:
            with pytest.raises(MeasurementError, match="did not answer"):
                recorder.gate.pause(timeout_s=0.3)
        finally:
            os.kill(recorder._process.pid, signal.SIGCONT)


def test_a_crash_is_reported() -> None:
    """When the sampling process dies, the next trace() says so, and the recorder still closes."""
    with Recorder([fake(exit_after=5), HOST], rate_hz=50) as recorder:
        time.sleep(0.6)
        with pytest.raises(MeasurementError, match="exit status 7"):
            recorder.trace()
    assert not recorder._folder.exists()


def test_what_was_recorded_outlives_the_recorder() -> None:
    """After the end trace() still gives everything, and no file is left."""
    with Recorder([HOST], rate_hz=50) as recorder:
        time.sleep(0.4)
        count = len(recorder.trace().time_ns)
    assert len(recorder.trace().time_ns) >= count > 5
    assert not recorder._folder.exists()


def test_since_leaves_out_what_is_older() -> None:
    """trace(since_ns) begins at that time, trace(until_ns) reaches beyond it."""
    with Recorder([HOST], rate_hz=50) as recorder:
        time.sleep(0.3)
        now = time.perf_counter_ns()
        trace = recorder.trace(since_ns=now, until_ns=now + 200_000_000)
    assert trace.time_ns[0] >= now
    assert trace.time_ns[-1] >= now + 200_000_000


PARENT = """
import sys, time
from wattwerk.meters.recorder import MeterSpec, Recorder
recorder = Recorder([MeterSpec("host-load")])
recorder.start()
print(recorder._process.pid, recorder._folder, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is a POSIX signal")
def test_an_orphan_ends_and_cleans_up() -> None:
    """When the parent is killed with SIGKILL, the sampling process ends and removes its folder."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        assert psutil.pid_exists(int(pid))
        parent.kill()
        parent.wait()
        assert gone(int(pid))
    assert not Path(folder).exists()


@pytest.mark.skipif(os.name != "posix", reason="signals and process groups are a matter of POSIX")
def test_ctrl_c_does_not_reach_the_recorder() -> None:
    """The sampling process is in a group of its own and ignores SIGINT: the parent decides when it ends."""
    with Recorder([HOST], rate_hz=50) as recorder:
        assert recorder._process
        pid = recorder._process.pid
        assert os.getpgid(pid) != os.getpgid(0)
        os.kill(pid, signal.SIGINT)
        time.sleep(0.2)
        assert len(recorder.trace(time.perf_counter_ns() - 100_000_000).time_ns)


def test_a_full_disk_loses_samples_but_not_the_file(tmp_path: Path) -> None:
    """Rows that cannot be written are counted; half a row is overwritten by the next whole one."""
    rows = RowFile(tmp_path / "rows", 1)
    rows.append(1, 1, [1.0])
    whole = rows._file

    class Full:
        def seek(self, offset: int) -> int:
            return whole.seek(offset)

        def write(self, data: bytes) -> int:
            whole.write(data[:10])
            raise OSError(28, "No space left on device")

    rows._file = Full()  # type: ignore[assignment]
    rows.append(2, 2, [2.0])
    rows._file = whole
    rows.append(3, 3, [3.0])
    whole.close()
    assert rows.lost == 1
    read = np.fromfile(tmp_path / "rows.000000", [("time", "<i8"), ("unmoved", "<i8"), ("value", "<f8")])
    assert read["value"].tolist() == [1.0, 3.0]
