"""Base: the networks that a run starts from, from disk or untrained, and the context of its empty prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from ..core.checkpoints.architecture import UNetArchitecture, VAEArchitecture
from ..core.checkpoints.context import prompt_tokens
from ..core.checkpoints.fingerprint import Fingerprint, fingerprint
from ..core.checkpoints.networks import Networks, as_vae, find_vae, open_networks
from ..core.checkpoints.own_file import read_own
from ..core.checkpoints.tensors import CheckpointError, Weights, find_files, network, pick_vae, read_object, shown
from ..core.generations import CUSTOM, GENERATIONS, LATENT, HeadRule
from .config import Base as Settings
from .config import ConfigError, check_known
from .host import encode_prompt, load_unet, load_vae, named_context
from .text import encode_empty


def untrained(
    widths: tuple[int, ...], layers: int, context_dim: int, heads: HeadRule, linear_projection: bool = True
) -> UNetArchitecture:
    """The shape of a UNet of Stable Diffusion's kind that hosts can run too: one rule of heads for all levels."""
    return UNetArchitecture(
        in_channels=LATENT,
        out_channels=LATENT,
        widths=widths,
        layers=layers,
        attention=(True,) * (len(widths) - 1) + (False,),
        heads=heads.heads(widths),
        context_dim=context_dim,
        linear_projection=linear_projection,
    )


ARCHITECTURES: dict[str, UNetArchitecture] = {
    "tiny": untrained((32, 64, 64, 64), 1, 64, HeadRule(width=32)),
    "small": untrained((64, 128, 256, 256), 2, 256, HeadRule(width=64)),
    "medium": untrained((128, 256, 512, 512), 2, 512, HeadRule(width=64)),
    **{
        name: untrained(row.widths, row.layers, row.context_dim, row.heads, row.linear_projection)
        for name, row in GENERATIONS.items()
    },
}


def architecture_of(settings: Settings) -> UNetArchitecture | None:
    """The untrained network that a config asks for, None if it asks for the base's."""
    if settings.architecture:
        check_known("architecture", settings.architecture, ARCHITECTURES)
        return ARCHITECTURES[settings.architecture]
    if not settings.widths:
        return None
    first = settings.widths[0]
    if len(settings.widths) != 4 or any(width % 32 or width % first for width in settings.widths):
        raise ConfigError(f"base.widths = {list(settings.widths)}: give four, multiples of 32 and of the first.")
    if settings.head_dim < 1 or any(width % settings.head_dim for width in settings.widths):
        raise ConfigError(
            f"base.head_dim = {settings.head_dim} does not divide base.widths {list(settings.widths)}: take 32."
        )
    if settings.layers < 1 or settings.context_dim < 1:
        raise ConfigError("base.layers and base.context_dim must be at least 1.")
    return untrained(settings.widths, settings.layers, settings.context_dim, HeadRule(width=settings.head_dim))


@dataclass(frozen=True)
class Start:
    """What a run starts from."""

    unet: UNet2DConditionModel
    architecture: UNetArchitecture
    vae: AutoencoderKL
    vae_architecture: VAEArchitecture
    context: Callable[[str, int], Tensor]
    """(task, tokens) -> (1, tokens, D)."""
    fingerprint: Fingerprint


def shape_of(settings: Settings) -> UNetArchitecture:
    """Of the UNet that will be trained, before any weight is read. CheckpointError or ConfigError if there is none."""
    shape = architecture_of(settings)
    if shape is None and not settings.path:
        raise ConfigError(
            "Nothing says what to start from: name a Stable Diffusion model as base.path, or set base.architecture."
        )
    return shape or open_networks(Path(settings.path)).architecture


def start(settings: Settings) -> Start:
    """Load or make the networks. CheckpointError or ConfigError if they cannot be had."""
    shape_of(settings)
    shape = architecture_of(settings)
    base = open_networks(Path(settings.path)) if settings.path else None
    vae_weights, vae_architecture = vae_of(settings, base)
    if shape is None:
        assert base is not None
        unet, architecture = load_unet(base.unet, base.architecture), base.architecture
        known = dict(unet.state_dict())
        print_of = fingerprint(known.__getitem__)
    else:
        unet, architecture, print_of = UNet2DConditionModel.from_config(shape.config()), shape, {}
    vae = load_vae(vae_weights, vae_architecture)
    return Start(unet, architecture, vae, vae_architecture, contexts(settings, base, architecture), print_of)


def vae_of(settings: Settings, base: Networks | None) -> tuple[Weights, VAEArchitecture]:
    """The VAE that is named, else the base's own."""
    if settings.vae:
        return open_vae(Path(settings.vae), base.architecture.base if base else CUSTOM)
    if base is None or base.vae is None or base.vae_architecture is None:
        raise ConfigError(
            'The base comes without a VAE: name one as base.vae; `preset = "vae"` trains a small one.'
            if base is None
            else f"{shown(base.path)} comes without a VAE: name one as base.vae."
        )
    return base.vae, base.vae_architecture


def open_vae(path: Path, base: str = CUSTOM) -> tuple[Weights, VAEArchitecture]:
    """A VAE's own folder, a folder with vae/ in it, or any file that holds one. base: the generation it is to serve."""
    if path.is_dir():
        weights, architecture = find_vae((path,), base)
        if weights is not None and architecture is not None:
            return weights, architecture
        files = find_files(path)
        if not files:
            raise CheckpointError(f"{shown(path)} holds no VAE: expected vae/ or its weights in it.")
        return as_vae(network(files, pick_vae), read_object(path / "config.json"), path, base)
    own = read_own(path)
    config = own.field("vae") if own else read_object(path.with_name("config.json"))
    return as_vae(network((path,), pick_vae), config, path, base)


# Contexts


def contexts(settings: Settings, base: Networks | None, architecture: UNetArchitecture) -> Callable[[str, int], Tensor]:
    """A function (task, tokens) -> the context (1, tokens, D) that a task starts from."""
    learnt = {} if settings.context else _learnt_contexts(base, architecture)
    empty: list[Tensor] = []

    def context(task: str, tokens: int) -> Tensor:
        if task in learnt:
            return _lengthened(learnt[task], tokens, task)
        if learnt:
            # a new task starts between those that the network knows
            return torch.stack([_lengthened(known, tokens, name) for name, known in learnt.items()]).mean(0)
        if not empty:
            empty.append(_empty_prompt(settings, base, architecture, tokens))
        return _lengthened(empty[0], tokens, "the empty prompt")

    return context


def _learnt_contexts(base: Networks | None, architecture: UNetArchitecture) -> dict[str, Tensor]:
    """{task: tokens} of a checkpoint of the project's own, which is then trained further; empty for any other base."""
    if base is None or base.path.is_dir() or architecture.context_dim != base.architecture.context_dim:
        return {}
    own = read_own(base.path)
    found = {recipe.task: own.context(recipe, architecture) for recipe in own.recipes} if own else {}
    return {task: context.tokens for task, context in found.items() if context is not None}


def _empty_prompt(settings: Settings, base: Networks | None, architecture: UNetArchitecture, tokens: int) -> Tensor:
    """As named, as it lies beside the base, by the text encoder in or beside it; noise for an untrained network."""
    if settings.context:
        return named_context(settings.context, architecture).tokens
    if base is not None and architecture.context_dim == base.architecture.context_dim:
        if base.context is not None and base.context.tokens.shape[1] >= tokens:
            return base.context.tokens
        found = encode_empty(base.path, tokens, base.architecture.base) if not base.path.is_dir() else None
        if found is not None:
            return found
        if base.text_encoder is not None:
            return encode_prompt(base.text_encoder, prompt_tokens(base.text_encoder, []))
        if base.context is not None:
            return base.context.tokens
    if settings.architecture or settings.widths:
        return torch.randn(1, tokens, architecture.context_dim)
    assert base is not None
    raise CheckpointError(
        f"{shown(base.path)} comes without a text encoder: name the empty prompt's embedding as base.context."
    )


def _lengthened(tokens: Tensor, count: int, what: str) -> Tensor:
    """The first `count` tokens. ConfigError if there are fewer."""
    if tokens.shape[1] < count:
        raise ConfigError(
            f"The context of {what} has {tokens.shape[1]} tokens, network.tokens asks for {count}: lower it."
        )
    return tokens[:, :count].float()
