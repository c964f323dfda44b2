"""Checkpoint: the networks of one recipe in any supported layout, and how it is told what they were trained for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..backbone import Context
from ..errors import UserError
from ..recipe import Recipe
from ..tasks import task_named
from .clues import Clues, task_in
from .context import find_context
from .families import FAMILIES, Family, family_named, recipe_for, recognise, takes_inputs, with_heads
from .networks import (
    Networks,
    absolute,
    find_head,
    needed_unet_folders,
    of_folder,
    of_own,
    of_single,
    places_beside,
    unet_folders,
)
from .own_file import OwnFile, read_own
from .recipes_beside import context_named, recipes_beside
from .strangers import refuse_pickle, unknown_unet
from .tensors import INNER_HEAD, CheckpointError, Weights, find_files, keep, network, pick_head, read_object, shown
from .tiny_vae_file import own_light


@dataclass(frozen=True)
class Checkpoint(Networks):
    """One recipe and the networks that it runs on, all still on disk."""

    recipe: Recipe = field(kw_only=True)
    head: Weights | None = None
    recognised: str = ""
    """The family that its files speak of; a person may have named another for the recipe."""
    decoder: Weights | None = None
    """The light decoder that the recipe names."""
    encoder: Weights | None = None
    """The light encoder, likewise."""
    siblings: tuple[Recipe, ...] = ()
    """Recipes of other targets that the network predicts at once."""

    def overridden(self, assignments: Sequence[str]) -> Checkpoint:
        """With FIELD=VALUE of its recipes set."""
        siblings = tuple(recipe.override(assignments) for recipe in self.siblings)
        return replace(self, recipe=self.recipe.override(assignments), siblings=siblings)


class UnsuitedError(CheckpointError):
    """A checkpoint that is whole, but for another task or family than was asked for."""


def open_checkpoint(path: Path, family: str = "auto", task: str = "") -> Checkpoint:
    """The checkpoint of one task in a file or folder.

    family: auto, or a row of FAMILIES; task: "" as trained, a row of TASKS, or the id of a recipe in the file.
    CheckpointError says in one sentence what is wrong, also where several would do.
    """
    found = open_all(path, family, task)
    ids = sorted({checkpoint.recipe.id for checkpoint in found})
    # of targets that a network predicts at once the first stands for all
    if len(ids) > 1 and task not in ids and not found[0].siblings:
        raise CheckpointError(f"{shown(absolute(path))} holds several tasks ({', '.join(ids)}): name one of them.")
    return next((checkpoint for checkpoint in found if checkpoint.recipe.id == task), found[0])


def open_all(path: Path, family: str = "auto", task: str = "") -> list[Checkpoint]:
    """Every checkpoint in a file or folder, the preferred one of each task first."""
    path = absolute(path)
    refuse_pickle(path)
    own = _own_in(path) if path.is_dir() else read_own(path)
    if own:
        return _open_own(own, task)
    return _open_folder(path, family, task) if path.is_dir() else _open_single(path, family, task)


# The project's own file


def _own_in(folder: Path) -> OwnFile | None:
    """The one in a folder that is called as in repositories, model.safetensors."""
    files = find_files(folder) if unet_folders(folder) == [folder] else ()
    return read_own(files[0]) if len(files) == 1 else None


def _open_own(file: OwnFile, task: str = "") -> list[Checkpoint]:
    """The recipes of a file of networks."""
    path = file.path
    if file.says("adapter"):
        raise CheckpointError(f"{path.name} is an adapter, which needs a base: use --adapter or Apply Adapter.")
    if file.says("light"):
        raise CheckpointError(
            f"{path.name} holds light halves of a VAE only, which need a checkpoint: give it as --decoder or "
            "--encoder, or write it into the checkpoint by `export`."
        )
    wanted = [recipe for recipe in file.recipes if not task or is_called(recipe, task)]
    if not wanted:
        held = ", ".join(recipe.id for recipe in file.recipes)
        raise CheckpointError(f"{path.name} was trained for {held}, not for {task}: name one of these.")
    networks = of_own(file)
    return [_own_checkpoint(file, networks, recipe) for recipe in wanted]


def _own_checkpoint(file: OwnFile, networks: Networks, recipe: Recipe) -> Checkpoint:
    """One recipe of such a file, with all that it names."""
    context = file.context(recipe, networks.architecture) or _context_beside(networks, recipe)
    return Checkpoint(
        **{**vars(networks), "context": context},
        recipe=recipe,
        head=file.head(recipe),
        recognised=recipe.family,
        decoder=own_light(file, "decoder", recipe),
        encoder=own_light(file, "encoder", recipe),
        siblings=_siblings_of(recipe, file.recipes),
    )


def _context_beside(networks: Networks, recipe: Recipe) -> Context | None:
    """The text context of a recipe that lies beside its network."""
    return find_context(places_beside(networks.path), networks.architecture, recipe)


def _siblings_of(recipe: Recipe, recipes: Iterable[Recipe]) -> tuple[Recipe, ...]:
    """Those of the others that read another target of the same passes."""
    return tuple(other for other in recipes if other != recipe and other.targets > 1 and other.run == recipe.run)


def is_called(recipe: Recipe, name: str) -> bool:
    """By its id, its task, or one of the task's other names."""
    return name in (recipe.id, recipe.row.name, *recipe.row.aliases)


# Folders


def _open_folder(folder: Path, family: str, task: str) -> list[Checkpoint]:
    """Published repositories, single UNet folders, and whatever has a unet/ in it."""
    unets = needed_unet_folders(folder)
    found, unsuited = [], []
    for unet in unets:
        try:
            found += _open_unet_folder(unet, family, task)
        except UnsuitedError as error:
            unsuited.append((unet, error))
        except CheckpointError:
            # a damaged network of another task is no fault; one of this task must not make room for its older version
            if not _is_for_another(unet, task):
                raise
    if found:
        return sorted(found, key=lambda checkpoint: rank(checkpoint, family))
    for unet, error in unsuited:
        if len(unets) == 1 or not _is_for_another(unet, task):
            raise error
    raise CheckpointError(f"{shown(folder)} holds nothing for {task}, only {', '.join(unet.name for unet in unets)}.")


def _is_for_another(unet: Path, task: str) -> bool:
    """Whether a folder's name says another task than the one that is asked for."""
    said = task_in(unet.name)
    return bool(task and said) and said != task_named(task).name


def rank(checkpoint: Checkpoint, family: str) -> tuple[bool, int]:
    """Sorts checkpoints of one task: first those that are of the named family by their own files."""
    named = checkpoint.recipe.family  # a recipe of one's own is of none
    return checkpoint.recognised != family, -family_named(named).preference if named else 0


def _open_unet_folder(folder: Path, family: str, task: str) -> list[Checkpoint]:
    """One UNet folder, for each task of its; VAE, head, context and configs are looked for in it and beside it."""
    if not find_files(folder):
        raise CheckpointError(
            f"{shown(folder)} holds no weights: expected diffusion_pytorch_model.safetensors in it; download it again."
        )
    networks = of_folder(folder)
    if recipes := recipes_beside(folder.parent):
        return _said_beside(networks, recipes, task)
    head_name, head = find_head(folder)
    clues = Clues(
        networks.architecture,
        folder.name,
        folder.parent.name,
        read_object(folder.parent / "model_index.json"),
        read_object(folder.parent / "scheduler" / "scheduler_config.json"),
        head_name,
        head_shapes=head.shapes if head else {},
    )
    return _by_clues(networks, clues, head, family, task)


def _said_beside(networks: Networks, recipes: Sequence[Recipe], task: str) -> list[Checkpoint]:
    """The recipes that stand beside a UNet's folder."""
    place = networks.path.parent
    wanted = [recipe for recipe in recipes if not task or is_called(recipe, task)]
    if not wanted:
        held = ", ".join(recipe.id for recipe in recipes)
        raise UnsuitedError(f"{shown(place)} was trained for {held}, not for {task}: name one of these.")
    return [
        Checkpoint(
            **{
                **vars(networks),
                "context": context_named(place, recipe.id, networks.architecture) or _context_beside(networks, recipe),
            },
            recipe=recipe,
            head=_head_named(place, recipe),
            recognised=recipe.family,
            siblings=_siblings_of(recipe, recipes),
        )
        for recipe in wanted
    ]


def _head_named(place: Path, recipe: Recipe) -> Weights | None:
    """The head's folder that a recipe names. CheckpointError if there is none."""
    files = find_files(place / recipe.head) if recipe.head else ()
    if recipe.head and not files:
        raise CheckpointError(f"{shown(place)} lacks {recipe.head}/, which its recipe {recipe.id} names: get it again.")
    return network(files, keep) if files else None


# Single files without a recipe


def _open_single(path: Path, family: str, task: str) -> list[Checkpoint]:
    """A UNet, or a whole Stable Diffusion checkpoint, in one file, for each task of its; its name may say family and
    task."""
    networks = of_single(path)
    inside = network((path,), pick_head)
    head = inside if inside.shapes else None
    name = INNER_HEAD.rstrip(".") if head else ""
    clues = Clues(networks.architecture, path.stem, path.parent.name, head=name, head_shapes=inside.shapes)
    return _by_clues(networks, clues, head, family, task)


# What both of them share


def _by_clues(networks: Networks, clues: Clues, head: Weights | None, family: str, task: str) -> list[Checkpoint]:
    """What is wanted of networks that do not say themselves what they were trained for."""
    recipes, every = _decide(networks.path, clues, family, task)
    _refuse_headless(networks.path, clues, recipes[0], networks.unet)
    recognised = recognise(clues)
    return [
        Checkpoint(
            **{**vars(networks), "context": _context_beside(networks, recipe)},
            recipe=recipe,
            head=head if recipe.head else None,
            recognised=recognised.name if recognised else "",
            siblings=_siblings_of(recipe, every),
        )
        for recipe in recipes
    ]


def _decide(path: Path, clues: Clues, family: str, task: str) -> tuple[list[Recipe], list[Recipe]]:
    """The recipes that are wanted of what lies at `path`, and all of its network's.

    UnsuitedError if these cannot be told, or are not what was asked for.
    """
    row: Family | None = recognise(clues) if family == "auto" else family_named(family)
    wanted = task_named(task).name if task else ""
    if row is None and (sentence := unknown_unet(path, clues)):
        raise UnsuitedError(sentence)
    if row is None:
        raise UnsuitedError(f"{shown(path)} is a UNet with {_doubt(clues)}.")
    try:
        found = [recipe_for(row, clues, each) for each in (row.tasks(clues) if several(row, clues) else (wanted,))]
        asked = [recipe for recipe in found if not wanted or is_called(recipe, wanted)]
        return asked or [recipe_for(row, clues, wanted)], found
    except UserError as error:
        raise UnsuitedError(f"{shown(path)} cannot be used as {row.title}: {str(error).rstrip('.')}.") from None


def _refuse_headless(path: Path, clues: Clues, recipe: Recipe, unet: Weights) -> None:
    """UnsuitedError for a network that was trained for a head and would be run without one."""
    named = with_heads(clues.folder)
    if recipe.head or ("conv_out.weight" in unet.shapes and not named):
        return
    rows = named or [row for row in FAMILIES.values() if row.beside.heads and takes_inputs(row, clues)]
    ways = " or ".join(f"as {row.name}, with {row.beside.heads[0]}/ beside it" for row in rows)
    raise UnsuitedError(f"{shown(path)} was trained for a head: run it {ways}.")


def several(row: Family, clues: Clues) -> bool:
    """Whether one network of it answers several tasks."""
    return len(row.tasks(clues)) > 1 and takes_inputs(row, clues)


def _doubt(clues: Clues) -> str:
    """Why no family is recognised, and what to do."""
    channels = clues.architecture.in_channels
    rows = [row for row in FAMILIES.values() if takes_inputs(row, clues)]
    if not rows:
        return (
            f"{channels} input channels; expected 4 (image), 8 (image and target), or 4 more than its "
            "output: choose a perception checkpoint"
        )
    named = next((row.name for row in rows if row.hint and row.hint in clues.names), "")
    guess = f" (by its name {named})" if named else ""
    families = ", ".join(row.name for row in rows)
    return (
        f"{channels} input channels and {_silence(clues)} how it was trained: "
        f"name its family and task; its weights fit {families}{guess}"
    )


def _silence(clues: Clues) -> str:
    """What there is that does not say it."""
    if clues.pipeline.startswith("Marigold") and not clues.scheduler:
        return "scheduler/scheduler_config.json, which would say it, is missing beside it; nothing else tells"
    return f"its index ({clues.pipeline}) does not say" if clues.pipeline else "nothing beside it says"
