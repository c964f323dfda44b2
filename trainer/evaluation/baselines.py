"""Baselines: guesses that look at nothing, which every table of figures is to be read against."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.tasks import TASKS, tasks_where

Guess = Callable[[int, int, int], Tensor]
"""(C, H, W) -> values (1, C, H, W) in [0, 1], as a model of the task codes them."""


def constant(channels: int, height: int, width: int) -> Tensor:
    """The middle of the range everywhere; once depth is aligned, the mean depth."""
    return torch.full((1, channels, height, width), 0.5)


def _far_above(channels: int, height: int, width: int) -> Tensor:
    """1 in the first row, 0 in the last."""
    return torch.linspace(1, 0, height)[None, None, :, None].expand(1, channels, height, width)


def _far_below(channels: int, height: int, width: int) -> Tensor:
    """0 in the first row, 1 in the last."""
    return _far_above(channels, height, width).flip(2)


def _towards_camera(channels: int, height: int, width: int) -> Tensor:
    """Along the third of the axes right, up, back."""
    return torch.tensor([0.5, 0.5, 1.0])[None, :, None, None].expand(1, 3, height, width)


def _ceiling_to_floor(channels: int, height: int, width: int) -> Tensor:
    """From facing down in the first row, over facing the camera, to facing up in the last."""
    turn = torch.linspace(-math.pi / 2, math.pi / 2, height)
    vectors = torch.stack([torch.zeros(height), turn.sin(), turn.cos()])
    return ((vectors + 1) / 2)[None, :, :, None].expand(1, 3, height, width)


@dataclass(frozen=True)
class Baseline:
    """Guesses by one rule."""

    title: str
    guesses: dict[str, Guess]
    """By task; others have none."""

    def __call__(self, task: str, height: int, width: int) -> Tensor:
        """(1, C, H, W)."""
        return self.guesses[task](TASKS[task].channels, height, width)


MAPS = (*tasks_where(per="image", picture="nearness"), *tasks_where(per="image", picture="range"))
BASELINES: dict[str, Baseline] = {
    "constant": Baseline(
        "the same value everywhere", {**dict.fromkeys(MAPS, constant), "normal": _towards_camera}
    ),
    "image-row": Baseline(
        "by the row of the image",
        {"depth": _far_above, "disparity": _far_below, "normal": _ceiling_to_floor},
    ),
}  # fmt: skip
