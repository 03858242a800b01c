"""Reduction: named passes over a model's parameters before they are coded.

A pipeline is an ordered list of callables, each a frozen struct with its options:

    arrays = reduce(arrays, [FoldBatchNorm(groups="neighbours"), Sparsify(sparsity=0.5)])

or, from a configuration file, ``reduce(arrays, pipeline([{"pass": "sparsify", "sparsity": 0.5}]))``. `reduce_types`
says what comes out. A pass of someone else's is any callable from parameters to parameters; under a name it is an
entry point of the group ``wattwerk.reductions``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from wattwerk.codec.reduce_types import Parameter, Parameters
from wattwerk.errors import ConfigError
from wattwerk.registry import Registry, suggestion

REDUCTIONS: Registry[Callable[..., Callable[[Mapping[str, Parameter]], Parameters]]] = Registry(
    "reductions",
    {
        "fold-batch-norm": "wattwerk.codec.reduce_batchnorm:FoldBatchNorm",
        "sparsify": "wattwerk.codec.reduce_sparsity:Sparsify",
        "sparsify-by-score": "wattwerk.codec.reduce_sparsity:SparsifyByScore",
        "prune-rows": "wattwerk.codec.reduce_sparsity:PruneRows",
        "decompose": "wattwerk.codec.reduce_decompose:Decompose",
        "k-means": "wattwerk.codec.reduce_quantise:KMeans",
        "uniform": "wattwerk.codec.reduce_quantise:Uniform",
        "local-scale": "wattwerk.codec.reduce_quantise:LocalScale",
    },
)


def reduce(
    parameters: Mapping[str, Parameter], passes: Iterable[Callable[[Mapping[str, Parameter]], Parameters]]
) -> Parameters:
    """Run passes one after another; the input stays as it is."""
    result = dict(parameters)
    for step in passes:
        result = step(result)
    return result


def pipeline(specifications: Sequence[Mapping[str, Any]]) -> list[Callable[[Mapping[str, Parameter]], Parameters]]:
    """Return the passes that a configuration names.

    Args:
        specifications: For each pass ``pass`` with its name, and its options.

    Raises:
        ConfigError: A name or an option is unknown, or a value is of the wrong type.
    """
    return [_make(dict(specification)) for specification in specifications]


def _make(options: dict[str, Any]) -> Callable[[Mapping[str, Parameter]], Parameters]:
    if "pass" not in options:
        raise ConfigError(f"a reduction without a name: {options}", 'add "pass", the name')
    name = options.pop("pass")
    kind: Any = REDUCTIONS.load(name)
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return kind(**options)  # type: ignore[no-any-return]
    for key in options:
        if key not in kind.__struct_fields__:
            raise ConfigError(f"unknown option {key!r} of {name}", suggestion(key, list(kind.__struct_fields__)))
    try:
        return msgspec.convert(options, kind)  # type: ignore[return-value]
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}: {error}", "correct the option") from error
