"""Look for meters, in this machine and at addresses that the user names, and propose what to write down."""

from __future__ import annotations

import ipaddress
import itertools
import json
import math
import string
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

from wattwerk.errors import ConfigError
from wattwerk.meters.inventory import Choice, probe_all
from wattwerk.meters.mapped import load_library
from wattwerk.meters.scan_peers import PORTS, Address, Finding, identify, plain
from wattwerk.meters.sections import Section, configured, meter_sections
from wattwerk.units import format_value

_MOST_ADDRESSES: Final = 256
_AT_ONCE: Final = 256
_LOCAL: Final = (
    "nvml", "rapl", "amdgpu", "jetson", "apple", "tegrastats", "hwmon", "battery", "hailo", "ipmi", "cpu-model",
)  # fmt: skip


class Proposal(msgspec.Struct, frozen=True):
    """What was found, and what to write into ``config.toml``.

    Attributes:
        local: Meter in this machine -> whether it is used, or why not.
        found: Section's name -> what was found at the targets.
        asked: How many addresses were asked.
        known: Section of ``config.toml`` -> what was found that it has already.
    """

    local: dict[str, Choice] = {}
    found: dict[str, Finding] = {}
    asked: int = 0
    known: dict[str, Finding] = {}

    @property
    def text(self) -> str:
        """The proposal as TOML."""
        return render(self)


def scan(targets: Sequence[str] = (), cpu_model: dict[str, Any] | None = None) -> Proposal:
    """Look for meters.

    The network is asked at the targets alone: for Shelly, Tasmota, Redfish, InfluxDB, Prometheus, MQTT, Modbus TCP and
    SNMP with the community ``public``, at their usual ports or at the port that a target has. No password is sent, and
    nothing is written.

    Args:
        targets: Names or addresses, ``192.0.2.7``, ``plug.example:8080``, or networks of at most 256 addresses,
            ``192.0.2.0/28``.
        cpu_model: As for ``inventory.default_specs``.

    Raises:
        ConfigError: A target is none, or ``config.toml`` cannot be used.
        UnavailableError: httpx is not installed.
    """
    sections = meter_sections()
    probes = probe_all(cpu_model)
    local = {name: probe for name in _LOCAL if isinstance(probe := probes[name], Choice)}
    addresses = list(dict.fromkeys(address for target in targets for address in _addresses(target)))
    if not addresses:
        return Proposal(local)
    load_library("httpx", "scan")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(identify, addresses))
    # one that answers at several ports is taken once: by name and number of its host, and its kind
    unique = {(finding.kind, json.dumps(finding.options)): finding for finding in answers if finding}
    known = {section: one for one in unique.values() if (section := _section_of(one, sections))}
    new = [one for one in unique.values() if one not in known.values()]
    return Proposal(local, _called(new, set(sections)), _count(addresses), known)


def _count(addresses: Sequence[Address]) -> int:
    return len({address.host if address.port in PORTS else address.text for address in addresses})


def _addresses(target: str) -> Iterator[Address]:
    """Yield what a target stands for.

    Raises:
        ConfigError: It is none, or has too many addresses.
    """
    if "/" in target:
        hosts, port = _network(target), None
    else:
        host, port = _host_and_port(target)
        hosts = [host]
    for host in hosts:
        if port is not None:
            yield Address(host, port, usual=port in PORTS and port not in (80, 443))
        else:
            yield from (Address(host, usual) for usual in PORTS)


def _network(target: str) -> list[str]:
    try:
        network = ipaddress.ip_network(target, strict=False)
    except ValueError as error:
        raise ConfigError(
            f"{target} is no network ({error})", "write it like 192.0.2.0/28, and a host without /"
        ) from error
    if network.num_addresses > _MOST_ADDRESSES:
        raise ConfigError(
            f"{target} has {network.num_addresses} addresses", f"name a network of at most {_MOST_ADDRESSES}, or hosts"
        )
    return [str(host) for host in network.hosts()] or [str(network.network_address)]


def _host_and_port(target: str) -> tuple[str, int | None]:
    host, _, port = target.rpartition(":") if target.count(":") == 1 or "]:" in target else (target, "", "")
    host = host.strip("[]")
    good = host and all(sign in string.ascii_letters + string.digits + ".-_:%" for sign in host)
    if not good or (port and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise ConfigError(f"{target!r} is no address", "write it like 192.0.2.7, plug.example or plug.example:8080")
    return host, int(port) if port else None


def _section_of(finding: Finding, sections: dict[str, Section]) -> str:
    """Return the section that has what was found already."""

    def place(options: dict[str, Any]) -> tuple[str, ...]:
        return tuple(str(options.get(key, "")).rstrip("/").removeprefix("http://") for key in ("url", "host", "port"))

    same = (s.name for s in sections.values() if s.kind == finding.kind and place(s.options) == place(finding.options))
    return next(same, "")


def _called(findings: Sequence[Finding], taken: set[str]) -> dict[str, Finding]:
    """Give each a section's name of its own, ``shelly_a``; it ends in a letter, since channels have numbers behind."""
    named: dict[str, Finding] = {}
    for finding in sorted(findings, key=lambda one: (not one.ready, one.word)):
        letters = ("".join(some) for size in (1, 2) for some in itertools.product(string.ascii_lowercase, repeat=size))
        name = next(name for letter in letters if (name := f"{finding.word}_{letter}") not in {*taken, *named})
        named[name] = finding
    return named


def render(proposal: Proposal) -> str:
    """Return a proposal as TOML that can be put into ``config.toml`` as it is.

    What works is a section; what something has to be added to is one in comments.
    """
    parts = ["\n".join(_local_lines(proposal.local))]
    if proposal.asked:
        where = "1 address" if proposal.asked == 1 else f"{proposal.asked} addresses"
        parts[0] += f"\n#\n# At {where}: {len(proposal.found) + len(proposal.known)} found."
        parts[0] += "".join(f"\n# {one.what} is [meters.{name}] already." for name, one in proposal.known.items())
    parts += ["\n".join(_section_lines(name, finding)) for name, finding in proposal.found.items()]
    parts += ["\n".join(lines)] if (lines := _contains_lines(proposal.found)) else []
    return "\n\n".join(parts) + "\n"


def _local_lines(local: dict[str, Choice]) -> list[str]:
    used = [f"#   {name}: {plain(choice.detail)}" for name, choice in local.items() if choice.used and choice.available]
    lines = ["# In this machine, used without a word here:", *(used or ["#   no sensor"])]
    for name, choice in local.items():
        if choice.available and choice.reason:
            lines.append(f"#   {name}{'' if choice.used else ' works, but is not used'}: {choice.reason}")
    return lines


def _section_lines(name: str, finding: Finding) -> list[str]:
    head = [f"# {finding.what}"]
    shown = {channel: value for channel, value in _renamed(name, finding).items() if channel.endswith("_w")}
    if shown:
        told = (f"{c} {format_value(c, v)}" if math.isfinite(v) else f"{c} without a value" for c, v in shown.items())
        head.append(f"# It showed {', '.join(told)}.")
    if finding.todo:
        head.append(f"# To do: {finding.todo}.")
    body = [f"[meters.{name}]", f'kind = "{finding.kind}"']
    body += [f"{key} = {json.dumps(value)}" for key, value in finding.options.items()]
    body += [line.replace("{name}", name) for line in finding.more]
    return head + (body if finding.ready else [f"# {line}" for line in body])


def _renamed(name: str, finding: Finding) -> dict[str, float]:
    """Return what was shown under the names that the channels will have with this section."""
    if not finding.figures:
        return {}
    from wattwerk.meters import METERS

    meter = METERS.load(finding.kind)
    old, new = (getattr(configured(meter, finding.options, own, name), "prefix", "") for own in ("", name))
    return {new + channel.removeprefix(old): value for channel, value in finding.figures.items()}


def _contains_lines(found: dict[str, Finding]) -> list[str]:
    walls = [
        part
        for name, finding in found.items()
        if finding.kind in ("shelly", "tasmota", "snmp")
        for channel in _renamed(name, finding)
        if (part := channel.removesuffix("_power_w")) != channel
    ]
    outer = [part for part in walls if not any(part.startswith(f"{other}_") for other in walls)]
    if not outer:
        return []
    lines = [
        "# Each of these is taken for a supply of the whole machine; several are added up. Leave out",
        "# what feeds something else. Where one feeds another, or a part of the machine only, say so:",
        "# [contains]",
    ]
    if len(outer) > 1:
        lines.append(f'# {outer[0]} = ["{outer[1]}"]')
    return [*lines, f'# {outer[-1]} = ["gpu*", "cpu*"]']
