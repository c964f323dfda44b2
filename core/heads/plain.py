"""The plain head: the least that a head can be."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..backbone import Features, Layers, Shapes
from .upernet import resized


class PlainHead(nn.Module):
    """The least that a head can be. Copy it to write your own: a class, its shapes, and a row of heads.table.HEADS.

    Out: (B, C, H, W) for finest features of H x W.
    """

    def __init__(self, shapes: Shapes, layers: Layers = nn) -> None:
        """shapes: of the state dict, from which every width is read, so that a file needs no config beside its weights.

        Take layers with weights from `layers`, never from nn: a host then moves and casts them as it does its own.
        """
        super().__init__()
        width = shapes["predict.weight"][1]
        inputs = [shapes[f"reduce.{i}.weight"][1] for i in range(4)]
        self.reduce = nn.ModuleList(layers.Conv2d(channels, width, 1) for channels in inputs)
        # a UNet's features have no range of their own; not BatchNorm, see core.heads.upernet.Convolution
        self.norm = layers.GroupNorm(1, width)
        self.mix = layers.Conv2d(width, width, 3, padding=1)
        self.predict = layers.Conv2d(width, shapes["predict.weight"][0], 3, padding=1)

    def forward(self, features: Features) -> Tensor:
        # deepest first; sizes need not be halves of each other, so that each is brought to the finest as it is
        *_, finest = features
        x = sum((resized(reduce(level), finest) for reduce, level in zip(self.reduce, features)), finest.new_zeros(()))
        x = F.relu(self.mix(F.relu(self.norm(x))))
        # no activation at the end: the recipe's codec knows which range the values have
        return self.predict(x)


def plain_shapes(widths: Sequence[int], width: int, outputs: int) -> Shapes:
    """Of a new head, as much as its builder reads: features of these widths, finest first, and what comes out."""
    inputs = {f"reduce.{i}.weight": (width, channels, 1, 1) for i, channels in enumerate(reversed(widths))}
    return {**inputs, "predict.weight": (outputs, width, 3, 3)}
