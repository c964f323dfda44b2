"""Tests of core.display.light: the curves by which pictures code light."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from diffusion_perception.core.display.light import CURVES
from diffusion_perception.core.srgb import to_linear, to_srgb


@pytest.mark.parametrize("encoding", CURVES)
def test_a_curve_undone_is_undone(encoding):
    values = torch.linspace(0, 3, 1001)
    curve = CURVES[encoding]
    assert_close(curve.from_linear(curve.to_linear(values)), values, atol=2e-6, rtol=2e-6)
    assert curve.to_linear(torch.tensor([0.0, 1.0])).tolist() == [0, 1]


def test_srgb_is_that_of_the_other_rooms():
    values = torch.linspace(0, 1, 1001)
    assert_close(CURVES["srgb"].to_linear(values).numpy(), to_linear(values.numpy()), atol=1e-6, rtol=0)
    assert_close(CURVES["srgb"].from_linear(values).numpy(), to_srgb(values.numpy()), atol=1e-6, rtol=0)


def test_published_points_of_the_curves():
    """IEC 61966-2-1: middle grey 118/255 is about 0.18 of the light."""
    assert CURVES["srgb"].to_linear(torch.tensor(118 / 255)).item() == pytest.approx(0.1812, abs=1e-4)
    assert CURVES["gamma-2.2"].to_linear(torch.tensor(0.5)).item() == pytest.approx(0.5**2.2)
    assert CURVES["srgb"].to_linear(torch.tensor(-0.1)).item() == pytest.approx(-0.1 / 12.92)
