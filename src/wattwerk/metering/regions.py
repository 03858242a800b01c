"""Regions of a program: where its energy goes, by name, also in threads and asyncio tasks.

    with measure("training") as training:
        for batch in data:
            with measure("step"):
                step(batch)
    print(training)

All regions of a process share one recorder. The outermost region starts it, which takes about half a second, and ends
it; ``with session():`` keeps it in between. Leaving a region only notes the time: figures are made when they are asked
for, or when the recorder ends.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, ParamSpec, TypeVar, cast

from wattwerk.errors import ConfigError, StoreError, WattwerkError
from wattwerk.metering.recording import MeteringSession, Span
from wattwerk.meters.protocol import MeterSpec
from wattwerk.meters.trace import Trace
from wattwerk.records import Figure, Provenance, Record, Setup, Status, Subject, now
from wattwerk.units import format_value

P = ParamSpec("P")
R = TypeVar("R")

#: The regions that the code running now is in, the outermost first; threads and tasks each have their own.
_open: Final[contextvars.ContextVar[tuple[Region, ...]]] = contextvars.ContextVar("wattwerk_regions", default=())


class Region:
    """One run through a region; its figures are made when they are asked for.

    Attributes:
        name: As it was given.
        path: The names of the regions around it and its own, such as ``training/step``.
        span: When it ran; None while it runs.
    """

    def __init__(self, name: str, path: str, session: MeteringSession, keep: bool) -> None:
        self.name, self.path = name, path
        self.span: Span | None = None
        self.error = ""
        self._session, self._keep = session, keep
        self._figures: dict[str, Figure] | None = None
        self._record: Record | None = None
        self._guard = threading.RLock()
        self._cpu_s = _cpu_s()
        self._started_at, self._start_ns = now(), time.perf_counter_ns()

    def _end(self, error: type[BaseException] | None) -> None:
        end_ns = time.perf_counter_ns()
        self._cpu_s = _cpu_s() - self._cpu_s
        self.error = error.__name__ if error else ""
        self.span = Span(self._start_ns, end_ns, self._started_at, now())

    @property
    def figures(self) -> dict[str, Figure]:
        """Time, energies, powers, processor time, CO2 and cost, by name; docs/records.md tells the names.

        Raises:
            ConfigError: The region has not ended yet.
        """
        return self._evaluated()

    def value(self, name: str) -> float | None:
        """Return the value of a figure; None where it is unavailable or not there."""
        figure = self.figures.get(name)
        return figure.value if figure else None

    @property
    def record(self) -> Record:
        """The record; raises ConfigError while the region runs."""
        self._evaluated()
        assert self._record is not None
        return self._record

    def _evaluated(self, trace: Trace | None = None) -> dict[str, Figure]:
        with self._guard:
            if self._figures is None:
                if self.span is None:
                    raise ConfigError(f"region {self.path!r} has not ended yet", "ask after its end")
                found = self._session.figures(self.span, trace)
                self._figures = found | {"cpu_time_s": Figure(self._cpu_s, Provenance.MEASURED, note=_CPU_NOTE)}
                self._record = self._session.record(
                    "region",
                    Subject(self.path),
                    self.span,
                    self._figures,
                    setup=Setup(options={"program": _program()}),
                    status=Status.FAILED if self.error else Status.OK,
                    reason=f"left by {self.error}" if self.error else "",
                )
            return self._figures

    def __str__(self) -> str:
        """One line: time, and energy of the system with its bounds."""
        if self.span is None:
            return f"{self.path}: running"
        told = [format_value("duration_s", self.span.length_s)]
        name, energy = "system_energy_j", self.figures.get("system_energy_j")
        if energy is not None and energy.value is not None:
            mark = "~" if energy.provenance is Provenance.MODELLED else ""
            bounds = f"{format_value(name, energy.low)} to {format_value(name, energy.high)}"
            told.append(f"{mark}{format_value(name, energy.value)} ({bounds})")
        elif energy is not None:
            told.append(f"no energy: {energy.note}")
        return f"{self.path}: {', '.join(told)}"


_CPU_NOTE: Final = "of the whole process and of its children that have ended, whatever their threads"


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _program() -> str:
    import sys

    return os.path.basename(sys.argv[0]) if sys.argv else ""


class _Shared:
    """The session that all regions of this process use, and how many of them do."""

    def __init__(self) -> None:
        self.guard = threading.RLock()
        self.session: MeteringSession | None = None
        self.users = 0
        self.ended: list[Region] = []

    def acquire(self, make: Callable[[], MeteringSession]) -> MeteringSession:
        """Return the session, started where there is none."""
        with self.guard:
            if self.session is None:
                session = make()
                session.start()
                self.session = session
            self.users += 1
            return self.session

    def release(self) -> None:
        """Let the session go; the last one ends it."""
        with self.guard:
            self.users -= 1
            if self.users or self.session is None:
                return
            session, ended = self.session, self.ended
            self.session, self.ended = None, []
            try:
                _finish(session, ended)
            finally:
                session.stop()

    def note(self, region: Region) -> None:
        """Keep a region until the session ends."""
        with self.guard:
            self.ended.append(region)


_shared = _Shared()


def _forget() -> None:
    """Leave the parent's session to the parent, in a process that was forked from it."""
    global _shared
    _shared = _Shared()
    _open.set(())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _finish(session: MeteringSession, ended: Sequence[Region]) -> None:
    """Make all figures while the recorder still runs, and store what is to be kept."""
    spans = [region.span for region in ended if region.span]
    if not spans:
        return
    trace: Trace | None = None
    try:
        last = max(spans, key=lambda span: span.end_ns)
        trace = session.recorder.trace(until_ns=last.end_ns)
    except WattwerkError as error:  # each region then says so itself
        warnings.warn(f"wattwerk: {error}", RuntimeWarning, stacklevel=2)
    for region in ended:
        region._evaluated(trace)
    kept = [region.record for region in ended if region._keep]
    if kept:
        _store(kept)


def _store(records: Sequence[Record]) -> None:
    from wattwerk.store import Store

    try:
        with Store() as store:
            for record in records:
                store.add(record)
    except StoreError as error:  # hours of training do not fail because the disk is full
        warnings.warn(f"wattwerk: regions were not stored: {error}", RuntimeWarning, stacklevel=2)


class Measure:
    """A region as a context and as a decorator; ``measure`` makes it."""

    def __init__(self, name: str, keep: bool) -> None:
        self._name, self._keep = name, keep

    def __enter__(self) -> Region:
        return self._begin(self._name or "region")

    def _begin(self, name: str) -> Region:
        session = _shared.acquire(MeteringSession)
        around = _open.get()
        path = f"{around[-1].path}/{name}" if around else name
        region = Region(name, path, session, self._keep)
        _open.set((*around, region))
        return region

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        *around, region = _open.get()
        _open.set(tuple(around))
        region._end(kind)
        _shared.note(region)
        _shared.release()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Measure each call of a function or coroutine function; it gives the region its name where there is none."""
        named = Measure(self._name or function.__qualname__, self._keep)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
                with named:
                    return await function(*args, **kwargs)

            return cast(Callable[P, R], awaited)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with named:
                return function(*args, **kwargs)

        return called


def measure(name: str = "", *, keep: bool = True) -> Measure:
    """Return a region to be measured, as a context or as a decorator.

    Args:
        name: What it is called; a function that is decorated gives its own where this is empty.
        keep: Whether a record of kind ``region`` is stored; off for what runs thousands of times.

    Raises:
        ConfigError: On entering: ``config.toml`` cannot be used.
        MeasurementError: On entering: the recorder did not start.
    """
    return Measure(name, keep)


@contextmanager
def session(
    *,
    idle_s: float = 0.0,
    rate_hz: float = 10.0,
    specs: Sequence[MeterSpec] | None = None,
    account: dict[str, Any] | None = None,
) -> Iterator[MeteringSession]:
    """Keep one recorder for all regions inside, and measure the idle machine first, so that figures are net of it too.

    Args:
        idle_s: How long the idle machine is watched; 0 leaves that out.
        rate_hz: Samples a second.
        specs: The meters; by default those of this machine.
        account: Changes of ``[account]`` in ``config.toml``, such as ``{"country": "DEU"}``.

    Raises:
        ConfigError: ``config.toml`` or a meter cannot be used, or a session runs already.
        MeasurementError: The recorder did not start.
    """
    if _shared.session is not None:
        raise ConfigError("a metering session runs already", "open one session, around all regions")
    made = functools.partial(MeteringSession, specs, rate_hz=rate_hz, account=account)
    found = _shared.acquire(made)
    try:
        if idle_s > 0:
            found.measure_idle(idle_s)
        yield found
    finally:
        _shared.release()
