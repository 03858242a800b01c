"""What LoadGen wrote about a run: its verdict, its figures, and the times of every sample.

Verdict and figures are read from ``mlperf_log_detail.txt``, and the verdict once more from ``mlperf_log_summary.txt``.
The times come from ``mlperf_log_trace.json``, which is not quite JSON, so it is read line by line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from wattwerk.errors import MeasurementError

Times = npt.NDArray[np.int64]

SUMMARY: Final = "mlperf_log_summary.txt"
DETAIL: Final = "mlperf_log_detail.txt"
TRACE: Final = "mlperf_log_trace.json"

_MARK: Final = ":::MLLOG "
_VERDICT: Final = re.compile(r"^Result is : (\w+)", re.MULTILINE)
_ESTIMATE: Final = re.compile(r"(\d+(?:\.\d+)?)th percentile estimate: (\d+)")
_SAMPLE: Final = re.compile(
    rb'"name":"Sample".*?"ts":([\d.]+).*?"sample_seq":(\d+),"query_seq":(\d+).*?"issue_start_ns":(-?\d+),"complete_ns":(\d+)'
)


class Log(msgspec.Struct, frozen=True):
    """What LoadGen says of a run.

    Attributes:
        valid: Its verdict.
        reason: Why it is not valid, in its words; empty if it is.
        values: Every entry of the detailed log by its key; of a key that occurs twice, the last.
    """

    valid: bool
    reason: str
    values: dict[str, Any]

    def number(self, key: str) -> float | None:
        """Return an entry that is a number; None where there is none."""
        value = self.values.get(key)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def percentile_s(self, percent: float) -> float | None:
        """Return a percentile of the latencies in seconds; None where LoadGen did not write it."""
        for kind in ("per_query_", ""):  # where queries have several samples, both are there
            value = self.number(f"result_{percent:.2f}_percentile_{kind}latency_ns")
            if value is not None:
                return value / 1e9
        return None

    def query_latency_s(self, which: str) -> float | None:
        """Return the ``min``, ``mean`` or ``max`` latency of a query in seconds; None where LoadGen has none."""
        for kind in ("query_", ""):
            value = self.number(f"result_{which}_{kind}latency_ns")
            if value is not None:
                return value / 1e9
        return None

    def estimate_s(self, percent: float) -> float | None:
        """Return the percentile that early stopping vouches for, in seconds; None where it does not."""
        found = _ESTIMATE.findall(str(self.values.get("early_stopping_result", "")))
        return next((float(value) / 1e9 for level, value in found if float(level) == percent), None)


class SampleTimes(msgspec.Struct, frozen=True):
    """When each sample was due, issued and complete, by LoadGen's clock, in the order in which they were issued.

    Attributes:
        query: int64 (samples,): the query that it belongs to.
        due_ns: int64 (samples,): when it was due, from which its latency counts.
        issued_ns: int64 (samples,): when it was handed over.
        complete_ns: int64 (samples,): when it was complete.
    """

    query: Times
    due_ns: Times
    issued_ns: Times
    complete_ns: Times


def read_log(folder: Path) -> Log:
    """Read verdict and figures of a run.

    Raises:
        MeasurementError: The logs are missing, have no verdict, or contradict each other.
    """
    try:
        summary = (folder / SUMMARY).read_text(encoding="utf-8", errors="replace")
        detail = (folder / DETAIL).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise MeasurementError(f"LoadGen left no log in {folder} ({error.strerror})", "measure again") from error
    values = _entries(detail)
    told = _VERDICT.search(summary)
    verdict = values.get("result_validity")
    if told is None or verdict is None or told.group(1) != verdict:
        raise MeasurementError(
            f"LoadGen's logs in {folder} give no clear verdict ({told and told.group(1)} and {verdict})",
            "look at its errors there",
        )
    valid = verdict == "VALID"
    return Log(valid, "" if valid else _reason(values), values)


def _entries(detail: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in detail.splitlines():
        if line.startswith(_MARK):
            try:
                entry: Any = msgspec.json.decode(line.removeprefix(_MARK))
            except msgspec.DecodeError:  # an entry with a quotation mark in it, such as the history of LoadGen's source
                continue
            found[entry["key"]] = entry["value"]
    return found


def _reason(values: dict[str, Any]) -> str:
    """Return LoadGen's reason; where it gives none, which of its conditions does not hold."""
    conditions = {
        "result_perf_constraints_met": "the latency limit is not kept",
        "result_min_duration_met": "the run was too short",
        "result_min_queries_met": "there were too few queries",
        "early_stopping_met": "too few queries for the percentile",
    }
    broken = [words for key, words in conditions.items() if values.get(key) is False]
    told = " ".join(str(values.get("result_invalid_reason", "")).split())
    return "; ".join([*broken, f"it advises: {told.rstrip('.')}"] if told and broken else broken or [told])


def read_times(folder: Path) -> SampleTimes:
    """Read the times of every sample of a run.

    Raises:
        MeasurementError: There is no trace, or it has no samples.
    """
    rows = []
    try:
        with (folder / TRACE).open("rb") as lines:
            for line in lines:
                if b'"name":"Sample"' in line and (found := _SAMPLE.search(line)):
                    due, sample, query, issued, complete = found.groups()
                    due_ns = round(float(due) * 1e3)  # microseconds with three decimals
                    rows.append((int(sample), int(query), due_ns, due_ns + int(issued), due_ns + int(complete)))
    except OSError as error:
        raise MeasurementError(f"LoadGen left no trace in {folder} ({error.strerror})", "measure again") from error
    if not rows:
        raise MeasurementError(f"LoadGen's trace in {folder} has no samples", "measure again")
    table = np.array(sorted(rows), np.int64)
    return SampleTimes(table[:, 1], table[:, 2], table[:, 3], table[:, 4])
