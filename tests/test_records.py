from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattwerk.errors import StoreError
from wattwerk.records import SCHEMA_VERSION, Figure, Provenance, Record, from_json, measured, to_json, unavailable
from wattwerk.units import UNITS, format_value, unit_of

Make = Callable[..., Record]


def test_json_names_figures_with_units_and_provenance(make_record: Make) -> None:
    """The JSON of a record has each figure under its name, with value, bounds and provenance."""
    plain = json.loads(to_json(make_record(figures={"latency_p50_s": measured(0.5, 0.4, 0.6)})))
    assert plain["figures"]["latency_p50_s"] == {"value": 0.5, "provenance": "measured", "low": 0.4, "high": 0.6}
    assert plain["schema_version"] == SCHEMA_VERSION


def test_an_unavailable_figure_has_a_reason_and_never_a_zero() -> None:
    """Unknown is not zero: an unavailable figure has no value, and a figure without one is unavailable."""
    figure = unavailable("no meter")
    assert figure.value is None
    assert figure.note == "no meter"
    with pytest.raises(ValueError, match="if and only if"):
        Figure(0.0, Provenance.UNAVAILABLE)
    with pytest.raises(ValueError, match="if and only if"):
        Figure(None, Provenance.MEASURED)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"schema_version": 1}', '{"schema_version": "x"}', "\x00"])
def test_what_is_no_record_is_a_clear_error(text: str) -> None:
    """Any other JSON, or no JSON, is refused with an error of ours."""
    with pytest.raises(StoreError):
        from_json(text)


def test_a_record_of_a_newer_schema_is_refused(make_record: Make) -> None:
    """A newer schema says which remedy there is."""
    plain = json.loads(to_json(make_record()))
    plain["schema_version"] = SCHEMA_VERSION + 1
    with pytest.raises(StoreError, match="upgrade wattwerk"):
        from_json(json.dumps(plain))


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("latency_p50_s", 0.00793, "7.93 ms"),
        ("latency_p50_s", 0.9996, "1.00 s"),
        ("gpu_energy_j", 0.0991, "99.1 mJ"),
        ("gpu_power_w", 412.4, "412 W"),
        ("throughput_per_s", 1234.5, "1234 1/s"),
        ("peak_share_ratio", 0.3123, "31.2 %"),
        ("memory_peak_bytes", 2.5e9, "2.50 GB"),
        ("effective_ops_per_s", 5.17e13, "51.7 Top/s"),
        ("efficiency_per_s_per_w", 2.0, "2.00 1/s/W"),
        ("latency_p50_s", None, "–"),
        ("latency_p50_s", 0.0, "0 s"),
    ],
)
def test_values_are_written_for_people(name: str, value: float | None, text: str) -> None:
    """A value gets the SI prefix that its unit takes, and three significant digits."""
    assert format_value(name, value) == text


@given(st.sampled_from(sorted(UNITS)), st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_every_unit_formats_every_number(unit: str, value: float) -> None:
    """No number and no unit makes formatting fail, and the unit is found again from the name."""
    name = f"figure_{unit}"
    assert unit_of(name) == unit
    assert format_value(name, value)
