"""Rack PDUs, power supplies and meters that answer SNMP: any OID that holds a number, and presets of known devices.

Source: IETF RFC 3416 (operations); pysnmp 7, high-level asyncio API.
"""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.mapped import MappedMeter, Quantity, check_channels, check_peer, load_library
from wattwerk.meters.presets import preset_channels, preset_doubts
from wattwerk.meters.resolve import resolve
from wattwerk.meters.snmp_config import WHERE, SnmpChannel, SnmpConfig, credentials

T = TypeVar("T")

#: pysnmp reads its own tables when it starts: a tenth of a second, or seconds on a busy machine.
_PREPARE_S: Final = 5.0

_NUMBERS: Final = ("Integer", "Integer32", "Unsigned32", "Counter32", "Gauge32", "Counter64", "TimeTicks")
_MOST_DIGITS: Final = 18  # of a number of 64 bits
_ABSENT: Final = ("NoSuchObject", "NoSuchInstance", "EndOfMibView", "Null")


class _LoopThread:
    """An event loop in a thread of its own: pysnmp's coroutines run there, whatever thread asks for them.

    The recorder opens a meter in one thread, reads it in another one, and may replace that: a loop of the caller's
    would be used from several threads, and could not run where the caller has a running loop already.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run a coroutine to its end.

        Raises:
            TimeoutError: It takes longer than it may.
        """
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout_s), self._loop)
        return future.result()

    def close(self) -> None:
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _NoAnswerError(Exception):
    """The agent did not give the values; ``index`` is the place of the OID it complains about, from 0, if any."""

    def __init__(self, text: str, index: int | None = None) -> None:
        super().__init__(text)
        self.index = index


class _Agent:
    """The connection to one agent."""

    def __init__(self, config: SnmpConfig) -> None:
        self._snmp = load_library("pysnmp.hlapi.v3arch.asyncio", "SNMP")
        self._config = config
        self._credentials = credentials(self._snmp, config)
        self._loop = _LoopThread()
        self._engine: Any = None
        self._target: Any = None
        self._forgotten = False

    def open(self) -> None:
        """Find the agent's address; nothing is sent yet.

        Raises:
            OSError: There is no such address.
            TimeoutError: Nobody tells the address.
        """
        found = resolve(self._config.host, self._config.timeout_s)
        # the older kind of address first: agents of small devices know no other
        host = next((each for each in found if ":" not in each), found[0])
        self._loop.run(self._prepare(host), self._config.timeout_s + _PREPARE_S)

    async def _prepare(self, host: str) -> None:
        kind = self._snmp.Udp6TransportTarget if ":" in host else self._snmp.UdpTransportTarget
        address = (host, self._config.port)
        # the answer is awaited for timeout_s in all, and asked for once more in between
        self._target = await kind.create(address, timeout=self._config.timeout_s / 2, retries=1)
        self._begin()

    def _begin(self) -> None:
        """Make an engine that knows target and user; to compute keys takes a while, which is none of the agent's."""
        self._engine = self._snmp.SnmpEngine()
        known = load_library("pysnmp.hlapi.v3arch.asyncio.lcd", "SNMP").CommandGeneratorLcdConfigurator()
        known.configure(self._engine, self._credentials, self._target, self._config.context.encode())

    def get(self, oids: Sequence[str]) -> list[Any]:
        """Return the values of objects, asked for in one request.

        Raises:
            _NoAnswerError: The agent does not answer, or refuses.
        """
        if self._forgotten:
            self._loop.run(self._renew(), self._config.timeout_s + _PREPARE_S)
        # an agent that restarts counts its time anew, and pysnmp would take all that it says for a replay (RFC 3414,
        # 3.2 (7)): after a failure the next request of version 3 asks for the agent's time again
        self._forgotten = self._config.version == "3"
        try:
            failure, status, index, rows = self._loop.run(self._get(oids), self._config.timeout_s)
        except TimeoutError as error:
            raise _NoAnswerError(f"no answer within {self._config.timeout_s:g} s") from error
        except (OSError, self._pysnmp_error()) as error:
            raise _NoAnswerError(str(error)) from error
        if failure:
            raise _NoAnswerError(str(failure))
        self._forgotten = False
        if status:
            raise _NoAnswerError(status.prettyPrint(), int(index) - 1 if index else None)
        return [row[1] for row in rows]

    async def _renew(self) -> None:
        self._engine.close_dispatcher()
        self._begin()

    def _pysnmp_error(self) -> type[Exception]:
        kind: type[Exception] = load_library("pysnmp.error", "SNMP").PySnmpError
        return kind

    async def _get(self, oids: Sequence[str]) -> Any:
        snmp = self._snmp
        objects = [snmp.ObjectType(snmp.ObjectIdentity(oid.lstrip("."))) for oid in oids]
        context = snmp.ContextData(contextName=self._config.context.encode())
        return await snmp.get_cmd(self._engine, self._credentials, self._target, context, *objects, lookupMib=False)

    def close(self) -> None:
        if self._engine is not None:
            self._loop.run(self._end(), 5)
            self._engine = None
        self._loop.close()

    async def _end(self) -> None:
        self._engine.close_dispatcher()


def _raw(value: Any) -> object:
    """Return an agent's value as what ``mapped.number`` reads."""
    kind = type(value).__name__
    if kind in _ABSENT:
        return f"{kind} at the agent"
    if kind == "Opaque":
        return _opaque(bytes(value))
    if kind == "OctetString":
        return bytes(value).decode("utf-8", "replace")
    return int(value) if kind in _NUMBERS else f"a value of type {kind}"  # the rest are addresses and names


def _opaque(data: bytes) -> object:
    """Return a float or double that Net-SNMP wraps into an Opaque (draft-perkins-opaque-01)."""
    layouts = {b"\x9f\x78\x04": ">f", b"\x9f\x79\x08": ">d"}
    layout = layouts.get(data[:3], "")
    return struct.unpack(layout, data[3:])[0] if layout and len(data) == 3 + struct.calcsize(layout) else data.hex()


def _specs(config: SnmpConfig) -> tuple[list[SnmpChannel], int]:
    """Return all channels, those of the preset first, and the number of the latter."""
    preset = preset_channels("snmp", config.preset, SnmpChannel, config.prefix, config.outlets)
    if config.outlets and not config.preset:
        raise ConfigError(f"{WHERE}: outlets without a preset", "set preset, or list each outlet in channels")
    return [*preset, *config.channels], len(preset)


class SnmpMeter(MappedMeter):
    """Read a device by SNMP: all its values with one request.

    Channels: those of the preset that the device has, such as ``pdu0_power_w``, ``pdu0_energy_j`` and
    ``pdu0_outlet3_power_w``, and those of the configuration. Counters go on from where the device stands. PDUs compute
    their values about once a second.
    """

    name: ClassVar[str] = "snmp"
    config: ClassVar[type[msgspec.Struct]] = SnmpConfig

    def __init__(self, config: msgspec.Struct) -> None:
        """Ask the agent for every channel.

        Raises:
            ConfigError: The configuration cannot be used.
            UnavailableError: The agent does not answer, refuses, or lacks a channel.
        """
        assert isinstance(config, SnmpConfig)
        check_peer(config, WHERE)
        specs, optional = _specs(config)
        check_channels(specs, WHERE)
        self._paced(config)
        self._doubts = preset_doubts("snmp", config.preset)
        self._address = f"{config.host}:{config.port}"
        self._version = config.version
        self._agent = _Agent(config)
        try:
            self._open_agent()
            known = self._open_channels(specs, optional)
        except BaseException:
            self._agent.close()
            raise
        self._oids = [spec.oid for spec in known]
        self._quantities = [Quantity(spec) for spec in known]

    def _open_agent(self) -> None:
        try:
            self._agent.open()
        except Exception as error:
            raise UnavailableError(f"SNMP: no address of {self._address} ({error})", "check host") from error

    def _open_channels(self, specs: list[SnmpChannel], optional: int) -> list[SnmpChannel]:
        oids = [oid for spec in specs for oid in (spec.oid, spec.digits_oid) if oid]
        found = self._ask_all(oids)
        opened: list[SnmpChannel] = []
        for place, spec in enumerate(specs):
            value = found[spec.oid]
            if value is None or (place < optional and _raw(value) == -1):  # APC's sign for "this model does not"
                if place < optional:
                    continue
                raise UnavailableError(f"SNMP: {self._address} has no {spec.oid} ({spec.name})", "correct its oid")
            opened.append(self._known(spec, value, found.get(spec.digits_oid)))
        if not opened:
            raise UnavailableError(
                f"SNMP: {self._address} has nothing of the preset", "check preset, and what the user may see"
            )
        return opened

    def _known(self, spec: SnmpChannel, value: Any, digits: Any) -> SnmpChannel:
        """Complete a channel by what the agent tells about it."""
        if spec.digits_oid and digits is None:
            raise UnavailableError(
                f"SNMP: {self._address} has no {spec.digits_oid} ({spec.name})", "correct or leave out digits_oid"
            )
        count = _raw(digits) if spec.digits_oid else 0
        if not (isinstance(count, int) and 0 <= count <= _MOST_DIGITS):
            raise UnavailableError(
                f"SNMP: {self._address} tells {str(count)[:40]!r} decimal digits ({spec.name})", "correct digits_oid"
            )
        factor = spec.factor / 10**count
        bits = spec.bits or {"Counter32": 32, "Counter64": 64}.get(type(value).__name__)
        wraps_at = spec.wraps_at or (2.0**bits if bits else None)
        known = msgspec.structs.replace(spec, factor=factor, wraps_at=wraps_at)
        return msgspec.structs.replace(known, step=known.whole()) if isinstance(_raw(value), int) else known

    def _ask_all(self, oids: list[str]) -> dict[str, Any]:
        """Return OID -> value, None where the agent lacks it."""
        missing: dict[str, Any] = {}
        while wanted := [oid for oid in oids if oid not in missing]:
            try:
                values = self._agent.get(wanted)
            except _NoAnswerError as error:
                # version 1 refuses a whole request for one missing object, and says which
                if self._version != "1" or error.index is None or not 0 <= error.index < len(wanted):
                    raise self._unavailable(error) from error
                missing[wanted[error.index]] = None
                continue
            present = [None if type(value).__name__ in _ABSENT else value for value in values]
            return missing | dict(zip(wanted, present, strict=True))
        return missing

    def _unavailable(self, error: _NoAnswerError) -> UnavailableError:
        who = "user, auth and privacy with their passwords" if self._version == "3" else "community"
        return UnavailableError(
            f"SNMP: {self._address} does not give the values ({error})",
            f"check host, port, version, {who}, and whether the device lets this machine ask",
        )

    def read(self) -> list[float]:
        """Return one value for each channel, in SI units; NaN where it is missing, no number, or beyond its limits.

        Raises:
            MeasurementError: The agent does not answer in time, or refuses.
        """
        try:
            values = self._agent.get(self._oids)
        except _NoAnswerError as error:
            raise MeasurementError(f"SNMP: {self._address} gives nothing ({error})", "see whether it is up") from error
        now_ns = time.perf_counter_ns()
        return [quantity.value(_raw(value), now_ns) for quantity, value in zip(self._quantities, values, strict=True)]

    def close(self) -> None:
        """End the thread that talks to the agent."""
        self._agent.close()
