"""Which meters this machine has, and which of them a measurement should use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from wattwerk.config import to_struct
from wattwerk.errors import ConfigError, UnavailableError, WattwerkError
from wattwerk.meters import METERS
from wattwerk.meters.containment import user_contains
from wattwerk.meters.hwmon import readable_chips
from wattwerk.meters.protocol import MeterSpec
from wattwerk.meters.sections import Section, meter_sections, options_of, probe_configured
from wattwerk.records import Scope
from wattwerk.registry import Probe

_MODEL: Final = "cpu-model"
_LOAD: Final = "host-load"

#: Sensors in the machine that need no configuration, no password and no command, answer at once, and share nothing.
_PLAIN: Final = ("nvml", "rapl", "amdgpu", "jetson", "apple")

#: Chip of hwmon -> the meter that reads the same sensor, and better.
_SAME_SENSOR: Final = {"amdgpu": "amdgpu", "zenpower": "rapl", "amd_energy": "rapl"}

#: Meters whose sensor is that of a whole machine, as hwmon's chip ``power_meter`` and the battery are.
_NODE_METERS: Final = ("ipmi", "redfish")

#: Bounds of a reading that the user made, where the user gives none: what a consumer's wall meter is good for.
READING_BOUND_RATIO: Final = 0.1


class Choice(Probe, frozen=True):
    """What a meter's probe found, and what that means for a measurement.

    Attributes:
        used: Whether a measurement uses it.
        reason: Why one that could be used is not, or not all of it; empty otherwise.
    """

    used: bool = False
    reason: str = ""


def check_sections() -> None:
    """Check that every section ``[meters.<name>]`` of the user's ``config.toml`` fits its meter, and ``[contains]``.

    Raises:
        ConfigError: A section is that of no meter, an option is none of its meter's or has a wrong value, an entry
            contains itself, or ``config.toml`` cannot be read.
    """
    user_contains()
    meter_sections()


def probe_all(cpu_model: dict[str, Any] | None = None) -> dict[str, Probe]:
    """Return name -> ``Choice`` of every known meter, the built-in ones first, and of every section with its own name.

    Args:
        cpu_model: As for ``default_specs``; without numbers from here or ``config.toml`` the model is unavailable.

    Raises:
        ConfigError: As for ``check_sections``.
    """
    check_sections()
    from concurrent.futures import ThreadPoolExecutor  # what only the doctor needs

    own = {section.name: section for section in meter_sections().values() if section.own}

    def probe(name: str) -> Probe:
        if name in own:
            return _probe_own(own[name])
        return _probe_model(cpu_model) if name == _MODEL else _probe(name)

    names = [*METERS.names(), *own]
    with ThreadPoolExecutor(8) as pool:  # devices that are away take their time to say nothing
        probes = dict(zip(names, pool.map(probe, names), strict=True))
    choosing = _Choosing(cpu_model, probes.__getitem__)
    used = {spec.label for spec in choosing.specs()}
    return {name: _choice(name, found, name in used, choosing.reasons) for name, found in probes.items()}


def _choice(name: str, probe: Probe, used: bool, reasons: dict[str, str]) -> Choice:
    reason = reasons.get(name, "")
    if probe.available and not used:
        reason = reason or f"not by itself; a section [meters.{name}] in config.toml switches it on"
    return Choice(probe.available, probe.detail, probe.remedy, used=used, reason=reason if probe.available else "")


def _probe(name: str) -> Probe:
    try:
        return METERS.load(name).probe()
    except UnavailableError as error:
        return Probe(False, error.message, error.remedy)


def _probe_own(section: Section) -> Probe:
    try:
        meter = METERS.load(section.kind)
    except UnavailableError as error:
        return Probe(False, error.message, error.remedy)
    return probe_configured(meter, section.options, section.own)


def _probe_model(cpu_model: dict[str, Any] | None) -> Probe:
    """Try the numbers that would be used: whether they are there and fit together depends on this machine."""
    meter = METERS.load(_MODEL)
    numbers = _model_numbers(cpu_model, options_of(_MODEL))
    try:
        meter(to_struct(meter.config, numbers, "meters.cpu-model")).close()
    except ConfigError as error:
        return Probe(False, error.message, error.remedy)
    return Probe(True, f"a model, no sensor: {numbers['idle_w']:g} to {numbers['max_w']:g} W ({numbers['source']})")


def _model_numbers(cpu_model: dict[str, Any] | None, own: dict[str, Any]) -> dict[str, Any]:
    """Merge the catalogue's numbers with the user's; a reading of the user's own has bounds of its own."""
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

    Every sensor in the machine that works, needs no configuration, and shows nothing that another one shows already;
    the modelled processor only where no sensor measures the real one; the host's load always; and whatever has a
    section ``[meters.<name>]`` in the user's ``config.toml``, which also holds the options of all of them.

    Args:
        cpu_model: The processor's numbers from the device catalogue, as ``CpuModelConfig`` names them; None where the
            catalogue does not know it.

    Returns:
        What ``Recorder`` takes.

    Raises:
        ConfigError: As for ``check_sections``.
    """
    check_sections()
    return _Choosing(cpu_model, _probe).specs()


class _Choosing:
    """Goes through what could be used, and notes why something is not.

    Args:
        cpu_model: As for ``default_specs``.
        probe: Gives the probe of a sensor in the machine.

    Attributes:
        reasons: Why a meter that could be used is not, or not all of it.
    """

    def __init__(self, cpu_model: dict[str, Any] | None, probe: Callable[[str], Probe]) -> None:
        self._cpu_model, self._probe = cpu_model, probe
        self._sections = meter_sections()
        self._kinds = {section.kind for section in self._sections.values()}
        self._chosen: dict[str, MeterSpec] = {}
        self.reasons: dict[str, str] = {}

    def specs(self) -> list[MeterSpec]:
        """Return the meters to use: sensors in the machine, the model, what has a section, and the host's load."""
        for name in _PLAIN:
            if name in self._sections or self._probe(name).available:
                self._take(name)
        self._take_hwmon()
        self._take_battery()
        self._take_model()
        for name, section in self._sections.items():
            if name not in (*self._chosen, _MODEL, _LOAD):
                self._chosen[name] = MeterSpec(section.kind, section.options, section.own)
        self._take(_LOAD)
        if "jetson" in self._chosen:
            self.reasons["tegrastats"] = "jetson reads the same rails"
        return list(self._chosen.values())

    def _take(self, name: str, options: dict[str, Any] | None = None) -> None:
        section = self._sections.get(name)
        self._chosen[name] = MeterSpec(name, section.options if section else options or {})

    def _has(self, *names: str) -> str:
        """Return the first of these meters that is used, or has a section of any name."""
        return next((name for name in names if name in self._chosen or name in self._kinds), "")

    def _take_hwmon(self) -> None:
        if "hwmon" in self._sections:
            self._take("hwmon")
        elif self._probe("hwmon").available:
            why = {chip: self._against(chip) for chip in readable_chips()}
            chips = [chip for chip, reason in why.items() if not reason]
            self.reasons["hwmon"] = "; ".join(f"{chip}: {reason}" for chip, reason in why.items() if reason)
            if chips:
                self._take("hwmon", {"chips": chips})

    def _against(self, chip: str) -> str:
        """Return why a chip of hwmon is not used by itself; empty if it is."""
        if chip.startswith("ina"):
            return "what is it wired to? give it a scope under [meters.hwmon.scopes]"
        rivals = _NODE_METERS if chip == "power_meter" else (_SAME_SENSOR.get(chip, ""),)
        rival = self._has(*rivals)
        return f"{rival} measures the same" if rival else ""

    def _take_battery(self) -> None:
        if "battery" in self._sections:
            self._take("battery")
        elif self._probe("battery").available:
            node = self._has(*_NODE_METERS) or ("hwmon" if "power_meter" in self._chips() else "")
            if node:
                self.reasons["battery"] = f"{node} measures the whole machine already"
            else:
                self._take("battery")

    def _take_model(self) -> None:
        measured = self._has("rapl") or self._measuring_processor()
        own = self._sections[_MODEL].options if _MODEL in self._sections else {}
        if measured:
            self.reasons[_MODEL] = f"the processor is left to {measured}"
        elif numbers := _model_numbers(self._cpu_model, own):
            self._chosen[_MODEL] = MeterSpec(_MODEL, numbers)

    def _chips(self) -> list[str]:
        """Return the chips of hwmon that are used."""
        if "hwmon" not in self._chosen:
            return []
        chips: list[str] | None = self._chosen["hwmon"].config.get("chips")
        return readable_chips() if chips is None else chips

    def _measuring_processor(self) -> str:
        if any(_SAME_SENSOR.get(chip) == "rapl" for chip in self._chips()):
            return "hwmon"
        if "jetson" not in self._chosen:
            return ""
        with suppress(WattwerkError):
            meter = METERS.load("jetson")
            opened = meter(to_struct(meter.config, self._chosen["jetson"].config, "meters.jetson"))
            found = any(channel.scope is Scope.CPU_PACKAGE for channel in opened.channels)
            opened.close()
            return "jetson" if found else ""
        return ""
