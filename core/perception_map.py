"""PerceptionMap: raw predicted values together with their meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Axis = Literal["left", "right", "up", "down", "back", "forward"]


@dataclass(frozen=True)
class Convention:
    """How to read raw values.

    `back` is towards the camera, `forward` away from it; all axes are the camera's.
    """

    low: float | None = 0.0
    """The smallest value that the codec can give, None where unbounded."""
    high: float | None = 1.0
    """The largest value that the codec can give, None where unbounded."""
    near: Literal["low", "high"] | None = None
    """Which end of a depth or disparity is near the camera."""
    metric: bool = False
    """True: depth in metres (disparity in 1/metres). False: known up to an affine transform."""
    axes: tuple[Axis, Axis, Axis] | None = None
    """Where the +x, +y and +z of a normal point."""
    unit: bool = False
    """True: normals are unit vectors in [-1, 1]. False: (n + 1) / 2 in [0, 1], length not restored."""
    palette: str | None = None
    """Name of the palette (core.colour.PALETTES) that colours classes."""


@dataclass(frozen=True)
class PerceptionMap:
    """One prediction for a batch of images, before any conversion for the eye."""

    task: str
    """A row of core.tasks.TASKS."""
    values: Tensor
    """(B, H, W, C) float32, in the units that `convention` states."""
    convention: Convention
    recipe: str = ""
    """The id of the recipe that made it."""
    valid: Tensor | None = None
    """(B, H, W) bool, True where `values` can be trusted; None means everywhere."""
    uncertainty: Tensor | None = None
    """(B, H, W) float32 from an ensemble: median absolute deviation, or mean angle / pi for normals."""
