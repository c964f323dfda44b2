"""Tests of core.geometry: axes, and normals of shapes whose normals are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from diffusion_perception.core.geometry import (
    CAMERA,
    NORMAL_AXES,
    change_axes,
    depth_to_normal,
    intrinsics_from_fov,
    towards_camera,
    unproject,
    with_unit_length,
)

AXES = [
    tuple(axes)
    for lines in itertools.permutations((("left", "right"), ("up", "down"), ("back", "forward")))
    for axes in itertools.product(*lines)
]


def rays(height, width, fov_deg):
    """(H, W, 3) along right, up, back, reaching to depth 1; by trigonometry alone."""
    half = torch.deg2rad(torch.tensor(fov_deg / 2)).tan()
    x = (torch.arange(width) + 0.5 - width / 2) / (width / 2) * half
    y = -(torch.arange(height) + 0.5 - height / 2) / (width / 2) * half
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width), -torch.ones(height, width)), -1)


def sphere(height, width, fov_deg, centre, radius):
    """Depth (H, W), inf beside it, and unit normals (H, W, 3) along right, up, back."""
    direction = rays(height, width, fov_deg)
    a, b, c = (direction**2).sum(-1), direction @ centre, centre @ centre - radius**2
    root = b**2 - a * c
    depth = torch.where(root > 0, (b - root.clamp(min=0).sqrt()) / a, torch.inf)
    return depth, (direction * depth[..., None] - centre) / radius


def angle_deg(one, other):
    return torch.rad2deg((one * other).sum(-1).clamp(-1, 1).acos())


@given(st.sampled_from(AXES), st.sampled_from(AXES))
def test_changing_axes_and_back_changes_nothing(source, target):
    vectors = torch.randn(2, 3, 4, 3)
    assert change_axes(change_axes(vectors, source, target), target, source).equal(vectors)


@given(st.sampled_from(AXES))
def test_along_any_axes_the_vector_to_the_camera_is_the_camera_s_back(axes):
    for direction, component in zip(axes, towards_camera(axes), strict=True):
        assert component == {"back": 1, "forward": -1}.get(direction, 0)


def test_controlnet_s_red_is_the_left_that_opengl_s_is_not():
    left = torch.tensor([-1.0, 0.0, 0.0])
    assert change_axes(left, CAMERA, NORMAL_AXES["controlnet_bae"]).tolist() == [1, 0, 0]
    up = torch.tensor([0.0, 1.0, 0.0])
    assert change_axes(up, CAMERA, NORMAL_AXES["directx"]).tolist() == [0, -1, 0]
    assert change_axes(up, CAMERA, NORMAL_AXES["opengl"]).tolist() == [0, 1, 0]
    assert towards_camera(NORMAL_AXES["opencv"]).tolist() == [0, 0, -1]


@pytest.mark.parametrize("axes", [("right", "left", "up"), ("right", "up"), ("right", "up", "in")])
def test_axes_that_do_not_span_space_are_refused(axes):
    with pytest.raises(ValueError, match="do not span space"):
        change_axes(torch.zeros(3), axes, CAMERA)


def test_a_vector_gets_length_one_however_large_or_small_it_is():
    vectors = torch.tensor([[3e38, 0, 3e38], [1e-30, 0, 0], [0, 0, 0]])
    unit = with_unit_length(vectors, torch.tensor([0.0, 1.0, 0.0]))
    assert torch.allclose(unit, torch.tensor([[0.5**0.5, 0, 0.5**0.5], [1, 0, 0], [0, 1, 0]]))


def test_points_lie_where_the_camera_sees_them():
    depth = torch.full((1, 4, 6), 2.0)
    points = unproject(depth, intrinsics_from_fov(90, 4, 6))
    assert torch.allclose(points[0], rays(4, 6, 90.0) * 2)
    assert points[0, 0, 0, 0] < 0 < points[0, 0, 0, 1]  # the first pixel is left and up


@pytest.mark.parametrize("fov_deg", [0, 180, -3])
def test_an_impossible_field_of_view_is_refused(fov_deg):
    with pytest.raises(ValueError, match="impossible"):
        intrinsics_from_fov(fov_deg, 4, 4)


@pytest.mark.parametrize("normal", [(0, 0, 1), (0.5, 0, 1), (-0.4, 0.7, 1), (0, 1.5, 1), (0.6, -0.6, 0.7)])
def test_a_slanted_plane_has_its_one_normal_everywhere(normal):
    normal = F.normalize(torch.tensor(normal, dtype=torch.float32), dim=0)
    direction = rays(40, 60, 50.0)
    depth = (normal @ torch.tensor([0.0, 0.0, -3.0])) / (direction @ normal)
    assert (depth > 0).all()
    for radius in (0, 3):
        found = depth_to_normal(depth[None], intrinsics_from_fov(50, 40, 60), radius=radius)
        assert angle_deg(found[0], normal).max() < 0.1


def test_a_sphere_s_normals_are_found_from_its_depth():
    depth, normals = sphere(120, 160, 60.0, torch.tensor([0.3, -0.2, -4.0]), 1.5)
    seen = depth.isfinite()
    inside = F.avg_pool2d(seen[None, None].float(), 5, 1, 2)[0, 0] == 1
    found = depth_to_normal(depth[None], intrinsics_from_fov(60, 120, 160))[0]
    error = angle_deg(found, normals)
    assert error[inside].median() < 0.1
    assert error[inside].quantile(0.99) < 2
    assert torch.allclose(found.norm(dim=-1), torch.ones(120, 160), atol=1e-5)
    assert (found[~inside & ~seen] == torch.tensor([0.0, 0.0, 1.0])).all()


def test_a_radius_averages_the_noise_of_a_rough_sphere_away():
    depth, normals = sphere(120, 160, 60.0, torch.tensor([0.3, -0.2, -4.0]), 1.5)
    inside = F.avg_pool2d(depth.isfinite()[None, None].float(), 21, 1, 10)[0, 0] == 1
    rough = depth + torch.randn(depth.shape, generator=torch.Generator().manual_seed(0)) * 0.005
    camera = intrinsics_from_fov(60, 120, 160)
    errors = [angle_deg(depth_to_normal(rough[None], camera, radius=r)[0], normals)[inside].median() for r in (0, 4)]
    assert errors[0] > 8
    assert errors[1] < 2


def test_two_walls_at_different_depths_do_not_bend_each_other():
    depth = torch.full((1, 20, 30), 2.0)
    depth[..., 15:] = 4.0
    found = depth_to_normal(depth, intrinsics_from_fov(60, 20, 30))
    assert angle_deg(found, torch.tensor([0.0, 0.0, 1.0])).max() < 0.1


def test_missing_depth_leaves_its_neighbours_right():
    depth = torch.full((1, 9, 9), 2.0)
    depth[0, 4, 4], depth[0, 0, 0], depth[0, 8, 8], depth[0, 2, 6] = torch.nan, torch.inf, 0, -1
    valid = torch.ones(1, 9, 9, dtype=torch.bool)
    valid[0, 6, 2] = False
    found = depth_to_normal(depth, intrinsics_from_fov(60, 9, 9), valid)
    assert angle_deg(found, torch.tensor([0.0, 0.0, 1.0])).max() < 0.1


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_a_map_one_pixel_thin_faces_the_camera(size):
    found = depth_to_normal(torch.rand(1, *size) + 1, intrinsics_from_fov(60, *size))
    assert (found == torch.tensor([0.0, 0.0, 1.0])).all()


@pytest.mark.parametrize("centre", [(32.0, 24.0), (11.4, 40.3)])
def test_a_plane_in_a_stretched_camera_has_one_normal(centre):
    """Other focal lengths across and down, as pictures have that were brought to another aspect."""
    camera = np.array([[38.16, 0.0, centre[0]], [0.0, 98.86, centre[1]], [0.0, 0.0, 1.0]])
    rows, columns = np.mgrid[:48, :64] + 0.5
    rays = np.linalg.solve(camera, np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)]))
    normal = np.array([0.1, 0.3, 0.9]) / np.linalg.norm([0.1, 0.3, 0.9])  # right, down, forward: away from the camera
    depth = torch.from_numpy((2 / (normal @ rays)).reshape(1, 48, 64)).float()
    found = depth_to_normal(depth, torch.from_numpy(camera).float()[None])[0]
    expected = torch.tensor([-normal[0], normal[1], normal[2]]).float()
    assert (found - expected).abs().max() < 2e-3
