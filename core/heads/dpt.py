"""DPT: the dense prediction head of Ranftl et al. 2021, on up-block features as GenPercept runs it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone import Features, Layers, Shapes


class Residual(nn.Module):
    """Pre-activation residual unit of two 3x3 convolutions (RefineNet's, as in Ranftl et al. 2021, sec. 3)."""

    def __init__(self, width: int, layers: Layers) -> None:
        super().__init__()
        self.convolution1 = layers.Conv2d(width, width, 3, padding=1, bias=False)
        self.convolution2 = layers.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution2(F.relu(self.convolution1(F.relu(x))))


class Fusion(nn.Module):
    """Add the next finer features, refine, double the size."""

    def __init__(self, width: int, layers: Layers, first: bool) -> None:
        super().__init__()
        self.projection = layers.Conv2d(width, width, 1)
        if not first:
            self.residual_layer1 = Residual(width, layers)
        self.residual_layer2 = Residual(width, layers)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        if finer is not None:
            if finer.shape[-2:] != x.shape[-2:]:
                finer = F.interpolate(finer, x.shape[-2:], mode="bilinear", align_corners=False)
            x = x + self.residual_layer1(finer)
        x = F.interpolate(self.residual_layer2(x), scale_factor=2, mode="bilinear", align_corners=True)
        return self.projection(x)


class FusionStage(nn.Module):
    """Features of one width, deepest first, into one map."""

    def __init__(self, width: int, layers: Layers, levels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Fusion(width, layers, first=level == 0) for level in range(levels))

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        deepest, *finer = pyramid
        first, *rest = self.layers
        x = first(deepest)
        for fuse, level in zip(rest, finer):
            x = fuse(x, level)
        return x


class Neck(nn.Module):
    """Features of several widths brought to one, then fused."""

    def __init__(self, inputs: list[int], width: int, layers: Layers) -> None:
        """inputs: widths, finest first."""
        super().__init__()
        self.convs = nn.ModuleList(layers.Conv2d(channels, width, 3, padding=1, bias=False) for channels in inputs)
        self.fusion_stage = FusionStage(width, layers, len(inputs))

    def forward(self, features: list[Tensor]) -> Tensor:
        pyramid = [conv(level) for conv, level in zip(self.convs, features)]
        return self.fusion_stage(pyramid[::-1])


class Prediction(nn.Module):
    """Fused features to a map of twice their size."""

    def __init__(self, width: int, middle: int, channels: int, layers: Layers) -> None:
        super().__init__()
        self.projection = layers.Conv2d(width, width, 3, padding=1)
        # the published indices count two modules without weights
        self.head = nn.ModuleDict(
            {
                "0": layers.Conv2d(width, width // 2, 3, padding=1),
                "2": layers.Conv2d(width // 2, middle, 3, padding=1),
                "4": layers.Conv2d(middle, channels, 1),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.head["0"](F.relu(self.projection(x)))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        return self.head["4"](F.relu(self.head["2"](x)))


class DPT(nn.Module):
    """GenPercept's DPT head on up-block features; its module names are those of the published weights.

    Features, deepest first: (1280 at 1/4 of the latent, 1280 at 1/2, 640 at 1, 320 at 1), each after its upsampler.
    Out: (B, C, 32 H, 32 W) for deepest features of H x W, of no fixed range.
    """

    def __init__(self, shapes: Shapes, layers: Layers = nn, positive: bool = False) -> None:
        """shapes: of the published state dict; positive: end in a ReLU, as the head that is called dpt_head."""
        super().__init__()
        width = shapes["neck.convs.0.weight"][0]
        inputs = [shapes[f"neck.convs.{i}.weight"][1] for i in range(4)]
        middle, channels = shapes["head.head.2.weight"][0], shapes["head.head.4.weight"][0]
        self.feature_upsample_0 = nn.ModuleDict({"conv": layers.Conv2d(inputs[0], inputs[0], 3, padding=1)})
        self.neck = Neck(inputs, width, layers)
        self.head = Prediction(width, middle, channels, layers)
        self.positive = positive

    def forward(self, features: Features) -> Tensor:
        deepest, deep, middle, fine = features
        fine = self.feature_upsample_0["conv"](F.interpolate(fine, scale_factor=2, mode="nearest"))
        x = self.head(self.neck([fine, middle, deep, deepest]))
        return F.relu(x) if self.positive else x


def dpt_shapes(widths: Sequence[int], width: int, outputs: int) -> Shapes:
    """Of a new head, as much as its builder reads: features of these widths, finest first, and what comes out."""
    middle = max(width // 8, 1)
    return {
        **{f"neck.convs.{i}.weight": (width, channels, 3, 3) for i, channels in enumerate(widths)},
        "head.head.2.weight": (middle, width // 2, 3, 3),
        "head.head.4.weight": (outputs, middle, 1, 1),
    }
