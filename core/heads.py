"""Heads: decoders that read UNet features instead of the predicted latent; their table, and one to copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .architecture import Shapes
from .backbone import Features, Layers
from .dpt import DPT, dpt_shapes
from .keypoint_heads import ClassicHead, SimpleHead, classic_shapes, simple_shapes
from .upernet import UPerNet, resized, upernet_shapes


class PlainHead(nn.Module):
    """The least that a head can be. Copy it to write your own: a class, its shapes, and a row in each table below.

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
        # a UNet's features have no range of their own; not BatchNorm, see core.upernet.Convolution
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


HEAD_KINDS: dict[str, Callable[[Shapes, Layers], nn.Module]] = {
    "dpt_head_identity": lambda shapes, layers: DPT(shapes, layers),
    "dpt_head": lambda shapes, layers: DPT(shapes, layers, positive=True),
    "upernet": UPerNet,
    "plain": PlainHead,
    "vitpose_classic": ClassicHead,
    "vitpose_simple": SimpleHead,
}
"""What a recipe's `head` may name."""

NEW_HEADS: dict[str, Callable[[Sequence[int], int, int], Shapes]] = {
    "dpt_head_identity": dpt_shapes,
    "dpt_head": dpt_shapes,
    "upernet": upernet_shapes,
    "plain": plain_shapes,
    "vitpose_classic": classic_shapes,
    "vitpose_simple": simple_shapes,
}
"""What a trainer may begin with: (widths of the UNet's levels, the head's own width, channels out) -> shapes."""


def build_head(name: str, shapes: Shapes, layers: Layers = nn) -> nn.Module:
    """The head of that name for weights of these shapes, still without them. ValueError if they are another head's."""
    if name not in HEAD_KINDS:
        raise ValueError(f"Unknown head {name!r}: this version knows {', '.join(HEAD_KINDS)}; update the pack.")
    try:
        return HEAD_KINDS[name](shapes, layers)
    except KeyError as error:
        raise ValueError(f"The weights of {name} lack {error}: they are another head's; get them again.") from None


def untrained_head(name: str, widths: Sequence[int], width: int, outputs: int) -> nn.Module:
    """A new head on a UNet of these widths. ValueError if nothing is known of heads of that name."""
    if name not in NEW_HEADS:
        raise ValueError(f"There is no head {name!r} to train: take one of {', '.join(NEW_HEADS)}.")
    return build_head(name, NEW_HEADS[name](widths, width, outputs))
