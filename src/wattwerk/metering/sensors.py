"""Which meters a measurement on this machine uses, and with which values it accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from wattwerk.config import user_section
from wattwerk.errors import ConfigError
from wattwerk.meters.protocol import MeterSpec

if TYPE_CHECKING:
    from wattwerk.meters.account import AccountConfig


def specs_here() -> list[MeterSpec]:
    """Return the meters of this machine; the catalogue's model of the processor where no sensor measures it.

    Raises:
        ConfigError: As for ``inventory.default_specs``.
    """
    from wattwerk.catalog.processors import cpu_power_here
    from wattwerk.meters.inventory import default_specs

    return default_specs(cpu_power_here())


def total_here() -> tuple[str, ...]:
    """Return the channels that make up the system as ``[forward]`` names them; empty for those of the widest scope.

    Raises:
        ConfigError: The section cannot be used.
    """
    if not user_section("forward"):
        return ()
    from wattwerk.meters.sink_config import forward_config

    return tuple(forward_config().total)


def account_here(changes: dict[str, Any] | None = None) -> AccountConfig:
    """Return the user's ``[account]``, some keys changed; where it names no place or price, means of the world and EU.

    Raises:
        ConfigError: A key is unknown, or a value cannot be used.
    """
    from wattwerk.meters.account import configured

    config = configured(changes)
    if config.carbon_factor() is None:
        config = msgspec.structs.replace(config, country="WORLD")
    if config.tariff_factor() is None:
        config = msgspec.structs.replace(config, tariff="nonhousehold-eu")
    return config


def account_changes(country: str = "", carbon: str = "", tariff: str = "", pue: str = "") -> dict[str, Any]:
    """Return what options of the command line change in ``[account]``; a number is a value, a word a preset.

    Args:
        country: Code or name.
        carbon: Grams per kWh, or a preset.
        tariff: Euros per kWh, or a preset.
        pue: Facility energy over IT energy, or a preset.

    Raises:
        ConfigError: Both a country and a carbon intensity are given.
    """
    if country and carbon:
        raise ConfigError("--country and --carbon exclude each other", "give one of them")
    changes: dict[str, Any] = {"country": country} if country else {}
    for text, value_key, preset_key in (
        (carbon, "carbon_g_per_kwh", "carbon_preset"),
        (tariff, "tariff_eur_per_kwh", "tariff"),
        (pue, "pue", "pue"),
    ):
        if text:
            number = _number(text)
            changes[preset_key if number is None else value_key] = text if number is None else number
    return changes


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
