"""Painted people: networks without weights that see keypoints which were painted in red, green and blue."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.crops import Box, window_around
from diffusion_perception.core.heatmaps import SPREAD
from diffusion_perception.core.pipeline import Perceiver
from diffusion_perception.core.pose import crop_size
from diffusion_perception.core.recipe import Recipe

RECIPE = Recipe(
    "keypoints",
    keypoints="nose, left_ear, right_ear",
    limbs="nose:left_ear, nose:right_ear",
    head="vitpose_simple",
    resolution=256,
)


class Means:
    """An autoencoder whose latents are the mean colours of 4x4 pixels."""

    scaling_factor = 1.0

    def encode(self, image: Tensor) -> Tensor:
        return F.avg_pool2d((image + 1) / 2, 4)

    def decode(self, latent: Tensor) -> Tensor:
        return F.interpolate(latent, scale_factor=4) * 2 - 1


class Through:
    """A backbone that gives what it gets; it keeps how many crops it saw at a time."""

    in_channels = 4

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, latent: Tensor, timestep: Tensor, context: Context) -> Tensor:
        return latent

    def features(self, latent: Tensor, timestep: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self.seen.append(len(latent))
        return latent, latent, latent, latent

    def modules(self) -> dict[str, nn.Module]:
        return {}


def ears_by_side(features: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Blue is the nose; red is an ear, the left one in the right half of the crop, as of people who face the camera."""
    red, _, blue = features[-1][:, :3].unbind(1)
    right = torch.arange(red.shape[-1]) >= red.shape[-1] / 2
    return torch.stack([blue, red * right, red * ~right], 1)


def perceiver(recipe: Recipe = RECIPE) -> Perceiver:
    return Perceiver(recipe, Through(), Context(torch.zeros(1, 2, 4)), Means(), ears_by_side)


def person(box: Box) -> np.ndarray:
    """(3, 2): where the nose and the ears of someone in a box are."""
    return np.array([[box.x + box.width / 2, box.y + box.height * 0.3],
                     [box.x + box.width * 0.8, box.y + box.height * 0.25],
                     [box.x + box.width * 0.15, box.y + box.height * 0.2]])  # fmt: skip


def picture(size: tuple[int, int], boxes: list[Box], recipe: Recipe = RECIPE) -> Tensor:
    """(1, 3, H, W) with all these people in it."""
    canvas = torch.zeros(3, *size)
    y, x = torch.arange(size[0])[:, None] + 0.5, torch.arange(size[1]) + 0.5
    for box in boxes:
        spread = SPREAD * max(window_around(box, crop_size(recipe))[2:])
        for (column, row), colour in zip(person(box), (2, 0, 0)):
            canvas[colour] += (-((x - column) ** 2 + (y - row) ** 2) / (2 * spread**2)).exp()
    return canvas.clamp(max=1)[None]
