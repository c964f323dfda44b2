"""A picture taken in tiles is the picture taken whole, as far as what is computed looks no further than the overlap."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from diffusion_perception.core.tiles import in_tiles, starts

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
