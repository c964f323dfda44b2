"""Large pictures: seen whole for what is where, and in overlapping tiles for detail, which are brought to the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .diffusion import Tick
from .errors import UserError
from .geometry import towards_camera, with_unit_length
from .image import SMALLEST, processing_size
from .perception_map import Convention, PerceptionMap, from_camera
from .pipeline import Perceiver, check_image, passes, predict
from .recipe import Recipe
from .tasks import TASKS
from .tiles import Heaviest, Place, WeightedMean, places, ramps

OVERLAP = 4
"""Neighbouring tiles share one part in so many of a side at least."""
CELLS = 8
"""Along a side of a tile at most. What is larger than a cell is as the whole has it, what is smaller as the tile."""
DISTINCT = 4
"""Pixels of the whole as the network saw it that a cell spans at least: of less it knows nothing."""
LARGEST = 16384


def predict_large(
    perceiver: Perceiver,
    image: Tensor,
    tile: int,
    *,
    resolution: int = -1,
    batch_size: int = 1,
    tick: Tick = lambda: None,
) -> PerceptionMap:
    """Image (B, 3, H, W) in [0, 1] -> its PerceptionMap, values (B, H, W, C) on the CPU; one no larger than a tile as
    predict() gives it.

    The whole is seen as trained, and again in overlapping tiles; each tile's map is brought to the whole's by its row
    of BROUGHT, and they go over into each other. tile: pixels of a tile's sides. resolution: at which a tile is seen:
    -1 as trained, 0 its own. batch_size: tiles, or members of an ensemble, per pass. tick: called `passes_large()`
    times. UserError for a tile of no use, and for keypoints, whose people are crops already.
    """
    check_image(image)
    check_tile(perceiver.recipe, tile)
    if max(image.shape[-2:]) <= tile:
        return predict(perceiver, image, resolution=resolution, batch_size=batch_size, tick=tick)

    def of_tiles(crops: Tensor) -> PerceptionMap:
        return predict(perceiver, crops, resolution=resolution, batch_size=batch_size, tick=tick)

    made = []
    for picture in image.split(1):
        seen_at = perceiver.recipe.resolution or tile
        whole = predict(perceiver, picture, resolution=seen_at, tick=tick)
        cell = _cell(picture, tile, seen_at, perceiver.recipe)
        made.append(_detailed(whole, _seen(picture, _places(picture, tile), batch_size, of_tiles), tile, cell))
    return _together(made)


def passes_large(perceiver: Perceiver, image: Tensor, tile: int, batch_size: int) -> int:
    """How often predict_large() ticks."""
    if max(image.shape[-2:]) <= tile:
        return passes(perceiver.recipe, len(image), batch_size)
    count, recipe = len(_places(image, tile)), perceiver.recipe
    in_groups = sum(passes(recipe, min(batch_size, count - done), batch_size) for done in range(0, count, batch_size))
    return len(image) * (passes(recipe, 1, 1) + in_groups)


def check_tile(recipe: Recipe, tile: int) -> None:
    """UserError, in one sentence, for tiles that cannot be."""
    if not SMALLEST <= tile <= LARGEST:
        raise UserError(f"tile={tile} is not between {SMALLEST} and {LARGEST} pixels.")
    if recipe.row.per != "image":
        raise UserError(f"{recipe.id} sees people one by one, cut out at their own size: leave tiles out.")


def _places(image: Tensor, tile: int) -> list[Place]:
    return places((image.shape[-2], image.shape[-1]), tile, tile // OVERLAP)


def _cell(picture: Tensor, tile: int, seen_at: int, recipe: Recipe) -> int:
    """Pixels of a cell's sides, where the whole was seen at that resolution."""
    size = (picture.shape[-2], picture.shape[-1])
    smaller = max(size) / max(processing_size(size, seen_at, recipe.rule))
    return max(tile // CELLS, round(DISTINCT * smaller), 1)


def _seen(
    picture: Tensor, where: list[Place], batch_size: int, look: Callable[[Tensor], PerceptionMap]
) -> Iterator[tuple[Place, PerceptionMap]]:
    """Each place of a picture (1, 3, H, W) with its map, as many at a time as go through the networks together."""
    for done in range(0, len(where), batch_size):
        group = where[done : done + batch_size]
        seen = look(torch.cat([picture[place.pixels()] for place in group]))
        for number, place in enumerate(group):
            yield place, seen.images(number, number + 1)


def _detailed(whole: PerceptionMap, seen: Iterator[tuple[Place, PerceptionMap]], tile: int, cell: int) -> PerceptionMap:
    """The map of one picture with the detail of its tiles."""
    row = BROUGHT[TASKS[whole.task].tiles]
    coarse = whole.values[0].movedim(-1, 0)
    size = (coarse.shape[-2], coarse.shape[-1])
    values, doubts = row.joined(size), row.joined(size)
    for place, part in seen:
        where, weight = place.pixels(), ramps(place, tile // OVERLAP)
        fine, unit = row.bring(part.values[0].movedim(-1, 0), coarse[where], cell, whole.convention)
        values.add(fine, where, weight)
        if part.uncertainty is not None:
            doubts.add(part.uncertainty[0] * unit, where, weight)
    made = row.finish(values.result(), whole.convention).movedim(0, -1)[None].contiguous()
    return replace(whole, values=made, uncertainty=None if whole.uncertainty is None else doubts.result()[None])


Brought = tuple[Tensor, float]
"""What a tile shows (C, h, w), as the whole would have it; and how many of the whole's units one of the tile's is."""


def _affine(part: Tensor, whole: Tensor, cell: int, convention: Convention) -> Brought:
    """Depth is known up to scale and shift, or from the camera up to scale: first those by least squares."""
    scale, shift = _line(_coarse(part, cell), _coarse(whole, cell), shifts=not from_camera(convention))
    return _levels(part * scale + shift, whole, cell, convention)[0], scale


def _line(values: Tensor, wanted: Tensor, shifts: bool) -> tuple[float, float]:
    """The scale, none below 0, and shift that bring values nearest to what is wanted."""
    x, y = values.double(), wanted.double()
    mean_x, mean_y = (x.mean().item(), y.mean().item()) if shifts else (0.0, 0.0)
    spread = (x - mean_x).square().sum().item()
    scale = ((x - mean_x) * (y - mean_y)).sum().item() / spread if spread > 0 else 0.0
    scale = max(scale, 0.0)
    return scale, mean_y - scale * mean_x


def _levels(part: Tensor, whole: Tensor, cell: int, convention: Convention) -> Brought:
    """Whatever has a mean: the tile, with the mean of each cell moved to the whole's; within the convention's range."""
    amiss = _coarse(whole, cell) - _coarse(part, cell)
    size = (part.shape[-2], part.shape[-1])
    moved = part + F.interpolate(amiss[None], size, mode="bilinear", align_corners=False)[0]
    return _within(moved, convention), 1.0


def _within(values: Tensor, convention: Convention) -> Tensor:
    low = -torch.inf if convention.low is None else convention.low
    return values.clamp(low, torch.inf if convention.high is None else convention.high)


def _coarse(values: Tensor, cell: int) -> Tensor:
    """(C, h, w) -> the means of its cells."""
    size = [max(round(length / cell), 1) for length in values.shape[-2:]]
    return F.interpolate(values[None], size, mode="area")[0]


def _classes(part: Tensor, whole: Tensor, cell: int, convention: Convention) -> Brought:
    """Of classes, or their colours, the tile's wherever the whole has the same within a cell; else the whole's."""
    near = torch.zeros(part.shape[-2:], dtype=torch.bool)
    step = max(cell // STEPS, 1)
    reach = range(-(cell // step) * step, cell + 1, step)
    padded = F.pad(whole[None], (cell, cell, cell, cell), mode="replicate")[0]
    height, width = part.shape[-2:]
    for down, across in product(reach, reach):
        there = padded[:, cell + down : cell + down + height, cell + across : cell + across + width]
        near |= ((part - there).abs() < SAME).all(0)
    return part.where(near, whole), 1.0


STEPS = 4
"""In which a cell is looked through."""
SAME = 0.1
"""Colours of one class differ by less; numbers of two classes by more."""


def _unit(values: Tensor, convention: Convention) -> Tensor:
    """Directions (3, H, W) at length 1 again, where the convention has them so."""
    if not convention.unit or convention.axes is None:
        return values
    return with_unit_length(values.movedim(0, -1), towards_camera(convention.axes)).movedim(-1, 0)


class Fusion(NamedTuple):
    """How one kind of map comes out of a whole and tiles."""

    bring: Callable[[Tensor, Tensor, int, Convention], Brought]
    """What a tile shows, what the whole has there, both (C, h, w), the pixels of a cell, and what values mean."""
    joined: type[WeightedMean] = WeightedMean
    """What becomes of pixels that lie in several tiles."""
    finish: Callable[[Tensor, Convention], Tensor] = lambda values, convention: values
    """(C, H, W) -> the same, as the convention has it."""


BROUGHT: dict[str, Fusion] = {
    "affine": Fusion(_affine),
    "directions": Fusion(_levels, finish=_unit),
    "levels": Fusion(_levels),
    "classes": Fusion(_classes, Heaviest),
}


def _together(maps: list[PerceptionMap]) -> PerceptionMap:
    """Those of single pictures as one batch."""
    if len(maps) == 1:
        return maps[0]
    doubts = [map.uncertainty for map in maps if map.uncertainty is not None]
    values = torch.cat([map.values for map in maps])
    return replace(maps[0], values=values, uncertainty=torch.cat(doubts) if doubts else None)
