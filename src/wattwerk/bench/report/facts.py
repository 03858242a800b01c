"""How it was measured, as pairs of name and text: machines, procedure, conditions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from wattwerk.bench.labels import is_quick
from wattwerk.records import Accelerator, Platform, Record, faults_of
from wattwerk.units import format_value, unit_of

Facts = list[tuple[str, str]]


def machine_facts(records: Sequence[Record]) -> list[tuple[str, Facts]]:
    """Return one block of facts for each machine."""
    platforms = {record.platform.label: record.platform for record in records}
    return [(f"Machine: {label}", _machine(platform)) for label, platform in sorted(platforms.items())]


def _machine(platform: Platform) -> Facts:
    cores = [
        f"{number} {kind}"
        for number, kind in ((platform.cpu_physical_count, "cores"), (platform.cpu_logical_count, "threads"))
        if number
    ]
    accelerators = Counter(_accelerator(each) for each in platform.accelerators)
    facts = [
        ("Processor", ", ".join(filter(None, (platform.cpu, *cores)))),
        ("Accelerator", "; ".join(f"{n} × {text}" if n > 1 else text for text, n in accelerators.items())),
        ("Memory", format_value("memory_bytes", platform.memory_bytes) if platform.memory_bytes else ""),
        ("System", " ".join(filter(None, (platform.os, platform.kernel)))),
        ("Limits", ", ".join(_limit(name, value) for name, value in platform.limits.items())),
        ("Virtual machine", {True: "yes", False: "no", None: ""}[platform.virtual_machine]),
        ("Python", platform.python),
        ("Packages", ", ".join(f"{name} {version}" for name, version in sorted(platform.packages.items()))),
    ]
    return [(name, text) for name, text in facts if text]


def _limit(name: str, value: float) -> str:
    """Write a limit for people, its unit once: ``gpu0 clock sm max 1.98 GHz``; a long name could not be broken."""
    return f"{name.removesuffix(unit_of(name)).replace('_', ' ').strip()} {format_value(name, value)}"


def _accelerator(accelerator: Accelerator) -> str:
    driver = f"driver {accelerator.driver}" if accelerator.driver else ""
    limit = f"limit {format_value('limit_w', accelerator.power_limit_w)}" if accelerator.power_limit_w else ""
    return ", ".join(filter(None, (accelerator.name, driver, limit)))


def method_facts(records: Sequence[Record]) -> Facts:
    """Return how the measuring was done, from the records' protocols."""
    quick = sum(is_quick(record) for record in records)
    mode = "quick" if quick == len(records) else "full" if quick == 0 else f"quick for {quick} of {len(records)}"
    facts = [
        ("Mode", mode),
        ("Warm-up", _values(records, "warmup", "iterations")),
        ("Timed", _values(records, "iterations", "iterations")),
        ("Energy windows", _windows(records)),
        ("Seed", _values(records, "seed", "")),
        ("Intervals", "95 % confidence; Student's t for energies, order statistics for medians"),
        ("Order", "configurations in random order"),
    ]
    return [(name, text) for name, text in facts if text]


def _values(records: Iterable[Record], key: str, noun: str) -> str:
    found = [value for record in records if isinstance(value := record.setup.protocol.get(key), int | float)]
    if not found:
        return ""
    low, high = min(found), max(found)
    return f"{low} {noun}".strip() if low == high else f"{low} to {high} {noun}".strip()


def _windows(records: Sequence[Record]) -> str:
    found = {
        (record.setup.protocol.get("windows"), record.setup.protocol.get("window_s"))
        for record in records
        if record.setup.protocol.get("windows")
    }
    return " or ".join(f"{number} of {length} s" for number, length in sorted(found, key=str))


def conditions(records: Sequence[Record]) -> Facts:
    """Return what the machine did meanwhile: clocks, temperature, throttling, and what the sampler costs."""
    facts = [
        ("GPU clock", _range(records, "gpu_clock_sm_hz")),
        ("GPU temperature", _range(records, "gpu_temperature_celsius")),
        ("Throttling", _throttling(records)),
        ("Sampler overhead", _overhead(records)),
        ("Counter against polling", _range(records, "gpu_counter_disagreement_ratio")),
        ("Processor idle", _range(records, "idle_cpu_power_w")),
        ("Accelerator idle", _range(records, "idle_gpu_power_w")),
        ("Meters at fault", "; ".join(faults_of(records))),
    ]
    return [(name, text) for name, text in facts if text]


def _known(records: Iterable[Record], figure: str) -> list[float]:
    return [value for record in records if (value := record.value(figure)) is not None]


def _range(records: Sequence[Record], figure: str) -> str:
    values = _known(records, figure)
    if not values:
        return ""
    low, high = format_value(figure, min(values)), format_value(figure, max(values))
    modelled = any(record.figures[figure].provenance == "modelled" for record in records if figure in record.figures)
    return (low if low == high else f"{low} to {high}") + (" (modelled)" if modelled else "")


def _throttling(records: Sequence[Record]) -> str:
    values = _known(records, "gpu_throttle_count")
    if not values:
        return ""
    reasons = Counter(
        record.figures["gpu_throttle_count"].note or "yes" for record in records if record.value("gpu_throttle_count")
    )
    told = "; ".join(f"{reason} (in {number} of {len(values)})" for reason, number in reasons.most_common(4))
    return told or "none"


def _overhead(records: Sequence[Record]) -> str:
    values = _known(records, "sampler_overhead_ratio")
    return f"{format_value('overhead_ratio', median(values), 2)} of the median latency (median)" if values else ""
