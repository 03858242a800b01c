import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattwerk.codec.reduce_batchnorm import BatchNorm, FoldBatchNorm, neighbours
from wattwerk.codec.reduce_types import Scaled, restore
from wattwerk.errors import ConfigError


def convolve(x, weight, bias=None):
    """Convolve (batch, in, h, w) with (out, in, kh, kw), without padding."""
    patches = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    y = np.einsum("bchwij,ocij->bohw", patches, weight)
    return y if bias is None else y + bias[:, None, None]


def normalise(x, model, layer, epsilon=1e-5):
    """Apply the batch norm of a state dict to (batch, channels, h, w), as its definition says."""
    mean, variance = model[f"{layer}.running_mean"], model[f"{layer}.running_var"]
    gamma = model.get(f"{layer}.weight", np.ones_like(mean))
    beta = model.get(f"{layer}.bias", np.zeros_like(mean))
    column = (-1, 1, 1)
    hat = (x - mean.reshape(column)) / np.sqrt(variance.reshape(column) + epsilon)
    return gamma.reshape(column) * hat + beta.reshape(column)


def model_of(seed, bias, dtype=np.float64):
    """Return a convolution and the batch norm behind it, as a state dict."""
    random = np.random.default_rng(seed)
    arrays = {"conv.weight": random.standard_normal((5, 3, 3, 3))}
    if bias:
        arrays["conv.bias"] = random.standard_normal(5)
    arrays |= {
        "bn.weight": random.standard_normal(5),
        "bn.bias": random.standard_normal(5),
        "bn.running_mean": random.standard_normal(5),
        "bn.running_var": random.uniform(0.01, 4, 5),
    }
    counter = {"bn.num_batches_tracked": np.array(100)}
    return {name: value.astype(dtype) for name, value in arrays.items()} | counter


def forward(model, x, batch_norm=True):
    """Evaluate the two layers, or the first alone."""
    y = convolve(x, model["conv.weight"], model.get("conv.bias"))
    return normalise(y, model, "bn") if batch_norm else y


@given(seed=st.integers(0, 1000), bias=st.booleans(), mode=st.sampled_from(["fold", "block"]), remove=st.booleans())
def test_folding_changes_no_output(seed, bias, mode, remove):
    """Convolution and batch norm give the same as the folded model in float64, whatever the representation."""
    model = model_of(seed, bias)
    x = np.random.default_rng(seed + 1).standard_normal((2, 3, 6, 6))
    folded = restore(FoldBatchNorm(groups="neighbours", mode=mode, remove=remove)(model))
    np.testing.assert_allclose(forward(folded, x, batch_norm=not remove), forward(model, x), rtol=1e-10, atol=1e-12)


@given(seed=st.integers(0, 1000), bias=st.booleans())
def test_an_affine_layer_changes_no_output_and_no_weight(seed, bias):
    """γ and β alone say what the layer did; the weight is the same array, and mean, variance and bias are constants."""
    model = model_of(seed, bias)
    x = np.random.default_rng(seed + 1).standard_normal((2, 3, 6, 6))
    affine = FoldBatchNorm(groups="neighbours", mode="affine")(model)
    np.testing.assert_allclose(forward(affine, x), forward(model, x), rtol=1e-10, atol=1e-12)
    assert affine["conv.weight"] is model["conv.weight"]
    assert list(affine) == list(model)
    assert all(len(set(affine[name])) == 1 for name in ("bn.running_mean", "bn.running_var"))


def test_an_affine_layer_needs_a_place_and_stays():
    """Without γ and β, or with remove, the error says what to use instead."""
    with pytest.raises(ConfigError, match="use fold or block"):
        FoldBatchNorm(groups="neighbours", mode="affine", remove=True)
    model = {"fc.weight": np.ones((2, 2)), "bn.running_mean": np.ones(2), "bn.running_var": np.ones(2)}
    with pytest.raises(ConfigError, match="use fold or block"):
        FoldBatchNorm(groups="neighbours", mode="affine")(model)


def test_single_precision_stays_single():
    """float32 in, float32 out, and the outputs agree to a few units in the last place."""
    model = model_of(3, bias=True, dtype=np.float32)
    folded = FoldBatchNorm(groups="neighbours")(model)
    assert {name: value.dtype for name, value in folded.items()} == {name: v.dtype for name, v in model.items()}
    x = np.random.default_rng(0).standard_normal((1, 3, 6, 6)).astype(np.float32)
    np.testing.assert_allclose(forward(folded, x), forward(model, x), rtol=1e-4, atol=1e-5)


def test_a_fold_leaves_the_layer_as_identity_under_the_same_names():
    """Names and their order stay; γ is 1, μ is 0, and σ² + ε is 1."""
    model = model_of(0, bias=False)
    folded = FoldBatchNorm(groups="neighbours")(model)
    assert list(folded) == list(model)
    assert (folded["bn.weight"] == 1).all()
    assert (folded["bn.running_mean"] == 0).all()
    np.testing.assert_allclose(folded["bn.running_var"] + 1e-5, 1)


def test_removing_gives_the_weight_a_bias_behind_it():
    """Without the layer, five tensors less and a bias more."""
    assert list(FoldBatchNorm(groups="neighbours", remove=True)(model_of(0, bias=False))) == [
        "conv.weight",
        "conv.bias",
    ]


def test_the_block_representation_keeps_the_weight():
    """The weight itself is untouched; γ / √(σ² + ε) is its scale."""
    model = model_of(0, bias=False)
    block = FoldBatchNorm(groups="neighbours", mode="block")(model)["conv.weight"]
    assert isinstance(block, Scaled)
    assert block.weight is model["conv.weight"]
    np.testing.assert_allclose(block.scale, model["bn.weight"] / np.sqrt(model["bn.running_var"] + 1e-5))


def test_linear_layers_and_batch_norms_without_affine_fold_too():
    """A (out, in) weight with a bias and a batch norm that has neither γ nor β: y = (Wx + b - μ) / √(σ² + ε)."""
    model = {
        "fc.weight": np.array([[1.0, 2.0], [3.0, 4.0]]),
        "fc.bias": np.array([0.5, -0.5]),
        "bn.running_mean": np.array([1.0, 2.0]),
        "bn.running_var": np.array([4.0, 0.25]),
    }
    folded = FoldBatchNorm(groups="neighbours", epsilon=0.0)(model)
    x = np.array([0.3, -0.7])
    expected = (model["fc.weight"] @ x + model["fc.bias"] - model["bn.running_mean"]) / np.array([2.0, 0.5])
    np.testing.assert_allclose(folded["fc.weight"] @ x + folded["fc.bias"], expected)


def test_a_shift_without_a_place_is_refused():
    """Neither bias nor β: only removing the layer gives the shift a name."""
    model = {
        "fc.weight": np.ones((2, 2)),
        "bn.running_mean": np.ones(2),
        "bn.running_var": np.ones(2),
    }
    with pytest.raises(ConfigError, match="set remove to true"):
        FoldBatchNorm(groups="neighbours")(model)
    assert list(FoldBatchNorm(groups="neighbours", remove=True)(model)) == ["fc.weight", "fc.bias"]


def test_only_direct_neighbours_of_the_same_width_belong_together():
    """A batch norm is paired with the weight in front, not with one of another width, nor twice with the same."""
    bn = {"running_mean": np.zeros(4), "running_var": np.ones(4)}
    model = {
        "a.weight": np.ones((4, 3)),
        **{f"n1.{name}": value for name, value in bn.items()},
        **{f"n2.{name}": value for name, value in bn.items()},
        "b.weight": np.ones((5, 4)),
        **{f"n3.{name}": value for name, value in bn.items()},
    }
    assert [(group.weight, group.mean) for group in neighbours(model)] == [("a.weight", "n1.running_mean")]


def test_wrong_groups_say_what_is_wrong():
    """A missing name, unequal widths and negative variances name the tensor."""
    group = BatchNorm(weight="conv.weight", bias="conv.bias", mean="bn.running_mean", variance="bn.running_var")
    model = model_of(0, bias=True)
    fold = FoldBatchNorm(groups=(group,))
    with pytest.raises(ConfigError, match=r"bn\.running_mean is not"):
        fold({"conv.weight": model["conv.weight"]})
    with pytest.raises(ConfigError, match="do not belong together"):
        fold(model | {"bn.running_mean": np.zeros(7)})
    with pytest.raises(ConfigError, match="negative variances"):
        fold(model | {"bn.running_var": np.full(5, -1.0)})
