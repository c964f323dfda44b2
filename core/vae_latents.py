"""Whose latents a VAE makes: told by its encoder, for Stable Diffusion's look like SDXL's and like anybody's."""

from __future__ import annotations

from dataclasses import dataclass

from .fingerprint import TOLERANCE, Fingerprint, distance
from .recipe import Recipe

UNRELATED = 0.5
"""Encoders further apart than this have nothing in common: a fine-tuned one is nearer, one trained anew is 1.4 away."""


@dataclass(frozen=True)
class KnownVAE:
    """A published VAE, or all that share its encoder."""

    title: str
    bases: tuple[str, ...]
    """Whose latents it makes, as Recipe.base says them; none for those of other models."""
    latents: Fingerprint
    """As `diffusion-perception info FILE` prints it."""


KNOWN_VAES: tuple[KnownVAE, ...] = ()
"""For checkpoints that bring no VAE to compare with. None so far: a row is what `info` prints of the published file."""


def recognised(latents: Fingerprint) -> KnownVAE | None:
    """The row that a VAE is, in whatever precision it is stored."""
    for row in KNOWN_VAES:
        apart = distance(row.latents, latents)
        if apart is not None and apart <= TOLERANCE:
            return row
    return None


def check_latents(recipe: Recipe, own: Fingerprint, connected: Fingerprint) -> str:
    """What a person should know who connects a VAE to a checkpoint; "" if all is well, or nothing can be told.

    own: of the VAE that came with the checkpoint, empty if none did. ValueError for a VAE that makes other latents.
    """
    apart = distance(own, connected)
    if apart is None:
        known = recognised(connected)
        if known is not None and recipe.base not in known.bases:
            raise ValueError(
                f"The connected VAE is {known.title}, which makes other latents than {recipe.id} perceives: connect "
                "the VAE of a Stable Diffusion 1.x or 2.x model."
            )
        return ""
    if apart > UNRELATED:
        raise ValueError(
            f"The connected VAE makes other latents than the one that {recipe.id} was trained with (their encoders are "
            f"{apart:.2f} apart): disconnect it, or connect the VAE of Load Perception Model."
        )
    if apart > TOLERANCE:
        return (
            f"The connected VAE is not the one that {recipe.id} was trained with, but near it (their encoders are "
            f"{apart:.3f} apart): it runs, perhaps less well."
        )
    return ""
