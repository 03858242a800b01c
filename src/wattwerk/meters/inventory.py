"""Which meters this machine has, and which of them a measurement should use."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from wattwerk.config import home, to_struct, user_section
from wattwerk.errors import ConfigError, UnavailableError
from wattwerk.meters import METERS
from wattwerk.meters.containment import user_contains
from wattwerk.meters.protocol import MeterSpec
from wattwerk.registry import Probe, suggestion

_MODEL: Final = "cpu-model"

#: Bounds of a reading that the user made, where the user gives none: what a consumer's wall meter is good for.
READING_BOUND_RATIO: Final = 0.1


def check_sections() -> None:
    """Check that every section ``[meters.<name>]`` of the user's ``config.toml`` fits its meter, and ``[contains]``.

    Raises:
        ConfigError: A name is that of no meter, an option is none of its meter's or has a wrong value, or
            ``config.toml`` cannot be read.
    """
    user_contains()
    known = METERS.names()
    path = home() / "config.toml"
    for name in user_section("meters"):
        if name not in known:
            raise ConfigError(f"{path}: [meters.{name}] is no section of a meter", suggestion(name, known))
        with suppress(UnavailableError):  # a plug-in that cannot be imported: its probe says so
            to_struct(METERS.load(name).config, user_section("meters", name), f"{path}: [meters.{name}]")


def probe_all(cpu_model: dict[str, Any] | None = None) -> dict[str, Probe]:
    """Return name -> probe of every known meter, the built-in ones first.

    Args:
        cpu_model: As for ``default_specs``; without numbers from here or ``config.toml`` the model is unavailable.

    Raises:
        ConfigError: ``config.toml`` cannot be read, or has a section of a meter that there is not.
    """
    check_sections()
    return {name: _probe_model(cpu_model) if name == _MODEL else _probe(name) for name in METERS.names()}


def _probe(name: str) -> Probe:
    try:
        return METERS.load(name).probe()
    except UnavailableError as error:
        return Probe(False, error.message, error.remedy)


def _probe_model(cpu_model: dict[str, Any] | None) -> Probe:
    """Try the numbers that would be used: whether they are there and fit together depends on this machine."""
    meter = METERS.load(_MODEL)
    try:
        meter(to_struct(meter.config, _model_numbers(cpu_model), "meters.cpu-model")).close()
    except ConfigError as error:
        return Probe(False, error.message, error.remedy)
    numbers = _model_numbers(cpu_model)
    return Probe(True, f"a model, no sensor: {numbers['idle_w']:g} to {numbers['max_w']:g} W ({numbers['source']})")


def _model_numbers(cpu_model: dict[str, Any] | None) -> dict[str, Any]:
    """Merge the catalogue's numbers with the user's; a reading of the user's own has bounds of its own."""
    own = user_section("meters", _MODEL)
    bounds = {
        f"{end}_{side}_w": own[f"{end}_w"] * factor
        for end in ("idle", "max")
        for side, factor in (("low", 1 - READING_BOUND_RATIO), ("high", 1 + READING_BOUND_RATIO))
        if isinstance(own.get(f"{end}_w"), int | float)
    }
    source = {"source": "config.toml"} if bounds else {}
    return {**(cpu_model or {}), **source, **bounds, **own}


def default_specs(cpu_model: dict[str, Any] | None = None) -> list[MeterSpec]:
    """Choose the meters for this machine.

    Every sensor that works; the modelled processor only where no sensor measures the real one; the host's load always;
    and whatever else has a section ``[meters.<name>]`` in the user's ``config.toml``. Such a section also overrides
    single options of the others.

    Args:
        cpu_model: The processor's numbers from the device catalogue, as ``CpuModelConfig`` names them; None where the
            catalogue does not know it.

    Returns:
        What ``Recorder`` takes.

    Raises:
        ConfigError: ``config.toml`` cannot be read, or has a section of a meter that there is not.
    """
    check_sections()
    sections = {name: user_section("meters", name) for name in METERS.names()}
    chosen = [name for name in ("nvml", "rapl") if sections[name] or _probe(name).available]
    model = _model_numbers(cpu_model)
    if "rapl" not in chosen and model:
        chosen.append(_MODEL)
    others = [name for name, section in sections.items() if section and name not in (*chosen, _MODEL, "host-load")]
    specs = {name: sections[name] for name in [*chosen, *others, "host-load"]}
    return [MeterSpec(name, model if name == _MODEL else config) for name, config in specs.items()]
