"""What lies inside what: nothing is counted twice, and nothing is left out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattwerk.errors import ConfigError
from wattwerk.meters.base import Channel
from wattwerk.meters.containment import WITHIN, Containment, state, user_contains
from wattwerk.meters.inventory import check_sections
from wattwerk.meters.line_protocol import channel_of, channel_points
from wattwerk.meters.presets import preset_channels
from wattwerk.meters.recorder import MeterSpec, Recorder
from wattwerk.meters.snmp_config import SnmpChannel
from wattwerk.meters.totals import Running, totals_of
from wattwerk.meters.trace import Trace
from wattwerk.records import Scope

WALL, NODE, BOARD = Scope.WALL, Scope.NODE, Scope.BOARD
GPU, CPU, DRAM = Scope.ACCELERATOR, Scope.CPU_PACKAGE, Scope.DRAM
FAKE = "wattwerk.testing:FakeMeter"


def gauges(**scopes: Scope | None) -> list[Channel]:
    """Return a power channel for each part."""
    return [Channel(name=f"{part}_power_w", form="gauge", scope=scope) for part, scope in scopes.items()]


def system(channels: list[Channel], **contains: list[str]) -> set[str]:
    """Return the parts of the system's total, after the user said what lies inside what."""
    stated, faults = state(channels, contains)
    assert not faults
    return {channel.name.removesuffix("_power_w") for channel in totals_of(stated).get("system", [])}


MACHINE = {"gpu0": GPU, "cpu0": CPU, "dram0": DRAM}


@pytest.mark.parametrize(
    ("parts", "contains", "outermost"),
    [
        (MACHINE, {}, {"gpu0", "cpu0", "dram0"}),
        (MACHINE | {"psys0": BOARD}, {}, {"psys0", "gpu0"}),
        (MACHINE | {"psys0": BOARD}, {"psys0": ["gpu0", "cpu0"]}, {"psys0"}),
        (MACHINE | {"psys0": BOARD, "ipmi": NODE}, {}, {"ipmi"}),
        # two power supplies, and then one plug that feeds the other
        (MACHINE | {"left": WALL, "right": WALL}, {}, {"left", "right"}),
        (MACHINE | {"left": WALL, "right": WALL}, {"left": ["right"]}, {"left"}),
        (MACHINE | {"ups": WALL, "pdu": WALL, "plug": WALL}, {"ups": ["pdu"], "pdu": ["plug"]}, {"ups"}),
        # a plug of a case with cards alone: processor and memory of the machine beside it are outside
        (MACHINE | {"case": WALL}, {"case": ["gpu0"]}, {"case", "cpu0", "dram0"}),
        (MACHINE | {"case": WALL, "psys0": BOARD}, {"case": ["gpu0"]}, {"case", "psys0"}),
        # a plug that feeds this machine, and another machine's sensor outside of it
        (MACHINE | {"plug": WALL, "other": NODE}, {"plug": ["gpu0", "cpu0"], "other": []}, {"plug", "other"}),
        # an entry that leaves out what goes with the processor
        (MACHINE | {"plug": WALL, "psys0": BOARD, "ipmi": NODE}, {"plug": ["gpu0", "cpu0"]}, {"plug"}),
        (MACHINE | {"plug": WALL, "gpu1": GPU}, {"plug": ["gpu0", "cpu*"]}, {"plug", "gpu1"}),
        # what a rail of unknown scope holds stays inside the plug that feeds the rail
        (MACHINE | {"plug": WALL, "rail": None}, {"plug": ["rail", "cpu0"], "rail": ["gpu0"]}, {"plug"}),
        (MACHINE | {"rail": None}, {"rail": ["gpu0"]}, {"gpu0", "cpu0", "dram0"}),
        (MACHINE | {"pdu0": WALL, "pdu0_outlet1": WALL, "other": NODE},
         {"pdu0": ["cpu0", "gpu0"], "other": []}, {"pdu0", "other"}),
        (MACHINE | {"igpu": GPU}, {"cpu0": ["igpu"]}, {"gpu0", "cpu0", "dram0"}),
        (MACHINE | {"rack_switch": Scope.SWITCH}, {}, {"gpu0", "cpu0", "dram0"}),
    ],
)  # fmt: skip
def test_the_system_is_what_is_outermost(
    parts: dict[str, Scope | None], contains: dict[str, list[str]], outermost: set[str]
) -> None:
    """Scope, name and the user's table together say what is counted."""
    assert system(gauges(**parts), **contains) == outermost


def test_a_total_of_a_scope_counts_the_outermost_of_it() -> None:
    """Of two plugs of which one feeds the other, the wall is the first one alone."""
    stated, _ = state(gauges(left=WALL, right=WALL), {"left": ["right"]})
    assert [channel.name for channel in totals_of(stated)["wall"]] == ["left_power_w"]
    with pytest.raises(ConfigError, match="right_power_w lies inside left_power_w"):
        totals_of(stated, ["right_power_w", "left_power_w"])


def test_phases_without_their_sum_hold_the_outlets() -> None:
    """A PDU that tells no total has phases and outlets: the phases are it, and no outlet is added."""
    specs = preset_channels("snmp", "apc-rpdu2", SnmpChannel, "rack", [1, 2])
    channels = [spec.channel() for spec in specs]
    assert {c.name for c in totals_of(channels)["system"]} == {"rack_energy_j"}
    parts = [c for c in channels if c.name not in ("rack_energy_j", "rack_power_w")]
    assert {c.name for c in totals_of(parts)["system"]} == {f"rack_l{n}_power_w" for n in (1, 2, 3)}


class Forest(NamedTuple):
    """Meters in trees: of each the scope and its parent, and the power of what no meter below it sees."""

    scopes: list[Scope]
    parents: list[int | None]
    own_w: list[float]

    def power_w(self, node: int) -> float:
        """Return what a meter shows: all that lies below it."""
        below = [child for child, parent in enumerate(self.parents) if parent == node]
        return self.own_w[node] + sum(self.power_w(child) for child in below)


@st.composite
def forests(draw: st.DrawFn) -> Forest:
    """Meters in random trees, each inside a wider one or one of its own scope; memory would follow its processor."""
    scopes = draw(st.lists(st.sampled_from([WALL, NODE, BOARD, GPU, CPU]), min_size=1, max_size=9))
    scopes.sort(key=[WALL, NODE, BOARD, GPU, CPU].index)
    parents: list[int | None] = []
    for node, scope in enumerate(scopes):
        wider = [n for n in range(node) if scopes[n] is scope or scope in WITHIN.get(scopes[n], ())]
        parents.append(draw(st.sampled_from([None, *wider])))
    own = draw(st.lists(st.integers(1, 1000), min_size=len(scopes), max_size=len(scopes)))
    return Forest(scopes, parents, [float(2**10 * value) for value in own])


@given(forests(), st.randoms())
def test_every_watt_is_counted_once(forest: Forest, random: object) -> None:
    """Where the user describes the trees as they are, the system's power is that of all leaves, each once.

    So it is for every scope: what it adds up never holds a leaf twice.
    """
    names = [f"m{node}x" for node in range(len(forest.scopes))]
    channels = gauges(**dict(zip(names, forest.scopes, strict=True)))
    random.shuffle(channels)  # type: ignore[attr-defined]
    whole = (WALL, NODE, BOARD)
    table = {
        names[node]: [names[child] for child, parent in enumerate(forest.parents) if parent == node]
        for node, scope in enumerate(forest.scopes)
        if scope in whole or node in forest.parents
    }
    stated, faults = state(channels, table)
    stated = [c if forest.scopes[names.index(c.name[:-8])] not in whole else complete(c) for c in stated]
    values = {f"{name}_power_w": forest.power_w(node) for node, name in enumerate(names)}
    running = Running(stated)
    running.add(Trace(stated, [0, 10**9], [[values[c.name] for c in stated]] * 2))
    totals = running.totals(10**9)
    assert not faults
    assert totals["system"].power_w == sum(forest.own_w)
    for scope in Scope:
        if scope in totals:
            leaves = [leaf for part in totals[scope].parts for leaf in below(forest, names.index(part[:-8]))]
            assert len(leaves) == len(set(leaves))


def complete(channel: Channel) -> Channel:
    """Return a channel whose entry is complete also where it names meters of its own scope alone."""
    return Channel(name=channel.name, form="gauge", scope=channel.scope, contains=channel.contains, complete=True)


def below(forest: Forest, node: int) -> list[int]:
    """Return a meter and all that lie inside it."""
    children = [child for child, parent in enumerate(forest.parents) if parent == node]
    return [node, *(leaf for child in children for leaf in below(forest, child))]


@given(forests())
def test_without_a_word_of_the_user_nothing_is_counted_twice(forest: Forest) -> None:
    """By scope alone: of what is added up, none contains another, and each other meter lies inside one of them."""
    channels = gauges(**{f"m{node}x": scope for node, scope in enumerate(forest.scopes)})
    known = Containment(channels)
    outermost = {channel.name for channel in known.system()}
    inside = {name for outer in outermost for name in known.inside[outer]}
    assert not outermost & inside
    assert outermost | inside == {channel.name for channel in channels}


@pytest.mark.parametrize(
    ("contains", "told", "remedy"),
    [
        ({"left": ["right"], "right": ["left"]}, "left and right contain each other|right and left", "remove one"),
        ({"gpu0": ["left"]}, "gpu0 cannot contain left: the scope wall is wider than accelerator", "correct"),
    ],
)
def test_what_contradicts_itself_is_refused(contains: dict[str, list[str]], told: str, remedy: str) -> None:
    """A circle, and a wide scope inside a narrow one."""
    with pytest.raises(ConfigError, match=told) as caught:
        state(gauges(left=WALL, right=WALL, gpu0=GPU), contains)
    assert remedy in str(caught.value.remedy)


def test_a_misspelt_name_is_told_with_the_nearest_one() -> None:
    """What names nothing is a fault, since its meter may just be away."""
    _, faults = state(gauges(left=WALL, gpu0=GPU), {"lefft": ["gpu0"], "left": ["gpu0", "cpu*"]})
    assert faults == [
        "[contains] names lefft, which nothing recorded is called: did you mean 'left'?",
        "[contains] names cpu*, which nothing recorded is called: use one of gpu0, left",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[contains]\nplug = "gpu0"\n', "plug is no list of names"),
        ('[contains]\na = ["b"]\nb = ["c"]\nc = ["a"]\n', "a lies inside itself, by way of b, c"),
        ('contains = ["a"]\n', "is not a table"),
    ],
)
def test_a_table_that_cannot_be_used(wattwerk_home: Path, text: str, told: str) -> None:
    """The error names the file and the entry before anything is measured."""
    wattwerk_home.mkdir()
    (wattwerk_home / "config.toml").write_text(text)
    for check in (user_contains, check_sections, lambda: Recorder([])):
        with pytest.raises(ConfigError, match=told):
            check()


def test_a_recorder_carries_what_the_user_says(wattwerk_home: Path) -> None:
    """The table reaches the totals of a recording, the names that are not there its faults, and a data base both."""
    wattwerk_home.mkdir()
    (wattwerk_home / "config.toml").write_text('[contains]\nleft = ["right", "rigth"]\n')
    specs = [MeterSpec(FAKE, {"prefix": name, "scope": "wall"}) for name in ("left", "right")]
    with Recorder(specs) as recorder:
        assert [c.name for c in totals_of(recorder.channels)["system"]] == ["left_energy_j"]
        assert any("did you mean 'right'" in fault for fault in recorder.faults)
        trace = recorder.trace()
    back = [channel_of(point.tags, point.fields) for point in channel_points(trace, 0)]
    assert tuple(back) == recorder.channels
    again = Trace.from_json(trace.to_json())
    assert totals_of(again.channels) == totals_of(recorder.channels)
