"""Sections ``[meters.<name>]`` of ``config.toml``: which meter each is of, and how its channels are called.

A section has the name of its meter, or a name of its own and the meter as ``kind``, so that there may be several meters
of a kind. The channels of the latter do not collide: the section's name takes the place of the meter's ``prefix``;
where the meter has no such option it stands before its channels' names; and where the user names the channels, nothing
is done.
"""

from __future__ import annotations

import re
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, ClassVar, Final

import msgspec

from wattwerk.config import home, read_toml, to_struct, user_section
from wattwerk.errors import ConfigError, UnavailableError, WattwerkError
from wattwerk.meters import METERS
from wattwerk.meters.base import Channel, Meter
from wattwerk.meters.sensor import slug
from wattwerk.records import Accelerator
from wattwerk.registry import Probe, suggestion

_WORD: Final = re.compile(r"[a-z][a-z0-9_]*")


class Section(msgspec.Struct, frozen=True):
    """What a section says.

    Attributes:
        name: Behind ``meters.``.
        kind: The meter's name.
        options: All other keys.
    """

    name: str
    kind: str
    options: dict[str, Any]

    @property
    def own(self) -> str:
        """The section's name where it is not that of its meter; else empty."""
        return "" if self.name == self.kind else self.name


def meter_sections() -> dict[str, Section]:
    """Return the sections ``[meters.<name>]`` of the user's ``config.toml`` by name.

    Raises:
        ConfigError: A section is of no meter or does not fit it, or ``config.toml`` cannot be read.
    """
    path = home() / "config.toml"
    _check_tables()
    found = {}
    for name in user_section("meters"):
        options = user_section("meters", name)
        section = Section(name, _kind(name, options, f"{path}: [meters.{name}]"), options)
        options.pop("kind", None)
        with suppress(UnavailableError):  # a plug-in that cannot be imported: its probe says so
            configured(METERS.load(section.kind), section.options, section.own, f"{path}: [meters.{name}]")
        found[name] = section
    return found


def _check_tables() -> None:
    """Refuse a table that is nearly ``[meters.nvml]`` or ``[contains]``: what it says would be left out silently."""
    path = home() / "config.toml"
    for name, table in (read_toml(path) if path.exists() else {}).items():
        near = get_close_matches(name, ("meters", "contains"), n=1, cutoff=0.8)
        of_meters = isinstance(table, dict) and set(table) & set(METERS.names())
        if near and name != near[0] and (near[0] == "contains" or of_meters):
            raise ConfigError(f"{path}: [{name}] is no section", f"did you mean [{near[0]}]?")


def _kind(name: str, options: dict[str, Any], where: str) -> str:
    known = METERS.names()
    kind = options.get("kind", name)
    if kind == name and name not in known:
        more = 'or say of which meter it is, such as kind = "shelly"'
        raise ConfigError(f"{where} is no section of a meter", f"{suggestion(name, known).rstrip('?')}? {more}")
    if kind not in known:
        raise ConfigError(f"{where}: kind = {kind!r} is no meter", suggestion(str(kind), known))
    if name in known and kind != name:
        raise ConfigError(f"{where}: kind = {kind!r}, but its name is that of another meter", "rename the section")
    return str(kind)


def configured(meter: type[Meter], options: dict[str, Any], own: str, where: str) -> msgspec.Struct:
    """Return a meter's configuration; the name of a section of its own is the prefix unless another one is given.

    Args:
        meter: Which one.
        options: Its options, plain values as TOML gives them.
        own: The section's name; empty where it is that of the meter.
        where: The section, for the error's text.

    Raises:
        ConfigError: An option is none of the meter's or has a wrong value, or the name makes no prefix.
    """
    if own and not _WORD.fullmatch(slug(own)):
        raise ConfigError(
            f"{where}: channels cannot be named after {own!r}", "begin the name with a letter from a to z"
        )
    prefix = {"prefix": slug(own)} if own and "prefix" in _fields(meter) else {}
    return to_struct(meter.config, prefix | options, where)


def named(meter: Meter, own: str) -> Meter:
    """Return an open meter whose channels do not collide with those of another one of its kind.

    Args:
        meter: Opened with what ``configured`` returned.
        own: The section's name; empty where it is that of the meter.
    """
    return RenamedMeter(meter, slug(own)) if own and not {"prefix", "channels"} & _fields(type(meter)) else meter


def options_of(name: str) -> dict[str, Any]:
    """Return the options in the section of a meter's own name; raises ConfigError where they cannot be read."""
    return {key: value for key, value in user_section("meters", name).items() if key != "kind"}


def probe_configured(meter: type[Meter], options: dict[str, Any], own: str = "") -> Probe:
    """Open a meter and tell which channels it has, or why it does not open.

    Args:
        meter: Which one.
        options: As for ``configured``.
        own: Likewise.
    """
    try:
        opened = named(meter(configured(meter, options, own, f"meters.{own or meter.name}")), own)
    except WattwerkError as error:
        return Probe(False, error.message, error.remedy)
    names = ", ".join(channel.name for channel in opened.channels)
    opened.close()
    return Probe(True, names)


def _fields(meter: type[Meter]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(meter.config)}


class RenamedMeter(Meter):
    """A meter whose channels, limits and accelerators have another word before their names.

    Args:
        meter: An open one.
        word: What their names begin with.
    """

    name: ClassVar[str] = "renamed"
    config: ClassVar[type[msgspec.Struct]] = msgspec.Struct

    @classmethod
    def probe(cls) -> Probe:
        """Tell that it holds a meter which is open already."""
        return Probe(True, cls.name)

    def __init__(self, meter: Meter, word: str) -> None:
        self._meter, self._begin = meter, f"{word}_"
        self.interval_s, self.latency_s = meter.interval_s, meter.latency_s

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in the order of ``read``."""
        return tuple(self._renamed(channel) for channel in self._meter.channels)

    def _renamed(self, channel: Channel) -> Channel:
        return msgspec.structs.replace(
            channel,
            name=self._begin + channel.name,
            low=channel.low and self._begin + channel.low,
            high=channel.high and self._begin + channel.high,
            contains=tuple(self._begin + name for name in channel.contains),
        )

    def read(self) -> list[float]:
        """Return what the meter says."""
        return self._meter.read()

    def read_counter(self, name: str) -> float:
        """Return one channel's value."""
        return self._meter.read_counter(name.removeprefix(self._begin))

    def accelerators(self) -> list[Accelerator]:
        """Return the accelerators that the meter watches."""
        found = self._meter.accelerators()
        return [msgspec.structs.replace(each, prefix=each.prefix and self._begin + each.prefix) for each in found]

    def limits(self) -> dict[str, float]:
        """Return fixed limits of what the meter watches."""
        return {self._begin + name: value for name, value in self._meter.limits().items()}

    def faults(self) -> list[str]:
        """Return what was wrong, as the meter names its channels."""
        return self._meter.faults()

    def close(self) -> None:
        """Release the sensor."""
        self._meter.close()
