"""From energy to CO2, cost and equivalents: the one place where these formulas are.

    facility energy  = energy × PUE
    CO2              = facility energy in kWh × carbon intensity
    cost             = facility energy in kWh × tariff
    car's distance   = CO2 / what a car emits per distance
    lamp's time      = facility energy / power of the lamp

Energy of the machine and energy of the facility stay apart. Every result is modelled, however well the energy was
measured, since a table's value is in it; its note says which one, of when, and from where.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from wattwerk.config import to_struct, user_section
from wattwerk.errors import ConfigError
from wattwerk.meters.account_data import (
    CAR_UNIT,
    CARBON_UNIT,
    LAMP_UNIT,
    PUE_UNIT,
    Factor,
    carbon_intensity,
    mean_intensity,
    preset,
    preset_names,
)
from wattwerk.records import Figure, Provenance, derived, unavailable
from wattwerk.units import J_PER_WH, unit_of

J_PER_KWH: Final = 1000 * J_PER_WH
M_PER_KM: Final = 1000.0

#: Energy of the machine alone, no overhead of a building.
NO_OVERHEAD: Final = Factor(value=1.0, unit=PUE_UNIT, source="no overhead assumed")

#: Keys of the configuration that say the same thing in another way, each with those that belong to it.
_CARBON: Final = ("country", "carbon_preset", "carbon_g_per_kwh", "year")
_TARIFF: Final = ("tariff", "tariff_eur_per_kwh", "tariff_per_kwh", "tariff_period", "currency")
_OVERHEAD: Final = ("pue", "pue_period")

_ENERGY: Final = re.compile(r"(?:^|(?<=_))energy(?=_)")


def kwh_from_j(energy_j: float) -> float:
    """Convert joules into kilowatt-hours."""
    return energy_j / J_PER_KWH


def j_from_kwh(energy_kwh: float) -> float:
    """Convert kilowatt-hours into joules."""
    return energy_kwh * J_PER_KWH


def j_from_wh(energy_wh: float) -> float:
    """Convert watt-hours into joules; `wattwerk.units.wh_from_j` is the way back."""
    return energy_wh * J_PER_WH


def facility_energy_j(energy_j: float, pue: float) -> float:
    """Return what a building draws for the energy of a machine in it, in joules."""
    return energy_j * pue


def co2_g(energy_j: float, g_per_kwh: float) -> float:
    """Return the CO2 that comes with an energy, in grams."""
    return kwh_from_j(energy_j) * g_per_kwh


def cost(energy_j: float, price_per_kwh: float) -> float:
    """Return what an energy costs, in the currency of the price."""
    return kwh_from_j(energy_j) * price_per_kwh


def car_distance_m(emitted_g: float, g_per_km: float) -> float:
    """Return how far a car drives for the same CO2, in metres."""
    return emitted_g / g_per_km * M_PER_KM


def lamp_time_s(energy_j: float, lamp_w: float) -> float:
    """Return how long a lamp burns on the same energy, in seconds."""
    return energy_j / lamp_w


def account(
    energy: Figure | float,
    *,
    carbon: Factor | float | str | None = None,
    tariff: Factor | float | str | None = None,
    pue: Factor | float | str = NO_OVERHEAD,
    equivalences: Iterable[Factor | str] = (),
    name: str = "energy_j",
) -> dict[str, Figure]:
    """Turn an energy into facility energy, CO2, cost and equivalents.

    Args:
        energy: In joules. Below 0 for something saved at a loss, or net of an idle power that was higher.
        carbon: A carbon intensity; a number is g/kWh; a text is a country or a preset. None: no CO2.
        tariff: A price; a number is EUR/kWh; a text is a preset. None: no cost.
        pue: Facility energy over IT energy; a text is a preset.
        equivalences: Presets, or bases in ``g/km`` (a car's CO2) or ``W`` (a lamp's power).
        name: The energy's name. The results are named after it: ``system_energy_per_inference_j`` gives
            ``system_co2_per_inference_g``.

    Returns:
        Name -> figure: the energy as it was given, the facility energy, and what was asked for. The scope is that of
        the energy, so that overlapping scopes stay apart. Bounds are those of the energy and of the factors, together.

    Raises:
        ConfigError: A value, a name or a unit cannot be used.
    """
    given = energy if isinstance(energy, Figure) else _given(float(energy))
    facility = _apply(facility_energy_j, _described(given), _factor(pue, "pue", PUE_UNIT))
    figures = {name: given, _named(name, "facility_energy", "j"): facility}
    co2 = None
    if carbon is not None:
        co2 = _apply(co2_g, facility, _factor(carbon, "carbon", CARBON_UNIT))
        figures[_named(name, "co2", "g")] = co2
    if tariff is not None:
        price = _factor(tariff, "tariff", "EUR/kWh")
        figures[_named(name, "cost", price.currency.lower())] = _apply(cost, facility, price)
    for one in equivalences:
        key, figure = _equivalent(one, name, facility, co2)
        if key in figures:
            raise ConfigError(f"two equivalences give {key}", "leave out one of them")
        figures[key] = figure
    return figures


def _given(energy_j: float) -> Figure:
    if not math.isfinite(energy_j):
        return unavailable(f"the energy is no number ({energy_j})")
    return derived(energy_j, note="given as a number")


def _factor(value: Factor | float | str, kind: str, unit: str) -> Factor:
    """Return a value with its source, whichever way it was given; refuse one of another unit."""
    if isinstance(value, str):
        if kind == "carbon" and value not in preset_names(kind):
            return carbon_intensity(value)
        return preset(kind, value)
    if isinstance(value, Factor):
        if value.unit != unit and not (kind == "tariff" and value.currency):
            raise ConfigError(f"{kind}: {value.text()} has the wrong unit", f"give a value in {unit}")
        return value
    return Factor(value=float(value), unit=unit)


def _named(name: str, word: str, unit: str) -> str:
    """Return a result's name: the energy's, with the word ``energy`` and the unit replaced.

    Raises:
        ConfigError: The energy's name has no such word, or is not in joules.
    """
    try:
        joules = unit_of(name) == "j"
    except ValueError:
        joules = False
    if not joules or not _ENERGY.search(name):
        raise ConfigError(f"{name!r} is no name of an energy", "use one such as 'energy_j' or 'gpu_energy_j'")
    return _ENERGY.sub(word, name.removesuffix("j"), count=1) + unit


def _described(energy: Figure) -> Figure:
    """Return an energy whose note begins what the results' notes say: how it is known."""
    if energy.value is None:
        return energy
    if not math.isfinite(energy.value):
        return unavailable(f"the energy is no number ({energy.value})", scope=energy.scope)
    about = f" ({energy.note})" if energy.note else ""
    return msgspec.structs.replace(energy, note=f"energy {energy.provenance.value}{about}")


def _apply(formula: Callable[[float, float], float], figure: Figure, factor: Factor) -> Figure:
    """Return a formula's result for a figure and a factor, with bounds where one of the two has some.

    What has no bound counts as exact. Each formula only grows or only falls in each of its arguments, so that the
    extremes are at the bounds; which ones depends on the energy's sign.
    """
    if figure.value is None:
        return unavailable(figure.note or "the energy is unavailable", scope=figure.scope)
    least = factor.value if factor.low is None else factor.low
    most = factor.value if factor.high is None else factor.high
    vague = factor.low is not None or factor.high is not None
    low = high = None
    if vague or figure.low is not None:
        start = figure.value if figure.low is None else figure.low
        low = min(formula(start, least), formula(start, most))
    if vague or figure.high is not None:
        end = figure.value if figure.high is None else figure.high
        high = max(formula(end, least), formula(end, most))
    value = formula(figure.value, factor.value)
    return Figure(value, Provenance.MODELLED, figure.scope, low, high, f"{figure.note}; {factor.text()}")


def _equivalent(base: Factor | str, name: str, facility: Figure, co2: Figure | None) -> tuple[str, Figure]:
    factor = preset("equivalence", base) if isinstance(base, str) else base
    if factor.unit == LAMP_UNIT:
        return _named(name, "lamp_time", "s"), _plain(_apply(lamp_time_s, facility, factor))
    if factor.unit != CAR_UNIT:
        raise ConfigError(f"equivalence: {factor.text()} has the wrong unit", f"give {CAR_UNIT} or {LAMP_UNIT}")
    key = _named(name, "car_distance", "m")
    if co2 is None:
        return key, unavailable("a distance by car needs a carbon intensity, and none was given")
    return key, _plain(_apply(car_distance_m, co2, factor))


def _plain(figure: Figure) -> Figure:
    """Return a time or a distance, which has no scope of its own."""
    return msgspec.structs.replace(figure, scope=None)


def _own(key: str, value: float, unit: str) -> Factor:
    """Return a value of one's own; where it cannot be, the error names its key."""
    try:
        return Factor(value=value, unit=unit)
    except ConfigError as error:
        raise ConfigError(f"account: {key}: {error.message}", error.remedy) from error


class AccountConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which values to account with: the section ``[account]`` of ``config.toml``.

    Attributes:
        country: Where the energy is drawn: code or English name. Several take their mean, with the extremes as bounds.
        year: Year of the carbon intensity; None takes the one that the table has.
        carbon_preset: A carbon intensity by name, such as ``eeki-report``.
        carbon_g_per_kwh: A carbon intensity of one's own.
        tariff: A price by name, such as ``household-de``.
        tariff_period: The period of ``tariff``, such as ``2025-H1``; None takes the latest.
        tariff_eur_per_kwh: A price of one's own in euros.
        tariff_per_kwh: A price of one's own in ``currency``.
        currency: ISO 4217 code of ``tariff_per_kwh``, such as ``USD``.
        pue: Facility energy over IT energy, or a preset such as ``world-average``.
        pue_period: The period of a ``pue`` preset; None takes the latest.
        equivalences: Equivalents by name, such as ``car-new-eu`` and ``lamp-10w``.
        car_g_per_km: What a car of one's own choice emits; None: no such equivalent.
    """

    country: str | tuple[str, ...] | None = None
    year: int | None = None
    carbon_preset: str | None = None
    carbon_g_per_kwh: float | None = None
    tariff: str | None = None
    tariff_period: str | None = None
    tariff_eur_per_kwh: float | None = None
    tariff_per_kwh: float | None = None
    currency: str | None = None
    pue: float | str = 1.0
    pue_period: str | None = None
    equivalences: tuple[str, ...] = ()
    car_g_per_km: float | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself and what no table has."""
        self._at_most_one(*_CARBON[:3])
        self._at_most_one(*_TARIFF[:3])
        self._only_with("year", "country", self.country is not None)
        self._only_with("tariff_period", "tariff", self.tariff is not None)
        self._only_with("currency", "tariff_per_kwh", self.tariff_per_kwh is not None)
        self._only_with("pue_period", "a preset as pue", isinstance(self.pue, str))
        if self.tariff_per_kwh is not None and self.currency is None:
            raise ConfigError("account: tariff_per_kwh has no currency", 'add one, such as currency = "USD"')
        self.account(0.0)  # names and ranges are checked here, not after hours of measuring

    def _at_most_one(self, *keys: str) -> None:
        given = [key for key in keys if getattr(self, key) is not None]
        if len(given) > 1:
            raise ConfigError(f"account: {' and '.join(given)} exclude each other", "give one of them")

    def _only_with(self, key: str, needed: str, there: bool) -> None:
        if getattr(self, key) is not None and not there:
            raise ConfigError(f"account: {key} without {needed}", f"give {needed}, or leave out {key}")

    def carbon_factor(self) -> Factor | None:
        """Return the carbon intensity, or None where none is configured."""
        if self.carbon_preset is not None:
            return preset("carbon", self.carbon_preset)
        if self.carbon_g_per_kwh is not None:
            return _own("carbon_g_per_kwh", self.carbon_g_per_kwh, CARBON_UNIT)
        if self.country is None:
            return None
        several = (self.country,) if isinstance(self.country, str) else self.country
        return mean_intensity(carbon_intensity(country, self.year) for country in several)

    def tariff_factor(self) -> Factor | None:
        """Return the price, or None where none is configured."""
        if self.tariff is not None:
            return preset("tariff", self.tariff, self.tariff_period)
        if self.tariff_eur_per_kwh is not None:
            return _own("tariff_eur_per_kwh", self.tariff_eur_per_kwh, "EUR/kWh")
        if self.tariff_per_kwh is None:
            return None
        return _own("tariff_per_kwh", self.tariff_per_kwh, f"{(self.currency or '').upper()}/kWh")

    def pue_factor(self) -> Factor:
        """Return facility energy over IT energy."""
        if isinstance(self.pue, str):
            return preset("pue", self.pue, self.pue_period)
        return NO_OVERHEAD if self.pue == 1 else _own("pue", self.pue, PUE_UNIT)

    def account(self, energy: Figure | float, *, name: str = "energy_j") -> dict[str, Figure]:
        """Account for an energy with these values; see `account`.

        Raises:
            ConfigError: A value, a name or a unit cannot be used.
        """
        car = () if self.car_g_per_km is None else (_own("car_g_per_km", self.car_g_per_km, CAR_UNIT),)
        return account(
            energy,
            carbon=self.carbon_factor(),
            tariff=self.tariff_factor(),
            pue=self.pue_factor(),
            equivalences=(*self.equivalences, *car),
            name=name,
        )


def configured(changes: dict[str, Any] | None = None) -> AccountConfig:
    """Return the user's ``[account]`` section, some of its keys changed.

    Args:
        changes: Keys of `AccountConfig` that go before the file; one replaces all that it excludes, too, such as
            ``carbon_g_per_kwh`` the file's ``country``.

    Raises:
        ConfigError: A key is unknown, or a value cannot be used.
    """
    changed = changes or {}
    replaced = {key for group in (_CARBON, _TARIFF, _OVERHEAD) if changed.keys() & group for key in group}
    kept = {key: value for key, value in user_section("account").items() if key not in replaced}
    return to_struct(AccountConfig, kept | changed, "account")
