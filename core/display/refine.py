"""Refine: masks grown, shrunk, feathered, and fitted to the edges of their picture."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def grown(mask: Tensor, pixels: int) -> Tensor:
    """(B, H, W) -> the largest value within a disc of that radius; the smallest if pixels are below zero."""
    if pixels < 0:
        return -grown(-mask, -pixels)
    if not pixels:
        return mask
    height, width = mask.shape[-2:]
    padded = F.pad(mask, (pixels,) * 4, value=-torch.inf)
    spans = doubled(padded, 2 * pixels + 1)
    found = mask
    for down in range(-pixels, pixels + 1):
        reach = math.isqrt(pixels**2 - down**2)
        wide = 2 * reach + 1
        power = wide.bit_length() - 1
        # two overlapping runs of 2 ** power pixels make one of any length
        rows, first = spans[power][:, pixels + down : pixels + down + height], pixels - reach
        last = first + wide - 2**power
        found = torch.maximum(found, torch.maximum(rows[..., first : first + width], rows[..., last : last + width]))
    return found


def doubled(padded: Tensor, longest: int) -> list[Tensor]:
    """The largest of 1, 2, 4, ... pixels from each one to the right, up to runs no longer than the longest."""
    spans = [padded]
    while 2 ** len(spans) <= longest:
        half = 2 ** (len(spans) - 1)
        shifted = F.pad(spans[-1], (0, half), value=-torch.inf)[..., half:]
        spans.append(torch.maximum(spans[-1], shifted))
    return spans


def feathered(mask: Tensor, pixels: float) -> Tensor:
    """(B, H, W) -> its edges soft over that many pixels to either side: a Gaussian of half of that as its deviation."""
    if pixels <= 0:
        return mask
    reach = math.ceil(1.5 * pixels)
    places = torch.arange(-reach, reach + 1, device=mask.device, dtype=mask.dtype)
    weights = torch.exp(-2 * (places / pixels) ** 2)
    weights = weights / weights.sum()
    soft = F.pad(mask[:, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(soft, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))[:, 0]


def _mean_around(values: Tensor, radius: int) -> Tensor:
    """(B, C, H, W) -> the mean over radius pixels to every side, as many of them as there are."""
    for size in ((1, 2 * radius + 1), (2 * radius + 1, 1)):
        padding = (size[0] // 2, size[1] // 2)
        values = F.avg_pool2d(values, size, 1, padding, count_include_pad=False)
    return values


PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
"""Of red, green and blue: the six different entries of a covariance."""


def guided_filter(mask: Tensor, image: Tensor, radius: int, epsilon: float) -> Tensor:
    """(B, H, W) -> locally a linear function of the colours of its picture (B, H, W, 3), so that it follows its edges.

    The guided filter with a guide in colours (He, Sun and Tang, 2010). radius in pixels; epsilon: what variance of the
    picture, of values in [0, 1], counts as flat.
    """
    if radius <= 0:
        return mask
    guide, level = image.movedim(-1, 1), mask[:, None]
    mean, mean_level = _mean_around(guide, radius), _mean_around(level, radius)
    across = _mean_around(guide * level, radius) - mean * mean_level
    products = torch.cat([guide[:, i : i + 1] * guide[:, j : j + 1] for i, j in PAIRS], 1)
    squares = torch.cat([mean[:, i : i + 1] * mean[:, j : j + 1] for i, j in PAIRS], 1)
    slope = _solved(_mean_around(products, radius) - squares, across, epsilon)
    offset = mean_level - (slope * mean).sum(1, keepdim=True)
    made = (_mean_around(slope, radius) * guide).sum(1, keepdim=True) + _mean_around(offset, radius)
    return made[:, 0].clamp(0, 1)


def _solved(covariance: Tensor, right: Tensor, epsilon: float) -> Tensor:
    """(covariance + epsilon) x = right for every pixel by Cramer's rule; covariance (B, 6, H, W) in PAIRS' order."""
    rr, rg, rb, gg, gb, bb = covariance.unbind(1)
    rr, gg, bb = rr + epsilon, gg + epsilon, bb + epsilon
    rows = ((gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb),
            (gb * rb - rg * bb, rr * bb - rb * rb, rb * rg - rr * gb),
            (rg * gb - gg * rb, rb * rg - rr * gb, rr * gg - rg * rg))  # fmt: skip
    whole = rr * rows[0][0] + rg * rows[0][1] + rb * rows[0][2]
    return torch.stack([sum(part * right[:, i] for i, part in enumerate(row)) / whole for row in rows], 1)
