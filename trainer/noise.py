"""Noise: what a training step draws at random, each picture's from its own seed and so whatever it is batched with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.diffusion import TRAIN_STEPS
from ..core.recipe import Recipe
from .config import Objective as Settings

LEVELS = 10
"""Resolutions of pyramid noise."""


def draw_timesteps(seeds: Tensor, recipe: Recipe, settings: Settings) -> Tensor:
    """(B,) int64: what the network is told of each picture."""
    fixed = {"fixed": recipe.timestep, "final": TRAIN_STEPS - 1}.get(settings.timesteps)
    if fixed is not None:
        return torch.full_like(seeds, fixed)
    return torch.cat([torch.randint(TRAIN_STEPS, (1,), generator=source(seed, "timestep")) for seed in seeds.tolist()])


def draw_noise(seeds: Tensor, timesteps: Tensor, shape: Sequence[int], settings: Settings) -> Tensor:
    """(B, 4, h, w) float32, each picture's from its own seed."""
    noises = []
    for seed, timestep in zip(seeds.tolist(), timesteps.tolist()):
        share = timestep / TRAIN_STEPS if settings.annealed else 1.0
        strength = settings.pyramid_strength * share if settings.noise == "pyramid" else 0.0
        noises.append(pyramid_noise(shape, strength, source(seed, "noise")))
    return torch.stack(noises)


PURPOSES = ("timestep", "noise", "image", "target")


def source(seed: int, purpose: str) -> torch.Generator:
    """A picture's own randomness for one purpose."""
    return torch.Generator().manual_seed((seed * len(PURPOSES) + PURPOSES.index(purpose)) % 2**63)


def pyramid_noise(shape: Sequence[int], strength: float, random: torch.Generator) -> Tensor:
    """Gaussian noise (C, h, w) with coarser noise on it, each coarser one weaker, brought back to a deviation of 1.

    Marigold's multi-resolution noise. There the deviation is that of the whole batch; here it is the picture's own, so
    that a picture's noise does not depend on what it is batched with.
    """
    noise = torch.randn(*shape, generator=random)
    if strength == 0:
        return noise
    height, width = shape[-2:]
    for level in range(LEVELS):
        ratio = 2 + 2 * torch.rand((), generator=random).item()
        height, width = max(1, int(height / ratio**level)), max(1, int(width / ratio**level))
        coarse = torch.randn(1, shape[0], height, width, generator=random)
        noise = noise + F.interpolate(coarse, tuple(shape[-2:]), mode="bilinear")[0] * strength**level
        if min(height, width) == 1:
            break
    return noise / noise.std()
