"""Tiles: a picture taken in overlapping parts, and what became of them blended into one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import ceil

import torch
from torch import Tensor


def in_tiles(
    function: Callable[[Tensor], Tensor], given: Tensor, tile: int, overlap: int, units: tuple[int, int]
) -> Tensor:
    """function(given) for (B, C, H, W), computed tile by tile; the result lies on the CPU, for memory is short then.

    tile, overlap: of the sides of a tile, in cells. units: pixels of a cell in what is given and in what comes out,
    such as (8, 1) where pictures become latents; what fills no whole cell at right and bottom is left out.
    """
    enter, leave = units
    height, width = (length // enter for length in given.shape[-2:])
    total, weights = torch.empty(0), torch.zeros(height * leave, width * leave)
    for top, left in product(starts(height, tile, overlap), starts(width, tile, overlap)):
        high, wide = min(tile, height), min(tile, width)
        part = function(given[..., top * enter : (top + high) * enter, left * enter : (left + wide) * enter]).cpu()
        if not total.numel():
            total = part.new_zeros(*part.shape[:2], *weights.shape)
        weight = ramp(high * leave, overlap * leave)[:, None] * ramp(wide * leave, overlap * leave)
        place = (..., slice(top * leave, (top + high) * leave), slice(left * leave, (left + wide) * leave))
        total[place] += part * weight
        weights[place] += weight
    return total / weights


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side: evenly spread, all of one size, none overlapping its neighbour by less."""
    if length <= tile:
        return [0]
    last = ceil((length - overlap) / (tile - overlap)) - 1
    return [round(index * (length - tile) / last) for index in range(last + 1)]


def ramp(length: int, overlap: int) -> Tensor:
    """The weight of a tile's pixels along a side: 1 inside, falling linearly to its ends; nowhere 0."""
    centres = torch.arange(length) + 0.5
    return (torch.minimum(centres, length - centres) / max(overlap, 1)).clamp(max=1)
