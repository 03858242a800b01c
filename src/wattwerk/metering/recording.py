"""One recorder for all that is measured in a process, and the figures and records that come of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from wattwerk.errors import ConfigError, MeasurementError
from wattwerk.launch import give_back, take
from wattwerk.metering import sensors
from wattwerk.metering.interval import PREFIXES, Idle, interval_figures
from wattwerk.meters.account import AccountConfig
from wattwerk.meters.protocol import MeterSpec
from wattwerk.meters.recorder import Recorder
from wattwerk.meters.totals import SYSTEM, totals_of
from wattwerk.meters.trace import Trace
from wattwerk.records import Figure, Provenance, Record, Scope, Setup, Status, Subject, new_id, unavailable

_MARGIN_NS: Final = 5_000_000_000
_SETTLE_S: Final = 0.3  # from the end of what ran before to the idle measurement


def recorder_here(rate_hz: float, keep_s: float | None = None) -> Recorder:
    """Return a recorder of this machine's meters: in the process that was started early, if there is one.

    Args:
        rate_hz: Samples a second.
        keep_s: As for ``Recorder``.

    Raises:
        ConfigError: As for ``inventory.default_specs``, or the rate cannot be used.
    """
    launched = take()
    if launched is None:
        return Recorder(sensors.specs_here(), rate_hz, keep_s=keep_s)
    try:
        return Recorder([], rate_hz, launched=launched, keep_s=keep_s)
    except ConfigError:
        give_back(launched)
        raise


class Span(msgspec.Struct, frozen=True):
    """When something ran.

    Attributes:
        start_ns: ``time.perf_counter_ns`` at its start.
        end_ns: The same at its end.
        started_at: The time of day at its start, ISO 8601 in UTC.
        finished_at: The same at its end.
    """

    start_ns: int
    end_ns: int
    started_at: str
    finished_at: str

    @property
    def length_s(self) -> float:
        """Its length in seconds."""
        return (self.end_ns - self.start_ns) / 1e9


class MeteringSession:
    """A running recorder with what belongs to it.

    Args:
        specs: The meters; by default those of this machine.
        rate_hz: Samples a second.
        account: Changes of ``[account]`` in ``config.toml``.
        total: The channels that make up the system; by default as ``config.toml`` says.
        packages: Versions of what can change a figure; by default of all such packages of this interpreter.

    Attributes:
        recorder: The recorder.
        idle: The idle machine; None where it was not measured.
        group: What the session's records carry as ``group``.

    Raises:
        ConfigError: A meter, an option or ``config.toml`` cannot be used.
    """

    def __init__(
        self,
        specs: Sequence[MeterSpec] | None = None,
        *,
        rate_hz: float = 10.0,
        account: dict[str, Any] | None = None,
        total: Sequence[str] = (),
        packages: Mapping[str, str] | None = None,
    ) -> None:
        self._packages = packages
        self.account: AccountConfig = sensors.account_here(account)
        self.total = tuple(total) or sensors.total_here()
        self.rate_hz = rate_hz
        self.recorder = recorder_here(rate_hz) if specs is None else Recorder(specs, rate_hz)
        self.idle: Idle | None = None
        self.group = new_id()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the recorder and wait until an interval can begin.

        Raises:
            ConfigError: A meter or one of its options does not exist, or a channel of ``total``.
            MeasurementError: The recorder did not start.
        """
        self.recorder.start()
        try:
            totals_of(self.recorder.channels, self.total)
            self.platform = msgspec.structs.replace(self.recorder.platform, packages=self._versions())
            self.recorder.await_ready()
        except BaseException:
            self.recorder.stop()
            raise

    def _versions(self) -> dict[str, str]:
        if self._packages is not None:
            return dict(self._packages)
        from wattwerk.machine import package_versions

        return package_versions()

    def stop(self) -> None:
        """End the recorder; what it recorded stays."""
        self.recorder.stop(count=False)

    def measure_idle(self, seconds: float) -> None:
        """Watch the machine for a while in which nothing runs; figures are then also net of it.

        Raises:
            MeasurementError: The recorder ended by itself.
        """
        time.sleep(_SETTLE_S)
        start_ns = time.perf_counter_ns()
        time.sleep(seconds)
        end_ns = time.perf_counter_ns()
        trace = self.recorder.trace(since_ns=start_ns - _MARGIN_NS, until_ns=end_ns)
        self.idle = Idle(trace, start_ns, end_ns)

    def trace_of(self, span: Span) -> Trace:
        """Return what was recorded around an interval, waiting for the readings after its end.

        Raises:
            MeasurementError: The recorder ended by itself.
        """
        since_ns = 0 if self._slow else span.start_ns - _MARGIN_NS
        return self.recorder.trace(since_ns=since_ns, until_ns=span.end_ns)

    @property
    def _slow(self) -> bool:
        return bool(self.recorder.slow)

    def figures(self, span: Span, trace: Trace | None = None) -> dict[str, Figure]:
        """Return time, energies, powers, CO2 and cost of an interval; where there is no energy, the reason.

        Args:
            span: The interval.
            trace: What was recorded around it; by default it is fetched.
        """
        found = {"duration_s": Figure(span.length_s, Provenance.MEASURED)}
        try:
            trace = trace or self.trace_of(span)
            found |= interval_figures(trace, span.start_ns, span.end_ns, total=self.total, idle=self.idle)
        except MeasurementError as error:
            found |= self._lost(error.message)
        return found | self._accounted(found)

    def _lost(self, reason: str) -> dict[str, Figure]:
        scopes = [Scope(name) for name in totals_of(self.recorder.channels, self.total) if name != SYSTEM]
        names = {f"{SYSTEM}_energy_j": Scope.NODE} | {f"{PREFIXES[scope]}_energy_j": scope for scope in scopes}
        return {name: unavailable(reason, scope=scope) for name, scope in names.items()}

    def _accounted(self, figures: dict[str, Figure]) -> dict[str, Figure]:
        """Return CO2, cost and equivalents of the system."""
        name = f"{SYSTEM}_energy_j"
        energy = figures.get(name) or unavailable("no meter of the system", scope=Scope.NODE)
        found = self.account.account(energy, name=name)
        del found[name]
        if self.account.pue_factor().value == 1:
            del found[f"{SYSTEM}_facility_energy_j"]
        return found

    def record(
        self,
        kind: str,
        subject: Subject,
        span: Span,
        figures: dict[str, Figure],
        *,
        setup: Setup | None = None,
        status: Status = Status.OK,
        reason: str = "",
    ) -> Record:
        """Return the record of an interval."""
        setup = setup or Setup()
        protocol = {
            "rate_hz": self.rate_hz,
            "idle_s": (self.idle.end_ns - self.idle.start_ns) / 1e9 if self.idle else None,
            **setup.protocol,
        }
        return Record(
            id=new_id(),
            kind=kind,
            group=self.group,
            subject=subject,
            platform=self.platform,
            setup=msgspec.structs.replace(setup, protocol=protocol, faults=self.recorder.faults),
            started_at=span.started_at,
            finished_at=span.finished_at,
            status=status,
            reason=reason,
            figures=figures,
        )
