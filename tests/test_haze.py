"""Tests of core.display.haze: laws of fog and of a lens, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from diffusion_perception.core.display.distance import Distance
from diffusion_perception.core.display.haze import fog, in_fog, out_of_focus
from diffusion_perception.core.srgb import to_linear, to_srgb

Z = torch.tensor([[[0.5, 1.0, 2.0, 5.0, 40.0, 0.0]]])
FAR_AWAY = Distance(Z, Z > 0, "")


def test_fog_follows_its_law_from_where_it_begins_and_hides_what_is_unknown():
    found = {
        law: fog(FAR_AWAY, law, 0.5, 1.0)[0, 0].tolist() for law in ("exponential", "exponential squared", "linear")
    }
    assert found["exponential"] == pytest.approx([0, 0, 1 - math.exp(-0.5), 1 - math.exp(-2), 1, 1], abs=1e-6)
    assert found["exponential squared"] == pytest.approx([0, 0, 1 - math.exp(-0.25), 1 - math.exp(-4), 1, 1], abs=1e-6)
    assert found["linear"] == [0, 0, 0.5, 1, 1, 1]


def test_a_lens_blurs_by_its_circle_of_confusion():
    """A lens of aperture A focused at s sees a point at z as wide as A |z - s| / z, in units of its magnification."""
    found = out_of_focus(FAR_AWAY, 2.0, 0.0, 0.8)[0, 0].tolist()
    assert found == pytest.approx([1, 0.8, 0, 0.8 * 3 / 5, 0.8 * 38 / 40, 0.8], abs=1e-6)
    sharp = out_of_focus(FAR_AWAY, 2.0, 1.0, 0.8)[0, 0].tolist()
    assert sharp[1:4] == pytest.approx([0, 0, 0.8 * 2 / 5], abs=1e-6)


def test_no_fog_and_no_density_leave_all_as_it_is():
    assert not fog(Distance(Z, Z > 0, ""), "exponential", 0.0, 0.0)[Z > 0].any()


def test_fog_is_mixed_as_light_is():
    image = torch.rand(1, 1, 6, 3)
    mask = torch.rand(1, 1, 6)
    colour = torch.tensor([0.2, 0.5, 0.9])
    light = to_linear(image.numpy()) * (1 - mask[..., None].numpy()) + colour.numpy() * mask[..., None].numpy()
    assert np.abs(in_fog(image, mask, colour).numpy() - to_srgb(light)).max() < 1e-6
    assert_close(in_fog(image, torch.zeros_like(mask), colour), image, atol=1e-6, rtol=0)


def test_a_law_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="no law 'cubic'"):
        fog(FAR_AWAY, "cubic", 1.0, 0.0)
