"""Tests of core.vae_tiles: what does not fit into memory at once is done in tiles, or told in a sentence."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion_perception.core.errors import UserError
from diffusion_perception.core.vae_tiles import DECODE, ENCODE, Half, Shortage, at_once_or_in_tiles


class Full(RuntimeError):
    """A device's memory does not suffice."""


def means(picture: Tensor) -> Tensor:
    return F.avg_pool2d(picture, 8)


def repeated(latent: Tensor) -> Tensor:
    return latent.repeat_interleave(8, -1).repeat_interleave(8, -2)


def done(half: Half, given: Tensor, cells: int):
    """By a half that every tile answers as the whole does, on a device that holds so many cells."""
    calls: list[str] = []

    def compute(part: Tensor) -> Tensor:
        if part.shape[-1] * part.shape[-2] > cells * half.units[0] ** 2:
            raise Full
        return {ENCODE: means, DECODE: repeated}[half](part)

    shortage = Shortage(lambda error: isinstance(error, Full), lambda: calls.append("room"), UserError)
    answer, at_once = at_once_or_in_tiles(half, compute, given, nn.Identity(), shortage, calls.append)
    return answer, at_once, calls


@pytest.mark.parametrize(("half", "function"), [(ENCODE, means), (DECODE, repeated)])
@pytest.mark.parametrize(("cells", "tile"), [(80 * 100, 0), (64**2, 512), (32**2, 256)])
def test_the_answer_is_that_of_the_whole(half, function, cells, tile):
    given = torch.rand(1, 3, 80 * half.units[0], 100 * half.units[0])
    answer, at_once, calls = done(half, given, cells)
    assert (answer - function(given)).abs().max() < 1e-5
    assert at_once == (not tile)
    rooms, said = calls[:-1], calls[-1:]
    assert rooms == ["room"] * {0: 0, 512: 1, 256: 2}[tile]
    if tile:
        assert f"to {half.name} 800x640 pixels at once: it was done in overlapping tiles of {tile}," in said[0]


def test_what_fits_in_no_tile_is_told():
    with pytest.raises(UserError, match="not enough memory to decode 800x640 pixels, not even in tiles of 256"):
        done(DECODE, torch.rand(1, 3, 80, 100), 100)


def test_other_errors_come_as_they_are():
    shortage = Shortage(lambda error: isinstance(error, Full), lambda: None, UserError)

    def broken(part: Tensor) -> Tensor:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        at_once_or_in_tiles(DECODE, broken, torch.rand(1, 4, 8, 8), nn.Identity(), shortage, print)
