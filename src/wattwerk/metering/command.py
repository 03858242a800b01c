"""Measure any command: run it under the recorder, as ``time`` does, and keep a record of it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec

from wattwerk import __version__
from wattwerk.errors import ConfigError, StoreError
from wattwerk.metering import child
from wattwerk.metering.masking import masked
from wattwerk.metering.recording import MeteringSession, Span
from wattwerk.metering.repeats import mean_figures
from wattwerk.meters.protocol import MeterSpec
from wattwerk.meters.recorder import Recorder
from wattwerk.records import Figure, Provenance, Record, Setup, Status, Subject, now, unavailable


class CommandOutcome(msgspec.Struct, frozen=True):
    """What measuring a command gave.

    Attributes:
        exit_code: That of the last run.
        records: One for each run, in their order.
        mean: The mean of all runs with its 95 % confidence interval; empty for a single run.
        faults: What went wrong with meters, sinks and the store, in words.
        interrupted: Whether Ctrl-C ended it before the last run.
    """

    exit_code: int
    records: list[Record]
    mean: dict[str, Figure]
    faults: list[str]
    interrupted: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return msgspec.structs.asdict(self)


Beside = Callable[[Recorder], AbstractContextManager[Callable[[], Sequence[str]]]]


def run_command(
    argv: Sequence[str],
    *,
    name: str = "",
    repeat: int = 1,
    pause_s: float = 0.0,
    idle_s: float = 0.0,
    ignore_failure: bool = False,
    rate_hz: float = 10.0,
    specs: Sequence[MeterSpec] | None = None,
    account: dict[str, Any] | None = None,
    keep: bool = True,
    beside: Beside | None = None,
) -> CommandOutcome:
    """Run a command and measure it; its streams and signals are its own.

    Args:
        argv: The command and its arguments.
        name: What the record is called; by default the command line, without what looks like a secret.
        repeat: How often it is run.
        pause_s: How long to wait between two runs.
        idle_s: How long the idle machine is watched before; 0 leaves out what is net.
        ignore_failure: Whether runs go on after one that ended with another exit code than 0.
        rate_hz: Samples a second.
        specs: The meters; by default those of this machine.
        account: Changes of ``[account]`` in ``config.toml``.
        keep: Whether records of kind ``command`` are stored.
        beside: Goes on while it runs, such as streaming; gives a function that returns what is wrong with it.

    Raises:
        ConfigError: An option, ``config.toml`` or a meter cannot be used.
        CommandError: The command cannot be started.
        MeasurementError: The recorder did not start.
    """
    _check_options(repeat, pause_s, idle_s)
    child.check(argv)
    runner = _Runner(argv, name, pause_s, ignore_failure)
    # what a command imports is its own affair
    own = {"wattwerk": __version__}
    with MeteringSession(specs, rate_hz=rate_hz, account=account, packages=own) as session:
        with beside(session.recorder) if beside else nullcontext(list) as more_faults:
            try:
                if idle_s > 0:
                    session.measure_idle(idle_s)
                runner.run_all(session, repeat)
            except KeyboardInterrupt:  # between two runs: during one it is the command's
                runner.interrupted = True
        faults = [*session.recorder.faults, *more_faults()]
    if keep:
        faults += _stored(runner.records)
    return CommandOutcome(runner.exit_code, runner.records, mean_figures(runner.records), faults, runner.interrupted)


def _check_options(repeat: int, pause_s: float, idle_s: float) -> None:
    if repeat < 1:
        raise ConfigError(f"--repeat {repeat}", "use 1 or more")
    for option, value in (("--pause", pause_s), ("--idle", idle_s)):
        if not 0 <= value < float("inf"):
            raise ConfigError(f"{option} {value:g}", "use seconds, 0 or more")


class _Runner:
    """Runs a command again and again, and makes a record of each run."""

    def __init__(self, argv: Sequence[str], name: str, pause_s: float, ignore_failure: bool) -> None:
        self._argv = list(argv)
        self._shown = masked(argv)
        self._name = name or shlex.join(self._shown)
        self._pause_s, self._ignore_failure = pause_s, ignore_failure
        self.records: list[Record] = []
        self.exit_code = 0
        self.interrupted = False

    def run_all(self, session: MeteringSession, repeat: int) -> None:
        for index in range(repeat):
            if index:
                time.sleep(self._pause_s)
            self.records.append(self._run(session, index, repeat))
            if self.exit_code and not self._ignore_failure:
                return

    def _run(self, session: MeteringSession, index: int, repeat: int) -> Record:
        started_at = now()
        session.recorder.nudge()
        ended = child.run(self._argv)
        self.exit_code = ended.exit_code
        span = Span(ended.start_ns, ended.end_ns, started_at, now())
        setup = Setup(
            options={"command": self._shown},
            effective={"exit_code": ended.exit_code, "signal": ended.signal or None},
            protocol={"run": index + 1, "runs": repeat, "pause_s": self._pause_s},
        )
        return session.record(
            "command",
            Subject(self._name),
            span,
            session.figures(span) | _counted(ended),
            setup=setup,
            status=Status.FAILED if ended.exit_code else Status.OK,
            reason=_reason(ended),
        )


def _reason(ended: child.Ended) -> str:
    if ended.signal:
        return f"ended by {ended.signal}"
    return f"exit code {ended.exit_code}" if ended.exit_code else ""


def _counted(ended: child.Ended) -> dict[str, Figure]:
    """Return processor time and memory of the command and its children."""
    note = "of the command and its children that have ended"
    if ended.user_s is None or ended.system_s is None:
        reason = unavailable("this system does not count it")
        return {"cpu_time_s": reason, "memory_peak_bytes": reason}
    if ended.memory_peak_bytes is None:
        bound = (ended.memory_bound_bytes or 0) / 1e6
        memory = unavailable(f"below {bound:.0f} MB, which wattwerk took itself: the system does not tell them apart")
    else:
        memory = Figure(float(ended.memory_peak_bytes), Provenance.MEASURED, note="of its largest process")
    return {
        "cpu_time_s": Figure(ended.user_s + ended.system_s, Provenance.MEASURED, note=note),
        "cpu_user_s": Figure(ended.user_s, Provenance.MEASURED, note=note),
        "cpu_system_s": Figure(ended.system_s, Provenance.MEASURED, note=note),
        "memory_peak_bytes": memory,
    }


def _stored(records: Sequence[Record]) -> list[str]:
    """Store records; return in words why they could not be, since the command's exit code passes whatever happens."""
    from wattwerk.store import Store

    try:
        with Store() as store:
            for record in records:
                store.add(record)
    except StoreError as error:
        return [f"not stored: {error}"]
    return []
