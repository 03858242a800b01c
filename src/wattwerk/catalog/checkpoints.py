"""Real weights for a built-in model: from an ONNX file, a safetensors file, or the Hugging Face hub."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wattwerk.errors import ConfigError, UnavailableError

Array = npt.NDArray[Any]

_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")
_SHOWN: Final = 3  # names in an error message

#: Names of older published checkpoints -> names of the transformers 5 modules, applied in order.
_RENAMINGS: Final[tuple[tuple[str, str], ...]] = (
    # ViT and SegFormer before transformers 5
    (r"\bencoder\.layer\.(\d+)", r"layers.\1"),
    (r"\bencoder\.block\.(\d+)\.(\d+)", r"stages.\1.blocks.\2"),
    (r"\bencoder\.(patch_embeddings|layer_norm)\.(\d+)", r"stages.\2.\1"),
    (r"attention\.(?:attention|self)\.(query|key|value)", lambda match: f"attention.{match[1][0]}_proj"),
    (r"attention\.self\.sr\b", "attention.sequence_reduction.sequence_reduction"),
    (r"attention\.self\.layer_norm", "attention.sequence_reduction.layer_norm"),
    (r"attention\.output\.dense", "attention.o_proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
    (r"mlp\.dense([12])", r"mlp.fc\1"),
    (r"layer_norm_1", "layernorm_before"),
    (r"layer_norm_2", "layernorm_after"),
    (r"decode_head\.linear_c\.", "decode_head.linear_projections."),
    # DETR before transformers 5, with a backbone of timm
    (r"\bbackbone\.conv_encoder\.", "backbone."),
    (r"\bout_proj\b", "o_proj"),
    (r"(coder\.layers\.\d+)\.fc([12])", r"\1.mlp.fc\2"),
    (r"backbone\.model\.conv1\.", "backbone.model.embedder.embedder.convolution."),
    (r"backbone\.model\.bn1\.", "backbone.model.embedder.embedder.normalization."),
    (r"backbone\.model\.layer(\d)\.", lambda match: f"backbone.model.encoder.stages.{int(match[1]) - 1}.layers."),
    (r"(backbone\..*)\.conv(\d)\.", lambda match: f"{match[1]}.layer.{int(match[2]) - 1}.convolution."),
    (r"(backbone\..*)\.bn(\d)\.", lambda match: f"{match[1]}.layer.{int(match[2]) - 1}.normalization."),
    (r"(backbone\..*)\.downsample\.0\.", r"\1.shortcut.convolution."),
    (r"(backbone\..*)\.downsample\.1\.", r"\1.shortcut.normalization."),
)  # type: ignore[assignment] # a replacement is a text or a function


class Checkpoint:
    """Named arrays that are read one by one.

    Args:
        origin: Where they come from, for records and errors.
        shapes: Name in the file -> shape.
        read: Returns the array of a name in the file.
    """

    def __init__(self, origin: str, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Array]) -> None:
        self.origin = origin
        self._names = {renamed(name): name for name in shapes} | {name: name for name in shapes}
        self._shapes = shapes
        self._read = read

    def check(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse a checkpoint that does not fit.

        Args:
            wanted: Tensor name -> shape.

        Raises:
            ConfigError: A tensor is missing or has another shape.
        """
        missing = [name for name in wanted if name not in self._names]
        if missing:
            raise ConfigError(
                f"{self.origin} lacks {len(missing)} of {len(wanted)} tensors ({_listed(missing)})",
                f"give weights of the same architecture; this file has {_listed(self._shapes)}",
            )
        wrong = [name for name, shape in wanted.items() if self._shapes[self._names[name]] != shape]
        if wrong:
            name = wrong[0]
            raise ConfigError(
                f"{self.origin} has {len(wrong)} tensors of another shape ({_listed(wrong)}): "
                f"{name} is {self._shapes[self._names[name]]} and should be {wanted[name]}",
                "give weights of the same architecture and the same number of classes",
            )

    def array(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as float32."""
        return np.asarray(self._read(self._names[name]), dtype=np.float32)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "") if names else "none"


def renamed(name: str) -> str:
    """Return the present name of a tensor that an older checkpoint names otherwise."""
    for pattern, replacement in _RENAMINGS:
        name = re.sub(pattern, replacement, name)
    return name


def open_checkpoint(reference: str) -> Checkpoint:
    """Open weights.

    Args:
        reference: A path to an .onnx or a .safetensors file, or a hub id ``organisation/name``.

    Raises:
        ConfigError: The file is missing, of another kind, or corrupt.
        UnavailableError: The hub or the package to read the file with is not there.
    """
    path = Path(reference).expanduser()
    if path.suffix == ".onnx":
        return _from_onnx(path)
    if path.suffix == ".safetensors":
        return _from_safetensors(path, str(path))
    if not path.exists() and _HUB_ID.fullmatch(reference):
        return _from_safetensors(_downloaded(reference), reference)
    raise ConfigError(
        f"cannot take weights from {reference}", "give an .onnx or .safetensors file or a hub id org/name"
    )


def _from_onnx(path: Path) -> Checkpoint:
    from onnx import numpy_helper

    from wattwerk.catalog.onnx_file import read_onnx

    model = read_onnx(path)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = {name: tuple(tensor.dims) for name, tensor in tensors.items()}
    return Checkpoint(str(path), shapes, lambda name: numpy_helper.to_array(tensors[name]))


def _from_safetensors(path: Path, origin: str) -> Checkpoint:
    try:
        import safetensors
    except ImportError as error:
        raise UnavailableError("reading safetensors needs a package", "pip install 'wattwerk[weights]'") from error
    if not path.is_file():
        raise ConfigError(f"there is no file {path}", "check the path")
    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise ConfigError(f"{origin} is no safetensors file ({error})", "check or download the file again") from error
    return Checkpoint(origin, shapes, lambda name: _safetensor(path, name))


def _safetensor(path: Path, name: str) -> Array:
    import safetensors

    with contextlib.suppress(ImportError):  # registers bfloat16 with numpy, in which many checkpoints are stored
        import ml_dtypes  # noqa: F401

    with safetensors.safe_open(path, framework="numpy") as opened:
        return np.asarray(opened.get_tensor(name))


def _downloaded(hub_id: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UnavailableError(
            f"{hub_id} comes from the hub, which needs a package", "pip install 'wattwerk[weights]'"
        ) from error
    client = logging.getLogger("huggingface_hub")
    level = client.level
    client.setLevel(logging.CRITICAL)  # it would announce every retry; what failed arrives as an exception
    try:
        return Path(hf_hub_download(hub_id, "model.safetensors"))
    except Exception as error:  # the hub's client raises errors of several libraries
        raise UnavailableError(
            f"cannot fetch model.safetensors of {hub_id} ({type(error).__name__})",
            "check the name and the network, or give a local .safetensors file",
        ) from error
    finally:
        client.setLevel(level)
