"""Keypoint heads: the classic and the simple decoder of ViTPose (Xu et al. 2022) on up-block features.

Both read one map at 1/16 of the picture, as after a vision transformer, and give K heatmaps at 1/4. That map is made of
all four levels here, for the finest ones of a UNet hold what the deep ones have lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone import Features, Layers, Shapes

GROUPS = 32
STRIDES = (1, 1, 2, 2)
"""What brings each level, deepest first, to half the latent's size; the deepest one is doubled before."""
EPSILON = 1e-5
"""Of ViTPose's BatchNorm, which is PyTorch's."""


def norm(width: int, layers: Layers) -> nn.Module:
    """ViTPose has BatchNorm here: see `without_batch_norm`, and heads.upernet.Convolution for why new heads do not."""
    return layers.GroupNorm(gcd(width, GROUPS), width)


class Lateral(nn.Module):
    """All levels as one map of a single width at half the latent's size, odd sizes rounded up."""

    def __init__(self, inputs: Sequence[int], width: int, layers: Layers) -> None:
        """inputs: widths, deepest first."""
        super().__init__()
        self.convs = nn.ModuleList(
            layers.Conv2d(channels, width, stride, stride=stride) for channels, stride in zip(inputs, STRIDES)
        )
        # one for each level: their sizes differ a hundredfold
        self.norms = nn.ModuleList(norm(width, layers) for _ in inputs)

    def forward(self, features: Features) -> Tensor:
        deepest, deep, middle, fine = features
        doubled = F.interpolate(deepest, scale_factor=2, mode="bilinear", align_corners=False)
        levels = (doubled[..., : deep.shape[-2], : deep.shape[-1]], deep, _even(middle), _even(fine))
        brought = [norm(conv(level)) for conv, norm, level in zip(self.convs, self.norms, levels)]
        return torch.stack(brought).sum(0)


def _even(x: Tensor) -> Tensor:
    """With the last row and column once more where their number is odd, so that pairs of them come out even."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, width % 2, 0, height % 2), mode="replicate") if height % 2 or width % 2 else x


class ClassicHead(nn.Module):
    """Two transposed convolutions that double the size each, then a 1x1 convolution; names as ViTPose's."""

    def __init__(self, shapes: Shapes, layers: Layers = nn) -> None:
        """shapes: of the state dict."""
        super().__init__()
        width = shapes["deconv_layers.0.weight"][0]
        first, second = (shapes[f"deconv_layers.{i}.weight"][1] for i in (0, 3))
        normed = "deconv_layers.1.weight" in shapes
        self.lateral = Lateral(_lateral_inputs(shapes), width, layers)
        # the numbers count the activations too, which have no weights
        self.deconv_layers = nn.ModuleDict(
            {
                "0": layers.ConvTranspose2d(width, first, 4, stride=2, padding=1, bias=not normed),
                "3": layers.ConvTranspose2d(first, second, 4, stride=2, padding=1, bias=not normed),
                **({"1": norm(first, layers), "4": norm(second, layers)} if normed else {}),
            }
        )
        self.final_layer = layers.Conv2d(second, shapes["final_layer.weight"][0], 1)

    def forward(self, features: Features) -> Tensor:
        x = F.relu(self.lateral(features))
        for number in (0, 3):
            x = self.deconv_layers[str(number)](x)
            place = str(number + 1)
            x = F.relu(self.deconv_layers[place](x) if place in self.deconv_layers else x)
        return _cropped(self.final_layer(x), features)


class SimpleHead(nn.Module):
    """ReLU, four times the size by interpolation, then a 3x3 convolution; names as ViTPose's."""

    def __init__(self, shapes: Shapes, layers: Layers = nn) -> None:
        """shapes: of the state dict."""
        super().__init__()
        outputs, width = shapes["final_layer.weight"][:2]
        self.lateral = Lateral(_lateral_inputs(shapes), width, layers)
        self.final_layer = layers.Conv2d(width, outputs, 3, padding=1)

    def forward(self, features: Features) -> Tensor:
        x = F.interpolate(F.relu(self.lateral(features)), scale_factor=4, mode="bilinear", align_corners=False)
        return _cropped(self.final_layer(x), features)


def _lateral_inputs(shapes: Shapes) -> list[int]:
    """Widths of the levels, deepest first."""
    return [shapes[f"lateral.convs.{i}.weight"][1] for i in range(len(STRIDES))]


def _cropped(heatmaps: Tensor, features: Features) -> Tensor:
    """Twice the latent's size, where that was odd and rounded up: a heatmap's cell is a quarter of 8 x 8 pixels."""
    height, width = features[-1].shape[-2:]
    return heatmaps[..., : 2 * height, : 2 * width]


def classic_shapes(widths: Sequence[int], width: int, outputs: int) -> Shapes:
    """Of a new head, as much as its builder reads: features of these widths, finest first, and what comes out."""
    deconvolutions = {f"deconv_layers.{i}.weight": (width, width, 4, 4) for i in (0, 3)}
    norms = {f"deconv_layers.{i}.weight": (width,) for i in (1, 4)}
    return {**_lateral_shapes(widths, width), **deconvolutions, **norms, "final_layer.weight": (outputs, width, 1, 1)}


def simple_shapes(widths: Sequence[int], width: int, outputs: int) -> Shapes:
    """The same of the other head."""
    return {**_lateral_shapes(widths, width), "final_layer.weight": (outputs, width, 3, 3)}


def _lateral_shapes(widths: Sequence[int], width: int) -> dict[str, tuple[int, ...]]:
    """widths: of the UNet's levels, finest first.

    Convolution i reads what up block i gives, which is as wide as the UNet's i-th level from the deepest,
    widths[-1 - i]: the upsampler at the block's end doubles the size and keeps the width.
    """
    return {
        f"lateral.convs.{i}.weight": (width, channels, stride, stride)
        for i, (channels, stride) in enumerate(zip(reversed(widths), STRIDES))
    }


def without_batch_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict whose BatchNorms, such as ViTPose's, have become part of the transposed convolutions before them.

    What inference computes stays the same, and no statistics are left that a host could not move.
    """
    kept = dict(tensors)
    for name in [name for name in tensors if name.endswith(".running_mean")]:
        place = name.removesuffix(".running_mean")
        stem, _, number = place.rpartition(".")
        before = f"{stem}.{int(number) - 1}"
        weight, bias, mean, variance = (
            kept.pop(f"{place}.{part}") for part in ("weight", "bias", "running_mean", "running_var")
        )
        kept.pop(f"{place}.num_batches_tracked", None)
        factor = weight / (variance + EPSILON).sqrt()
        kept[f"{before}.weight"] = kept[f"{before}.weight"] * factor[:, None, None]
        kept[f"{before}.bias"] = (kept.get(f"{before}.bias", torch.zeros_like(mean)) - mean) * factor + bias
    return kept
