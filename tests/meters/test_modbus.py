from __future__ import annotations

import asyncio
import math
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("pymodbus")
from pymodbus import FramerType
from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from wattwerk.config import to_struct
from wattwerk.errors import ConfigError, MeasurementError, UnavailableError
from wattwerk.meters.modbus import Block, ModbusChannel, ModbusConfig, ModbusMeter, blocks_of
from wattwerk.meters.presets import load_preset, preset_names
from wattwerk.records import Scope

#: What an SDM630 holds in its input registers, as its protocol's documentation tells.
SDM630 = {
    **{0: 230.5, 2: 231.0, 4: 229.5, 6: 2.0, 8: 3.0, 10: 4.0, 12: 460.0, 14: 690.0, 16: 910.0},
    **{52: 2060.0, 70: 50.0, 72: 1234.5},
}

POWER = {"name": "rack_power_w", "address": 52}


def words(layout: str, value: float) -> list[int]:
    """Return a number as registers, the high one first."""
    data = struct.pack(f">{layout}", value)
    return [int.from_bytes(data[place : place + 2], "big") for place in range(0, len(data), 2)]


class Server:
    """A real pymodbus server in a thread, with the registers of an SDM630; every other address is illegal."""

    def __init__(self, framer: FramerType = FramerType.SOCKET) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.registers = {
            address + place: word for address, value in SDM630.items() for place, word in enumerate(words("f", value))
        }
        self.requests: list[tuple[int, int]] = []
        self.refused: set[int] = set()
        self.delay_s = 0.0
        self.meters: list[ModbusMeter] = []
        self._framer = framer
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()

    def put(self, address: int, registers: list[int]) -> None:
        """Let registers hold words, from an address on."""
        for place, word in enumerate(registers):
            self.registers[address + place] = word

    async def _action(
        self, function: int, start: int, address: int, count: int, current: list[int], new: object
    ) -> ExcCodes | None:
        self.requests.append((address, count))
        await asyncio.sleep(self.delay_s)
        wanted = range(address, address + count)
        if self.refused.intersection(wanted) or not all(each in self.registers for each in wanted):
            return ExcCodes.ILLEGAL_ADDRESS
        for each in wanted:
            current[each - start] = self.registers[each]
        return None

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def start(self) -> None:
        """Begin to serve."""

        async def begin() -> ModbusTcpServer:
            data = [SimData(0, count=1000, values=0, datatype=DataType.REGISTERS)]
            device = SimDevice(1, simdata=data, action=self._action)
            server = ModbusTcpServer(device, framer=self._framer, address=("127.0.0.1", self.port))
            await server.serve_forever(background=True)
            return server

        self._server = self._run(begin())

    def stop(self) -> None:
        """Close the port and every connection."""
        self._run(self._server.shutdown())

    def end(self) -> None:
        """Close every meter that was opened, and end the thread."""
        for meter in self.meters:
            meter.close()
        self.stop()

        async def cancel() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._run(cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def config(self, *channels: dict[str, Any], **options: Any) -> ModbusConfig:
        """Return the configuration that reaches this server."""
        plain = {"host": "127.0.0.1", "port": self.port, "channels": list(channels)}
        return to_struct(ModbusConfig, plain | options, "meters.modbus")

    def open(self, *channels: dict[str, Any], **options: Any) -> ModbusMeter:
        """Open a meter on this server."""
        self.meters.append(ModbusMeter(self.config(*channels, **options)))
        return self.meters[-1]


@pytest.fixture
def server() -> Iterator[Server]:
    """Start a server."""
    started = Server()
    yield started
    started.end()


@pytest.fixture
def serial() -> Iterator[Server]:
    """Start a server that passes on the frames of a serial bus, as some gateways do."""
    started = Server(FramerType.RTU)
    yield started
    started.end()


def test_sdm630_preset(server: Server) -> None:
    """The preset reads power and energy in SI units, and neighbours in one request."""
    meter = server.open(preset="eastron-sdm630", prefix="room")
    read = dict(zip([channel.name for channel in meter.channels], meter.read(), strict=True))
    assert read == {
        "room_power_w": 2060.0,
        "room_energy_j": 1234.5 * 3.6e6,
        **{"room_l1_power_w": 460.0, "room_l2_power_w": 690.0, "room_l3_power_w": 910.0},
        **{"room_l1_volts": 230.5, "room_l2_volts": 231.0, "room_l3_volts": 229.5},
        **{"room_l1_amperes": 2.0, "room_l2_amperes": 3.0, "room_l3_amperes": 4.0},
        "room_frequency_hz": 50.0,
    }
    assert {channel.name: channel.scope for channel in meter.channels}["room_energy_j"] is Scope.WALL
    assert server.requests == [(0, 18), (52, 2), (70, 4)] * 2
    server.put(72, words("f", 1234.75))
    assert meter.read()[1] == 1234.75 * 3.6e6


@pytest.mark.parametrize(
    ("kind", "layout", "value"),
    [
        ("float32", "f", 1.5),
        ("float64", "d", 1e-7),
        ("int16", "h", -2),
        ("uint16", "H", 65535),
        ("int32", "i", -70000),
        ("uint32", "I", 4_000_000_000),
        ("int64", "q", -(2**40)),
        ("uint64", "Q", 2**40 + 1),
    ],
)
def test_types_and_word_orders(server: Server, kind: str, layout: str, value: float) -> None:
    """Every type is read with the high word first and with the low word first."""
    server.put(100, words(layout, value))
    server.put(200, words(layout, value)[::-1])
    plain = {"type": kind, "function": "holding", "minimum": -1e18}
    meter = server.open(
        {"name": "high_power_w", "address": 100, **plain},
        {"name": "low_power_w", "address": 200, "word_order": "little", **plain},
    )
    assert meter.read() == [value, value]


def test_a_counter_of_32_bits_goes_on_over_its_end(server: Server) -> None:
    """An unsigned counter wraps as wide as its type; what falls otherwise is NaN and a fault."""
    server.put(100, words("I", 2**32 - 4))
    kind = {"type": "uint32", "factor": 1000.0, "max_power_w": 1e9}  # days pass in milliseconds
    energy = {"name": "rack_energy_j", "address": 100, **kind}
    meter = server.open(energy, POWER)
    assert meter.read() == [(2**32 - 4) * 1000.0, 2060.0]
    server.put(100, words("I", 1))
    assert meter.read() == [(2**32 + 1) * 1000.0, 2060.0]
    server.put(100, words("I", 0))
    assert math.isnan(meter.read()[0])
    server.put(100, words("I", 2))
    assert meter.read()[0] == (2**32 + 2) * 1000.0
    assert meter.channels[0].step == 1000.0
    assert meter.faults() == ["rack_energy_j: 1 faults, the last one: the counter went from 1 to 0"]


def test_what_cannot_be_is_nan(server: Server) -> None:
    """A float that is no number, a negative power and one beyond the limit are NaN; the others stay."""
    for place, value in enumerate((math.nan, -1.0, 5001.0, 5000.0)):
        server.put(100 + 2 * place, words("f", value))
    names = [f"feed{place}_power_w" for place in range(4)]
    meter = server.open(
        *({"name": name, "address": 100 + 2 * place, "maximum": 5000.0} for place, name in enumerate(names))
    )
    assert meter.read() == pytest.approx([math.nan, math.nan, math.nan, 5000.0], nan_ok=True)
    assert [fault.partition(":")[0] for fault in meter.faults()] == names[:3]


def test_an_illegal_address_is_named_at_opening(server: Server) -> None:
    """A register that the meter lacks makes it unavailable, with the exception's meaning and the channel's name."""
    with pytest.raises(UnavailableError, match=r"input registers 800 to 801 of other_power_w \(exception 2, illegal"):
        server.open(POWER, {"name": "other_power_w", "address": 800})


def test_a_refused_request_costs_its_own_channels(server: Server) -> None:
    """A meter that refuses one request later gives NaN there; one that refuses all raises."""
    meter = server.open(POWER, {"name": "l1_volts", "address": 0})
    server.refused = {0}
    assert meter.read() == pytest.approx([2060.0, math.nan], nan_ok=True)
    server.refused = {0, 52}
    with pytest.raises(MeasurementError, match="illegal data address"):
        meter.read()


def test_rtu_frames_over_tcp(serial: Server) -> None:
    """A gateway that passes on serial frames is read with the framer rtu."""
    assert serial.open(POWER, framer="rtu").read() == [2060.0]


def test_a_stopped_server_is_bounded(server: Server) -> None:
    """A read raises within its time when the meter is gone, and reads again when it is back."""
    meter = server.open(POWER)
    server.stop()
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(MeasurementError, match=f"127.0.0.1:{server.port}"):
            meter.read()
    assert time.monotonic() - start < 30
    server.start()
    assert meter.read() == [2060.0]


def test_a_slow_meter_is_bounded(server: Server) -> None:
    """A meter that takes too long makes the read raise in time, also where each single request would still pass."""
    meter = server.open(POWER, *({"name": f"l{n}_volts", "address": 4 * n} for n in range(4)), timeout_s=1.5)
    server.delay_s = 0.4
    start = time.monotonic()
    with pytest.raises(MeasurementError, match="gives nothing"):
        meter.read()
    server.delay_s = 1.0
    with pytest.raises(MeasurementError, match="gives nothing"):
        meter.read()
    assert time.monotonic() - start < 30


def test_a_late_answer_is_not_taken_for_the_next(serial: Server) -> None:
    """Serial frames carry no number of their request: an answer that came too late is thrown away, not read later."""
    meter = serial.open(POWER, framer="rtu", timeout_s=1.0)
    serial.delay_s = 0.8
    with pytest.raises(MeasurementError, match="gives nothing"):
        meter.read()
    time.sleep(0.5)  # by now it has come
    serial.delay_s = 0.0
    serial.put(52, words("f", 100.0))
    assert meter.read() == [100.0]


def test_nobody_there_is_unavailable() -> None:
    """A closed port is named with what to check."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        config = to_struct(ModbusConfig, {"host": "127.0.0.1", "port": port, "channels": [POWER]}, "meters.modbus")
        with pytest.raises(UnavailableError, match=f"127.0.0.1:{port}, device 1 does not answer") as caught:
            ModbusMeter(config)
    assert "device_id" in str(caught.value.remedy)


def test_neighbours_are_joined() -> None:
    """Registers that touch or overlap are one request; a gap is bridged only as far as allowed, to 125 registers."""
    specs = [ModbusChannel(name=f"c{address}_power_w", address=address) for address in (4, 0, 2, 8)]
    assert blocks_of(specs, 0) == [Block("input", 0, 6), Block("input", 8, 2)]
    assert blocks_of(specs, 2) == [Block("input", 0, 10)]
    many = [ModbusChannel(name=f"c{address}_power_w", address=address) for address in range(0, 140, 2)]
    assert blocks_of(many, 0) == [Block("input", 0, 124), Block("input", 124, 16)]
    mixed = [ModbusChannel(name=f"{kind}_power_w", address=0, function=kind) for kind in ("input", "holding")]
    assert len(blocks_of(mixed, 100)) == 2


def test_every_preset_fits() -> None:
    """Each shipped preset names its source and holds valid channels, power and energy among them."""
    assert preset_names("modbus") == [
        *("eastron-sdm120", "eastron-sdm230", "eastron-sdm630", "gavazzi-em24", "gavazzi-em340", "siemens-pac"),
    ]
    for name in preset_names("modbus"):
        preset = load_preset("modbus", name)
        assert preset.source
        names = [to_struct(ModbusChannel, table, name).name for table in preset.tables("meter0")]
        assert names[:2] == ["meter0_power_w", "meter0_energy_j"]
        assert len(set(names)) == len(names)


def test_gavazzi_preset_reads_the_low_word_first(server: Server) -> None:
    """An EM340's tenths of watts and kilowatt-hours become SI; registers as in the preset, which nobody compared."""
    for address, value in ((0, 2305), (12, 2500), (40, 5755), (52, 100)):
        server.put(address, words("i", value)[::-1])
    meter = server.open(preset="gavazzi-em340")
    server.put(52, words("i", 101)[::-1])
    assert meter.read() == pytest.approx([575.5, 101 * 3.6e5, 230.5, 2.5])


@pytest.mark.parametrize(("preset", "doubted"), [("eastron-sdm120", True), ("eastron-sdm230", False)])
def test_a_preset_that_was_not_compared_says_so(server: Server, preset: str, doubted: bool) -> None:
    """What nobody compared with the maker's document is told among the faults, from the first reading on."""
    for address in range(0, 400, 2):
        server.put(address, words("f", 1.0))
    meter = server.open(preset=preset, channels=[])
    meter.read()
    assert [f"the preset {preset} was not compared" in fault for fault in meter.faults()] == [True] * doubted


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"channels": []}, "no channels"),
        ({"channels": [POWER, POWER]}, "two channels are called rack_power_w"),
        ({"channels": [{"name": "rack_power_w", "address": 65535}]}, "address = 65535"),
        ({"channels": [{"name": "rack_power_w", "address": 1, "type": "float16"}]}, "float16"),
        ({"channels": [{"name": "rack_power_w", "address": 1, "adress": 2}]}, "adress"),
        ({"device_id": 256}, "device_id = 256"),
        ({"gap": -1}, "gap = -1"),
        ({"timeout_s": -1.0}, "timeout_s"),
        ({"preset": "eastron-sdm63"}, "did you mean 'eastron-sdm630'"),
    ],
)
def test_bad_configuration_is_named(options: dict[str, Any], text: str) -> None:
    """What cannot work is refused with the key, before anything is sent."""
    plain = {"host": "127.0.0.1", "channels": [POWER]}
    with pytest.raises(ConfigError) as caught:
        ModbusMeter(to_struct(ModbusConfig, plain | options, "meters.modbus"))
    assert text in str(caught.value)
