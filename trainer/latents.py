"""Latents: what the frozen VAE made of each picture, kept on disk so that it is asked once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.plain_files import read_npy
from ..core.recipe import Recipe
from ..core.whole_file import whole_file
from .config import Config

UNSEEN = (
    *("name", "family", "paradigm", "steps", "timestep", "beta_start", "beta_end", "zero_snr", "spacing"),
    *("steps_offset", "final_alpha_one", "prediction_type", "keep_image", "final", "tokens", "guidance_scale"),
    *("ensemble_size", "seed", "head", "licence", "data"),
)
"""Fields of a recipe that no encoder sees."""


class Latents:
    """A folder of latents, by the keys of their pictures."""

    def __init__(self, folder: Path, *about: object) -> None:
        """about: whatever they depend on besides their pictures."""
        self.folder = folder / digest(*about)

    @classmethod
    def of_run(cls, config: Config, precision: str, recipes: Iterable[Recipe], vae: nn.Module) -> Latents | None:
        """Those of a run's pictures and targets, if it keeps any; precision: in which they are made."""
        if not config.cache_latents:
            return None
        looks = [appearance(recipe) for recipe in recipes]
        about = (config.size, config.augment, config.target, looks, weights_of(vae))
        return cls(Path(config.out) / "latents", precision, *about)

    def encode(self, pictures: Tensor, keys: Sequence[str], encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Latents of pictures, by `encode` where they are not known."""
        files = [self.file(key) for key in keys]
        unknown = [index for index, file in enumerate(files) if not file.is_file()]
        if unknown:
            for index, latent in zip(unknown, encode(pictures[unknown])):
                save(files[index], latent)
        return torch.stack([read(file) for file in files]).to(pictures.device)

    def file(self, key: str) -> Path:
        name = digest(key)
        return self.folder / name[:2] / f"{name[2:]}.npy"


def appearance(recipe: Recipe) -> dict[str, object]:
    """What of a recipe may decide how targets look; runs that differ in the rest can share a folder."""
    return {row.name: getattr(recipe, row.name) for row in fields(recipe) if row.name not in UNSEEN}


def digest(*about: object) -> str:
    return hashlib.sha256(repr(about).encode()).hexdigest()[:32]


def read(file: Path) -> Tensor:
    """UserError if it is damaged."""
    try:
        return torch.from_numpy(read_npy(file))
    except UserError as error:
        raise UserError(
            f"{file} is damaged ({error}): remove the folder of latents, which is then filled anew."
        ) from None


def save(file: Path, latent: Tensor) -> None:
    """Whole or absent, also where several processes write the same."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as partial, partial.open("wb") as stream:
        np.save(stream, latent.cpu().numpy())


def weights_of(network: nn.Module) -> list[float]:
    """A few values of every weight: tells networks apart."""
    return [
        weight.detach().double().flatten()[:: max(weight.numel() // 4, 1)].sum().item()
        for weight in network.parameters()
    ]
