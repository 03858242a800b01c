"""What a record says of how it was made, for estimates: its configuration, its procedure, its duration."""

from __future__ import annotations

import math
from datetime import datetime

import msgspec

from wattwerk.bench.scenario import Configuration, Procedure
from wattwerk.records import Record


def configuration_of(record: Record) -> Configuration | None:
    """Return the configuration that a record was made of; None for what is no record of a sweep."""
    body = record.setup.protocol.get("configuration")
    if record.kind != "bench" or not isinstance(body, str):
        return None
    try:
        return msgspec.json.decode(body, type=Configuration)
    except msgspec.MsgspecError:
        return None


def procedure_of(record: Record) -> Procedure | None:
    """Return how a record was measured, with the iterations that were made; None where it does not say."""
    names = {field.name for field in msgspec.structs.fields(Procedure)}
    known = {key: value for key, value in record.setup.protocol.items() if key in names}
    made = {"max_time_s": 0.0, "slow_above_s": math.inf}  # what was made is what counts
    try:
        return msgspec.convert(known | made, Procedure)
    except msgspec.ValidationError:
        return None


def duration_s(record: Record) -> float | None:
    """Return how long a record took from its beginning to its end, in seconds."""
    try:
        begin, end = (datetime.fromisoformat(text) for text in (record.started_at, record.finished_at))
    except (ValueError, TypeError):
        return None
    return max(0.0, (end - begin).total_seconds())
