#!/usr/bin/env python3
"""Bytes at equal quality: our rate allocation beside nncodec's one QP for all weights and its ``opt_qp``.

    pip install efficientnet-lite-pytorch scikit-image    # the network's code, and photographs that a package ships
    python benchmarks/codec_rate_allocation.py --nncodec-python /path/to/its/venv/bin/python [--json]
        [--models efficientnet-lite0 crepe small-cnn] [--shift 0] [--folder build/codec-models]

Quality is the Kullback-Leibler divergence of the decoded network's outputs from the original's, on samples that the
calibration has not seen. Each method packs a model at several mean QPs, which gives a curve of bytes over divergence;
the difference of two curves is the mean of the difference of log bytes over the divergences that both cover
(Bjøntegaard's measure, with a parabola through each curve, since the divergence of a single packing is a matter of luck
by some per cent of bytes). 0.87 means 13 % fewer bytes than nncodec at its defaults, at equal divergence. All streams
are of one format: nncodec decodes ours.

Needs torch. nncodec runs in an environment of its own, as it needs numpy < 2.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from codec_models import digits, prepare
from codec_vs_nncodec import Call, worker
from wattwerk.codec import pack, unpack
from wattwerk.codec.allocate_calibration import calibrated
from wattwerk.codec.allocate_sensitivity import allocate, data_free, sigmoid_divergence, softmax_divergence

HERE = Path(__file__).parent
PHOTOS_SEEN = ("astronaut.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg")
PHOTOS_UNSEEN = ("chelsea.png", "motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "ihc.png")
Arrays = dict[str, Any]
Curve = list[tuple[float, float]]  # bytes and divergence


class Subject:
    """A network with samples to calibrate with and others to judge by.

    Args:
        network: In evaluation mode.
        seen: Samples for the calibration.
        unseen: Samples for the judgement.
        logits: Of what the network returns.
        divergence: Of two such logits.
    """

    def __init__(
        self,
        network: nn.Module,
        seen: torch.Tensor,
        unseen: torch.Tensor,
        logits: Callable[[torch.Tensor], torch.Tensor] = lambda out: out,
        divergence: Callable[[Any, Any], float] = softmax_divergence,
    ) -> None:
        self.network, self.seen, self.unseen = network.eval(), seen, unseen
        self.logits, self.divergence = logits, divergence
        state = {name: value.numpy().copy() for name, value in network.state_dict().items()}
        self.arrays = {name: value for name, value in state.items() if value.dtype == np.float32 and value.ndim}
        self.reference = self.run(self.arrays, unseen)

    def run(self, arrays: Arrays, samples: torch.Tensor) -> Any:
        """Return the logits (samples, classes) of the network with these weights."""
        weights = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        self.network.load_state_dict(weights, strict=False)
        with torch.inference_mode():
            return self.logits(self.network(samples)).double().numpy()

    def judge(self, stream: bytes) -> tuple[float, float]:
        """Return a stream's bytes and divergence."""
        return len(stream), self.divergence(self.reference, self.run(unpack(stream), self.unseen))


def efficientnet(arrays: Arrays) -> Subject:
    """Return EfficientNet-lite0 as trained on ImageNet, with crops of photographs."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    load(network, arrays)
    return Subject(network, crops(PHOTOS_SEEN, 3), crops(PHOTOS_UNSEEN, 6))


def crops(names: Iterable[str], count: int) -> torch.Tensor:
    """Return square crops of photographs, 160 points wide, as the network wants them."""
    import skimage
    from PIL import Image

    rng, found = np.random.default_rng(0), []
    for name in names:
        photo = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
        for _ in range(count):
            side = int(rng.integers(min(photo.size) // 2, min(photo.size) + 1))
            left, top = (int(rng.integers(0, length - side + 1)) for length in photo.size)
            crop = photo.crop((left, top, left + side, top + side)).resize((160, 160))
            found.append((np.asarray(crop, np.float32).transpose(2, 0, 1) - 127) / 128)
    return torch.from_numpy(np.stack(found))


class Crepe(nn.Module):
    """The pitch tracker CREPE, as its weights have it. Source: Kim et al., CREPE, ICASSP 2018."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 1024, 128, 128, 128, 256, 512)
        for layer in range(1, 7):
            kernel, stride = (512, 4) if layer == 1 else (64, 1)
            convolution = nn.Conv2d(widths[layer - 1], widths[layer], (kernel, 1), (stride, 1))
            self.add_module(f"conv{layer}", convolution)
            self.add_module(f"conv{layer}_BN", nn.BatchNorm2d(widths[layer], eps=1e-3))
        self.classifier = nn.Linear(2048, 360)

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        """Return 360 logits of pitches for sounds (batch, 1024)."""
        x = sound[:, None, :, None]
        for layer in range(1, 7):
            x = nn.functional.pad(x, (0, 0, 254, 254) if layer == 1 else (0, 0, 31, 32))
            x = self.get_submodule(f"conv{layer}_BN")(torch.relu(self.get_submodule(f"conv{layer}")(x)))
            x = nn.functional.max_pool2d(x, (2, 1))
        logits: torch.Tensor = self.classifier(x.permute(0, 2, 1, 3).flatten(1))
        return logits


def crepe(arrays: Arrays) -> Subject:
    """Return CREPE with notes of random pitch, timbre and noise."""
    network = Crepe()
    load(network, arrays)
    return Subject(network, notes(32, 0), notes(16, 1), divergence=sigmoid_divergence)


def notes(count: int, seed: int) -> torch.Tensor:
    """Return standardised notes (count, 1024) at 16 kHz: harmonics that fall off, and noise."""
    rng, time = np.random.default_rng(seed), np.arange(1024) / 16000
    harmonics = np.arange(1, 12)[:, None]
    found = []
    for _ in range(count):
        pitch, slope = 50 * 2 ** rng.uniform(0, 4.5), rng.uniform(0.5, 2)
        tones = np.sin(2 * np.pi * harmonics * pitch * time + rng.uniform(0, 7, (11, 1)))
        note = np.sum(rng.random((11, 1)) / harmonics**slope * (harmonics * pitch < 8000) * tones, axis=0)
        note += rng.uniform(0, 0.5) * rng.standard_normal(1024)
        found.append((note - note.mean()) / note.std())
    return torch.tensor(np.array(found), dtype=torch.float32)


def small_cnn(arrays: Arrays) -> Subject:
    """Return the small network for digits, with digits that it was not trained with."""
    layers: list[nn.Module] = []
    for before, after in ((1, 48), (48, 96), (96, 192)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(192 * 4, 480), nn.ReLU(), nn.Linear(480, 10))
    load(network, arrays)
    return Subject(network, digits(64, 3)[0], digits(1000, 4)[0])


def load(network: nn.Module, arrays: Arrays) -> None:
    """Give a network its weights; only counters of batches may be missing."""
    missing, unexpected = network.load_state_dict({n: torch.from_numpy(v) for n, v in arrays.items()}, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing


#: Model -> how it is made, and the mean QPs that lead from nearly lossless to useless.
SUBJECTS = {
    "efficientnet-lite0": (efficientnet, range(-44, -23, 4)),
    "crepe": (crepe, range(-32, -7, 4)),
    "small-cnn": (small_cnn, range(-44, -23, 4)),
}


def methods(subject: Subject, theirs: Call, folder: Path, middle: float) -> dict[str, Callable[[int], bytes]]:
    """Return what is compared: name -> stream of a mean QP. The calibration happens in the middle of all QPs."""
    rule = data_free(subject.arrays)
    seen = calibrated(
        subject.arrays, lambda arrays: subject.run(arrays, subject.seen), middle, divergence=subject.divergence
    )

    def nncodec(qp: int, **options: Any) -> bytes:
        path = folder / "theirs.nnc"
        theirs("encode", out=str(path), options={"qp": qp, "dependent": True} | options)
        return path.read_bytes()

    def ours(sensitivities: dict[str, float], qp: int) -> bytes:
        return pack(subject.arrays, tensor_qp=allocate(sensitivities, subject.arrays, qp))

    return {
        "nncodec_uniform": nncodec,
        # it makes QPs coarser in proportion to themselves, so that the same qualities need finer ones to start from
        "nncodec_opt_qp": lambda qp: nncodec(round(qp * 1.2), opt_qp=True),
        "ours_uniform": lambda qp: pack(subject.arrays, qp=qp),
        "ours_data_free": partial(ours, rule),
        "ours_calibrated": partial(ours, seen),
    }


def size_ratio(curve: Curve, other: Curve, low: float = 0.0, high: float = np.inf) -> float | None:
    """Return the mean ratio of bytes, curve over other, at equal divergences from low to high that both cover."""
    fits, reach = [], [np.log(max(low, 1e-30)), np.log(high)]
    for points in (curve, other):
        sizes, divergences = np.log(np.array(points)).T
        fits.append(np.polynomial.Polynomial.fit(divergences, sizes, 2).integ())
        reach = [max(reach[0], divergences.min()), min(reach[1], divergences.max())]
    if reach[1] <= reach[0]:
        return None
    areas = [fit(reach[1]) - fit(reach[0]) for fit in fits]
    return round(float(np.exp((areas[0] - areas[1]) / (reach[1] - reach[0]))), 4)


def measure(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the record of a model: the curves, and the ratios to nncodec's two."""
    make, range_of_qps = SUBJECTS[model]
    qps = [qp + options.shift for qp in range_of_qps]
    with np.load(prepare(model, options.folder, sys.executable)) as file:
        subject = make({name: file[name] for name in file.files})
    curves: dict[str, Curve] = {}
    with tempfile.TemporaryDirectory() as name, worker("nncodec", options.nncodec_python) as theirs:
        arrays = Path(name) / "arrays.npz"
        np.savez(arrays, **subject.arrays)
        theirs("load", arrays=str(arrays))
        for method, encode in methods(subject, theirs, Path(name), float(np.mean(qps))).items():
            curves[method] = [subject.judge(encode(qp)) for qp in qps]
            print(model, method, curves[method], file=sys.stderr, flush=True)
    split = float(np.exp(np.mean(np.log([divergence for _, divergence in curves["nncodec_uniform"]]))))
    record: dict[str, Any] = {"model": model, "qps": qps, "low_divergences_below": split, "curves": curves}
    for peer in ("nncodec_uniform", "nncodec_opt_qp"):
        for method in curves:
            parts = {"": (0.0, np.inf), "_low": (0.0, split), "_high": (split, np.inf)}
            for part, (low, high) in parts.items():
                record[f"{method}_to_{peer}{part}_size_ratio"] = size_ratio(curves[method], curves[peer], low, high)
    return record


def table(record: dict[str, Any]) -> str:
    """Return a model's ratios as text."""
    lines = [f"{record['model']}: bytes at equal divergence (all, low, high divergences)"]
    for method in record["curves"]:
        for peer in ("nncodec_uniform", "nncodec_opt_qp"):
            ratios = [record[f"{method}_to_{peer}{part}_size_ratio"] for part in ("", "_low", "_high")]
            lines.append(
                f"  {method:16} to {peer:16} " + " ".join("    -" if r is None else f"{r:.3f}" for r in ratios)
            )
    return "\n".join(lines)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nncodec-python", required=True, help="a Python that has nncodec 2.1.3")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--shift", type=int, default=0, help="added to all QPs: other roundings, other luck")
    parser.add_argument("--folder", type=Path, default=HERE.parent / "build" / "codec-models", help="for the weights")
    options = parser.parse_args()
    records = [measure(model, options) for model in options.models]
    print(json.dumps(records, indent=1) if options.json else "\n".join(map(table, records)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
