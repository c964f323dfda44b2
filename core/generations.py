"""Generations of Stable Diffusion: what the networks of one have and those of another have not, a row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

LATENT = 4
"""Channels of a latent; light halves and families are made for these."""
INPAINTING = 2 * LATENT + 1
"""Input channels of the inpainting models: latent, mask, and the latent of what is to stay."""
CUSTOM = "custom"
"""What Recipe.base says of networks of other widths, which are no generation's."""
START, END = 49406, 49407
"""Token ids that CLIP puts around a prompt."""


class HeadRule(NamedTuple):
    """How many attention heads a level has: one number for all, or as many of one width as it holds."""

    number: int = 0
    width: int = 0

    def heads(self, widths: Sequence[int]) -> tuple[int, ...]:
        """Of levels with that many channels each."""
        return tuple(self.number or max(width // self.width, 1) for width in widths)


@dataclass(frozen=True)
class LatentSpace:
    """What a VAE makes of pictures. Generations that share one can exchange VAEs and light halves."""

    title: str
    """Whose latents they are, in sentences."""
    scaling_factor: float
    """What brings them to a deviation of about 1, where no config states it."""
    channels: int = LATENT
    widths: tuple[int, ...] = (128, 256, 512, 512)
    """Of the VAE's levels."""
    layers: int = 2
    """Residual blocks per level of its encoder."""


@dataclass(frozen=True)
class Generation:
    """A row: Stable Diffusion models whose adapters fit one another."""

    name: str
    """As Recipe.base says it."""
    title: str
    """For people."""
    modelspec: str
    """What the model metadata standard of Stability AI calls it."""
    context_dim: int
    """Width of the text that it reads, by which it is recognised."""
    linear_projection: bool
    """Whether a Linear leads into its transformers; else a 1x1 convolution does."""
    heads: HeadRule
    padding: int
    """Token id after the end of a prompt."""
    latents: LatentSpace
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    """Channels of the UNet's levels."""
    layers: int = 2
    """Residual blocks per level on its way down."""


SD_LATENTS = LatentSpace("Stable Diffusion 1.x and 2.x", 0.18215)

GENERATIONS: dict[str, Generation] = {
    generation.name: generation
    for generation in (
        Generation(
            "sd15",
            "SD1.5",
            modelspec="stable-diffusion-v1",
            context_dim=768,
            linear_projection=False,
            heads=HeadRule(number=8),
            padding=END,
            latents=SD_LATENTS,
        ),
        Generation(
            "sd21",
            "SD2.1",
            modelspec="stable-diffusion-v2-768-v",
            context_dim=1024,
            linear_projection=True,
            heads=HeadRule(width=64),
            padding=0,
            latents=SD_LATENTS,
        ),
    )
}


class Stranger(NamedTuple):
    """A generation that this version does not run, and refuses by its name."""

    title: str
    context_dim: int
    scaling_factor: float
    taesd: str
    """What the names of its TAESD's files begin with."""


SDXL = Stranger("SDXL", 2048, 0.13025, "taesdxl")
STRANGERS = (SDXL, Stranger("SDXL refiner", 1280, 0.13025, "taesdxl"))


def base_of(context_dim: int) -> str:
    """The generation that reads text of this width, as Recipe.base says it."""
    return next((row.name for row in GENERATIONS.values() if row.context_dim == context_dim), CUSTOM)


def title_of(base: str) -> str:
    """What people call it."""
    return GENERATIONS[base].title if base in GENERATIONS else base


def title_by_width(context_dim: int) -> str:
    """What people call the generation that reads text of this width, "" if it is nobody's."""
    known = (*GENERATIONS.values(), *STRANGERS)
    return next((row.title for row in known if row.context_dim == context_dim), "")


def heads_by_rule(context_dim: int, linear_projection: bool, widths: Sequence[int]) -> tuple[int, ...]:
    """Attention heads of each level, which weights do not show: by the rule of the generation.

    A network of no generation's width follows the first one that projects into its transformers alike.
    """
    alike = [row for row in GENERATIONS.values() if row.linear_projection == linear_projection]
    return next((row for row in alike if row.context_dim == context_dim), alike[0]).heads.heads(widths)


def latent_space(base: str) -> LatentSpace:
    """Of a generation's VAE; for networks of other widths Stable Diffusion's, whose VAEs most of them have."""
    return GENERATIONS[base].latents if base in GENERATIONS else SD_LATENTS


def share_latents(one: str, other: str) -> bool:
    """Whether two bases are generations with one latent space. Of networks of other widths nobody knows."""
    return {one, other} <= GENERATIONS.keys() and GENERATIONS[one].latents == GENERATIONS[other].latents
