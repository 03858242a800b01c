"""What a sweep will do on this machine, told before it starts: how many configurations, how long, what is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from wattwerk.bench.estimate import Estimator, Expected
from wattwerk.bench.estimate_guess import accelerator_here
from wattwerk.bench.scenario import Configuration, LeftOut, Sweep
from wattwerk.bench.schedule import Schedule
from wattwerk.records import Record
from wattwerk.units import rough_time

_IDLE_AROUND_S = 2.0


class Row(msgspec.Struct, frozen=True):
    """One configuration.

    Attributes:
        configuration: Which.
        expected: How long it is expected to take.
        reason: Why it will not run, as far as is known now; empty where it will.
    """

    configuration: Configuration
    expected: Expected
    reason: str


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep will do.

    Attributes:
        rows: Its configurations, what comes early in a study first.
        left_out: What this machine cannot run.
        excluded_count: How many configurations the study's own rules exclude.
        excluded: Which ones, and why; a plan from before that was kept has the number only.
        total_s: How long what runs is expected to take, in seconds.
        low_s: If all of it goes as fast as may be, in seconds.
        high_s: If all of it goes as slowly as may be, within the budget, in seconds.
        budget_s: How long it may take; 0 sets no limit.
        study: The study's name; empty where there is none.
        done_count: How many configurations have been measured already.
        spent_s: How long these took, in seconds.
    """

    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]
    excluded_count: int
    excluded: tuple[LeftOut, ...] = ()
    total_s: float
    low_s: float
    high_s: float
    budget_s: float
    study: str
    done_count: int = 0
    spent_s: float = 0.0

    @property
    def running(self) -> list[Row]:
        """What runs."""
        return [row for row in self.rows if not row.reason]

    def sentence(self) -> str:
        """Return all of it in a sentence."""
        count = len(self.running)
        head = f"study {self.study}: " if self.study else ""
        if self.done_count:
            head += f"{self.done_count} of {self.done_count + len(self.rows)} configurations are done"
            head += f" (in {rough_time(self.spent_s)}); " if self.spent_s else "; "
        text = f"{head}{count} configuration{'' if count == 1 else 's'}"
        text += " to go" if self.done_count else ""
        text += f", about {rough_time(self.total_s)} ({rough_time(self.low_s)} to {rough_time(self.high_s)})"
        text += f" of {rough_time(self.budget_s)} at most" if self.budget_s else ""
        lacking = sum(each.count for each in self.left_out)
        more = [
            f"{len(self.rows) - count} would take too long" if len(self.rows) > count else "",
            f"{lacking} cannot run on this machine" if lacking else "",
            f"{self.excluded_count} {'is' if self.excluded_count == 1 else 'are'} excluded by its rules"
            if self.excluded_count
            else "",
        ]
        told = ", ".join(each for each in more if each)
        return f"{text}; of the others {told}" if told else text

    def reasons(self) -> list[str]:
        """Return a line for each reason for which something does not run."""
        lines: dict[str, int] = {}
        for each in self.left_out:
            lines[each.reason] = lines.get(each.reason, 0) + each.count
        return [
            *(f"{row.configuration.label()}: {row.reason}" for row in self.rows if row.reason),
            *(f"{reason} ({count}×)" for reason, count in lines.items()),
            *(f"{_shown(each)}: {each.told()}" for each in self.excluded),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "study": self.study,
            "configurations_count": len(self.running),
            "done_count": self.done_count,
            "spent_s": self.spent_s,
            "total_s": self.total_s,
            "low_s": self.low_s,
            "high_s": self.high_s,
            "budget_s": self.budget_s,
            "excluded_count": self.excluded_count,
            "configurations": [
                {"label": row.configuration.label(), "reason": row.reason, **msgspec.structs.asdict(row.expected)}
                for row in self.rows
            ],
            "left_out": [
                {"label": each.configuration.label(), "count": each.count, "reason": each.reason}
                for each in self.left_out
            ],
            "excluded": [
                {
                    "label": each.configuration.label(),
                    "count": each.count,
                    "rule": each.rule,
                    "reason": each.reason,
                }
                for each in self.excluded
            ],
        }


def _shown(several: LeftOut) -> str:
    more = f" and {several.count - 1} more" if several.count > 1 else ""
    return f"{several.configuration.label()}{more}"


def _place(sweep: Sweep, its: Configuration) -> tuple[int, str, str, str, str, int]:
    rank = sweep.course.ranks[sweep.configurations.index(its)] if sweep.course else 0
    return rank, its.model, its.runtime, its.precision, its.processing, its.batch


def forecast(
    sweep: Sweep, open_ones: Sequence[Configuration], done: Sequence[Record], known: Sequence[Record]
) -> Forecast:
    """Tell what a sweep will do.

    Args:
        sweep: The sweep.
        open_ones: Its configurations that have no record yet.
        done: Its records.
        known: All records, to estimate from.
    """
    estimator = Estimator(accelerator_here(), known)
    schedule = Schedule(sweep, open_ones, done, estimator)
    course = sweep.course
    around_s = sweep.procedure.idle_s + _IDLE_AROUND_S
    rows = [
        Row(each, estimator.expect(each, sweep.procedure_of(each)), reason) for each, reason in schedule.prospects()
    ]
    rows.sort(key=lambda row: _place(sweep, row.configuration))
    total_s = schedule.left_s() + around_s
    running = [row.expected for row in rows if not row.reason]
    spent_s = schedule.spent_s
    room_s = max(total_s, course.budget_s - spent_s) if course and course.budget_s else math.inf
    return Forecast(
        rows=tuple(rows),
        left_out=course.left_out if course else (),
        excluded_count=course.excluded_count if course else 0,
        excluded=course.excluded if course else (),
        total_s=total_s,
        low_s=around_s + sum(each.low_s for each in running),
        high_s=min(room_s, around_s + sum(each.high_s for each in running)),
        budget_s=course.budget_s if course else 0.0,
        study=course.study if course else "",
        done_count=len(sweep.configurations) - len(open_ones),
        spent_s=spent_s,
    )
