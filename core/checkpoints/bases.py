"""Base: a Stable Diffusion model on disk, and the perception checkpoint that it makes together with an adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..backbone import Context
from ..errors import UserError
from ..recipe import Recipe
from ..tasks import task_named
from .adapter_file import clues_of, read_adapter
from .adapters import Adapter, check
from .architecture import UNetArchitecture, VAEArchitecture
from .checkpoint import (
    Checkpoint,
    absolute,
    as_context,
    as_unet,
    as_vae,
    find_context,
    find_text_encoder,
    find_vae,
    is_called,
    own_config,
    own_context,
    own_head,
)
from .families import family_named, recipe_for, recognise
from .strangers import refuse_closed, refuse_pickle
from .tensors import CheckpointError, Weights, find_files, network, pick_unet, pick_vae, read, read_json, shown
from .tiny_vae_file import own_light


@dataclass(frozen=True)
class Base:
    """What an adapter sits on, still on disk: generative, or a perception checkpoint itself."""

    path: Path
    unet: Weights
    architecture: UNetArchitecture
    vae: Weights | None = None
    vae_architecture: VAEArchitecture | None = None
    context: Context | None = None
    """The empty prompt's embedding, if it lies beside it."""
    text_encoder: Path | None = None

    @property
    def layout(self) -> tuple[tuple[bool, ...], int]:
        """What the block numbers in LDM's names depend on."""
        return self.architecture.attention, self.architecture.layers


def open_base(path: Path) -> Base:
    """The Stable Diffusion model in a folder in diffusers layout, a UNet's folder, or a single file."""
    path = absolute(path)
    refuse_pickle(path)
    if not path.is_dir():
        # a file of the project's own says what its weights do not: how many heads, and how latents are scaled
        unet, architecture = as_unet(network((path,), pick_unet), own_config(path, "unet"), path)
        inside = network((path,), pick_vae)
        said = own_config(path, "vae")
        base = architecture.base
        vae, vae_architecture = as_vae(inside, said, path, base) if inside.shapes else find_vae((path.parent,), base)
        context = find_context((path.parent,), architecture)
        return Base(path, unet, architecture, vae, vae_architecture, context, find_text_encoder(path.parent))
    folder = path / "unet" if find_files(path / "unet") else path
    files = find_files(folder)
    if not files:
        refuse_closed(path)
        raise CheckpointError(f"{shown(path)} holds no Stable Diffusion model: expected unet/ in it, or name a file.")
    unet, architecture = as_unet(network(files, pick_unet), read_json(folder / "config.json"), folder)
    vae, vae_architecture = find_vae((folder, folder.parent), architecture.base)
    context = find_context((folder, folder.parent), architecture)
    return Base(path, unet, architecture, vae, vae_architecture, context, find_text_encoder(folder.parent))


def one_by_one(weights: Weights) -> Callable[[str], Tensor]:
    """A function that reads one tensor of a network by its name; KeyError if there is none."""
    if weights.path.suffix == ".bin":
        return weights.load().__getitem__
    files = {name: old for old, name in weights.names.items()}

    def get(name: str) -> Tensor:
        wanted = {files[name]: name}
        return replace(weights, names=wanted).load()[name]

    return get


def open_adapted(base: Base, path: Path, family: str = "auto", task: str = "") -> tuple[Checkpoint, Adapter]:
    """The checkpoint that a base makes together with the adapter in a file or folder, and the adapter.

    The checkpoint's UNet is the base's: attach the adapter to it, or merge it. CheckpointError if they do not fit.
    """
    adapter = read_adapter(absolute(path), base.layout)
    check(adapter, base.unet.shapes)
    recipe = recipe_of(adapter, base.architecture, family, task)
    return (
        Checkpoint(
            adapter.path, recipe, base.unet, base.architecture, base.vae, base.vae_architecture,
            head=own_head(adapter.path, recipe) if adapter.recipes else None,
            context=context_of(adapter, recipe, base.architecture) or (None if recipe.prompt else base.context),
            text_encoder=base.text_encoder,
            recognised=recipe.family,
            decoder=own_light(adapter.path, "decoder", recipe) if adapter.recipes else None,
            encoder=own_light(adapter.path, "encoder", recipe) if adapter.recipes else None,
        ),
        adapter,
    )  # fmt: skip


def recipe_of(adapter: Adapter, architecture: UNetArchitecture, family: str = "auto", task: str = "") -> Recipe:
    """How to run an adapter on a network of this architecture: as its header says, else as its family is run."""
    if adapter.recipes and family == "auto":
        return own_recipe(adapter, task)
    clues = clues_of(adapter, architecture)
    row = recognise(clues) if family == "auto" else family_named(family)
    if row is None:
        raise CheckpointError(
            f"{adapter.name} does not say how it was trained, as LoRAs for pictures do not: if it is one to perceive "
            "with, name its task, and its family (as in family=genpercept)."
        )
    try:
        return recipe_for(row, clues, task_named(task).name if task else "")
    except UserError as error:
        raise CheckpointError(f"{adapter.name} cannot be used as {row.title}: {str(error).rstrip('.')}.") from None


def own_recipe(adapter: Adapter, task: str) -> Recipe:
    """The one of its header's recipes that is asked for."""
    wanted = [recipe for recipe in adapter.recipes if not task or is_called(recipe, task)]
    held = ", ".join(recipe.id for recipe in adapter.recipes)
    if not wanted:
        raise CheckpointError(f"{adapter.name} was trained for {held}, not for {task}: name one of these.")
    if len(wanted) > 1 and task not in {recipe.id for recipe in wanted}:
        raise CheckpointError(f"{adapter.name} holds several tasks ({held}): name one of them.")
    return next((recipe for recipe in wanted if recipe.id == task), wanted[0])


def context_of(adapter: Adapter, recipe: Recipe, architecture: UNetArchitecture) -> Context | None:
    """The text context baked into an adapter's file, else the one beside it."""
    baked = own_context(adapter.path, recipe, architecture) if adapter.recipes else None
    return baked or find_context((adapter.path.parent,), architecture, recipe)


def negative_of(path: Path, recipe: Recipe, architecture: UNetArchitecture) -> Context | None:
    """The negative context baked into a file of the project's."""
    if path.suffix != ".safetensors":
        return None
    name = f"context.{recipe.id}.negative"
    tensors = read(path, {name: name})
    return as_context(tensors[name], architecture, path) if name in tensors else None
