"""YOLOv9-C as a torch module: GELAN backbone and neck, decoupled anchor-free head over distributions of distances.

The inference form: without the auxiliary reversible branch that only guides the training, and with each
re-parameterisable convolution (a 3x3 and a 1x1 branch while training) as the one 3x3 convolution that it is fused into.
Normalisation layers stay separate. 25.3 million parameters, 102 GFLOPs at 640 x 640.

Source: Wang, Yeh, Liao, YOLOv9: Learning What You Want to Learn Using Programmable Gradient Information, ECCV 2024,
section 4.2 and appendix A; head: Li et al., Generalized Focal Loss, NeurIPS 2020.
"""

# mypy: allow-subclassing-any, no-warn-return-any
# torch is not followed by mypy, so that its modules are of the type Any

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES: Final = 80
BINS: Final = 16  # each side of a box is the mean of a distribution over this many distances
STRIDES: Final = (8, 16, 32)
_PRIOR: Final = 0.01  # chance of an object at a place before anything is seen, as in focal loss


class ConvUnit(nn.Sequential):
    """Convolution, normalisation and SiLU; the padding keeps the size at stride 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, the first of them re-parameterised, around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fused = ConvUnit(width, width, 3)
        self.conv = ConvUnit(width, width, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, width, height, width) to the same shape."""
        return features + self.conv(self.fused(features))


class CrossStage(nn.Module):
    """Cross-stage partial block: half of the width goes through the bottleneck, half goes past it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.deep = nn.Sequential(ConvUnit(inputs, outputs // 2), Bottleneck(outputs // 2))
        self.past = ConvUnit(inputs, outputs // 2)
        self.merge = ConvUnit(outputs, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, outputs, height, width)."""
        return self.merge(torch.cat((self.deep(features), self.past(features)), 1))


class AggregationBlock(nn.Module):
    """Generalised efficient layer aggregation: a chain of cross-stage blocks, every link of which is merged at the end.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        split: Channels after the first convolution; half of them start the chain.
        link: Channels of each link.
    """

    def __init__(self, inputs: int, outputs: int, split: int, link: int) -> None:
        super().__init__()
        self.split = ConvUnit(inputs, split)
        self.first = nn.Sequential(CrossStage(split // 2, link), ConvUnit(link, link, 3))
        self.second = nn.Sequential(CrossStage(link, link), ConvUnit(link, link, 3))
        self.merge = ConvUnit(split + 2 * link, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, outputs, height, width)."""
        links = list(self.split(features).chunk(2, 1))
        links.append(self.first(links[-1]))
        links.append(self.second(links[-1]))
        return self.merge(torch.cat(links, 1))


class Downsampler(nn.Module):
    """Halve the resolution by two routes: a strided convolution for one half of the channels, pooling for the other."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.strided = ConvUnit(inputs // 2, outputs // 2, 3, 2)
        self.pooled = ConvUnit(inputs // 2, outputs // 2)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, outputs, height / 2, width / 2)."""
        strided, pooled = functional.avg_pool2d(features, 2, 1).chunk(2, 1)
        pooled = functional.max_pool2d(pooled, 3, 2, 1)
        return torch.cat((self.strided(strided), self.pooled(pooled)), 1)


class PyramidPooling(nn.Module):
    """Spatial pyramid pooling in the aggregation form: three poolings in a row, every one merged at the end."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.reduce = ConvUnit(inputs, width)
        self.merge = ConvUnit(4 * width, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, outputs, height, width)."""
        links = [self.reduce(features)]
        for _ in range(3):
            links.append(functional.max_pool2d(links[-1], 5, 1, 2))
        return self.merge(torch.cat(links, 1))


class Backbone(nn.Module):
    """GELAN-C: features at an eighth, a sixteenth and a thirty-second of the image's size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvUnit(3, 64, 3, 2), ConvUnit(64, 128, 3, 2), AggregationBlock(128, 256, 128, 64))
        self.eighth = nn.Sequential(Downsampler(256, 256), AggregationBlock(256, 512, 256, 128))
        self.sixteenth = nn.Sequential(Downsampler(512, 512), AggregationBlock(512, 512, 512, 256))
        self.last = nn.Sequential(Downsampler(512, 512), AggregationBlock(512, 512, 512, 256))
        self.pyramid = PyramidPooling(512, 512, 256)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (batch, 3, height, width) to three maps of 512 channels."""
        eighth = self.eighth(self.stem(pixel_values))
        sixteenth = self.sixteenth(eighth)
        return eighth, sixteenth, self.pyramid(self.last(sixteenth))


class Neck(nn.Module):
    """Path aggregation: context flows up to the fine maps and detail back down to the coarse ones."""

    def __init__(self) -> None:
        super().__init__()
        self.up_sixteenth = AggregationBlock(1024, 512, 512, 256)
        self.up_eighth = AggregationBlock(1024, 256, 256, 128)
        self.down_eighth = Downsampler(256, 256)
        self.down_sixteenth = AggregationBlock(768, 512, 512, 256)
        self.down_coarse = Downsampler(512, 512)
        self.coarse = AggregationBlock(1024, 512, 512, 256)

    def forward(self, eighth: Tensor, sixteenth: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return maps of 256, 512 and 512 channels at the three resolutions."""
        middle = self.up_sixteenth(torch.cat((_doubled(coarse), sixteenth), 1))
        fine = self.up_eighth(torch.cat((_doubled(middle), eighth), 1))
        middle = self.down_sixteenth(torch.cat((self.down_eighth(fine), middle), 1))
        return fine, middle, self.coarse(torch.cat((self.down_coarse(middle), coarse), 1))


def _doubled(features: Tensor) -> Tensor:
    return functional.interpolate(features, scale_factor=2.0, mode="nearest")


class Branch(nn.Sequential):
    """One task at one resolution: two 3x3 convolutions and a linear one."""

    def __init__(self, inputs: int, width: int, outputs: int, groups: int = 1) -> None:
        super().__init__()
        self.first = ConvUnit(inputs, width, 3)
        self.second = ConvUnit(width, width, 3, groups=groups)
        self.predict = nn.Conv2d(width, outputs, 1, groups=groups)


class Head(nn.Module):
    """Decoupled head: boxes and classes are predicted by separate branches, for every place, without anchor boxes."""

    def __init__(self, widths: tuple[int, ...], image_size: int) -> None:
        super().__init__()
        self.box = nn.ModuleList(Branch(width, 4 * BINS, 4 * BINS, groups=4) for width in widths)
        self.classes = nn.ModuleList(Branch(width, widths[0], CLASSES) for width in widths)
        for branch in self.classes:
            nn.init.constant_(branch.predict.bias, -math.log((1 - _PRIOR) / _PRIOR))
        centres, strides = _places(image_size)
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("strides", strides, persistent=False)
        self.register_buffer("distances", torch.arange(float(BINS)), persistent=False)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return ``boxes`` (batch, 4, places): centre and size in pixels; ``scores`` (batch, 80, places) in [0, 1]."""
        box = torch.cat([branch(features).flatten(2) for branch, features in zip(self.box, maps, strict=True)], 2)
        scores = torch.cat(
            [branch(features).flatten(2) for branch, features in zip(self.classes, maps, strict=True)], 2
        )
        sides = box.unflatten(1, (4, BINS)).permute(0, 3, 1, 2).softmax(-1) @ self.distances  # (batch, places, 4)
        before, after = sides.transpose(1, 2).chunk(2, 1)
        centre, size = self.centres + (after - before) / 2, before + after
        return torch.cat((centre, size), 1) * self.strides, scores.sigmoid()


def _places(image_size: int) -> tuple[Tensor, Tensor]:
    """Return the centres (2, places) of all cells, in cells, and the cells' sizes (1, places), in pixels."""
    centres, strides = [], []
    for stride in STRIDES:
        cells = torch.arange(image_size // stride) + 0.5
        rows, columns = torch.meshgrid(cells, cells, indexing="ij")
        centres.append(torch.stack((columns.flatten(), rows.flatten())))
        strides.append(torch.full((1, rows.numel()), float(stride)))
    return torch.cat(centres, 1), torch.cat(strides, 1)


class YoloV9C(nn.Module):
    """The whole detector for square images of a fixed size."""

    def __init__(self, image_size: int = 640) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.neck = Neck()
        self.head = Head((256, 512, 512), image_size)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (batch, 3, size, size) to boxes (batch, 4, places) and scores (batch, 80, places)."""
        return self.head(self.neck(*self.backbone(pixel_values)))


def build() -> nn.Module:
    """Build YOLOv9-C for 640 x 640 with random weights, in eval mode."""
    return YoloV9C().eval()
