import numpy as np
import pytest
from tests.codec.samples import weights

from wattwerk.codec import UpdateDecoder, UpdateEncoder, apply_update, inspect, pack_update, unpack
from wattwerk.codec.quantisation import step_size
from wattwerk.errors import BitstreamError, ConfigError


def _every_float(rng):
    arrays = weights() | {
        "half": rng.normal(0, 0.1, (20, 30)).astype(np.float16),
        "double": rng.normal(0, 0.1, (20, 30)),
        "truth": rng.random(40) < 0.5,
        "wrapping": rng.integers(0, 2**63, 9, dtype=np.uint64),
        "bytes": rng.integers(0, 255, 9, dtype=np.uint8),
        "nothing": np.zeros((0, 2), np.float32),
    }
    ml_dtypes = pytest.importorskip("ml_dtypes")
    return arrays | {"brain": rng.normal(0, 0.1, (20, 30)).astype(ml_dtypes.bfloat16)}


def _changed(arrays, rng):
    """Return the arrays after a step of something like training."""
    changed = {}
    for name, array in arrays.items():
        if array.dtype.kind in "fV":
            touched = rng.random(array.shape) < 0.3
            changed[name] = (array.astype(float) + rng.normal(0, 0.02, array.shape) * touched).astype(array.dtype)
        elif array.dtype == bool:
            changed[name] = rng.random(array.shape) < 0.5
        else:
            changed[name] = array + rng.integers(0, 9, array.shape).astype(array.dtype)
    return changed


def _equal(one, other):
    assert list(one) == list(other)
    for name, array in one.items():
        assert (array.dtype, array.shape) == (other[name].dtype, other[name].shape)
        assert array.tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize(
    "tools",
    [
        {},
        {"dependent": False, "scan_order": 1},
        {"temporal_contexts": "on", "history_contexts": "on", "scan_order": 2},
        {"temporal_contexts": "off", "history_contexts": "off", "threads": 1},
    ],
)
def test_both_ends_stay_equal_over_hundreds_of_rounds(tools):
    """After 300 rounds the receiver has, bit for bit, what the sender believes, within the step of the truth."""
    rng = np.random.default_rng(0)
    base = _every_float(rng)
    encoder, decoder = UpdateEncoder(base, qp=-28, nonweight_qp=-28, **tools), UpdateDecoder(base)
    new = base
    for _ in range(300):
        new = _changed(new, rng)
        received = decoder.apply(encoder.encode(new))
        _equal(received, encoder.state)
    for name, array in new.items():
        if array.dtype.kind in "fV":
            difference = np.abs(received[name].astype(float) - array.astype(float)).max(initial=0)
            assert difference <= 2 * step_size(-28, 2) + 0.02
        else:
            np.testing.assert_array_equal(received[name], array)


def test_tensors_come_and_go_and_change_their_shape():
    """New tensors, removed ones, other shapes, other types and NaN arrive; the sender's arrays are never touched."""
    base = weights()
    original = {name: array.copy() for name, array in base.items()}
    encoder, decoder = UpdateEncoder(base, non_finite="raw"), UpdateDecoder(base)
    rounds = [
        {**base, "new": np.array([1.5], np.float32), "none": np.zeros((0, 5), np.int8)},
        {name: array for name, array in base.items() if name != "row"},
        {**base, "conv.bias": np.ones((3, 3), np.float32)},
        {**base, "conv.bias": np.ones((3, 3), np.float16)},
        {**base, "linear.weight": np.full((33, 50), np.nan, np.float32)},
        {**base, "linear.weight": np.full((33, 50), np.nan, np.float32)},
        base,
    ]
    for new in rounds:
        received = decoder.apply(encoder.encode(new))
        assert set(received) == set(new)
        _equal(received, encoder.state)
        for name, array in new.items():
            assert (received[name].dtype, received[name].shape) == (array.dtype, array.shape)
            np.testing.assert_allclose(received[name], array, atol=2 * step_size(-38, 2), equal_nan=True)
    _equal(base, original)


def test_what_has_not_changed_costs_nothing():
    """An update without a change is the stream's start alone, and only changed tensors are in one."""
    base = weights()
    assert len(pack_update(base, base)) == 18
    data = pack_update({**base, "conv.bias": base["conv.bias"] + 1}, base)
    assert [tensor.name for tensor in inspect(data).tensors] == ["conv.bias"]
    assert len(pack_update({**base, "conv.bias": base["conv.bias"] + np.float32(1e-9)}, base)) == 18


def test_one_update_on_its_own():
    """`apply_update` undoes `pack_update`, and neither changes the base."""
    rng = np.random.default_rng(1)
    base = _every_float(rng)
    original = {name: array.copy() for name, array in base.items()}
    new = _changed(base, rng)
    got = apply_update(base, pack_update(new, base, qp=-50, nonweight_qp=-50))
    for name, array in new.items():
        tolerance = 2 * step_size(-50, 2) + (1e-3 if array.dtype.itemsize == 2 else 1e-7)
        np.testing.assert_allclose(got[name].astype(float), array.astype(float), atol=tolerance)
    _equal(base, original)


def test_an_error_is_corrected_in_the_next_round():
    """A change that is too small for one round's step arrives once several have added up."""
    base = {"w": np.zeros((8, 8), np.float32)}
    encoder, decoder = UpdateEncoder(base, qp=-8, dependent=False), UpdateDecoder(base)  # the step is 0.25
    received = [decoder.apply(encoder.encode({"w": base["w"] + 0.06 * turn}))["w"][0, 0] for turn in (1, 2, 3, 4)]
    assert received == [0, 0, 0.25, 0.25]


@pytest.mark.parametrize("accumulate", [False, True])
def test_error_accumulation_over_new_bases(accumulate):
    """With a new base in every round, what a round has lost is sent in a later one only if that is asked for."""
    base = {"w": np.zeros((8, 8), np.float32)}
    encoder = UpdateEncoder(base, qp=-8, dependent=False, accumulate_error=accumulate)
    decoder = UpdateDecoder(base)
    total = np.zeros((8, 8), np.float32)
    for _ in range(10):  # a server that sends the same model, a client that always wants to add 0.06
        received = decoder.decode(encoder.encode({"w": base["w"] + np.float32(0.06)}))
        total = total + received.get("w", 0)
        encoder.rebase(base)
        decoder.rebase(base)
    assert total[0, 0] == (0.5 if accumulate else 0)


def test_a_server_can_do_without_the_base():
    """A decoder without a base gives the differences, over several rounds with contexts from the round before."""
    base = weights()
    rng = np.random.default_rng(2)
    encoder = UpdateEncoder(base, qp=-28, temporal_contexts="on", history_contexts="on")
    bare, full = UpdateDecoder(), UpdateDecoder(base)
    new = base
    for _ in range(4):
        new, before = _changed(new, rng), full.state
        data = encoder.encode(new)
        differences, after = bare.decode(data), full.apply(data)
        for name, difference in differences.items():
            np.testing.assert_array_equal(before[name] + difference.reshape(before[name].shape), after[name])


def test_contexts_from_before_pay():
    """Where the same weights change round after round, both kinds of contexts make updates smaller, auto most."""
    rng = np.random.default_rng(3)
    base = {"w": np.zeros((200, 300), np.float32)}
    touched = rng.random((200, 300)) < 0.05
    rounds = [{"w": (rng.normal(0, 1, (200, 300)) * touched).astype(np.float32)} for _ in range(4)]

    def size(temporal, history):
        encoder = UpdateEncoder(base, qp=-8, temporal_contexts=temporal, history_contexts=history)
        return sum(len(encoder.encode(new)) for new in rounds)

    plain, temporal, history, auto = size("off", "off"), size("on", "off"), size("off", "on"), size("auto", "auto")
    assert temporal < plain
    assert history < 0.9 * plain
    assert auto <= min(temporal, history)


def test_streams_of_updates_do_not_depend_on_threads():
    """One thread and several give the same bytes over several rounds."""
    base = weights()
    encoders = [UpdateEncoder(base, threads=threads) for threads in (1, 3)]
    for seed in (1, 2, 3):
        new = {name: array + weights(seed)[name] for name, array in base.items()}
        one, other = (encoder.encode(new) for encoder in encoders)
        assert one == other


def test_updates_out_of_order_are_refused():
    """A lost, a repeated and a foreign update raise and leave the state as it was."""
    base = weights()
    encoder = UpdateEncoder(base)
    first, second = (encoder.encode({n: a + weights(seed)[n] for n, a in base.items()}) for seed in (1, 2))
    decoder = UpdateDecoder(base)
    with pytest.raises(BitstreamError, match=r"this is update 2 of 'conv\.weight', but 0 were applied"):
        decoder.apply(second)
    _equal(decoder.state, base)
    state = decoder.apply(first)
    with pytest.raises(BitstreamError, match="this is update 1"):
        decoder.apply(first)
    _equal(decoder.state, state)
    with pytest.raises(BitstreamError, match=r"the base has no tensor 'conv\.weight'"):
        apply_update({"other": np.ones(3)}, first)
    with pytest.raises(BitstreamError, match="has the shape"):
        apply_update({**base, "conv.weight": np.ones((2, 2), np.float32)}, first)


def test_an_update_that_needs_the_one_before_says_so():
    """Alone, an update whose contexts come from the one before is an error that names the way out."""
    base = weights()
    encoder = UpdateEncoder(base, temporal_contexts="on")
    news = [{name: array + weights(seed)[name] for name, array in base.items()} for seed in (1, 2)]
    encoder.encode(news[0])
    state, second = encoder.state, encoder.encode(news[1])
    with pytest.raises(BitstreamError, match="use an UpdateDecoder"):
        apply_update(state, second)
    with pytest.raises(BitstreamError, match="use an UpdateDecoder"):
        unpack(second)


def test_an_error_leaves_the_encoder_as_it_was():
    """After a refused tensor the next update still follows the last good one."""
    base = weights()
    encoder, decoder = UpdateEncoder(base), UpdateDecoder(base)
    broken = {**{n: a + weights(1)[n] for n, a in base.items()}, "row": np.full((1, 40), np.nan, np.float32)}
    with pytest.raises(ConfigError, match="'row' holds NaN"):
        encoder.encode(broken)
    _equal(encoder.state, base)
    good = {name: array + weights(2)[name] for name, array in base.items()}
    _equal(decoder.apply(encoder.encode(good)), encoder.state)


@pytest.mark.parametrize("changes", [{"profile": 0}, {"codebook": "on"}, {"qqp": 1}])
def test_options_that_updates_do_not_have(changes):
    """Profile 0 and codebooks are refused for updates, unknown options anyway."""
    with pytest.raises(ConfigError):
        UpdateEncoder(weights(), **changes)
