"""A picture taken in tiles is the picture taken whole, as far as what is computed looks no further than the overlap."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from diffusion_perception.core.tiles import in_tiles, norms_as_in, overview, starts

SIDES = st.integers(1, 60)
TILES = st.tuples(st.integers(4, 20), st.integers(0, 3))


@given(SIDES, TILES)
def test_tiles_cover_a_side_and_overlap_by_no_less_than_asked(length, sizes):
    tile, overlap = sizes
    begun = starts(length, tile, overlap)
    assert begun[0] == 0
    assert begun[-1] + tile >= length
    assert begun[-1] + min(tile, length) == length
    assert all(one < other <= one + tile - overlap for one, other in pairwise(begun))


@settings(max_examples=100)
@given(SIDES, SIDES, TILES, st.sampled_from([(8, 1), (1, 8), (1, 1)]))
def test_what_looks_at_single_cells_is_the_same_in_tiles(height, width, sizes, units):
    enter, leave = units
    image = torch.rand(2, 3, height * enter, width * enter, generator=torch.Generator().manual_seed(0))

    def each_cell(part):
        return F.interpolate(F.avg_pool2d(part, enter), scale_factor=leave)

    found = in_tiles(each_cell, image, *sizes, units)
    assert_close(found, each_cell(image), atol=1e-6, rtol=0)


def test_pixels_that_fill_no_cell_are_left_out():
    image = torch.rand(1, 1, 8 * 9 + 5, 8 * 11 + 3)
    found = in_tiles(lambda part: F.avg_pool2d(part, 8), image, 4, 1, (8, 1))
    assert_close(found, F.avg_pool2d(image, 8))


@pytest.mark.parametrize("overlap", [2, 6])
def test_where_tiles_differ_the_result_goes_from_one_to_the_other_in_even_steps(overlap):
    answers = iter([0.0, 1.0])
    image = torch.zeros(1, 1, 1, 20 - overlap)
    found = in_tiles(lambda part: torch.full_like(part, next(answers)), image, 10, overlap, (1, 1))
    steps = found[0, 0, 0].diff()
    assert found.min() == 0
    assert found.max() == 1
    assert_close(steps[steps > 0].sum(), torch.tensor(1.0))
    assert steps.max() <= 1.01 / overlap


def network() -> nn.Module:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.SiLU()
    made = nn.Sequential(*first, nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 1)).requires_grad_(False)
    for layer in made:
        if isinstance(layer, nn.GroupNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return made


@pytest.mark.parametrize("batch", [1, 2])
def test_group_norms_of_tiles_that_use_the_wholes_statistics_give_the_whole(batch):
    made = network()
    image = torch.rand(batch, 3, 24, 40) * torch.linspace(0, 3, 40)
    whole = made(image)
    alone = in_tiles(made, image, 12, 3, (1, 1))
    with norms_as_in(made, lambda: made(image)):
        together = in_tiles(made, image, 12, 3, (1, 1))
    assert (alone - whole).abs().max() > 0.1
    assert_close(together, whole, atol=1e-5, rtol=0)
    assert torch.equal(made(image), whole)  # nothing stays behind


def test_an_overview_has_no_more_cells_than_a_tile_and_keeps_its_shape():
    seen = overview(torch.rand(1, 3, 800, 1600), 10, 8)
    height, width = seen.shape[-2:]
    assert height % 8 == width % 8 == 0
    assert height * width <= (10 * 8) ** 2 * 1.15
    assert width / height == pytest.approx(2, rel=0.2)
    assert overview(torch.rand(1, 3, 16, 24), 10, 8).shape == (1, 3, 16, 24)
