"""Two shapes whose every pixel is known from geometry, without the pack: a sphere before a wall, and a stair.

Both are seen straight on by parallel rays. Pixel (row, column) of a size x size picture looks at x = right, y = up in
[-1, 1]; normals point along right, up and back (towards the camera); depths are metres from the camera.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RADIUS = 0.75
SPHERE_Z = 3.0
"""Depth of the sphere's centre."""
WALL_Z = 4.0
STEP_Z = (4.0, 3.5, 3.0, 2.5, 2.0)
"""Depths of the steps' fronts from the topmost, which is the farthest, down to the nearest."""


class Shape(NamedTuple):
    """What is known of every pixel."""

    depth: np.ndarray
    """(H, W) float64, metres."""
    normal: np.ndarray
    """(H, W, 3) float64 unit vectors: right, up, back."""
    mask: np.ndarray
    """(H, W) bool, where the subject is."""


def points(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x to the right and y upwards (size, size) of the pixels' centres."""
    across = (np.arange(size) + 0.5) / size * 2 - 1
    x, down = np.meshgrid(across, across)
    return x, -down


def sphere(size: int) -> Shape:
    """x^2 + y^2 + z^2 = r^2: the normal of a point is the point itself over r; a plane stands behind."""
    x, y = points(size)
    mask = x**2 + y**2 < RADIUS**2
    towards = np.sqrt(np.maximum(RADIUS**2 - x**2 - y**2, 0))
    normal = np.where(mask[..., None], np.stack([x, y, towards], -1) / RADIUS, [0.0, 0.0, 1.0])
    return Shape(np.where(mask, SPHERE_Z - towards, WALL_Z), normal, mask)


def stair(size: int) -> Shape:
    """Fronts of steps, each nearer than the one above it; the subject is the nearest."""
    step = np.arange(size) * len(STEP_Z) // size
    steps = np.repeat(step[:, None], size, axis=1)
    normal = np.broadcast_to([0.0, 0.0, 1.0], (size, size, 3)).copy()
    return Shape(np.array(STEP_Z)[steps], normal, steps == len(STEP_Z) - 1)
