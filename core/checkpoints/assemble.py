"""Assembly: a checkpoint's networks brought to life on a host, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..backbone import Autoencoder, Backbone, Context, Head
from ..halves import Half, with_light
from ..pipeline import Perceiver
from ..recipe import Recipe
from .adapters import Adapter
from .architecture import UNetArchitecture, VAEArchitecture
from .attachment import Adapted
from .bases import negative_of
from .checkpoint import Checkpoint
from .context import as_context, prompt_tokens
from .tensors import CheckpointError, Weights, shown
from .tiny_vae_file import FULL, chosen


class Host(Protocol):
    """What runs networks: diffusers, ComfyUI, a WebUI. It fills them with weights and moves them as it moves its own.

    Each network's method raises CheckpointError, in one sentence, for weights that do not fit.
    """

    @property
    def perceiver(self) -> Callable[..., Perceiver]:
        """Perceiver, or a subclass that the host knows how to handle."""
        ...

    @property
    def advice(self) -> str:
        """What a person can do where there is no text context; {width} and {tokens} are what is wanted."""
        ...

    @property
    def prompt_advice(self) -> str:
        """The same where it should be that of a prompt, {prompt}, of a {task}."""
        ...

    def backbone(self, weights: Weights, architecture: UNetArchitecture) -> Backbone: ...

    def autoencoder(self, weights: Weights, architecture: VAEArchitecture) -> Autoencoder: ...

    def head(self, name: str, weights: Weights) -> Head: ...

    def light(self, weights: Weights) -> Half:
        """A light half of a VAE."""
        ...

    def words(self, text_encoder: Path, prompt: str) -> list[int]:
        """The token ids of a prompt's words, by the tokenizer beside the encoder, without start and end."""
        ...

    def encode_prompt(self, text_encoder: Path, tokens: list[int]) -> Tensor:
        """(1, L, D) float32: what the text encoder in a folder in diffusers layout makes of L token ids."""
        ...

    def empty_prompt(self, base: str, tokens: int) -> Tensor | None:
        """(1, tokens, D) float32 of a generation's empty prompt, where the host has one itself."""
        ...


def assemble(
    checkpoint: Checkpoint,
    host: Host,
    *,
    adapter: Adapter | None = None,
    context: Context | None = None,
    negative: Context | None = None,
    encoder: str = FULL,
    decoder: str = FULL,
) -> Perceiver:
    """Everything that a checkpoint's recipe needs, on this host. CheckpointError if a part is missing.

    adapter: goes beside the UNet's weights. context, negative: in place of those that came with it. encoder, decoder:
    full, light, or a file: which half of the VAE is used. A checkpoint without a VAE gives a perceiver without one.
    """
    recipe = checkpoint.recipe
    # what may be missing comes before the weights are read, which takes a while
    halves = _light_half(checkpoint, host, "encoder", encoder), _light_half(checkpoint, host, "decoder", decoder)
    text, opposite = context or text_context(checkpoint, host), negative or _negative_context(checkpoint, host)
    text, opposite = told(recipe, text), None if opposite is None else told(recipe, opposite)
    backbone = host.backbone(checkpoint.unet, checkpoint.architecture)
    perceiver = host.perceiver(
        recipe,
        backbone if adapter is None else Adapted(backbone, adapter),
        text,
        _autoencoder_of(checkpoint, host),
        None if checkpoint.head is None else host.head(recipe.head, checkpoint.head),
        opposite,
        checkpoint.siblings,
    )
    return with_light(perceiver, *halves)


def _autoencoder_of(checkpoint: Checkpoint, host: Host) -> Autoencoder | None:
    """The VAE that came with it."""
    if checkpoint.vae is None or checkpoint.vae_architecture is None:
        return None
    return host.autoencoder(checkpoint.vae, checkpoint.vae_architecture)


def _light_half(checkpoint: Checkpoint, host: Host, role: Any, choice: str) -> Half | None:
    """The light half that is chosen, None for the VAE's own. CheckpointError if there is no such."""
    own = checkpoint.encoder if role == "encoder" else checkpoint.decoder
    weights = chosen(role, choice, checkpoint.recipe, own, checkpoint.vae)
    return None if weights is None else host.light(weights)


def text_context(checkpoint: Checkpoint, host: Host) -> Context:
    """From the file, else by the text encoder beside it, else the host's own. CheckpointError where there is none."""
    architecture, recipe, tokens = checkpoint.architecture, checkpoint.recipe, checkpoint.recipe.tokens
    if checkpoint.context is not None:
        return checkpoint.context
    folder = checkpoint.text_encoder
    if folder is not None:
        words = host.words(folder, recipe.prompt) if recipe.prompt else []
        return as_context(host.encode_prompt(folder, prompt_tokens(folder, words, not tokens)), architecture, folder)
    own = None if recipe.prompt else host.empty_prompt(architecture.base, tokens)
    if own is None:
        wanted = {"width": architecture.context_dim, "tokens": tokens or 77}
        advice = (host.prompt_advice if recipe.prompt else host.advice).format(
            **wanted, prompt=recipe.prompt, task=recipe.task
        )
        of_prompt = f" for its prompt {checkpoint.recipe.prompt!r}" if checkpoint.recipe.prompt else ""
        raise CheckpointError(f"{shown(checkpoint.path)} comes without a text context{of_prompt}: {advice}.")
    return Context(own)


def told(recipe: Recipe, context: Context) -> Context:
    """With the vector that the recipe tells the network."""
    return context if recipe.vector is None else replace(context, vector=torch.tensor([recipe.vector]))


def _negative_context(checkpoint: Checkpoint, host: Host) -> Context | None:
    """What guidance moves away from, where the recipe asks for any: from the file, else the empty prompt if it came."""
    if checkpoint.recipe.guidance_scale == 1:
        return None
    baked = negative_of(checkpoint.path, checkpoint.recipe, checkpoint.architecture)
    came = checkpoint.context is not None or checkpoint.text_encoder is not None
    return baked or (text_context(checkpoint, host) if came else None)
