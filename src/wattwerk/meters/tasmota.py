"""Power and energy of plugs and meters that run Tasmota, read over HTTP.

Source: Tasmota documentation, Power monitoring, and Commands (web requests; Status 10; SetOption129):
https://tasmota.github.io/docs/Commands/.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec

from wattwerk.meters.http import CountedOn, DeviceConfig, HttpMeter, dig
from wattwerk.meters.http_client import HttpError
from wattwerk.meters.mapped import Quantity, secret

_J_PER_KWH: Final = 3.6e6
_STEP_J: Final = 3600.0  # Total has three digits behind the point, unless EnergyRes says otherwise


class TasmotaConfig(DeviceConfig, frozen=True, kw_only=True):
    """Options of the Tasmota meter: those of ``DeviceConfig``."""

    prefix: str = "tasmota"


class TasmotaMeter(HttpMeter):
    """Read a device that runs Tasmota.

    Channels: ``tasmota0_power_w``, ``tasmota0_volts`` and ``tasmota0_amperes`` for each of its channels, and
    ``tasmota0_energy_j``, or ``tasmota_energy_j`` where several channels share one counter; energy counts from opening.
    Its counter has steps of 3600 J, so an energy is worth something over hours only. The device states a time of whole
    seconds, which is that of the answer.
    """

    name: ClassVar[str] = "tasmota"
    config: ClassVar[type[msgspec.Struct]] = TasmotaConfig

    def _open(self, config: TasmotaConfig) -> list[Quantity]:
        password = secret(config.password, config.password_env, "meters.tasmota: password")
        credentials = {"user": config.user or "admin", "password": password} if password else {}
        self._query = credentials | {"cmnd": "Status 10"}
        self._places: list[tuple[str | int, ...]] = []
        energy = self._ask()
        powers = energy.get("Power")
        count = len(powers) if isinstance(powers, list) else 1
        found: list[Quantity] = []
        for key, word in (("Power", "power_w"), ("Total", "energy_j"), ("Voltage", "volts"), ("Current", "amperes")):
            if key not in energy:
                continue
            split = isinstance(energy[key], list)
            for number in range(len(energy[key]) if split else 1):
                shared = not split and count > 1
                name = f"{config.prefix}_{word}" if shared else f"{config.prefix}{number}_{word}"
                # one counter of several channels holds the energy of each of them
                inner = [f"{config.prefix}{channel}" for channel in range(count)] if shared and key == "Total" else []
                found.append(_quantity(config, name, inner))
                self._places.append((key, number) if split else (key,))
        return found

    def _ask(self) -> dict[str, Any]:
        told = self._http.get("/cm", **self._query)
        if dig(told, "WARNING") is not None or dig(told, "Command") == "Error":
            raise HttpError(f"{self._http.url} refuses", "check user and password: those of its web page")
        energy = dig(told, "StatusSNS", "ENERGY")
        if not isinstance(energy, dict) or "Power" not in energy:
            raise HttpError(
                f"{self._http.url} tells no StatusSNS.ENERGY.Power",
                "use a device with power metering, and choose its template or module in Tasmota",
            )
        return energy

    def _fetch(self) -> list[object]:
        energy = self._ask()
        return [dig(energy, *place) for place in self._places]


def _quantity(config: TasmotaConfig, name: str, inner: list[str]) -> Quantity:
    if name.endswith("_w"):
        return Quantity(config.power(name))
    if name.endswith("_j"):
        counter = config.energy(name, _J_PER_KWH, _STEP_J)
        return CountedOn(msgspec.structs.replace(counter, contains=inner))
    return Quantity(config.other(name))
