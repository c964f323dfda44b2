"""Heatmaps: keypoints are read out of them as the papers say, computed here by OpenCV and differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_sdpose import refined

from diffusion_perception.core.heatmaps import DECODINGS, find_by_udp, find_keypoints


def gaussian(x: float, y: float, size: tuple[int, int], spread: float) -> np.ndarray:
    """(H, W): a person's keypoint as UDP draws it, x and y counted from the middle of the first cell."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * spread**2))


@pytest.mark.parametrize("size", [(64, 48), (256, 192)])
def test_noisy_heatmaps_are_read_as_the_papers_say(size):
    random = np.random.default_rng(3)
    places = [random.uniform((0, 0), (size[1] - 1, size[0] - 1)) for _ in range(20)]
    maps = [gaussian(x, y, size, 6.0) + random.normal(0, 0.02, size) for x, y in places]
    points, scores = find_by_udp(torch.from_numpy(np.stack(maps)).float()[None])
    sides = np.array(size[::-1])
    expected = np.stack([refined(one.astype(np.float32)) for one in maps])
    assert np.abs(points[0].numpy() / sides * (sides - 1) - expected).max() <= 1e-3
    assert np.abs(scores[0].numpy() - [one.max() for one in maps]).max() <= 1e-6


def test_the_middles_of_the_outermost_cells_are_the_borders_of_the_crop():
    """UDP counts a line of pixels by the distances between them, of which a heatmap of 48 cells has 47."""
    maps = np.zeros((3, 64, 48), np.float32)
    maps[0, 0, 0] = maps[1, 63, 47] = 1
    maps[2] = gaussian(11.75, 31.5, (64, 48), 3.0)
    points = find_by_udp(torch.from_numpy(maps)[None])[0][0].numpy() / [48, 64] * [768, 1024]
    assert np.abs(points[:2] - [[0, 0], [768, 1024]]).max() <= 40  # half of a Gaussian at the border
    assert points[2] == pytest.approx([11.75 / 47 * 768, 512], abs=0.2)


def test_a_step_is_taken_wherever_it_ends_in_the_map_and_never_far_out_of_it():
    """On noise there is no top: MMPose then answers any number of pixels."""
    maps = np.random.default_rng(0).uniform(0, 1, (300, 32, 24)).astype(np.float32)
    steps = np.stack([refined(one) for one in maps])
    highest = np.stack([np.unravel_index(one.argmax(), one.shape)[::-1] for one in maps])
    points = find_by_udp(torch.from_numpy(maps)[None])[0][0].numpy() / [24, 32] * [23, 31]
    inside = ((steps >= 0) & (steps <= [23, 31])).all(1)
    far = ((steps < -6) | (steps > [29, 37])).any(1)
    assert min(inside.sum(), far.sum()) >= 10
    # a last bit moves long steps
    assert np.abs(points - steps)[inside].max() <= 0.02
    assert points[far] == pytest.approx(highest[far])


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("value", [0.0, -1.0, 0.5])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (9, 5)])
def test_flat_maps_of_any_size_give_numbers(decoding, value, size):
    points, scores = DECODINGS[decoding](torch.full((2, 3, *size), value))
    assert points.shape == (2, 3, 2)
    assert points.isfinite().all()
    assert torch.equal(scores, torch.full((2, 3), max(value, 0.0), dtype=torch.float64))


@pytest.mark.parametrize("decoding", DECODINGS)
def test_nobody_has_no_keypoints(decoding):
    points, scores = DECODINGS[decoding](torch.zeros(0, 17, 64, 48))
    assert (points.shape, scores.shape) == ((0, 17, 2), (0, 17))


def test_both_agree_on_clean_heatmaps_but_for_where_the_borders_are():
    size, spread = (64, 48), 2.0
    maps = torch.from_numpy(np.stack([gaussian(x, y, size, spread) for x, y in ((20.3, 30.6), (33.1, 12.9))]))[None]
    dark, udp = (find(maps)[0][0].numpy() for find in (find_keypoints, find_by_udp))
    assert np.abs((dark - 0.5) - udp / [48, 64] * [47, 63]).max() <= 0.02
