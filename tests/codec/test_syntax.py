import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattwerk.codec.data_unit import (
    Codebook,
    Context,
    DataUnit,
    EntryPoint,
    NodeId,
    Parent,
    ParentType,
    Parts,
    PayloadType,
    block_roles,
    block_rows,
)
from wattwerk.codec.data_unit_syntax import codebook_bits
from wattwerk.codec.parameter_sets import LayerParameterSet, MapEntry, ModelParameterSet, PerformanceMaps, Quantisation
from wattwerk.codec.syntax import (
    AggregateUnit,
    QuantisationUnit,
    StartUnit,
    TopologyFormat,
    TopologyUnit,
    following_context,
    read_frame,
    read_unit,
    unit_size,
    write_unit,
)
from wattwerk.errors import BitstreamError

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
FLOATS = st.floats(width=32, allow_nan=False)


def _map_entries(numbers, masked=True, shaped=False):
    dimensions = st.lists(st.integers(0, 255), max_size=4).map(tuple)
    return st.lists(
        st.builds(
            MapEntry,
            values=st.tuples(*[FLOATS] * numbers),
            class_accuracies=st.lists(FLOATS, max_size=3).map(tuple),
            class_mask=st.integers(0, 999) if masked else st.just(0),
            shapes=st.tuples(dimensions, dimensions, dimensions) if shaped else st.just(()),
        ),
        max_size=3,
    ).map(tuple)


QUANTISATIONS = st.one_of(
    st.builds(Quantisation, methods=st.just(0)),
    st.builds(Quantisation, methods=st.integers(1, 3), density=st.integers(0, 7), base_qp=st.integers(-4096, 4095)),
)
MAPS = st.builds(
    PerformanceMaps,
    sparsification=st.none() | _map_entries(3),
    pruning=st.none() | _map_entries(2),
    unification=st.none() | _map_entries(2, shaped=True),
    decomposition=st.none() | _map_entries(3, masked=False),
)


@st.composite
def _model_parameter_sets(draw, profile=1):
    known = {
        "topology_carried": draw(st.booleans()),
        "quantisation": draw(QUANTISATIONS),
        "indexed": draw(st.booleans()),
        "maps": draw(MAPS),
    }
    if profile == 0:
        return ModelParameterSet(**known)
    performance = draw(st.none() | FLOATS)
    for_maps = draw(st.booleans())
    return ModelParameterSet(
        **known,
        base_model=draw(st.none() | NAMES),
        metric=draw(NAMES) if performance is not None or for_maps else None,
        metric_for_maps=for_maps,
        validation_performance=performance,
        parent_signalling=(parents := draw(st.booleans())),
        pre_flag=parents and draw(st.booleans()),
    )


@st.composite
def _codebooks(draw):
    entries = draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20, unique=True).map(sorted))
    return Codebook(order=draw(st.integers(0, 15)), zero=draw(st.integers(0, len(entries) - 1)), entries=tuple(entries))


@st.composite
def _data_units(draw, context):
    payload = draw(st.sampled_from(PayloadType))
    block = payload == PayloadType.BLOCK
    parts = draw(st.sampled_from([Parts(n) for n in range(1, 16)])) if block else Parts.NONE
    rank = rows = 0
    shape = draw(st.lists(st.integers(1, 200), min_size=1 if block else 0, max_size=4).map(tuple))
    if parts & Parts.DECOMPOSED:
        rank, rows = draw(st.integers(1, 99)), shape[0]
    count = len(block_roles(parts)) if block else 1
    scan = draw(st.integers(0, 4)) if len(shape) > 1 else 0
    coded = payload in (PayloadType.FLOAT, PayloadType.BLOCK)
    dependent = payload != PayloadType.RAW_FLOAT and draw(st.booleans())
    has_book = coded and draw(st.booleans())
    node = draw(st.none() | st.builds(NodeId, *[st.integers(0, 2**20)] * 3)) if context.profile == 1 else None
    parent = None
    if context.parent_signalling and draw(st.booleans()):
        kind = draw(st.sampled_from(ParentType)) if node else ParentType.SHA256
        size = {ParentType.NODE: 0, ParentType.SHA256: 32, ParentType.SHA512: 64}[kind]
        parent = Parent(
            kind,
            draw(st.booleans()),
            draw(st.integers(0, 9)) if not size else 0,
            draw(st.binary(min_size=size, max_size=size)),
        )
    unit = DataUnit(
        payload_type=payload,
        names=tuple(draw(st.lists(NAMES, min_size=count, max_size=count))),
        shape=shape,
        dependent=dependent,
        unary_length=draw(st.integers(1, 256)),
        scan_order=scan,
        parts=parts,
        rank=rank,
        rows=rows,
        data_format=draw(st.none() | st.integers(0, 127)),
        node=node,
        parent=parent,
        codebook=draw(_codebooks()) if has_book else None,
        second_codebook=draw(_codebooks()) if has_book and parts & Parts.DECOMPOSED else None,
    )
    points = st.builds(
        EntryPoint, st.integers(0, 255), st.integers(0, 7) if dependent else st.just(0), st.integers(0, 2**24)
    )
    rows_of_blocks = block_rows(unit) if scan else 0
    entries = draw(st.lists(points, min_size=rows_of_blocks, max_size=rows_of_blocks).map(tuple))
    return DataUnit(
        **{f: getattr(unit, f) for f in unit.__struct_fields__ if f != "entry_points"}, entry_points=entries
    )


def _read_back(data, context, offset=0, shapes=None):
    assert unit_size(data[:4], offset) == len(data)
    frame, reader = read_frame(data, offset)
    return read_unit(frame, reader, context, shapes), reader


@given(st.data(), st.sampled_from([Context(profile=0), Context(), Context(parent_signalling=True)]))
@settings(max_examples=100)
def test_headers_of_data_units_come_back(data, context):
    """Every header that can be written reads back equal, and the reader then stands before the payload."""
    unit = data.draw(_data_units(context))
    payload = b"payload"
    written = write_unit(unit, context, payload_bytes=len(payload)) + payload
    read, reader = _read_back(written, context)
    assert read == unit
    assert written[reader.byte_position :] == payload


@given(st.data(), st.integers(0, 1))
def test_parameter_sets_come_back(data, profile):
    """Model parameter sets of both profiles, performance maps included, read back equal."""
    mps = data.draw(_model_parameter_sets(profile))
    context = Context(profile=profile)
    assert _read_back(write_unit(mps, context), context)[0] == mps


@pytest.mark.parametrize(
    "unit",
    [
        StartUnit(0),
        StartUnit(1),
        LayerParameterSet(
            False, Quantisation(density=3, base_qp=-7), PerformanceMaps(pruning=(MapEntry((0.5, 0.25)),))
        ),
        TopologyUnit(text="größe"),
        TopologyUnit(TopologyFormat.NAMES, 0, names=("a", "b", "γ")),
        QuantisationUnit(text="x"),
        AggregateUnit(b"\x01\x02"),
    ],
)
def test_other_units_come_back(unit):
    """All other kinds of units read back equal."""
    assert _read_back(write_unit(unit, Context()), Context())[0] == unit


def test_tensors_of_a_block_are_named_in_one_order_and_coded_in_another():
    """Names come weight first, values scaling, bias and batch norm first, as the reference does it."""
    unit = DataUnit(
        payload_type=PayloadType.BLOCK,
        names=("g", "h", "s", "b", "c", "m", "v", "x"),
        shape=(6, 4),
        parts=Parts(15),
        rank=2,
        rows=6,
    )
    assert [(t.name, t.shape) for t in unit.tensors] == [
        ("s", (6,)), ("x", (6,)), ("b", (6,)), ("c", (6,)), ("m", (6,)), ("v", (6,)), ("g", (6, 2)), ("h", (2, 4)),
    ]  # fmt: skip


def test_indexed_streams_name_tensors_by_a_list():
    """Where the parameter set says so, a data unit's name comes from the list in a topology unit."""
    context = Context()
    for unit in (ModelParameterSet(indexed=True), TopologyUnit(TopologyFormat.NAMES, names=("first", "second"))):
        context = following_context(context, unit)
    unit = DataUnit(payload_type=PayloadType.INT, indices=(1,), shape=(3,))
    read, _ = _read_back(write_unit(unit, context), context)
    assert read.names == ("second",)
    with pytest.raises(BitstreamError, match="list of names ends"):
        _read_back(write_unit(DataUnit(payload_type=PayloadType.INT, indices=(2,), shape=(3,)), context), context)


def test_a_shape_that_is_not_in_the_stream_comes_from_the_caller():
    """Without a shape in the stream the caller's is used; without both there is an error that names the tensor."""
    unit = DataUnit(payload_type=PayloadType.FLOAT, names=("w",), shape=(3, 5), shape_in_band=False)
    data = write_unit(unit, Context())
    assert _read_back(data, Context(), shapes={"w": [3, 5]})[0].shape == (3, 5)
    with pytest.raises(BitstreamError, match="shape of 'w'"):
        _read_back(data, Context())


@pytest.mark.parametrize("payload", [32760, 32770])
def test_units_take_the_short_form_below_32_kib_only(payload):
    """The size field has two bytes exactly where the whole unit is below 32768 bytes."""
    head = write_unit(DataUnit(payload_type=PayloadType.INT, names=("",), shape=(9,)), Context(), payload_bytes=payload)
    short = head[0] < 128
    assert short == (len(head) + payload < 32768)
    assert unit_size(head[:4], 0) == len(head) + payload


@given(_codebooks())
def test_size_of_a_codebook_is_known_without_writing_it(codebook):
    """The bits that are predicted are those that the header takes more, up to the filling of a byte."""

    def size(book):
        unit = DataUnit(payload_type=PayloadType.FLOAT, names=("w",), shape=(1,), codebook=book)
        return len(write_unit(unit, Context()))

    assert -8 < codebook_bits(codebook) - 8 * (size(codebook) - size(None)) < 8


@given(st.data())
@settings(max_examples=200)
def test_damaged_headers_give_errors_only(data):
    """Any bytes as any kind of unit are read or refused with the offset; nothing else happens."""
    raw = data.draw(st.binary(min_size=3, max_size=60))
    context = data.draw(
        st.sampled_from(
            [Context(profile=0), Context(), Context(parent_signalling=True), Context(indexed=True, names=("a",))]
        )
    )
    assert 50 <= _offset_of_damage(raw, context) <= 50 + len(raw)


def _offset_of_damage(raw, context):
    try:
        read_unit(*read_frame(raw, 50), context)
    except BitstreamError as error:
        return error.offset
    return 50
