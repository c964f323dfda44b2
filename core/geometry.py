"""Geometry: normals from one set of camera axes to another, and from a depth map."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UserError
from .perception_map import Axis, Convention

Axes = tuple[Axis, Axis, Axis]

DIRECTIONS: dict[Axis, tuple[int, int]] = {
    "right": (0, 1),
    "left": (0, -1),
    "up": (1, 1),
    "down": (1, -1),
    "back": (2, 1),
    "forward": (2, -1),
}
"""On which of the camera's three lines an axis lies, and its sign there."""

CAMERA: Axes = ("right", "up", "back")
"""The axes of every point and normal that this module computes from depth."""

NORMAL_AXES: dict[str, Axes] = {
    "controlnet_bae": ("left", "up", "back"),
    "opengl": ("right", "up", "back"),
    "directx": ("right", "down", "back"),
    "opencv": ("right", "down", "forward"),
}
"""Where red, green and blue of a normal map point, by the names people use."""

MAX_JUMP = 0.05
"""Two neighbouring pixels whose depths differ by more than this share of the nearer lie on different surfaces."""


def change_axes(vectors: Tensor, source: Axes, target: Axes) -> Tensor:
    """Vectors (..., 3) along the axes `source` -> the same vectors along `target`."""
    order, signs = _signed_permutation(source, target)
    return vectors[..., order] * torch.tensor(signs, dtype=vectors.dtype, device=vectors.device)


def _signed_permutation(source: Axes, target: Axes) -> tuple[list[int], list[int]]:
    """For each target axis: which source component lies on its line, and with which sign."""
    components = {line: (place, sign) for place, (line, sign) in enumerate(lines_of(source))}
    order = [components[line][0] for line, _ in lines_of(target)]
    signs = [components[line][1] * sign for line, sign in lines_of(target)]
    return order, signs


def lines_of(axes: Axes) -> list[tuple[int, int]]:
    """The rows of DIRECTIONS. UserError unless the three lie on three different lines."""
    rows = [DIRECTIONS[axis] for axis in axes if axis in DIRECTIONS]
    if len(axes) != 3 or len({line for line, _ in rows}) != 3:
        raise UserError(f"Axes {', '.join(axes)} do not span space: take left/right, up/down, back/forward once each.")
    return rows


def decode_normals(values: Tensor, convention: Convention) -> Tensor:
    """Raw values (..., 3) of a normal map -> vectors in [-1, 1], of whatever length they have."""
    return values if convention.unit else values * 2 - 1


def encode_normals(vectors: Tensor) -> Tensor:
    """Vectors (..., 3) in [-1, 1] -> the colours of a normal map in [0, 1]."""
    return ((vectors + 1) / 2).clamp(0, 1)


def with_unit_length(vectors: Tensor, otherwise: Tensor, least: float = 0.0) -> Tensor:
    """Vectors (..., 3) at length 1; `otherwise` (3,) where no component exceeds `least`."""
    scale = vectors.abs().amax(-1, keepdim=True)
    known = scale > least
    vectors = vectors / scale.where(known, torch.ones_like(scale))  # squares of huge values would overflow
    return torch.where(known, F.normalize(vectors, dim=-1), otherwise.to(vectors))


def towards_camera(axes: Axes) -> Tensor:
    """The vector (3,) that points back at the camera, along `axes`."""
    return change_axes(torch.tensor([0.0, 0.0, 1.0]), CAMERA, axes)


def intrinsics_from_fov(fov_deg: float, height: int, width: int) -> Tensor:
    """Camera matrix (1, 3, 3) in pixels for a horizontal field of view; the principal point is the centre."""
    if not 0 < fov_deg < 180:
        raise UserError(f"A field of view of {fov_deg:g} degrees is impossible: give the horizontal one, 0 to 180.")
    f_px = width / 2 / math.tan(math.radians(fov_deg) / 2)
    return torch.tensor([[[f_px, 0, width / 2], [0, f_px, height / 2], [0, 0, 1]]])


def unproject(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Depth (B, H, W) along the optical axis -> points (B, H, W, 3) in the same unit, along CAMERA.

    intrinsics (1 or B, 3, 3) in pixels; the first pixel's centre is at (0.5, 0.5).
    """
    height, width = depth.shape[-2:]
    k = intrinsics.to(depth)[:, :, :, None, None]
    u = torch.arange(width, device=depth.device, dtype=depth.dtype) + 0.5
    v = torch.arange(height, device=depth.device, dtype=depth.dtype)[:, None] + 0.5
    x, y = (u - k[:, 0, 2]) / k[:, 0, 0], (k[:, 1, 2] - v) / k[:, 1, 1]
    return torch.stack((x * depth, y * depth, -depth), -1)


def depth_to_normal(depth: Tensor, intrinsics: Tensor, valid: Tensor | None = None, radius: int = 0) -> Tensor:
    """Metric depth (B, H, W) along the optical axis -> unit normals (B, H, W, 3) along CAMERA, facing the camera.

    intrinsics (1 or B, 3, 3) in pixels. Missing depth is what is not finite, not above 0, or False in valid (B, H, W);
    where a pixel's neighbourhood is missing, the normal points back at the camera. Directions are averaged over radius
    pixels to every side, which leaves planes as they are.
    """
    known = depth.isfinite() & (depth > 0)
    known = known if valid is None else known & valid
    depth = depth.where(known, torch.ones_like(depth))
    points = unproject(depth.float(), intrinsics)
    rightward, downward = (_tangent(points, known, dim, radius) for dim in (2, 1))
    normals = with_unit_length(torch.cross(downward, rightward, dim=-1), towards_camera(CAMERA), least=1e-6)
    away = (normals * points).sum(-1, keepdim=True) > 0
    return torch.where(away, -normals, normals)


def _tangent(points: Tensor, known: Tensor, dim: int, radius: int = 0) -> Tensor:
    """Points (B, H, W, 3) -> the surface's direction along an image axis, at unit length or 0 where unknown.

    The mean of both one-sided differences, or of all within a radius in pixels; one that crosses a depth edge counts
    only if there is no other.
    """
    count = points.shape[dim] - 1
    first, second = points.narrow(dim, 0, count), points.narrow(dim, 1, count)
    near, far = -torch.maximum(first[..., 2], second[..., 2]), -torch.minimum(first[..., 2], second[..., 2])
    weight = torch.where(far - near > MAX_JUMP * near, 1e-6, 1.0)
    weight = weight * known.narrow(dim, 0, count) * known.narrow(dim, 1, count)
    steps = torch.zeros_like(points)
    steps.narrow(dim, 0, count).add_((second - first) * weight[..., None])
    steps.narrow(dim, 1, count).add_((second - first) * weight[..., None])
    return with_unit_length(box(steps, radius), torch.zeros(3))


def box(vectors: Tensor, radius: int) -> Tensor:
    """(B, H, W, C) -> the sum over radius pixels to every side, but for a factor."""
    if not radius:
        return vectors
    return F.avg_pool2d(vectors.movedim(-1, 1), 2 * radius + 1, 1, radius).movedim(1, -1)
