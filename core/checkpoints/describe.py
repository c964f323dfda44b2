"""Describe: what a person may want to know of a checkpoint, or of a VAE alone, as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..backbone import Shapes
from .architecture import UNetArchitecture
from .checkpoint import Checkpoint, UnsuitedError, open_all
from .families import family_title
from .networks import absolute, as_vae, needed_unet_folders, unet_folders, vae_of
from .published import describe_licence
from .strangers import refuse_pickle
from .tensors import Weights, find_files, network, pick_unet, pick_vae, shown
from .tiny_vae_file import latents_of


def describe(path: Path, family: str = "auto", task: str = "") -> dict[str, Any]:
    """What a person may want to know of a checkpoint, or of a VAE alone, as plain data; hardly any weights are read.

    What its files do not say stands under "problem", in a sentence. CheckpointError only where nothing can be read.
    """
    path = absolute(path)
    refuse_pickle(path)
    alone = _vae_alone(path)
    if alone is not None:
        return {"path": path.name, "vae": _describe_vae(alone)}
    places = needed_unet_folders(path) if path.is_dir() else [path]
    return {"path": path.name, "checkpoints": [row for place in places for row in _describe_all(place, family, task)]}


def _describe_all(path: Path, family: str, task: str) -> Iterator[dict[str, Any]]:
    """A row for each recipe on one UNet, or one that says why there is none."""
    try:
        yield from (describe_recipe(checkpoint) for checkpoint in open_all(path, family, task))
    except UnsuitedError as error:
        unet = network(find_files(path) if path.is_dir() else (path,), pick_unet)
        yield {**_describe_unet(path, unet.shapes), **describe_latents(vae_of(path)[0]), "problem": str(error)}


def _describe_unet(path: Path, shapes: Shapes) -> dict[str, Any]:
    """What the weights alone say."""
    architecture = UNetArchitecture.from_weights(shapes)
    return {
        "from": shown(path),
        "parameters": sum(int(np.prod(shape)) for shape in shapes.values()),
        "input channels": architecture.in_channels,
        "context width": architecture.context_dim,
    }


def describe_recipe(checkpoint: Checkpoint) -> dict[str, Any]:
    """What is known of a checkpoint, its recipe in full."""
    encoder = "made by the text encoder beside it" if checkpoint.text_encoder else "none: give one"
    vae = checkpoint.vae_architecture
    recipe = checkpoint.recipe
    return {
        **_describe_unet(checkpoint.path, checkpoint.unet.shapes),
        "family": family_title(recipe.family),
        **describe_licence(recipe.licence, recipe.family),
        "context": f"{tuple(checkpoint.context.tokens.shape)}" if checkpoint.context else encoder,
        "id": recipe.id,
        "recipe": asdict(recipe),
        "unet": checkpoint.architecture.config(),
        "vae": vae.config() if vae else "none: connect one",
        **describe_latents(checkpoint.vae),
    }


def _describe_vae(vae: Weights) -> dict[str, Any]:
    """What its weights alone say, which are the same in kind for Stable Diffusion's and SDXL's."""
    _, architecture = as_vae(vae, {}, vae.path)
    parameters = sum(int(np.prod(shape)) for shape in vae.shapes.values())
    return {"parameters": parameters, "widths": list(architecture.widths), **describe_latents(vae)}


def describe_latents(vae: Weights | None) -> dict[str, str]:
    """What tells a VAE's latents from others', in one line: as a row of KNOWN_VAES says it."""
    latents = latents_of(vae)
    return {"latents": str(latents)} if latents else {}


def _vae_alone(path: Path) -> Weights | None:
    """The VAE in a file or folder that holds no UNet; None if it does, or holds neither."""
    files = find_files(path if unet_folders(path) else path / "vae") if path.is_dir() else (path,)
    vae = network(files, pick_vae)
    return vae if vae.shapes and not network(files, pick_unet).shapes else None
