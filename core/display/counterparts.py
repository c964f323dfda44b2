"""Counterparts: the classes of one palette by those of another, which mostly have the same names."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .colour import PALETTES, Palette

ROOMS = "window = windowpane, storage = cabinet, screen = television receiver, picture = painting, ground = earth"

NYU40 = """
window = windowpane, bookshelf = bookcase, picture = painting, blinds = blind, shelves = shelf, dresser = chest of
drawers, floor mat = rug, clothes = apparel, books = book, television = television receiver, shower curtain = curtain
"""

COCO = """
motorcycle = minibike, stop sign = signboard, bird = animal, cat = animal, dog = animal, horse = animal, sheep = animal,
cow = animal, elephant = animal, bear = animal, zebra = animal, giraffe = animal, backpack = bag, handbag = bag,
suitcase = bag, sports ball = ball, wine glass = glass, banana = food, apple = food, sandwich = food, orange = food,
broccoli = food, carrot = food, hot dog = food, pizza = food, donut = food, cake = food, couch = sofa, potted plant =
plant, dining table = table, tv = television receiver, laptop = computer, teddy bear = plaything, cardboard = box,
door-stuff = door, floor-wood = floor, fruit = food, mirror-stuff = mirror, playingfield = field, wall-brick = wall,
wall-stone = wall, wall-tile = wall, wall-wood = wall, water-other = water, window-blind = blind, window-other =
windowpane, tree-merged = tree, fence-merged = fence, ceiling-merged = ceiling, sky-other-merged = sky, cabinet-merged =
cabinet, table-merged = table, floor-other-merged = floor, pavement-merged = sidewalk, mountain-merged = mountain,
grass-merged = grass, dirt-merged = earth, food-other-merged = food, building-other-merged = building, rock-merged =
rock, wall-other-merged = wall, rug-merged = rug
"""

OTHER_NAMES = {"rooms": ROOMS, "furniture": ROOMS, "nyu40": NYU40, "coco": COCO}
"""By palette: what ADE20K calls classes whose names differ. What is neither here nor there by its own name has no
counterpart, such as classes that hold several of ADE20K's."""


@cache
def counterparts(palette: Palette) -> tuple[int, ...]:
    """For every class of a palette the number of ADE20K's; -1 where it has none."""
    pairs = (pair.partition("=") for pair in OTHER_NAMES.get(palette.name, "").replace("\n", " ").split(","))
    names = {name.strip(): other.strip() for name, _, other in pairs}
    numbers = {name: number for number, name in enumerate(PALETTES["ade20k"].classes)}
    return tuple(numbers.get(names.get(name, name.lower()), -1) for name in palette.classes)


def in_ade20k(index: Tensor, palette: Palette) -> Tensor:
    """Classes (B, H, W) of a palette -> ADE20K's colours (B, H, W, 3) in [0, 1]; black without a counterpart."""
    colours = torch.cat((PALETTES["ade20k"].table() / 255, torch.zeros(1, 3)))
    return colours[list(counterparts(palette))].to(index.device)[index]
