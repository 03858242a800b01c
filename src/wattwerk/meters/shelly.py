"""Power and energy of Shelly plugs, relays and clamp meters, read over HTTP.

Source: Shelly, Gen1 Device API (/shelly, /status, Meters); Gen2+ Device API (Shelly.GetStatus, Switch, PM1, Cover,
Light, EM, EMData, EM1, EM1Data; Authentication): https://shelly-api-docs.shelly.cloud/gen2/ComponentsAndServices/EM and
its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Final

import msgspec

from wattwerk.errors import UnavailableError
from wattwerk.meters.http import CountedOn, DeviceConfig, HttpMeter, dig
from wattwerk.meters.http_client import HttpError
from wattwerk.meters.mapped import MappedChannel, Quantity, secret
from wattwerk.units import J_PER_WH

_J_PER_WATT_MINUTE: Final = 60.0
_RENEWED_S: Final = 60.0  # counters of clamp meters are kept by the minute

#: kind of component -> method, place of the power
_KINDS: Final = {
    "switch": ("Switch", "apower"),
    "pm1": ("PM1", "apower"),
    "cover": ("Cover", "apower"),
    "light": ("Light", "apower"),
    "em": ("EM", "total_act_power"),
    "em1": ("EM1", "act_power"),
}
#: kind of component -> method and place of the energy, where a component of its own counts
_COUNTERS: Final = {"em": ("EMData", "total_act"), "em1": ("EM1Data", "total_act_energy")}


class ShellyConfig(DeviceConfig, frozen=True, kw_only=True):
    """Options of the Shelly meter, beside those of ``DeviceConfig``.

    Attributes:
        components: What to read of a device with several, such as ``switch:1`` or, of the first generation,
            ``meter:1`` or ``emeter:0``; empty for all that measure.
    """

    prefix: str = "shelly"
    components: list[str] = msgspec.field(default_factory=list)


class _Place(msgspec.Struct, frozen=True):
    """Where a number stands: in the answer to which path, behind which keys."""

    path: str
    steps: tuple[str | int, ...]


class ShellyMeter(HttpMeter):
    """Read a Shelly device of any generation.

    Channels, for each component: ``shelly0_power_w``; ``shelly0_energy_j``, counted from opening; ``shelly0_volts`` and
    ``shelly0_amperes`` where the device tells them. A three-phase meter gives the sum of its phases. The number is that
    of the component; a second kind of component has its kind in the name. A device of the first generation counts
    from 0 after each start. Shelly states no time at which a power was taken; ``aenergy.by_minute`` is the past, and
    is not used.
    """

    name: ClassVar[str] = "shelly"
    config: ClassVar[type[msgspec.Struct]] = ShellyConfig

    def _open(self, config: ShellyConfig) -> list[Quantity]:
        told = self._http.get("/shelly")
        if not isinstance(told, dict) or "mac" not in told:
            raise HttpError(f"{self._http.url}/shelly is no answer of a Shelly", "check url: is it a Shelly?")
        generation = told.get("gen", 1)
        if not isinstance(generation, int) or (generation == 1 and "type" not in told):
            raise HttpError(f"{self._http.url} is a Shelly of generation {generation!r}", "use one of 1 to 4")
        password = secret(config.password, config.password_env, "meters.shelly: password")
        if password:  # from the second generation on, there is one user only
            self._http.authenticate("basic" if generation == 1 else "digest", config.user or "admin", password)
        status = self._http.get("/status" if generation == 1 else "/rpc/Shelly.GetStatus")
        if not isinstance(status, dict):
            raise HttpError(f"{self._http.url} tells no status", "check url: is it a Shelly?")
        self._places: list[_Place] = []
        self._found: list[Quantity] = []
        components = _first_generation(status) if generation == 1 else _later_generations(status)
        self._choose(config, components)
        return self._found

    def _choose(self, config: ShellyConfig, components: dict[str, dict[str, Any]]) -> None:
        wanted = config.components or list(components)
        if missing := [name for name in wanted if name not in components]:
            raise UnavailableError(
                f"shelly: {self._http.url} measures nothing as {missing[0]}",
                f"it measures {', '.join(components) or 'nothing'}: correct components",
            )
        if not wanted:
            raise UnavailableError(
                f"shelly: {self._http.url} has no component that measures power", "use a model with power metering"
            )
        taken: set[str] = set()
        for name in wanted:
            kind, _, number = name.partition(":")
            prefix = f"{config.prefix}{number}"
            if prefix in taken:
                prefix = f"{config.prefix}_{kind}_{number}"
            taken.add(prefix)
            self._add(config, prefix, components[name])

    def _add(self, config: ShellyConfig, prefix: str, places: dict[str, Any]) -> None:
        self._note(config.power(f"{prefix}_power_w"), places["power"])
        if "energy" in places:
            factor, step = places["factor"], places["step"]
            self._note(config.energy(f"{prefix}_energy_j", factor, step), places["energy"])
        for unit in ("volts", "amperes"):
            if unit in places:
                self._note(config.other(f"{prefix}_{unit}"), places[unit])

    def _note(self, spec: MappedChannel, place: _Place) -> None:
        self._found.append(CountedOn(spec, _RENEWED_S) if spec.name.endswith("_j") else Quantity(spec))
        self._places.append(place)

    def _fetch(self) -> list[object]:
        answers = {path: self._http.get(path) for path in dict.fromkeys(place.path for place in self._places)}
        return [_value(answers[place.path], place.steps) for place in self._places]

    @property
    def paths(self) -> list[str]:
        """What a read asks for."""
        return list(dict.fromkeys(place.path for place in self._places))


def _value(answer: object, steps: tuple[str | int, ...]) -> object:
    if dig(answer, *steps[:-1], "is_valid") is False:
        return ValueError("the device calls its value invalid")
    return dig(answer, *steps)


def _first_generation(status: object) -> dict[str, dict[str, Any]]:
    """Return what measures: ``meters`` count watt-minutes, ``emeters`` watt-hours."""
    found: dict[str, dict[str, Any]] = {}
    for kind, factor in (("meter", _J_PER_WATT_MINUTE), ("emeter", J_PER_WH)):
        entries = dig(status, f"{kind}s")
        for number, entry in enumerate(entries if isinstance(entries, list) else []):
            keys = {"power": "power", "total": "energy", "voltage": "volts", "current": "amperes"}
            places: dict[str, Any] = {
                word: _Place("/status", (f"{kind}s", number, key))
                for key, word in keys.items()
                if isinstance(entry, dict) and key in entry
            }
            if "power" in places:
                found[f"{kind}:{number}"] = places | {"factor": factor, "step": factor if kind == "meter" else None}
    return found


def _later_generations(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in _in_order(status):
        entry = status[name]
        kind, _, number = name.partition(":")
        method, power = _KINDS.get(kind, ("", ""))
        if not method or not isinstance(entry, dict) or power not in entry:
            continue  # also a relay that does not measure
        path = f"/rpc/{method}.GetStatus?id={number}"
        places: dict[str, Any] = {"power": _Place(path, (power,)), "factor": J_PER_WH, "step": None}
        if kind in _COUNTERS and dig(status, f"{kind}data:{number}") is not None:
            counter, energy = _COUNTERS[kind]
            places["energy"] = _Place(f"/rpc/{counter}.GetStatus?id={number}", (energy,))
        elif isinstance(dig(entry, "aenergy"), dict):
            places["energy"] = _Place(path, ("aenergy", "total"))
        places |= {
            word: _Place(path, (key,)) for key, word in (("voltage", "volts"), ("current", "amperes")) if key in entry
        }
        found[name] = places
    return found


def _in_order(names: Iterable[str]) -> list[str]:
    """Sort by number, then by kind: ``em:0`` before ``em1:0``."""
    return sorted(names, key=lambda name: (name.partition(":")[2], name.partition(":")[0]))
