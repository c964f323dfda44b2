"""Latents: what the frozen VAE made of each picture, kept on disk so that it is asked once."""

from __future__ import annotations

import hashlib
import logging
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

log = logging.getLogger(__name__)

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
        looks = [_target_appearance(recipe) for recipe in recipes]
        about = (config.size, config.augment, config.target, looks, _weights_of(vae))
        return cls(Path(config.out) / "latents", precision, *about)

    def encode(
        self,
        pictures: Tensor,
        keys: Sequence[str],
        encode: Callable[[Tensor], Tensor],
        stamps: Sequence[str] | None = None,
    ) -> Tensor:
        """Latents of pictures, by `encode` where they are not known; stamps: what a key stood for may have changed."""
        files = [self.file(key, stamp) for key, stamp in zip(keys, stamps or [""] * len(keys))]
        found = [kept(file) for file in files]
        unknown = [index for index, latent in enumerate(found) if latent is None]
        if unknown:
            for index, latent in zip(unknown, encode(pictures[unknown])):
                save_latent(files[index], latent)
                found[index] = latent.cpu()
        return torch.stack([latent for latent in found if latent is not None]).to(pictures.device)

    def file(self, key: str, stamp: str = "") -> Path:
        name, now = digest(key), digest(stamp)[:16]
        return self.folder / name[:2] / f"{name[2:]}-{now}.npy"

    def drop_changed(self, marked: Iterable[tuple[str, str]]) -> tuple[int, int]:
        """How many of these (key, stamp) are kept of what has changed since, which are dropped, and how many at all."""
        held: dict[str, list[Path]] = {}
        for file in self.folder.glob("*/*.npy"):
            held.setdefault(file.parent.name + file.name.partition("-")[0], []).append(file)
        changed = known = 0
        for key, stamp in dict(marked).items():
            files = held.get(digest(key), ())
            old = [file for file in files if file.name != self.file(key, stamp).name]
            known += bool(files)
            changed += bool(old)
            for file in old:
                file.unlink(missing_ok=True)
        return changed, known

    def say_changed(self, marked: Iterable[tuple[str, str]]) -> None:
        """Say how many are made anew since their files changed, if any are."""
        changed, known = self.drop_changed(marked) if self.folder.is_dir() else (0, 0)
        if changed:
            log.warning("%d of %d latents made anew: pictures or truth of theirs changed since.", changed, known)


def _target_appearance(recipe: Recipe) -> dict[str, object]:
    """What of a recipe may decide how targets look; runs that differ in the rest can share a folder."""
    return {row.name: getattr(recipe, row.name) for row in fields(recipe) if row.name not in UNSEEN}


def digest(*about: object) -> str:
    return hashlib.sha256(repr(about).encode()).hexdigest()[:32]


def kept(file: Path) -> Tensor | None:
    """What was saved; None if nothing was, or it is damaged."""
    if not file.is_file():
        return None
    try:
        return torch.from_numpy(read_npy(file))
    except UserError as error:
        log.warning("%s is damaged (%s): it is made anew.", file, error)
        return None


def save_latent(file: Path, latent: Tensor) -> None:
    """Whole or absent, also where several processes write the same."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as partial, partial.open("wb") as stream:
        np.save(stream, latent.cpu().numpy())


def _weights_of(network: nn.Module) -> list[float]:
    """A few values of every weight: tells networks apart."""
    return [
        weight.detach().double().flatten()[:: max(weight.numel() // 4, 1)].sum().item()
        for weight in network.parameters()
    ]
