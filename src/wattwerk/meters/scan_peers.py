"""What answers at an address: asked by requests that only read, and without any password.

Source: Shelly, Gen1 and Gen2+ Device API (/shelly); Tasmota, Commands (Status 10); DMTF DSP0266 (/redfish/v1/ needs no
authentication); InfluxData, InfluxDB API (/ping); Prometheus, HTTP API; OASIS, MQTT 3.1.1, sections 3.1 and 3.2; Modbus
messaging on TCP/IP implementation guide V1.0b, section 3.1; IETF RFC 3416 and 1157 (encoding of a GetRequest).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from wattwerk.errors import WattwerkError
from wattwerk.meters import METERS
from wattwerk.meters.http import dig
from wattwerk.meters.http_client import Http, HttpError
from wattwerk.meters.presets import preset_names
from wattwerk.meters.sections import configured

DEADLINE_S: Final = 1.0
_CONNECT_S: Final = 0.6

_MQTT_CONNECT: Final = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x05\x00\x00"  # anonymous, a clean session, no client's name
_MODBUS_READ: Final = b"\x57\x57\x00\x00\x00\x06\x01\x04\x00\x00\x00\x01"  # one input register of device 1
#: sysDescr.0 of version 2c, community public.
_SNMP_GET: Final = (
    b"\x30\x29\x02\x01\x01\x04\x06public\xa0\x1c\x02\x04Wttw\x02\x01\x00\x02\x01\x00"
    b"\x30\x0e\x30\x0c\x06\x08\x2b\x06\x01\x02\x01\x01\x01\x00\x05\x00"
)


class Address(msgspec.Struct, frozen=True):
    """Where something may answer.

    Attributes:
        host: Name or number.
        port: TCP, and UDP for SNMP.
        usual: Whether the port is that which one of the protocols has; else all of them are tried.
    """

    host: str
    port: int
    usual: bool = True

    @property
    def text(self) -> str:
        """Host and port as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def url(self, scheme: str = "http") -> str:
        """Return the address as a URL, without the port that the scheme has anyway."""
        usual = {"http": 80, "https": 443}[scheme]
        return f"{scheme}://{self.text.removesuffix(f':{usual}') if self.port == usual else self.text}"


class Finding(msgspec.Struct, frozen=True):
    """Something that was found.

    Attributes:
        kind: The meter's name.
        word: What its section's name begins with.
        what: What it is, in words.
        options: Of its section.
        figures: What it showed: channel, with its prefix missing where that is the section's name -> value.
        ready: Whether the section works as it is; otherwise something has to be added.
        todo: What.
        more: Lines of TOML that follow the options, where something has to be added.
    """

    kind: str
    word: str
    what: str
    options: dict[str, Any]
    figures: dict[str, float] = {}
    ready: bool = True
    todo: str = ""
    more: tuple[str, ...] = ()


def plain(text: object, most: int = 60) -> str:
    """Return a text of a device as one short line for a comment."""
    shown = "".join(sign if sign.isprintable() else " " for sign in str(text or ""))
    line = " ".join(shown.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def listens(address: Address) -> bool:
    """Return whether somebody accepts a TCP connection."""
    with suppress(OSError), socket.create_connection((address.host, address.port), _CONNECT_S):
        return True
    return False


def _exchange(address: Address, sent: bytes, *, udp: bool = False) -> bytes:
    """Send some bytes and return the first that come back; nothing where none do."""
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    with suppress(OSError):
        family, _, _, _, place = socket.getaddrinfo(address.host, address.port, type=kind)[0]
        with socket.socket(family, kind) as peer:
            peer.settimeout(_CONNECT_S if udp else DEADLINE_S)
            peer.connect(place)
            peer.sendall(sent)
            return peer.recv(4096)
    return b""


def _tried(kind: str, options: dict[str, Any]) -> tuple[dict[str, float], str]:
    """Open a meter and read it once.

    Returns:
        Its powers, and why it does not open; empty if it does.
    """
    try:
        meter = METERS.load(kind)
        opened = meter(configured(meter, options, "", f"meters.{kind}"))
        try:
            values = opened.read()
        finally:
            names = [channel.name for channel in opened.channels]
            opened.close()
        return dict(zip(names, values, strict=True)), ""
    except WattwerkError as error:
        return {}, error.message


def _device(found: Finding) -> Finding:
    """Complete what was found by what it shows, or by what is missing."""
    figures, reason = _tried(found.kind, found.options | {"timeout_s": 2 * DEADLINE_S})
    if not reason:
        return msgspec.structs.replace(found, figures=figures)
    if not any(word in reason for word in (" answers 401", " answers 403", " refuses")):
        return msgspec.structs.replace(found, ready=False, todo=plain(reason, 200))
    more = ('user = "…"', f'password_env = "{found.kind.upper()}_PASSWORD"')
    return msgspec.structs.replace(found, ready=False, todo="it asks for user and password", more=more)


def _shelly(http: Http, address: Address) -> Finding | None:
    told = http.get("/shelly")
    if not isinstance(told, dict) or "mac" not in told or not ("gen" in told or "type" in told):
        return None
    name = plain(told.get("name"))
    what = f"Shelly {plain(told.get('app') or told.get('model') or told.get('type'))}, {plain(told['mac'])}"
    return _device(Finding("shelly", "shelly", what + (f", called {name}" if name else ""), {"url": address.url()}))


def _tasmota(http: Http, address: Address) -> Finding | None:
    told = http.get("/cm", cmnd="Status 10")
    locked = dig(told, "WARNING") is not None
    if dig(told, "StatusSNS") is None and not locked:
        return None
    if not locked and dig(told, "StatusSNS", "ENERGY") is None:
        return None
    return _device(Finding("tasmota", "tasmota", "Tasmota", {"url": address.url()}))


def _redfish(http: Http, address: Address) -> Finding | None:
    told = http.get("/redfish/v1/")
    if not isinstance(told, dict) or "RedfishVersion" not in told:
        return None
    maker = plain(f"{told.get('Vendor') or ''} {told.get('Product') or ''}")
    scheme = http.url.partition(":")[0]
    what = f"a management controller with Redfish {plain(told['RedfishVersion'])}{', ' + maker if maker else ''}"
    found = _device(Finding("redfish", "node", what, {"url": address.url(scheme)}))
    return found if found.ready else msgspec.structs.replace(found, more=(*found.more, '# ca_file = "…"'))


def _influx(http: Http, address: Address) -> Finding | None:
    answer = http.request("GET", "/ping")
    version = answer.headers.get("x-influxdb-version")
    if version is None:
        return None
    lines = ('database = "…"', "[[meters.{name}.channels]]", 'name = "rack_power_w"', 'query = "SELECT …"')
    return Finding(
        "influx-query", "influx", f"InfluxDB {plain(version)}", {"url": address.url()},
        ready=False, todo="say what to ask; to write to it: [sinks.influx] with the same url", more=lines,
    )  # fmt: skip


def _prometheus(http: Http, address: Address) -> Finding | None:
    if dig(http.get("/api/v1/query", query="1"), "data", "resultType") is None:
        return None
    lines = ("[[meters.{name}.channels]]", 'name = "rack_power_w"', 'query = "…"')
    return Finding(
        "prometheus-query", "prometheus", "Prometheus, or what speaks its API", {"url": address.url()},
        ready=False, todo="say what to ask", more=lines,
    )  # fmt: skip


_Web = Callable[[Http, Address], Finding | None]


def _web(address: Address, scheme: str, *asks: _Web) -> tuple[Finding | None, bool]:
    """Ask a web server what it is.

    Returns:
        What it is, and whether it speaks HTTP at all.
    """
    # nothing secret is sent, so that it does not matter whose certificate it is
    http = Http("scan", address.url(scheme), DEADLINE_S, verify=False)
    speaks = False
    try:
        for ask in asks:
            http.begin()
            try:
                if found := ask(http, address):
                    return found, True
                speaks = True
            except HttpError as error:
                if error.status is None and not speaks and "no JSON" not in error.message:
                    return None, False
                speaks = True
    finally:
        http.close()
    return None, speaks


def _mqtt(address: Address) -> Finding | None:
    answer = _exchange(address, _MQTT_CONNECT)
    if len(answer) < 4 or answer[0] != 0x20:
        return None
    more = () if answer[3] == 0 else ('user = "…"', 'password_env = "MQTT_PASSWORD"')
    lines = ("[[meters.{name}.channels]]", 'name = "plug_power_w"', 'topic = "…"', 'path = "…"')
    port = {} if address.port == 1883 else {"port": address.port}
    return Finding(
        "mqtt", "mqtt", "an MQTT broker", {"host": address.host} | port,
        ready=False, todo="say which topics; `mosquitto_sub -t '#' -v` shows them", more=(*more, *lines),
    )  # fmt: skip


def _modbus(address: Address) -> Finding | None:
    answer = _exchange(address, _MODBUS_READ)
    if len(answer) < 8 or answer[:4] != _MODBUS_READ[:4]:
        return None
    port = {} if address.port == 502 else {"port": address.port}
    return Finding(
        "modbus", "meter", "a device with Modbus TCP", {"host": address.host} | port, ready=False,
        todo="choose the preset of the meter, or give its registers as channels",
        more=(f'preset = "…"  # {", ".join(preset_names("modbus"))}',),
    )  # fmt: skip


def _snmp(address: Address) -> Finding | None:
    answer = _exchange(address, _SNMP_GET, udp=True) or _exchange(
        address, _SNMP_GET, udp=True
    )  # a datagram can be lost
    if not answer.startswith(b"\x30") or b"public" not in answer:
        return None
    place = {"host": address.host, "community": "public"} | ({} if address.port == 161 else {"port": address.port})
    best: Finding | None = None
    for preset in preset_names("snmp"):
        options = place | {"preset": preset}
        figures, _ = _tried("snmp", options)
        if figures and (best is None or len(figures) > len(best.figures)):
            best = Finding("snmp", "pdu", f"a device whose values fit the preset {preset}", options, figures)
    return best


_ASKS: Final[dict[int, Callable[[Address], Finding | None]]] = {
    80: lambda address: _web(address, "http", _shelly, _tasmota, _redfish)[0],
    443: lambda address: _web(address, "https", _redfish)[0],
    502: _modbus,
    1883: _mqtt,
    8086: lambda address: _web(address, "http", _influx)[0],
    9090: lambda address: _web(address, "http", _prometheus)[0],
}
SNMP_PORT: Final = 161
PORTS: Final = (*_ASKS, SNMP_PORT)


def identify(address: Address) -> Finding | None:
    """Return what answers at an address; None where nobody does, or nobody whom a meter could read."""
    if address.usual:
        if address.port == SNMP_PORT:
            return _snmp(address)
        return _ASKS[address.port](address) if listens(address) else None
    if listens(address):
        found, speaks = _web(address, "http", _shelly, _tasmota, _redfish, _influx, _prometheus)
        found = found or (None if speaks else _mqtt(address) or _modbus(address) or _web(address, "https", _redfish)[0])
        if found:
            return found
    return _snmp(address)
