"""Meters on Modbus TCP, or on a serial bus behind a gateway: registers as a map tells, and presets of known meters.

Source: Modbus Organization, Modbus application protocol specification V1.1b3; pymodbus 3, synchronous client.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Literal

import msgspec

from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.mapped import MappedChannel, MappedMeter, Quantity, check_channels, check_peer, load_library
from wattwerk.meters.presets import preset_channels, preset_doubts
from wattwerk.meters.resolve import resolve

_WHERE: Final = "meters.modbus"
_MOST_REGISTERS: Final = 125  # of one request, by the specification
_REGISTERS: Final = {
    "int16": 1,
    "uint16": 1,
    "int32": 2,
    "uint32": 2,
    "float32": 2,
    "int64": 4,
    "uint64": 4,
    "float64": 4,
}

#: Exception codes of the specification, section 7.
_EXCEPTIONS: Final = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "server device failure",
    5: "acknowledge",
    6: "server device busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target device failed to respond",
}


class ModbusChannel(MappedChannel, frozen=True, kw_only=True):
    """One number in the registers of a meter.

    Attributes:
        address: The first register's address as it goes over the wire, from 0: register 30053 of a manual is 52.
        function: Whether these are ``input`` registers (function 4, numbers 3xxxx) or ``holding`` ones (3, 4xxxx).
        type: ``float32``, ``float64``, or an integer ``int16``, ``uint16``, ``int32``, ``uint32``, ``int64``,
            ``uint64``. A counter of an unsigned type wraps around at its end, unless ``wraps_at`` says otherwise.
        word_order: ``big`` where the register with the high bits comes first.

    Raises:
        ConfigError: As for ``MappedChannel``; the address is none.
    """

    address: int
    function: Literal["input", "holding"] = "input"
    type: Literal["float32", "float64", "int16", "uint16", "int32", "uint32", "int64", "uint64"] = "float32"
    word_order: Literal["big", "little"] = "big"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.address <= 65536 - self.count:
            raise ConfigError(
                f"channel {self.name}: address = {self.address} is not possible",
                "use the address from 0 to 65535 that goes over the wire: register 30053 of a manual is 52",
            )

    @property
    def count(self) -> int:
        """How many registers the number takes."""
        return _REGISTERS[self.type]

    def complete(self) -> ModbusChannel:
        """Return the channel with what its type says about a counter: where it wraps, and its step."""
        wraps_at = 2.0 ** (16 * self.count) if self.type.startswith("uint") else None
        step = self.step if self.type.startswith("float") else self.whole()
        return msgspec.structs.replace(self, wraps_at=self.wraps_at or wraps_at, step=step)


class ModbusConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the Modbus meter.

    Attributes:
        host: The name or address of the meter, or of the gateway to its bus.
        port: Its TCP port.
        framer: ``tcp`` for Modbus TCP; ``rtu`` where a gateway passes on the serial bus's frames as they are.
        device_id: The meter's number on its bus; 1 for most meters with Ethernet.
        preset: The name of a known meter whose channels are read, before those in ``channels``.
        prefix: What the names of a preset's channels begin with.
        channels: What else to read.
        gap: How many registers that nobody wants may be read along, where that saves a request; some meters refuse.
        timeout_s: What a read may take, in seconds.
        interval_s: How far apart reads make sense, in seconds.
        latency_s: How far the values lag behind, in seconds. No manual of a preset states it, so 0 unless known.
    """

    host: str
    port: int = 502
    framer: Literal["tcp", "rtu"] = "tcp"
    device_id: int = 1
    preset: str = ""
    prefix: str = "meter0"
    channels: list[ModbusChannel] = []
    gap: int = 0
    timeout_s: float = 1.0
    interval_s: float = 1.0
    latency_s: float = 0.0


class Block(msgspec.Struct, frozen=True):
    """Registers that one request reads.

    Attributes:
        function: ``input`` or ``holding``.
        address: The first register's address.
        count: How many registers.
    """

    function: str
    address: int
    count: int

    @property
    def end(self) -> int:
        """The address behind the last register."""
        return self.address + self.count

    def holds(self, spec: ModbusChannel) -> bool:
        """Tell whether a channel's registers are among these."""
        return self.function == spec.function and self.address <= spec.address and spec.address + spec.count <= self.end


def blocks_of(specs: Sequence[ModbusChannel], gap: int) -> list[Block]:
    """Return the requests that read all channels, neighbours in one.

    Args:
        specs: The channels.
        gap: How many unwanted registers may be between two that are read in one request.
    """
    blocks: list[Block] = []
    for spec in sorted(specs, key=lambda each: (each.function, each.address)):
        last = blocks[-1] if blocks else None
        end = spec.address + spec.count
        if last and last.function == spec.function and spec.address <= last.end + gap:
            joined = Block(last.function, last.address, max(end, last.end) - last.address)
            if joined.count <= _MOST_REGISTERS:
                blocks[-1] = joined
                continue
        blocks.append(Block(spec.function, spec.address, spec.count))
    return blocks


class _RefusedError(Exception):
    """The meter answered a request with an exception code."""


class _Line:
    """The connection to one meter."""

    def __init__(self, config: ModbusConfig) -> None:
        client = load_library("pymodbus.client", "Modbus")
        self._pymodbus = load_library("pymodbus", "Modbus")
        # without a handler of its own, its complaints about a meter that is gone would go to the terminal
        logging.getLogger("pymodbus.logging").addHandler(logging.NullHandler())
        framer = self._pymodbus.FramerType.SOCKET if config.framer == "tcp" else self._pymodbus.FramerType.RTU
        self._timeout_s = config.timeout_s
        self._client = client.ModbusTcpClient(
            config.host, port=config.port, framer=framer, timeout=config.timeout_s, retries=0
        )
        self._device_id = config.device_id
        self._host = config.host

    def _connect(self, left_s: float) -> None:
        """Connect to one of the host's addresses; a third of the time for its name, a third for connecting.

        Raises:
            OSError: There is none, or nobody listens there.
        """
        addresses = resolve(self._host, left_s / 3)
        for address in addresses:
            self._client.comm_params.host = address
            self._allow(left_s / 3 / len(addresses))
            if self._client.connect():
                return
        raise OSError(f"no connection to {self._host}")

    def _allow(self, timeout_s: float) -> None:
        """Set what the next step may take; pymodbus keeps the limit of an answer's parts and of the whole apart."""
        for part in (self._client, self._client.transaction):
            part.comm_params.timeout_connect = timeout_s

    def read(self, blocks: Sequence[Block]) -> list[list[int] | _RefusedError]:
        """Return the registers of each block, or why the meter refuses them.

        Raises:
            OSError: The meter does not answer in time.
        """
        end_s = time.monotonic() + self._timeout_s
        found: list[list[int] | _RefusedError] = []
        for block in blocks:
            left_s = end_s - time.monotonic()
            if found and left_s < self._timeout_s / 10:
                self.close()
                raise TimeoutError(f"{len(blocks) - len(found)} of {len(blocks)} requests left when time was up")
            if not self._client.connected:
                self._connect(left_s)
                left_s = end_s - time.monotonic()
            # an answer may take its limit twice: a byte that comes at its end starts another wait
            self._allow(max(left_s, 0.01) / 2)
            found.append(self._request(block))
        return found

    def _request(self, block: Block) -> list[int] | _RefusedError:
        ask = self._client.read_input_registers if block.function == "input" else self._client.read_holding_registers
        try:
            answer = ask(block.address, count=block.count, device_id=self._device_id)
        except self._pymodbus.ModbusException as error:
            self.close()  # an answer that comes late must not be taken for that to the next request
            raise OSError(str(error)) from error
        except OSError:
            self.close()
            raise
        except Exception as error:  # whatever its decoder stumbles over
            self.close()
            raise OSError(f"an answer that is none ({type(error).__name__}: {error})") from error
        if answer.isError():
            code = answer.exception_code
            return _RefusedError(f"exception {code}, {_EXCEPTIONS.get(code, 'of the maker')}")
        if len(answer.registers) != block.count:
            self.close()
            raise OSError(f"{len(answer.registers)} registers instead of {block.count}")
        return list(answer.registers)

    def decode(self, registers: list[int], spec: ModbusChannel) -> Any:
        """Return the number in a channel's registers."""
        kind = self._client.DATATYPE[spec.type.upper()]
        return self._client.convert_from_registers(registers, kind, word_order=spec.word_order)

    def close(self) -> None:
        self._client.close()


def _specs(config: ModbusConfig) -> list[ModbusChannel]:
    preset = preset_channels("modbus", config.preset, ModbusChannel, config.prefix)
    return [spec.complete() for spec in [*preset, *config.channels]]


def _check(config: ModbusConfig) -> None:
    check_peer(config, _WHERE)
    if not 0 <= config.device_id <= 255:
        raise ConfigError(f"{_WHERE}: device_id = {config.device_id} is not possible", "use 0 to 255; most often 1")
    if config.gap < 0:
        raise ConfigError(f"{_WHERE}: gap = {config.gap} is not possible", "use 0 or more")


class ModbusMeter(MappedMeter):
    """Read a meter's registers, neighbours with one request.

    Channels: those of the preset, such as ``meter0_power_w`` and ``meter0_energy_j``, and those of the configuration.
    Counters go on from where the meter stands. Meters compute their values about once a second.
    """

    name: ClassVar[str] = "modbus"
    config: ClassVar[type[msgspec.Struct]] = ModbusConfig

    def __init__(self, config: msgspec.Struct) -> None:
        """Ask the meter for every channel.

        Raises:
            ConfigError: The configuration cannot be used.
            UnavailableError: The meter does not answer, or refuses a register.
        """
        assert isinstance(config, ModbusConfig)
        _check(config)
        specs = _specs(config)
        check_channels(specs, _WHERE)
        self._paced(config)
        self._doubts = preset_doubts("modbus", config.preset)
        self._address = f"{config.host}:{config.port}, device {config.device_id}"
        self._gap = config.gap
        self._blocks = blocks_of(specs, config.gap)
        self._specs = specs
        self._quantities = [Quantity(spec) for spec in specs]
        self._line = _Line(config)
        try:
            self._open()
        except BaseException:
            self._line.close()
            raise

    def _open(self) -> None:
        try:
            found = self._line.read(self._blocks)
        except OSError as error:
            raise UnavailableError(
                f"Modbus: {self._address} does not answer ({error})",
                "check host, port, framer and device_id; many meters serve one client at a time",
            ) from error
        for block, registers in zip(self._blocks, found, strict=True):
            if isinstance(registers, _RefusedError):
                names = ", ".join(spec.name for spec in self._specs if block.holds(spec))
                raise UnavailableError(
                    f"Modbus: {self._address} refuses {block.function} registers {block.address} to {block.end - 1} "
                    f"of {names} ({registers})",
                    "check address, function and device_id" + (", or set gap to 0" if self._gap else ""),
                )

    def read(self) -> list[float]:
        """Return one value for each channel, in SI units; NaN where it was refused, or is beyond its limits.

        Raises:
            MeasurementError: The meter does not answer in time, or refuses everything.
        """
        try:
            found = self._line.read(self._blocks)
        except OSError as error:
            raise MeasurementError(
                f"Modbus: {self._address} gives nothing ({error})", "see whether it is up"
            ) from error
        refused = [registers for registers in found if isinstance(registers, _RefusedError)]
        if len(refused) == len(found):
            raise MeasurementError(f"Modbus: {self._address} refuses ({refused[0]})", "see what it shows")
        now_ns = time.perf_counter_ns()
        return [
            self._value(spec, quantity, found, now_ns)
            for spec, quantity in zip(self._specs, self._quantities, strict=True)
        ]

    def _value(
        self, spec: ModbusChannel, quantity: Quantity, found: list[list[int] | _RefusedError], now_ns: int
    ) -> float:
        place = next(place for place, block in enumerate(self._blocks) if block.holds(spec))
        registers = found[place]
        if isinstance(registers, _RefusedError):
            return quantity.fault(str(registers))
        offset = spec.address - self._blocks[place].address
        return quantity.value(self._line.decode(registers[offset : offset + spec.count], spec), now_ns)

    def close(self) -> None:
        """Close the connection."""
        self._line.close()
