"""Differential coding: send what changed against a base that both ends have.

    encoder = UpdateEncoder(base)          decoder = UpdateDecoder(base)
    data = encoder.encode(new)      →      arrays = decoder.apply(data)          equal to encoder.state, bit for bit

The encoder codes the difference to what the receiver has, not to what was meant; so an error is corrected in the next
round instead of growing. Tensors that have not changed by half a step are not in the stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np

from wattwerk.codec import _native
from wattwerk.codec.data_unit import Context, DataUnit, NodeId, Parent, PayloadType
from wattwerk.codec.elements import FLOATS, FORMATS, Array, Elements, Kind, dtype_name, make_elements
from wattwerk.codec.options import PackOptions, make_options, processors
from wattwerk.codec.packing import stream_start
from wattwerk.codec.quantisation import step_size
from wattwerk.codec.sidecar import Note
from wattwerk.codec.tensor_coding import Coder, Quantised, check_name
from wattwerk.codec.tensor_decoding import Reference
from wattwerk.codec.update_state import State, Track, advance, receive, wide_integers
from wattwerk.errors import ConfigError

Choice: TypeAlias = Literal["auto", "on", "off"]

_TRIAL_VALUES = 1 << 16  # how much of a tensor is coded to find out which contexts are worth it
_LARGEST_DIFFERENCE = (1 << 31) - 257
_CONTEXT = Context(profile=1, parent_signalling=True)


class _Change(msgspec.Struct, frozen=True):
    """What one tensor adds to an update; nothing at all if it is not worth a bit."""

    units: list[bytes] = []
    array: Array | None = None
    track: Track | None = None


class UpdateEncoder:
    """Makes updates, and knows what the receiver has.

    Args:
        base: Arrays by name that the receiver has; they are copied.
        options: How to code; profile 1 is needed.
        temporal_contexts: Let the last update's levels choose the contexts (TCA); ``auto`` tries the first rows of each
            tensor both ways.
        history_contexts: Let all updates before tell where changes are likely (HDSP).
        accumulate_error: Keep what an update has lost when `rebase` sets another base, and add it to the next one.
        device: Number of the sender that the stream tells.
        changes: Any field of `PackOptions`.

    Raises:
        ConfigError: An option cannot be used.
    """

    def __init__(
        self,
        base: Mapping[str, Any],
        *,
        options: PackOptions | None = None,
        temporal_contexts: Choice = "auto",
        history_contexts: Choice = "auto",
        accumulate_error: bool = False,
        device: int = 0,
        **changes: Any,
    ) -> None:
        self._setup(State.of(base, copy=True), options, temporal_contexts, history_contexts, device, changes)
        self._accumulate = accumulate_error

    def _setup(
        self,
        state: State,
        options: PackOptions | None,
        temporal: Choice,
        history: Choice,
        device: int,
        changes: Mapping[str, Any],
    ) -> None:
        self._options = make_options(options, changes)
        if self._options.profile != 1 or self._options.codebook != "off":
            raise ConfigError("updates need profile 1 and no codebook", "leave both options as they are")
        self._coder = Coder(self._options, _CONTEXT)
        self._state = state
        self._choices = (temporal, history)
        self._device = device
        self._accumulate = False
        self._target: dict[str, Array] = {}
        self._residual: dict[str, Array] = {}

    @property
    def state(self) -> dict[str, Array]:
        """The arrays that the receiver has after all updates so far; do not change them."""
        return dict(self._state.arrays)

    def rebase(self, base: Mapping[str, Any]) -> None:
        """Set what the receiver has, such as the model that a server sends at the start of a round.

        Args:
            base: Arrays by name; tensors keep what updates before have left for their contexts.
        """
        if self._accumulate:
            self._residual = {name: self._lost(name) for name in self._target}
        self._target = {}
        self._state = self._state.rebased(base)

    def encode(self, new: Mapping[str, Any]) -> bytes:
        """Return the update that takes the receiver to new arrays.

        Args:
            new: Arrays by name. Those of the base that are missing here are removed; others are added.

        Raises:
            ConfigError: A tensor cannot be coded; the message names it. The state is then as before.
        """
        removed = tuple(name for name in self._state.arrays if name not in new)
        for name in new:
            check_name(name)
        self._options.check_names([*self._state.arrays, *new])
        head = Note(container=self._options.container, metadata=self._options.metadata, removed=removed)
        pieces = [stream_start(_CONTEXT, self._options, head)]
        arrays: dict[str, Array] = {}
        tracks: dict[str, Track | None] = {}
        for name, change in zip(new, self._changes(new), strict=True):
            pieces += change.units
            if change.array is not None:
                arrays[name], tracks[name] = change.array, change.track
        self._state = self._state.with_changes(arrays, tracks, removed)
        if self._accumulate:
            self._target = {name: self._meant(name, np.asarray(value)) for name, value in new.items()}
        self._residual = {}
        return b"".join(pieces)

    def _changes(self, new: Mapping[str, Any]) -> list[_Change]:
        parameters = self._state.with_changes({name: np.zeros(0) for name in new}, {}).parameters

        def change(name: str) -> _Change:
            return self._change(name, new[name], parameters[name])

        threads = self._options.threads or processors()
        if threads == 1:
            return [change(name) for name in new]
        with ThreadPoolExecutor(threads, thread_name_prefix="update") as pool:
            return list(pool.map(change, new))

    def _change(self, name: str, value: Any, parameter: int) -> _Change:
        elements = make_elements(name, value, self._options.non_finite)
        base = self._state.arrays.get(name)
        difference = None if base is None else self._difference(name, np.asarray(value), elements, base)
        if base is None or difference is None:
            return self._replacement(name, elements, np.asarray(value), base, parameter)
        if not difference.values.any():
            return _Change()
        if difference.kind == Kind.INTEGER:
            quantised = Quantised(difference.values, 0, False)
            decoded = difference.values
        else:
            quantised = self._coder.quantise(name, difference, self._options.qp_of(name, len(elements.shape)))
            decoded = _native.dequantise(quantised.values, step_size(quantised.qp, self._options.qp_density))
        if not quantised.values.any():
            return _Change()
        units = self._coded(name, difference, quantised, parameter)
        keep = self._choices != ("off", "off")
        track = self._state.tracks.get(name, Track()).after(quantised.values, keep=keep)
        return _Change(units, advance(base, decoded), track)

    def _replacement(self, name: str, elements: Elements, value: Array, base: Array | None, parameter: int) -> _Change:
        """Code a tensor that is new, or no longer of the base's type and shape, as it is."""
        if base is not None and _same(base, value):
            return _Change()
        if elements.kind == Kind.EMPTY:
            return _Change([self._coder.note(Note(empty=name, dtype=elements.dtype, shape=elements.shape))], value)
        units = self._coder.elements(name, elements, NodeId(device=self._device, parameter=parameter))
        received = receive(
            State({}, {}, {}), b"".join([stream_start(_CONTEXT, self._options, Note()), *units]), None, strict=False
        )
        return _Change(units, received.wholes[name])

    def _difference(self, name: str, value: Array, elements: Elements, base: Array) -> Elements | None:
        """Return the difference to the base, or None if there is no sensible one."""
        if dtype_name(base) != elements.dtype or base.shape != value.shape:
            return None
        if elements.kind == Kind.EMPTY:
            return msgspec.structs.replace(elements, values=np.zeros(0, np.int32))
        if elements.kind == Kind.FLOAT:
            return self._float_difference(name, value, base)
        if elements.dtype in FLOATS:
            return None
        with np.errstate(over="ignore"):
            wide = wide_integers(value) - wide_integers(base)
        if wide.max() > _LARGEST_DIFFERENCE or wide.min() < -_LARGEST_DIFFERENCE:
            return None
        return Elements(Kind.INTEGER, elements.dtype, elements.shape, wide.astype(np.int32).reshape(-1))

    def _float_difference(self, name: str, value: Array, base: Array) -> Elements | None:
        exact = np.float64 if value.dtype == np.float64 else np.float32
        with np.errstate(all="ignore"):
            difference = value.astype(exact) - base.astype(exact)
            if name in self._residual and self._residual[name].shape == difference.shape:
                difference = difference + self._residual[name]
            flat = np.ascontiguousarray(difference, np.float32).reshape(-1)
        largest = float(np.abs(flat).max())
        if not np.isfinite(largest):
            return None
        return Elements(Kind.FLOAT, dtype_name(value), value.shape, flat, largest)

    def _coded(self, name: str, difference: Elements, quantised: Quantised, parameter: int) -> list[bytes]:
        track = self._state.tracks.get(name, Track())
        unit = DataUnit(
            payload_type=PayloadType.INT if difference.kind == Kind.INTEGER else PayloadType.FLOAT,
            names=(name,),
            shape=difference.coded_shape,
            node=NodeId(device=self._device, parameter=parameter, depth=track.depth + 1),
            parent=Parent(device=self._device),
            data_format=FORMATS.get(difference.dtype),
        )
        best = self._choose(unit, quantised, track.reference)
        return self._coder.unit(*self._code(unit, quantised, best))

    def _choose(self, unit: DataUnit, quantised: Quantised, known: Reference) -> Reference:
        """Return which of both kinds of contexts make the tensor smallest, tried on its first rows."""
        references = _possible(unit, known, self._choices)
        if len(references) == 1:
            return references[0]
        width = quantised.values.size // unit.shape[0]
        rows = min(unit.shape[0], -(-max(2, _TRIAL_VALUES // width) // 64) * 64)  # whole rows of the largest blocks
        trial = msgspec.structs.replace(unit, shape=(rows, *unit.shape[1:]))
        head = msgspec.structs.replace(quantised, values=quantised.values[: rows * width])
        return min(references, key=lambda r: len(self._code(trial, head, _first(r, rows * width))[1]))

    def _code(self, unit: DataUnit, quantised: Quantised, reference: Reference) -> tuple[DataUnit, bytes]:
        assert unit.parent is not None
        parent = msgspec.structs.replace(unit.parent, temporal_context=reference.levels is not None)
        unit = msgspec.structs.replace(unit, parent=parent)
        return self._coder.coded(unit, [quantised], history=reference.history, base=reference.levels)

    def _meant(self, name: str, value: Array) -> Array:
        """Return what the receiver was to get: the new values and what updates before had lost of them."""
        if dtype_name(value) not in FLOATS:
            return np.array(value)
        meant = value.astype(np.float32)
        lost = self._residual.get(name)
        return meant if lost is None or lost.shape != meant.shape else meant + lost

    def _lost(self, name: str) -> Array:
        """Return what the receiver lacks of a tensor."""
        meant, have = self._target[name], self._state.arrays.get(name)
        if have is None or have.shape != meant.shape or meant.dtype != np.float32:
            return np.zeros(meant.shape, np.float32)
        with np.errstate(all="ignore"):
            lost = meant - have.astype(np.float32)
        return np.where(np.isfinite(lost), lost, np.float32(0))


class UpdateDecoder:
    """Applies updates in the order in which an `UpdateEncoder` made them.

    Args:
        base: Arrays by name that the encoder started from; they are copied. None where only the differences are of
            interest, as for a server that averages those of many clients.
    """

    def __init__(self, base: Mapping[str, Any] | None = None) -> None:
        self._state = State.of(base or {}, copy=True)
        self._bare = base is None

    @property
    def state(self) -> dict[str, Array]:
        """The arrays after all updates so far; do not change them."""
        return dict(self._state.arrays)

    def apply(self, data: bytes | bytearray | memoryview, *, max_values: int | None = None) -> dict[str, Array]:
        """Apply an update.

        Args:
            data: The update.
            max_values: Upper bound on the values of all tensors together; the default follows from base and length.

        Returns:
            The arrays after it.

        Raises:
            BitstreamError: The update is damaged or does not follow the one before. The state is then as before.
        """
        self.decode(data, max_values=max_values)
        return self.state

    def decode(self, data: bytes | bytearray | memoryview, *, max_values: int | None = None) -> dict[str, Array]:
        """Apply an update, but return what it brings instead of what it leads to.

        Args:
            data: The update.
            max_values: As in `apply`.

        Returns:
            Differences by name, float32 or int32, and the tensors that are new or replaced.

        Raises:
            BitstreamError: As in `apply`.
        """
        received = receive(self._state, data, max_values, strict=True, bare=self._bare)
        self._state = received.noted_in(self._state) if self._bare else received.applied_to(self._state)
        return {**received.differences, **received.wholes}

    def rebase(self, base: Mapping[str, Any]) -> None:
        """Set another base, as the encoder does at the same point."""
        self._state = self._state.rebased(base)


def pack_update(
    new: Mapping[str, Any], base: Mapping[str, Any], *, options: PackOptions | None = None, **changes: Any
) -> bytes:
    """Return what takes a receiver with a base to new arrays, for one update on its own.

    Args:
        new: Arrays by name.
        base: Arrays by name that the receiver has.
        options: How to code.
        changes: Any field of `PackOptions`.

    Raises:
        ConfigError: An option or a tensor cannot be used; the message names it.
    """
    encoder = UpdateEncoder.__new__(UpdateEncoder)  # without the copy of the base that a chain of updates needs
    encoder._setup(State.of(base, copy=False), options, "off", "off", 0, changes)
    return encoder.encode(new)


def apply_update(
    base: Mapping[str, Any], data: bytes | bytearray | memoryview, *, max_values: int | None = None
) -> dict[str, Array]:
    """Return the arrays that a base and an update give; the base is not changed.

    Args:
        base: Arrays by name.
        data: The update.
        max_values: Upper bound on the values of all tensors together; the default follows from base and length.

    Raises:
        BitstreamError: The update is damaged, does not belong to the base, or needs the updates before it.
    """
    state = State.of(base, copy=False)
    return receive(state, data, max_values, strict=False).applied_to(state).arrays


def _possible(unit: DataUnit, known: Reference, choices: tuple[Choice, Choice]) -> list[Reference]:
    temporal, history = choices
    has_rows = len(unit.shape) > 1 and unit.shape[0] > 1 and any(d > 1 for d in unit.shape[1:])  # else HDSP has no flag
    levels = _options_of(known.levels, temporal)
    histories = _options_of(known.history if has_rows else None, history)
    return [Reference(a, b) for a in levels for b in histories]


def _options_of(array: Array | None, choice: Choice) -> list[Array | None]:
    if array is None or choice == "off":
        return [None]
    return [array] if choice == "on" else [None, array]


def _first(reference: Reference, count: int) -> Reference:
    levels, history = reference.levels, reference.history
    return Reference(
        None if levels is None else levels[:count],
        None if history is None else history[:count],
    )


def _same(base: Array, value: Array) -> bool:
    """Whether two arrays are equal bit for bit."""
    return base.dtype == value.dtype and base.shape == value.shape and base.tobytes() == value.tobytes()
