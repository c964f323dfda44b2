"""Matting: the colours of a foreground under its soft edge, and what it looks like elsewhere."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion import Tick
from ..errors import UserError

SMOOTHNESS = 1e-5
"""epsilon_r: how strongly equal neighbours are asked for where alpha is flat."""
EDGE_WEIGHT = 1.0
"""omega: how much more so per unit of difference in alpha."""
SMALL = 32
"""Levels with no edge above this are cheap and get SMALL_PASSES instead of LARGE_PASSES."""
SMALL_PASSES = 10
LARGE_PASSES = 2


def pair(image: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Image (B, H, W, 3) and alpha (B, H, W) in equal number: one of either goes with many of the other.

    UserError if they are not of one size.
    """
    (height, width), (rows, columns) = image.shape[1:3], alpha.shape[1:3]
    if (height, width) != (rows, columns):
        raise UserError(f"The image is {width} x {height}, the map {columns} x {rows}: take the map of this image.")
    count = _check_counts(len(image), "images", len(alpha), "maps")
    return image.expand(count, -1, -1, -1), alpha.expand(count, -1, -1)


def _check_counts(one: int, its_name: str, other: int, other_name: str) -> int:
    """How many pairs they make. UserError unless they are equal in number or one of them is 1."""
    if one != other and 1 not in (one, other):
        raise UserError(f"There are {one} {its_name} and {other} {other_name}: give equal numbers, or one for all.")
    return max(one, other)


def foreground_of(image: Tensor, alpha: Tensor, tick: Tick = lambda: None) -> Tensor:
    """The colours (B, H, W, 3) of a cut-out with straight alpha.

    What is opaque keeps the image's very colour; where nothing is left the nearest foreground goes on, so that no
    fringe appears when the picture is scaled or blurred.
    """
    foreground, _ = estimate_foreground(image, alpha, tick)
    return torch.where(alpha[..., None] < 1, foreground, image)


def composite(foreground: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """Foreground (B, H, W, 3) by its alpha (B, H, W) over a background of its size; one of either serves many."""
    _check_counts(len(foreground), "images", len(background), "backgrounds")
    return torch.lerp(background, foreground, alpha[..., None])


def cover(picture: Tensor, height: int, width: int) -> Tensor:
    """(B, H', W', 3) -> (B, height, width, 3): scaled until it covers the size, what stands out cut off evenly."""
    scale = max(height / picture.shape[1], width / picture.shape[2])
    size = [max(length, round(own * scale)) for length, own in zip((height, width), picture.shape[1:3], strict=True)]
    scaled = F.interpolate(picture.movedim(-1, 1), size, mode="bilinear", antialias=True).movedim(1, -1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return scaled[:, top : top + height, left : left + width].contiguous()


def estimate_foreground(image: Tensor, alpha: Tensor, tick: Tick = lambda: None) -> tuple[Tensor, Tensor]:
    """Image (B, H, W, 3) and alpha (B, H, W) in [0, 1] -> foreground and background (B, H, W, 3) whose mix it is.

    Fast multi-level foreground estimation (Germer et al. 2020): colours that explain the image, smooth wherever alpha
    leaves them open, found from 1 x 1 pixel upwards. Images are worked on one by one; tick is called after each.
    """
    foreground, background = torch.empty_like(image), torch.empty_like(image)
    for n, (colours, opacity) in enumerate(zip(image.movedim(-1, 1), alpha[:, None], strict=True)):
        halves = multi_level(colours[None].contiguous(), opacity[None])
        foreground[n], background[n] = (half[0].movedim(0, -1) for half in halves)
        tick()
    return foreground, background


def multi_level(image: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """image (B, 3, H, W), alpha (B, 1, H, W) -> foreground, background (B, 3, H, W)."""
    foreground, background = _mean_where(image, alpha > 0.9), _mean_where(image, alpha < 0.1)
    for size in sizes(*image.shape[-2:]):
        level_image, level_alpha = (F.interpolate(x, size) for x in (image, alpha))
        foreground, background = (F.interpolate(x, size) for x in (foreground, background))
        passes = SMALL_PASSES if max(size) <= SMALL else LARGE_PASSES
        foreground, background = relax(foreground, background, level_image, level_alpha, passes)
    return foreground, background


def sizes(height: int, width: int) -> list[tuple[int, int]]:
    """From 1 x 1 to the full size, in steps of at most a factor of 2."""
    count = max(1, math.ceil(math.log2(max(height, width))))
    return [(round(height ** (i / count)), round(width ** (i / count))) for i in range(count + 1)]


def _mean_where(image: Tensor, chosen: Tensor) -> Tensor:
    """(B, 3, 1, 1) mean colour of the chosen pixels; 0 of none."""
    return (image * chosen).sum((2, 3), keepdim=True) / chosen.sum((2, 3), keepdim=True).clamp(min=1)


def relax(foreground: Tensor, background: Tensor, image: Tensor, alpha: Tensor, passes: int) -> tuple[Tensor, Tensor]:
    """Lower the cost sum_i (a F + (1 - a) B - I)^2 + sum_ij w_ij ((F_i - F_j)^2 + (B_i - B_j)^2), pixel by pixel.

    w_ij = epsilon_r + omega |a_i - a_j| between the four neighbours. A pass is two half-passes over a chequerboard:
    the neighbours of a pixel are never moved together with it.
    """
    across, down = (SMOOTHNESS + EDGE_WEIGHT * alpha.diff(dim=dim).abs() for dim in (3, 2))
    total = _neighbours(torch.ones_like(alpha), across, down).clamp(min=SMOOTHNESS)
    share = total + alpha**2 + (1 - alpha) ** 2
    rows, columns = (torch.arange(n, device=image.device) for n in image.shape[-2:])
    white = (rows[:, None] + columns) % 2 == 0
    for now in (white, ~white) * passes:
        f, b = _neighbours(foreground, across, down) / total, _neighbours(background, across, down) / total
        # the minimum for one pixel: its neighbours' means, moved along (a, 1 - a) to meet the image
        missing = (image - alpha * f - (1 - alpha) * b) / share
        foreground = torch.where(now, (f + alpha * missing).clamp(0, 1), foreground)
        background = torch.where(now, (b + (1 - alpha) * missing).clamp(0, 1), background)
    return foreground, background


def _neighbours(values: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """The weighted sum over four neighbours; across (..., H, W - 1) and down (..., H - 1, W) weigh the pairs."""
    total = torch.zeros_like(values)
    total[..., 1:].add_(across * values[..., :-1])
    total[..., :-1].add_(across * values[..., 1:])
    total[..., 1:, :].add_(down * values[..., :-1, :])
    total[..., :-1, :].add_(down * values[..., 1:, :])
    return total
