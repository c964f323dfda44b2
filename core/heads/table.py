"""Heads: decoders that read UNet features instead of the predicted latent; their table, and one to copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ..backbone import Layers, Shapes
from ..errors import UserError
from .dpt import DPT, dpt_shapes
from .plain import PlainHead, plain_shapes
from .upernet import UPerNet, upernet_shapes
from .vitpose import ClassicHead, SimpleHead, classic_shapes, simple_shapes

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
    """The head of that name for weights of these shapes, still without them. UserError if they are another head's."""
    if name not in HEAD_KINDS:
        raise UserError(f"Unknown head {name!r}: this version knows {', '.join(HEAD_KINDS)}; update the pack.")
    try:
        return HEAD_KINDS[name](shapes, layers)
    except KeyError as error:
        raise UserError(f"The weights of {name} lack {error}: they are another head's; get them again.") from None


def untrained_head(name: str, widths: Sequence[int], width: int, outputs: int) -> nn.Module:
    """A new head on a UNet of these widths. UserError if nothing is known of heads of that name."""
    if name not in NEW_HEADS:
        raise UserError(f"There is no head {name!r} to train: take one of {', '.join(NEW_HEADS)}.")
    return build_head(name, NEW_HEADS[name](widths, width, outputs))
