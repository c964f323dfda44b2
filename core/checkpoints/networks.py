"""Networks: a UNet with what came with it, on disk in any supported layout, and where in a layout each part lies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..backbone import Context
from ..errors import UserError
from ..generations import CUSTOM, latent_space
from .architecture import UNetArchitecture, VAEArchitecture
from .context import find_context, find_text_encoder
from .families import FAMILIES, Beside, with_heads
from .own_file import OwnFile, read_own
from .strangers import refuse_closed, refuse_pickle, refuse_stranger
from .tensors import (
    STEMS,
    CheckpointError,
    Weights,
    find_files,
    keep,
    network,
    pick_unet,
    pick_vae,
    quantised,
    read_object,
    read_shapes,
    shown,
)


@dataclass(frozen=True)
class Networks:
    """A UNet and what came with it, all still on disk: a Stable Diffusion model, or what a checkpoint runs on."""

    path: Path
    unet: Weights
    architecture: UNetArchitecture
    vae: Weights | None = None
    vae_architecture: VAEArchitecture | None = None
    context: Context | None = None
    """A text context that came with it, whole: the empty prompt's, or of a checkpoint that of its recipe."""
    text_encoder: Path | None = None
    """A folder in diffusers layout that can make the context where none came."""

    @property
    def layout(self) -> tuple[tuple[bool, ...], int]:
        """What the block numbers in LDM's names depend on."""
        return self.architecture.attention, self.architecture.layers


def open_networks(path: Path) -> Networks:
    """The Stable Diffusion model in a folder in diffusers layout, a UNet's folder, or a single file.

    CheckpointError says in one sentence what is wrong.
    """
    path = absolute(path)
    refuse_pickle(path)
    found = of_folder(inner(path)) if path.is_dir() else _of_file(path)
    return replace(found, context=find_context(places_beside(found.path), found.architecture))


def inner(folder: Path) -> Path:
    """The UNet's folder in a repository, or the folder itself if it is one. CheckpointError if there is none."""
    unet = folder / "unet"
    if find_files(unet):
        return unet
    if find_files(folder):
        return folder
    refuse_closed(folder)
    raise CheckpointError(f"{shown(folder)} holds no Stable Diffusion model: expected unet/ in it, or name a file.")


def _of_file(path: Path) -> Networks:
    """Those in a file of whatever kind, and beside it."""
    own = read_own(path)
    return of_own(own) if own else of_single(path)


def of_own(file: OwnFile) -> Networks:
    """Those in a file of the project's, which says what weights do not: head counts, and how latents are scaled."""
    unet, architecture = as_unet(file.part("unet."), file.field("unet"), file.path)
    vae = _or_beside(file.path, file.part("vae."), file.field("vae"), architecture.base)
    return Networks(file.path, unet, architecture, *vae, text_encoder=find_text_encoder(file.path.parent))


def of_single(path: Path) -> Networks:
    """Those in one file without a recipe: a UNet, or a whole Stable Diffusion checkpoint."""
    unet, architecture = as_unet(network((path,), pick_unet), {}, path)
    vae = vae_of(path, architecture.base)
    return Networks(path, unet, architecture, *vae, text_encoder=find_text_encoder(path.parent))


def of_folder(folder: Path) -> Networks:
    """Those of a UNet's folder, and beside it."""
    unet, architecture = as_unet(network(find_files(folder), pick_unet), read_object(folder / "config.json"), folder)
    vae = vae_of(folder, architecture.base)
    return Networks(folder, unet, architecture, *vae, text_encoder=find_text_encoder(folder.parent))


def places_beside(path: Path) -> tuple[Path, ...]:
    """The folders where what belongs to a UNet is looked for: beside its file, or in its folder and beside that."""
    return (path, path.parent) if path.is_dir() else (path.parent,)


def absolute(path: Path) -> Path:
    """With a name and a parent, which "." and "unet/.." do not show; links are not followed."""
    return Path(os.path.abspath(path))


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
    if any(map(_holds_weights, inner)):
        return inner
    return [folder] if _holds_weights(folder) else []


def _holds_weights(folder: Path) -> bool:
    """Whether there are any, be they damaged: whoever reads them is told so."""
    try:
        return bool(find_files(folder))
    except CheckpointError:
        return True


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
    return (
        find_vae(places_beside(path), base) if path.is_dir() else _or_beside(path, network((path,), pick_vae), {}, base)
    )


def _or_beside(
    path: Path, inside: Weights, config: Mapping[str, Any], base: str
) -> tuple[Weights | None, VAEArchitecture | None]:
    """The VAE in a file, if there is one, else that beside it."""
    return as_vae(inside, config, path, base) if inside.shapes else find_vae(places_beside(path), base)


def find_vae(folders: tuple[Path, ...], base: str = CUSTOM) -> tuple[Weights | None, VAEArchitecture | None]:
    """The VAE in one of these folders, with the decoder that was trained beside it if there is one."""
    trained, beside = _find_decoder(folders)
    for folder in folders:
        files = find_files(folder / "vae")
        if files:
            weights = network((*files, *trained), beside.pick_vae)
            return as_vae(weights, read_object(folder / "vae" / "config.json"), files[0], base)
    if trained:
        raise CheckpointError(
            f"{shown(trained[0])} is a decoder without its encoder: put the vae/ of {beside.vae} beside it."
        )
    return None, None


def _find_decoder(folders: tuple[Path, ...]) -> tuple[tuple[Path, ...], Beside]:
    """What stands in one of these folders in place of parts of the VAE, and how its family lays that out."""
    for row in FAMILIES.values():
        files = tuple(file for folder in folders for name in row.beside.decoder for file in find_files(folder / name))
        if files:
            return files, row.beside
    return (), Beside()


def _refuse_quantised(weights: Weights, path: Path) -> None:
    """CheckpointError for weights that were packed into fewer bits, by whom."""
    names = weights.shapes or [name for file in weights.files for name in read_shapes(file)]
    if packer := quantised(names):
        raise CheckpointError(f"{shown(path)} is quantised ({packer}); get the fp16 file of the same model.")


def as_unet(weights: Weights, config: Mapping[str, Any], path: Path) -> tuple[Weights, UNetArchitecture]:
    """The UNet and its shape. CheckpointError if it is none of Stable Diffusion's, or packed into fewer bits."""
    refuse_stranger(weights, config, path)
    _refuse_quantised(weights, path)
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
    _refuse_quantised(weights, path)
    try:
        return weights, VAEArchitecture.from_weights(weights.shapes, latent_space(base)).with_config(config)
    except UserError as error:
        raise CheckpointError(f"{shown(path)} cannot be used as a VAE: {error}.") from None
