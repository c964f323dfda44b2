"""Whose latents a VAE makes: told by its encoder, for Stable Diffusion's look like SDXL's and like anybody's."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError
from ..generations import CUSTOM, GENERATIONS
from ..recipe import Recipe
from .fingerprint import Fingerprint, distance, matches

UNRELATED = 0.5
"""Encoders further apart have nothing in common: a fine-tuned one is nearer, one trained anew about 1.4 away."""


@dataclass(frozen=True)
class KnownVAE:
    """A published VAE, or all that share its encoder."""

    title: str
    bases: tuple[str, ...]
    """Whose latents it makes, as Recipe.base says them; none for those of other models."""
    latents: Fingerprint
    """As `diffusion-perception info FILE` prints them."""


KNOWN_VAES: tuple[KnownVAE, ...] = ()
"""For checkpoints that bring no VAE to compare with. None so far: of each row `info` prints the last column."""


def recognised(latents: Fingerprint) -> KnownVAE | None:
    """The row that a VAE is, or was fine-tuned from."""
    apart = [(distance(row.latents, latents), row) for row in KNOWN_VAES]
    near = [(found, row) for found, row in apart if found is not None and found <= UNRELATED]
    return min(near, key=lambda pair: pair[0])[1] if near else None


def connected_vae_note(recipe: Recipe, own: Fingerprint, connected: Fingerprint) -> str:
    """What a person should know who connects a VAE to a checkpoint; "" if all is well, or nothing can be told.

    own: of the VAE that the checkpoint has, empty if it has none. UserError for a VAE that makes other latents.
    """
    return compare(recipe, own, connected) if own else _look_up(recipe, connected)


def compare(recipe: Recipe, own: Fingerprint, connected: Fingerprint) -> str:
    """The same where the checkpoint has a VAE."""
    apart = distance(own, connected)
    if apart is None and recipe.base in GENERATIONS:
        return ""
    if apart is None or apart > UNRELATED:
        seen = "cannot be compared" if apart is None else f"are {apart:.2f} apart"
        raise UserError(
            f"The connected VAE makes other latents than the one that {recipe.id} has (their encoders {seen}): "
            "disconnect it, or connect the VAE of Load Perception Model."
        )
    if matches(own, connected):
        return ""
    return (
        f"The connected VAE is not the one that {recipe.id} has, but near it, as fine-tuned ones are (their encoders "
        f"are {apart:.3f} apart): it runs, perhaps less well."
    )


def _look_up(recipe: Recipe, connected: Fingerprint) -> str:
    """The same where it has none. Of a network of its own kind nobody knows whose latents it perceives."""
    known = recognised(connected)
    if known is None or recipe.base in (*known.bases, CUSTOM):
        return ""
    raise UserError(
        f"The connected VAE is {known.title} or made from it, which makes other latents than {recipe.id} perceives: "
        "connect the VAE of a Stable Diffusion 1.x or 2.x model."
    )
