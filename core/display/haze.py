"""Haze: how much of a picture fog hides, and how far it is out of focus, by distance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .distance import Distance
from .light import linear_to_srgb, srgb_to_linear
from .picture import LARGEST, choose

LAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "exponential": lambda depth: 1 - torch.exp(-depth),
    "exponential squared": lambda depth: 1 - torch.exp(-(depth**2)),
    "linear": lambda depth: depth.clamp(max=1),
}
"""What fog hides behind an optical depth, which is density times distance. The first is Bouguer's law, of even fog."""


def _far_where_unknown(distance: Distance) -> Tensor:
    return distance.values.where(distance.known, torch.full_like(distance.values, LARGEST))


def fog(distance: Distance, law: str, density: float, start: float) -> Tensor:
    """What fog hides (B, H, W), 0 nothing and 1 all, that begins at a distance. What is unknown lies far away."""
    optical = ((_far_where_unknown(distance) - start).clamp(min=0) * density).clamp(max=1e4)
    return choose(LAWS, law, "law")(optical)


def out_of_focus(distance: Distance, focus: float, depth: float, strength: float) -> Tensor:
    """How wide a point is blurred (B, H, W), cut off at 1: a thin lens's circle of confusion, |z - focus| / z, times
    strength. What lies within `depth` before and behind the focus is sharp; what is unknown lies far away."""
    values = _far_where_unknown(distance)
    return (((values - focus).abs() - depth).clamp(min=0) / values * strength).clamp(max=1)


def in_fog(image: Tensor, mask: Tensor, colour: Tensor) -> Tensor:
    """An sRGB picture (B, H, W, 3) behind fog of a linear colour (3,), mixed as light is: in linear light."""
    return linear_to_srgb(torch.lerp(srgb_to_linear(image), colour.to(image).expand_as(image), mask[..., None])).clamp(
        0, 1
    )
