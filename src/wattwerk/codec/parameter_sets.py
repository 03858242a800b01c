"""Parameter sets of an NNC stream: what holds for the whole model (MPS) or for the layers that follow (LPS).

Source: ISO/IEC 15938-17, clauses on the model and layer parameter set. The performance maps follow the reference
software, which can read them but writes none.
"""

from __future__ import annotations

import msgspec

from wattwerk.codec.bits import BitReader, BitWriter

UNIFORM = 1  # flags of the quantisation method
CODEBOOK = 2

_DENSITY_BITS = 3
_BASE_QP_BITS = 13


class Quantisation(msgspec.Struct, frozen=True):
    """Which quantisation the tensors use.

    Attributes:
        methods: 1 uniform, 2 codebook, or both; 0 means that neither the density nor the QP is in the stream.
        density: QP steps per doubling of the step size, as a power of two: 2 means four.
        base_qp: The QP that each tensor's own difference is added to.
    """

    methods: int = UNIFORM
    density: int = 2
    base_qp: int = 0

    @property
    def present(self) -> bool:
        """Whether density and QP are in the stream."""
        return self.methods & (UNIFORM | CODEBOOK) != 0


class MapEntry(msgspec.Struct, frozen=True):
    """One row of a performance map: how the network does at one threshold or ratio.

    Attributes:
        values: The float32 numbers in the order of the stream (threshold, ratio, accuracy).
        class_accuracies: Accuracy of each class.
        class_mask: Which classes they are; 0 where the map has none.
        shapes: Unification only: reshaped, super-block and block dimensions.
    """

    values: tuple[float, ...]
    class_accuracies: tuple[float, ...] = ()
    class_mask: int = 0
    shapes: tuple[tuple[int, ...], ...] = ()


class PerformanceMaps(msgspec.Struct, frozen=True):
    """How accurate the network is when it is reduced further; None where the stream has no such map."""

    sparsification: tuple[MapEntry, ...] | None = None
    pruning: tuple[MapEntry, ...] | None = None
    unification: tuple[MapEntry, ...] | None = None
    decomposition: tuple[MapEntry, ...] | None = None


class ModelParameterSet(msgspec.Struct, frozen=True):
    """What holds for the whole stream.

    Attributes:
        topology_carried: Whether topology units (TPL) are in the stream.
        quantisation: Method, density and base QP.
        indexed: Data units name their tensors by the index into a list of names in a topology unit.
        base_model: Identifier of the model that an update belongs to (profile 1).
        metric: What the performance values are, such as ``accuracy`` (profile 1).
        metric_for_maps: Whether ``metric`` holds for the performance maps.
        validation_performance: The whole model's performance (profile 1).
        parent_signalling: Data units can be differences to a parent (profile 1).
        pre_flag: Parameter-reference signalling as the reference software writes it (profile 1).
        maps: Performance maps.
    """

    topology_carried: bool = True
    quantisation: Quantisation = Quantisation()
    indexed: bool = False
    base_model: str | None = None
    metric: str | None = None
    metric_for_maps: bool = False
    validation_performance: float | None = None
    parent_signalling: bool = False
    pre_flag: bool = False
    maps: PerformanceMaps = PerformanceMaps()


class LayerParameterSet(msgspec.Struct, frozen=True):
    """What holds for the data units that follow."""

    self_contained: bool = True
    quantisation: Quantisation = Quantisation()
    maps: PerformanceMaps = PerformanceMaps()


def write_model_parameter_set(writer: BitWriter, mps: ModelParameterSet, profile: int) -> None:
    """Write the payload of an MPS unit.

    Raises:
        ValueError: Profile 0 cannot carry something that is set, or a value does not fit.
    """
    maps = mps.maps
    for present in (mps.topology_carried, *(m is not None for m in _in_order(maps)), maps.decomposition is not None):
        writer.flag(present)
    writer.u(3, mps.quantisation.methods)
    writer.flag(mps.indexed)
    if profile == 1:
        _write_profile_one(writer, mps)
    elif mps.base_model or mps.metric or mps.parent_signalling or mps.validation_performance is not None:
        raise ValueError("only profile 1 carries a base model, performance values and parents")
    else:
        writer.u(7, 0)
    _write_quantisation(writer, mps.quantisation)
    _write_maps(writer, maps)
    if mps.validation_performance is not None:
        writer.flt(mps.validation_performance)
    writer.align()


def read_model_parameter_set(reader: BitReader, profile: int) -> ModelParameterSet:
    """Read the payload of an MPS unit.

    Raises:
        BitstreamError: It is damaged.
    """
    topology, sparsification, pruning, unification, decomposition = (reader.flag() for _ in range(5))
    methods = reader.u(3)
    indexed = reader.flag()
    base_model = metric = None
    has_base = has_validation = metric_for_maps = parents = pre_flag = False
    if profile == 1:
        has_base, has_validation, metric_for_maps, parents, pre_flag = (reader.flag() for _ in range(5))
        reader.u(2)
        base_model = reader.st() if has_base else None
        metric = reader.st() if has_validation or metric_for_maps else None
    else:
        reader.u(7)
    quantisation = _read_quantisation(reader, methods)
    maps = _read_maps(reader, (sparsification, pruning, unification, decomposition))
    validation = reader.flt() if has_validation else None
    reader.align()
    return ModelParameterSet(
        topology_carried=topology,
        quantisation=quantisation,
        indexed=indexed,
        base_model=base_model,
        metric=metric,
        metric_for_maps=metric_for_maps,
        validation_performance=validation,
        parent_signalling=parents,
        pre_flag=parents and pre_flag,
        maps=maps,
    )


def write_layer_parameter_set(writer: BitWriter, lps: LayerParameterSet) -> None:
    """Write header and payload of an LPS unit.

    Raises:
        ValueError: A value does not fit, or there is a decomposition map, which an LPS cannot carry.
    """
    if lps.maps.decomposition is not None:
        raise ValueError("a layer parameter set has no decomposition map")
    writer.flag(lps.self_contained)
    writer.u(7, 0)
    writer.u(1, 0)
    for present in (m is not None for m in _in_order(lps.maps)):
        writer.flag(present)
    writer.u(3, lps.quantisation.methods)
    writer.u(1, 0)
    _write_quantisation(writer, lps.quantisation)
    _write_maps(writer, lps.maps)
    writer.align()


def read_layer_parameter_set(reader: BitReader) -> LayerParameterSet:
    """Read header and payload of an LPS unit.

    Raises:
        BitstreamError: It is damaged.
    """
    self_contained = reader.flag()
    reader.u(8)
    sparsification, pruning, unification = (reader.flag() for _ in range(3))
    methods = reader.u(3)
    reader.u(1)
    quantisation = _read_quantisation(reader, methods)
    maps = _read_maps(reader, (sparsification, pruning, unification, False))
    reader.align()
    return LayerParameterSet(self_contained=self_contained, quantisation=quantisation, maps=maps)


def _in_order(maps: PerformanceMaps) -> tuple[tuple[MapEntry, ...] | None, ...]:
    return maps.sparsification, maps.pruning, maps.unification


def _write_profile_one(writer: BitWriter, mps: ModelParameterSet) -> None:
    has_validation = mps.validation_performance is not None
    if (mps.metric is not None) != (has_validation or mps.metric_for_maps):
        raise ValueError("a metric is needed exactly where performance values are given")
    writer.flag(mps.base_model is not None)
    writer.flag(has_validation)
    writer.flag(mps.metric_for_maps)
    writer.flag(mps.parent_signalling)
    writer.flag(mps.parent_signalling and mps.pre_flag)
    writer.u(2, 0)
    for text in (mps.base_model, mps.metric):
        if text is not None:
            writer.st(text)


def _write_quantisation(writer: BitWriter, quantisation: Quantisation) -> None:
    if quantisation.present:
        writer.u(_DENSITY_BITS, quantisation.density)
        writer.i(_BASE_QP_BITS, quantisation.base_qp)


def _read_quantisation(reader: BitReader, methods: int) -> Quantisation:
    quantisation = Quantisation(methods=methods)
    if not quantisation.present:
        return quantisation
    return Quantisation(methods=methods, density=reader.u(_DENSITY_BITS), base_qp=reader.i(_BASE_QP_BITS))


# The stream counts a map's rows plus one, and a unification's dimensions plus one.


def _write_maps(writer: BitWriter, maps: PerformanceMaps) -> None:
    for entries, numbers in ((maps.sparsification, 3), (maps.pruning, 2)):
        if entries is not None:
            writer.u(8, len(entries) + 1)
            for entry in entries:
                _write_entry(writer, entry, numbers, class_bits=8, masked=True)
    if maps.unification is not None:
        writer.u(8, len(maps.unification) + 1)
        for entry in maps.unification:
            _write_shapes(writer, entry)
            _write_entry(writer, entry, 2, class_bits=8, masked=True)
    if maps.decomposition is not None:
        writer.u(8, len(maps.decomposition) + 1)
        for entry in maps.decomposition:
            _write_entry(writer, entry, 3, class_bits=16, masked=False)


def _write_entry(writer: BitWriter, entry: MapEntry, numbers: int, *, class_bits: int, masked: bool) -> None:
    if len(entry.values) != numbers:
        raise ValueError(f"this performance map has {numbers} values in a row, not {len(entry.values)}")
    for value in entry.values:
        writer.flt(value)
    writer.u(class_bits, len(entry.class_accuracies))
    if masked:
        writer.ue(7, entry.class_mask)
    for accuracy in entry.class_accuracies:
        writer.flt(accuracy)


def _write_shapes(writer: BitWriter, entry: MapEntry) -> None:
    reshaped, *blocks = entry.shapes
    writer.ue(1, len(reshaped) + 1)
    for dimension in reshaped:
        writer.ue(7, dimension)
    writer.align()
    for block in blocks:
        writer.u(8, len(block) + 1)
        for dimension in block:
            writer.u(8, dimension)


def _read_maps(reader: BitReader, present: tuple[bool, bool, bool, bool]) -> PerformanceMaps:
    sparsification, pruning, unification, decomposition = present
    return PerformanceMaps(
        sparsification=_read_map(reader, 3, class_bits=8, masked=True) if sparsification else None,
        pruning=_read_map(reader, 2, class_bits=8, masked=True) if pruning else None,
        unification=_read_map(reader, 2, class_bits=8, masked=True, shaped=True) if unification else None,
        decomposition=_read_map(reader, 3, class_bits=16, masked=False) if decomposition else None,
    )


def _read_map(
    reader: BitReader, numbers: int, *, class_bits: int, masked: bool, shaped: bool = False
) -> tuple[MapEntry, ...]:
    entries = []
    for _ in range(_less_one(reader, reader.u(8))):
        shapes = _read_shapes(reader) if shaped else ()
        values = tuple(reader.flt() for _ in range(numbers))
        classes = reader.u(class_bits)
        mask = reader.ue(7) if masked else 0
        accuracies = tuple(reader.flt() for _ in range(classes))
        entries.append(MapEntry(values=values, class_accuracies=accuracies, class_mask=mask, shapes=shapes))
    return tuple(entries)


def _read_shapes(reader: BitReader) -> tuple[tuple[int, ...], ...]:
    reshaped = tuple(reader.ue(7) for _ in range(_less_one(reader, reader.ue(1))))
    reader.align()
    blocks = (tuple(reader.u(8) for _ in range(_less_one(reader, reader.u(8)))) for _ in range(2))
    return (reshaped, *blocks)


def _less_one(reader: BitReader, count: int) -> int:
    if count == 0:
        raise reader.error("a count that must be at least 1 is 0")
    return count - 1
