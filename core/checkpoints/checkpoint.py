"""Checkpoint: where the networks of one recipe lie, in any supported layout; and the project's own file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backbone import Context, Shapes
from ..errors import UserError
from ..generations import CUSTOM, END, START, latent_space
from ..plain_files import read_npy
from ..recipe import KEY, Recipe, from_header, to_header
from ..tasks import task_named
from .architecture import UNetArchitecture, VAEArchitecture
from .clues import Clues, task_in
from .families import (
    FAMILIES,
    Beside,
    Family,
    family_named,
    fits,
    recipe_for,
    recognise,
    title_of,
    with_heads,
)
from .published import describe_licence
from .strangers import plain, refuse_closed, refuse_pickle, refuse_stranger
from .tensors import (
    INNER_HEAD,
    STEMS,
    CheckpointError,
    Weights,
    find_files,
    header_object,
    network,
    pick_head,
    pick_unet,
    pick_vae,
    quantised,
    read,
    read_json,
    read_metadata,
    read_shapes,
    save_tensors,
    shown,
    strip,
)
from .tiny_vae_file import LIGHT_KEY, Stored, latents_of, named, own_light

NETWORK_KEYS = {name: KEY.replace(".recipe", f".{name}") for name in ("unet", "vae", "head")}
ADAPTER_KEY = KEY.replace(".recipe", ".adapter")
CONTEXT_FILES = ("empty_text_embed.safetensors", "empty_text_embed.npy")
PROMPTS_FILE = "text_embeds.safetensors"
"""The embeddings of several prompts, each under the name of its task."""


@dataclass(frozen=True)
class Checkpoint:
    """One recipe and the networks that it runs on, all still on disk."""

    path: Path
    recipe: Recipe
    unet: Weights
    architecture: UNetArchitecture
    vae: Weights | None = None
    vae_architecture: VAEArchitecture | None = None
    head: Weights | None = None
    context: Context | None = None
    """The text context that came with it, whole."""
    text_encoder: Path | None = None
    """A folder in diffusers layout that can make the context where none came."""
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
    if path.is_dir():
        own = own_file(path)
        return open_own(own, task) if own else open_folder(path, family, task)
    if KEY in read_metadata_if_any(path):
        return open_own(path, task)
    return open_single(path, family, task)


def absolute(path: Path) -> Path:
    """With a name and a parent, which "." and "unet/.." do not show; links are not followed."""
    return Path(os.path.abspath(path))


def read_metadata_if_any(path: Path) -> dict[str, str]:
    """The safetensors metadata; a pickle has none."""
    return {} if path.suffix == ".bin" else read_metadata(path)


# The project's own file


def own_file(folder: Path) -> Path | None:
    """The one in a folder that is called as in repositories, model.safetensors."""
    files = find_files(folder) if unet_folders(folder) == [folder] else ()
    return files[0] if len(files) == 1 and KEY in read_metadata_if_any(files[0]) else None


def open_own(path: Path, task: str = "") -> list[Checkpoint]:
    """The recipes of a file written by write_checkpoint."""
    metadata = read_metadata(path)
    if ADAPTER_KEY in metadata:
        raise CheckpointError(f"{path.name} is an adapter, which needs a base: use --adapter or Apply Adapter.")
    if LIGHT_KEY in metadata:
        raise CheckpointError(
            f"{path.name} holds light halves of a VAE only, which need a checkpoint: give it as --decoder or "
            "--encoder, or write it into the checkpoint by `export`."
        )
    try:
        recipes = from_header(metadata, path.name)
    except UserError as error:
        raise CheckpointError(str(error)) from None
    configs = {name: header_object(metadata, key, path) for name, key in NETWORK_KEYS.items()}
    wanted = [recipe for recipe in recipes if not task or is_called(recipe, task)]
    if not wanted:
        held = ", ".join(recipe.id for recipe in recipes)
        raise CheckpointError(f"{path.name} was trained for {held}, not for {task}: name one of these.")
    unet, architecture = as_unet(network((path,), lambda names: strip(names, "unet.")), configs["unet"], path)
    vae, vae_architecture = own_vae(path, configs["vae"], architecture.base)
    return [
        Checkpoint(
            path, recipe, unet, architecture, vae, vae_architecture,
            head=own_head(path, recipe),
            context=own_context(path, recipe, architecture) or find_context((path.parent,), architecture, recipe),
            text_encoder=find_text_encoder(path.parent),
            recognised=recipe.family,
            decoder=own_light(path, "decoder", recipe),
            encoder=own_light(path, "encoder", recipe),
            siblings=siblings_of(recipe, recipes),
        )
        for recipe in wanted
    ]  # fmt: skip


def siblings_of(recipe: Recipe, recipes: Iterable[Recipe]) -> tuple[Recipe, ...]:
    """Those of the others that read another target of the same passes."""
    return tuple(other for other in recipes if other != recipe and other.targets > 1 and other.run == recipe.run)


def is_called(recipe: Recipe, name: str) -> bool:
    """By its id, its task, or one of the task's other names."""
    return name in (recipe.id, recipe.row.name, *recipe.row.aliases)


def own_config(path: Path, part: str) -> dict[str, Any]:
    """What the header of a file of the project's own says of its unet, vae or head; {} for any other file."""
    return header_object(read_metadata_if_any(path), NETWORK_KEYS[part], path)


def own_vae(path: Path, config: Mapping[str, Any], base: str) -> tuple[Weights | None, VAEArchitecture | None]:
    """The VAE in the file, else the one beside it."""
    inside = network((path,), lambda names: strip(names, "vae."))
    return as_vae(inside, config, path, base) if inside.shapes else find_vae((path.parent,), base)


def own_head(path: Path, recipe: Recipe) -> Weights | None:
    """The head that the recipe names. CheckpointError if the file lacks it."""
    if not recipe.head:
        return None
    head = network((path,), lambda names: strip(names, f"head.{recipe.head}."))
    if not head.shapes:
        raise CheckpointError(
            f"{path.name} lacks the head {recipe.head!r} that its recipe {recipe.id} needs: export it again."
        )
    return head


def own_context(path: Path, recipe: Recipe, architecture: UNetArchitecture) -> Context | None:
    """The recipe's own text context."""
    name = f"context.{recipe.id}"
    tensors = read(path, {name: name})
    return as_context(tensors[name], architecture, path) if name in tensors else None


def write_checkpoint(
    path: Path,
    recipes: list[Recipe],
    unet: tuple[UNetArchitecture, Mapping[str, Tensor]],
    vae: tuple[VAEArchitecture, Mapping[str, Tensor]] | None = None,
    heads: Mapping[str, Mapping[str, Tensor]] | None = None,
    contexts: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
    light: Stored | None = None,
) -> None:
    """Write the project's single file: networks under diffusers names, recipes and configs in the header.

    heads: {name: tensors}; contexts: {recipe id: (1, L, D)}; metadata: further header fields, such as modelspec.*;
    light: {role: {name: tensors}}, the halves that recipes name.
    UserError if two recipes have one id, or a context belongs to none of them.
    """
    ids = [recipe.id for recipe in recipes]
    if len(set(ids)) < len(ids) or not set(contexts or {}) <= set(ids):
        raise UserError(f"Recipes {', '.join(ids)} need a name of their own each, and contexts must bear one of them.")
    tensors = {f"unet.{name}": tensor for name, tensor in unet[1].items()}
    header = {**to_header(recipes), NETWORK_KEYS["unet"]: json.dumps(unet[0].config())}
    if vae is not None:
        tensors |= {f"vae.{name}": tensor for name, tensor in vae[1].items()}
        header[NETWORK_KEYS["vae"]] = json.dumps(vae[0].config())
    for head, weights in (heads or {}).items():
        tensors |= {f"head.{head}.{name}": tensor for name, tensor in weights.items()}
    tensors |= named(light or {})
    # a copy each: recipes may share one, and the format refuses tensors that share memory
    tensors |= {f"context.{name}": tensor.clone() for name, tensor in (contexts or {}).items()}
    header |= {"format": "pt", **(metadata or {})}
    save_tensors(path, tensors, header)


def describe(path: Path, family: str = "auto", task: str = "") -> dict[str, Any]:
    """What a person may want to know of a checkpoint, or of a VAE alone, as plain data; hardly any weights are read.

    What its files do not say stands under "problem", in a sentence. CheckpointError only where nothing can be read.
    """
    path = absolute(path)
    refuse_pickle(path)
    alone = vae_alone(path)
    if alone is not None:
        return {"path": path.name, "vae": describe_vae(alone)}
    places = needed_unet_folders(path) if path.is_dir() else [path]
    return {"path": path.name, "checkpoints": [row for place in places for row in describe_all(place, family, task)]}


def describe_all(path: Path, family: str, task: str) -> Iterator[dict[str, Any]]:
    """A row for each recipe on one UNet, or one that says why there is none."""
    try:
        yield from (describe_recipe(checkpoint) for checkpoint in open_all(path, family, task))
    except UnsuitedError as error:
        unet = network(find_files(path) if path.is_dir() else (path,), pick_unet)
        yield {**describe_unet(path, unet.shapes), **describe_latents(vae_of(path)[0]), "problem": str(error)}


def describe_unet(path: Path, shapes: Shapes) -> dict[str, Any]:
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
        **describe_unet(checkpoint.path, checkpoint.unet.shapes),
        "family": title_of(recipe.family),
        **describe_licence(recipe.licence, recipe.family),
        "context": f"{tuple(checkpoint.context.tokens.shape)}" if checkpoint.context else encoder,
        "id": recipe.id,
        "recipe": asdict(recipe),
        "unet": checkpoint.architecture.config(),
        "vae": vae.config() if vae else "none: connect one",
        **describe_latents(checkpoint.vae),
    }


def describe_vae(vae: Weights) -> dict[str, Any]:
    """What its weights alone say, which are the same in kind for Stable Diffusion's and SDXL's."""
    _, architecture = as_vae(vae, {}, vae.path)
    parameters = sum(int(np.prod(shape)) for shape in vae.shapes.values())
    return {"parameters": parameters, "widths": list(architecture.widths), **describe_latents(vae)}


def describe_latents(vae: Weights | None) -> dict[str, str]:
    """What tells a VAE's latents from others', in one line: as a row of KNOWN_VAES says it."""
    latents = latents_of(vae)
    return {"latents": str(latents)} if latents else {}


def vae_alone(path: Path) -> Weights | None:
    """The VAE in a file or folder that holds no UNet; None if it does, or holds neither."""
    files = find_files(path if unet_folders(path) else path / "vae") if path.is_dir() else (path,)
    vae = network(files, pick_vae)
    return vae if vae.shapes and not network(files, pick_unet).shapes else None


# Folders


def open_folder(folder: Path, family: str, task: str) -> list[Checkpoint]:
    """Published repositories, single UNet folders, and whatever has a unet/ in it."""
    unets = needed_unet_folders(folder)
    found, unsuited = [], []
    for unet in unets:
        try:
            found += open_unet_folder(unet, family, task)
        except UnsuitedError as error:
            unsuited.append((unet, error))
        except CheckpointError:
            # a damaged network of another task is no fault; one of this task must not make room for its older version
            if not is_for_another(unet, task):
                raise
    if found:
        return sorted(found, key=lambda checkpoint: rank(checkpoint, family))
    for unet, error in unsuited:
        if len(unets) == 1 or not is_for_another(unet, task):
            raise error
    raise CheckpointError(f"{shown(folder)} holds nothing for {task}, only {', '.join(unet.name for unet in unets)}.")


def is_for_another(unet: Path, task: str) -> bool:
    """Whether a folder's name says another task than the one that is asked for."""
    said = task_in(unet.name)
    return bool(task and said) and said != task_named(task).name


def rank(checkpoint: Checkpoint, family: str) -> tuple[bool, int]:
    """Sorts checkpoints of one task: first those that are of the named family by their own files."""
    return checkpoint.recognised != family, -family_named(checkpoint.recipe.family).preference


def needed_unet_folders(folder: Path) -> list[Path]:
    """unet_folders(), or the CheckpointError that there are none."""
    unets = unet_folders(folder)
    if not unets:
        refuse_closed(folder)
        raise CheckpointError(
            f"{shown(folder)} holds no UNet: expected unet/, unet_<task>_v2/ or diffusion_pytorch_model.safetensors "
            "in it."
        )
    return unets


def unet_folders(folder: Path) -> list[Path]:
    """The UNet folders in a folder, or the folder itself if it is one."""
    try:
        names = [name for name in os.listdir(folder) if name == "unet" or name.startswith("unet_")]
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"{shown(folder)} cannot be looked into ({reason}): check the path.") from None
    inner = sorted(folder / name for name in names if os.path.isdir(folder / name))
    if any(map(holds_weights, inner)):
        return inner
    return [folder] if holds_weights(folder) else []


def holds_weights(folder: Path) -> bool:
    """Whether there are any, be they damaged: whoever reads them is told so."""
    try:
        return bool(find_files(folder))
    except CheckpointError:
        return True


def open_unet_folder(folder: Path, family: str, task: str) -> list[Checkpoint]:
    """One UNet folder, for each task of its; VAE, head, context and configs are looked for in it and beside it."""
    files = find_files(folder)
    if not files:
        raise CheckpointError(
            f"{shown(folder)} holds no weights: expected diffusion_pytorch_model.safetensors in it; download it again."
        )
    unet, architecture = as_unet(network(files, pick_unet), read_json(folder / "config.json"), folder)
    head_name, head = find_head(folder)
    clues = Clues(
        architecture,
        folder.name,
        folder.parent.name,
        read_json(folder.parent / "model_index.json"),
        read_json(folder.parent / "scheduler" / "scheduler_config.json"),
        head_name,
        head_shapes=head.shapes if head else {},
    )
    recipes, every = decide(folder, clues, family, task)
    refuse_headless(folder, clues, recipes[0], unet)
    vae, vae_architecture = vae_of(folder, architecture.base)
    recognised = recognise(clues)
    return [
        Checkpoint(
            folder, recipe, unet, architecture, vae, vae_architecture,
            head=head if recipe.head else None,
            context=find_context((folder, folder.parent), architecture, recipe),
            text_encoder=find_text_encoder(folder.parent),
            recognised=recognised.name if recognised else "",
            siblings=siblings_of(recipe, every),
        )
        for recipe in recipes
    ]  # fmt: skip


def keep(names: list[str]) -> dict[str, str]:
    """A renaming that renames nothing."""
    return {name: name for name in names}


def find_head(folder: Path) -> tuple[str, Weights | None]:
    """The head that belongs to a UNet folder, and its own folder's name: beside unet/, or beside a UNet that its name
    says was trained for one."""
    rows = FAMILIES.values() if folder.name == "unet" else with_heads(folder.name)
    for name, needed in ((name, row.beside.head_weight) for row in rows for name in row.beside.heads):
        files = find_files(folder.parent / name, (*STEMS, name))
        head = network(files, keep) if files else None
        if head and (not needed or needed in head.shapes):
            return name, head
    return "", None


def vae_of(path: Path, base: str = CUSTOM) -> tuple[Weights | None, VAEArchitecture | None]:
    """The VAE in a file, else beside it; in a UNet's folder or beside that. base: the generation of that UNet."""
    if path.is_dir():
        return find_vae((path, path.parent), base)
    inside = network((path,), pick_vae)
    return as_vae(inside, {}, path, base) if inside.shapes else find_vae((path.parent,), base)


def find_vae(folders: tuple[Path, ...], base: str = CUSTOM) -> tuple[Weights | None, VAEArchitecture | None]:
    """The VAE in one of these folders, with the decoder that was trained beside it if there is one."""
    trained, beside = find_decoder(folders)
    for folder in folders:
        files = find_files(folder / "vae")
        if files:
            weights = network((*files, *trained), beside.pick_vae)
            return as_vae(weights, read_json(folder / "vae" / "config.json"), files[0], base)
    if trained:
        raise CheckpointError(
            f"{shown(trained[0])} is a decoder without its encoder: put the vae/ of {beside.vae} beside it."
        )
    return None, None


def find_decoder(folders: tuple[Path, ...]) -> tuple[tuple[Path, ...], Beside]:
    """What stands in one of these folders in place of parts of the VAE, and how its family lays that out."""
    for row in FAMILIES.values():
        files = tuple(file for folder in folders for name in row.beside.decoder for file in find_files(folder / name))
        if files:
            return files, row.beside
    return (), Beside()


def find_context(
    folders: tuple[Path, ...], architecture: UNetArchitecture, recipe: Recipe | None = None
) -> Context | None:
    """The embedding of the recipe's prompt in one of these folders; of the empty one without a recipe."""
    if recipe is not None and recipe.prompt:
        return find_prompt(folders, architecture, recipe)
    files = (folder / name for folder in folders for name in CONTEXT_FILES)
    return next((as_context(read_context(file), architecture, file) for file in files if os.path.isfile(file)), None)


def find_prompt(folders: tuple[Path, ...], architecture: UNetArchitecture, recipe: Recipe) -> Context | None:
    """That of a prompt, which lies under a name of its task in a file of several."""
    for file in (folder / PROMPTS_FILE for folder in folders if os.path.isfile(folder / PROMPTS_FILE)):
        held = read_shapes(file)
        for name in (recipe.id, recipe.row.name, *recipe.row.aliases):
            if name in held:
                return as_context(read_context(file, name), architecture, file)
    return None


def find_text_encoder(folder: Path) -> Path | None:
    """The text encoder's folder in a repository."""
    encoder = folder / "text_encoder"
    return encoder if find_files(encoder) and os.path.isfile(encoder / "config.json") else None


def text_weights(folder: Path) -> Weights:
    """Of a text encoder's folder, by the names of `text_names`. CheckpointError if a file is damaged."""
    return network(find_files(folder), text_names)


def text_names(names: list[str]) -> dict[str, str]:
    """{name: what it is called in the encoder}. Releases of transformers differ in whether text_model. stands before
    every name, and whether the positions' numbers, which every encoder knows, are kept."""
    return {name: name.removeprefix("text_model.") for name in names if not name.endswith(".position_ids")}


def prompt_tokens(text_encoder: Path, words: list[int], padded: bool = False) -> list[int]:
    """The token ids of a prompt whose words have these, by the tokenizer beside the encoder: from start to end, padded
    to 77 or not."""
    folder = text_encoder.parent / "tokenizer"
    whole = read_json(folder / "tokenizer.json")
    vocabulary = read_json(folder / "vocab.json") or table(table(whole, "model"), "vocab")
    start, end = vocabulary.get("<|startoftext|>", START), vocabulary.get("<|endoftext|>", END)
    # SD1 pads with the end, SD2 with "!"; where both files speak, the map is right
    said = {**read_json(folder / "tokenizer_config.json"), **read_json(folder / "special_tokens_map.json")}
    stated = said.get("pad_token") or "<|endoftext|>"
    pad = vocabulary.get(str(stated.get("content") if isinstance(stated, dict) else stated), end)
    if not all(isinstance(token, int) for token in (start, end, pad)):
        raise CheckpointError(f"{shown(folder)} gives words other numbers than whole ones: get the folder again.")
    return [start, *words, end, *([pad] * (75 - len(words)) if padded else [])]


def table(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The JSON object under a key, empty where there is none."""
    held = holder.get(key)
    return held if isinstance(held, dict) else {}


def read_context(path: Path, key: str = "") -> Tensor:
    """A text embedding (1, L, D) float32 from .safetensors (its only tensor, or `key`) or .npy."""
    tokens = read_tensor(path, key, "text embedding")
    return tokens[None] if tokens.ndim == 2 else tokens


def read_tensor(path: Path, key: str, what: str) -> Tensor:
    """A tensor float32 from .safetensors (its only one, or `key`) or .npy; what: what it is, for people."""
    if not path.is_file():
        raise CheckpointError(f"There is no {what} {path}: check the path.")
    if path.suffix == ".npy":
        try:
            return torch.from_numpy(read_npy(path).astype(np.float32))
        except UserError as error:
            raise CheckpointError(f"{shown(path)} is not a plain .npy array ({error}): get it again.") from None
    held = network((path,), keep).load()
    if (key and key not in held) or (not key and len(held) != 1):
        raise CheckpointError(f"{shown(path)} holds {', '.join(held)}: name one as {path.name}:KEY.")
    return (held[key] if key else next(iter(held.values()))).float()


def as_context(tokens: Tensor, architecture: UNetArchitecture, path: Path) -> Context:
    """Tokens (1, L, D) that this network can read. CheckpointError, naming `path`, if it cannot."""
    wanted = architecture.context_dim
    if tokens.ndim != 3 or tokens.shape[0] != 1 or tokens.shape[2] != wanted:
        raise CheckpointError(
            f"{shown(path)} holds a text context of shape {tuple(tokens.shape)}; this network reads "
            f"(1, tokens, {wanted}): give the embedding of its own text encoder."
        )
    if not tokens.isfinite().all():
        raise CheckpointError(f"{shown(path)} gives no numbers: its text context holds NaN; get the file again.")
    return Context(tokens.float())


# Single files without a recipe


def open_single(path: Path, family: str, task: str) -> list[Checkpoint]:
    """A UNet, or a whole Stable Diffusion checkpoint, in one file, for each task of its; its name may say family and
    task."""
    unet, architecture = as_unet(network((path,), pick_unet), {}, path)
    inside = network((path,), pick_head)
    head = inside if inside.shapes else None
    name = INNER_HEAD.rstrip(".") if head else ""
    clues = Clues(architecture, path.stem, path.parent.name, head=name, head_shapes=inside.shapes)
    recipes, every = decide(path, clues, family, task)
    refuse_headless(path, clues, recipes[0], unet)
    vae, vae_architecture = vae_of(path, architecture.base)
    recognised = recognise(clues)
    return [
        Checkpoint(
            path, recipe, unet, architecture, vae, vae_architecture,
            head=head if recipe.head else None,
            context=find_context((path.parent,), architecture, recipe),
            text_encoder=find_text_encoder(path.parent),
            recognised=recognised.name if recognised else "",
            siblings=siblings_of(recipe, every),
        )
        for recipe in recipes
    ]  # fmt: skip


# What all of them share


def decide(path: Path, clues: Clues, family: str, task: str) -> tuple[list[Recipe], list[Recipe]]:
    """The recipes that are wanted of what lies at `path`, and all of its network's.

    UnsuitedError if these cannot be told, or are not what was asked for.
    """
    row: Family | None = recognise(clues) if family == "auto" else family_named(family)
    wanted = task_named(task).name if task else ""
    if row is None and (sentence := plain(path, clues)):
        raise UnsuitedError(sentence)
    if row is None:
        raise UnsuitedError(f"{shown(path)} is a UNet with {doubt(clues)}.")
    try:
        found = [recipe_for(row, clues, each) for each in (row.tasks(clues) if several(row, clues) else (wanted,))]
        asked = [recipe for recipe in found if not wanted or is_called(recipe, wanted)]
        return asked or [recipe_for(row, clues, wanted)], found
    except UserError as error:
        raise UnsuitedError(f"{shown(path)} cannot be used as {row.title}: {str(error).rstrip('.')}.") from None


def refuse_headless(path: Path, clues: Clues, recipe: Recipe, unet: Weights) -> None:
    """UnsuitedError for a network that was trained for a head and would be run without one."""
    named = with_heads(clues.folder)
    if recipe.head or ("conv_out.weight" in unet.shapes and not named):
        return
    rows = named or [row for row in FAMILIES.values() if row.beside.heads and fits(row, clues)]
    ways = " or ".join(f"as {row.name}, with {row.beside.heads[0]}/ beside it" for row in rows)
    raise UnsuitedError(f"{shown(path)} was trained for a head: run it {ways}.")


def several(row: Family, clues: Clues) -> bool:
    """Whether one network of it answers several tasks."""
    return len(row.tasks(clues)) > 1 and fits(row, clues)


def doubt(clues: Clues) -> str:
    """Why no family is recognised, and what to do."""
    channels = clues.architecture.in_channels
    rows = [row for row in FAMILIES.values() if fits(row, clues)]
    if not rows:
        return (
            f"{channels} input channels; expected 4 (image), 8 (image and target), or 4 more than its "
            "output: choose a perception checkpoint"
        )
    named = next((row.name for row in rows if row.hint and row.hint in clues.names), "")
    guess = f" (by its name {named})" if named else ""
    families = ", ".join(row.name for row in rows)
    return (
        f"{channels} input channels and {silence(clues)} how it was trained: name its family and task; its weights fit "
        f"{families}{guess}"
    )


def silence(clues: Clues) -> str:
    """What there is that does not say it."""
    if clues.pipeline.startswith("Marigold") and not clues.scheduler:
        return "scheduler/scheduler_config.json, which would say it, is missing beside it; nothing else tells"
    return f"its index ({clues.pipeline}) does not say" if clues.pipeline else "nothing beside it says"


def refuse_quantised(weights: Weights, path: Path) -> None:
    """CheckpointError for weights that were packed into fewer bits, by whom."""
    names = weights.shapes or [name for file in weights.files for name in read_shapes(file)]
    if packer := quantised(names):
        raise CheckpointError(f"{shown(path)} is quantised ({packer}); get the fp16 file of the same model.")


def as_unet(weights: Weights, config: Mapping[str, Any], path: Path) -> tuple[Weights, UNetArchitecture]:
    """The UNet and its shape. CheckpointError if it is none of Stable Diffusion's, or packed into fewer bits."""
    refuse_stranger(weights, config, path)
    refuse_quantised(weights, path)
    try:
        architecture = UNetArchitecture.from_weights(weights.shapes).with_config(config)
    except UserError as error:
        raise CheckpointError(f"{shown(path)} cannot be used: {error}.") from None
    channels, given = latent_space(architecture.base).channels, architecture.out_channels
    if given != channels and (given % channels or architecture.in_channels != channels + given):
        raise CheckpointError(
            f"{shown(path)} cannot be used: its UNet has {given} output channels, expected are {channels}."
        )
    return weights, architecture


def as_vae(
    weights: Weights, config: Mapping[str, Any], path: Path, base: str = CUSTOM
) -> tuple[Weights, VAEArchitecture]:
    """The VAE and its shape. base: whose latents it makes. CheckpointError if it is none of Stable Diffusion's."""
    refuse_quantised(weights, path)
    try:
        return weights, VAEArchitecture.from_weights(weights.shapes, latent_space(base)).with_config(config)
    except UserError as error:
        raise CheckpointError(f"{shown(path)} cannot be used as a VAE: {error}.") from None
