"""Power and energy of a server, as its management controller tells them through Redfish.

Source: DMTF DSP0266, Redfish specification (sessions, basic authentication); DSP2046, Redfish resource and schema guide
(Chassis, EnvironmentMetrics, Power, Sensor).
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec

from wattwerk.errors import UnavailableError
from wattwerk.meters.http import CountedOn, DeviceConfig, HttpMeter, dig
from wattwerk.meters.http_client import HttpError
from wattwerk.meters.mapped import Quantity, secret
from wattwerk.records import Scope

_ROOT: Final = "/redfish/v1"
#: What a sensor counts or measures in -> the SI units in one of it
_SENSOR_UNITS: Final = {"W": 1.0, "kW.h": 3.6e6, "J": 1.0}


class RedfishConfig(DeviceConfig, frozen=True, kw_only=True):
    """Options of the Redfish meter, beside those of ``DeviceConfig``.

    Attributes:
        chassis: The chassis's ``Id``; empty where only one tells its power.
        sensors: Paths of sensors to read instead, such as ``/redfish/v1/Chassis/1/Sensors/TotalPower``.
        session: Whether to log in to a session and out again, instead of sending the password with each request.
    """

    prefix: str = "node"
    scope: Scope = Scope.NODE
    timeout_s: float = 2.0
    interval_s: float = 2.0
    chassis: str = ""
    sensors: list[str] = msgspec.field(default_factory=list)
    session: bool = False


class _Place(msgspec.Struct, frozen=True):
    """Where a number stands, and what it means."""

    path: str
    steps: tuple[str | int, ...]
    unit: str
    factor: float = 1.0


class RedfishMeter(HttpMeter):
    """Read a server's management controller.

    Channels: ``node_power_w``, and ``node_energy_j``, counted from opening, where the controller counts. They come from
    the chassis's EnvironmentMetrics, or from PowerControl of the deprecated resource Power, or from named sensors:
    ``node0_power_w``, ``node1_energy_j`` and so on, numbered as in the configuration. Redfish does not say over what
    time a reading is averaged nor how often it is renewed; ``PowerMetrics`` is the past, and is not used.
    """

    name: ClassVar[str] = "redfish"
    config: ClassVar[type[msgspec.Struct]] = RedfishConfig
    interval_s = 2.0

    def _open(self, config: RedfishConfig) -> list[Quantity]:
        self._http.set_header("OData-Version", "4.0")
        self._credentials = config.user, secret(config.password, config.password_env, "meters.redfish: password")
        self._session = ""
        self._uses_session = config.session
        if not isinstance(self._get(f"{_ROOT}/"), dict):
            raise HttpError(f"{self._http.url}{_ROOT}/ is no Redfish service", "check url")
        self._log_in()
        try:
            self._places = self._sensors(config) if config.sensors else self._chassis(config)
        except BaseException:
            self._log_out()
            raise
        return [_quantity(config, place, number) for number, place in enumerate(self._places)]

    def _get(self, path: str) -> Any:
        """Read a resource; while opening, each request has the whole time, since there are many."""
        self._http.begin()
        return self._http.get(path)

    def _log_in(self) -> None:
        user, password = self._credentials
        if not password:
            return
        if not self._uses_session:
            self._http.authenticate("basic", user, password)
            return
        self._http.begin()
        self._http.set_header("X-Auth-Token", "")  # a token that has ended would be refused even here
        answer = self._http.request(
            "POST", f"{_ROOT}/SessionService/Sessions", json={"UserName": user, "Password": password}
        )
        if "x-auth-token" not in answer.headers:
            raise HttpError(f"{answer.place} gives no session token", "set session to false")
        self._http.set_header("X-Auth-Token", answer.headers["x-auth-token"])
        location = answer.headers.get("location", "")  # a path, or a whole address
        self._session = location[location.find("/redfish/") :] if "/redfish/" in location else ""

    def _log_out(self) -> None:
        if not self._session:
            return
        session, self._session = self._session, ""
        try:
            self._http.begin()
            self._http.request("DELETE", session)
        except HttpError:
            return  # it ends by itself after a while

    def _sensors(self, config: RedfishConfig) -> list[_Place]:
        places = []
        for path in config.sensors:
            unit = dig(self._get(path), "ReadingUnits")
            if unit not in _SENSOR_UNITS:
                raise HttpError(f"{self._http.url}{path} measures in {unit!r}", "name sensors in W, kW.h or J")
            word = "power_w" if unit == "W" else "energy_j"
            places.append(_Place(path, ("Reading",), word, _SENSOR_UNITS[str(unit)]))
        return places

    def _chassis(self, config: RedfishConfig) -> list[_Place]:
        members = dig(self._get(f"{_ROOT}/Chassis"), "Members")
        found: dict[str, list[_Place]] = {}
        for member in members if isinstance(members, list) else []:
            chassis = self._get(str(dig(member, "@odata.id")))
            name = str(dig(chassis, "Id"))
            if config.chassis in ("", name) and (places := self._power_of(chassis)):
                found[name] = places
        if not found:
            which = f"chassis {config.chassis!r}" if config.chassis else "any chassis"
            raise UnavailableError(
                f"redfish: {self._http.url} tells no power of {which}",
                "correct chassis, or name sensors; older controllers need new firmware or a licence for it",
            )
        if len(found) > 1:  # an enclosure's power holds that of its parts
            raise UnavailableError(
                f"redfish: {self._http.url} tells the power of several chassis: {', '.join(found)}",
                "set chassis to the one of the whole server",
            )
        return next(iter(found.values()))

    def _power_of(self, chassis: object) -> list[_Place]:
        path = dig(chassis, "EnvironmentMetrics", "@odata.id")
        metrics = self._optional(path)
        places = []
        if _is_number(dig(metrics, "PowerWatts", "Reading")):
            places.append(_Place(str(path), ("PowerWatts", "Reading"), "power_w"))
        if _is_number(dig(metrics, "EnergykWh", "Reading")):
            places.append(_Place(str(path), ("EnergykWh", "Reading"), "energy_j", 3.6e6))
        if places:
            return places
        path = dig(chassis, "Power", "@odata.id")
        steps = ("PowerControl", 0, "PowerConsumedWatts")  # the first is that of the whole chassis
        return [_Place(str(path), steps, "power_w")] if _is_number(dig(self._optional(path), *steps)) else []

    def _optional(self, path: object) -> Any:
        """Read a resource that a chassis links to; some link to what they do not have."""
        if not isinstance(path, str):
            return None
        try:
            return self._get(path)
        except HttpError as error:
            if error.status in (404, 405, 501):
                return None
            raise

    def _fetch(self) -> list[object]:
        try:
            return self._read_places()
        except HttpError as error:
            if error.status != 401 or not self._uses_session:
                raise
        self._log_in()  # the session has ended: its time was up, or the controller restarted
        self._http.begin()
        return self._read_places()

    def _read_places(self) -> list[object]:
        answers = {path: self._http.get(path) for path in dict.fromkeys(place.path for place in self._places)}
        return [dig(answers[place.path], *place.steps) for place in self._places]

    def close(self) -> None:
        """Log out, and close the connection."""
        self._log_out()
        super().close()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _quantity(config: RedfishConfig, place: _Place, number: int) -> Quantity:
    name = f"{config.prefix}{number if config.sensors else ''}_{place.unit}"
    if place.unit == "power_w":
        return Quantity(config.power(name))
    return CountedOn(config.energy(name, place.factor))
