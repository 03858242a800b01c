import fnmatch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wattwerk.codec.quantisation import step_size
from wattwerk.codec.reduce import REDUCTIONS, pipeline, reduce
from wattwerk.codec.reduce_decompose import Decompose
from wattwerk.codec.reduce_quantise import KMeans, LocalScale, Uniform, least_squares_scale, lloyd
from wattwerk.codec.reduce_sparsity import PruneRows, Sparsify, SparsifyByScore
from wattwerk.codec.reduce_types import Clustered, Decomposed, Levels, Scaled, qp_at_least, restore
from wattwerk.errors import ConfigError

WEIGHTS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=7),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False),
)


def random_model(seed=0):
    """Return two weights of different size, a bias and an integer."""
    random = np.random.default_rng(seed)
    return {
        "a.weight": random.standard_normal((8, 6)).astype(np.float32),
        "a.bias": random.standard_normal(8).astype(np.float32),
        "b.weight": (0.01 * random.standard_normal((4, 2, 3, 3))).astype(np.float32),
        "steps": np.array(7, dtype=np.int64),
    }


def largest_error(value, original):
    """Return the largest deviation of what a reduced parameter stands for."""
    return float(np.abs(value.restore() - original).max())


# pipelines


def test_passes_run_in_order_and_leave_the_input_alone():
    """Each pass gets what the one before returned; the arrays that were given keep their values."""
    model = random_model()
    copies = {name: value.copy() for name, value in model.items()}
    result = reduce(model, [Sparsify(sparsity=0.5), Uniform(bits=4)])
    assert [type(value) for value in result.values()] == [Levels, np.ndarray, Levels, np.ndarray]
    assert (result["a.weight"].levels == 0).sum() >= 24
    for name, value in copies.items():
        np.testing.assert_array_equal(model[name], value)


def test_a_configuration_names_passes_and_options():
    """A list of tables becomes the same structs that Python code would make."""
    passes = pipeline([{"pass": "sparsify", "sparsity": 0.25, "only": ["b.*"]}, {"pass": "decompose", "size": 0.5}])
    assert passes == [Sparsify(sparsity=0.25, only=("b.*",)), Decompose(size=0.5)]


@pytest.mark.parametrize(
    ("specification", "words"),
    [
        ({"pass": "sparsfy", "sparsity": 0.5}, "did you mean 'sparsify'"),
        ({"pass": "sparsify", "sparsty": 0.5}, "did you mean 'sparsity'"),
        ({"pass": "sparsify", "sparsity": "much"}, "sparsify"),
        ({"pass": "sparsify", "sparsity": 1.5}, "from 0 to 1"),
        ({"pass": "k-means", "clusters": 0}, "use 1 to"),
        ({"pass": "uniform", "bits": 1}, "use 2 to 16"),
        ({"pass": "decompose"}, "energy and size"),
        ({"sparsity": 0.5}, '"pass"'),
    ],
)
def test_a_wrong_configuration_says_what_is_right(specification, words):
    """Unknown names and options, wrong types and values outside their range are errors that name a remedy."""
    with pytest.raises(ConfigError, match=words):
        pipeline([specification])


def test_every_registered_pass_can_be_loaded():
    """Each name of the registry leads to something callable."""
    assert all(callable(REDUCTIONS.load(name)) for name in REDUCTIONS.names())


@given(patterns=st.lists(st.sampled_from(["a.*", "*.weight", "b*", "x"]), min_size=1, max_size=3))
def test_only_selected_tensors_change(patterns):
    """A pass changes exactly the weights whose names match; biases and integers never."""
    model = random_model()
    result = reduce(model, [Sparsify(sparsity=1.0, only=tuple(patterns))])
    for name, value in model.items():
        chosen = value.ndim > 1 and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        assert (not np.array_equal(result[name], value)) == chosen


# zeros


@given(weight=WEIGHTS, sparsity=st.floats(0, 1))
def test_sparsification_keeps_the_largest(weight, sparsity):
    """The asked-for share is zero, no more than needed is lost, and no kept weight is smaller than a lost one."""
    result = Sparsify(sparsity=sparsity)({"w": weight})["w"]
    lost = result != weight
    assert (result == 0).sum() >= np.ceil(sparsity * weight.size - 1e-9)
    assert lost.sum() <= np.ceil(sparsity * weight.size)
    if lost.any() and not lost.all():
        assert np.abs(weight[lost]).max() <= np.abs(result[~lost & (result != 0)]).min(initial=np.inf)


def test_a_share_of_the_model_takes_from_small_tensors():
    """Over the whole model, 72 of 120 weights fall away, nearly all of them in the tensor with the small weights."""
    result = Sparsify(sparsity=0.6, scope="model")(random_model())
    assert sum((result[name] == 0).sum() for name in ("a.weight", "b.weight")) == 72
    assert (result["b.weight"] == 0).sum() > 0.9 * 72


def test_scores_overrule_magnitudes():
    """The weight of the lowest score goes, be it the largest; with gradients the one of the lowest |w · g|."""
    weight = np.array([[5.0, 1.0, 2.0, 3.0]], np.float32)
    scores = {"w": np.array([[0.1, 9.0, 9.0, 9.0]])}
    np.testing.assert_array_equal(SparsifyByScore(sparsity=0.25, scores=scores)({"w": weight})["w"], [[0, 1, 2, 3]])
    gradients = {"w": np.array([[-1.0, 2.0, 2.0, 2.0]])}  # |w · g| = 5, 2, 4, 6
    by_gradient = SparsifyByScore(sparsity=0.25, scores=gradients, times_weight=True)
    np.testing.assert_array_equal(by_gradient({"w": weight})["w"], [[5, 0, 2, 3]])


def test_scores_may_come_from_a_callable_and_leave_gaps():
    """A callable is asked by name; with a mapping, tensors without scores stay as they are."""
    model = random_model()
    same = SparsifyByScore(sparsity=0.5, scores=lambda name, weight: np.abs(weight), scope="tensor")(model)
    expected = Sparsify(sparsity=0.5)(model)
    np.testing.assert_array_equal(same["a.weight"], expected["a.weight"])
    partial = SparsifyByScore(sparsity=0.5, scores={"b.weight": model["b.weight"]})(model)
    np.testing.assert_array_equal(partial["a.weight"], model["a.weight"])
    assert (partial["b.weight"] == 0).sum() == 36


@pytest.mark.parametrize("scores", [np.ones((6, 8)), np.full((8, 6), np.nan)])
def test_unfit_scores_are_refused(scores):
    """Scores of another shape or with NaN name the tensor."""
    with pytest.raises(ConfigError, match=r"a\.weight"):
        SparsifyByScore(sparsity=0.5, scores={"a.weight": scores})(random_model())


def test_pruned_rows_are_the_weakest_and_lose_their_bias():
    """Half of eight rows go: those with the smallest norms, with the same entries of the bias."""
    model = random_model()
    result = PruneRows(share=0.5, only=("a.*",))(model)
    weakest = np.argsort(np.linalg.norm(model["a.weight"], axis=1))[:4]
    assert sorted(np.flatnonzero(~result["a.weight"].any(axis=1))) == sorted(weakest)
    assert sorted(np.flatnonzero(result["a.bias"] == 0)) == sorted(weakest)
    kept = np.setdiff1d(np.arange(8), weakest)
    np.testing.assert_array_equal(result["a.weight"][kept], model["a.weight"][kept])


def test_pruning_leaves_a_row_and_follows_scores():
    """Even a share of 1 keeps one row: with scores, the one with the largest sum."""
    scores = np.ones((8, 6))
    scores[3] = 2
    result = PruneRows(share=1.0, scores={"a.weight": scores})(random_model())
    assert list(np.flatnonzero(result["a.weight"].any(axis=1))) == [3]


# decomposition


@given(rows=st.integers(6, 20), columns=st.integers(6, 20), rank=st.integers(1, 2), seed=st.integers(0, 99))
def test_a_weight_of_low_rank_is_found_exactly(rows, columns, rank, seed):
    """A product of rank 1 or 2 comes back as G and H of that rank, equal up to float32."""
    random = np.random.default_rng(seed)
    weight = (random.standard_normal((rows, rank)) @ random.standard_normal((rank, columns))).astype(np.float32)
    result = Decompose(energy=1 - 1e-9)({"w": weight})["w"]
    assert isinstance(result, Decomposed)
    assert result.rank <= rank
    assert result.g.shape == (rows, result.rank)
    assert largest_error(result, weight) < 1e-3


def test_the_kept_energy_is_what_was_asked_for():
    """With an energy of 0.9 the squared error is at most a tenth, and one rank less would exceed it."""
    random = np.random.default_rng(1)
    weight = (random.standard_normal((40, 40)) * 0.8 ** np.arange(40)).reshape(40, 10, 2, 2)
    result = Decompose(energy=0.9)({"w": weight})["w"]
    singular = np.linalg.svd(weight.reshape(40, 40), compute_uv=False) ** 2
    tail = 1 - np.cumsum(singular) / singular.sum()
    assert np.sum((result.restore() - weight) ** 2) / np.sum(weight**2) == pytest.approx(tail[result.rank - 1])
    assert tail[result.rank - 1] <= 0.1 < tail[result.rank - 2]
    assert result.shape == weight.shape == result.restore().shape


def test_decomposition_happens_only_where_it_saves():
    """A random matrix needs nearly its full rank for 99 % of its energy, so it stays an array; so do vectors."""
    model = random_model() | {"row.weight": np.ones((1, 50), np.float32)}
    result = Decompose(energy=0.99)(model)
    assert all(isinstance(value, np.ndarray) for value in result.values())
    halved = Decompose(size=0.5)(model)["a.weight"]
    assert halved.g.size + halved.h.size <= 24


# quantisation


@given(step=st.floats(2**-20, 2**20))
def test_the_next_coarser_step_is_found(step):
    """The QP found has a step of at least the asked-for one, and the QP before has a smaller one."""
    qp = qp_at_least(step)
    assert step_size(qp, 2) >= step > step_size(qp - 1, 2)


@given(weight=WEIGHTS, bits=st.integers(2, 8))
def test_uniform_levels_fit_the_bits_and_are_near(weight, bits):
    """No level exceeds 2^(bits-1) - 1, and no value is further away than half a step."""
    result = Uniform(bits=bits)({"w": weight})["w"]
    assert np.abs(result.levels).max() <= 2 ** (bits - 1) - 1
    assert largest_error(result, weight) <= step_size(result.qp, 2) / 2 * (1 + 1e-5)


@settings(max_examples=60)
@given(weight=WEIGHTS, clusters=st.integers(1, 20))
def test_a_codebook_is_what_the_stream_wants(weight, clusters):
    """Entries ascend strictly, every index exists, level 0 is the entry nearest zero, and the size is limited."""
    result = KMeans(clusters=clusters)({"w": weight})["w"]
    entries = np.array(result.codebook.entries)
    assert isinstance(result, Clustered)
    assert 1 <= len(entries) <= clusters
    assert (np.diff(entries) > 0).all()
    assert result.indices.min() >= 0
    assert result.indices.max() < len(entries)
    assert abs(entries[result.codebook.zero]) == np.abs(entries).min()


def test_few_values_are_kept_exactly():
    """Values on the grid that are no more than the clusters come back without error."""
    weight = np.array([[-4095.0, 0.0, 17.0], [17.0, 2047.0, -4095.0]], np.float32) / 4096
    result = KMeans(clusters=4)({"w": weight})["w"]
    np.testing.assert_array_equal(result.restore(), weight)


def test_k_means_beats_a_uniform_grid_on_a_normal_distribution():
    """16 centres on 100 000 normal values reach the optimum, 0.0095, within 1 %; a uniform grid has 0.0115."""
    weight = np.random.default_rng(0).standard_normal((100, 1000))
    result = KMeans(clusters=16)({"w": weight})["w"]
    assert np.mean((result.restore() - weight) ** 2) == pytest.approx(0.00954, rel=0.01)


def test_k_means_stops_where_lloyd_does():
    """Each centre is the mean of its values, and each value belongs to its nearest centre."""
    values, counts = np.arange(100), np.random.default_rng(0).integers(1, 50, 100)
    owner, centres = lloyd(values, counts, 5)
    means = np.bincount(owner, counts * values) / np.bincount(owner, counts)
    np.testing.assert_allclose(centres, means)
    np.testing.assert_array_equal(owner, np.abs(values[:, None] - centres).argmin(axis=1))


def test_a_price_of_bits_lowers_the_entropy():
    """With a rate the indices carry fewer bits at a larger error, as it should be."""
    weight = np.random.default_rng(0).laplace(size=(100, 500))
    bits, errors = [], []
    for rate in (0.0, 1.0):
        result = KMeans(clusters=16, rate=rate)({"w": weight})["w"]
        share = np.bincount(result.indices.ravel()) / weight.size
        bits.append(-(share[share > 0] * np.log2(share[share > 0])).sum())
        errors.append(np.mean((result.restore() - weight) ** 2))
    assert bits[1] < bits[0] - 0.2
    assert errors[1] > errors[0]


@given(weight=WEIGHTS, qp=st.integers(-20, 20))
def test_local_scaling_never_makes_a_row_worse(weight, qp):
    """The squared error of each row is at most what it is without the factor."""
    result = LocalScale(qp=qp)({"w": weight})["w"]
    assert isinstance(result, Scaled)
    rows = (len(weight), -1)
    plain = np.sum((result.weight - weight).reshape(rows).astype(float) ** 2, axis=1)
    scaled = np.sum((result.restore() - weight).reshape(rows).astype(float) ** 2, axis=1)
    assert (scaled <= plain * (1 + 1e-5) + 1e-4).all()


def test_local_scaling_finds_a_known_factor():
    """If each row is a multiple of its quantised self, the multiples come back; rows of zeros get 1."""
    quantised = np.array([[1.0, -2.0], [3.0, 1.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(least_squares_scale(quantised * [[1.5], [0.25], [9.0]], quantised), [1.5, 0.25, 1.0])


def test_restoring_gives_arrays_in_the_original_shapes():
    """Whatever passes made, `restore` returns an array of the same shape under each name, in the same order."""
    model = random_model() | {"c.weight": np.outer(np.arange(9.0), np.arange(9.0)).astype(np.float32)}
    passes = [
        Decompose(energy=0.999, only=("c.*",)),
        KMeans(only=("a.*",)),
        LocalScale(qp=-30, only=("b.*",)),
    ]
    result = reduce(model, passes)
    assert [type(result[f"{layer}.weight"]) for layer in "abc"] == [Clustered, Scaled, Decomposed]
    assert {name: value.shape for name, value in restore(result).items()} == {n: v.shape for n, v in model.items()}
    assert list(result) == list(model)
