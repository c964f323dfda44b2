"""An Autoencoder whose halves may be light, and a perceiver with such a one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from .backbone import Autoencoder
from .errors import UserError
from .generations import CUSTOM, latent_space
from .pipeline import Perceiver

Half = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Halves:
    """An Autoencoder of which a half or both are light."""

    full: Autoencoder | None
    """Whose halves stand where there is no light one."""
    light_encoder: Half | None = None
    light_decoder: Half | None = None
    base: str = CUSTOM
    """Whose latents they are, where no VAE is there to say it."""

    @property
    def scaling_factor(self) -> float:
        return latent_space(self.base).scaling_factor if self.full is None else self.full.scaling_factor

    def encode(self, image: Tensor) -> Tensor:
        return (self.light_encoder or self.needs_full().encode)(image)

    def decode(self, latent: Tensor) -> Tensor:
        return (self.light_decoder or self.needs_full().decode)(latent)

    def needs_full(self) -> Autoencoder:
        """The VAE. UserError where there is none."""
        if self.full is None:
            missing = "encoder" if self.light_encoder is None else "decoder"
            raise UserError(f"The checkpoint brings no VAE of its own: connect one, or take a light {missing} as well.")
        return self.full


def with_light(perceiver: Perceiver, encoder: Half | None, decoder: Half | None) -> Perceiver:
    """With light halves in place of the VAE's; the same perceiver where there are none."""
    if encoder is None and decoder is None:
        return perceiver
    return replace(perceiver, autoencoder=Halves(perceiver.autoencoder, encoder, decoder, perceiver.recipe.base))


def with_full(perceiver: Perceiver, full: Autoencoder) -> Perceiver:
    """With another VAE, light halves left as they are."""
    held = perceiver.autoencoder
    return replace(perceiver, autoencoder=replace(held, full=full) if isinstance(held, Halves) else full)


def full_of(autoencoder: Autoencoder | None) -> Autoencoder | None:
    """The VAE, whether or not light halves stand before it."""
    return autoencoder.full if isinstance(autoencoder, Halves) else autoencoder


def eye_of(autoencoder: Autoencoder | None) -> object:
    """What encodes for it: the same object wherever one encode serves both."""
    if isinstance(autoencoder, Halves):
        return autoencoder.light_encoder or autoencoder.full
    return autoencoder
