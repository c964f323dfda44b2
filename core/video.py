"""Video: what one frame's prediction takes over from the frame before."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .backbone import Autoencoder
from .errors import UserError
from .pipeline import Perceiver

ALIKE = 0.3
"""Latents of the picture, whose deviation is about 1, differ by less where nothing moved."""


class Blending:
    """An Autoencoder for frames in their order, which decodes a mean of each answer and those before.

    Where the picture changed the answer stands alone, so that what moves leaves no ghost. A frame of another size
    begins anew.
    """

    def __init__(self, full: Autoencoder, share: float) -> None:
        """share: 0..1, of the frames before in the mean."""
        self.full, self.share = full, share
        self.scaling_factor = full.scaling_factor
        self._seen: Tensor | None = None
        self._still: Tensor | None = None
        self._answer: Tensor | None = None

    def encode(self, image: Tensor) -> Tensor:
        """Of frames, the next; also how much each cell is as it was, for the decoding."""
        latent = self.full.encode(image)
        whole = (
            latent
            if self._seen is None or self._seen.shape[1:] != latent.shape[1:]
            else torch.cat([self._seen, latent])
        )
        change = whole.diff(dim=0).square().mean(1, keepdim=True)
        first = torch.zeros_like(latent[:1, :1]) if len(whole) == len(latent) else None
        still = torch.exp(-change / ALIKE**2)
        self._still = still if first is None else torch.cat([first, still])
        self._seen = latent[-1:]
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """The answers of the frames that were encoded last."""
        assert self._still is not None
        made = []
        for answer, still in zip(latent.split(1), self._still.split(1)):
            before = answer if self._answer is None or self._answer.shape != answer.shape else self._answer
            self._answer = torch.lerp(answer, before, self.share * still)
            made.append(self._answer)
        return self.full.decode(torch.cat(made))


def blending(perceiver: Perceiver, share: float) -> Perceiver:
    """The perceiver for the frames of one video: each answer is mixed, in the VAE's latents, with those before.

    share: 0..1, of the frames before; 0 is the perceiver as it was. UserError for other numbers, and for networks
    whose answer is no latent, or several.
    """
    check_share(share)
    if share == 0:
        return perceiver
    recipe = perceiver.recipe
    if perceiver.head is not None:
        raise UserError(
            f"{recipe.id} answers by a head and not in latents, which alone can be blended: set blend to 0."
        )
    if recipe.ensemble_size > 1:
        raise UserError(f"{recipe.id} makes an ensemble of each frame: blend its frames with ensemble_size=1.")
    return replace(perceiver, autoencoder=Blending(perceiver.needs_autoencoder(), share))


def check_share(share: float, tile: int = 0) -> None:
    """UserError for a share of the frames before that is none, and for frames in tiles, of which none was before."""
    if not 0 <= share < 1:
        raise UserError(f"blend={share:g} is not from 0 to below 1: it is the share of the frames before.")
    if share and tile:
        raise UserError(f"blend={share:g} and tile={tile}: tiles cannot be blended over time; set one of them to 0.")
