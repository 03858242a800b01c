"""From a study to a sweep: every block's combinations, what this machine lacks, and what the rules say."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from wattwerk.bench import plan
from wattwerk.bench.scenario import Configuration, Course, LeftOut, Procedure, Sweep, new_sweep
from wattwerk.bench.study import ALL, AUTO, Block, Checked, Rule
from wattwerk.errors import ConfigError, UnavailableError, WattwerkError
from wattwerk.runtimes import RUNTIMES, Runtime

#: Keys of a block that mean the same on the command line.
_SHARED: Final = (
    "models", "batches", "threads", "options", "processings", "images", "streams", "scenarios", "load", "together",
    "dataset", "dataset_limit", "calibration",
)  # fmt: skip


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a study is wanted; an empty field wants all.

    Attributes:
        models: These models.
        runtimes: These runtimes.
        precisions: These precisions.
        batches: These batch sizes.
        devices: These devices, or kinds of devices.
    """

    models: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()

    def wants(self, configuration: Configuration) -> bool:
        """Tell whether a configuration is wanted: all of its models; a device that is not here counts by its kind."""
        its = configuration
        return (
            all(_among(model, self.models) for model in (its.model, *its.beside))
            and _among(its.runtime, self.runtimes)
            and _among(its.precision, self.precisions)
            and _among(its.batch, self.batches)
            and (not self.devices or its.device in (AUTO, ALL) or _is_one_of(its.device, self.devices))
        )


def sweep_of(checked: Checked, wanted: Filter | None = None, images: str | None = None) -> Sweep:
    """Return the sweep that a study means on this machine.

    Args:
        checked: The study.
        wanted: Which part of it.
        images: A folder of photos for all its pipelines, in the place of the study's own.

    Raises:
        ConfigError: Nothing of it can be measured here, or something in it cannot be.
    """
    asked = wanted or Filter()
    found: list[tuple[int, str, Configuration]] = []
    left_out: list[LeftOut] = []
    for rank, block in enumerate(checked.blocks):
        where = f"{checked.path}, [[block]] {rank + 1} ({block.name})"
        for each in _expanded(_with_images(block, images), asked.runtimes, checked, where):
            if isinstance(each, LeftOut):
                left_out.append(each)
            else:
                found.append((rank, block.name, each))
    accelerated = any(not each.device.casefold().startswith("cpu") for _, _, each in found)
    kept: dict[bytes, tuple[Configuration, Procedure, int]] = {}
    ruled_out: dict[bytes, tuple[Configuration, Rule]] = {}
    for rank, name, configuration in found:
        key = _key(configuration)
        if not asked.wants(configuration) or key in kept:
            continue  # the first block that asks for something decides
        procedure, rule = _ruled(checked, name, configuration, accelerated)
        if rule is None:
            kept[key] = (configuration, procedure, rank)
        else:
            ruled_out.setdefault(key, (configuration, rule))
    excluded = _grouped([pair for key, pair in ruled_out.items() if key not in kept])
    lacking = tuple({_key(each.configuration): each for each in left_out if asked.wants(each.configuration)}.values())
    if not kept:
        raise _nothing(checked, lacking, excluded)
    sweep = new_sweep([configuration for configuration, _, _ in kept.values()], checked.procedure({}, checked.path))
    in_order = [kept[_key(configuration)] for configuration in sweep.configurations]
    course = Course(
        study=checked.name,
        procedures=tuple(procedure for _, procedure, _ in in_order),
        ranks=tuple(rank for _, _, rank in in_order),
        budget_s=checked.study.budget_s,
        left_out=lacking,
        excluded_count=sum(each.count for each in excluded),
        excluded=excluded,
    )
    return msgspec.structs.replace(sweep, course=course)


def _grouped(pairs: Iterable[tuple[Configuration, Rule]]) -> tuple[LeftOut, ...]:
    """Return what rules exclude; batch sizes, thread counts, streams and scenarios of one kind share a line."""
    groups: dict[bytes, LeftOut] = {}
    for configuration, rule in pairs:
        shared = msgspec.structs.replace(configuration, batch=1, threads=None, streams=1, load=None)
        key = _key(shared) + rule.name.encode()
        first = groups.get(key, LeftOut(configuration, 0, rule.exclude, rule.name))
        groups[key] = msgspec.structs.replace(first, count=first.count + 1)
    return tuple(groups.values())


def _with_images(block: Block, images: str | None) -> Block:
    return msgspec.structs.replace(block, images=images) if images and block.processings else block


def _nothing(checked: Checked, lacking: Sequence[LeftOut], excluded: Sequence[LeftOut]) -> WattwerkError:
    reasons = "; ".join(dict.fromkeys(each.reason for each in lacking))
    if reasons:
        return UnavailableError(f"nothing of the study {checked.name} can run here: {reasons}", None)
    told = "; ".join(dict.fromkeys(f"{each.rule}: {each.reason}" for each in excluded))
    count = sum(each.count for each in excluded)
    why = f"its rules exclude all {count} ({told})" if told else "no configuration is left of what was asked for"
    return ConfigError(f"there is nothing to measure in {checked.path}: {why}", "ask for a larger part of it")


def _expanded(
    block: Block, runtimes: Collection[str], checked: Checked, where: str
) -> Iterator[Configuration | LeftOut]:
    """Yield what a block asks for, or the reason for which this machine cannot do it."""
    for name in _runtime_names(block):
        if not _among(name, runtimes):
            continue  # and is not even asked what it can do
        try:
            runtime = RUNTIMES.load(name)
        except UnavailableError as error:
            yield from _lacking(block, name, block.devices, block.precisions, str(error))
            continue
        probe = runtime.probe()
        if not probe.available:
            reason = f"the runtime {name} is not available ({probe.detail})"
            if probe.remedy:
                reason = f"the runtime {name} is not available ({probe.detail}): {probe.remedy}"
            yield from _lacking(block, name, block.devices, block.precisions, reason)
            continue
        known = runtime.devices()
        for asked in block.devices:
            if not (devices := _devices(asked, known)):
                there = ", ".join(known) or "none"
                reason = f"{name} finds no device {asked} here; there is {there}"
                yield from _lacking(block, name, [asked], block.precisions, reason)
            for device in devices:
                yield from _on(block, name, runtime, device, checked, where)


def _on(
    block: Block, name: str, runtime: type[Runtime], device: str, checked: Checked, where: str
) -> Iterator[Configuration | LeftOut]:
    """Yield a block's configurations on one device, or why it cannot run them."""
    honoured = [precision.value for precision in runtime.precisions(device)]
    asked = honoured if ALL in block.precisions else list(dict.fromkeys(block.precisions))
    refused = [precision for precision in asked if precision not in honoured]
    for precision in refused:
        reason = f"{name} cannot run {precision} on {device}, only {', '.join(honoured) or 'nothing'}"
        yield from _lacking(block, name, [device], [precision], reason)
    precisions = tuple(precision for precision in asked if precision in honoured)
    if not precisions:
        return
    request = plan.to_request(_request(block, checked, name, device, precisions))
    try:
        yield from plan.configurations_of(request)
    except UnavailableError as error:  # such as LoadGen or the photos
        yield from _lacking(block, name, [device], precisions, str(error))
    except ConfigError as error:
        remedy = f'{error.remedy or ""}; dataset = "" in the block leaves it out' if block.dataset else error.remedy
        raise ConfigError(f"{where}: {error.message}", remedy) from error


def _request(block: Block, checked: Checked, name: str, device: str, precisions: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {key: getattr(block, key) for key in _SHARED}
    length = {"full": checked.study.full, "procedure": checked.study.procedure}  # how long the run of a load is
    return values | length | {"runtimes": (name,), "devices": (device,), "precisions": tuple(precisions)}


def _lacking(
    block: Block, runtime: str, devices: Collection[str], precisions: Collection[str], reason: str
) -> Iterator[LeftOut]:
    """Yield one reason for each model and precision; the batch sizes and the rest share it."""
    count = 1
    for many in (block.batches, block.threads, block.processings, block.streams, block.scenarios):
        count *= max(1, len(many))
    for model, beside in [(block.models[0], block.models[1:])] if block.together else [(m, ()) for m in block.models]:
        for precision in precisions:
            first = Configuration(
                model=model,
                beside=beside,
                runtime=runtime,
                precision=precision,
                batch=min(block.batches),
                device=next(iter(devices)),
                processing=next(iter(block.processings), ""),
                streams=min(block.streams),
                dataset=block.dataset,
                dataset_limit=block.dataset_limit,
                calibration=block.calibration,
            )
            yield LeftOut(first, count * len(devices), reason)


def _runtime_names(block: Block) -> list[str]:
    names = RUNTIMES.names() if ALL in block.runtimes else list(dict.fromkeys(block.runtimes))
    return [name for name in names if ALL not in block.runtimes or _is_available(name)]


def _is_available(name: str) -> bool:
    try:
        return RUNTIMES.load(name).probe().available
    except UnavailableError:
        return False


def _devices(asked: str, known: Sequence[str]) -> list[str]:
    """Return which of a runtime's devices are meant: the first, all, one by name, or the first one of a kind."""
    if asked == ALL:
        return list(known)
    if asked == AUTO:
        return list(known[:1])
    return [device for device in known if _is_one_of(device, [asked])][:1]


def _is_one_of(device: str, asked: Collection[str]) -> bool:
    return any(device == each or device.startswith(f"{each}:") or each.startswith(f"{device}:") for each in asked)


def _among(value: object, asked: Collection[object]) -> bool:
    return not asked or value in asked or ALL in asked


def _ruled(
    checked: Checked, block: str, configuration: Configuration, accelerated: bool
) -> tuple[Procedure, Rule | None]:
    """Return how a configuration is measured, and the first rule that excludes it."""
    changes: dict[str, Any] = {}
    excluding: Rule | None = None
    for rule in checked.rules:
        if rule.accelerated in (None, accelerated) and _holds(rule, block, configuration):
            changes |= rule.procedure
            excluding = excluding or (rule if rule.exclude else None)
    long = configuration.load is not None or configuration.dataset is not None
    return checked.procedure(changes, checked.path, long=long), excluding


def _holds(rule: Rule, block: str, configuration: Configuration) -> bool:
    its = configuration
    scenario = its.load.scenario if its.load else ""
    return (
        _among(block, rule.blocks)
        and any(_among(model, rule.models) for model in (its.model, *its.beside))
        and _among(its.runtime, rule.runtimes)
        and _among(its.precision, rule.precisions)
        and (not rule.devices or _is_one_of(its.device, rule.devices))
        and _among(its.batch, rule.batches)
        and its.batch > rule.batch_above
        and (not rule.processings or bool(its.processing and _among(its.processing, rule.processings)))
        and (not rule.scenarios or bool(scenario and _among(scenario, rule.scenarios)))
    )


def _key(configuration: Configuration) -> bytes:
    return msgspec.json.encode(configuration, order="sorted")
