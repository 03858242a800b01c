"""A study file: a TOML that describes a whole campaign, checked before anything runs.

``docs/study.md`` explains the keys. ``studies/`` beside this file has the studies that wattwerk ships.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from wattwerk import config
from wattwerk.bench import dataset
from wattwerk.bench.load import SCENARIOS, Wishes
from wattwerk.bench.pipeline import PROCESSINGS
from wattwerk.bench.scenario import DEFAULT_RUNTIME, FULL, QUICK, Procedure
from wattwerk.catalog import models
from wattwerk.errors import ConfigError, WattwerkError
from wattwerk.registry import suggestion
from wattwerk.runtimes import RUNTIMES
from wattwerk.runtimes.base import Precision

S = TypeVar("S", bound=msgspec.Struct)

ALL: Final = "all"
AUTO: Final = "auto"
#: How long a configuration may take that has a load or a data set, unless the file says otherwise.
_LONG_TIMEOUT_S: Final = 6 * 3600.0
_DEVICE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]*")
_EXAMPLES: Final = {
    "models": '["resnet-50"]',
    "runtimes": '["onnxruntime", "torch"]',
    "precisions": '["fp32", "int8"]',
    "batches": "[1, 2, 4]",
    "devices": '["auto"]',
    "threads": "[1, 2]",
    "streams": "[1, 2]",
    "processings": '["sequential", "vectorised"]',
    "scenarios": '["offline"]',
    "blocks": '["latency"]',
    "budget_s": "1200",
    "batch_above": "8",
    "accelerated": "true",
    "dataset": '"photos/"',
    "dataset_limit": "500",
    "calibration": '"other-photos/"',
    "together": "true",
    "exclude": '"the reason"',
    "name": '"latency"',
    "title": '"My study"',
    "block": '[{ name = "latency", models = ["resnet-50"] }]',
}


class Block(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question of a study: every combination of what it lists is measured.

    Attributes:
        name: What it is called in rules and messages.
        models: Names of the catalog, paths to ONNX files, ``package.module:factory``.
        runtimes: Names of runtimes; ``all`` stands for those that are available.
        precisions: Names of precisions; ``all`` stands for what each runtime can honour.
        batches: Batch sizes.
        devices: ``auto`` is the runtime's first one, ``cuda`` the first one of that kind, ``all`` every one.
        threads: Thread counts; empty leaves the choice to the runtime.
        options: Options of the runtimes.
        processings: Ways of processing photos; empty for the model alone.
        images: A folder of photos for them; else those that scikit-image brings along.
        streams: Numbers of sessions that run at once.
        scenarios: Load scenarios of MLPerf; empty for timed iterations.
        load: Deviations from the scenarios.
        together: Whether all models run at the same time.
        dataset: A data set, as ``dataset.read`` takes it; None for the study's own, empty for none.
        dataset_limit: Photos of it at most.
        calibration: A folder of photos to calibrate int8 with.
    """

    name: str
    models: tuple[str, ...]
    runtimes: tuple[str, ...] = (DEFAULT_RUNTIME,)
    precisions: tuple[str, ...] = ("fp32",)
    batches: tuple[int, ...] = (1,)
    devices: tuple[str, ...] = (AUTO,)
    threads: tuple[int, ...] = ()
    options: dict[str, Any] = {}
    processings: tuple[str, ...] = ()
    images: str | None = None
    streams: tuple[int, ...] = (1,)
    scenarios: tuple[str, ...] = ()
    load: dict[str, Any] = {}
    together: bool = False
    dataset: str | None = None
    dataset_limit: int | None = None
    calibration: str | None = None

    @property
    def kinds(self) -> list[str]:
        """The keys that make it something else than timed iterations; one at most makes sense."""
        found = {"together": self.together, "scenarios": self.scenarios, "streams": max(self.streams, default=1) > 1}
        return [key for key, there in found.items() if there]


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for some configurations only; an empty condition holds for all, and all conditions have to hold.

    Attributes:
        name: What it is called where it excludes something; by default ``rule 1``, ``rule 2`` in the order of the file.
        blocks: In these blocks.
        models: For these models; of several at once, where one of them is among these.
        runtimes: For these runtimes.
        precisions: For these precisions.
        devices: On these devices, or kinds of devices.
        batches: For these batch sizes.
        batch_above: For batch sizes above this one.
        processings: For these ways of processing.
        scenarios: For these load scenarios.
        accelerated: On machines where something of the study runs on an accelerator, or where nothing does.
        exclude: Why it is not measured; empty where it is.
        procedure: How it is measured instead.
    """

    name: str = ""
    blocks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    batch_above: int = 0
    processings: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    accelerated: bool | None = None
    exclude: str = ""
    procedure: dict[str, Any] = {}


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A study file.

    Attributes:
        title: What it is about, in one line.
        budget_s: How long the whole may take, in seconds; 0 sets no limit.
        full: Energy windows of 10 s instead of 2 s.
        procedure: Deviations from the procedure, for all.
        dataset: A data set for all blocks that time iterations and name none.
        dataset_limit: Photos of it at most.
        calibration: A folder of photos to calibrate int8 with.
        block: The blocks, the most important first.
        rule: The rules; of several that hold for a configuration, later ones override earlier ones.
    """

    title: str = ""
    budget_s: float = 0.0
    full: bool = False
    procedure: dict[str, Any] = {}
    dataset: str | None = None
    dataset_limit: int | None = None
    calibration: str | None = None
    block: tuple[dict[str, Any], ...]
    rule: tuple[dict[str, Any], ...] = ()


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A study that was checked.

    Attributes:
        name: The file's name without its suffix.
        path: The file, for messages.
        study: What it says.
        blocks: Its blocks.
        rules: Its rules.
    """

    name: str
    path: str
    study: Study
    blocks: tuple[Block, ...]
    rules: tuple[Rule, ...]

    def procedure(self, changes: dict[str, Any], where: str, *, long: bool = False) -> Procedure:
        """Return how configurations are measured for which rules change this much.

        Args:
            changes: What rules change.
            where: What to name in an error.
            long: Whether they may take hours, as a search for the highest load or a large data set does.

        Raises:
            ConfigError: A key is unknown or a value is out of range.
        """
        usual = msgspec.structs.asdict(FULL if self.study.full else QUICK)
        usual |= {"timeout_s": _LONG_TIMEOUT_S} if long else {}
        chosen = _to(Procedure, usual | self.study.procedure | changes, where)
        quick = chosen.window_s < FULL.window_s or chosen.windows < FULL.windows
        return msgspec.structs.replace(chosen, quick=quick)


def shipped() -> dict[str, Path]:
    """Return name -> file of the studies that wattwerk ships."""
    folder = Path(str(files("wattwerk.bench"))) / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find(reference: str) -> Path:
    """Return the file of a study that is named, or given by its path.

    Raises:
        ConfigError: There is none.
    """
    known = shipped()
    path = Path(reference).expanduser()
    if reference in known and not path.is_file():
        return known[reference]
    if not path.is_file():
        raise ConfigError(f"there is no study {reference!r}", f"{suggestion(reference, list(known))}, or give a file")
    return path


def read(reference: str) -> Checked:
    """Read a study and check every name and value in it.

    Args:
        reference: The name of a study that wattwerk ships, or a file.

    Raises:
        ConfigError: The file cannot be read, or something in it cannot be; the message names file, table and key.
    """
    path = find(reference)
    shown = str(path)
    study = _to(Study, config.read_toml(path), shown)
    if not study.block:
        raise ConfigError(f"{shown}: there is no [[block]]", "add one with a name and models")
    if study.budget_s < 0:
        raise ConfigError(f"{shown}: key budget_s: {study.budget_s:g} is negative", "use 0 for no limit")
    _check_dataset(study, shown)
    blocks = tuple(_block(values, f"{shown}, [[block]] {index}", study) for index, values in enumerate(study.block, 1))
    names = [block.name for block in blocks]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{shown}: two blocks are called {doubled!r}", "give each block a name of its own")
    rules = tuple(_rule(values, names, f"{shown}, [[rule]]", index) for index, values in enumerate(study.rule, 1))
    if doubled := next((one.name for one in rules if [rule.name for rule in rules].count(one.name) > 1), None):
        raise ConfigError(f"{shown}: two rules are called {doubled!r}", "give each rule a name of its own, or none")
    found = Checked(name=path.stem, path=shown, study=study, blocks=blocks, rules=rules)
    found.procedure({}, f"{shown}, [procedure]")
    for index, rule in enumerate(rules, 1):
        found.procedure(rule.procedure, f"{shown}, [[rule]] {index}, procedure")
    return found


def _block(values: dict[str, Any], where: str, study: Study) -> Block:
    where = f"{where} ({values['name']})" if isinstance(values.get("name"), str) else where
    block = _to(Block, values, where)
    for key in ("models", "runtimes", "precisions", "batches", "devices", "streams"):
        if not getattr(block, key):
            raise ConfigError(f"{where}: key {key} is empty", f"write it like {_EXAMPLES[key]}, or leave the block out")
    _check_names(block, where)
    for key in ("batches", "threads", "streams"):
        for value in getattr(block, key):
            if value < 1:
                raise ConfigError(f"{where}: key {key}: {value} is not possible", "use 1 or more")
    if block.images is not None and not block.processings:
        raise ConfigError(f"{where}: key images without processings", 'add processings = ["vectorised"]')
    if block.load and not block.scenarios:
        raise ConfigError(f"{where}: key load without scenarios", 'add scenarios = ["server"]')
    _to(Wishes, block.load, f"{where}, load")
    _check_kind(block, where)
    chosen = _with_dataset(block, study)
    _check_dataset(chosen, where)
    return msgspec.structs.replace(chosen, images=_absolute(chosen.images))


def _check_kind(block: Block, where: str) -> None:
    """Refuse what cannot be measured together: a block is timed iterations, a load, streams or models at once."""
    given = block.kinds
    given += [key for key in ("processings", "dataset") if given and getattr(block, key)]
    if len(given) > 1:
        raise ConfigError(
            f"{where}: key {given[1]} does not go with key {given[0]}", "leave one of them out, or write two blocks"
        )
    if block.together and len(set(block.models)) < 2:
        raise ConfigError(f"{where}: key together needs several models", "name two or more, or leave it out")


def _with_dataset(block: Block, study: Study) -> Block:
    """Return the block with the data set that it takes: its own, or the study's where it times iterations."""
    shared = block.dataset is None and not block.kinds and study.dataset is not None
    keys = ("dataset", "dataset_limit", "calibration")
    found = {key: getattr(block, key) for key in keys}
    if shared:
        found = {key: getattr(study, key) if value is None else value for key, value in found.items()}
    paths = {key: _absolute(found[key]) for key in ("dataset", "calibration")}
    return msgspec.structs.replace(block, dataset_limit=found["dataset_limit"], **paths)


def _absolute(path: str | None) -> str | None:
    """Return a path that is the same wherever the study is taken up again."""
    return str(Path(path).expanduser().absolute()) if path else None


def _check_dataset(table: Study | Block, where: str) -> None:
    for key in ("dataset_limit", "calibration"):
        if getattr(table, key) is not None and not table.dataset:
            raise ConfigError(f"{where}: key {key} without dataset", f"add dataset = {_EXAMPLES['dataset']}")
    if table.dataset_limit is not None and table.dataset_limit < 1:
        raise ConfigError(f"{where}: key dataset_limit: {table.dataset_limit} is not possible", "use 1 or more")
    if table.dataset:
        reference = table.dataset
        _named(lambda: dataset.read(reference), f"{where}: key dataset")
    if table.calibration is not None and not Path(table.calibration).expanduser().is_dir():
        raise ConfigError(f"{where}: key calibration: there is no folder {table.calibration}", "check the path")


def _rule(values: dict[str, Any], blocks: list[str], where: str, index: int) -> Rule:
    where = f"{where} {index}"
    rule = _to(Rule, values, where)
    rule = msgspec.structs.replace(rule, name=rule.name or f"rule {index}")
    for name in rule.blocks:
        if name not in blocks:
            raise ConfigError(f"{where}: key blocks: there is no block {name!r}", suggestion(name, blocks))
    _check_names(rule, where)
    if not rule.exclude and not rule.procedure:
        raise ConfigError(f"{where}: it does nothing", 'add exclude = "the reason" or procedure = { iterations = 20 }')
    return rule


def _check_names(table: Block | Rule, where: str) -> None:
    for name in table.models:
        _named(lambda name=name: models.resolve(name), f"{where}: key models")  # type: ignore[misc]
    choices: dict[str, Iterable[str]] = {
        "runtimes": (*RUNTIMES.names(), ALL),
        "precisions": (*(each.value for each in Precision), ALL),
        "processings": (*PROCESSINGS, ALL),
        "scenarios": (*SCENARIOS, ALL),
    }
    for key, known in choices.items():
        for name in getattr(table, key):
            if name not in known:
                raise ConfigError(f"{where}: key {key}: unknown {key[:-1]} {name!r}", suggestion(name, list(known)))
    for name in table.devices:
        if not _DEVICE.fullmatch(name):
            raise ConfigError(f"{where}: key devices: {name!r} is no device", "write it like cpu, cuda or cuda:0")


def _named(check: Callable[[], object], where: str) -> None:
    try:
        check()
    except WattwerkError as error:
        raise ConfigError(f"{where}: {error.message}", error.remedy) from error


def _to(kind: type[S], values: dict[str, Any], where: str) -> S:
    """Convert a table; an error names the table and the key, and says how to write it."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key in values:
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {key!r}", suggestion(key, list(fields)))
    for name, field in fields.items():
        if field.required and name not in values:
            raise ConfigError(f"{where}: key {name} is missing", f"add {name} = {_EXAMPLES.get(name, '…')}")
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$")
        key = place.strip("`").lstrip(".")
        example = _EXAMPLES.get(key.partition("[")[0])
        remedy = f"write it like {key.partition('[')[0]} = {example}" if example else "correct the value"
        raise ConfigError(f"{where}: key {key}: {text}" if key else f"{where}: {text}", remedy) from error
