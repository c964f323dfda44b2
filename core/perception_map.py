"""PerceptionMap: raw predicted values together with their meaning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from .skeletons import Skeleton

Axis = Literal["left", "right", "up", "down", "back", "forward"]
Encoding = Literal["", "linear", "srgb", "gamma-2.2", "square-root"]
"""How values code what they measure: as it is (of light: linear), by sRGB's curve, to the power 1/2.2, its root."""


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
    encoding: Encoding = ""
    """How values code what they measure, such as light or disparity; "" where that was not stated."""
    up_to_scale: bool = False
    """True: light is known up to a factor of the whole picture."""
    palette: str | None = None
    """The palette that colours classes, as core.display.colour.palette_named reads it."""
    classes: bool = False
    """True: values are numbers of the palette's classes. False: they are its colours, more or less."""
    skeleton: Skeleton | None = None
    """What the channels of heatmaps are."""
    decoding: str = "dark"
    """How keypoints are read out of them: a row of core.heatmaps.DECODINGS."""

    def said(self) -> list[str]:
        """What the values mean, in words."""
        unit = {"low": " in metres", "high": " in 1/metres"}
        return [
            *([f"near is {self.near}{unit[self.near] if self.metric else ''}"] if self.near else []),
            *([f"axes {', '.join(self.axes)}"] if self.axes else []),
            *([f"{'classes' if self.classes else 'colours'} of {self.palette}"] if self.palette else []),
            *([f"{len(self.skeleton)} keypoints"] if self.skeleton else []),
        ]


def from_camera(convention: Convention) -> bool:
    """Whether values are distances from the camera (or one over them), in metres or up to an unknown factor."""
    return convention.metric or convention.high is None


@dataclass(frozen=True)
class Crops:
    """Where the entries of a map lie that are crops, each with a person in it, of the images of a batch."""

    size: tuple[int, int]
    """(H, W) of the images."""
    count: int
    """How many images there are."""
    images: tuple[int, ...]
    """Which of them each entry is from."""
    windows: Tensor
    """(N, 4) float64: x, y of the upper left corner, width, height, in pixels of the image; may reach beyond it."""
    scores: tuple[float, ...]
    """How sure whoever found the person was, 0 to 1."""


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
    """(B, H, W) float32 from an ensemble: median absolute deviation, or mean angle / pi for normals. Of class numbers:
    1 - (p1 - p2) of the two most probable classes."""
    crops: Crops | None = None
    """Where the entries of `values` lie, if they are not whole images; they then have a size of their own."""

    def images(self, start: int, stop: int) -> PerceptionMap:
        """Some of its images, which share its memory; of maps that are no crops."""
        some = slice(start, stop)
        valid = None if self.valid is None else self.valid[some]
        uncertainty = None if self.uncertainty is None else self.uncertainty[some]
        return replace(self, values=self.values[some], valid=valid, uncertainty=uncertainty)

    def __str__(self) -> str:
        """One line for a person: of what, how large, between which values, and what those mean."""
        count, height, width, _ = self.values.shape
        known = self.values[self.values.isfinite()]
        span = f"{known.min():.4g} to {known.max():.4g}" if known.numel() else "no known values"
        return ", ".join((f"{self.task} of {count} x {width} x {height}", span, *self.convention.said()))
