"""Units at the edges: inside everything is SI, and the unit is the last word of a name."""

from __future__ import annotations

import math
from typing import Final

from wattwerk.language import localised, t

#: Currencies that a cost can have, by ISO 4217.
CURRENCIES: Final = (
    "EUR", "USD", "GBP", "CHF", "SEK", "NOK", "DKK", "PLN", "CZK", "JPY", "CNY", "INR", "KRW", "CAD",
)  # fmt: skip

#: suffix of a name -> (symbol shown to people, whether SI prefixes apply); longer suffixes are tried first
UNITS: Final[dict[str, tuple[str, bool]]] = {
    "per_s_per_w": ("1/s/W", False),
    "ops_per_s": ("op/s", True),
    "bit_per_s": ("bit/s", True),
    "per_s": ("1/s", False),
    "celsius": ("°C", False),
    "bytes": ("B", True),
    "ratio": ("%", False),
    "count": ("", False),
    "flops": ("FLOP", True),
    "volts": ("V", True),
    "amperes": ("A", True),
    "hz": ("Hz", True),
    "s": ("s", True),
    "w": ("W", True),
    "j": ("J", True),
    "g": ("g", True),
    "m": ("m", True),
    **{currency.lower(): (currency, False) for currency in CURRENCIES},
}

_PREFIXES: Final[tuple[tuple[float, str], ...]] = (
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
)

J_PER_WH: Final = 3600.0


def unit_of(name: str) -> str:
    """Return the unit suffix of a figure's or field's name.

    Args:
        name: A name whose last words are its unit, such as ``latency_p50_s``.

    Returns:
        The suffix, a key of ``UNITS``.

    Raises:
        ValueError: The name ends in no known unit.
    """
    for suffix in UNITS:
        if name.endswith(f"_{suffix}"):
            return suffix
    raise ValueError(f"{name!r} ends in no known unit: use one of {', '.join(UNITS)}")


def _digits(value: float, significant: int) -> str:
    if value == 0:
        return "0"
    rounded = float(f"{value:.{significant}g}")  # 0.9996 becomes 1.00, not 1.000
    decimals = max(0, significant - 1 - math.floor(math.log10(abs(rounded))))
    return localised(f"{value:.{decimals}f}")


def format_value(name: str, value: float | None, significant: int = 3) -> str:
    """Write a value for people in the current language, with an SI prefix where the unit takes one.

    Args:
        name: The figure's name; its suffix gives the unit.
        value: The value in SI units, a ratio as a fraction of one; None for unavailable.
        significant: How many significant digits are shown at least.

    Returns:
        A text such as ``7.93 ms``, ``41.2 %`` or ``–`` for None.
    """
    if value is None or not math.isfinite(value):
        return "–"
    symbol, prefixed = UNITS[unit_of(name)]
    if unit_of(name) == "count":
        return localised(f"{value:g}")
    if symbol == "%":
        return f"{_digits(value * 100, significant)} %"
    prefix = ""
    if prefixed and value != 0:
        magnitude = float(f"{abs(value):.{significant}g}")
        scale, prefix = next(((s, p) for s, p in _PREFIXES if magnitude >= s), _PREFIXES[-1])
        value /= scale
    text = _digits(value, significant)
    return f"{text} {prefix}{symbol}".rstrip()


def times(count: int) -> str:
    """Write how often something happened: ``once``, ``3 times``."""
    return t("once") if count == 1 else t("{count} times", count=count)


def wh_from_j(energy_j: float) -> float:
    """Convert joules into watt-hours."""
    return energy_j / J_PER_WH


def rough_time(time_s: float) -> str:
    """Write a time that is only roughly known: ``45 s``, ``12 min``, ``1 h 20 min``."""
    if time_s < 90:
        return f"{max(1, round(time_s)):d} s"
    minutes = round(time_s / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
