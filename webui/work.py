"""From a picture as WebUIs hand it over to its map, and from a map to the picture that a ControlNet reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.diffusion import Tick
from ..core.display.counterparts import in_ade20k
from ..core.display.openpose import pose_keypoint, pose_picture
from ..core.display.picture import PICTURES, as_rgb, classes_of, palette_of
from ..core.errors import UserError
from ..core.perception_map import PerceptionMap
from ..core.pipeline import Perceiver, predict, predict_latent
from ..core.pose import predict_people
from ..core.tasks import TASKS


def _as_tensor(picture: np.ndarray) -> Tensor:
    """uint8 (H, W) or (H, W, 1, 3 or 4) -> (1, 3, H, W) in [0, 1], without alpha. UserError for anything else."""
    levels = picture[..., None] if picture.ndim == 2 else picture
    if levels.dtype != np.uint8 or levels.ndim != 3 or levels.shape[-1] not in (1, 3, 4) or not levels.size:
        raise UserError(
            f"A picture of {picture.dtype} and shape {picture.shape} came: expected 8 bits, gray, RGB or RGBA."
        )
    return as_rgb(torch.from_numpy(np.array(levels, order="C")).float() / 255).movedim(-1, 0)[None]


def _as_levels(picture: Tensor) -> np.ndarray:
    """(H, W, 3) in [0, 1] -> uint8."""
    return (picture * 255).round().byte().cpu().numpy()


def perceive(perceiver: Perceiver, picture: np.ndarray, tick: Tick = lambda: None) -> PerceptionMap:
    """A map of the picture at its own size; of keypoints, the whole picture is one person."""
    return perceive_tensor(perceiver, _as_tensor(picture), tick)


def perceive_tensor(perceiver: Perceiver, picture: Tensor, tick: Tick = lambda: None) -> PerceptionMap:
    """The same of (1, 3, H, W) in [0, 1]."""
    by = {"image": predict, "person": predict_people}[perceiver.recipe.row.per]
    return by(perceiver, picture, tick=tick)


def perceive_latent(perceiver: Perceiver, latent: Tensor, tick: Tick = lambda: None) -> PerceptionMap:
    """A map of the picture that a scaled latent (1, 4, h, w) stands for, at its size."""
    return predict_latent(perceiver, latent.float(), tick=tick)


def controlnet_picture(map: PerceptionMap) -> np.ndarray:
    """uint8 (H, W, 3) as the ControlNet of the map's task reads it."""
    return _as_levels(READ[TASKS[map.task].picture](map)[0])


def _classes_of_ade20k(map: PerceptionMap) -> Tensor:
    """Classes in the colours of ADE20K where the palette is known."""
    if not map.convention.palette:
        return PICTURES["classes"](map)
    palette = palette_of(map)
    return in_ade20k(classes_of(map, palette).index, palette)


READ = {**PICTURES, "classes": _classes_of_ade20k}
"""What ControlNets read, (B, H, W, 3) in [0, 1], by how a task is shown."""


def pose_json(map: PerceptionMap) -> dict[str, Any]:
    """OpenPose's keypoints of a map of keypoints."""
    picture, people = pose_picture(map)
    assert map.convention.skeleton is not None
    return pose_keypoint(people, map.convention.skeleton, (picture.shape[1], picture.shape[2]))[0]
