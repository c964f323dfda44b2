"""Bases: the perception checkpoint that a Stable Diffusion model on disk makes together with an adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..backbone import Context
from ..errors import UserError
from ..recipe import Recipe
from ..tasks import task_named
from .adapter_file import clues_of, read_adapter
from .adapters import Adapter, check_adapter
from .architecture import UNetArchitecture
from .checkpoint import Checkpoint, is_called
from .context import find_context
from .families import family_named, recipe_for, recognise
from .networks import Networks, absolute
from .own_file import OwnFile, read_own
from .recipes_beside import context_named
from .tensors import CheckpointError, Weights
from .tiny_vae_file import own_light


def one_by_one(weights: Weights) -> Callable[[str], Tensor]:
    """A function that reads one tensor of a network by its name; KeyError if there is none."""
    if weights.path.suffix == ".bin":
        return weights.load().__getitem__
    files = {name: old for old, name in weights.names.items()}

    def get(name: str) -> Tensor:
        wanted = {files[name]: name}
        return replace(weights, names=wanted).load()[name]

    return get


def open_adapted(base: Networks, path: Path, family: str = "auto", task: str = "") -> tuple[Checkpoint, Adapter]:
    """The checkpoint that a base makes together with the adapter in a file or folder, and the adapter.

    base: generative, or a perception checkpoint's itself. The checkpoint's UNet is the base's: attach the adapter to
    it, or merge it. CheckpointError if they do not fit.
    """
    adapter = read_adapter(absolute(path), base.layout)
    check_adapter(adapter, base.unet.shapes)
    recipe = recipe_of(adapter, base.architecture, family, task)
    own = read_own(adapter.path) if adapter.recipes else None
    context = _context_of(own, adapter.path, recipe, base.architecture) or (None if recipe.prompt else base.context)
    checkpoint = Checkpoint(
        **{**vars(base), "path": adapter.path, "context": context},
        recipe=recipe,
        head=own.head(recipe) if own else None,
        recognised=recipe.family,
        decoder=own_light(own, "decoder", recipe) if own else None,
        encoder=own_light(own, "encoder", recipe) if own else None,
    )
    return checkpoint, adapter


def recipe_of(adapter: Adapter, architecture: UNetArchitecture, family: str = "auto", task: str = "") -> Recipe:
    """How to run an adapter on a network of this architecture: as its header says, else as its family is run."""
    if adapter.recipes and family == "auto":
        return _own_recipe(adapter, task)
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


def _own_recipe(adapter: Adapter, task: str) -> Recipe:
    """The one of its header's recipes that is asked for."""
    wanted = [recipe for recipe in adapter.recipes if not task or is_called(recipe, task)]
    held = ", ".join(recipe.id for recipe in adapter.recipes)
    if not wanted:
        raise CheckpointError(f"{adapter.name} was trained for {held}, not for {task}: name one of these.")
    if len(wanted) > 1 and task not in {recipe.id for recipe in wanted}:
        raise CheckpointError(f"{adapter.name} holds several tasks ({held}): name one of them.")
    return next((recipe for recipe in wanted if recipe.id == task), wanted[0])


def _context_of(own: OwnFile | None, path: Path, recipe: Recipe, architecture: UNetArchitecture) -> Context | None:
    """The text context baked into an adapter's file, else the one beside it."""
    baked = own.context(recipe, architecture) if own else None
    return baked or find_context((path.parent,), architecture, recipe)


def negative_of(path: Path, recipe: Recipe, architecture: UNetArchitecture) -> Context | None:
    """The negative context baked into a file of the project's, or into what lies beside a UNet's folder."""
    if path.is_dir():
        return context_named(path.parent, f"{recipe.id}.negative", architecture)
    own = read_own(path) if path.suffix == ".safetensors" else None
    return own.negative(recipe, architecture) if own else None
