"""Heatmaps to keypoints: the place where each is highest, to a fraction of a cell."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SPREAD = 1 / 32
"""Of a keypoint in a heatmap, as a share of its longer side: 2 of 64 cells."""
LONGEST = 128
"""Heatmaps with more cells along a side are scaled down before they are read: they hold no more than that."""
UDP_SPREAD = 2.0
UDP_REACH = 5
"""Cells of the Gaussian that MMPose blurs heatmaps by before it reads them: OpenCV's of 11 x 11."""
UDP_RANGE = (1e-3, 50.0)
"""What it takes logarithms of."""
UDP_EPSILON = torch.finfo(torch.float32).eps
"""What it adds to the second derivatives, which may be 0."""


def find_keypoints(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K, h, w) -> where each is highest (N, K, 2), x and y in cells, float64; and how high (N, K).

    DARK (Zhang et al. 2020): the logarithm of a Gaussian is a parabola, whose top its derivatives next to the highest
    cell tell. Where there is none, 0 high, it is the middle of a cell.
    """
    height, width = heatmaps.shape[-2:]
    maps = _reduced(heatmaps.double())
    rows, columns = maps.shape[-2:]
    value, index = maps.flatten(2).max(2)
    x, y = index % columns, index // columns
    spread = max(SPREAD * max(rows, columns), 0.5)
    smooth = _gaussian_blur(maps.clamp(min=0), spread, round(2.5 * spread), "replicate").clamp(min=1e-10).log()
    offset = _top_of(_cells_around(smooth, x, y)) * (value > 0)[..., None]
    points = torch.stack([x, y], -1) + 0.5 + offset
    return points * points.new_tensor([width / columns, height / rows]), value.clamp(min=0)


def find_by_udp(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """The same as MMPose reads heatmaps of models that were trained by UDP (Huang et al. 2020), such as SDPose.

    Its cells have no extent: the first one's middle is the crop's left border, the last one's its right border. One
    Newton step on the blurred logarithm, also where there is no top; where that leads out of the map by more than the
    blur reaches, and MMPose answers thousands of pixels, it is the highest cell.
    """
    found = [_udp_of(person) for person in heatmaps.split(1)]  # 133 large maps of doubles are 50 MB
    points, value = (torch.cat(parts) for parts in zip(*found))
    return points, value


def _udp_of(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Of one person."""
    maps = heatmaps.double()
    rows, columns = maps.shape[-2:]
    value, index = maps.flatten(2).max(2)
    x, y = index % columns, index // columns
    smooth = _gaussian_blur(maps, UDP_SPREAD, UDP_REACH, "constant")
    highest = smooth.flatten(2).amax(2)  # below 0 where a lone peak stands among negative values
    smooth = smooth * (value / highest.where(highest != 0, torch.ones_like(highest)))[..., None, None]
    offset = _newton_step(_cells_around(smooth.clamp(*UDP_RANGE).log(), x, y))
    cells, sides = torch.stack([x, y], -1), offset.new_tensor([columns, rows])
    moved = cells + offset
    kept = ((moved >= -UDP_REACH) & (moved <= sides - 1 + UDP_REACH)).all(-1) & (value > 0)
    points = torch.where(kept[..., None], moved, cells.double())
    return points / (sides - 1).clamp(min=1) * sides, value.clamp(min=0)


def _newton_step(patch: Tensor) -> Tensor:
    """(..., 3, 3) -> x, y (..., 2) from the middle to where MMPose's derivatives say that the slope is 0."""
    middle, left, right, up, down = (
        patch[..., row, column] for row, column in ((1, 1), (1, 0), (1, 2), (0, 1), (2, 1))
    )
    dxx, dyy = (after - 2 * middle + before + UDP_EPSILON for before, after in ((left, right), (up, down)))
    dxy = (patch[..., 2, 2] + patch[..., 0, 0] + 2 * middle - left - right - up - down) / 2
    dx, dy = (right - left) / 2, (down - up) / 2
    # a division by 0 is no step, which the caller sees
    return torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1) / (dxx * dyy - dxy**2)[..., None]


def _reduced(maps: Tensor) -> Tensor:
    """At most LONGEST cells along a side."""
    height, width = maps.shape[-2:]
    share = LONGEST / max(height, width)
    if share >= 1:
        return maps
    size = (max(round(height * share), 1), max(round(width * share), 1))
    return F.interpolate(maps, size, mode="bilinear", antialias=True)


def _gaussian_blur(maps: Tensor, spread: float, reach: int, border: str) -> Tensor:
    """By a Gaussian that ends `reach` cells away: noise of single cells would decide the derivatives.

    border: replicate, or constant for zeros.
    """
    reach = min(reach, maps.shape[-2] - 1, maps.shape[-1] - 1)
    taps = torch.exp(-(torch.arange(-reach, reach + 1, dtype=maps.dtype, device=maps.device) ** 2) / (2 * spread**2))
    taps = taps / taps.sum()
    padded = F.pad(maps.flatten(0, 1)[:, None], (reach,) * 4, mode=border)
    across = F.conv2d(padded, taps[None, None, None])
    return F.conv2d(across, taps[None, None, :, None])[:, 0].unflatten(0, maps.shape[:2])


def _cells_around(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(N, K, 3, 3) around a cell of each, the border repeated."""
    height, width = maps.shape[-2:]
    steps = torch.arange(-1, 2, device=maps.device)
    rows = (y[..., None, None] + steps[:, None]).clamp(0, height - 1)
    columns = (x[..., None, None] + steps).clamp(0, width - 1)
    return maps.flatten(2).gather(2, (rows * width + columns).flatten(2)).unflatten(2, (3, 3))


def _top_of(patch: Tensor) -> Tensor:
    """(..., 3, 3) -> x, y (..., 2) of the parabola's top beside the middle; 0 where it has none, at most one cell."""
    middle = patch[..., 1, 1]
    dx, dy = (patch[..., 1, 2] - patch[..., 1, 0]) / 2, (patch[..., 2, 1] - patch[..., 0, 1]) / 2
    dxx = patch[..., 1, 2] - 2 * middle + patch[..., 1, 0]
    dyy = patch[..., 2, 1] - 2 * middle + patch[..., 0, 1]
    dxy = (patch[..., 2, 2] - patch[..., 2, 0] - patch[..., 0, 2] + patch[..., 0, 0]) / 4
    determinant = dxx * dyy - dxy**2
    has_top = (dxx < 0) & (determinant > 1e-12)
    safe = torch.where(has_top, determinant, torch.ones_like(determinant))
    offset = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1) / safe[..., None]
    return torch.where(has_top[..., None], offset, torch.zeros_like(offset)).clamp(-1, 1)


DECODINGS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {"dark": find_keypoints, "udp": find_by_udp}
"""How keypoints are read out of heatmaps."""
