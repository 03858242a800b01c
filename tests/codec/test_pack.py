import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.codec.golden_streams import load
from tests.codec.samples import every_type, is_exact, weights

from wattwerk.codec import PackOptions, _native, inspect, pack, pack_file, unpack
from wattwerk.codec.data_unit import Codebook
from wattwerk.codec.quantisation import fitting_qp, step_size
from wattwerk.codec.reduce_types import Clustered, Decomposed, Levels, Scaled, restore
from wattwerk.errors import ConfigError


def _within_two_steps(packed, original, qp):
    difference = np.abs(packed.astype(np.float64) - original.astype(np.float64)).max(initial=0)
    # the scaled value, its level and the product are float32 each, which is coarser than a very small step
    rounding = 2 * np.spacing(np.abs(original.astype(np.float32))).max(initial=0)
    return difference <= 2 * step_size(qp, 2) + rounding  # two steps: what the trellis may choose


@pytest.mark.parametrize("scan_order", range(5))
@pytest.mark.parametrize("dependent", [True, False])
@pytest.mark.parametrize("profile", [0, 1])
def test_every_type_and_shape_comes_back(profile, dependent, scan_order):
    """Names, order, types and shapes are kept; integers, bytes and NaN to the bit, floats to the step."""
    arrays = every_type() | weights()
    options = PackOptions(profile=profile, dependent=dependent, scan_order=scan_order, non_finite="raw")
    got = unpack(pack(arrays, options=options))
    assert list(got) == list(arrays)
    for name, original in arrays.items():
        assert (got[name].dtype, got[name].shape) == (original.dtype.newbyteorder("="), original.shape)
        if is_exact(name, original):
            assert got[name].tobytes() == original.tobytes()
        else:
            largest = float(np.abs(original).max())
            margin = largest * 2**-10 if original.dtype == np.float16 else 0.0  # it rounds to 11 bits
            step = step_size(fitting_qp(options.qp_of(name, original.ndim), 2, largest), 2)
            assert np.abs(got[name].astype(float) - original.astype(float)).max() <= 2 * step + margin


FLOATS = st.floats(width=32, min_value=-1000, max_value=1000)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9), elements=FLOATS),
    st.integers(-60, 20),
    st.booleans(),
    st.integers(0, 4),
    st.integers(0, 40),
)
@settings(max_examples=100)
def test_any_float_array_comes_back_within_the_step(array, qp, dependent, scan_order, unary_length):
    """Whatever the shape, the step and the tools, the error stays within the step."""
    tools = {"dependent": dependent, "scan_order": scan_order, "unary_length": unary_length}
    got = unpack(pack({"w": array}, qp=qp, nonweight_qp=qp, **tools))["w"]
    assert got.shape == array.shape
    assert _within_two_steps(got, array, qp)


@given(hnp.arrays(hnp.integer_dtypes(endianness="="), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)))
@settings(max_examples=100)
def test_any_integer_array_comes_back_exactly(array):
    """Integers of every width are exact, inside the range of the format and beyond."""
    got = unpack(pack({"w": array}))["w"]
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), unique=True, max_size=8))
def test_any_names_come_back_in_order(names):
    """Any Unicode names, the empty one included, keep their order."""
    arrays = {name: np.full(2, index, np.int32) for index, name in enumerate(names)}
    got = unpack(pack(arrays))
    assert list(got) == names
    assert all((got[name] == arrays[name]).all() for name in names)


def test_bfloat16_comes_back():
    """bfloat16 arrays of the package ml_dtypes keep their type, NaN of them their bits."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    array = rng.normal(0, 1, (6, 7)).astype(ml_dtypes.bfloat16)
    odd = np.array([np.nan, np.inf, -0.0, 3], ml_dtypes.bfloat16)
    got = unpack(pack({"w": array, "odd": odd}, qp=-60, non_finite="raw"))
    assert got["w"].dtype == array.dtype
    np.testing.assert_array_equal(
        got["w"].astype(np.float32), array.astype(np.float32)
    )  # the step is below its rounding
    assert got["odd"].tobytes() == odd.tobytes()


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("kind", ["dict", "pairs"])
def test_streams_do_not_depend_on_threads(kind, threads):
    """One thread and several give the same bytes, for a dict and for an iterator."""
    arrays = weights() | every_type()
    given = arrays if kind == "dict" else list(arrays.items())
    assert pack(given, threads=threads, non_finite="raw") == pack(given, threads=1, non_finite="raw")


def test_not_finite_values_are_refused_by_name():
    """NaN and infinity raise with the tensor's name and a remedy unless they are to be kept."""
    for value in (np.nan, np.inf, -np.inf):
        array = np.array([1, value, 2], np.float32)
        with pytest.raises(ConfigError, match=r"tensor 'a\.b' holds NaN or infinity \(1 of 3 values\)"):
            pack({"ok": np.ones(3, np.float32), "a.b": array})
        np.testing.assert_array_equal(unpack(pack({"a.b": array}, non_finite="raw"))["a.b"], array)


def test_large_values_raise_their_own_qp():
    """Where levels would need more than 32 bits the tensor's QP rises, and the values still come back to the step."""
    array = np.array([3e7, -1.0, 2.5e9], np.float32)
    data = pack({"w": array}, dependent=False)
    summary = inspect(data).tensors[0]
    assert summary.qp > PackOptions().nonweight_qp
    np.testing.assert_allclose(unpack(data)["w"], array, rtol=0, atol=2 * step_size(summary.qp, 2))
    with pytest.raises(ConfigError, match="no QP"):
        pack({"w": np.array([3e38], np.float32)})


def test_qp_of_each_tensor():
    """Weights, other tensors and named tensors get their own QP."""
    data = pack(weights(), qp=-20, nonweight_qp=-40, tensor_qp={"linear.weight": -30, "größe.β": -25})
    found = {tensor.name: tensor.qp for tensor in inspect(data).tensors}
    assert found["conv.weight"] == -20
    assert found["conv.bias"] == -40
    assert found["linear.weight"] == -30
    assert found["größe.β"] == -25
    assert found["steps"] is None


@pytest.mark.parametrize("density", [0, 1, 2, 4, 7])
def test_qp_density(density):
    """Other densities of the QP code and decode; the same step gives the same values."""
    array = {"w": weights()["conv.weight"]}
    qp = -8 << density
    got = unpack(pack(array, qp=qp, nonweight_qp=qp, qp_density=density))["w"]
    np.testing.assert_array_equal(got, unpack(pack(array, qp=-32, nonweight_qp=-32))["w"])


def test_codebooks():
    """A tensor of few values is smaller with a codebook, auto is never larger, and both decode to the step."""
    rng = np.random.default_rng(5)
    values = np.array([-0.7, 0.0, 0.011, 0.5], np.float32)
    arrays = {"few": values[rng.integers(0, 4, (60, 50))], "many": rng.normal(0, 0.1, (60, 50)).astype(np.float32)}
    plain, auto = (pack(arrays, codebook=choice) for choice in ("off", "auto"))
    assert len(auto) < len(plain)
    tools = {tensor.name: tensor.tools for tensor in inspect(auto).tensors}
    assert "codebook" in tools["few"]
    assert "codebook" not in tools["many"]
    for data in (auto, pack(arrays, codebook="on")):
        assert all(_within_two_steps(unpack(data)[name], arrays[name], -38) for name in arrays)


def test_what_reduction_passes_make_is_packed_as_such():
    """Low rank, local scaling, codebooks and levels travel with their own syntax and come back whole."""
    rng = np.random.default_rng(6)
    normal = lambda *shape: rng.normal(0, 0.1, shape).astype(np.float32)  # noqa: E731
    reduced = {
        "low": Decomposed(normal(20, 3), normal(3, 36), (20, 4, 9)),
        "scaled": Scaled(normal(12, 5), normal(12)),
        "book": Clustered(rng.integers(0, 3, (9, 8)).astype(np.int32), Codebook(0, 1, (-40, 0, 55)), -20),
        "levels": Levels(rng.integers(-9, 9, (6, 6)).astype(np.int32), -20),
    }
    expected = restore(reduced)
    for scan_order in (0, 1):
        data = pack(reduced, qp=-60, scan_order=scan_order)
        got = unpack(data)
        assert list(got) == list(reduced)
        for name in ("book", "levels"):
            np.testing.assert_array_equal(got[name], expected[name])
        for name in ("low", "scaled"):
            np.testing.assert_allclose(got[name], expected[name], atol=1e-4)
        assert set(unpack(data, apply_scaling=False)) == {*reduced, "scaled_scaling"}


def test_files_and_iterators(tmp_path):
    """Paths, open files and iterators give the bytes that `pack` gives, and the count of them."""
    arrays = weights()
    expected = pack(arrays)
    buffer = io.BytesIO()
    assert pack_file(iter(arrays.items()), buffer) == len(expected)
    assert buffer.getvalue() == expected
    path = tmp_path / "model.nnc"
    assert pack_file(arrays, path) == len(expected)
    assert path.read_bytes() == expected


def test_a_file_that_could_not_be_completed_is_not_there(tmp_path):
    """An error in the middle leaves neither the file nor a part of it, and what was there before is untouched."""
    path = tmp_path / "model.nnc"
    path.write_bytes(b"before")
    with pytest.raises(ConfigError):
        pack_file({"a": np.ones(3, np.float32), "b": np.array([np.nan])}, path)
    assert [each.name for each in tmp_path.iterdir()] == ["model.nnc"]
    assert path.read_bytes() == b"before"


def test_iterators_are_not_read_ahead_of_the_work():
    """Of an iterator at most the tensors at work and 32 MiB are held."""
    alive, most = set(), 0

    class Counted(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def tensors():
        nonlocal most
        for index in range(12):
            array = np.zeros((1 << 21,), np.int32).view(Counted)
            alive.add(id(array))
            most = max(most, len(alive))
            yield f"w{index}", array
            del array

    pack(tensors(), threads=2)
    assert most <= 8


def test_progress_names_every_tensor_and_adds_up():
    """The callback gets each name in order and sizes that, with the stream's start, are its length."""
    seen = []
    data = pack(weights(), progress=lambda name, size: seen.append((name, size)))
    assert [name for name, _ in seen] == list(weights())
    assert sum(size for _, size in seen) + 4 + 8 + 6 == len(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qpp": 3}, "did you mean 'qp'"),
        ({"qp": 500}, "qp 500 is not possible"),
        ({"qp": -30, "qp_density": 0}, "nonweight_qp -75"),
        ({"tensor_qp": {"a": 999}}, "tensor_qp of 'a'"),
        ({"tensor_qp": {"conv.wieght": -20}}, "did you mean 'conv.weight'"),
        ({"scan_order": 5}, "scan_order"),
        ({"unary_length": 300}, "unary_length"),
        ({"profile": 2}, "profile"),
        ({"codebook": "maybe"}, "codebook"),
        ({"dependent": "yes"}, "dependent"),
        ({"threads": -1}, "threads"),
    ],
)
def test_wrong_options(changes, message):
    """Unknown names, wrong types and values out of range are refused, with the nearest name or the range."""
    with pytest.raises(ConfigError, match=message):
        pack(weights(), **changes)


def test_qp_of_a_tensor_that_never_comes(tmp_path):
    """Of an iterator the names are known at its end; a file is then not written."""
    target = tmp_path / "model.nnc"
    with pytest.raises(ConfigError, match="QP for 'elsewhere', but there is no such tensor"):
        pack_file(iter(weights().items()), target, tensor_qp={"elsewhere": -20})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.array(["x"])}, "element type str"),
        ({"a": np.array([1 + 2j])}, "complex128"),
        ({"a": np.array([object()])}, "element type object"),
        ({"a\0b": np.ones(3)}, "zero character"),
        ({"\ud800": np.ones(3)}, "no valid Unicode"),
        ({3: np.ones(3)}, "not a text"),
        ([("a", np.ones(3)), ("a", np.ones(3))], "two tensors named 'a'"),
        ({"a": Decomposed(np.ones((2, 2)), np.ones((3, 2)), (2, 2))}, "give no weight"),
        ({"a": Scaled(np.ones((2, 2)), np.ones(3))}, "3 factors"),
    ],
)
def test_what_cannot_be_packed_is_named(arrays, message):
    """Types, names and factors that have no place in a stream raise with the tensor's name."""
    with pytest.raises(ConfigError, match=message):
        pack(arrays)


def test_nothing_at_all():
    """A stream without tensors is a stream."""
    assert unpack(pack({})) == {}


def test_the_same_framing_as_the_reference():
    """Start, parameter set and topology are the bytes that nncodec 2.1.3 writes, so that only payloads can differ."""
    reference = load("uniform_qp60_dq")
    assert pack({}) == reference.data[: reference.units[0]["start"]]


@pytest.mark.parametrize("scan_order", range(1, 5))
@pytest.mark.parametrize("dependent", [True, False])
@pytest.mark.parametrize("shape", [(9, 3), (65, 7), (200, 150), (130, 1000)])
def test_block_rows_are_coded_alike_on_any_number_of_threads(shape, dependent, scan_order):
    """Block rows that are coded apart and joined give the payload and the entry points of one after the other."""
    values = np.random.default_rng(7).laplace(scale=0.02, size=shape).astype(np.float32)
    values[::5] = 0
    tools = {"width": shape[1], "step": 0.004, "qp_delta": 1, "qp_bits": 8, "dependent": dependent}
    alone = _native.encode_values(values.ravel(), scan_order=scan_order, **tools)
    for threads in (2, 5):
        assert _native.encode_values(values.ravel(), scan_order=scan_order, threads=threads, **tools) == alone


def test_the_trellis_begins_in_its_first_state():
    """However much the rate weighs, a decoder finds the levels that the quantiser chose, from the first one on."""
    for seed in (48, 143, 224, 433, 490):  # of four thousand, some that once began elsewhere
        values = (np.random.default_rng(seed).integers(-40, 41, size=24) * 0.125).astype(np.float32)
        tools = {"width": 24, "step": 1.0, "dependent": True, "rate_weight": 1000.0, "unary_length": 10}
        levels = _native.quantise(values, **tools)
        payload, unary, _ = _native.encode_values(values, qp_delta=0, qp_bits=8, **tools)
        decoder = _native.Decoder(payload, 0, len(payload))
        decoder.bypass(8, True)
        assert np.array_equal(decoder.tensor(24, width=24, dependent=True, unary_length=unary), levels)
