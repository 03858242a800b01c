"""What lies inside what, so that no energy is counted twice: by scope, by name, and as meters and the user say.

Four sources, each of which adds to the ones before it:

1. Scope. A wall meter contains what is measured in nodes, a node its board, accelerators, processor packages and
   memory, a board its packages and memory, but no plug-in cards. Meters of one scope lie beside each other.
2. Name. A part whose name begins with that of another of the same scope lies inside it: ``pdu0_outlet3`` in ``pdu0``.
3. The meter, by ``Channel.contains``: the sum of three phases, the input rail of a module.
4. The user, by the table ``[contains]`` of ``config.toml``. An entry that names something of a narrower scope than its
   own is complete: what it does not name lies outside, so that a plug need not contain all machines.

Energy flows through a tree. So what contains a processor package contains its board and memory too, and a whole that
has no entry of its own lies inside the wider one that shares a part with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Final

import msgspec

from wattwerk.config import home, user_section
from wattwerk.errors import ConfigError
from wattwerk.meters.base import Channel
from wattwerk.records import Scope
from wattwerk.registry import suggestion

#: Scope -> what a meter of it contains unless the user says otherwise.
WITHIN: Final[dict[Scope, frozenset[Scope]]] = {
    Scope.WALL: frozenset({Scope.NODE, Scope.BOARD, Scope.ACCELERATOR, Scope.CPU_PACKAGE, Scope.DRAM}),
    Scope.NODE: frozenset({Scope.BOARD, Scope.ACCELERATOR, Scope.CPU_PACKAGE, Scope.DRAM}),
    Scope.BOARD: frozenset({Scope.CPU_PACKAGE, Scope.DRAM}),
}

#: How wide a scope is; switches and control servers stand beside this order, and are no part of the system.
_WIDTH: Final = {
    Scope.WALL: 3,
    Scope.NODE: 2,
    Scope.BOARD: 1,
    Scope.ACCELERATOR: 0,
    Scope.CPU_PACKAGE: 0,
    Scope.DRAM: 0,
}

#: Energy of a counter or gauge, and how it is told from others of the same part.
_ENERGY: Final = ("energy_j", "j")
_POWER: Final = ("power_w", "w")

_Graph = dict[str, set[str]]


def part_of(channel: Channel) -> str | None:
    """Return the name of what an energy or power channel belongs to, ``gpu0`` of ``gpu0_energy_j``; None for others."""
    for suffix in _ENERGY if channel.form == "counter" else _POWER:
        if channel.name == suffix:
            return ""
        if channel.name.endswith(f"_{suffix}"):
            return channel.name.removesuffix(f"_{suffix}")
    return None


def _measuring(channels: Iterable[Channel]) -> list[tuple[str, Channel]]:
    """Return part and channel of all that measure energy or power; averages and bounds are left out."""
    channels = list(channels)
    bounds = {name for channel in channels for name in (channel.low, channel.high) if name}
    found = [c for c in channels if c.name not in bounds and not c.name.endswith("_average_w")]
    return [(part, channel) for channel in found if (part := part_of(channel)) is not None]


def _closure(graph: _Graph) -> _Graph:
    """Return node -> all that can be reached from it."""

    def reach(node: str) -> set[str]:
        found: set[str] = set()
        left = list(graph.get(node, ()))
        while left:
            if (one := left.pop()) not in found:
                found.add(one)
                left += graph.get(one, ())
        return found

    return {node: reach(node) for node in graph}


class Containment:
    """What lies inside what among channels of energy and power.

    Each part is one node, named by the channel that stands for it: its counter, or else its momentary power.

    Args:
        channels: All there are.

    Attributes:
        nodes: Name -> channel that stands for a part.
        stated: Node -> all that lies inside it by name, meter or user, directly or not.

    Raises:
        ConfigError: A part lies inside itself, or a wide scope inside a narrow one.
    """

    def __init__(self, channels: Sequence[Channel]) -> None:
        self.nodes: dict[str, Channel] = {}
        self._parts: dict[str, str] = {}
        self._of: dict[tuple[Scope | None, str], str] = {}
        self._statements: dict[str, list[Channel]] = {}
        self._known: dict[str, list[str]] = {}
        for part, channel in sorted(_measuring(channels), key=lambda pair: pair[1].form != "counter"):
            node = self._of.setdefault((channel.scope, part), channel.name)
            self.nodes.setdefault(node, channel)
            self._parts[node] = part
            self._statements.setdefault(node, []).append(channel)
            for name in (part, channel.name):
                if node not in self._known.setdefault(name, []):
                    self._known[name].append(node)
        direct = {node: self._direct(node) for node in self.nodes}
        self.stated = _closure(direct)
        self._check()

    def named(self, name: str) -> list[str]:
        """Return the nodes that a name stands for, of a part, a channel, or a pattern such as ``cpu*``."""
        if name in self._known:
            return self._known[name]
        return list(
            dict.fromkeys(node for known in self._known if fnmatchcase(known, name) for node in self._known[known])
        )

    def _direct(self, node: str) -> set[str]:
        part, scope = self._parts[node], self.nodes[node].scope
        begin = f"{part}_" if part else ""
        by_name = {
            other
            for other, its in self._parts.items()
            if other != node and self.nodes[other].scope is scope and its.startswith(begin) and its != part
        }
        said = {
            other
            for channel in self._statements[node]
            for name in channel.contains
            for other in self.named(name)
            if name in self._known or self._width(node, other) >= 0  # a pattern means what can be meant
        }
        return by_name | (said - {node})

    def _check(self) -> None:
        for node, inside in self.stated.items():
            if node in inside:
                other = next((name for name in sorted(inside) if node in self.stated[name] and name != node), node)
                raise ConfigError(
                    f"{self.label(node)} and {self.label(other)} contain each other",
                    "remove one of them from [contains]",
                )
            for other in inside:
                if self._width(node, other) < 0:
                    raise ConfigError(
                        f"{self.label(node)} cannot contain {self.label(other)}: "
                        f"the scope {self.nodes[other].scope} is wider than {self.nodes[node].scope}",
                        "correct [contains], or the scope of one of them",
                    )

    def _width(self, node: str, other: str) -> int:
        """Return how much wider a node's scope is than that of another; 0 where a scope has no place in the order."""
        wide, narrow = (_WIDTH.get(scope) if (scope := self.nodes[name].scope) else None for name in (node, other))
        return 0 if wide is None or narrow is None else wide - narrow

    def label(self, node: str) -> str:
        """Return the name of a node's part; of its channel where the part has none."""
        return self._parts[node] or node

    def _complete(self, node: str) -> bool:
        return any(channel.complete for channel in self._statements[node])

    def _default(self, node: str, parents: Mapping[str, set[str]]) -> set[str]:
        """Return what lies inside a node by scope alone; nothing where the user said what does."""
        above = parents.get(node, set())
        scope = self.nodes[node].scope
        if scope is None or self._complete(node) or any(self._complete(name) for name in above):
            return set()
        inner = WITHIN.get(scope, frozenset())
        return {other for other, channel in self.nodes.items() if channel.scope in inner and other not in above}

    def _implied(self, node: str, defaults: _Graph, parents: Mapping[str, set[str]]) -> set[str]:
        """Return what lies inside a complete node since energy flows through a tree."""
        scope, inside = self.nodes[node].scope, self.stated[node]
        if scope is None or not self._complete(node):
            return set()
        narrower = WITHIN.get(scope, frozenset())
        free = [name for name, c in self.nodes.items() if c.scope in narrower and not parents.get(name)]
        wholes = {name for name in free if defaults[name] & inside}
        has_processor = any(self.nodes[name].scope is Scope.CPU_PACKAGE for name in inside)
        return wholes | {name for name in free if has_processor and self.nodes[name].scope is Scope.DRAM}

    @cached_property
    def inside(self) -> _Graph:
        """Node -> all that lies inside it, directly or not."""
        parents: _Graph = {}
        for node, below in self.stated.items():
            for name in below:
                parents.setdefault(name, set()).add(node)
        defaults = {node: self._default(node, parents) for node in self.nodes}
        return _closure(
            {node: self.stated[node] | defaults[node] | self._implied(node, defaults, parents) for node in self.nodes}
        )

    def outermost(self, *scopes: Scope) -> list[Channel]:
        """Return of the channels of these scopes those that lie inside no other one of them."""
        found = [name for name, channel in self.nodes.items() if channel.scope in scopes]
        return [self.nodes[name] for name in found if not any(name in self.inside[other] for other in found)]

    def system(self) -> list[Channel]:
        """Return the outermost channels, which together are the system; switches and control servers do not count."""
        return sorted(self.outermost(*_WIDTH), key=_by_width)


def _by_width(channel: Channel) -> int:
    assert channel.scope
    return -_WIDTH[channel.scope] * len(_WIDTH) + list(_WIDTH).index(channel.scope)


def user_contains() -> dict[str, list[str]]:
    """Return the table ``[contains]`` of the user's ``config.toml``: name -> names of what lies inside.

    Raises:
        ConfigError: An entry is no list of names, or a cycle.
    """
    table, where = user_section("contains"), f"{home() / 'config.toml'}: [contains]"
    for name, inner in table.items():
        if not (isinstance(inner, list) and all(isinstance(one, str) for one in inner)):
            raise ConfigError(f"{where}: {name} is no list of names", f'write it like {name} = ["gpu0", "cpu*"]')
    reached = _closure({name: set(inner) for name, inner in table.items()})
    if circle := [name for name, inside in reached.items() if name in inside]:
        raise ConfigError(
            f"{where}: {circle[0]} lies inside itself" + (f", by way of {', '.join(circle[1:])}" if circle[1:] else ""),
            "energy flows one way: remove one of these names from an entry",
        )
    return {str(name): list(inner) for name, inner in table.items()}


def state(channels: Sequence[Channel], table: Mapping[str, Sequence[str]]) -> tuple[list[Channel], list[str]]:
    """Add what the user says about containment to channels.

    Args:
        channels: All there are.
        table: As ``user_contains`` returns it.

    Returns:
        The channels, and in words which names of the table are not among them.

    Raises:
        ConfigError: As for ``Containment``.
    """
    known = Containment(channels)
    parts = sorted(filter(None, known._parts.values()))
    faults = [
        f"[contains] names {name}, which nothing recorded is called: {suggestion(name, parts)}"
        for name in dict.fromkeys(name for key, inner in table.items() for name in (key, *inner))
        if not known.named(name)
    ]
    added = {node: (inner, _narrower(known, node, inner)) for key, inner in table.items() for node in known.named(key)}
    of_channel = {channel.name: node for node, group in known._statements.items() for channel in group}
    found = []
    for channel in channels:
        inner, complete = added.get(of_channel.get(channel.name, ""), ((), False))
        contains = tuple(dict.fromkeys((*channel.contains, *inner)))
        complete = channel.complete or complete
        found.append(msgspec.structs.replace(channel, contains=contains, complete=complete))
    Containment(found)
    return found, faults


def _narrower(known: Containment, node: str, inner: Sequence[str]) -> bool:
    """Return whether an entry is complete: empty, or with something of a narrower scope."""
    return not inner or any(known._width(node, other) > 0 for name in inner for other in known.named(name))


def parts_of(channels: Sequence[Channel], scope: Scope) -> list[Channel]:
    """Return the channels whose energies make up a scope, none of them inside another.

    Of each part this is the counter, or else the momentary power; averages and bounds are left out.

    Args:
        channels: All there are.
        scope: Which to add up.

    Raises:
        ConfigError: As for ``Containment``.
    """
    return Containment(channels).outermost(scope)
