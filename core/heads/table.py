"""Heads: decoders that read UNet features instead of the predicted latent; their table, and one to copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from ..backbone import Layers, Shapes
from ..errors import UserError
from .dpt import DPT, dpt_shapes
from .plain import PlainHead, plain_shapes
from .sdpose import SDPoseHead, sdpose_shapes
from .upernet import UPerNet, upernet_shapes
from .vitpose import ClassicHead, SimpleHead, classic_shapes, simple_shapes


class HeadKind(NamedTuple):
    """A row: heads that are built alike."""

    build: Callable[[Shapes, Layers], nn.Module]
    """(shapes of the weights, where to take layers from) -> the head, still without them."""
    shapes: Callable[[Sequence[int], int, int], Shapes]
    """(widths of the UNet's levels, the head's own width, channels out) -> a new head's, as far as `build` reads."""


HEADS: dict[str, HeadKind] = {
    "dpt_head_identity": HeadKind(lambda shapes, layers: DPT(shapes, layers), dpt_shapes),
    "dpt_head": HeadKind(lambda shapes, layers: DPT(shapes, layers, positive=True), dpt_shapes),
    "upernet": HeadKind(UPerNet, upernet_shapes),
    "plain": HeadKind(PlainHead, plain_shapes),
    "vitpose_classic": HeadKind(ClassicHead, classic_shapes),
    "vitpose_simple": HeadKind(SimpleHead, simple_shapes),
    "sdpose": HeadKind(SDPoseHead, sdpose_shapes),
}
"""What a recipe's `head` may name, and a trainer may begin with."""


def build_head(name: str, shapes: Shapes, layers: Layers = nn) -> nn.Module:
    """The head of that name for weights of these shapes, still without them. UserError if they are another head's."""
    if name not in HEADS:
        raise UserError(f"Unknown head {name!r}: this version knows {', '.join(HEADS)}; update the pack.")
    try:
        return HEADS[name].build(shapes, layers)
    except KeyError as error:
        raise UserError(f"The weights of {name} lack {error}: they are another head's; get them again.") from None


def untrained_head(name: str, widths: Sequence[int], width: int, outputs: int) -> nn.Module:
    """A new head on a UNet of these widths. UserError if nothing is known of heads of that name."""
    if name not in HEADS:
        raise UserError(f"There is no head {name!r} to train: take one of {', '.join(HEADS)}.")
    return build_head(name, HEADS[name].shapes(widths, width, outputs))
