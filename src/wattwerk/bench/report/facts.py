"""How it was measured, as pairs of name and text: machines, procedure, conditions."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from wattwerk.bench.labels import is_quick
from wattwerk.language import localised, recorded, t
from wattwerk.records import Accelerator, Platform, Record, faults_of
from wattwerk.units import format_value, unit_of

Facts = list[tuple[str, str]]


def machine_facts(records: Sequence[Record]) -> list[tuple[str, Facts]]:
    """Return one block of facts for each machine."""
    platforms = {record.platform.label: record.platform for record in records}
    return [(t("Machine: {name}", name=label), _machine(platform)) for label, platform in sorted(platforms.items())]


def _machine(platform: Platform) -> Facts:
    cores = [
        *([t("{count} cores", count=platform.cpu_physical_count)] if platform.cpu_physical_count else []),
        *([t("{count} threads", count=platform.cpu_logical_count)] if platform.cpu_logical_count else []),
    ]
    accelerators = Counter(_accelerator(each) for each in platform.accelerators)
    facts = [
        (t("Processor"), ", ".join(filter(None, (platform.cpu, *cores)))),
        (t("Accelerator"), "; ".join(f"{n} × {text}" if n > 1 else text for text, n in accelerators.items())),
        (t("Memory"), format_value("memory_bytes", platform.memory_bytes) if platform.memory_bytes else ""),
        (t("System"), " ".join(filter(None, (platform.os, platform.kernel)))),
        (t("Limits"), ", ".join(_limit(name, value) for name, value in platform.limits.items())),
        (t("Virtual machine"), {True: t("yes"), False: t("no"), None: ""}[platform.virtual_machine]),
        ("Python", platform.python),
        (t("Packages"), ", ".join(f"{name} {version}" for name, version in sorted(platform.packages.items()))),
    ]
    return [(name, text) for name, text in facts if text]


def _limit(name: str, value: float) -> str:
    """Write a limit for people, its unit once: ``gpu0 clock sm max 1.98 GHz``; a long name could not be broken."""
    words = {
        "clock": t("clock"),
        "max": t("max"),
        "memory": t("memory"),
        "power": t("power"),
        "limit": t("limit"),
        "temperature": t("temperature"),
        "default": t("default"),
        "slowdown": t("slowdown"),
        "shutdown": t("shutdown"),
    }
    told = " ".join(words.get(word, word) for word in name.removesuffix(unit_of(name)).split("_") if word)
    return f"{told} {format_value(name, value)}"


def _accelerator(accelerator: Accelerator) -> str:
    driver = t("driver {version}", version=accelerator.driver) if accelerator.driver else ""
    power_w = accelerator.power_limit_w
    limit = t("limit {power}", power=format_value("limit_w", power_w)) if power_w else ""
    return ", ".join(filter(None, (accelerator.name, driver, limit)))


def method_facts(records: Sequence[Record]) -> Facts:
    """Return how the measuring was done, from the records' protocols."""
    quick = sum(is_quick(record) for record in records)
    some = t("quick for {count} of {all}", count=quick, all=len(records))
    mode = t("quick") if quick == len(records) else t("full") if quick == 0 else some
    facts = [
        (t("Mode"), mode),
        (t("Warm-up"), _iterations(records, "warmup")),
        (t("Timed"), _iterations(records, "iterations")),
        (t("Energy windows"), _windows(records)),
        (t("Seed"), _values(records, "seed")),
        (t("Intervals"), t("95 % confidence; Student's t for energies, order statistics for medians")),
        (t("Order"), t("configurations in random order")),
    ]
    return [(name, text) for name, text in facts if text]


def _iterations(records: Iterable[Record], key: str) -> str:
    count = _values(records, key)
    return t("{count} iterations", count=count) if count else ""


def _values(records: Iterable[Record], key: str) -> str:
    found = [value for record in records if isinstance(value := record.setup.protocol.get(key), int | float)]
    if not found:
        return ""
    low, high = min(found), max(found)
    return (
        localised(str(low)) if low == high else t("{low} to {high}", low=localised(str(low)), high=localised(str(high)))
    )


def _windows(records: Sequence[Record]) -> str:
    found = {
        (record.setup.protocol.get("windows"), record.setup.protocol.get("window_s"))
        for record in records
        if record.setup.protocol.get("windows")
    }
    told = [
        t("{count} of {length} s", count=number, length=localised(str(length)))
        for number, length in sorted(found, key=str)
    ]
    return functools.reduce(lambda front, last: t("{front} or {last}", front=front, last=last), told) if told else ""


def conditions(records: Sequence[Record]) -> Facts:
    """Return what the machine did meanwhile: clocks, temperature, throttling, and what the sampler costs."""
    facts = [
        (t("GPU clock"), _range(records, "gpu_clock_sm_hz")),
        (t("GPU temperature"), _range(records, "gpu_temperature_celsius")),
        (t("Throttling"), _throttling(records)),
        (t("Sampler overhead"), _overhead(records)),
        (t("Counter against polling"), _range(records, "gpu_counter_disagreement_ratio")),
        (t("Processor idle"), _range(records, "idle_cpu_power_w")),
        (t("Accelerator idle"), _range(records, "idle_gpu_power_w")),
        (t("Meters at fault"), "; ".join(map(recorded, faults_of(records)))),
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
    return (low if low == high else t("{low} to {high}", low=low, high=high)) + (t(" (modelled)") if modelled else "")


def _throttling(records: Sequence[Record]) -> str:
    values = _known(records, "gpu_throttle_count")
    if not values:
        return ""
    reasons = Counter(
        recorded(record.figures["gpu_throttle_count"].note or "") or t("yes")
        for record in records
        if record.value("gpu_throttle_count")
    )
    told = "; ".join(
        t("{reason} (in {count} of {all})", reason=reason, count=number, all=len(values))
        for reason, number in reasons.most_common(4)
    )
    return told or t("none")


def _overhead(records: Sequence[Record]) -> str:
    values = _known(records, "sampler_overhead_ratio")
    if not values:
        return ""
    return t("{share} of the median latency (median)", share=format_value("overhead_ratio", median(values), 2))
