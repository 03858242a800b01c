"""A model file becomes a stream: tensor by tensor, or after looking at all of them where something has to be chosen."""

from __future__ import annotations

import importlib
import itertools
import math
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
import numpy as np

from wattwerk.codec import allocate
from wattwerk.codec.allocate_sensitivity import QP_DENSITY
from wattwerk.codec.container_types import appearing
from wattwerk.codec.containers import ModelFile, open_model
from wattwerk.codec.elements import Array
from wattwerk.codec.model_files import BASE, ENDING, Share, Tell, check_places, digest, nothing, read_arrays
from wattwerk.codec.options import PackOptions, make_options
from wattwerk.codec.packing import pack, pack_file
from wattwerk.codec.reduce import pipeline, reduce
from wattwerk.codec.reduce_types import Parameters
from wattwerk.codec.update import pack_update
from wattwerk.errors import ConfigError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKMG]?)(i?)B?")


class PackRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of `pack_model`; also the form of a configuration file.

    At most one of ``qp``, ``quality``, ``target_size`` and ``max_accuracy_loss`` says how fine to be.

    Attributes:
        qp: Quantisation parameter of weights.
        quality: ``near-lossless``, ``balanced`` or ``small``.
        target_size: Size to come near to from below: bytes, or a text such as ``6.5MB``.
        max_size: Size that is not exceeded, at the cost of quality.
        max_accuracy_loss: How much smaller the score of ``evaluate`` may become.
        evaluate: ``package.module:function`` that returns the score of arrays by name.
        reduce: Passes in order: a table each with ``pass``, the name, and its options.
        base: Model file or stream that the receiver has, for an update.
        threads: 0 takes all processors.
        options: Any other field of `PackOptions`.
    """

    qp: int | None = None
    quality: str | None = None
    target_size: int | str | None = None
    max_size: int | str | None = None
    max_accuracy_loss: float | None = None
    evaluate: str | None = None
    reduce: list[dict[str, Any]] = []
    base: str | None = None
    threads: int = 0
    options: dict[str, Any] = {}

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ConfigError: It does.
        """
        ways = ("qp", "quality", "target_size", "max_accuracy_loss")
        given = [f"--{name.replace('_', '-')}" for name in ways if getattr(self, name) is not None]
        if self.quality not in (None, *allocate.BITS_OF_QUALITY):
            raise ConfigError(f"unknown quality {self.quality!r}", f"use one of {', '.join(allocate.BITS_OF_QUALITY)}")
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} exclude each other", "give one of them")
        if (self.max_accuracy_loss is None) != (self.evaluate is None):
            raise ConfigError("a largest loss of accuracy needs a function, and the other way round", "give both")
        if self.base is not None and (self.reduce or given not in ([], ["--qp"]) or self.max_size is not None):
            raise ConfigError("an update is coded with a QP and options alone", "leave out --base, or the others")


class Packed(msgspec.Struct, frozen=True):
    """What packing gave.

    Attributes:
        input: The model file.
        output: The stream.
        input_bytes: Size of the model file, all parts together.
        output_bytes: Size of the stream.
        saved_ratio: Share of the bytes that fall away.
        tensors_count: Number of tensors.
        wall_s: Time it took.
        cpu_s: Processor time it took, all threads together.
        update: Whether it is an update.
    """

    input: str
    output: str
    input_bytes: int
    output_bytes: int
    saved_ratio: float
    tensors_count: int
    wall_s: float
    cpu_s: float
    update: bool


def pack_model(source: Path, target: Path | None, request: PackRequest, tell: Tell = nothing) -> Packed:
    """Pack a model file into a stream.

    Args:
        source: The model file, or the folder of its shards.
        target: The stream; it appears when it is complete. None puts it beside the model.
        request: How.
        tell: Told what goes on.

    Raises:
        ConfigError: Something asked for cannot be had, or a file cannot be used; the message names it.
        UnavailableError: A package to read the file with is missing.
    """
    request.check()
    target = target or source.with_name(f"{source.stem or source.resolve().name}{ENDING}")
    check_places(source, target)
    started = time.perf_counter(), time.process_time()
    model = open_model(source)
    with appearing(target) as partial, partial.open("wb") as file:
        write_stream(model, request, file, tell)
    size = target.stat().st_size
    return Packed(
        input=str(source),
        output=str(target),
        input_bytes=model.size_bytes,
        output_bytes=size,
        saved_ratio=1 - size / model.size_bytes,
        tensors_count=model.count,
        wall_s=time.perf_counter() - started[0],
        cpu_s=time.process_time() - started[1],
        update=request.base is not None,
    )


def write_stream(model: ModelFile, request: PackRequest, file: BinaryIO, tell: Tell = nothing) -> None:
    """Pack an opened model into a file that is open for writing; arguments and errors are those of `pack_model`."""
    options = _options(model, request)
    if request.base is not None:
        file.write(_update(model, Path(request.base), options, tell))
        return
    if request.reduce or _is_allocated(request):
        file.write(_chosen(model, request, options, tell))
        return
    sizes: dict[str, int] = {}
    told = Share(tell, "packing", model.size_bytes, sizes)
    pack_file(_counted(model.read(), sizes), file, options=options, progress=told)


def _options(model: ModelFile, request: PackRequest) -> PackOptions:
    told = {"threads": request.threads, "container": model.kind, "metadata": model.metadata or None}
    if request.qp is not None:
        told["qp"] = request.qp
    return make_options(None, {**request.options, **told})


def _is_allocated(request: PackRequest) -> bool:
    wanted = (request.quality, request.target_size, request.max_size, request.max_accuracy_loss)
    return any(each is not None for each in wanted)


def _counted(tensors: Iterator[tuple[str, Array]], sizes: dict[str, int]) -> Iterator[tuple[str, Array]]:
    for name, array in tensors:
        sizes[name] = array.nbytes
        yield name, array


def _chosen(model: ModelFile, request: PackRequest, options: PackOptions, tell: Tell) -> bytes:
    """Pack a model that is looked at as a whole first."""
    tell("reading", 0.0)
    parameters: Parameters = dict(model.read())
    if request.reduce:
        tell("reducing", 0.0)
        parameters = _narrowed(reduce(_widened(parameters), pipeline(request.reduce)), parameters)
    if not _is_allocated(request):
        return _packed(parameters, options, "packing", tell)
    if options.qp_density != QP_DENSITY:
        raise ConfigError(f"QPs are chosen at density {QP_DENSITY}", "leave qp_density out")
    return _allocated(parameters, request, options, tell)


def _packed(parameters: Parameters, options: PackOptions, what: str, tell: Tell) -> bytes:
    sizes = {name: 4 * math.prod(value.shape) for name, value in parameters.items()}
    return pack(parameters, options=options, progress=Share(tell, what, sum(sizes.values()), sizes))


def _allocated(parameters: Parameters, request: PackRequest, options: PackOptions, tell: Tell) -> bytes:
    plain = {name: v for name, v in _widened(parameters).items() if isinstance(v, np.ndarray)}
    numbers = itertools.count(1)

    def packed(tensor_qp: Mapping[str, int]) -> bytes:
        changed = msgspec.structs.replace(options, tensor_qp={**tensor_qp, **options.tensor_qp})
        return _packed(parameters, changed, f"packing, try {next(numbers)}", tell)

    def fitted(size: int) -> bytes:
        found = allocate.for_size(plain, size, pack=lambda qps: len(packed(qps)), dependent=options.dependent)
        return packed(found.tensor_qp)

    tell("choosing QPs", 0.0)
    if request.target_size is not None:
        return fitted(min(_bytes(request.target_size), _bytes(request.max_size or request.target_size)))
    stream = packed(_tensor_qp(plain, request, options))
    return (
        stream
        if request.max_size is None or len(stream) <= _bytes(request.max_size)
        else fitted(_bytes(request.max_size))
    )


def _tensor_qp(plain: dict[str, Array], request: PackRequest, options: PackOptions) -> dict[str, int]:
    if request.quality is not None:
        quality = cast(allocate.Quality, request.quality)
        return allocate.for_quality(plain, quality, dependent=options.dependent).tensor_qp
    if request.max_accuracy_loss is not None and request.evaluate is not None:
        score = _function(request.evaluate)
        return allocate.for_accuracy(plain, request.max_accuracy_loss, score, dependent=options.dependent).tensor_qp
    return {}


def _function(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"there is no function {path} ({error})", "write it like package.module:function") from error


def _bytes(size: int | str) -> int:
    """Read a size: bytes, or a text such as ``6.5MB`` or ``7 MiB``."""
    match = _SIZE.fullmatch(str(size).strip())
    if match is None or not float(match[1]):
        raise ConfigError(f"{size!r} is no size", "write it like 6.5MB, 700kB or 7MiB")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " KMG".index(match[2].upper() or " "))


def _widened(parameters: Parameters) -> Parameters:
    """Return bfloat16 as float32: NumPy does not count it among the floats, and passes would leave it alone."""
    return {
        name: value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype.name == "bfloat16" else value
        for name, value in parameters.items()
    }


def _narrowed(parameters: Parameters, before: Parameters) -> Parameters:
    """Give arrays the bfloat16 back that they had before."""
    result = dict(parameters)
    for name, value in parameters.items():
        old = before.get(name)
        if isinstance(value, np.ndarray) and isinstance(old, np.ndarray) and old.dtype.name == "bfloat16":
            result[name] = value.astype(old.dtype)
    return result


def _update(model: ModelFile, base: Path, options: PackOptions, tell: Tell) -> bytes:
    tell("reading", 0.0)
    known = read_arrays(base)
    metadata = {**model.metadata, BASE: digest(known)}
    tell("packing", 0.0)
    return pack_update(dict(model.read()), known, options=msgspec.structs.replace(options, metadata=metadata))
