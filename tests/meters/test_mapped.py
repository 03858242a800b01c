from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattwerk.errors import ConfigError
from wattwerk.meters.mapped import MappedChannel, Quantity, number, secret
from wattwerk.meters.presets import load_preset
from wattwerk.records import Scope

SECOND = 10**9


def counter(**options: object) -> Quantity:
    """Return a counter of 16 bits in watt-hours, of which 10 kW at most flow."""
    plain = {"name": "rack_energy_j", "factor": 3600.0, "wraps_at": 65536.0, "max_power_w": 1e4}
    return Quantity(MappedChannel(**(plain | options)))  # type: ignore[arg-type]


@given(start=st.integers(0, 65535), grown=st.lists(st.integers(0, 10), max_size=50))
def test_wrap_around_loses_nothing(start: int, grown: list[int]) -> None:
    """Wherever a counter stands and however often it wraps, the channel grows by what really flowed."""
    quantity = counter()
    true = start
    assert quantity.value(true % 65536, 0) == start * 3600.0
    for place, step in enumerate(grown, 1):
        true += step
        assert quantity.value(true % 65536, 3600 * SECOND * place) == true * 3600.0
    assert quantity.faults == 0


@given(st.lists(st.one_of(st.integers(-10, 70000), st.floats(), st.text(max_size=5)), max_size=40))
def test_a_counter_only_grows_or_starts_at_0(numbers: list[object]) -> None:
    """Whatever a device sends, each value is NaN with a fault, the start of a count, or at least the one before."""
    quantity, last = counter(), 0.0
    for place, raw in enumerate(numbers):
        faults = quantity.faults
        value = quantity.value(raw, SECOND * place)
        assert quantity.faults > faults if math.isnan(value) or value < last else value >= last
        last = last if math.isnan(value) else value


def test_one_bad_reading_loses_nothing() -> None:
    """A single glitch, up or down, is NaN; the counter goes on from the last good value."""
    quantity = counter()
    values = [quantity.value(raw, SECOND * place) for place, raw in enumerate([100, 0, 101, 0, 60000, 102])]
    expected = [360000.0, math.nan, 363600.0, math.nan, math.nan, 367200.0]
    assert values == pytest.approx(expected, nan_ok=True)
    assert quantity.described_fault() == "rack_energy_j: 3 faults, the last one: the counter went from 101 to 60000"


def test_a_reset_starts_at_0() -> None:
    """A second low reading in a row is a reset: the energy across it is not known, and the channel falls to 0."""
    quantity = counter()
    values = [quantity.value(raw, SECOND * place) for place, raw in enumerate([100, 5, 5, 6])]
    assert values == pytest.approx([360000.0, math.nan, 0.0, 3600.0], nan_ok=True)


def test_a_long_gap_may_hold_much_energy() -> None:
    """What a jump may be depends on the time it took: an hour at 10 kW is 10000 Wh, a second of it is a glitch."""
    assert math.isnan([counter_.value(raw, at) for counter_ in [counter()] for raw, at in ((0, 0), (9000, SECOND))][1])
    slow = counter()
    slow.value(0, 0)
    assert slow.value(9000, 3600 * SECOND) == 9000 * 3600.0


def test_one_unit_is_never_too_much() -> None:
    """A coarse counter may move just after a reading: its step of 3600 J in a microsecond is no impossible power."""
    quantity = counter()
    assert [quantity.value(raw, at) for raw, at in ((7, 0), (8, 1000))] == [25200.0, 28800.0]


def test_limits_of_a_gauge() -> None:
    """A power below 0 is NaN unless its minimum allows it; a temperature goes down to absolute zero."""
    assert math.isnan(Quantity(MappedChannel(name="a_power_w")).value(-1, 0))
    solar = Quantity(MappedChannel(name="a_power_w", minimum=-5000.0, maximum=5000.0))
    assert (solar.value(-1, 0), solar.channel.signed, solar.channel.limit) == (-1.0, True, 5000.0)
    assert math.isnan(solar.value(5001, 0))
    cold = Quantity(MappedChannel(name="a_temperature_celsius"))
    assert (cold.value(-20, 0), cold.channel.scope) == (-20.0, None)
    assert math.isnan(cold.value(-274, 0))


def test_what_a_name_tells() -> None:
    """Joules are counted, all else is momentary; power and energy are the wall's unless told otherwise."""
    names = ("a_power_w", "a_energy_j", "a_volts", "a_amperes", "a_frequency_hz")
    channels = [MappedChannel(name=name).channel() for name in names]
    assert [channel.form for channel in channels] == ["gauge", "counter", "gauge", "gauge", "gauge"]
    assert [channel.scope for channel in channels] == [Scope.WALL, Scope.WALL, None, None, None]
    assert MappedChannel(name="a_power_w", scope=Scope.SWITCH).channel().scope is Scope.SWITCH


@pytest.mark.parametrize(
    "raw", ["", "x", "1e400", "0x10", "1_0", "１", True, None, math.nan, math.inf, 10**400, [1], "1" * 5000]
)
def test_what_is_no_number(raw: object) -> None:
    """Only finite decimal numbers are numbers; the message shows no more than 40 characters of the rest."""
    with pytest.raises(ValueError, match=r"no number|not finite|beyond all floats") as caught:
        number(raw)
    assert len(str(caught.value)) < 80


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_come_through_as_text(value: float) -> None:
    """Every finite float is read from its own text."""
    assert number(f" {value!r}\n") == value


def test_secrets_come_from_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password is given or named, not both; an empty variable is none."""
    monkeypatch.setenv("WORDS", "right-words")
    assert secret("", "WORDS", "password") == "right-words"
    assert secret("given", "", "password") == "given"
    with pytest.raises(ConfigError, match="both given"):
        secret("given", "WORDS", "password")
    monkeypatch.setenv("WORDS", "")
    with pytest.raises(ConfigError, match="WORDS is not set"):
        secret("", "WORDS", "password")


def test_a_presets_outlets_are_filled_in() -> None:
    """Each wanted outlet gets its own names and objects; without outlets there are none."""
    preset = load_preset("snmp", "apc-rpdu2")
    plain, more = preset.tables("left"), preset.tables("left", [3, 12])
    assert all("outlet" not in table["name"] for table in plain)
    assert [table["name"] for table in more[len(plain) :]] == [
        *("left_outlet3_power_w", "left_outlet3_energy_j", "left_outlet12_power_w", "left_outlet12_energy_j"),
    ]
    assert more[-1]["oid"].endswith(".11.12")
