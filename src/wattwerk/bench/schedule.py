"""What runs next, and what is given up when time runs out."""

from __future__ import annotations

import time
from collections.abc import Sequence

from wattwerk.bench.estimate import Estimator, Expected
from wattwerk.bench.estimate_records import duration_s
from wattwerk.bench.scenario import Configuration, Sweep
from wattwerk.records import Record
from wattwerk.units import format_value, rough_time


class Schedule:
    """The open configurations of a sweep, in the order in which they run.

    The order is that of the sweep, which is random. A study may limit the time of each configuration and of the whole:
    before each step, what is expected to fit is chosen by rank, and the first of that in the order runs. As estimates
    get better, what did not fit may fit, and the reverse; what never fits is skipped in the end.

    Args:
        sweep: What is measured.
        open_ones: Its configurations that have no record yet.
        records: Its records, of an earlier start.
        estimator: Estimates; learns from each record.

    Attributes:
        spent_s: How long the records of an earlier start took, in seconds.
    """

    def __init__(
        self, sweep: Sweep, open_ones: Sequence[Configuration], records: Sequence[Record], estimator: Estimator
    ) -> None:
        self._sweep, self._open, self._estimator = sweep, list(open_ones), estimator
        self.spent_s = _spent_s(records)
        self._start_s = time.monotonic()

    def next(self) -> Configuration | None:
        """Return what runs now; None if nothing that is open fits."""
        fitting = self._fitting()
        found = next((each for each in self._open if each in fitting), None)
        if found is not None:
            self._open.remove(found)
        return found

    def learn(self, record: Record) -> None:
        """Learn from a record that is done."""
        self._estimator.learn(record)

    def left_s(self, running: Configuration | None = None) -> float:
        """Return how long what is open, and fits, is expected to take in seconds.

        Args:
            running: Counts too.
        """
        now = [self._expect(running)] if running else []
        return sum(each.total_s for each in [*now, *(self._expect(one) for one in self._fitting(now))])

    def skipped(self) -> list[tuple[Configuration, str]]:
        """Return what is open, with the reason for which it does not run."""
        return [(each, self._reason(each)) for each in self._open]

    def prospects(self) -> list[tuple[Configuration, str]]:
        """Return what is open, with the reason for which it will not run as things look now; empty where it will."""
        fitting = self._fitting()
        return [(each, "" if each in fitting else self._reason(each)) for each in self._open]

    def _fitting(self, running: Sequence[Expected] = ()) -> list[Configuration]:
        course = self._sweep.course
        expected = [(each, self._expect(each)) for each in self._open]
        within = [(one, its) for one, its in expected if not self._too_long(one, its)]
        if course is None or not course.budget_s:
            return [one for one, _ in within]
        room_s = course.budget_s - self._gone_s() - sum(each.total_s for each in running)
        found = []
        for one, its in sorted(within, key=lambda pair: (self._rank(pair[0]), pair[1].total_s)):
            if its.total_s <= room_s:
                found.append(one)
                room_s -= its.total_s
        return found

    def _rank(self, configuration: Configuration) -> int:
        assert self._sweep.course is not None
        return self._sweep.course.ranks[self._sweep.configurations.index(configuration)]

    def _expect(self, configuration: Configuration) -> Expected:
        return self._estimator.expect(configuration, self._sweep.procedure_of(configuration))

    def _too_long(self, configuration: Configuration, expected: Expected) -> bool:
        """Tell whether not even the fewest iterations would keep the limit of one configuration."""
        limit_s = self._sweep.procedure_of(configuration).max_time_s
        return bool(limit_s) and expected.least_s > limit_s

    def _gone_s(self) -> float:
        return self.spent_s + time.monotonic() - self._start_s

    def _reason(self, configuration: Configuration) -> str:
        expected = self._expect(configuration)
        procedure, course = self._sweep.procedure_of(configuration), self._sweep.course
        basis = "operations alone" if expected.basis == "operations" else f"records of {expected.basis}"
        if self._too_long(configuration, expected):
            iteration = format_value("iteration_s", expected.iteration_s)
            return (
                f"an iteration is expected to take {iteration} (from {basis}), so that measuring takes longer than "
                f"max_time_s = {procedure.max_time_s:g}"
            )
        budget_s = course.budget_s if course else 0.0
        return f"budget_s = {budget_s:g} is used up; it would take about {rough_time(expected.total_s)}"


def _spent_s(records: Sequence[Record]) -> float:
    """Return how long records took; those of models that ran at the same time took it together."""
    lengths = {str(record.setup.protocol.get("together") or record.id): duration_s(record) or 0.0 for record in records}
    return sum(lengths.values())
