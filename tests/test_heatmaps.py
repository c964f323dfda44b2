"""Heatmaps: keypoints are read out of them as the papers say, computed here by OpenCV and differences."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from diffusion_perception.core.heatmaps import DECODINGS, find_by_udp, find_keypoints


def gaussian(x: float, y: float, size: tuple[int, int], spread: float) -> np.ndarray:
    """(H, W): a person's keypoint as UDP draws it, x and y counted from the middle of the first cell."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * spread**2))


def refined(heatmap: np.ndarray) -> np.ndarray:
    """DARK, eq. 5 to 9 (Zhang et al. 2020), with UDP's mixed derivative: m - H^-1 d of the logarithm at the highest
    cell m, after an 11 x 11 Gaussian on zeros that keeps the highest value."""
    around = cv2.GaussianBlur(np.pad(heatmap, 5).astype(np.float64), (11, 11), 0)[5:-5, 5:-5]
    surface = np.log(np.clip(around * heatmap.max() / around.max(), 1e-3, 50))
    f = np.pad(surface, 1, mode="edge")
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    y, x = int(row) + 1, int(column) + 1
    slope = np.array([f[y, x + 1] - f[y, x - 1], f[y + 1, x] - f[y - 1, x]]) / 2
    ahead = f[y + 1, x + 1] - f[y + 1, x] - f[y, x + 1] + f[y, x]
    behind = f[y, x] - f[y - 1, x] - f[y, x - 1] + f[y - 1, x - 1]
    mixed = (ahead + behind) / 2
    curved = np.array([[f[y, x + 1] - 2 * f[y, x] + f[y, x - 1], mixed], [mixed, f[y + 1, x] - 2 * f[y, x] + f[y - 1, x]]])
    return np.array([column, row]) - np.linalg.solve(curved + np.finfo(np.float32).eps * np.eye(2), slope)


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


def test_where_the_surface_has_no_top_mmpose_leaves_the_map_and_this_stays_in_its_cell():
    """A plane in the logarithm has a slope everywhere and no curvature."""
    columns = np.mgrid[:64, :48][1]
    plane = torch.from_numpy(np.exp(0.05 * (columns - 47))).float()
    assert abs(refined(plane.numpy().astype(np.float32))[1]) < 64  # the first row is the highest
    points, score = find_by_udp(plane[None, None])
    assert points.isfinite().all()
    assert ((points >= -6 / 47 * 48) & (points <= torch.tensor([54.0, 70.0]) / 47 * 48)).all()
    assert score.item() == pytest.approx(1)


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
