"""Pack named arrays into an NNC stream."""

from __future__ import annotations

import io
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from wattwerk.codec.data_unit import Context
from wattwerk.codec.options import PackOptions, make_options, processors
from wattwerk.codec.parameter_sets import CODEBOOK, UNIFORM, ModelParameterSet, Quantisation
from wattwerk.codec.sidecar import NOTHING, Note, write_note
from wattwerk.codec.syntax import StartUnit, TopologyUnit, write_unit
from wattwerk.codec.tensor_coding import Coder
from wattwerk.errors import ConfigError

Arrays: TypeAlias = Mapping[str, Any] | Iterable[tuple[str, Any]]
Progress: TypeAlias = Callable[[str, int], None]
"""Called after each tensor with its name and the bytes it takes in the stream."""

_AHEAD_BYTES = 1 << 25  # how much of an iterator's arrays may wait beside those that threads work on


def pack(
    arrays: Arrays,
    *,
    qp: int | None = None,
    dependent: bool | None = None,
    options: PackOptions | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> bytes:
    """Pack named arrays into an NNC stream.

    The stream is the same for any number of threads.

    Args:
        arrays: Arrays by name, or pairs of both; instead of an array also what a reduction pass makes of one. Floats
            are quantised, integers that fit into 32 bits stay exact, others travel as bytes. Types and shapes are kept.
        qp: Quantisation parameter of weights; four less (at density 2) halve the step.
        dependent: Dependent (trellis) quantisation.
        options: All options at once; those given by name go before.
        progress: Called after each tensor.
        changes: Any field of `PackOptions`.

    Returns:
        The stream.

    Raises:
        ConfigError: An option or a tensor cannot be used; the message names it.
    """
    buffer = io.BytesIO()
    pack_file(arrays, buffer, qp=qp, dependent=dependent, options=options, progress=progress, **changes)
    return buffer.getvalue()


def pack_file(
    arrays: Arrays,
    target: str | os.PathLike[str] | BinaryIO,
    *,
    qp: int | None = None,
    dependent: bool | None = None,
    options: PackOptions | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> int:
    """Pack named arrays into a file; of an iterator only a few arrays are in memory at a time.

    Args:
        arrays: As in `pack`.
        target: A path, or a file that is open for writing bytes. A file at a path appears when it is complete.
        qp: As in `pack`.
        dependent: As in `pack`.
        options: As in `pack`.
        progress: As in `pack`.
        changes: As in `pack`.

    Returns:
        Bytes written.

    Raises:
        ConfigError: An option or a tensor cannot be used; the message names it.
    """
    asked = {"qp": qp, "dependent": dependent}
    chosen = make_options(options, {**{k: v for k, v in asked.items() if v is not None}, **changes})
    if not isinstance(target, str | os.PathLike):
        return _write(arrays, target, chosen, progress)
    path = Path(target)
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            written = _write(arrays, file, chosen, progress)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return written


def _write(arrays: Arrays, file: BinaryIO, options: PackOptions, progress: Progress | None) -> int:
    context = Context(profile=options.profile)
    head = Note(container=options.container, metadata=options.metadata)
    start = stream_start(context, options, head)
    file.write(start)
    written = len(start)
    coder = Coder(options, context)
    if isinstance(arrays, Mapping):
        options.check_names(arrays)
    names = []
    for name, units in encoded(arrays, coder, options.threads):
        names.append(name)
        size = sum(file.write(piece) for piece in units)
        written += size
        if progress is not None:
            progress(name, size)
    options.check_names(names)
    return written


def stream_start(context: Context, options: PackOptions, note: Note) -> bytes:
    """Return what stands before the first tensor: start unit, parameter set, topology unit."""
    methods = UNIFORM if options.codebook == "off" else UNIFORM | CODEBOOK
    mps = ModelParameterSet(
        quantisation=Quantisation(methods=methods, density=options.qp_density),
        parent_signalling=context.parent_signalling,
    )
    topology = TopologyUnit(text="" if note == NOTHING else write_note(note))
    return b"".join(write_unit(unit, context) for unit in (StartUnit(context.profile), mps, topology))


def encoded(arrays: Arrays, coder: Coder, threads: int) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the names of all tensors and their units, in order.

    Args:
        arrays: Arrays by name, or pairs of both.
        coder: What codes them.
        threads: How many at a time; 0 for one on each processor.

    Raises:
        ConfigError: A tensor cannot be coded, or a name comes twice.
    """
    threads = threads or processors()
    if threads == 1:
        for index, (name, value) in enumerate(_pairs(arrays)):
            yield name, coder.tensor(name, index, value)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="pack") as pool:
        if isinstance(arrays, dict):
            yield from _largest_first(arrays, coder, pool)
        else:
            yield from _window(arrays, coder, pool, threads)


def _largest_first(
    arrays: Mapping[str, Any], coder: Coder, pool: ThreadPoolExecutor
) -> Iterator[tuple[str, list[bytes]]]:
    """Code the largest tensors first, so that no thread is left with one at the end; all are in memory anyway."""
    places = {name: index for index, name in enumerate(arrays)}
    order = sorted(arrays, key=lambda name: _size(arrays[name]), reverse=True)
    waiting = {name: pool.submit(coder.tensor, name, places[name], arrays[name]) for name in order}
    try:
        for name in arrays:
            yield name, waiting.pop(name).result()
    finally:
        for future in waiting.values():
            future.cancel()


def _window(arrays: Arrays, coder: Coder, pool: ThreadPoolExecutor, threads: int) -> Iterator[tuple[str, list[bytes]]]:
    waiting: deque[tuple[str, int, Future[list[bytes]]]] = deque()
    ahead = 0
    try:
        for index, (name, value) in enumerate(_pairs(arrays)):
            size = _size(value)
            while len(waiting) >= threads and ahead + size > _AHEAD_BYTES:
                done, done_size, future = waiting.popleft()
                ahead -= done_size
                yield done, future.result()
            waiting.append((name, size, pool.submit(coder.tensor, name, index, value)))
            ahead += size
            del value  # the array must not live longer here than in the thread
        while waiting:
            done, _, future = waiting.popleft()
            yield done, future.result()
    finally:
        for _, _, future in waiting:
            future.cancel()


def _pairs(arrays: Arrays) -> Iterator[tuple[str, Any]]:
    if isinstance(arrays, Mapping):
        yield from arrays.items()
        return
    seen: set[str] = set()
    for name, value in arrays:
        if name in seen:
            raise ConfigError(f"there are two tensors named {name!r}", "rename one of them")
        seen.add(name)
        yield name, value


def _size(value: Any) -> int:
    """Bytes of an array, or as many as what stands for one has elements."""
    return int(getattr(value, "nbytes", None) or math.prod(getattr(value, "shape", ())))
