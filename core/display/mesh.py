"""Mesh: what a depth shows as a surface or as points, before a camera in the origin that looks along -z."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..geometry import unproject
from .distance import Distance
from .glb import Shape
from .light import srgb_to_linear
from .map_files import png
from .picture import choose


class Grid(NamedTuple):
    """A picture's pixels, or as many of them as are wanted, as points in space."""

    points: Tensor
    """(H, W, 3): right, up, towards the camera."""
    known: Tensor
    """(H, W) bool."""
    places: Tensor
    """(H, W, 2) of their centres in the picture: across and down, 0 to 1."""
    colours: Tensor | None
    """(H, W, 3) in sRGB."""


def grid_of(distance: Distance, intrinsics: Tensor, image: Tensor | None, frame: int, detail: int) -> Grid:
    """One frame of a depth, with no more than `detail` points along its longer edge.

    intrinsics (1 or B, 3, 3) in pixels; image (1 or B, H, W, 3).
    """
    height, width = distance.values.shape[1:]
    share = min(1.0, detail / max(height, width))
    rows, columns = (spread(length, max(2, round(length * share))) for length in (height, width))
    points = unproject(distance.values[frame][None], intrinsics[frame % len(intrinsics)][None])[0]
    places = torch.stack(torch.meshgrid((columns + 0.5) / width, (rows + 0.5) / height, indexing="xy"), -1)

    def picked(values: Tensor) -> Tensor:
        return values[rows.to(values.device)][:, columns.to(values.device)]

    colours = None if image is None else picked(image[frame % len(image)])
    return Grid(picked(points), picked(distance.known[frame]), places, colours)


def spread(length: int, count: int) -> Tensor:
    """`count` of 0..length - 1, from end to end, evenly."""
    return torch.linspace(0, length - 1, min(count, length)).round().long()


def _faces_of(grid: Grid, jump: float) -> Tensor:
    """(M, 3) numbers of points, anticlockwise as the camera sees them.

    There is none where a point is unknown, nor across a jump: where the farthest of three is farther away than the
    nearest by more than that share of it; 0: none is a jump.
    """
    height, width = grid.known.shape
    numbers = torch.arange(height * width, device=grid.known.device).view(height, width)
    here, right, below, across = numbers[:-1, :-1], numbers[:-1, 1:], numbers[1:, :-1], numbers[1:, 1:]
    halves = (here, below, right), (right, below, across)
    faces = torch.cat([torch.stack(half, -1).reshape(-1, 3) for half in halves])
    depths = -grid.points[..., 2].flatten()[faces]
    near, far = depths.amin(1), depths.amax(1)
    whole = grid.known.flatten()[faces].all(1) & ((far - near <= jump * near) if jump else True)
    return faces[whole]


def surface(grid: Grid, texture: bytes, jump: float) -> Shape:
    """Triangles between neighbouring points; points in none are left out."""
    faces = _faces_of(grid, jump)
    if not len(faces):
        raise UserError("No surface is left: nothing of the depth is known, or jump cuts all of it; make it larger.")
    used, renumbered = faces.unique(return_inverse=True)
    positions, places = grid.points.reshape(-1, 3)[used], grid.places.reshape(-1, 2)[used.cpu()]
    return Shape(array(positions), array(renumbered), array(places) if texture else None, texture)


def _cloud(grid: Grid, texture: bytes, jump: float) -> Shape:
    """Every known point, in its pixel's colour."""
    if not grid.known.any():
        raise UserError("No point is left: nothing of the depth is known.")
    colours = None if grid.colours is None else array(srgb_to_linear(grid.colours[grid.known.to(grid.colours.device)]))
    return Shape(array(grid.points[grid.known]), colours=colours)


def array(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()


class Kind(NamedTuple):
    """One way to show a depth in space."""

    make: Callable[[Grid, bytes, float], Shape]
    textured: bool


KINDS: dict[str, Kind] = {"surface": Kind(surface, True), "points": Kind(_cloud, False)}


def shape_of(grid: Grid, image: Tensor | None, kind: str, jump: float) -> Shape:
    """A frame as a row of KINDS, in the colours of its whole image (H, W, 3) in sRGB."""
    row = choose(KINDS, kind, "kind")
    textured = image is not None and row.textured
    texture = png((image.clamp(0, 1) * 255).round().byte().cpu().numpy()) if textured and image is not None else b""
    return row.make(grid, texture, jump)
