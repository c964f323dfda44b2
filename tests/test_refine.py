"""Tests of core.display.refine: against SciPy's morphology and filters, and the guided filter's own formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.testing import assert_close

from diffusion_perception.core.display.refine import feathered, grown, guided_filter

MASK = torch.rand(2, 23, 31, generator=torch.Generator().manual_seed(0))


def disc(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x**2 + y**2 <= radius**2


@pytest.mark.parametrize("pixels", [1, 2, 3, 5, 8, 40])
def test_growing_and_shrinking_is_that_of_a_disc(pixels):
    for sign, theirs in ((1, ndimage.grey_dilation), (-1, ndimage.grey_erosion)):
        found = grown(MASK, sign * pixels)
        outside = -np.inf if sign > 0 else np.inf
        expected = [theirs(m.numpy(), footprint=disc(pixels), mode="constant", cval=outside) for m in MASK]
        assert np.array_equal(found.numpy(), np.stack(expected))


def test_no_pixels_change_nothing():
    assert grown(MASK, 0).equal(MASK)
    assert feathered(MASK, 0).equal(MASK)
    assert guided_filter(MASK, torch.rand(2, 23, 31, 3), 0, 1e-4).equal(MASK)


@pytest.mark.parametrize("pixels", [0.5, 3, 10])
def test_feathering_is_a_gaussian_of_half_the_pixels(pixels):
    expected = [ndimage.gaussian_filter(m.double().numpy(), pixels / 2, mode="nearest", truncate=3.5) for m in MASK]
    assert np.abs(feathered(MASK, pixels).numpy() - np.stack(expected)).max() < 6e-3


def test_a_feathered_edge_is_soft_over_that_many_pixels_to_either_side():
    edge = torch.zeros(1, 5, 81)
    edge[..., 41:] = 1
    soft = feathered(edge, 8)[0, 2]
    assert soft[40 - 8] < 0.03
    assert soft[41 + 8] > 0.97
    assert soft[38] > 0.1


def by_hand(mask: np.ndarray, image: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """He, Sun and Tang's equations, window by window."""
    height, width = mask.shape
    slopes, offsets = np.zeros((height, width, 3)), np.zeros((height, width))
    windows = {}
    for y in range(height):
        for x in range(width):
            window = np.s_[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
            windows[y, x] = window
            colours, levels = image[window].reshape(-1, 3), mask[window].ravel()
            mean = colours.mean(0)
            covariance = (colours - mean).T @ (colours - mean) / len(colours) + epsilon * np.eye(3)
            slopes[y, x] = np.linalg.solve(covariance, (colours * levels[:, None]).mean(0) - mean * levels.mean())
            offsets[y, x] = levels.mean() - slopes[y, x] @ mean
    found = [slopes[w].reshape(-1, 3).mean(0) @ image[p] + offsets[w].mean() for p, w in windows.items()]
    return np.array(found).reshape(height, width)


@pytest.mark.parametrize(("radius", "epsilon"), [(1, 1e-2), (4, 1e-3), (30, 1e-4)])
def test_the_guided_filter_is_its_authors_equations(radius, epsilon):
    random = np.random.default_rng(1)
    image, mask = random.random((13, 17, 3)), random.random((13, 17))
    expected = by_hand(mask, image, radius, epsilon).clip(0, 1)
    found = guided_filter(torch.from_numpy(mask)[None].float(), torch.from_numpy(image)[None].float(), radius, epsilon)
    assert np.abs(found[0].numpy() - expected).max() < 2e-3


def test_a_coarse_mask_follows_the_edge_of_its_picture():
    """A disc, cut out along blocks of 8 pixels: what is wrong near its edge shrinks to less than a quarter."""
    y, x = np.mgrid[:96, :96]
    truth = torch.from_numpy(((x - 48) ** 2 + (y - 48) ** 2 < 30**2).astype(np.float32))[None]
    image = torch.lerp(torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.8, 0.4, 0.1]), truth[..., None])
    image = image + torch.randn(image.shape, generator=torch.Generator().manual_seed(0)) * 0.02
    coarse = (
        torch.nn.functional.avg_pool2d(truth[:, None], 8).round().repeat_interleave(8, 2).repeat_interleave(8, 3)[:, 0]
    )
    fine = guided_filter(coarse, image, 8, 1e-4)
    assert_close(fine.mean(), truth.mean(), atol=0.01, rtol=0)
    wrong = [((mask > 0.5) != (truth > 0.5)).float().mean() for mask in (fine, coarse)]
    assert wrong[0] < 0.25 * wrong[1]
