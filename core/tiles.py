"""Tiles: a picture taken in overlapping parts, and what became of them blended into one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from math import ceil
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def in_tiles(
    function: Callable[[Tensor], Tensor], given: Tensor, tile: int, overlap: int, units: tuple[int, int]
) -> Tensor:
    """function(given) for (B, C, H, W), computed tile by tile; the result lies on the CPU, for memory is short then.

    tile, overlap: of the sides of a tile, in cells. units: pixels of a cell in what is given and in what comes out,
    such as (8, 1) where pictures become latents; what fills no whole cell at right and bottom is left out.
    """
    enter, leave = units
    height, width = (length // enter for length in given.shape[-2:])
    mean = WeightedMean((height * leave, width * leave))
    for place in places((height, width), tile, overlap):
        part = function(given[place.pixels(enter)]).cpu()
        mean.add(part, place.pixels(leave), ramps(place, overlap, leave))
    return mean.result()


class Place(NamedTuple):
    """Where a tile lies, in cells."""

    top: int
    left: int
    high: int
    wide: int

    def pixels(self, unit: int = 1) -> Any:
        """Its index into (..., H, W), of so many pixels a cell."""
        rows = slice(self.top * unit, (self.top + self.high) * unit)
        return ..., rows, slice(self.left * unit, (self.left + self.wide) * unit)


def places(size: tuple[int, int], tile: int, overlap: int) -> list[Place]:
    """The tiles that cover (H, W) cells, row by row: all of one size, no side longer than `tile`."""
    height, width = size
    corners = product(starts(height, tile, overlap), starts(width, tile, overlap))
    return [Place(top, left, min(tile, height), min(tile, width)) for top, left in corners]


class WeightedMean:
    """The mean of what overlapping tiles say of each pixel."""

    def __init__(self, size: tuple[int, int]) -> None:
        """size: (H, W) of the whole."""
        self.total, self.weights = torch.empty(0), torch.zeros(size)

    def add(self, part: Tensor, place: Any, weight: Tensor) -> None:
        """What a tile gave, (..., h, w); its place in the whole; and the weight (h, w) of each of its pixels."""
        if not self.total.numel():
            self.total = part.new_zeros(*part.shape[:-2], *self.weights.shape)
        self.total[place] += part * weight
        self.weights[place] += weight

    def result(self) -> Tensor:
        """(..., H, W). Nothing may be added afterwards: it is made where the sum was."""
        return self.total.div_(self.weights)


class Heaviest(WeightedMean):
    """What of overlapping tiles the one says that has the greatest weight there: of values that have no mean."""

    def add(self, part: Tensor, place: Any, weight: Tensor) -> None:
        if not self.total.numel():
            self.total = part.new_zeros(*part.shape[:-2], *self.weights.shape)
        heavier = weight > self.weights[place]
        self.total[place] = part.where(heavier, self.total[place])
        self.weights[place] = weight.where(heavier, self.weights[place])

    def result(self) -> Tensor:
        return self.total


def ramps(place: Place, overlap: int, unit: int = 1) -> Tensor:
    """The weight (h, w) of each pixel of a tile."""
    return ramp(place.high * unit, overlap * unit)[:, None] * ramp(place.wide * unit, overlap * unit)


def overview(given: Tensor, tile: int, unit: int) -> Tensor:
    """The whole (B, C, H, W) scaled down to no more cells than its tiles have, of `unit` pixels each."""
    height, width = (length // unit for length in given.shape[-2:])
    scale = (min(tile, height) * min(tile, width) / (height * width)) ** 0.5
    size = [max(int(length * scale), 1) * unit for length in (height, width)]
    return F.interpolate(given, size, mode="area")


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


@contextmanager
def norms_as_in(network: nn.Module, whole: Callable[[], object]) -> Iterator[None]:
    """While this lasts a network's group norms use the statistics that they had in `whole()`, not each tile's own.

    A light wall and a dark one would otherwise be taken for the same grey, tile by tile.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.GroupNorm)]
    kept: dict[nn.Module, Moments] = {}
    with _hooked(layers, lambda layer, inputs, output: kept.update({layer: _moments(layer, inputs[0])})):
        whole()

    def corrected(layer: nn.GroupNorm, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # the layer gave (x - own mean) / own deviation * weight + bias
        (mean, deviation), (own_mean, own_deviation) = kept[layer], _moments(layer, inputs[0])
        weight, bias = layer.weight.to(output), layer.bias.to(output)
        scale = own_deviation / deviation
        shift = weight * ((own_mean - mean) / deviation) + bias * (1 - scale)
        each_pixel = (..., *[None] * (output.ndim - 2))
        return output * scale[each_pixel].to(output) + shift[each_pixel].to(output)

    with _hooked([layer for layer in layers if layer in kept], corrected):
        yield


Moments = tuple[Tensor, Tensor]
"""Mean and standard deviation (B, C) of each channel's group."""


def _moments(layer: nn.GroupNorm, x: Tensor) -> Moments:
    """As the norm takes them of (B, C, ...), its epsilon included."""
    groups = x.float().reshape(len(x), layer.num_groups, -1)
    variance, mean = torch.var_mean(groups, 2, correction=0)
    each = layer.num_channels // layer.num_groups
    return mean.repeat_interleave(each, 1), (variance + layer.eps).sqrt().repeat_interleave(each, 1)


@contextmanager
def _hooked(layers: Sequence[nn.Module], hook: Callable[[Any, Any, Any], Any]) -> Iterator[None]:
    """With a forward hook on each layer."""
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
