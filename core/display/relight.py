"""Relight: a picture under another light, from its surface normals. Sums are of linear light, along geometry.CAMERA."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from ..geometry import CAMERA, unproject
from ..perception_map import Convention, PerceptionMap
from .distance import Distance
from .light import CURVES, colour_of, linear_to_srgb, srgb_to_linear
from .picture import as_rgb, choose, known_values, trusted, vectors_of
from .together import check_together


@dataclass(frozen=True)
class Lamp:
    """One light."""

    kind: str = "directional"
    """A row of KINDS."""
    azimuth: float = 45.0
    """Of a directional one, where it comes from in degrees: 0 the camera, 90 the right, -90 the left, 180 behind."""
    elevation: float = 45.0
    """Of a directional one, in degrees: 90 from above, -90 from below."""
    place: tuple[float, float, float] = (0.5, 0.5, 1.0)
    """Of a point one: how far across and down the picture, 0 to 1, and how far from the camera along its axis."""
    colour: str = "#ffffff"
    """sRGB, #RRGGBB."""
    intensity: float = 1.0
    """What falls on a surface that faces it; of a point one at a distance of 1."""
    wrap: float = 0.0
    """How far its light reaches round edges, 0 to 1: the diffuse wrap of Green (GPU Gems, chapter 16, 2004)."""

    def power(self) -> Tensor:
        """(3,) linear light."""
        return colour_of(self.colour) * self.intensity


Rays = tuple[Tensor, Tensor]
"""Unit vectors towards the light, and what share of its intensity arrives; both (..., H, W, 3 or 1)."""


def _from_afar(lamp: Lamp, points: Tensor | None, intrinsics: Tensor) -> Rays:
    azimuth, elevation = math.radians(lamp.azimuth), math.radians(lamp.elevation)
    flat = math.cos(elevation)
    towards = torch.tensor([flat * math.sin(azimuth), math.sin(elevation), flat * math.cos(azimuth)])
    return towards.expand(1, 1, 1, 3), torch.ones(1, 1, 1, 1)


def _from_a_point(lamp: Lamp, points: Tensor | None, intrinsics: Tensor) -> Rays:
    """Its light falls with the square of the distance."""
    if points is None:
        raise UserError("A point light needs to know how far away things are: connect a depth, or choose directional.")
    way = _source_of(lamp, points, intrinsics) - points
    squared = (way**2).sum(-1, keepdim=True).clamp(min=1e-12)
    return F.normalize(way, dim=-1), 1 / squared


def _source_of(lamp: Lamp, points: Tensor, intrinsics: Tensor) -> Tensor:
    """Where a point light is, (1 or B, 1, 1, 3), for points (B, H, W, 3)."""
    height, width = points.shape[1:3]
    across, down, away = lamp.place
    k = intrinsics.to(points)
    x = (across * width - k[:, 0, 2]) / k[:, 0, 0] * away
    y = (k[:, 1, 2] - down * height) / k[:, 1, 1] * away
    return torch.stack((x, y, torch.full_like(x, -away)), -1)[:, None, None]


KINDS: dict[str, Callable[[Lamp, Tensor | None, Tensor], Rays]] = {"directional": _from_afar, "point": _from_a_point}


def falling(normals: Tensor, known: Tensor, points: Tensor | None, intrinsics: Tensor, lamp: Lamp) -> Tensor:
    """What of a lamp falls on surfaces (B, H, W, 3), linear: Lambert's cosine, wrapped; nothing on unknown ones.

    normals (B, H, W, 3) of length 1; known (B, H, W) bool; points (B, H, W, 3), needed of point lights, for which
    intrinsics (1 or B, 3, 3) in pixels count.
    """
    towards, share = choose(KINDS, lamp.kind, "light")(lamp, points, intrinsics)
    cosine = (normals * towards.to(normals)).sum(-1, keepdim=True)
    lambert = ((cosine + lamp.wrap) / (1 + lamp.wrap)).clamp(min=0)
    return lambert * share.to(normals) * lamp.power().to(normals) * known[..., None]


class Space(NamedTuple):
    """Where what a picture shows lies."""

    distance: Distance
    intrinsics: Tensor
    """(1 or B, 3, 3) in pixels."""

    def points(self) -> Tensor:
        """(B, H, W, 3); anywhere where unknown."""
        return unproject(self.distance.values, self.intrinsics)


def relight(
    image: PerceptionMap,
    normals: PerceptionMap,
    lamp: Lamp,
    ambient: float,
    space: Space | None = None,
    albedo: PerceptionMap | None = None,
) -> tuple[Tensor, PerceptionMap]:
    """A picture under another light (B, H, W, 3) in sRGB, and what of the light falls where, linear.

    The picture's own light is dimmed to `ambient`; the new one falls on the albedo, or on the picture where there is
    none. What is unknown gets none of it. UserError unless all are of one picture, and for a point light without space.
    """
    check_together([image, normals, *([albedo] if albedo else [])])
    own = srgb_to_linear(as_rgb(known_values(image)))
    surface = own if albedo is None else CURVES[albedo.convention.encoding].to_linear(as_rgb(known_values(albedo)))
    known, points, intrinsics = trusted(normals), None, torch.eye(3)[None]
    if space is not None:
        known, points, intrinsics = known & space.distance.known, space.points(), space.intrinsics
    light = falling(vectors_of(normals, CAMERA), known, points, intrinsics, lamp)
    made = linear_to_srgb(own * ambient + surface.to(own) * light.to(own)).clamp(0, 1)
    return made, PerceptionMap("shading", light, Convention(high=None, encoding="linear"), normals.recipe)
