"""UPerNet: the segmentation head of Xiao et al. 2018 (Unified Perceptual Parsing), on up-block features."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone import Features, Layers, Shapes

POOL_SCALES = (1, 2, 3, 6)
"""Cells along a side to which the deepest features are pooled (Zhao et al. 2017)."""
GROUP = 16
"""Channels that a norm looks at together."""


class Convolution(nn.Module):
    """Convolution, norm, ReLU.

    The paper's BatchNorm keeps averages over batches, which are worth little where one or a few pictures fit into
    memory, and hosts have no such layer to move and cast. GroupNorm computes the same in training and in inference.
    """

    def __init__(self, inputs: int, width: int, kernel: int, layers: Layers) -> None:
        super().__init__()
        self.conv = layers.Conv2d(inputs, width, kernel, padding=kernel // 2, bias=False)
        self.norm = layers.GroupNorm(gcd(width, max(width // GROUP, 1)), width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Pooling(nn.Module):
    """Pyramid pooling: the features beside their averages over ever smaller parts of the picture."""

    def __init__(self, inputs: int, width: int, layers: Layers) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Convolution(inputs, width, 1, layers) for _ in POOL_SCALES)
        self.fuse = Convolution(inputs + width * len(POOL_SCALES), width, 3, layers)

    def forward(self, x: Tensor) -> Tensor:
        pooled = (branch(F.adaptive_avg_pool2d(x, scale)) for branch, scale in zip(self.branches, POOL_SCALES))
        return self.fuse(torch.cat([x, *(resized(part, x) for part in pooled)], 1))


class UPerNet(nn.Module):
    """Pyramid pooling of the deepest features, then a feature pyramid up to the finest, all levels read together.

    Out: (B, C, 2 H, 2 W) for finest features of H x W, a quarter of the picture's size as in the paper: class scores
    as they are, or C channels of no fixed range.
    """

    def __init__(self, shapes: Shapes, layers: Layers = nn) -> None:
        """shapes: of the state dict."""
        super().__init__()
        fine, *inputs = (shapes[f"laterals.{i}.conv.weight"][1] for i in range(3))
        width, deepest = shapes["pooling.branches.0.conv.weight"][:2]
        self.finest = layers.Conv2d(fine, fine, 3, padding=1)
        self.pooling = Pooling(deepest, width, layers)
        # finest first, as UNets count their levels
        self.laterals = nn.ModuleList(Convolution(channels, width, 1, layers) for channels in (fine, *inputs))
        self.smooth = nn.ModuleList(Convolution(width, width, 3, layers) for _ in self.laterals)
        self.fuse = Convolution(width * 4, width, 3, layers)
        self.classify = layers.Conv2d(width, shapes["classify.weight"][0], 1)

    def forward(self, features: Features) -> Tensor:
        deepest, deep, middle, fine = features
        # the two finest levels of a Stable Diffusion UNet are of one size: as in GenPercept's DPT, this makes a pyramid
        fine = self.finest(F.interpolate(fine, scale_factor=2, mode="nearest"))
        x = self.pooling(deepest)
        levels = [x]
        for number, level in reversed(list(enumerate((fine, middle, deep)))):
            x = self.laterals[number](level) + resized(x, level)
            levels.append(self.smooth[number](x))
        return self.classify(self.fuse(torch.cat([resized(level, fine) for level in levels], 1)))


def resized(x: Tensor, like: Tensor) -> Tensor:
    """To the size of other features."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def upernet_shapes(widths: Sequence[int], width: int, outputs: int) -> Shapes:
    """Of a new head, as much as its builder reads: features of these widths, finest first, and what comes out."""
    *laterals, deepest = widths
    return {
        **{f"laterals.{i}.conv.weight": (width, channels, 1, 1) for i, channels in enumerate(laterals)},
        "pooling.branches.0.conv.weight": (width, deepest, 1, 1),
        "classify.weight": (outputs, width, 1, 1),
    }
