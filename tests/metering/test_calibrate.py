from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

pytest.importorskip("httpx")

from tests.meters.http_device import Device
from tests.meters.test_rapl import grow
from tests.meters.test_shelly import second_generation

from wattwerk import terminal_calibrate
from wattwerk.errors import ConfigError, MeasurementError
from wattwerk.metering.calibrate import Calibrated, Calibration, Plan, calibrate, keep, write_latencies
from wattwerk.metering.calibration import Fit
from wattwerk.metering.load import Load
from wattwerk.meters.protocol import MeterSpec
from wattwerk.meters.recorder import Recorder
from wattwerk.records import Scope, Status, from_json, to_json
from wattwerk.store import Store
from wattwerk.testing import FakeMeterConfig

pytestmark = pytest.mark.alone

QUICK = Plan(pulses=7, shortest_s=0.25, longest_s=0.65, latest_s=1.0, warm_s=0.6)
GAIN, OFFSET_W = 1.15, 40.0


@contextmanager
def plug(power_w: Callable[[int], float], delay_s: float, renewed_s: float, noise_w: float = 0.5) -> Iterator[Device]:
    """Serve a plug that renews its value every now and then, in tenths of a watt, and is late with it."""
    replies = second_generation()
    status, random = replies["/rpc/Switch.GetStatus?id=0"], np.random.default_rng(3)
    renewed_ns, delay_ns = round(renewed_s * 1e9), round(delay_s * 1e9)
    known: dict[int, float] = {}

    def answer(_: Any) -> dict[str, Any]:
        at_ns = (time.perf_counter_ns() - delay_ns) // renewed_ns * renewed_ns
        if at_ns not in known:
            known[at_ns] = round(OFFSET_W + GAIN * power_w(at_ns) + random.normal(0, noise_w), 1)
        return status | {"apower": known[at_ns]}

    replies["/rpc/Switch.GetStatus?id=0"] = answer
    with Device(replies) as device:
        yield device


def power_of(load: Load, step_w: float) -> Callable[[int], float]:
    """Return the true power over time that a load draws."""

    def power_w(time_ns: int) -> float:
        before = [on for at_ns, on in list(load.switches) if at_ns <= time_ns]
        return step_w if before and before[-1] else 0.0

    return power_w


def shelly(device: Device, prefix: str = "shelly", **more: Any) -> MeterSpec:
    """Return the meter of a plug."""
    return MeterSpec("shelly", {"url": device.url, "prefix": prefix, **more})


def near(fit: Fit, delay_s: float) -> bool:
    """Tell whether a delay lies in an interval half as wide again as that of 95 %: a test that fails rarely."""
    return abs(fit.delay_s - delay_s) <= 1.5 * (fit.delay_high_s - fit.delay_s)


def found_of(found: Calibration, name: str) -> Calibrated:
    """Return one channel's result."""
    return next(each for each in found.channels if each.channel == name)


@pytest.fixture(scope="module")
def calibrated() -> Calibration:
    """Calibrate a plug that is late by 0.45 s and renews its value every 0.1 s."""
    load = Load(processes=1)
    with plug(power_of(load, 80.0), delay_s=0.45, renewed_s=0.1) as device:
        spec = msgspec.structs.replace(shelly(device, interval_s=0.2), section="desk")
        return calibrate([spec], load=load, plan=QUICK)


def test_a_plug_is_calibrated(calibrated: Calibration) -> None:
    """Delay and step of a served plug are found within their intervals; a counter that stands still is refused."""
    one, energy = (found_of(calibrated, f"shelly0_{word}") for word in ("power_w", "energy_j"))
    assert one.reference == ["load"]
    assert one.fit is not None
    assert one.doubts == []
    assert near(one.fit, 0.5)  # late by 0.45 s, and kept for 0.05 s on average
    assert one.fit.gain_low_ratio <= GAIN * 80 <= one.fit.gain_high_ratio
    assert one.fit.offset_w == pytest.approx(OFFSET_W, abs=12)  # a few reads in each pulse
    assert "hardly moved" in energy.refusal
    assert calibrated.latencies() == {"desk": one}
    assert f"[meters.desk]\nlatency_s = {one.latency_s}  # calibrated 2" in calibrated.toml()


def test_it_is_kept_and_written(calibrated: Calibration, wattwerk_home: Path) -> None:
    """The store has a record of each channel, and ``config.toml`` the latency, beside what stood there."""
    wattwerk_home.mkdir()
    path = wattwerk_home / "config.toml"
    path.write_text("[meters.desk]\nkind = 'shelly'  # the plug\n")
    keep(calibrated)
    copy = write_latencies(calibrated)
    assert copy.read_text() == "[meters.desk]\nkind = 'shelly'  # the plug\n"
    assert "kind = 'shelly'  # the plug\n" in path.read_text()
    assert f"latency_s = {calibrated.latencies()['desk'].latency_s}  # calibrated " in path.read_text()
    with Store() as store:
        assert {record.kind for record in store.records()} == {"calibration"}
        assert len(store.records()) == len(calibrated.channels)


def test_energies_agree_afterwards(calibrated: Calibration) -> None:
    """With the delay that was found, energies of pulses and rests are three times nearer to the truth."""
    latency_s = found_of(calibrated, "shelly0_power_w").latency_s
    half_ns, count = 830_000_000, 5
    truth = FakeMeterConfig(base_w=20.0, step_w=80.0, period_s=2 * half_ns / 1e9)
    with plug(truth.power_w, delay_s=0.45, renewed_s=0.1, noise_w=0.0) as device, ExitStack() as stack:
        pair = [shelly(device, "raw", interval_s=0.05), shelly(device, "set", interval_s=0.05, latency_s=latency_s)]
        recorder = stack.enter_context(Recorder(pair))
        first = time.perf_counter_ns() // half_ns + 1
        trace = recorder.trace(until_ns=(first + count) * half_ns + 10**9, timeout_s=20)
    wrong: dict[str, list[float]] = {"raw": [], "set": []}
    for number in range(first, first + count):
        start_ns, end_ns = number * half_ns, (number + 1) * half_ns
        true_j = GAIN * truth.energy_j(start_ns, end_ns) + OFFSET_W * half_ns / 1e9
        for name, errors in wrong.items():
            errors.append(abs(trace.energy(f"{name}0_power_w", start_ns, end_ns).value_j / true_j - 1))
    assert np.mean(wrong["set"]) < np.mean(wrong["raw"]) / 3
    assert np.mean(wrong["set"]) < 0.1


def test_the_record_tells_it_later(calibrated: Calibration) -> None:
    """A record of kind calibration has the figures; one that is refused has failed, and says why."""
    power, energy = sorted(calibrated.records(), key=lambda record: record.status is not Status.OK)
    assert (power.kind, power.subject.name, power.setup.device) == ("calibration", "shelly0_power_w", "desk")
    assert power.group == energy.group
    assert power.setup.protocol["pulses"] == QUICK.pulses
    assert {"delay_s", "window_s", "step_w", "offset_w", "noise_w", "drift_w", "fit_ratio"} < power.figures.keys()
    assert power.figures["step_w"].scope is Scope.WALL
    assert from_json(to_json(power)) == power
    assert (energy.status, energy.figures) == (Status.FAILED, {})
    assert "hardly moved" in energy.reason


def test_what_is_not_trusted_is_never_proposed(calibrated: Calibration) -> None:
    """A result with a doubt is shown with it and stored as invalid; there is nothing to write."""
    one = found_of(calibrated, "shelly0_power_w")
    assert one.fit is not None
    doubtful = msgspec.structs.replace(one, fit=msgspec.structs.replace(one.fit, doubts=["too little contrast: …"]))
    found = msgspec.structs.replace(calibrated, channels=[doubtful])
    assert found.toml() == ""
    assert found.records()[0].status is Status.INVALID
    told = terminal_calibrate.calibration_lines(found)
    assert any("not to be trusted: too little contrast" in line for line in told)
    assert not any("config.toml" in line for line in told)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_three_plugs_against_a_counter(tmp_path: Path) -> None:
    """Plugs that renew twice a second and are 0, 0.4 and 1.2 s late are calibrated against a processor's counter."""
    root = grow(tmp_path / "powercap", {"intel-rapl:0": "package-0"})
    load, delays_s, ended = Load(processes=1), (0.0, 0.4, 1.2), threading.Event()
    power_w = power_of(load, 80.0)

    def count() -> None:
        file = os.open(root / "intel-rapl:0" / "energy_uj", os.O_WRONLY)
        energy_uj, last_ns = 1_000_000.0, time.perf_counter_ns()
        while not ended.wait(0.01):
            now_ns = time.perf_counter_ns()
            energy_uj += (15 + power_w(now_ns)) * (now_ns - last_ns) / 1e3
            last_ns = now_ns
            os.pwrite(file, f"{energy_uj:020.0f}\n".encode(), 0)  # at once, so that no read finds half of it
        os.close(file)

    thread = threading.Thread(target=count)
    thread.start()
    with ExitStack() as stack:
        stack.callback(thread.join)
        stack.callback(ended.set)
        plugs = [stack.enter_context(plug(power_w, delay_s, renewed_s=0.5)) for delay_s in delays_s]
        specs = [MeterSpec("rapl", {"root": str(root)})]
        specs += [shelly(device, f"plug{number}_") for number, device in enumerate(plugs)]
        names = [f"plug{number}_0_power_w" for number in range(3)]
        plan = Plan(pulses=7, shortest_s=0.8, longest_s=1.8, latest_s=2.4)
        found = calibrate(specs, target=names, load=load, plan=plan)
    for name, delay_s in zip(names, delays_s, strict=True):
        one = found_of(found, name)
        assert one.reference == ["cpu0_energy_j"]
        assert one.fit is not None
        assert one.doubts == []
        assert near(one.fit, delay_s + 0.25)
        assert one.fit.delay_high_s - one.fit.delay_low_s < 1.0
        assert one.fit.gain_low_ratio <= GAIN <= one.fit.gain_high_ratio
        assert one.fit.offset_w == pytest.approx(OFFSET_W - GAIN * 15, abs=6)  # the counter has 15 W at rest
    told = terminal_calibrate.calibration_lines(found)
    shown = [line for line in told if "latency_s" not in line and not line.startswith("meter at fault")]
    assert max(map(len, shown)) <= 80


def test_what_cannot_be_calibrated_is_refused_at_once() -> None:
    """Without a slow meter, with a channel or a reference that is not there, nothing is loaded."""
    begin_s = time.monotonic()
    with pytest.raises(ConfigError, match="no slow meter"):
        calibrate([MeterSpec("host-load")])
    fake = MeterSpec("wattwerk.testing:FakeMeter", {"interval_s": 0.2})
    with pytest.raises(ConfigError, match="nowhere_w"):
        calibrate([fake], target=["nowhere_w"])
    with pytest.raises(ConfigError, match="reference nowhere_w"):
        calibrate([fake], reference=["nowhere_w"])
    assert time.monotonic() - begin_s < 15


def test_a_load_works_while_it_is_on_only() -> None:
    """Busy processes take a core while switched on, nothing while off, and are gone at the end."""
    with Load(processes=1) as load:
        (process,) = [psutil.Process(each.pid) for each in load._running]
        time.sleep(0.8)
        load.switch(False)
        time.sleep(0.1)
        before_s = sum(process.cpu_times()[:2])
        time.sleep(0.3)
        assert sum(process.cpu_times()[:2]) - before_s < 0.05
        load.switch(True)
        time.sleep(0.5)
        assert sum(process.cpu_times()[:2]) - before_s > 0.1
    assert not process.is_running()
    assert [on for _, on in load.switches] == [False, True]


def test_a_command_as_load() -> None:
    """A command of the user's is stopped and continued with all that it starts; one that ends is an error."""
    with Load(["sh", "-c", "sleep 60 & sleep 60; true"]) as load:
        time.sleep(0.3)
        load.switch(False)
        time.sleep(0.2)
        family = psutil.Process(load._running[0].pid).children(recursive=True)
        assert len(family) == 2
        assert {each.status() for each in family} == {psutil.STATUS_STOPPED}
    time.sleep(0.2)
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family)
    with Load(["true"]) as load:
        time.sleep(0.3)
        with pytest.raises(MeasurementError, match="the load true ended"):
            load.switch(False)
    with pytest.raises(ConfigError, match="does not start"), Load(["/nowhere/burn"]):
        pass
