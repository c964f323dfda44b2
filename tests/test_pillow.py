"""Pillow: bytes are resized to the very level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_perception.core.pillow import FILTERS, resize_bytes

SIDES = st.integers(1, 120)


@pytest.mark.parametrize("filter", FILTERS)
@given(height=SIDES, width=SIDES, tall=SIDES, wide=SIDES, seed=st.integers(0, 1000))
@settings(max_examples=40)
def test_every_level_is_pillows(filter, height, width, tall, wide, seed):
    """By two calls: newer versions take the passes in another order where that is cheaper."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    kind = Image.Resampling[filter.upper()]
    expected = np.asarray(Image.fromarray(pixels).resize((wide, height), kind).resize((wide, tall), kind))
    found = resize_bytes(torch.from_numpy(pixels).movedim(-1, 0).float(), (tall, wide), filter)
    assert found.dtype == torch.float32
    assert np.array_equal(found.movedim(0, -1).numpy(), expected)


def test_levels_of_the_same_size_stay():
    levels = torch.arange(12.0).reshape(1, 3, 4)
    assert torch.equal(resize_bytes(levels, (3, 4), "bilinear"), levels)
