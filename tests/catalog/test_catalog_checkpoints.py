from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from wattwerk.catalog import checkpoints, models, seeding
from wattwerk.errors import ConfigError, UnavailableError


def test_safetensors_go_in_and_come_out(tmp_path: Path) -> None:
    """Weights saved by name are loaded by name: the model's bytes are those of the model they came from."""
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "model.safetensors"
    safetensors.save_file(seeding.seeded_arrays(seeding.graph_of("mobilenet-v2"), 9), path)
    model = models.resolve("mobilenet-v2", weights=str(path))
    assert model.onnx_bytes() == models.resolve("mobilenet-v2", seed=9).onnx_bytes()
    assert model.subject().weights == str(path)


def test_an_onnx_file_of_the_same_graph_gives_its_weights(tmp_path: Path) -> None:
    """The tensors of an ONNX file with the same names replace the seeded ones."""
    path = tmp_path / "real.onnx"
    path.write_bytes(models.resolve("mobilenet-v2", seed=4).onnx_bytes())
    assert models.resolve("mobilenet-v2", weights=str(path)).onnx_bytes() == path.read_bytes()


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    """Weights of another architecture are refused on resolving; the first missing tensors are named."""
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"other": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=r"lacks 262 of 262 tensors \(mobilenet_v2\.\S+, .*this file has other"):
        models.resolve("mobilenet-v2", weights=str(tmp_path / "other.safetensors"))


def test_a_wrong_shape_is_named(tmp_path: Path) -> None:
    """A checkpoint with another number of classes is refused with both shapes."""
    safetensors = pytest.importorskip("safetensors.numpy")
    arrays = seeding.seeded_arrays(seeding.graph_of("mobilenet-v2"), 0)
    arrays["classifier.bias"] = np.zeros(10, np.float32)
    safetensors.save_file(arrays, tmp_path / "ten.safetensors")
    with pytest.raises(ConfigError, match=r"classifier\.bias is \(10,\) and should be \(1001,\)"):
        models.resolve("mobilenet-v2", weights=str(tmp_path / "ten.safetensors"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "no safetensors file"),
        ("cut.onnx", b"nonsense", "not valid ONNX"),
        ("weights.bin", b"x", "cannot take weights from"),
    ],
)
def test_corrupt_weights_are_one_clear_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """A file that is cut off or of another kind is refused on resolving."""
    pytest.importorskip("safetensors")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        models.resolve("mobilenet-v2", weights=str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_missing_weights_are_one_clear_line(tmp_path: Path) -> None:
    """A path that leads nowhere says so."""
    pytest.importorskip("safetensors")
    with pytest.raises(ConfigError, match="there is no file"):
        models.resolve("mobilenet-v2", weights=str(tmp_path / "nothing.safetensors"))


def test_the_hub_without_its_package_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id without huggingface_hub installed says what to install."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UnavailableError, match="pip install"):
        models.resolve("mobilenet-v2", weights="google/mobilenet_v2_1.0_224")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("vit.encoder.layer.3.attention.attention.query.weight", "vit.layers.3.attention.q_proj.weight"),
        ("vit.encoder.layer.3.attention.output.dense.bias", "vit.layers.3.attention.o_proj.bias"),
        ("vit.encoder.layer.3.intermediate.dense.weight", "vit.layers.3.mlp.fc1.weight"),
        ("vit.encoder.layer.3.output.dense.weight", "vit.layers.3.mlp.fc2.weight"),
        ("segformer.encoder.patch_embeddings.2.proj.weight", "segformer.stages.2.patch_embeddings.proj.weight"),
        (
            "segformer.encoder.block.1.4.attention.self.sr.weight",
            "segformer.stages.1.blocks.4.attention.sequence_reduction.sequence_reduction.weight",
        ),
        ("segformer.encoder.block.1.4.mlp.dense2.bias", "segformer.stages.1.blocks.4.mlp.fc2.bias"),
        ("segformer.encoder.block.1.4.layer_norm_2.bias", "segformer.stages.1.blocks.4.layernorm_after.bias"),
        ("segformer.encoder.layer_norm.3.weight", "segformer.stages.3.layer_norm.weight"),
        ("decode_head.linear_c.0.proj.weight", "decode_head.linear_projections.0.proj.weight"),
        ("model.decoder.layers.1.encoder_attn.out_proj.bias", "model.decoder.layers.1.encoder_attn.o_proj.bias"),
        ("model.encoder.layers.1.fc1.weight", "model.encoder.layers.1.mlp.fc1.weight"),
        (
            "model.backbone.conv_encoder.model.layer3.5.conv2.weight",
            "model.backbone.model.encoder.stages.2.layers.5.layer.1.convolution.weight",
        ),
        (
            "model.backbone.conv_encoder.model.layer1.0.downsample.1.running_mean",
            "model.backbone.model.encoder.stages.0.layers.0.shortcut.normalization.running_mean",
        ),
        (
            "model.backbone.conv_encoder.model.bn1.weight",
            "model.backbone.model.embedder.embedder.normalization.weight",
        ),
    ],
)
def test_names_of_older_checkpoints_are_translated(old: str, new: str) -> None:
    """Names that published checkpoints use lead to tensors of the present modules."""
    assert checkpoints.renamed(old) == new
    owner = next(name for name in models.names() if new in seeding.card_of(seeding.graph_of(name)).recipe)
    assert owner


@pytest.mark.parametrize("name", models.names())
def test_present_names_stay(name: str) -> None:
    """No present name is changed by the translation, so that both kinds of checkpoints load."""
    assert [new for new in seeding.card_of(seeding.graph_of(name)).recipe if checkpoints.renamed(new) != new] == []
