import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattwerk.codec import pack, unpack
from wattwerk.codec.allocate import Calibration, for_accuracy, for_quality, for_size
from wattwerk.codec.allocate_calibration import calibrated
from wattwerk.codec.allocate_sensitivity import (
    VECTOR_QP,
    allocate,
    data_free,
    probes,
    quantised,
    sigmoid_divergence,
    softmax_divergence,
    squared_error,
)
from wattwerk.codec.allocate_size import SizeModel
from wattwerk.codec.reduce_decompose import Decompose
from wattwerk.errors import ConfigError

QUALITIES = ("near-lossless", "balanced", "small")


def network(seed=0):
    """Return a network of two layers, a weight that nothing uses, and integers."""
    random = np.random.default_rng(seed)
    return {
        "first.weight": random.normal(0, 0.1, (64, 100)).astype(np.float32),
        "first.bias": random.normal(0, 0.1, 64).astype(np.float32),
        "second.weight": random.normal(0, 0.1, (20, 64)).astype(np.float32),
        "unused.weight": random.normal(0, 0.1, (100, 100)).astype(np.float32),
        "steps": np.array([3, 4], dtype=np.int64),
    }


SAMPLES = np.random.default_rng(99).standard_normal((50, 100))


def outputs(arrays):
    """Return the network's logits (50, 20) for the samples."""
    hidden = np.maximum(SAMPLES @ arrays["first.weight"].T + arrays["first.bias"], 0)
    return hidden @ arrays["second.weight"].T


def packed_size(arrays):
    """Return a callable from QPs to the packed size of these arrays."""
    return lambda tensor_qp: len(pack(arrays, tensor_qp=tensor_qp))


# sensitivities


def test_twice_the_sensitivity_is_a_qp_lower_by_two():
    """QPs follow base - 2 log2(s), and the mean over all elements is the base."""
    arrays = {name: np.full((10, 10), -1.0, np.float32) for name in "abc"}
    qps = allocate({"a": 1.0, "b": 2.0, "c": 4.0}, arrays, -20.0)
    assert qps == {"a": -18, "b": -20, "c": -22}


def test_without_data_the_size_decides():
    """A tensor of a quarter of the elements gets a QP lower by four, which is half the step."""
    arrays = {"large": np.full((40, 10), -1.0), "small": np.full((10, 10), -1.0)}
    qps = allocate(data_free(arrays), arrays, -20.0)
    assert qps["large"] - qps["small"] == 4


def test_positive_vectors_keep_their_smallest_element():
    """The smallest variance of 0.001 to 100 is off by less than a quarter; nothing is finer than the reference's QP."""
    arrays = {"variance": np.geomspace(1e-3, 100, 64).astype(np.float32), "w": np.full((64, 64), -1.0, np.float32)}
    qps = allocate(data_free(arrays), arrays, 0.0)
    kept = quantised(arrays, qps)["variance"]
    assert np.abs(kept / arrays["variance"] - 1).max() < 0.25
    tiny = {"variance": np.array([1e-9, 1.0], np.float32)}
    assert allocate(data_free(tiny), tiny, 0.0) == {"variance": VECTOR_QP}


def test_calibration_finds_what_matters():
    """Measured: the unused tensor gets the coarsest step by far, with the same elements otherwise distributed alike."""
    arrays = network()
    found = calibrated(arrays, outputs, -30.0, trust=1.0)
    assert set(found) == {"first.weight", "first.bias", "second.weight", "unused.weight"}
    assert found["unused.weight"] < 1e-6 * found["first.weight"]


def test_a_measured_sensitivity_predicts_the_divergence():
    """Quantised four times as coarsely, a weight costs its sensitivity times its squared error, within 30 %."""
    arrays = network()
    found = calibrated(arrays, outputs, -28.0, trust=1.0)
    coarse = quantised(arrays, {"first.weight": -20})
    predicted = found["first.weight"] * squared_error(arrays["first.weight"], coarse["first.weight"])
    assert softmax_divergence(outputs(arrays), outputs(coarse)) == pytest.approx(predicted, rel=0.3)


def test_calibration_is_better_than_the_size_alone():
    """At the same packed size (within 0.5 %) the divergence is less than half of that without samples."""
    arrays = network()
    target = 9000
    free = for_size(arrays, target, pack=packed_size(arrays))
    measured = for_size(arrays, target, pack=packed_size(arrays), calibration=Calibration(outputs=outputs))
    reference = outputs(arrays)
    divergences = [
        softmax_divergence(reference, outputs(unpack(pack(arrays, tensor_qp=each.tensor_qp))))
        for each in (free, measured)
    ]
    assert divergences[1] < 0.5 * divergences[0]


def test_the_measurement_is_trusted_as_far_as_it_helps():
    """On the samples, what is chosen costs no more than the rule alone or the measurement alone, at equal size."""
    arrays = network()
    reference = outputs(arrays)

    def divergence(sensitivities):
        found = {}
        for base in np.arange(-34.0, -25.0):
            qps = allocate(sensitivities, arrays, base)
            decoded = outputs(quantised(arrays, qps))
            found[SizeModel(arrays).bytes(qps)] = np.log(softmax_divergence(reference, decoded))
        sizes = sorted(found)
        return np.interp(np.linspace(8000, 10000, 9), sizes, [found[size] for size in sizes]).mean()

    chosen, rule, measured = (divergence(calibrated(arrays, outputs, -30.0, trust=trust)) for trust in (None, 0.0, 1.0))
    assert chosen <= rule - 0.5
    assert chosen <= measured + 0.1


def test_many_vectors_are_probed_by_kind():
    """Twenty layers with a bias each and a variance each take one probe a weight and one a kind."""
    arrays = {}
    for layer in range(20):
        arrays[f"{layer}.weight"] = np.ones((4, 4))
        arrays[f"{layer}.bias"] = np.ones(4)
        arrays[f"{layer}.running_var"] = np.ones(4)
    groups = probes(arrays)
    assert len(groups) == 22
    assert sorted(name for group in groups for name in group) == sorted(arrays)


def test_a_simulated_quantisation_is_what_decoding_gives():
    """`quantised` equals unpack(pack(…)) with the same QPs to the last bit, with and without dependent quantisation."""
    arrays = network()
    qps = allocate(data_free(arrays), arrays, -25.0)
    for dependent in (True, False):
        decoded = unpack(pack(arrays, tensor_qp=qps, dependent=dependent))
        for name, value in quantised(arrays, qps, dependent=dependent).items():
            np.testing.assert_array_equal(decoded[name], value)


@given(seed=st.integers(0, 99), shift=st.floats(-5, 5))
def test_divergences_are_zero_for_equal_distributions_and_positive_else(seed, shift):
    """Softmax does not see a shift of all logits; any other change costs."""
    random = np.random.default_rng(seed)
    a, b = random.normal(0, 3, (2, 4, 6))
    assert softmax_divergence(a, a + shift) == pytest.approx(0, abs=1e-12)
    assert softmax_divergence(a, b) > 0
    assert sigmoid_divergence(a, a) == 0
    assert sigmoid_divergence(a, b) > 0


def test_divergence_of_a_known_case():
    """(1/2, 1/2) against (1/4, 3/4): ½ ln 2 + ½ ln ⅔ = 0.1438 nats, by softmax as by one sigmoid."""
    reference, other = np.array([[0.0, 0.0]]), np.array([[0.0, np.log(3.0)]])
    assert softmax_divergence(reference, other) == pytest.approx(0.143841)
    assert sigmoid_divergence(np.array([[0.0]]), np.array([[np.log(3.0)]])) == pytest.approx(0.143841)


@pytest.mark.parametrize("bad", [np.full((50, 20), np.nan), np.zeros((50, 19))])
def test_unfit_outputs_are_refused(bad):
    """NaN and another shape are errors that say so."""
    with pytest.raises(ConfigError, match="outputs"):
        softmax_divergence(np.zeros((50, 20)), bad)


def test_a_tensor_with_infinity_is_named():
    """Quantising it is refused with its name."""
    with pytest.raises(ConfigError, match=r"w has NaN or infinity"):
        quantised({"w": np.array([[1.0, np.inf]])}, {"w": 0})


def test_reduced_parameters_are_refused_by_name():
    """What a pass made of an array has no values to vary the QP of."""
    reduced = Decompose(size=0.5)(network())
    with pytest.raises(ConfigError, match=r"first\.weight is no array but Decomposed"):
        for_quality(reduced, "balanced")


# sizes


@pytest.mark.parametrize("dependent", [True, False])
@pytest.mark.parametrize("distribution", ["normal", "laplace"])
@pytest.mark.parametrize("qp", [-16, -8, 0, 4])
def test_estimated_sizes_are_near_the_packed_ones(dependent, distribution, qp):
    """From 6 bits to 1.5 bits a weight the estimate is within 4 % of the packer."""
    values = getattr(np.random.default_rng(0), distribution)(size=(256, 256)).astype(np.float32)
    estimate = SizeModel({"w": values}, dependent=dependent).bytes({"w": qp})
    assert estimate == pytest.approx(len(pack({"w": values}, tensor_qp={"w": qp}, dependent=dependent)), rel=0.04)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), qp=st.integers(-60, 40))
def test_a_coarser_step_never_takes_much_more(seed, qp):
    """The estimate falls with the QP, but for 2 % of noise in the entropy of a sample."""
    values = np.random.default_rng(seed).standard_t(3, (40, 50)).astype(np.float32)
    model = SizeModel({"w": values})
    assert model.tensor_bytes("w", qp + 1) <= 1.02 * model.tensor_bytes("w", qp) + 1


# the three questions


@pytest.mark.parametrize("target", [4000, 9000, 15000])
def test_a_target_size_is_met_from_below(target):
    """The packed stream is no larger than asked for, and no more than 2 % smaller."""
    arrays = network()
    found = for_size(arrays, target, pack=packed_size(arrays))
    assert found.packed
    assert found.size_bytes == len(pack(arrays, tensor_qp=found.tensor_qp))
    assert 0.98 * target <= found.size_bytes <= target


def test_few_packings_suffice():
    """The packer is called no more often than allowed, plus once to fill the rest."""
    arrays = network()
    calls = []

    def count(tensor_qp):
        calls.append(tensor_qp)
        return len(pack(arrays, tensor_qp=tensor_qp))

    for_size(arrays, 9000, pack=count, most_packs=2)
    assert len(calls) <= 3


def test_without_a_packer_the_size_is_an_estimate_near_the_truth():
    """It says that it is one, and packing gives that size within 3 %."""
    arrays = network()
    found = for_size(arrays, 9000)
    assert not found.packed
    assert len(pack(arrays, tensor_qp=found.tensor_qp)) == pytest.approx(9000, rel=0.03)


def test_an_impossible_size_says_what_is_possible():
    """Ten bytes hold no model; the error has the smallest size found."""
    with pytest.raises(ConfigError, match="does not fit into 10 bytes"):
        for_size(network(), 10, pack=packed_size(network()))


def test_qualities_are_ordered():
    """Near-lossless is larger and nearer to the original than balanced, and balanced than small."""
    arrays = network()
    found = [for_quality(arrays, quality) for quality in QUALITIES]
    errors = [squared_error(outputs(arrays), outputs(quantised(arrays, each.tensor_qp))) for each in found]
    assert found[0].size_bytes > found[1].size_bytes > found[2].size_bytes
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize(("quality", "limit"), list(zip(QUALITIES, (0.001, 0.01, 0.1), strict=True)))
def test_with_samples_a_quality_is_a_divergence(quality, limit):
    """The divergence is below the limit and, as the largest such one was searched for, above a fifth of it."""
    arrays = network()
    found = for_quality(arrays, quality, calibration=Calibration(outputs=outputs))
    assert limit / 5 < found.divergence <= limit
    decoded = unpack(pack(arrays, tensor_qp=found.tensor_qp))
    assert softmax_divergence(outputs(arrays), outputs(decoded)) == pytest.approx(found.divergence)


def test_an_unknown_quality_names_the_known_ones():
    """The error lists them."""
    with pytest.raises(ConfigError, match="near-lossless, balanced, small"):
        for_quality(network(), "best")


def test_accuracy_is_kept():
    """Agreement with the original's classes falls by at most 4 %, and the score returned is the decoded model's."""
    arrays = network()
    classes = outputs(arrays).argmax(axis=1)

    def agreement(candidate):
        return float(np.mean(outputs(candidate).argmax(axis=1) == classes))

    found = for_accuracy(arrays, 0.04, agreement)
    decoded = unpack(pack(arrays, tensor_qp=found.tensor_qp))
    assert agreement(decoded) == found.score >= 0.96
    exact = for_accuracy(arrays, 0.0, agreement)
    assert exact.score == 1.0
    assert exact.size_bytes > found.size_bytes


def test_an_accuracy_that_nothing_keeps_is_an_error():
    """If every quantised model scores zero, no allocation is returned."""
    arrays = network()
    with pytest.raises(ConfigError, match="allow a larger loss"):
        for_accuracy(arrays, 0.5, lambda candidate: float(candidate is arrays))


def test_a_model_without_floats_has_nothing_to_allocate():
    """Integers get no QP, and asking for a quality is no error."""
    assert for_quality({"steps": np.arange(5)}, "balanced").tensor_qp == {}
