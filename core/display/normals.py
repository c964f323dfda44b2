"""Normals combined and turned; vectors (..., 3) of length 1 along geometry.CAMERA: right, up, towards the camera."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import CAMERA
from ..perception_map import Convention, PerceptionMap
from .picture import trusted, vectors_of
from .together import check_together

UNIT = Convention(low=-1.0, axes=CAMERA, unit=True)
"""How vectors of this module are to be read as a map."""


def scale_slopes(detail: Tensor, strength: float) -> Tensor:
    """Normals with slopes that much as steep: 0 faces the camera everywhere."""
    return F.normalize(detail * detail.new_tensor([strength, strength, 1]), dim=-1)


def reoriented(base: Tensor, detail: Tensor) -> Tensor:
    """Detail normals standing on base ones as they stand on what faces the camera.

    Reoriented normal mapping (Barre-Brisebois and Hill, Blending in Detail, 2012): the shortest turn from the camera's
    direction to the base, applied to the detail.
    """
    t = base + base.new_tensor([0, 0, 1])
    u = detail * detail.new_tensor([-1, -1, 1])
    turned = t * (t * u).sum(-1, keepdim=True) / t[..., 2:].clamp(min=1e-6) - u
    return F.normalize(turned, dim=-1)


def _rotation(yaw: float, pitch: float, roll: float) -> Tensor:
    """(3, 3) of degrees: rolled first, then pitched, then yawed. Yaw turns what faces the camera to the right, pitch
    upwards; roll turns anticlockwise as the camera sees it."""
    (a, b), (c, d), (e, f) = ((math.cos(math.radians(x)), math.sin(math.radians(x))) for x in (yaw, pitch, roll))
    yawed = torch.tensor([[a, 0, b], [0, 1, 0], [-b, 0, a]])
    pitched = torch.tensor([[1, 0, 0], [0, c, d], [0, -d, c]])
    rolled = torch.tensor([[e, -f, 0], [f, e, 0], [0, 0, 1]])
    return yawed @ pitched @ rolled


def combined(base: PerceptionMap, detail: PerceptionMap, strength: float) -> PerceptionMap:
    """Two maps of normals as one; unknown where the base is, and the base where the detail is unknown."""
    check_together([base, detail])
    under, over = vectors_of(base, CAMERA), scale_slopes(vectors_of(detail, CAMERA), strength)
    known = trusted(base).expand(len(over), -1, -1) if len(under) == 1 else trusted(base)
    return PerceptionMap("normal", reoriented(under, over.to(under)), UNIT, base.recipe, known)


def turned(map: PerceptionMap, yaw: float, pitch: float, roll: float) -> PerceptionMap:
    """A map of normals with every one of them turned."""
    vectors = vectors_of(map, CAMERA)
    return PerceptionMap("normal", vectors @ _rotation(yaw, pitch, roll).to(vectors).T, UNIT, map.recipe, trusted(map))
