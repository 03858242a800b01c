from __future__ import annotations

import csv
import io
import math
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattwerk.errors import ConfigError
from wattwerk.meters.account import account, j_from_wh
from wattwerk.meters.account_data import (
    Factor,
    carbon_intensity,
    countries,
    mean_intensity,
    preset,
    preset_names,
    presets,
)

# Rounds, participants, Wh saved, g of CO2 saved, as printed. Source: dena/Fraunhofer HHI, EEKI report, chapter 3.4.
EEKI = {
    (2, 4): ((1, 100, 7.35, 2.64), (1, 10**6, 73505.52, 26383.34), (50, 10**6, 3750951.41, 1346328.99)),
    (3, 5): ((1, 100, 8.52, 3.06), (1, 10**6, 85212.61, 30585.36), (50, 10**6, 4261087.86, 1529432.27)),
    (6, 8): ((1, 100, 40.2, 14.43), (1, 10**6, 401954.13, 144273.4), (50, 10**6, 15479890.91, 5556197.24)),
    (7, 9): ((1, 100, 41.54, 14.91), (1, 10**6, 415397.3, 149098.55), (50, 10**6, 20185567.64, 7245205.79)),
}


@pytest.mark.parametrize(
    ("tables", "row"), [(tables, row) for tables, rows in EEKI.items() for row in rows], ids=lambda part: str(part)
)
def test_savings_of_the_eeki_report_are_reproduced(tables: tuple[int, int], row: tuple[int, int, float, float]) -> None:
    """The report's Wh of tables 2, 3, 6, 7 give its g of CO2 of tables 4, 5, 8, 9: both are printed to 0.01."""
    _, _, saved_wh, saved_g = row
    value = account(j_from_wh(saved_wh), carbon="eeki-report")["co2_g"].value
    assert value == pytest.approx(saved_g, abs=0.005 + 0.005 * 0.35893 + 1e-6), tables  # half of the last digit of both


def test_the_report_rounds_its_intensity_to_360() -> None:
    """The report prints "about 360 g CO2/kWh" between Germany and Spain; its tables' value is within 0.3 % of that."""
    factor = preset("carbon", "eeki-report")
    assert factor.value == pytest.approx(360, rel=0.003)
    assert "EEKI report, chapter 3.4" in factor.source


def test_the_german_mix_of_the_eeki_report() -> None:
    """3.4 Mt over 7.8 TWh (chapter 1), and the extremes that round to the same two numbers."""
    factor = preset("carbon", "eeki-report-germany")
    assert (factor.value, factor.low, factor.high) == pytest.approx(
        (3.4e12 / 7.8e9, 3.35e12 / 7.85e9, 3.45e12 / 7.75e9), rel=2e-4
    )


def _rows(name: str) -> list[dict[str, str]]:
    text = (files("wattwerk.meters") / "data" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def test_every_carbon_intensity_has_a_source_and_is_plausible() -> None:
    """Every row can be found by code and by name, with its value, year and source; coal alone is below 1500 g/kWh."""
    rows = _rows("carbon_intensity.csv")
    assert len(rows) > 200
    assert len({row["country_iso3"] for row in rows}) == len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        by_code, by_name = carbon_intensity(row["country_iso3"]), carbon_intensity(row["name"].upper())
        assert by_code == by_name
        assert by_code.value == float(row["gco2_per_kwh"])
        assert 10 <= by_code.value <= 1500
        assert 2000 <= int(by_code.period) <= 2030
        assert by_code.source.startswith(("Ember", "Our World in Data"))
    assert countries()["DEU"] == "Germany"


@pytest.mark.parametrize(
    ("kind", "unit", "least", "most"),
    [("carbon", "g/kWh", 10, 1500), ("tariff", "EUR/kWh", 0.05, 0.5), ("pue", "PUE", 1, 3)],
)
def test_every_preset_has_a_source_and_is_plausible(kind: str, unit: str, least: float, most: float) -> None:
    """Every preset has unit, period and source, and lies in a plausible range; 0.5 EUR/kWh is the EEKI report's top."""
    assert preset_names(kind)
    for name, rows in presets(kind).items():
        assert len({row.period for row in rows}) == len(rows)
        for row in rows:
            assert preset(kind, name, row.period) == row
            assert row.unit == unit
            assert least <= row.value <= most
            assert row.period[:2] == "20"
            assert row.source not in ("", "given")
            assert row.label


def test_every_row_of_the_presets_is_reached() -> None:
    """No row has a kind that nothing asks for."""
    reached = [row for kind in ("carbon", "tariff", "pue", "equivalence") for row in presets(kind).values()]
    assert sum(map(len, reached)) == len(_rows("account_presets.csv"))
    assert {row.unit for rows in presets("equivalence").values() for row in rows} == {"g/km", "W"}
    assert all(row.source for rows in presets("equivalence").values() for row in rows)


def test_the_latest_period_is_taken() -> None:
    """Without a period a preset is its latest; an older one is there by its name."""
    assert preset("tariff", "nonhousehold-eu").period == "2025-H1"
    assert preset("tariff", "nonhousehold-eu", "2024-H2").value == 0.1941
    with pytest.raises(ConfigError, match="did you mean '2025-H1'"):
        preset("tariff", "nonhousehold-eu", "2025-H2")


@pytest.mark.parametrize(
    ("asked", "code"),
    [("deu", "DEU"), ("germany", "DEU"), ("UK", "GBR"), ("Turkiye", "TUR"), ("Hong Kong", "HKG"), ("The EU", "EU")],
)
def test_countries_by_the_names_that_people_use(asked: str, code: str) -> None:
    """Case, accents, articles, brackets and a few other names do not matter."""
    assert carbon_intensity(asked).label == countries()[code]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("Germny", r"unknown country 'Germny': did you mean 'DEU' \(Germany\)"),
        ("DE", r"did you mean 'DEU' \(Germany\)"),
        ("Virgin Islands", r"'VIR' .* or 'VGB'"),
        ("", "ISO 3166-1"),
        ("0815", "ISO 3166-1"),
    ],
)
def test_an_unknown_country_names_the_nearest(asked: str, message: str) -> None:
    """A misspelt country is refused with those that were probably meant, or with what to give."""
    with pytest.raises(ConfigError, match=message):
        carbon_intensity(asked)


def test_a_year_that_the_table_lacks_is_refused() -> None:
    """Another year's value is never given silently."""
    assert carbon_intensity("DEU", 2024).period == "2024"
    with pytest.raises(ConfigError, match=r"no carbon intensity of DEU for 2019: leave out the year for 2024"):
        carbon_intensity("DEU", 2019)


@given(values=st.lists(st.floats(0, 2000), min_size=1, max_size=5))
def test_a_mean_lies_within_its_bounds(values: list[float]) -> None:
    """The mean of several countries lies between the least and the greatest, which are its bounds."""
    mean = mean_intensity(Factor(value=value, unit="g/kWh") for value in values)
    assert min(values) <= mean.value <= max(values)
    assert mean.value == pytest.approx(sum(values) / len(values))
    if len(values) > 1:
        assert (mean.low, mean.high) == (min(values), max(values))


@pytest.mark.parametrize(
    "fields",
    [
        {"value": 1.0, "unit": "kg/kWh"},
        {"value": 1.0, "unit": "EURO/kWh"},
        {"value": 1.0, "unit": "g/MJ"},
        {"value": 1.0, "unit": "/kWh"},
        {"value": 0.0, "unit": "g/km"},
        {"value": 1.0, "unit": "g/kWh", "low": 2.0},
        {"value": 1.0, "unit": "g/kWh", "low": -0.5},
        {"value": 1.2, "unit": "PUE", "low": 0.9},
        {"value": 1.0, "unit": "g/kWh", "high": math.nan},
    ],
)
def test_factors_that_cannot_be_are_refused(fields: dict[str, object]) -> None:
    """A unit without a formula, a value or a bound out of range, and bounds out of order are no factor."""
    with pytest.raises(ConfigError):
        Factor(**fields)  # type: ignore[arg-type]
