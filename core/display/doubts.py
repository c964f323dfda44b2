"""Doubts: plain pictures that hardly are what they are said to be, such as a photo that is called a depth."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..tasks import TASKS
from .colour import classify, palette_named
from .picture import GREY, Meaning, as_rgb, checked_image, in_colours

LOOKED_AT = 1 << 15
"""Pixels at most."""
SHORT, LONG, EMPTY = 0.8, 1.2, 0.02
"""A normal's length lies between, also after compression; pixels this near to black or white have none."""
CLEAR, MOST = 0.6, 0.6
"""How clearly a pixel has a colour of the palette, and which part of all have a length, where the picture is one."""


def _sampled(image: Tensor) -> Tensor:
    """Pixels (N, 3) from all over a picture."""
    pixels = as_rgb(checked_image(image)).reshape(-1, 3)
    return pixels[:: max(len(pixels) // LOOKED_AT, 1)]


def _not_gray(image: Tensor, meaning: Meaning) -> str:
    gray = TASKS[meaning.task].channels == 1
    return f"The image is in colours, and a {meaning.task} is gray" if gray and in_colours(image) else ""


def _not_normal(image: Tensor, meaning: Meaning) -> str:
    """Colours of normals stand for vectors of length 1; a photo's seldom do."""
    pixels = _sampled(image)
    lengths = (pixels * 2 - 1).norm(dim=-1)
    there = (lengths > 10 * GREY) & (pixels > EMPTY).any(-1) & (pixels < 1 - EMPTY).any(-1)
    long = (lengths > SHORT) & (lengths < LONG)
    share = (long & there).sum() / there.sum().clamp(min=1)
    return "The image does not look like normals" if there.any() and share < MOST else ""


def _not_of_palette(image: Tensor, meaning: Meaning) -> str:
    palette = palette_named(meaning.convention.palette or "")
    _, clearness = classify(_sampled(image)[None, None], palette)
    off = clearness.median() < CLEAR
    return f"Most colours of the image are none of the palette {palette.name}" if off else ""


DOUBTS: dict[str, Callable[[Tensor, Meaning], str]] = {
    "nearness": _not_gray,
    "range": _not_gray,
    "directions": _not_normal,
    "classes": _not_of_palette,
}
"""By what a task's picture shows."""


def doubted(image: Tensor, meaning: Meaning) -> str:
    """What to say of an IMAGE or MASK that hardly is what it is said to be; "" where nothing is odd."""
    found = DOUBTS[TASKS[meaning.task].picture](image, meaning)
    return f"{found}: connect a photo to Perceive, and its map here." if found else ""
