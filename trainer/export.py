"""`export` and `extract`: checkpoints and adapters of any layout -> the project's own files, or diffusers' layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..core.checkpoints.adapter_file import write_adapter
from ..core.checkpoints.adapters import Adapter, Delta, LowRank, Part, merge
from ..core.checkpoints.assemble import text_context
from ..core.checkpoints.bases import negative_of, one_by_one, open_adapted
from ..core.checkpoints.checkpoint import Checkpoint
from ..core.checkpoints.extract import Extracted, Source, common_layers, extract
from ..core.checkpoints.fingerprint import fingerprint
from ..core.checkpoints.modelspec import modelspec
from ..core.checkpoints.networks import Networks
from ..core.checkpoints.own_file import write_own
from ..core.checkpoints.tensors import DTYPES, Weights, stored
from ..core.checkpoints.tiny_vae_file import latents_note, meant_for, open_light
from ..core.errors import UserError
from ..core.recipe import Recipe
from ..core.tiny_vae import ROLES, Role
from .host import Diffusers, named_context, refuse_text_encoder
from .lora_file import write_lora
from .model_choice import ModelChoice
from .outputs import files_of, places
from .repository import check_folder, write_repository

LAYOUTS = ("own", "diffusers", "kohya")
"""The project's own file; diffusers' folder of networks, or names of LoRA; kohya's names of LoRA."""


@dataclass(frozen=True)
class Export:
    """What `export` and `extract` are asked for."""

    choice: ModelChoice
    out: Path
    """The .safetensors file to write, or the folder."""
    layout: str = "own"
    """A row of LAYOUTS."""
    licence: str = ""
    data: str = ""
    """For the header: the licence of the weights, and what they were trained on."""
    dtype: str = "fp16"
    """A row of DTYPES: the precision to store."""
    decoder: list[Path] = field(default_factory=list)
    encoder: list[Path] = field(default_factory=list)
    """Light halves to put into it, one for each task."""
    merge: bool = False
    """Write the base with the adapter added in, not the adapter."""
    rank: int | None = 16
    """Of the low-rank layers of `extract`; None keeps every difference."""


def export(wanted: Export) -> list[str]:
    """Write what the arguments name as one file of the project's; lines for a person about it."""
    whole = wanted.choice.adapter is None or wanted.merge
    _check_layout(wanted, whole)
    if wanted.choice.adapter is None:
        checkpoints = [_described(checkpoint, wanted) for checkpoint in wanted.choice.open_every()]
        first = checkpoints[0]
        _write_network(checkpoints, first.unet.load(), wanted)
        return [_written_line(wanted.out, [checkpoint.recipe for checkpoint in checkpoints])]
    base = wanted.choice.open_networks()
    checkpoint, adapter = open_adapted(base, wanted.choice.adapter, wanted.choice.family, wanted.choice.task)
    refuse_text_encoder(adapter, wanted.choice.context)
    checkpoint = _described(checkpoint, wanted)
    if wanted.merge:
        channels = adapter.in_channels or base.architecture.in_channels
        widened = replace(checkpoint, architecture=replace(base.architecture, in_channels=channels))
        _write_network([widened], merge(adapter, base.unet.load()), wanted)
    else:
        parts = {layer: _cast_part(part, DTYPES[wanted.dtype]) for layer, part in adapter.parts.items()}
        _write_parts([checkpoint], base, replace(adapter, parts=parts), wanted)
    return [_written_line(wanted.out, [checkpoint.recipe])]


def _check_layout(wanted: Export, whole: bool) -> None:
    """UserError for what a layout cannot hold, or a place where it cannot be written. whole: networks, no adapter."""
    if wanted.layout == "kohya" and whole:
        raise UserError("--layout kohya names the layers of a LoRA: give --adapter, without --merge.")
    if wanted.layout != "own" and (wanted.decoder or wanted.encoder):
        raise UserError(f"--layout {wanted.layout} has no place for light halves of a VAE: leave them out.")
    if wanted.layout == "diffusers" and whole:
        check_folder(wanted.out)
    else:
        _check_out(wanted)


def export_difference(wanted: Export) -> list[str]:
    """Write what a fine-tuned UNet changed of its base as an adapter; lines for a person on what was kept."""
    _check_out(wanted)
    base = wanted.choice.open_networks()
    checkpoints = [_described(checkpoint, wanted) for checkpoint in wanted.choice.open_every()]
    unet = checkpoints[0].unet
    tuned, start = (Source(one_by_one(weights), weights.shapes) for weights in (unet, base.unet))
    layers = tqdm(
        extract(tuned, start, wanted.rank, DTYPES[wanted.dtype]),
        total=len(common_layers(tuned.shapes, start.shapes)),
        leave=False,
    )
    extracted = list(layers)
    if not extracted:
        raise UserError(
            f"{wanted.choice.model} is the same as its base {wanted.choice.base}: there is nothing to extract."
        )
    adapter = Adapter(wanted.out, {layer: part for layer, part, _ in extracted}, "extracted")
    _write_parts(checkpoints, base, adapter, wanted)
    lines = [*_report(extracted), _written_line(wanted.out, [checkpoint.recipe for checkpoint in checkpoints])]
    if _has_own_decoder(checkpoints[0], base):
        lines.append("Its VAE decodes otherwise than the base's and is no part of the adapter: keep it beside it.")
    return lines


def _check_out(wanted: Export) -> None:
    """UserError for a file that cannot be written, or that is being read, by whatever name."""
    out = wanted.out
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out} is not named .safetensors: give it that ending.")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file in it.")
    read = (*files_of(wanted.choice), *wanted.decoder, *wanted.encoder)
    if any(place in places(out) for source in read for place in places(source)):
        raise UserError(f"--out {out} is the file that is read: name another.")
    out.parent.mkdir(parents=True, exist_ok=True)


def _has_own_decoder(checkpoint: Checkpoint, base: Networks) -> bool:
    """Whether a checkpoint's VAE was trained along."""
    if checkpoint.vae is None or base.vae is None:
        return False
    one, other = one_by_one(checkpoint.vae), one_by_one(base.vae)
    same = (torch.allclose(one(name).float(), other(name).float(), 1e-2, 1e-3) for name in DECODER)
    return not all(same)


DECODER = ("decoder.conv_in.weight", "decoder.conv_out.weight", "post_quant_conv.weight")
"""Enough of a decoder to tell whether it was trained."""


def _described(checkpoint: Checkpoint, wanted: Export) -> Checkpoint:
    """With the recipe as the arguments have it."""
    recipe = checkpoint.recipe.override(wanted.choice.overrides)
    licence, data = wanted.licence or recipe.licence, wanted.data or recipe.data
    return lightened(replace(checkpoint, recipe=replace(recipe, licence=licence, data=data)), wanted)


def lightened(checkpoint: Checkpoint, wanted: Export) -> Checkpoint:
    """With the light halves that the arguments name for its recipe."""
    for role in ROLES:
        for file in getattr(wanted, role):
            if meant_for(file, role, checkpoint.recipe):
                light = open_light(file, role, checkpoint.recipe, checkpoint.vae)
                recipe = replace(checkpoint.recipe, **{role: light.name, f"{role}_cost": light.cost})
                checkpoint = replace(checkpoint, recipe=recipe, **{role: light.weights})
    return checkpoint


def _light_of(checkpoints: list[Checkpoint], wanted: Export) -> dict[Role, dict[str, dict[str, Tensor]]]:
    """{role: {name: tensors}} of the halves that the recipes name. UserError for two of one name, or nobody's file."""
    held: dict[Role, dict[str, Weights]] = {role: {} for role in ROLES}
    for checkpoint in checkpoints:
        for role in ROLES:
            light, name = getattr(checkpoint, role), getattr(checkpoint.recipe, role)
            if light is not None and held[role].setdefault(name, light).files != light.files:
                raise UserError(f"Two light halves are called {name!r}: train one with another light.light_name.")
    used = {file for lights in held.values() for light in lights.values() for file in light.files}
    for file in (file for role in ROLES for file in getattr(wanted, role) if file not in used):
        ids = ", ".join(checkpoint.recipe.id for checkpoint in checkpoints)
        raise UserError(f"{file} holds nothing for {ids}: export the checkpoint that it was trained for.")
    dtype = DTYPES[wanted.dtype]
    return {role: {name: cast(light.load(), dtype) for name, light in lights.items()} for role, lights in held.items()}


def _about_light(light: Mapping[Role, Mapping[str, object]], checkpoint: Checkpoint) -> dict[str, str]:
    """The header field that says whose latents they are for, if there are any."""
    return latents_note(checkpoint.vae) if any(light.values()) else {}


def _write_network(checkpoints: list[Checkpoint], unet: Mapping[str, Tensor], wanted: Export) -> None:
    """The networks of some recipes, whole, with their contexts baked in."""
    first, dtype = checkpoints[0], DTYPES[wanted.dtype]
    vae = None
    if first.vae is not None and first.vae_architecture is not None:
        vae = first.vae_architecture, cast(first.vae.load(), dtype)
    recipes = [checkpoint.recipe for checkpoint in checkpoints]
    if wanted.layout == "diffusers":
        write_repository(
            wanted.out,
            [replace(recipe, **dict.fromkeys(LIGHT_FIELDS, "")) for recipe in recipes],
            unet=(first.architecture, cast(unet, dtype)),
            vae=vae,
            heads=_heads_of(checkpoints, dtype),
            contexts=_contexts_of(checkpoints, wanted),
        )
        return
    light = _light_of(checkpoints, wanted)
    write_own(
        wanted.out,
        recipes,
        unet=(first.architecture, cast(unet, dtype)),
        vae=vae,
        heads=_heads_of(checkpoints, dtype),
        light=light,
        contexts=_contexts_of(checkpoints, wanted),
        metadata={**modelspec(recipes, recipes[0].base, title=wanted.out.stem), **_about_light(light, first)},
    )


LIGHT_FIELDS = ("decoder", "decoder_cost", "encoder", "encoder_cost")
"""Of a recipe: what only the project's own file holds."""


def _write_parts(checkpoints: list[Checkpoint], base: Networks, adapter: Adapter, wanted: Export) -> None:
    """An adapter with its manifest; the base given with it is the one it was trained on, unless it says otherwise."""
    first = checkpoints[0]
    described = replace(
        adapter,
        recipes=tuple(checkpoint.recipe for checkpoint in checkpoints),
        base=base.architecture.base,
        fingerprint=adapter.fingerprint or fingerprint(one_by_one(base.unet)),
        licence=first.recipe.licence or adapter.licence,
        data=first.recipe.data or adapter.data,
    )
    if wanted.layout != "own":
        spec = modelspec(described.recipes, first.recipe.base, title=wanted.out.stem, adapter=True)
        write_lora(wanted.out, described, wanted.layout, spec)
        return
    contexts = _contexts_of(checkpoints, wanted)
    heads = _heads_of(checkpoints, DTYPES[wanted.dtype])
    light = _light_of(checkpoints, wanted)
    spec = modelspec(described.recipes, first.recipe.base, title=wanted.out.stem, adapter=True)
    about = {**spec, **_about_light(light, first)}
    write_adapter(wanted.out, described, heads, contexts, about, light)


def _heads_of(checkpoints: list[Checkpoint], dtype: torch.dtype) -> dict[str, dict[str, Tensor]]:
    """{name: tensors} of the heads that the recipes name."""
    held = {checkpoint.recipe.head: checkpoint.head for checkpoint in checkpoints}
    return {name: cast(head.load(), dtype) for name, head in held.items() if head is not None}


def _contexts_of(checkpoints: list[Checkpoint], wanted: Export) -> dict[str, Tensor]:
    """The tokens that each recipe uses. A guided one gets its prompt with each image; the empty one is its contrast."""
    prompts = {checkpoint.recipe.prompt: checkpoint.recipe.id for checkpoint in checkpoints}
    if wanted.choice.context and len(prompts) > 1:
        raise UserError(
            f"--context is one text, and {', '.join(prompts.values())} have a prompt each: name one with --task, or "
            "put text_embeds.safetensors with one under each of these names beside the model."
        )
    found = {}
    for checkpoint in checkpoints:
        recipe, architecture = checkpoint.recipe, checkpoint.architecture
        guided = recipe.guidance_scale != 1
        if wanted.choice.context:
            found[recipe.id] = named_context(wanted.choice.context, architecture).first(recipe.tokens).tokens
        elif not guided:
            found[recipe.id] = text_context(checkpoint, Diffusers()).first(recipe.tokens).tokens
        if guided:
            given = wanted.choice.negative_context
            baked = None if given else negative_of(checkpoint.path, recipe, architecture)
            negative = named_context(given, architecture) if given else baked or text_context(checkpoint, Diffusers())
            found[f"{recipe.id}.negative"] = negative.first(recipe.tokens).tokens
    return found


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """In this precision."""
    return {name: stored(name, tensor, dtype) for name, tensor in tensors.items()}


def _cast_part(part: Part, dtype: torch.dtype) -> Part:
    """In this precision, the scale as it is."""
    held = vars(part)
    tensors = {name: stored(name, value, dtype) for name, value in held.items() if isinstance(value, Tensor)}
    return LowRank(**{**held, **tensors}) if isinstance(part, LowRank) else Delta(**{**held, **tensors})


def _report(extracted: list[Extracted]) -> list[str]:
    """A line a layer: what it became and how much of the difference's energy that holds; and one for all."""
    low = [energy for _, part, energy in extracted if isinstance(part, LowRank)]
    lines = [f"{energy:7.2%}  {_kind_of(part):10}  {layer}" for layer, part, energy in extracted]
    if low:
        mean = sum(low) / len(low)
        lines.append(f"{mean:7.2%}  on average over the {len(low)} low-rank layers, {min(low):.2%} at least")
    return lines


def _kind_of(part: Part) -> str:
    return f"rank {part.up.shape[1]}" if isinstance(part, LowRank) else "whole"


def _written_line(out: Path, recipes: list[Recipe]) -> str:
    files = out.rglob("*") if out.is_dir() else [out]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return f"{out}: {', '.join(recipe.id for recipe in recipes)}, {size / 1e6:.1f} MB"
