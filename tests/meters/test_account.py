from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattwerk import units
from wattwerk.config import to_struct
from wattwerk.errors import ConfigError
from wattwerk.meters import account as formulas
from wattwerk.meters.account import AccountConfig, account, configured
from wattwerk.meters.account_data import (
    Factor,
    carbon_intensity,
    mean_intensity,
)
from wattwerk.records import (
    Figure,
    Platform,
    Provenance,
    Record,
    Scope,
    Setup,
    Subject,
    from_json,
    measured,
    now,
    to_json,
    unavailable,
)
from wattwerk.units import wh_from_j

ENERGIES = st.floats(-1e15, 1e15)
PUES = st.floats(1, 5)
EVERYTHING = {
    "carbon": Factor(value=400.0, unit="g/kWh", low=300.0, high=450.0),
    "tariff": "household-de",
    "pue": 1.5,
    "equivalences": ("car-new-eu", "lamp-10w"),
}
RESULTS = ("facility_energy_j", "co2_g", "cost_eur", "car_distance_m", "lamp_time_s")


def _energy(value: float, below: float, above: float) -> Figure:
    return measured(value, value - below, value + above, scope=Scope.NODE)


def _value(figure: Figure) -> float:
    assert figure.value is not None
    return figure.value


@given(energy_j=ENERGIES, scale=st.floats(0.001, 1000))
def test_results_are_proportional_to_energy(energy_j: float, scale: float) -> None:
    """So many times the energy is so many times every result."""
    one, many = account(energy_j, **EVERYTHING), account(scale * energy_j, **EVERYTHING)
    for name in RESULTS:
        assert _value(many[name]) == pytest.approx(scale * _value(one[name]), rel=1e-9, abs=1e-300), name


@given(parts=st.lists(ENERGIES, min_size=1, max_size=8))
def test_intervals_add_up(parts: list[float]) -> None:
    """The results of the parts of an interval add up to the results of the whole."""
    whole, largest = account(math.fsum(parts), **EVERYTHING), account(sum(map(abs, parts)), **EVERYTHING)
    each = [account(part, **EVERYTHING) for part in parts]
    for name in RESULTS:
        together = math.fsum(_value(one[name]) for one in each)
        allowed = 1e-9 * abs(_value(largest[name]))
        assert together == pytest.approx(_value(whole[name]), abs=allowed + 1e-300), name


@given(energy_j=ENERGIES, below=st.floats(0, 1e15), above=st.floats(0, 1e15))
def test_bounds_stay_in_order(energy_j: float, below: float, above: float) -> None:
    """Whatever the energy's sign, every result has its bounds on its two sides."""
    for name, figure in account(_energy(energy_j, below, above), **EVERYTHING).items():
        assert figure.low is not None, name
        assert figure.high is not None, name
        assert figure.low <= _value(figure) <= figure.high, name


@given(energy_j=ENERGIES, below=st.floats(0, 1e15), above=st.floats(0, 1e15), at=st.floats(0, 1), by=st.floats(0, 1))
def test_bounds_hold_every_truth_within_the_inputs(
    energy_j: float, below: float, above: float, at: float, by: float
) -> None:
    """For any energy and any intensity within their bounds, CO2 and distance lie within theirs."""
    energy = _energy(energy_j, below, above)
    assert energy.low is not None
    assert energy.high is not None
    true_j = min(max(energy.low + at * (energy.high - energy.low), energy.low), energy.high)
    results, truth = account(energy, **EVERYTHING), account(true_j, **{**EVERYTHING, "carbon": 300.0 + by * 150.0})
    for name in ("co2_g", "car_distance_m"):
        low, high = results[name].low, results[name].high
        assert low is not None
        assert high is not None
        slack = 1e-12 * max(abs(low), abs(high))
        assert low - slack <= _value(truth[name]) <= high + slack, name


@given(energy_j=st.floats(0, 1e15), pues=st.tuples(PUES, PUES))
def test_more_overhead_never_costs_less(energy_j: float, pues: tuple[float, float]) -> None:
    """A greater PUE never lowers a result, none is below that without overhead, and the machine's energy stays."""
    results = [account(energy_j, **{**EVERYTHING, "pue": pue}) for pue in (1.0, min(pues), max(pues))]
    for name in RESULTS:
        first, second, third = (_value(result[name]) for result in results)
        assert first <= second <= third, name
    assert {_value(result["energy_j"]) for result in results} == {energy_j}


def test_no_energy_gives_nothing() -> None:
    """Zero energy gives zero everywhere, bounds included."""
    results = account(measured(0.0, 0.0, 0.0), **EVERYTHING)
    assert set(results) == {"energy_j", *RESULTS}
    assert all((figure.value, figure.low, figure.high) == (0, 0, 0) for figure in results.values())


@given(energy_j=ENERGIES)
def test_conversions_invert(energy_j: float) -> None:
    """Into Wh or kWh and back gives the same energy, and a kWh is a thousand Wh."""
    assert formulas.j_from_kwh(formulas.kwh_from_j(energy_j)) == pytest.approx(energy_j)
    assert formulas.j_from_wh(wh_from_j(energy_j)) == pytest.approx(energy_j)
    assert 1000 * formulas.kwh_from_j(energy_j) == pytest.approx(wh_from_j(energy_j))


def test_a_kilowatt_hour_by_hand() -> None:
    """1 kWh at PUE 1.5, 400 g/kWh, 0.3 EUR/kWh: 5.4 MJ, 600 g, 0.45 EUR, 6 km at 100 g/km, 150 h of a 10 W lamp."""
    car = Factor(value=100.0, unit="g/km")
    results = account(3.6e6, carbon=400.0, tariff=0.3, pue=1.5, equivalences=(car, "lamp-10w"))
    assert {name: _value(figure) for name, figure in results.items()} == pytest.approx(
        {
            "energy_j": 3.6e6,
            "facility_energy_j": 5.4e6,
            "co2_g": 600,
            "cost_eur": 0.45,
            "car_distance_m": 6000,
            "lamp_time_s": 150 * 3600,
        }
    )


def test_every_result_is_modelled_and_keeps_the_scope() -> None:
    """A measured energy stays measured; every other result is modelled, with the energy's scope and its note."""
    results = account(measured(10.0, scope=Scope.ACCELERATOR, note="one card of two"), **EVERYTHING)
    assert results["energy_j"].provenance is Provenance.MEASURED
    for name in RESULTS:
        assert results[name].provenance is Provenance.MODELLED
        assert (results[name].note or "").startswith("energy measured (one card of two); PUE 1.5 (given)")
    scopes = {name: results[name].scope for name in RESULTS}
    assert scopes.pop("car_distance_m") is scopes.pop("lamp_time_s") is None
    assert set(scopes.values()) == {Scope.ACCELERATOR}


def test_vintage_and_source_travel_with_the_result() -> None:
    """The note of a result names value, place, year and source of every factor in it."""
    note = account(1.0, carbon="DEU", tariff="household-de", pue="world-average")["co2_g"].note or ""
    for part in ("342.06 g/kWh (Germany, 2024; Ember", "PUE 1.58 (mean of a survey of data centres, 2023; Uptime"):
        assert part in note
    assert "EUR" not in note


def test_missing_energy_stays_missing() -> None:
    """Without an energy no result has a value, and each says why; a float that is no number likewise."""
    for energy in (unavailable("no meter", scope=Scope.WALL), measured(math.nan), math.nan, math.inf):
        results = account(energy, **EVERYTHING)
        for name in RESULTS:
            assert results[name].value is None, name
            assert "no meter" in (results[name].note or "") or "no number" in (results[name].note or ""), name


def test_only_what_was_asked_for() -> None:
    """Without an intensity and a tariff there is no CO2 and no cost; a distance by car says what it lacks."""
    results = account(1.0, equivalences=("car-new-eu",))
    assert set(results) == {"energy_j", "facility_energy_j", "car_distance_m"}
    assert results["car_distance_m"].value is None
    assert "carbon intensity" in (results["car_distance_m"].note or "")


def test_bounds_are_only_where_an_input_has_some() -> None:
    """Exact energy with exact factors has no bounds; a bounded factor alone gives some; one-sided stays one-sided."""
    assert account(1.0, carbon=300.0)["co2_g"].low is None
    mean = mean_intensity([carbon_intensity("DEU"), carbon_intensity("ESP")])
    figure = account(3.6e6, carbon=mean)["co2_g"]
    assert (figure.low, figure.high) == pytest.approx((146.15, 342.06))
    one_sided = account(measured(3.6e6, low=1.8e6), carbon=300.0)["co2_g"]
    assert (one_sided.low, one_sided.high) == (pytest.approx(150.0), None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("energy_j", {"facility_energy_j", "co2_g", "cost_usd"}),
        (
            "gpu_net_energy_per_inference_j",
            {
                "gpu_net_facility_energy_per_inference_j",
                "gpu_net_co2_per_inference_g",
                "gpu_net_cost_per_inference_usd",
            },
        ),
    ],
)
def test_results_are_named_after_the_energy(name: str, expected: set[str]) -> None:
    """The word energy and the unit are replaced; everything else of the name stays."""
    results = account(1.0, carbon=300.0, tariff=Factor(value=0.2, unit="USD/kWh"), name=name)
    assert set(results) == {name} | expected


@pytest.mark.parametrize("name", ["power_w", "energy_s", "synergy_j", "work_j", ""])
def test_a_name_of_something_else_is_refused(name: str) -> None:
    """Power, time, and words that only look like energy cannot be accounted for."""
    with pytest.raises(ConfigError, match="no name of an energy"):
        account(1.0, name=name)


def test_results_stand_in_a_record() -> None:
    """A record takes all results and gives them back."""
    record = Record(
        id="0" * 12,
        kind="bench",
        group="1" * 12,
        subject=Subject("x"),
        platform=Platform("x"),
        setup=Setup(),
        started_at=now(),
        finished_at=now(),
        figures=account(_energy(7200.0, 100.0, 100.0), **EVERYTHING),
    )
    assert from_json(to_json(record)) == record
    assert units.format_value("co2_g", record.value("co2_g")) == "1.20 g"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pue": 0.99}, "give 1 or more"),
        ({"pue": math.nan}, "not possible"),
        ({"carbon": -1.0}, "give 0 or more"),
        ({"carbon": math.inf}, "not possible"),
        ({"carbon": Factor(value=0.3, unit="EUR/kWh")}, "wrong unit"),
        ({"tariff": Factor(value=300.0, unit="g/kWh")}, "wrong unit"),
        ({"tariff": "household-dee"}, "did you mean 'household-de'"),
        ({"pue": "world"}, "use one of world-average"),
        ({"equivalences": ("car-old-eu",)}, "did you mean 'car-new-eu'"),
        ({"equivalences": ("lamp-10w", Factor(value=4.0, unit="W"))}, "two equivalences give lamp_time_s"),
        ({"equivalences": (Factor(value=1.2, unit="PUE"),)}, "wrong unit"),
    ],
)
def test_values_that_cannot_be_are_refused(arguments: dict[str, object], message: str) -> None:
    """Each is refused with what to give instead."""
    with pytest.raises(ConfigError, match=message):
        account(1.0, **arguments)  # type: ignore[arg-type]


def _read(text: str) -> AccountConfig:
    return to_struct(AccountConfig, tomllib.loads(text)["account"], "account")


def test_configuration_from_toml() -> None:
    """Country, own tariff and PUE as TOML gives them: 1 kWh is 1.3 kWh of the facility, 444.678 g and 0.325 EUR."""
    results = _read('[account]\ncountry = "DEU"\ntariff_eur_per_kwh = 0.25\npue = 1.3\n').account(3.6e6)
    assert {name: _value(figure) for name, figure in results.items()} == pytest.approx(
        {"energy_j": 3.6e6, "facility_energy_j": 4.68e6, "co2_g": 444.678, "cost_eur": 0.325}
    )


def test_configuration_with_everything_else() -> None:
    """Two countries, another currency, a PUE of an older survey, and a car of one's own."""
    config = _read(
        '[account]\ncountry = ["Germany", "ESP"]\nyear = 2024\ntariff_per_kwh = 0.1\ncurrency = "usd"\n'
        'pue = "world-average"\npue_period = "2022"\nequivalences = ["lamp-10w"]\ncar_g_per_km = 160\n'
    )
    results = config.account(3.6e6, name="wall_energy_j")
    co2 = _value(results["wall_co2_g"])
    assert co2 == pytest.approx(1.55 * (342.06 + 146.15) / 2)
    assert _value(results["wall_cost_usd"]) == pytest.approx(0.155)
    assert _value(results["wall_car_distance_m"]) == pytest.approx(1000 * co2 / 160)
    assert _value(results["wall_lamp_time_s"]) == pytest.approx(1.55 * 3.6e5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('contry = "DEU"', "did you mean 'country'"),
        ('country = "DEU"\ncarbon_g_per_kwh = 300', "country and carbon_g_per_kwh exclude each other"),
        ('tariff = "household-de"\ntariff_eur_per_kwh = 0.2', "tariff and tariff_eur_per_kwh exclude"),
        ("country = []", "name a country"),
        ("year = 2024", "year without country"),
        ("tariff_per_kwh = 0.1", "no currency"),
        ('currency = "EUR"', "currency without tariff_per_kwh"),
        ('tariff_per_kwh = 0.1\ncurrency = "EURO"', "did you mean 'EUR'"),
        ("pue = 0.5", "account: pue: 0.5 PUE is not possible"),
        ("pue = true", "account: .*pue"),
        ('pue = 1.2\npue_period = "2023"', "pue_period without a preset"),
        ("carbon_g_per_kwh = -3", "carbon_g_per_kwh: -3 g/kWh is not possible"),
        ("tariff_eur_per_kwh = nan", "tariff_eur_per_kwh: nan EUR/kWh"),
        ("car_g_per_km = 0", "car_g_per_km: 0 g/km is not possible: give a number above 0"),
    ],
)
def test_bad_configuration_is_refused_when_read(text: str, message: str) -> None:
    """What cannot be used is refused before anything is measured, with its key."""
    with pytest.raises(ConfigError, match=message):
        _read(f"[account]\n{text}\n")


def test_the_users_section_and_what_goes_before_it(wattwerk_home: Path) -> None:
    """Without a file nothing is configured; a change replaces its own key and all keys that it excludes."""
    assert configured() == AccountConfig()
    wattwerk_home.mkdir()
    (wattwerk_home / "config.toml").write_text('[account]\ncountry = "DEU"\nyear = 2024\npue = 1.3\n')
    assert configured() == AccountConfig(country="DEU", year=2024, pue=1.3)
    assert configured({"carbon_g_per_kwh": 50.0}) == AccountConfig(carbon_g_per_kwh=50.0, pue=1.3)
    assert configured({"pue": 1.1}) == AccountConfig(country="DEU", year=2024, pue=1.1)
