"""What sender and receiver of updates both hold: the receiver's tensors, and what the updates before have left.

Both ends advance their state by `advance` from the decoded difference alone, so that they stay equal bit for bit.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from wattwerk.codec.data_unit import DataUnit, ParentType
from wattwerk.codec.elements import FLOATS, FORMATS, Array, dtype_name, restore_values
from wattwerk.codec.sidecar import Note
from wattwerk.codec.tensor_decoding import Budget, Coded, Decoded, Reference, decode_unit
from wattwerk.codec.unpacking import walk, whole_tensors
from wattwerk.errors import BitstreamError


class Track(msgspec.Struct, frozen=True):
    """What the updates before have left for one tensor.

    Attributes:
        depth: How many updates it is away from the base.
        reference: Levels of the last update and where any update was not zero.
    """

    depth: int = 0
    reference: Reference = Reference()

    def after(self, levels: Array, *, keep: bool = True) -> Track:
        """Return the track after one more update."""
        if not keep:
            return Track(self.depth + 1)
        used = levels != 0
        if self.reference.history is not None:
            used |= self.reference.history == 1
        return Track(self.depth + 1, Reference(levels, used.astype(np.int8)))


class State(msgspec.Struct, frozen=True):
    """Tensors and their tracks, by name.

    Attributes:
        arrays: The tensors; never changed in place.
        tracks: What updates before have left; a tensor that none has touched is not in it.
        parameters: The number by which updates call a tensor.
    """

    arrays: dict[str, Array]
    tracks: dict[str, Track]
    parameters: dict[str, int]

    @classmethod
    def of(cls, base: Mapping[str, Any], *, copy: bool) -> State:
        """Return the state before the first update."""
        arrays = {name: np.array(value) if copy else np.asarray(value) for name, value in base.items()}
        return cls(arrays, {}, {name: index for index, name in enumerate(arrays)})

    def with_changes(
        self, arrays: Mapping[str, Array], tracks: Mapping[str, Track | None], removed: tuple[str, ...] = ()
    ) -> State:
        """Return the state after an update: tensors that it changed, their tracks (None forgets one), those removed."""
        kept = {name: array for name, array in {**self.arrays, **arrays}.items() if name not in removed}
        new_tracks = {n: t for n, t in {**self.tracks, **tracks}.items() if t is not None and n in kept}
        parameters = dict(self.parameters)
        for name in kept:
            parameters.setdefault(name, len(parameters))
        return State(kept, new_tracks, parameters)

    def rebased(self, base: Mapping[str, Any]) -> State:
        """Return the state with other tensors; those of the same size keep their tracks."""
        arrays = State.of(base, copy=True).arrays
        resized = {n: None for n, a in self.arrays.items() if n in arrays and arrays[n].shape != a.shape}
        return self.with_changes(arrays, resized, tuple(name for name in self.arrays if name not in arrays))


def advance(array: Array, difference: Array) -> Array:
    """Add a decoded difference: float32 to floats (float64 in float64), integers modulo their type's range."""
    dtype = dtype_name(array)
    difference = difference.reshape(array.shape)
    with np.errstate(all="ignore"):
        if dtype == "float64":
            return np.asarray(array + difference.astype(np.float64))
        if dtype in FLOATS:
            total = array.astype(np.float32) + difference.astype(np.float32)
            return restore_values(np.asarray(total).reshape(-1), dtype, array.shape, 0)
        wide = wide_integers(array) + difference.astype(np.int64)
        return np.asarray(wide).astype(array.dtype)


def wide_integers(array: Array) -> Array:
    """Return integers as int64, uint64 modulo 2^64."""
    return array.view(np.int64) if array.dtype == np.uint64 else array.astype(np.int64)


class Received(msgspec.Struct, frozen=True):
    """What an update brings.

    Attributes:
        differences: Decoded differences to the base.
        wholes: Tensors that are new or replaced.
        tracks: What the update leaves for the next one; None for replaced tensors.
        removed: Names of tensors that no longer exist.
    """

    differences: dict[str, Array]
    wholes: dict[str, Array]
    tracks: dict[str, Track | None]
    removed: tuple[str, ...]

    def applied_to(self, state: State) -> State:
        """Return the state after the update."""
        known = {n: a for n, a in self.differences.items() if n in state.arrays}
        arrays = {name: advance(state.arrays[name], difference) for name, difference in known.items()}
        return state.with_changes({**arrays, **self.wholes}, self.tracks, self.removed)

    def noted_in(self, state: State) -> State:
        """Return a state without tensors after the update."""
        tracks = {name: track for name, track in {**state.tracks, **self.tracks}.items() if track is not None}
        return State({}, {name: track for name, track in tracks.items() if name not in self.removed}, {})


def receive(
    state: State, data: bytes | bytearray | memoryview, max_values: int | None, *, strict: bool, bare: bool = False
) -> Received:
    """Decode an update.

    Args:
        state: What is known before; it is not changed, whatever happens.
        data: The update.
        max_values: Bound on the values of all tensors together.
        strict: Refuse an update that does not follow the one before.
        bare: The state holds tracks but no tensors.

    Raises:
        BitstreamError: The update is damaged, or does not belong to this state.
    """
    budget = Budget(len(data), max_values)
    if max_values is None:  # an update may touch every tensor with next to no bytes
        budget.max_values += 2 * sum(array.size for array in state.arrays.values())
    shapes = {name: array.shape or (1,) for name, array in state.arrays.items()}
    received = Received({}, {}, {}, ())
    for step in walk(io.BytesIO(data), budget, shapes):
        if step.note is not None and step.note.removed:
            received = msgspec.structs.replace(received, removed=received.removed + step.note.removed)
        if step.coded is None or step.coded.unit.parent is None:
            for name, values in whole_tensors(step):
                received.wholes[name], received.tracks[name] = values, None
            continue
        if not bare:
            _check_base(state, step.coded)
        for tensor in _differences(state, step.coded, strict):
            assert tensor.levels is not None  # `_differences` has none that are raw
            received.differences[tensor.name] = tensor.values
            received.tracks[tensor.name] = state.tracks.get(tensor.name, Track()).after(tensor.levels)
    return received


def _check_base(state: State, coded: Coded) -> None:
    for tensor in coded.unit.tensors:
        array = state.arrays.get(tensor.name)
        if array is None:
            raise _mismatch(coded, f"the base has no tensor {tensor.name!r}")
        if (array.shape or (1,)) != tensor.shape:
            raise _mismatch(coded, f"{tensor.name!r} has the shape {array.shape} in the base, not {tensor.shape}")
        _check_dtype(coded, tensor.name, array)


def _differences(state: State, coded: Coded, strict: bool) -> list[Decoded]:
    unit = coded.unit
    if strict:
        for name in unit.names:
            _check_depth(coded, unit, name, state.tracks.get(name, Track()).depth)
    references = {name: state.tracks[name].reference for name in unit.names if name in state.tracks}
    plain = msgspec.structs.replace(coded, note=Note(), unit=msgspec.structs.replace(unit, data_format=None))
    decoded = decode_unit(plain, references)
    if any(tensor.levels is None for tensor in decoded):
        raise _mismatch(coded, "a raw tensor cannot be a difference")
    return decoded


def _check_dtype(coded: Coded, name: str, array: Array) -> None:
    told, known = coded.unit.data_format, FORMATS.get(dtype_name(array))
    if told is not None and told != known:
        raise _mismatch(coded, f"{name!r} is of the type {dtype_name(array)} in the base, not of the update's")


def _check_depth(coded: Coded, unit: DataUnit, name: str, depth: int) -> None:
    if unit.node is None or unit.parent is None or unit.parent.type != ParentType.NODE:
        return
    if unit.node.depth != depth + 1:
        raise _mismatch(coded, f"this is update {unit.node.depth} of {name!r}, but {depth} were applied")


def _mismatch(coded: Coded, message: str) -> BitstreamError:
    return BitstreamError(message, "apply updates in order, to the base they were made for", offset=coded.offset)
