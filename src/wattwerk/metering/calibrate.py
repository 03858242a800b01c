"""Find out how far slow meters lag behind and how much they see: load the machine in pulses and look when they move."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.machine import package_versions
from wattwerk.metering.calibration import Fit, Reference, fit
from wattwerk.metering.comparison import LOAD, is_power, readings_of, reference_of
from wattwerk.metering.latency_config import set_latencies
from wattwerk.metering.load import Load, phases_s
from wattwerk.meters import protocol
from wattwerk.meters.base import Channel
from wattwerk.meters.protocol import MeterSpec
from wattwerk.meters.recorder import Recorder
from wattwerk.meters.trace import Trace
from wattwerk.records import (
    Figure,
    Platform,
    Provenance,
    Record,
    Scope,
    Setup,
    Status,
    Subject,
    derived,
    new_id,
    now,
)
from wattwerk.store import Store

_READ_SHARE: Final = 3.3  # reads in each interval: no whole number, so that they do not fall on the meter's own beat
_LEAST_INTERVAL_S: Final = 0.03

Tell = Callable[[str, float], None]


class Plan(msgspec.Struct, frozen=True):
    """What the load does.

    Attributes:
        pulses: How often it is switched on.
        shortest_s: The shortest time that it is on, or off, in seconds.
        longest_s: The longest, likewise.
        latest_s: The longest delay that is looked for, in seconds; the machine rests for a bit longer than that
            before and after.
        seed: Of the order of the times.
        warm_s: How long the load runs before everything, in seconds; a program that takes long to start needs more.
    """

    pulses: int = 12
    shortest_s: float = 2.0
    longest_s: float = 7.0
    latest_s: float = 10.0
    seed: int = 0
    warm_s: float = 2.0

    @property
    def phase_s(self) -> float:
        """How long the load is on or off on average."""
        return (self.shortest_s + self.longest_s) / 2

    @property
    def rest_s(self) -> float:
        """How long the machine rests before and after, so that every delay can be looked for."""
        return self.latest_s + self.phase_s

    @property
    def length_s(self) -> float:
        """How long it takes."""
        return 2 * self.pulses * self.phase_s + 2 * self.rest_s + self.warm_s


class Calibrated(msgspec.Struct, frozen=True):
    """One channel, calibrated.

    Attributes:
        channel: Its name.
        meter: Its meter: the name of the section ``[meters.<name>]``.
        scope: What it covers.
        reference: The channels that it was compared with, or ``load``.
        configurable: Whether the meter has the option ``latency_s``.
        fit: What was found; None if nothing could be.
        refusal: Why there is nothing; empty if there is.
    """

    channel: str
    meter: str
    scope: Scope | None
    reference: list[str]
    configurable: bool
    fit: Fit | None = None
    refusal: str = ""

    @property
    def doubts(self) -> list[str]:
        """Why it is not to be trusted; empty if it is."""
        return self.fit.doubts if self.fit else [self.refusal]

    @property
    def latency_s(self) -> float | None:
        """What ``latency_s`` should say; None where the result is not to be trusted or the meter has no such option."""
        return max(0.0, round(self.fit.delay_s, 2)) if self.fit and self.fit.trusted and self.configurable else None

    def comment(self, date: str) -> str:
        """Return what stands behind ``latency_s`` in the configuration."""
        assert self.fit is not None
        bounds = f"{max(0.0, self.fit.delay_low_s):.2f} to {self.fit.delay_high_s:.2f} s"
        return f"calibrated {date}: {bounds} behind {' + '.join(self.reference)}"


class Calibration(msgspec.Struct, frozen=True):
    """What a run found.

    Attributes:
        channels: Each channel that was to be calibrated.
        plan: What the load did.
        load: What it was, in words.
        platform: The machine.
        faults: What went wrong with the meters.
        started_at: ISO 8601 in UTC.
        finished_at: ISO 8601 in UTC.
    """

    channels: list[Calibrated]
    plan: Plan
    load: str
    platform: Platform
    faults: list[str]
    started_at: str
    finished_at: str

    def latencies(self) -> dict[str, Calibrated]:
        """Return meter -> the channel that says its latency: a momentary power rather than a counter."""
        found: dict[str, Calibrated] = {}
        for each in sorted(self.channels, key=lambda each: each.channel.endswith("_j")):
            if each.latency_s is not None:
                found.setdefault(each.meter, each)
        return found

    def toml(self) -> str:
        """Return the lines for ``config.toml``; empty if there are none."""
        date = self.finished_at[:10]
        lines = [
            f"[meters.{meter}]\nlatency_s = {each.latency_s}  # {each.comment(date)}\n"
            for meter, each in self.latencies().items()
        ]
        return "\n".join(lines)

    def records(self) -> list[Record]:
        """Return a record of kind ``calibration`` for each channel."""
        group = new_id()
        return [self._record(each, group) for each in self.channels]

    def _record(self, each: Calibrated, group: str) -> Record:
        return Record(
            id=new_id(),
            kind="calibration",
            group=group,
            subject=Subject(name=each.channel),
            platform=self.platform,
            setup=Setup(
                device=each.meter,
                options={"reference": each.reference, "load": self.load},
                protocol=msgspec.structs.asdict(self.plan),
                faults=self.faults,
            ),
            started_at=self.started_at,
            finished_at=self.finished_at,
            status=Status.OK if not each.doubts else Status.INVALID if each.fit else Status.FAILED,
            reason="; ".join(each.doubts),
            figures=_figures(each.fit, each) if each.fit else {},
        )


def _figures(found: Fit, each: Calibrated) -> dict[str, Figure]:
    step = found.gain_ratio if each.reference == [LOAD] else None
    gain = {} if step else {"gain_ratio": derived(found.gain_ratio, found.gain_low_ratio, found.gain_high_ratio)}
    bounds = (found.gain_low_ratio, found.gain_high_ratio) if step else ()
    return {
        "delay_s": derived(found.delay_s, found.delay_low_s, found.delay_high_s),
        "window_s": derived(found.window_s),
        **gain,
        "step_w": derived(step or found.step_w, *bounds, scope=each.scope),
        "offset_w": derived(found.offset_w, scope=each.scope),
        "noise_w": derived(found.noise_w, scope=each.scope),
        "drift_w": derived(found.drift_w, scope=each.scope),
        "fit_ratio": derived(found.fit_ratio),
        "readings_count": Figure(float(found.readings_count), Provenance.MEASURED),
    }


def quickened(spec: MeterSpec) -> MeterSpec:
    """Return a meter read more often than it is useful otherwise, and with its latency taken as unknown."""
    try:
        kind = protocol.load_meter(spec.name)
        fields = {field.name for field in msgspec.structs.fields(kind.config)}
    except UnavailableError:  # the recorder tells
        return spec
    known = dict(spec.config)
    if "interval_s" in fields:
        interval_s = known.get("interval_s", kind.interval_s)
        if isinstance(interval_s, int | float) and interval_s > 0:
            known["interval_s"] = max(_LEAST_INTERVAL_S, interval_s / _READ_SHARE)
    if "latency_s" in fields:
        known["latency_s"] = 0.0
    return MeterSpec(spec.name, known, spec.section)


def calibrate(
    specs: Sequence[MeterSpec],
    reference: Sequence[str] = (),
    target: Sequence[str] = (),
    load: Load | None = None,
    plan: Plan | None = None,
    tell: Tell | None = None,
) -> Calibration:
    """Load and idle the machine in pulses, and find delay and gain of the meters that are slow.

    Args:
        specs: The meters, as ``inventory.default_specs`` chooses them.
        reference: Channels of fast meters to compare with, added up; ``load`` alone for the known load sequence. By
            default measured accelerators, packages and memory, if they see the load; otherwise the sequence.
        target: Channels to calibrate; by default all measured powers and energies of slow meters.
        load: What loads the machine; by default one busy process for each processor.
        plan: What the load does.
        tell: Called with what is going on, and the share of the whole that is done.

    Raises:
        ConfigError: A channel is not there, nothing is to be calibrated, or the plan is not possible.
        MeasurementError: The load or the recorder ended.
    """
    plan, started_at = plan or Plan(), now()
    lengths_s = phases_s(plan.pulses, plan.shortest_s, plan.longest_s, plan.seed)
    given = list(specs)
    with Recorder([quickened(spec) for spec in given]) as recorder, load or Load() as burning:
        targets = _targets(recorder, target)
        _check_reference(recorder, reference)
        _run(burning, lengths_s, plan, tell or _nobody)
        trace = recorder.trace(until_ns=time.perf_counter_ns())
        meters = recorder.meters
        platform = msgspec.structs.replace(recorder.platform, packages=package_versions())
        switches = burning.switches
    compared, names = reference_of(trace, reference, switches)
    options = {spec.label: _has_latency(spec) for spec in given}
    found = [_calibrated(trace, channel, meters[channel.name], options, (compared, names), plan) for channel in targets]
    return Calibration(found, plan, burning.name, platform, recorder.faults, started_at, now())


def keep(found: Calibration) -> None:
    """Store what a run found.

    Raises:
        StoreError: It cannot be stored.
    """
    with Store() as store:
        for record in found.records():
            store.add(record)


def write_latencies(found: Calibration, path: Path | None = None) -> Path:
    """Write the latencies of a run into ``config.toml``; arguments, result and errors are those of `set_latencies`."""
    date = found.finished_at[:10]
    latencies = {meter: (each.latency_s, each.comment(date)) for meter, each in found.latencies().items()}
    return set_latencies({meter: (s, text) for meter, (s, text) in latencies.items() if s is not None}, path)


def _nobody(text: str, share: float) -> None:
    return


def _has_latency(spec: MeterSpec) -> bool:
    try:
        kind = protocol.load_meter(spec.name)
    except UnavailableError:
        return False
    return any(field.name == "latency_s" for field in msgspec.structs.fields(kind.config))


def _targets(recorder: Recorder, wanted: Sequence[str]) -> list[Channel]:
    known = {channel.name: channel for channel in recorder.channels}
    for name in wanted:
        if name not in known or not is_power(known[name]):
            raise ConfigError(f"{name} is no power or energy that is recorded", f"there are: {', '.join(known)}")
    measured = [c for c in recorder.channels if is_power(c) and c.provenance is Provenance.MEASURED]
    found = [known[name] for name in wanted] or [channel for channel in measured if channel.name in recorder.slow]
    if not found:
        told = "; ".join(recorder.faults)
        raise ConfigError(
            "there is no slow meter to calibrate" + (f" ({told})" if told else ""),
            "add a section [meters.<name>] for your wall meter, or name a channel",
        )
    return found


def _check_reference(recorder: Recorder, wanted: Sequence[str]) -> None:
    known = {channel.name: channel for channel in recorder.channels}
    for name in wanted:
        if name == LOAD and len(wanted) == 1:
            continue
        if name not in known or not is_power(known[name]):
            raise ConfigError(f"the reference {name} is no power or energy that is recorded", f"or {LOAD} alone")


def _run(load: Load, lengths_s: list[float], plan: Plan, tell: Tell) -> None:
    """Warm the load up, rest, run the pulses, rest."""
    begin_s = time.monotonic()

    def wait(length_s: float, text: str) -> None:
        end_s = time.monotonic() + length_s
        while (left_s := end_s - time.monotonic()) > 0:
            tell(text, min(1.0, (time.monotonic() - begin_s) / plan.length_s))
            time.sleep(min(left_s, 0.25))

    wait(plan.warm_s, "starting the load")
    load.switch(False)
    wait(plan.rest_s, "resting")
    for place, length_s in enumerate(lengths_s):
        load.switch(place % 2 == 0)
        wait(length_s, f"pulse {place // 2 + 1} of {plan.pulses}")
    load.switch(False)
    wait(plan.rest_s, "resting")


def _calibrated(
    trace: Trace,
    channel: Channel,
    meter: str,
    options: dict[str, bool],
    compared: tuple[Reference, list[str]],
    plan: Plan,
) -> Calibrated:
    reference, names = compared
    about = Calibrated(channel.name, meter, channel.scope, names, options.get(meter, False))
    if channel.name in names:
        return msgspec.structs.replace(about, refusal="it is the reference itself")
    try:
        found = fit(readings_of(trace, channel), reference, plan.phase_s, plan.latest_s)
    except MeasurementError as error:
        return msgspec.structs.replace(about, refusal=str(error))
    return msgspec.structs.replace(about, fit=found)
