"""Light halves of a VAE on disk: which file holds one, whose latents it is for, and how one is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..backbone import Shapes
from ..errors import UserError
from ..generations import GENERATIONS, LATENT, SD_LATENTS, SDXL, latent_space, share_latents
from ..recipe import Recipe
from ..tiny_vae import Role, build_light, decoder_channels, light_kind
from .fingerprint import Fingerprint, fingerprint, is_fingerprint, matches
from .own_file import KEYS, OwnFile, read_own
from .tensors import CheckpointError, Weights, brought, keep, network, pick_vae, shown, unpickle

ENCODER = (
    "encoder.conv_in.weight",
    "encoder.down_blocks.0.resnets.0.conv1.weight",
    "encoder.down_blocks.1.resnets.0.conv2.weight",
    "encoder.down_blocks.2.downsamplers.0.conv.weight",
    "encoder.mid_block.resnets.1.conv2.weight",
    "encoder.conv_out.weight",
    "quant_conv.weight",
)
"""Enough of a VAE to tell whose latents are its own. Older files of light halves name three of these."""


@dataclass(frozen=True)
class LightHalf:
    """A light half on disk."""

    role: Role
    name: str
    weights: Weights
    cost: str = ""
    """What it costs in the task's own metric; for people."""
    base: str = "sd21"
    """Whose latents it is for."""
    vae: Fingerprint = field(default_factory=dict)
    """Of the VAE that makes them, if the file says so."""


@dataclass(frozen=True)
class Held(Weights):
    """Weights that were read already."""

    tensors: Mapping[str, Tensor]

    def load(self, dtype: torch.dtype | None = None, copy: bool = False) -> dict[str, Tensor]:
        return {name: brought(tensor, dtype, copy) for name, tensor in self.tensors.items()}

    def outlines(self) -> dict[str, Tensor]:
        return {name: tensor.to("meta") for name, tensor in self.tensors.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], *files: Path) -> Held:
        """Under the names that they have."""
        return cls(files, {name: name for name in tensors}, {n: tuple(t.shape) for n, t in tensors.items()}, tensors)


PICKLES = (".pth", ".pt", ".bin")
FULL, LIGHT = "full", "light"
"""The VAE's own half, or the light one that the checkpoint brings; anything else that is chosen is a file."""
TAESD = "taesd"
"""What TAESD's halves are called where they are stored."""


def own_light(file: OwnFile, role: Role, recipe: Recipe) -> Weights | None:
    """The light half that a recipe names, from its file. CheckpointError if the file lacks it, or it is none."""
    light = file.light(role, recipe)
    if light is not None:
        _check_fits(light.shapes, role, recipe, file.path)
    return light


def chosen(role: Role, choice: str, recipe: Recipe, own: Weights | None, vae: Weights | None = None) -> Weights | None:
    """The light half that a person chose, None for the VAE's. CheckpointError if there is none.

    own: the one that came with the recipe. vae: the VAE in whose place it stands, where there is one.
    """
    if choice == FULL:
        return None
    if role == "decoder" and recipe.head:
        raise CheckpointError(f"{recipe.id} is decoded by its head {recipe.head}, not by the VAE: take {FULL}.")
    if choice != LIGHT:
        return open_light(Path(choice), role, recipe, vae).weights
    if own is None:
        raise CheckpointError(
            f"The checkpoint brings no light {role} for {recipe.id}: take {FULL}, or {TAESD.upper()}'s, or train one "
            f'(learn = "{role}").'
        )
    file = read_own(own.path)
    said = _latents_in(file) if file else {}
    if said and vae is not None:  # an adapter's base may have come with another VAE
        _check_latents(LightHalf(role, getattr(recipe, role), own, base=recipe.base, vae=said), recipe, vae)
    return own


def open_light(path: Path, role: Role, recipe: Recipe, vae: Weights | None = None) -> LightHalf:
    """The light half for a recipe in a file of `train`, a checkpoint that has one, or a file of TAESD's.

    vae: the VAE in whose place it stands, where there is one. CheckpointError, in one sentence, if none is for it.
    """
    own = _own_at(path)
    light = _open_stored(own, role, recipe) if own else _open_taesd(path, role)
    _check_fits(light.weights.shapes, role, recipe, path)
    _check_latents(light, recipe, vae)
    return light


def _own_at(path: Path) -> OwnFile | None:
    """The project's own file there; None for one of TAESD's."""
    return None if path.suffix in PICKLES else read_own(path)


def meant_for(path: Path, role: Role, recipe: Recipe) -> bool:
    """Whether a file holds a light half for this very recipe; TAESD's are anybody's."""
    own = _own_at(path)
    return own is None or any(held.id == recipe.id and getattr(held, role) for held in own.recipes)


def _open_stored(file: OwnFile, role: Role, recipe: Recipe) -> LightHalf:
    """From one of the project's own files: what the recipe of the same id names there, else the only one."""
    recipes = {held.id: held for held in file.recipes}
    named = [held for held in (recipes.get(recipe.id), *recipes.values()) if held and getattr(held, role)]
    names = list(dict.fromkeys(getattr(held, role) for held in named))
    if not names or (len(names) > 1 and recipe.id not in recipes):
        held = f"those of {', '.join(names)}" if names else f"no light {role}"
        raise CheckpointError(
            f"{shown(file.path)} holds {held}, none for {recipe.id}: train one, or name another file."
        )
    weights = own_light(file, role, named[0])
    assert weights is not None
    cost = getattr(named[0], f"{role}_cost") if recipe.id in recipes else ""
    return LightHalf(role, names[0], weights, cost, named[0].base, _latents_in(file))


def _open_taesd(path: Path, role: Role) -> LightHalf:
    """From a file as ComfyUI or diffusers keep it."""
    if path.name.startswith(SDXL.taesd):
        raise CheckpointError(f"{path.name} is for the latents of {SDXL.title}: take TAESD's own, taesd_{role}.")
    tensors = unpickle(path) if path.suffix in PICKLES else network((path,), keep).load()
    return LightHalf(role, TAESD, Held.of(renamed(tensors, role), path))


def renamed(tensors: Mapping[str, Tensor], role: Role) -> dict[str, Tensor]:
    """One half under its published names. diffusers keeps both in one file, and the decoder without its first module,
    which has no weights; ComfyUI's VAE says which half it is."""
    for prefix, moved in ((f"{role}.layers.", 1 if role == "decoder" else 0), (f"{TAESD}_{role}.", 0)):
        inner = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        if inner:
            return {_shifted(name, moved): tensor for name, tensor in inner.items()}
    return dict(tensors)


def _shifted(name: str, by: int) -> str:
    number, _, rest = name.partition(".")
    return f"{int(number) + by}.{rest}"


def _check_fits(shapes: Shapes, role: Role, recipe: Recipe, path: Path) -> None:
    """CheckpointError unless it is a light half of this role, for latents of four channels and the task's pictures."""
    try:
        kind = light_kind(shapes)
        with torch.device("meta"):
            build_light(shapes)
    except UserError as error:
        raise CheckpointError(f"{shown(path)}: {error}") from None
    if kind.role != role:
        raise CheckpointError(f"{shown(path)} holds a light {kind.role}, not a light {role}: give it as that.")
    first, last = (shapes[name] for name in kind.ends)
    latent = first[1] if role == "decoder" else last[0]
    if latent != LATENT:
        raise CheckpointError(
            f"{shown(path)} is for latents of {latent} channels; {SD_LATENTS.title} has {SD_LATENTS.channels}."
        )
    if role == "decoder" and decoder_channels(shapes) < recipe.channels:
        raise CheckpointError(
            f"{shown(path)} holds a light decoder of {decoder_channels(shapes)} channel; "
            f"{recipe.id} needs {recipe.channels}: train one for it."
        )


def _check_latents(light: LightHalf, recipe: Recipe, vae: Weights | None) -> None:
    """CheckpointError unless a light half is for the latents that a recipe's network perceives.

    vae: that makes them, where it is known. What is said of none is trusted on Stable Diffusion, which has one.
    """
    unnamed = light.base not in GENERATIONS and not light.vae
    if share_latents(light.base, recipe.base) or (recipe.base in GENERATIONS and unnamed):
        return
    known = latents_of(vae)
    if matches(light.vae, known):
        return
    if light.base in GENERATIONS:
        meant = f"latents of {latent_space(light.base).title}"
    else:
        meant = "latents of the VAE it was trained with" if light.vae else "latents of a VAE that it does not name"
    if recipe.base in GENERATIONS:
        wanted = f"those of {latent_space(recipe.base).title}"
    else:
        wanted = "those of its own VAE, which is another" if known else "those of a VAE that did not come with it"
    raise CheckpointError(
        f"{shown(light.weights.path)} is for {meant}; {recipe.id} perceives {wanted}: take the VAE's own "
        f'{light.role}, or train a light one for it (learn = "{light.role}").'
    )


def latents_of(vae: Weights | None) -> Fingerprint:
    """What tells the latents of a VAE from those of others; empty where there is none. Little of it is read."""
    if vae is None:
        return {}
    # a host's are under LDM's names
    wanted = {name: new for name, new in pick_vae(list(vae.shapes)).items() if new in ENCODER}
    tensors = replace(vae, names={old: name for old, name in vae.names.items() if name in wanted}).load()
    return fingerprint({new: tensors[name] for name, new in wanted.items()}.__getitem__, ENCODER)


def _latents_in(file: OwnFile) -> Fingerprint:
    """The same of the VAE that one of the project's files names for its light halves, or holds; empty if neither."""
    if not file.says("latents"):
        return latents_of(file.part("vae."))
    latents = file.field("latents")
    if not is_fingerprint(latents):
        raise CheckpointError(
            f"{shown(file.path)} has a damaged header ({KEYS['latents']}): export or download it again."
        )
    return latents


def latents_note(vae: Weights | None) -> dict[str, str]:
    """The header field that says whose latents a file's light halves are for; nothing where that is not known."""
    known = latents_of(vae)
    return {KEYS["latents"]: json.dumps(known)} if known else {}
