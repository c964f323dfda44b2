"""Codecs: raw values of a task <-> the picture in [-1, 1] that the decoder speaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UserError


def min_max(values: Tensor) -> Tensor:
    """Per-image min-max of (B, C, H, W) to [0, 1]; a constant image gives 0."""
    flat = values.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    span = (high - low).clamp(min=1e-12)
    return (values - low[:, None, None, None]) / span[:, None, None, None]


def reduce_channels(picture: Tensor, channels: int) -> Tensor:
    """A three-channel picture of a one-channel map is read as the mean of its channels."""
    return picture.mean(1, keepdim=True) if channels == 1 else picture


class Restore(Protocol):
    """Values (B, C, h, w) as decoded -> (B, C, H, W) at the image's own size, each channel by itself.

    filter: by which; empty is as the recipe's family does it.
    """

    def __call__(self, values: Tensor, filter: str = "") -> Tensor: ...


class Settling:
    """What every codec also has."""

    classes: ClassVar[bool] = False
    """Whether values are class numbers."""
    losses: ClassVar[tuple[str, ...]] = ()
    """What predictions are compared with targets by, rows of core.measure.losses.LOSSES; empty: by the task's own."""

    @property
    def colours(self) -> bool:
        """Whether values are colours in [0, 1], before and after their size changes."""
        return False

    @property
    def unit_length(self) -> bool:
        """Whether values are vectors of length 1."""
        return False

    def finish(self, values: Tensor) -> Tensor:
        raise NotImplementedError

    def settle(self, values: Tensor, restore: Restore) -> tuple[Tensor, Tensor | None]:
        """Decoded values -> finished ones at the image's size; and their uncertainty (B, 1, H, W), if they tell it."""
        return self.finish(restore(values)), None


@dataclass(frozen=True)
class UnitRange(Settling):
    """Values in [0, scale] <-> [-1, 1]; GenPercept's and Marigold's maps. A scale <= 0 means per-image min-max."""

    channels: int
    scale: float = 1.0
    low: float | None = 0.0
    unit: bool = False

    @property
    def span(self) -> float:
        """Units per 1.0 of the decoded range."""
        return self.scale if self.scale > 0 else 1.0

    @property
    def high(self) -> float | None:
        return self.span

    @property
    def colours(self) -> bool:
        return self.channels == 3 and self.span == 1

    def encode(self, values: Tensor) -> Tensor:
        """(B, C, H, W) in the task's units -> (B, 3, H, W) in [-1, 1]."""
        return (values / self.span * 2 - 1).expand(-1, 3, -1, -1)

    def decode(self, picture: Tensor) -> Tensor:
        """(B, 3 or C, H, W), any range -> (B, C, H, W) in the task's units."""
        values = (reduce_channels(picture, self.channels).clamp(-1, 1) + 1) / 2
        return values * self.scale if self.scale > 0 else min_max(values)

    def finish(self, values: Tensor) -> Tensor:
        """What remains to be done once the values are at the image's own size."""
        return values.clamp(0, self.high)


@dataclass(frozen=True)
class Unbounded(UnitRange):
    """DMP's scaled maps: like UnitRange with no upper clamp, so that depths beyond `scale` metres survive."""

    @property
    def high(self) -> float | None:
        return None if self.scale > 0 else 1.0

    @property
    def colours(self) -> bool:
        return False

    def decode(self, picture: Tensor) -> Tensor:
        values = (reduce_channels(picture, self.channels) / 2 + 0.5).clamp(min=0)
        return values * self.scale if self.scale > 0 else min_max(values)

    def finish(self, values: Tensor) -> Tensor:
        return values


@dataclass(frozen=True)
class MinMax(UnitRange):
    """Whatever range comes is stretched per image to [0, 1]; for heads without a range of their own."""

    @property
    def span(self) -> float:
        return 1.0

    def decode(self, picture: Tensor) -> Tensor:
        return min_max(reduce_channels(picture, self.channels))


@dataclass(frozen=True)
class MinMaxMean(MinMax):
    """The mean of channels that were stretched together; Intrinsic-LoRA's depth."""

    def decode(self, picture: Tensor) -> Tensor:
        return reduce_channels(min_max(picture), self.channels)


@dataclass(frozen=True)
class LateMinMax(MinMax):
    """GenPercept v1's depth: clamped first, stretched per image only at the image's own size."""

    @property
    def colours(self) -> bool:
        return False

    def decode(self, picture: Tensor) -> Tensor:
        return reduce_channels(picture, self.channels).clamp(-1, 1)

    def finish(self, values: Tensor) -> Tensor:
        return min_max(values)


@dataclass(frozen=True)
class LateMean(UnitRange):
    """Lotus' maps: each channel is clamped and resized by itself, and only then is their mean taken."""

    @property
    def colours(self) -> bool:
        return False

    def decode(self, picture: Tensor) -> Tensor:
        return (picture / 2 + 0.5).clamp(0, 1) * self.span

    def finish(self, values: Tensor) -> Tensor:
        return reduce_channels(values, self.channels)


@dataclass(frozen=True)
class Display(UnitRange):
    """Light in [0, 1], linear as it is decoded, raised to 1/2.2 for a display; RGB-X's albedo and irradiance."""

    def encode(self, values: Tensor) -> Tensor:
        return super().encode(values**2.2)

    def decode(self, picture: Tensor) -> Tensor:
        return super().decode(picture) ** (1 / 2.2)


@dataclass(frozen=True)
class ClassColours(UnitRange):
    """Colours of a palette's classes in [0, 1], more or less; which class a pixel is of is never interpolated."""

    def settle(self, values: Tensor, restore: Restore) -> tuple[Tensor, None]:
        """By nearest: half-way between the colours of two classes may lie that of a third."""
        return self.finish(restore(values, "nearest-exact")), None


@dataclass(frozen=True)
class UnitVector(Settling):
    """Unit vectors as they are, in [-1, 1]; Marigold's normals."""

    channels: int = 3
    scale: float = 1.0
    low: float | None = -1.0
    high: float | None = 1.0
    unit: bool = True

    @property
    def unit_length(self) -> bool:
        return True

    def encode(self, values: Tensor) -> Tensor:
        return values

    def decode(self, picture: Tensor) -> Tensor:
        return self.finish(picture.clamp(-1, 1))

    def finish(self, values: Tensor) -> Tensor:
        """Interpolated vectors are shorter than 1: restore their length."""
        return F.normalize(values, dim=1, eps=1e-6)


@dataclass(frozen=True)
class HalfSphere(UnitVector):
    """Marigold's normals where z spans only the half sphere that faces the camera, stored as 2z - 1."""

    def encode(self, values: Tensor) -> Tensor:
        picture = values.clone()
        picture[:, 2] = picture[:, 2] * 2 - 1
        return picture

    def decode(self, picture: Tensor) -> Tensor:
        values = picture.clamp(-1, 1)
        values[:, 2] = values[:, 2] / 2 + 0.5
        return self.finish(values)


@dataclass(frozen=True)
class EarlyUnitVector(UnitVector):
    """E2E-FT's normals: brought to unit length as they are decoded, beyond [-1, 1] too, and not again."""

    @property
    def unit_length(self) -> bool:
        return False

    def decode(self, picture: Tensor) -> Tensor:
        for _ in range(2):  # as its authors do, whose 1e-5 leaves a trace each time
            picture = picture / (torch.linalg.vector_norm(picture, dim=1, keepdim=True) + 1e-5)
        return picture

    def finish(self, values: Tensor) -> Tensor:
        return values.clamp(-1, 1)


@dataclass(frozen=True)
class PlainVector(EarlyUnitVector):
    """Lotus' normals: in [-1, 1] as they are decoded, of any length."""

    def decode(self, picture: Tensor) -> Tensor:
        return picture.clamp(-1, 1)


SCORES_AT_ONCE = 16
"""Classes whose scores are held at the image's own size together: 150 of them would take 2.5 GB at 2048x2048."""


@dataclass(frozen=True)
class ClassScores(Settling):
    """A score for each class (logits), read as the number of the class that scores highest; for heads."""

    channels: int = 1
    scale: float = 1.0
    low: float | None = 0.0
    high: float | None = None
    unit: bool = False
    classes: ClassVar[bool] = True
    losses: ClassVar[tuple[str, ...]] = ("cross-entropy",)

    def encode(self, values: Tensor) -> Tensor:
        """Class numbers (B, 1, H, W), which is what scores are compared with."""
        return values

    def decode(self, picture: Tensor) -> Tensor:
        """Scores (B, C, h, w), as they are."""
        return picture

    def finish(self, values: Tensor) -> Tensor:
        """Scores (B, C, H, W) -> class numbers (B, 1, H, W)."""
        return values.argmax(1, keepdim=True).float()

    def settle(self, values: Tensor, restore: Restore) -> tuple[Tensor, Tensor]:
        """Class numbers and 1 - (p1 - p2), by how much the most probable class is not ahead of the next.

        Scores are what changes its size: numbers of classes have nothing between them.
        """
        nothing = torch.full((1, 1, 1, 1), -torch.inf, device=values.device)
        best, total, label = nothing.expand(1, 2, 1, 1), nothing, torch.zeros_like(nothing, dtype=torch.long)
        for start in range(0, values.shape[1], SCORES_AT_ONCE):
            scores = restore(values[:, start : start + SCORES_AT_ONCE]).float()
            found = scores.argmax(1, keepdim=True) + start
            both = _top_two(scores)
            label = torch.where(both[:, :1] > best[:, :1], found, label)
            best = _top_two(torch.cat([best.expand_as(both), both], 1))
            total = torch.logaddexp(total, scores.logsumexp(1, keepdim=True))
        probable = (best - total).exp()
        return label.float(), 1 - (probable[:, :1] - probable[:, 1:])


def _top_two(scores: Tensor) -> Tensor:
    """(B, C, H, W) -> the two highest (B, 2, H, W); a single class stands before one that cannot be."""
    padded = scores if scores.shape[1] > 1 else F.pad(scores, (0, 0, 0, 0, 0, 1), value=-torch.inf)
    return padded.topk(2, 1).values


@dataclass(frozen=True)
class Heatmaps(UnitRange):
    """A heatmap for each keypoint, 1 where it is; only heads make as many channels."""

    @property
    def high(self) -> float | None:
        return None

    @property
    def colours(self) -> bool:
        return False

    def encode(self, values: Tensor) -> Tensor:
        return values

    def decode(self, picture: Tensor) -> Tensor:
        if picture.shape[1] != self.channels:
            raise UserError(
                f"The network gives {picture.shape[1]} channels, but the recipe names {self.channels} keypoints: "
                "set keypoints to those that its head was trained on."
            )
        return picture

    def finish(self, values: Tensor) -> Tensor:
        return values.clamp(min=0)


@dataclass(frozen=True)
class RawHeatmaps(Heatmaps):
    """The same as a head gives them, also below 0."""

    low: float | None = None

    def finish(self, values: Tensor) -> Tensor:
        return values


Codec = UnitRange | UnitVector | ClassScores

CODECS: dict[str, type[Codec]] = {
    "unit-range": UnitRange,
    "class-colours": ClassColours,
    "unbounded": Unbounded,
    "min-max": MinMax,
    "min-max-mean": MinMaxMean,
    "late-min-max": LateMinMax,
    "late-mean": LateMean,
    "display": Display,
    "unit-vector": UnitVector,
    "half-sphere": HalfSphere,
    "early-unit-vector": EarlyUnitVector,
    "plain-vector": PlainVector,
    "class-scores": ClassScores,
    "heatmaps": Heatmaps,
    "raw-heatmaps": RawHeatmaps,
}
