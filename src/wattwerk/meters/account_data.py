"""Values that turn energy into CO2, cost and equivalents: each with its unit, its period and its source.

Two tables lie beside this file: ``carbon_intensity.csv``, one row a country or region, and ``account_presets.csv``,
tariffs, overheads of data centres, and bases of equivalents. `wattwerk.meters.account` has the formulas.
"""

from __future__ import annotations

import csv
import functools
import io
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.resources import files
from typing import Final

import msgspec

from wattwerk.errors import ConfigError
from wattwerk.registry import suggestion
from wattwerk.units import CURRENCIES

CARBON_UNIT: Final = "g/kWh"
PUE_UNIT: Final = "PUE"
CAR_UNIT: Final = "g/km"
LAMP_UNIT: Final = "W"

#: Other names that people use -> the code in the table.
_ALIASES: Final = {
    "uk": "GBR",
    "great britain": "GBR",
    "us": "USA",
    "united states of america": "USA",
    "turkey": "TUR",
    "czech republic": "CZE",
    "vietnam": "VNM",
    "russian federation": "RUS",
    "republic of korea": "KOR",
    "european union": "EU",
}
_NAMED_AT_MOST: Final = 3


class Factor(msgspec.Struct, frozen=True, kw_only=True):
    """A value that energy is multiplied with, or divided by, and where it comes from.

    Attributes:
        value: In ``unit``.
        unit: ``g/kWh``, a currency per kWh such as ``EUR/kWh``, ``PUE``, ``g/km`` or ``W``.
        label: What it holds for, such as a country.
        period: The year or half-year that it holds for.
        source: Where it comes from.
        low: Lower bound; None where none is known.
        high: Upper bound, likewise.
    """

    value: float
    unit: str
    label: str = ""
    period: str = ""
    source: str = "given"
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be: a unit that no formula has, a value below the least possible, bounds out of order."""
        currency, _, per = self.unit.partition("/")
        if self.unit not in (CARBON_UNIT, PUE_UNIT, CAR_UNIT, LAMP_UNIT) and (per != "kWh" or currency in ("", "g")):
            raise ConfigError(f"unit {self.unit!r} is not known", "use g/kWh, EUR/kWh, PUE, g/km or W")
        if per == "kWh" and self.unit != CARBON_UNIT and currency not in CURRENCIES:
            raise ConfigError(f"currency {currency!r} is not known", suggestion(currency, list(CURRENCIES)))
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        if not all(map(math.isfinite, (low, self.value, high))) or not self._least_ok(low):
            raise ConfigError(f"{self.value:g} {self.unit} is not possible", self._remedy())
        if not low <= self.value <= high:
            raise ConfigError(
                f"{self.value:g} {self.unit} lies outside of its bounds {low:g} and {high:g}", "put them in order"
            )

    def _least_ok(self, value: float) -> bool:
        if self.unit == PUE_UNIT:
            return value >= 1
        return value > 0 if self.unit in (CAR_UNIT, LAMP_UNIT) else value >= 0

    def _remedy(self) -> str:
        if self.unit == PUE_UNIT:
            return "PUE is facility energy over IT energy: give 1 or more"
        return "give a number above 0" if self.unit in (CAR_UNIT, LAMP_UNIT) else "give 0 or more"

    @property
    def currency(self) -> str:
        """The currency of a tariff, such as ``EUR``; empty for everything else."""
        return self.unit.partition("/")[0] if self.unit.endswith("/kWh") and self.unit != CARBON_UNIT else ""

    def text(self) -> str:
        """Return value, unit, bounds, place, period and source for people, such as ``300 g/kWh (given)``."""
        number = f"{self.value:g}"
        quantity = f"PUE {number}" if self.unit == PUE_UNIT else f"{number} {self.unit}"
        if self.low is not None or self.high is not None:
            low, high = (self.value if bound is None else bound for bound in (self.low, self.high))
            quantity += f", {low:g} to {high:g}"
        about = ", ".join(part for part in (self.label, self.period) if part)
        return f"{quantity} ({'; '.join(part for part in (about, self.source) if part)})"


def carbon_intensity(country: str, year: int | None = None) -> Factor:
    """Return how much CO2 comes with a kilowatt-hour of a country's electricity.

    Args:
        country: ISO 3166-1 alpha-3 code, such as ``DEU``, or English name; the table has regions such as ``EU``, too.
        year: The year; None takes the one that the table has.

    Returns:
        Grams of CO2 equivalents per kilowatt-hour, over the life cycle of what was produced in the country.

    Raises:
        ConfigError: The country is not in the table, or not for this year.

    Source: Ember, yearly electricity data; where Ember has none, Our World in Data. Each row names its own.
    """
    table = _countries()
    code = _codes().get(_fold(country))
    if code is None:
        raise ConfigError(f"unknown country {country!r}", _nearest(country))
    found = [factor for factor in table[code] if year is None or factor.period == str(year)]
    if not found:
        known = ", ".join(factor.period for factor in table[code])
        raise ConfigError(
            f"no carbon intensity of {country} for {year}", f"leave out the year for {known}, or give carbon_g_per_kwh"
        )
    return max(found, key=lambda factor: factor.period)


def mean_intensity(intensities: Iterable[Factor]) -> Factor:
    """Return the mean of several carbon intensities, for energy drawn in several countries in unknown shares.

    Args:
        intensities: One for each country; two of them for a sender and a receiver.

    Returns:
        The mean, with the least and the greatest as bounds: whatever the shares are, the truth lies between. The only
        one, where there is one.

    Raises:
        ConfigError: There is none.
    """
    several = list(intensities)
    if len(several) == 1:
        return several[0]
    if not several:
        raise ConfigError("a mean of no carbon intensity is not possible", "name a country")
    values = [one.value for one in several]
    mean = math.fsum(values) / len(values)
    return Factor(
        value=min(max(mean, min(values)), max(values)),  # rounding must not carry it out of its bounds
        unit=CARBON_UNIT,
        label="mean of " + " and ".join(one.label or f"{one.value:g}" for one in several),
        period=", ".join(sorted({one.period for one in several} - {""})),
        source="; ".join(dict.fromkeys(one.source for one in several)),
        low=min(one.value if one.low is None else one.low for one in several),
        high=max(one.value if one.high is None else one.high for one in several),
    )


def countries() -> dict[str, str]:
    """Return code -> name of every country and region that `carbon_intensity` knows."""
    return {code: rows[0].label for code, rows in _countries().items()}


def preset(kind: str, name: str, period: str | None = None) -> Factor:
    """Return a preset.

    Args:
        kind: ``carbon``, ``tariff``, ``pue`` or ``equivalence``.
        name: One of ``preset_names(kind)``.
        period: The period, such as ``2025-H1``; None takes the latest.

    Raises:
        ConfigError: There is no such preset, or not for this period.
    """
    rows = _presets().get(kind, {})
    if name not in rows:
        raise ConfigError(f"unknown {kind} preset {name!r}", suggestion(name, list(rows)))
    periods = {factor.period: factor for factor in rows[name]}
    if period is not None and period not in periods:
        raise ConfigError(f"{kind} preset {name!r} has no period {period!r}", suggestion(period, list(periods)))
    return periods[max(periods) if period is None else period]


def preset_names(kind: str) -> list[str]:
    """Return the names of the presets of a kind: ``carbon``, ``tariff``, ``pue`` or ``equivalence``."""
    return list(_presets().get(kind, {}))


def presets(kind: str) -> dict[str, list[Factor]]:
    """Return name -> the presets of a kind, one for each period."""
    return {name: list(rows) for name, rows in _presets().get(kind, {}).items()}


def _rows(name: str) -> csv.DictReader[str]:
    return csv.DictReader(io.StringIO((files("wattwerk.meters") / "data" / name).read_text(encoding="utf-8")))


@functools.cache
def _countries() -> dict[str, list[Factor]]:
    table: dict[str, list[Factor]] = {}
    for row in _rows("carbon_intensity.csv"):
        factor = Factor(
            value=float(row["gco2_per_kwh"]),
            unit=CARBON_UNIT,
            label=row["name"],
            period=row["year"],
            source=row["source"],
        )
        table.setdefault(row["country_iso3"], []).append(factor)
    return table


@functools.cache
def _presets() -> dict[str, dict[str, list[Factor]]]:
    table: dict[str, dict[str, list[Factor]]] = {}
    for row in _rows("account_presets.csv"):
        factor = Factor(
            value=float(row["value"]),
            unit=row["unit"],
            label=row["label"],
            period=row["period"],
            source=row["source"],
            low=float(row["low"]) if row["low"] else None,
            high=float(row["high"]) if row["high"] else None,
        )
        table.setdefault(row["kind"], {}).setdefault(row["name"], []).append(factor)
    return table


def _fold(text: str) -> str:
    """Return a name without case, accents and a leading article, so that people need not know how the table writes."""
    bare = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return " ".join(bare.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").casefold().split()).removeprefix("the ")


@functools.cache
def _codes() -> dict[str, str]:
    """Return folded code or name -> code; a name without its bracket as well, where only one country has it."""
    names = {_fold(name): code for code, name in countries().items()}
    bare = {name: name.partition("(")[0].partition("[")[0].strip() for name in names}
    count = Counter(bare.values())
    short = {bare[name]: code for name, code in names.items() if count[bare[name]] == 1}
    return _ALIASES | short | names | {_fold(code): code for code in countries()}


def _nearest(country: str) -> str:
    """Return a remedy that names the countries that were probably meant."""
    asked, codes = _fold(country), _codes()
    begin = [key for key in codes if asked and key.startswith(asked)]
    begin.sort(key=len)  # a code that begins so goes before a name: "DE" is DEU rather than Denmark
    near = begin or get_close_matches(asked, codes, n=_NAMED_AT_MOST)
    meant = list(dict.fromkeys(codes[key] for key in near))[:_NAMED_AT_MOST]
    if not meant:
        return "use a code of ISO 3166-1 alpha-3 such as DEU, or an English name; or give carbon_g_per_kwh"
    return "did you mean " + " or ".join(f"{code!r} ({countries()[code]})" for code in meant) + "?"
