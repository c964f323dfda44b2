"""Sizes: the picture a network was trained to see, and the way back to the image's own size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

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
    """Round between the horizontal and the vertical pass too, as Pillow does."""
    multiple: int = 1
    """Pad right and bottom, repeating the border, to a multiple of this; cut off again afterwards."""
    back_filter: str = "bilinear"
    back_antialias: bool = False


RESIZE_RULES: dict[str, ResizeRule] = {
    "genpercept": ResizeRule(scale_first=True, levels=True, back_antialias=True),
    "genpercept-v1": ResizeRule(scale_first=True, filter="bicubic", levels=True, separate=True),
    "genpercept-v1-nearest": ResizeRule(
        scale_first=True, filter="bicubic", levels=True, separate=True, back_filter="nearest"
    ),
    "marigold": ResizeRule(multiple=CELL),
    "dmp": ResizeRule(edge=min, filter="bicubic", antialias=False, back_filter="bicubic"),
}


@dataclass(frozen=True)
class Fit:
    """What was done to an image, so that its values find the way back."""

    rule: ResizeRule
    original: tuple[int, int]
    """(H, W) of the image."""
    inner: tuple[int, int]
    """(H, W) at processing size, before padding."""

    def restore(self, values: Tensor, filter: str = "") -> Tensor:
        """Values (B, C, 8h, 8w) as decoded -> (B, C, H, W) of the image. filter: another one than the rule's."""
        if self.rule.multiple > 1:
            values = values[..., : self.inner[0], : self.inner[1]]
        antialias = self.rule.back_antialias and not filter
        return resize(values, self.original, filter or self.rule.back_filter, antialias)


def fit(image: Tensor, resolution: int, rule: ResizeRule) -> tuple[Tensor, Fit]:
    """Picture (B, 3, H, W) in [-1, 1] -> the picture the network sees, and the way back.

    resolution: pixels of the edge that the rule speaks of; 0 keeps the image's own size.
    """
    original = (image.shape[-2], image.shape[-1])
    inner = processing_size(original, resolution, rule)
    passes = ((original[0], inner[1]), inner) if rule.separate else (inner,)
    if rule.levels:
        # whole levels in whole numbers: halfway values must round as they do for the authors, who resize bytes
        levels = to_levels(image)
        for size in passes:
            levels = resize(levels, size, rule.filter, rule.antialias).round().clamp(0, 255)
        image = levels / 255 * 2 - 1
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
    return max(scaled[0], SMALLEST), max(scaled[1], SMALLEST)


def resize(image: Tensor, size: tuple[int, int], filter: str, antialias: bool) -> Tensor:
    """(B, C, H, W) -> (B, C, *size); the same size is returned as it is."""
    if (image.shape[-2], image.shape[-1]) == size:
        return image
    return F.interpolate(image, size, mode=filter, antialias=antialias)


def to_levels(image: Tensor) -> Tensor:
    """[-1, 1] -> the nearest of the levels 0..255."""
    return ((image + 1) * 127.5).round().clamp(0, 255)


def pad(image: Tensor, multiple: int) -> Tensor:
    """Repeat the right and bottom border up to a multiple."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")
