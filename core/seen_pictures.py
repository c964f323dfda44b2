"""The pictures that were encoded last, with their latents, for the next node that perceives one of them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn

PICTURES = 4
LARGEST = 2**25
"""Bytes of a picture that is kept: 1672x1672 in single precision."""


class Seen(NamedTuple):
    """A picture, what encoded it, and what came of it."""

    network: ref[nn.Module]
    how: Hashable
    picture: Tensor
    latent: Tensor


class SeenPictures:
    """Found by content, number by number, so that it does not matter which node brings a picture.

    No more than PICTURES are kept, of LARGEST bytes each, in the computer's memory and never in a card's.
    """

    def __init__(self) -> None:
        self.held: list[Seen] = []

    def latent(self, network: nn.Module, how: Hashable, picture: Tensor) -> Tensor | None:
        """What the network made of the very picture, or None. how: all that it depends on besides."""
        for seen in self.held:
            if seen.network() is network and seen.how == how and torch.equal(seen.picture, picture):
                return seen.latent
        return None

    def keep(self, network: nn.Module, how: Hashable, picture: Tensor, latent: Tensor) -> None:
        """Nobody may write into either afterwards."""
        if picture.device.type == "cpu" and picture.nbytes <= LARGEST:
            alive = [seen for seen in self.held if seen.network() is not None]
            self.held = [Seen(ref(network), how, picture, latent.cpu()), *alive][:PICTURES]
