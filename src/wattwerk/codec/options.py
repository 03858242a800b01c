"""The options of `pack` and `pack_update`, checked once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal

import msgspec

from wattwerk.codec.quantisation import qp_range
from wattwerk.errors import ConfigError
from wattwerk.registry import suggestion


class PackOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How tensors are coded.

    Attributes:
        qp: Quantisation parameter of weights: tensors of two or more dimensions.
        nonweight_qp: Quantisation parameter of all other tensors.
        tensor_qp: Quantisation parameters by name, before both.
        qp_density: QP steps per doubling of the step size, as a power of two; the range of a QP is
            ±2^(5 + density).
        dependent: Dependent (trellis) quantisation: 3 to 5 % fewer bytes at equal error; at equal QP about one bit a
            weight less, and 1.7 times the error.
        profile: 1, or 0 for decoders of the standard's first edition.
        row_skip: Code rows of zeros as one flag each (profile 1).
        scan_order: 0 codes in raster order; 1 to 4 in blocks of 8 to 64, whose rows can be coded side by side.
        unary_length: How many levels have flags of their own, 1 to 256; 0 chooses for each tensor.
        codebook: ``off``; ``on`` codes each float tensor as indices of a codebook; ``auto`` where that is smaller.
        rate_weight: How much a bit weighs against the squared error (lambda); 0 minimises the error.
        search_limit: How many levels of a tensor decide on the start of each context; of large ones a twelfth does.
        non_finite: ``refuse`` NaN and infinity, or keep such tensors exactly as they are (``raw``).
        threads: Threads over tensors and block rows; 0 takes all processors that this process may use.
        node_ids: Give each tensor the identifier that updates refer to (profile 1).
        container: Kind of file that the tensors come from; goes along for who unpacks.
        metadata: Texts that go along for who unpacks.
    """

    qp: int = -38
    nonweight_qp: int = -75
    tensor_qp: dict[str, int] = {}
    qp_density: int = 2
    dependent: bool = True
    profile: Literal[0, 1] = 1
    row_skip: bool = True
    scan_order: int = 0
    unary_length: int = 0
    codebook: Literal["off", "on", "auto"] = "off"
    rate_weight: float = 0.0
    search_limit: int = 1 << 13
    non_finite: Literal["refuse", "raw"] = "refuse"
    threads: int = 0
    node_ids: bool = True
    container: str | None = None
    metadata: dict[str, str] | None = None

    def __post_init__(self) -> None:
        _check_range("qp_density", self.qp_density, 0, 7)
        low, high = qp_range(self.qp_density)
        _check_range("qp", self.qp, low, high)
        _check_range("nonweight_qp", self.nonweight_qp, low, high)
        for name, qp in self.tensor_qp.items():
            _check_range(f"tensor_qp of {name!r}", qp, low, high)
        _check_range("scan_order", self.scan_order, 0, 4)
        _check_range("unary_length", self.unary_length, 0, 256)
        _check_range("search_limit", self.search_limit, 1, 1 << 40)
        _check_range("threads", self.threads, 0, 1024)
        _check_range("rate_weight", self.rate_weight, 0.0, 1e6)

    def qp_of(self, name: str, dimensions: int) -> int:
        """Return the QP of a tensor with so many dimensions."""
        return self.tensor_qp.get(name, self.qp if dimensions > 1 else self.nonweight_qp)

    def check_names(self, names: Iterable[str]) -> None:
        """Check that each tensor with a QP of its own exists.

        Raises:
            ConfigError: One does not.
        """
        known = dict.fromkeys(names)
        for name in self.tensor_qp:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                remedy = f"did you mean {near[0]!r}?" if near else "use the names of the model's tensors"
                raise ConfigError(f"tensor_qp has a QP for {name!r}, but there is no such tensor", remedy)


def make_options(options: PackOptions | None, changes: Mapping[str, Any]) -> PackOptions:
    """Return the options with some of them replaced.

    Raises:
        ConfigError: A name is not known, a type is wrong, or a value lies outside its range.
    """
    known = PackOptions.__struct_fields__
    for name in changes:
        if name not in known:
            raise ConfigError(f"unknown option {name!r}", suggestion(name, list(known)))
    before = {field: getattr(options or PackOptions(), field) for field in known}
    try:
        return msgspec.convert({**before, **{k: _plain(v) for k, v in changes.items()}}, PackOptions, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"an option cannot be used ({error})", "see the documentation of PackOptions") from error


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _plain(value: Any) -> Any:
    """NumPy's scalars become Python's; mappings become dicts."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    item = getattr(value, "item", None)
    return item() if callable(item) else value


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} {value} is not possible", f"use {low} to {high}")
