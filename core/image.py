"""Sizes: the picture a network was trained to see, and the way back to the image's own size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from .pillow import FILTERS, resize_bytes

CELL = 8
"""Pixels along one latent cell of a Stable Diffusion VAE."""
SMALLEST = 4 * CELL
"""Pixels along the shorter side that a network is shown at least: less leaves its narrow norms a single value."""


@dataclass(frozen=True)
class ResizeRule:
    """How a family brings an image to its processing size and values back."""

    edge: Callable[[int, int], int] = max
    """Which edge the resolution speaks of: max, the longer, or min, the shorter."""
    scale_first: bool = False
    """Divide before multiplying, in floating point: some sizes then come out one pixel smaller, as the authors' do."""
    filter: str = "bilinear"
    antialias: bool = True
    levels: bool = False
    """Round to 8-bit levels before and after, as pipelines do that resize uint8."""
    separate: bool = False
    """Round between the horizontal and the vertical pass too, and halves up, as Pillow does."""
    floor: int = 1
    """Sides are cut down to a multiple of this."""
    multiple: int = 1
    """Pad right and bottom, repeating the border, to a multiple of this; cut off again afterwards."""
    back_filter: str = "bilinear"
    back_antialias: bool = False
    back_levels: bool = False
    """Resize colours as 8-bit levels the way Pillow does, as pipelines do that give pictures of bytes."""

    def filtered(self, filter: str, back_filter: str) -> ResizeRule:
        """The same with other filters; "" keeps the rule's own. A filter that takes the nearest cannot antialias."""
        there = {"filter": filter, "antialias": self.antialias and filter in SMOOTH} if filter else {}
        back = {"back_filter": back_filter, "back_antialias": self.back_antialias and back_filter in SMOOTH}
        return replace(self, **there, **(back if back_filter else {}))


SMOOTH = ("bilinear", "bicubic")
"""Filters that can antialias."""

RESIZE_RULES: dict[str, ResizeRule] = {
    "genpercept": ResizeRule(scale_first=True, levels=True, back_antialias=True),
    "genpercept-v1": ResizeRule(scale_first=True, filter="bicubic", levels=True, separate=True),
    "genpercept-v1-nearest": ResizeRule(
        scale_first=True, filter="bicubic", levels=True, separate=True, back_filter="nearest"
    ),
    "marigold": ResizeRule(multiple=CELL),
    "intrinsic-lora": ResizeRule(edge=min, levels=True, separate=True),
    "lotus": ResizeRule(back_filter="nearest-exact"),
    "rgb-x": ResizeRule(floor=CELL, back_antialias=True),
    "dmp": ResizeRule(edge=min, filter="bicubic", antialias=False, back_filter="bicubic", back_levels=True),
}


@dataclass(frozen=True)
class Fit:
    """What was done to an image, so that its values find the way back."""

    rule: ResizeRule
    original: tuple[int, int]
    """(H, W) of the image."""
    inner: tuple[int, int]
    """(H, W) at processing size, before padding."""
    colours: bool = True
    """Whether values of three channels are colours in [0, 1]."""

    def restore(self, values: Tensor, filter: str = "") -> Tensor:
        """Values (B, C, 8h, 8w) as decoded -> (B, C, H, W) of the image. filter: another one than the rule's."""
        if self.rule.multiple > 1:
            values = values[..., : self.inner[0], : self.inner[1]]
        if self.rule.back_levels and self.colours and values.shape[1] == 3 and not filter:
            return _resize_colours(values, self.original, self.rule.back_filter)
        antialias = self.rule.back_antialias and not filter
        return resize(values, self.original, filter or self.rule.back_filter, antialias)


def fit(image: Tensor, resolution: int, rule: ResizeRule) -> tuple[Tensor, Fit]:
    """Picture (B, 3, H, W) in [-1, 1] -> the picture the network sees, and the way back.

    resolution: pixels of the edge that the rule speaks of; 0 keeps the image's own size.
    """
    original = (image.shape[-2], image.shape[-1])
    inner = processing_size(original, resolution, rule)
    if rule.levels:
        # whole levels in whole numbers: halfway values must round as they do for the authors, who resize bytes
        image = _resize_levels(_to_levels(image), inner, rule) / 255 * 2 - 1
    else:
        image = resize(image, inner, rule.filter, rule.antialias)
    return pad(image, rule.multiple), Fit(rule, original, inner)


def processing_size(size: tuple[int, int], resolution: int, rule: ResizeRule) -> tuple[int, int]:
    """(H, W) at processing resolution, rounded down, but never below SMALLEST."""
    if resolution == 0:
        scaled = size
    elif rule.scale_first:
        scale = resolution / rule.edge(*size)
        scaled = (int(size[0] * scale), int(size[1] * scale))
    else:
        scaled = tuple(length * resolution // rule.edge(*size) for length in size)
    return max(scaled[0] // rule.floor * rule.floor, SMALLEST), max(scaled[1] // rule.floor * rule.floor, SMALLEST)


def resize(image: Tensor, size: tuple[int, int], filter: str, antialias: bool) -> Tensor:
    """(B, C, H, W) -> (B, C, *size); the same size is returned as it is."""
    if (image.shape[-2], image.shape[-1]) == size:
        return image
    return F.interpolate(image, size, mode=filter, antialias=antialias)


def _resize_levels(levels: Tensor, size: tuple[int, int], rule: ResizeRule) -> Tensor:
    """Levels 0..255 (B, C, H, W) -> (B, C, *size), by the rule's filter there."""
    if rule.separate and rule.filter in FILTERS:
        return resize_bytes(levels, size, rule.filter)
    return resize(levels, size, rule.filter, rule.antialias).round().clamp(0, 255)


def _resize_colours(values: Tensor, size: tuple[int, int], filter: str) -> Tensor:
    """Colours (B, 3, H, W) in [0, 1] -> (B, 3, *size), as Pillow resizes bytes; of the same size, as they are."""
    if (values.shape[-2], values.shape[-1]) == size:
        return values
    levels = (values * 255).round().clamp(0, 255)
    return (resize_bytes(levels, size, filter) if filter in FILTERS else resize(levels, size, filter, False)) / 255


def _to_levels(image: Tensor) -> Tensor:
    """[-1, 1] -> the nearest of the levels 0..255."""
    return ((image + 1) * 127.5).round().clamp(0, 255)


def pad(image: Tensor, multiple: int) -> Tensor:
    """Repeat the right and bottom border up to a multiple."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def all_finite(batch: Tensor) -> bool:
    """Whether all numbers are; looked at a few images at a time, for the answers take a quarter of a video."""
    return all(bool(part.isfinite().all()) for part in batch.split(FEW))


FEW = 8
"""Images that are looked at together."""
