"""Two model files of one name: told apart by as much of their paths as that takes, among the records shown together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from wattwerk.language import t
from wattwerk.records import Platform, Record

_SUFFIX: Final = ".onnx"
_PIPELINE: Final = " (pipeline)"


def told_apart(records: Sequence[Record], like: Sequence[Record] = ()) -> list[Record]:
    """Return the records with distinct names for distinct models: ``a/model`` and ``b/model`` for two ``model.onnx``.

    A pipeline is called one, since its time and energy are not those of the model alone: ``detr-r50 (pipeline)``. So is
    a model that ran while others did: ``detr-r50 (beside resnet-50)``.

    Files with the same content are one model wherever they lie, and a name that only one model has stays as it is.

    Args:
        records: In any order; what is returned has the same.
        like: Other records, with whose names these have to agree: the same content is called the same.
    """
    records, like = [_with_pipeline(record) for record in records], [_with_pipeline(record) for record in like]
    known = {
        (old.subject.name, old.subject.digest): new.subject.name
        for old, new in (zip(like, told_apart(like), strict=True) if like else ())
        if old.subject.digest
    }
    identities = _identities(records)
    groups: dict[str, dict[str, Record]] = {}
    for record, identity in zip(records, identities, strict=True):
        groups.setdefault(record.subject.name, {}).setdefault(identity, record)
    names = {name: _names(name, group) for name, group in groups.items()}
    return [
        _called(record, known.get((record.subject.name, identity)) or names[record.subject.name][identity])
        for record, identity in zip(records, identities, strict=True)
    ]


def machines_told_apart(records: Sequence[Record]) -> list[Record]:
    """Return the records with distinct labels for distinct machines: by what differs, such as the operating system.

    Two machines of the same make, size and system cannot be told apart, unless their owner gave them labels.

    Args:
        records: In any order; what is returned has the same.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.platform.label, []).append(record)
    telling = {label: _telling(group) for label, group in groups.items()}
    return [_on(record, telling[record.platform.label]) for record in records]


def _telling(records: Sequence[Record]) -> list[int]:
    """Return which parts of a machine's description differ between machines of one label; unknown is no difference."""
    parts = [_machine_parts(record.platform) for record in records]
    return [index for index in range(len(parts[0])) if len({part[index] for part in parts} - {""}) > 1]


def _machine_parts(platform: Platform) -> tuple[str, ...]:
    count = platform.cpu_logical_count
    accelerators = ", ".join(sorted({accelerator.name for accelerator in platform.accelerators}))
    return platform.os, platform.cpu, t("{count} threads", count=count) if count else "", accelerators


def _on(record: Record, telling: Sequence[int]) -> Record:
    parts = _machine_parts(record.platform)
    told = ", ".join(parts[index] for index in telling if parts[index])
    if not told:
        return record
    platform = msgspec.structs.replace(record.platform, label=f"{record.platform.label} ({told})")
    return msgspec.structs.replace(record, platform=platform)


def _with_pipeline(record: Record) -> Record:
    """Return the record with a name that says whether it was a pipeline, or which models ran at the same time."""
    name = record.subject.name
    if beside := record.setup.protocol.get("beside"):
        told = t(" (beside {others})", others=beside)
        return record if name.endswith(told) else _called(record, name + told)
    if not record.setup.protocol.get("processing") or name.endswith(_PIPELINE):
        return record
    return _called(record, name + _PIPELINE)


def _path_of(record: Record) -> str:
    """Return the path of a model file as it was asked for; empty for other models or where the record has none."""
    try:
        asked: Any = msgspec.json.decode(str(record.setup.protocol.get("configuration", "")))
    except msgspec.DecodeError:
        return ""
    path = str(asked.get("model", "")) if isinstance(asked, dict) else ""
    return path if path.endswith(_SUFFIX) else ""


def _identities(records: Sequence[Record]) -> list[str]:
    """Return for each record what its model is: the content of its file, else its path, else nothing but its name."""
    contents: dict[str, set[str]] = {}
    for record in records:
        if record.subject.digest:
            contents.setdefault(_path_of(record), set()).add(record.subject.digest)
    found = []
    for record in records:
        path = _path_of(record)
        # a file that could not be read any more is the one that lay there before
        there = contents.get(path, set()) if path else set()
        found.append(record.subject.digest or (next(iter(there)) if len(there) == 1 else path))
    return found


def _called(record: Record, name: str) -> Record:
    if name == record.subject.name:
        return record
    return msgspec.structs.replace(record, subject=msgspec.structs.replace(record.subject, name=name))


def _names(plain: str, distinct: dict[str, Record]) -> dict[str, str]:
    """Return identity -> name to show, for the distinct models of one name."""
    if len(distinct) == 1:
        return dict.fromkeys(distinct, plain)
    parts = [re.split(r"[\\/]", _path_of(record).removesuffix(_SUFFIX) or plain) for record in distinct.values()]
    for count in range(2, max(len(each) for each in parts) + 1):
        tails = ["/".join(each[-count:]) for each in parts]
        if len(set(tails)) == len(tails):
            return dict(zip(distinct, tails, strict=True))
    # one file at two times, or a record that does not tell where its file lay
    return {identity: f"{plain} ({identity[:6]})" if identity else plain for identity in distinct}
