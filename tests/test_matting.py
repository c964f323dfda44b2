"""Tests of core.display.matting: the estimated foreground against known layers and an exact solver."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_perception.core.display.matting import (
    EDGE_WEIGHT,
    SMOOTHNESS,
    composite,
    cover,
    estimate_foreground,
    foreground_of,
    multi_level,
    pair,
    relax,
    sizes,
)


def layers(height=96, width=128):
    """Two smooth layers (H, W, 3), the alpha (H, W) of a soft disc, and their mix."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    foreground = torch.stack((0.6 + 0.3 * x, 0.3 + 0.2 * y, 0.2 + 0.1 * x), -1)
    background = torch.stack((0.1 + 0.2 * y, 0.5 + 0.3 * x, 0.7 - 0.3 * y), -1)
    distance = ((x - 0.5) ** 2 + (y - 0.5) ** 2).sqrt()
    alpha = ((0.35 - distance) / 0.2 + 0.5).clamp(0, 1)
    return foreground, background, alpha, composite(foreground[None], alpha[None], background[None])[0]


def cost(foreground, background, image, alpha):
    """The published cost of (H, W, 3) layers, written out."""
    data = ((alpha[..., None] * foreground + (1 - alpha[..., None]) * background - image) ** 2).sum()
    smooth = 0.0
    for dim in (0, 1):
        weight = SMOOTHNESS + EDGE_WEIGHT * alpha.diff(dim=dim).abs()[..., None]
        smooth += (weight * (foreground.diff(dim=dim) ** 2 + background.diff(dim=dim) ** 2)).sum()
    return (data + smooth).item()


def exact(image, alpha) -> np.ndarray:
    """The layers (H, W) of one channel that minimise the cost, by a sparse linear solver."""
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    height, width = alpha.shape
    number, opacity = np.arange(height * width).reshape(height, width), alpha.ravel()
    laplacian = sparse.coo_matrix((height * width, height * width))
    for one, other in ((number[:, :-1], number[:, 1:]), (number[:-1], number[1:])):
        one, other = one.ravel(), other.ravel()
        weight = SMOOTHNESS + EDGE_WEIGHT * np.abs(opacity[one] - opacity[other])
        for rows, columns, sign in ((one, one, 1), (other, other, 1), (one, other, -1), (other, one, -1)):
            laplacian = laplacian + sparse.coo_matrix((sign * weight, (rows, columns)), laplacian.shape)
    diagonal = [sparse.diags(entry) for entry in (opacity**2, opacity * (1 - opacity), (1 - opacity) ** 2)]
    system = sparse.bmat([[diagonal[0] + laplacian, diagonal[1]], [diagonal[1], diagonal[2] + laplacian]])
    answer = spsolve(system.tocsc(), np.concatenate((opacity * image.ravel(), (1 - opacity) * image.ravel())))
    return np.asarray(answer).reshape(2, height, width)


def test_the_layers_of_a_mix_are_found_again():
    foreground, _, alpha, image = layers()
    found, _ = estimate_foreground(image[None], alpha[None])
    soft = (alpha > 0.05) & (alpha < 0.95)
    error = (found[0] - foreground)[soft].abs().mean()
    assert error < 0.02
    assert error < 0.1 * (image - foreground)[soft].abs().mean()


def test_foreground_and_background_explain_the_image():
    _, _, alpha, image = layers()
    found, behind = estimate_foreground(image[None], alpha[None])
    assert (composite(found, alpha[None], behind)[0] - image).abs().max() < 1e-3


def test_many_passes_reach_what_an_exact_solver_finds():
    _, _, alpha, image = layers(9, 11)
    picture, opacity = image.movedim(-1, 0)[None], alpha[None, None]
    found = relax(*multi_level(picture, opacity), picture, opacity, passes=3000)
    for channel in range(3):
        expected = exact(image[..., channel].double().numpy(), alpha.double().numpy())
        assert expected.min() > 0  # the solver knows nothing of the range of colours
        assert expected.max() < 1
        assert np.abs(np.stack([layer[0, channel].numpy() for layer in found]) - expected).max() < 1e-3


def test_few_passes_already_come_close_to_the_lowest_cost():
    _, _, alpha, image = layers(48, 64)
    found, behind = estimate_foreground(image[None], alpha[None])
    expected = np.stack([exact(image[..., c].double().numpy(), alpha.double().numpy()) for c in range(3)], -1)
    fore, back = torch.from_numpy(expected).float()
    lowest = cost(fore, back, image, alpha)
    naive = cost(image, image, image, alpha)
    assert cost(found[0], behind[0], image, alpha) - lowest < 0.02 * (naive - lowest)


def test_a_cut_out_has_no_fringe_of_the_old_background():
    alpha = torch.linspace(0, 1, 64).expand(1, 32, 64)
    red, green = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.8, 0.1])
    image = alpha[..., None] * red + (1 - alpha[..., None]) * green
    found = foreground_of(image, alpha)
    assert (found[:, :, 8:] - red).abs().max() < 0.03


def test_what_is_opaque_keeps_its_very_colour():
    image, alpha = torch.rand(1, 40, 40, 3), (torch.rand(1, 40, 40) > 0.5).float()
    found = foreground_of(image, alpha)
    assert found[alpha == 1].equal(image[alpha == 1])
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_matte_has_a_defined_foreground(value):
    image = torch.rand(1, 20, 30, 3)
    found, behind = estimate_foreground(image, torch.full((1, 20, 30), value))
    assert found.isfinite().all()
    assert behind.isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 1), (3, 50), (65, 33)])
def test_any_size_works_and_comes_out_as_it_went_in(size):
    found, behind = estimate_foreground(torch.rand(1, *size, 3), torch.rand(1, *size))
    assert found.shape == behind.shape == (1, *size, 3)
    assert found.isfinite().all()


def test_a_batch_equals_its_images_one_by_one_and_ticks_after_each():
    images, alphas, ticks = torch.rand(3, 20, 24, 3), torch.rand(3, 20, 24), []
    whole = foreground_of(images, alphas, lambda: ticks.append(1))
    assert whole.equal(torch.cat([foreground_of(i[None], a[None]) for i, a in zip(images, alphas, strict=True)]))
    assert len(ticks) == 3
    assert whole.is_contiguous()


def test_nothing_that_comes_in_is_changed():
    image, alpha = torch.rand(1, 20, 24, 3), torch.rand(1, 20, 24)
    before = image.clone(), alpha.clone()
    foreground_of(image, alpha)
    assert image.equal(before[0])
    assert alpha.equal(before[1])


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_levels_grow_from_one_pixel_to_the_full_size_at_most_doubling(height, width):
    steps = sizes(height, width)
    assert steps[0] == (1, 1)
    assert steps[-1] == (height, width)
    for (h, w), (taller, wider) in pairwise(steps):
        assert h <= taller <= 2 * h + 1
        assert w <= wider <= 2 * w + 1


def test_one_matte_serves_many_images_and_the_other_way_round():
    image, alpha = pair(torch.rand(3, 4, 5, 3), torch.rand(1, 4, 5))
    assert (len(image), len(alpha)) == (3, 3)
    image, alpha = pair(torch.rand(1, 4, 5, 3), torch.rand(3, 4, 5))
    assert (len(image), len(alpha)) == (3, 3)


def test_a_matte_of_another_size_or_number_is_refused():
    with pytest.raises(ValueError, match="image is 5 x 4, the map 4 x 5"):
        pair(torch.rand(1, 4, 5, 3), torch.rand(1, 5, 4))
    with pytest.raises(ValueError, match="2 images and 3 maps"):
        pair(torch.rand(2, 4, 5, 3), torch.rand(3, 4, 5))
    with pytest.raises(ValueError, match="2 images and 3 backgrounds"):
        composite(torch.rand(2, 4, 5, 3), torch.rand(2, 4, 5), torch.rand(3, 4, 5, 3))


@given(*(st.integers(1, 40) for _ in range(4)))
def test_a_background_of_any_size_covers_the_image(height, width, rows, columns):
    assert cover(torch.rand(2, rows, columns, 3), height, width).shape == (2, height, width, 3)


def test_covering_keeps_the_middle_and_the_proportions():
    background = torch.zeros(1, 10, 30, 3)
    background[:, :, 10:20] = 1
    assert (cover(background, 10, 10) == 1).all()
    assert torch.allclose(cover(background, 10, 30), background, atol=1e-6)
