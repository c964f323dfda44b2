"""Pillow: resizing of bytes to the very level, for families whose pictures went through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BITS = 22
"""Fraction of the whole numbers that Pillow rounds its weights to."""


class Filter(NamedTuple):
    """A row: how much a pixel counts by its distance, in pixels of the smaller picture."""

    reach: int
    weigh: Callable[[np.ndarray], np.ndarray]


def _triangle(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(distance), 0)


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys (1981), with a = -0.5."""
    x = np.abs(distance)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


FILTERS: dict[str, Filter] = {"bilinear": Filter(1, _triangle), "bicubic": Filter(2, cubic)}


def resize_bytes(levels: Tensor, size: tuple[int, int], filter: str) -> Tensor:
    """Whole levels 0..255 (..., H, W) -> (..., *size), whole too. filter: a row of FILTERS.

    Across, then down, rounded after each; newer versions of Pillow take the cheaper of the two first.
    """
    exact = levels.cpu().double()  # holds every sum of the whole numbers; not every device has it
    exact = one_pass(exact, size[1], FILTERS[filter])
    return one_pass(exact.mT, size[0], FILTERS[filter]).mT.to(levels)


def one_pass(levels: Tensor, wanted: int, filter: Filter) -> Tensor:
    """(..., N) -> (..., wanted); a line of as many pixels stays as it is."""
    there = levels.shape[-1]
    if there == wanted:
        return levels
    first, weights = _resampling_taps(there, wanted, filter)
    total = levels.new_full((*levels.shape[:-1], wanted), 1 << (BITS - 1))
    for number, counts in enumerate(weights.T):
        total += levels[..., (first + number).clip(max=there - 1)] * torch.from_numpy(counts)
    return (total / (1 << BITS)).floor().clamp(0, 255)


def _resampling_taps(there: int, wanted: int, filter: Filter) -> tuple[np.ndarray, np.ndarray]:
    """(wanted,) the first pixel that counts for each, and (wanted, taps) how much it and those after it count."""
    scale = there / wanted
    spread = max(scale, 1.0)
    centre = (np.arange(wanted) + 0.5) * scale
    first = (centre - filter.reach * spread + 0.5).astype(np.int64).clip(min=0)
    last = (centre + filter.reach * spread + 0.5).astype(np.int64).clip(max=there)
    pixels = first[:, None] + np.arange((last - first).max())
    counts = filter.weigh((pixels - centre[:, None] + 0.5) / spread) * (pixels < last[:, None])
    whole = counts / counts.sum(1, keepdims=True) * (1 << BITS)
    return first, np.trunc(whole + np.copysign(0.5, whole))
