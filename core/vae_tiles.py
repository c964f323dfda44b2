"""A half of a VAE at work: at once, or in overlapping tiles where memory does not suffice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from .image import CELL
from .tiles import in_tiles, norms_as_in, overview


class Half(NamedTuple):
    """What a VAE does in one direction."""

    name: str
    """Its method, and the end of the name of a host's estimate of its memory."""
    units: tuple[int, int]
    """Pixels of a latent cell in what goes in and in what comes out."""


ENCODE, DECODE = Half("encode", (CELL, 1)), Half("decode", (1, CELL))
TILES = (64, 32)
"""Sides of the tiles, in latent cells, in which a VAE works where memory does not suffice; tried in turn."""
OVERLAP = 16
"""Of neighbouring tiles, in cells."""


class Shortage(NamedTuple):
    """How a host tells that its device has too little memory, and what it does about it."""

    is_one: Callable[[RuntimeError], bool]
    make_room: Callable[[], object]
    error: Callable[[str], Exception]
    """What is raised where nothing helps."""


def at_once_or_in_tiles(
    half: Half,
    compute: Callable[[Tensor], Tensor],
    given: Tensor,
    network: nn.Module,
    shortage: Shortage,
    say: Callable[[str], None],
) -> tuple[Tensor, bool]:
    """compute(given) for (B, C, H, W), and whether it was done at once.

    network: what computes. say: told in a sentence where it was done in tiles.
    """
    with _unless_short(shortage):
        return compute(given), True
    # not inside the handler: until that is left, the error holds all that the attempt had allocated
    for tile in TILES:
        shortage.make_room()
        small = overview(given, tile, half.units[0])
        with _unless_short(shortage), norms_as_in(network, partial(compute, small)):
            result = in_tiles(compute, given, tile, OVERLAP, half.units)
            say(IN_TILES.format(size=_size_of(given, half), half=half.name, pixels=tile * CELL))
            return result, False
    raise shortage.error(TOO_LARGE.format(size=_size_of(given, half), half=half.name, pixels=TILES[-1] * CELL))


IN_TILES = (
    "There was not enough memory to {half} {size} pixels at once: it was done in overlapping tiles of {pixels}, "
    "which moves values a little and most at their seams; a lower resolution needs none."
)
TOO_LARGE = (
    "There is not enough memory to {half} {size} pixels, not even in tiles of {pixels}: choose a lower resolution, "
    "half precision for the VAE, or unload other models."
)


def _size_of(given: Tensor, half: Half) -> str:
    """Width x height in pixels of the picture that goes into a VAE or comes out of it."""
    height, width = (length // half.units[0] * CELL for length in given.shape[-2:])
    return f"{width}x{height}"


@contextmanager
def _unless_short(shortage: Shortage) -> Iterator[None]:
    """Leaves the block quietly if the device's memory does not suffice."""
    try:
        yield
    except RuntimeError as error:
        if not shortage.is_one(error):
            raise
