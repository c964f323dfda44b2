"""Tests of core.display.distance: planes and spheres before a pinhole camera, in every unit that a map may have."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from diffusion_perception.core.display.distance import distance_of, normals_of
from diffusion_perception.core.display.typed_geometry import camera_of, from_packet
from diffusion_perception.core.geometry import intrinsics_from_fov
from diffusion_perception.core.perception_map import Convention, PerceptionMap

HEIGHT, WIDTH, FOCAL = 48, 64, 50.0
FOV = 2 * torch.rad2deg(torch.tensor(WIDTH / 2 / FOCAL).atan()).item()
NEAR, FAR = 2.0, 12.5


def rays() -> torch.Tensor:
    """(H, W, 3) along right, up, back, reaching to depth 1."""
    x = (torch.arange(WIDTH) + 0.5 - WIDTH / 2) / FOCAL
    y = -(torch.arange(HEIGHT)[:, None] + 0.5 - HEIGHT / 2) / FOCAL
    return torch.stack((x.expand(HEIGHT, WIDTH), y.expand(HEIGHT, WIDTH), -torch.ones(HEIGHT, WIDTH)), -1)


NORMAL = F.normalize(torch.tensor([0.3, 0.5, 0.8]), dim=0)
PLANE = ((NORMAL @ torch.tensor([0.0, 0.0, -4.0])) / (rays() @ NORMAL))[None]
"""Depth (1, H, W), between NEAR and FAR, of a plane through (0, 0, -4)."""
BETWEEN = (PLANE - NEAR) / (FAR - NEAR)
INVERSE = (1 / PLANE - 1 / FAR) / (1 / NEAR - 1 / FAR)

WAYS = {
    "metres": ("depth", PLANE, Convention(high=None, near="low", metric=True), 1.0),
    "a factor of its own": ("depth", PLANE * 3, Convention(high=None, near="low"), 3.0),
    "one over metres": ("disparity", 1 / PLANE, Convention(high=None, near="high", metric=True), 1.0),
    "one over a unit of its own": ("disparity", 5 / PLANE, Convention(high=None, near="high"), 0.2),
    "affine depth": ("depth", BETWEEN, Convention(near="low"), 1.0),
    "affine depth of another range": ("depth", BETWEEN * 2 - 1, Convention(low=-1.0, near="low"), 1.0),
    "affine disparity": ("disparity", INVERSE, Convention(near="high"), 1.0),
    "the root of it": ("disparity", INVERSE.sqrt(), Convention(near="high", encoding="square-root"), 1.0),
}
"""{how a map tells the plane: (task, values, convention, what a distance comes out multiplied by)}"""


@pytest.mark.parametrize(("task", "values", "convention", "factor"), WAYS.values(), ids=WAYS)
def test_a_plane_lies_where_it_is_and_has_its_normal_however_a_map_tells_it(task, values, convention, factor):
    told = PerceptionMap(task, values[..., None], convention)
    found = distance_of(told, (NEAR, FAR))
    assert_close(found.values, PLANE * factor, atol=0, rtol=2e-5)
    assert found.known.all()
    normals, said = normals_of(told, intrinsics_from_fov(FOV, HEIGHT, WIDTH), (NEAR, FAR))
    assert (normals.values @ NORMAL).min() > 0.99999
    assert normals.convention.axes == ("right", "up", "back")
    assert normals.convention.unit
    assert ("2 to 12.5" in said) == ("affine" in said) == (not (convention.metric or convention.high is None))


def test_where_nothing_is_known_nothing_is_and_the_normal_faces_the_camera():
    values = PLANE.clone()
    values[0, 10:20, 10:20] = torch.nan
    values[0, 40:, 50:] = 0
    valid = torch.ones_like(values, dtype=torch.bool)
    valid[0, :5, :5] = False
    told = PerceptionMap("depth", values[..., None], Convention(high=None, near="low", metric=True), valid=valid)
    found = distance_of(told, (NEAR, FAR))
    unknown = ~(valid & values.isfinite() & (values > 0))
    assert (found.values[unknown] == 0).all()
    normals, _ = normals_of(told, intrinsics_from_fov(FOV, HEIGHT, WIDTH), (NEAR, FAR))
    assert normals.valid is not None
    assert normals.valid.equal(~unknown)
    assert (normals.values @ NORMAL)[~unknown].min() > 0.9999
    assert (normals.values[0, 12:18, 12:18] == torch.tensor([0.0, 0.0, 1.0])).all()


def test_a_disparity_of_zero_lies_at_the_far_end_or_where_that_is_open_nowhere():
    flat = torch.zeros(1, 4, 4, 1)
    assert (distance_of(PerceptionMap("disparity", flat, Convention(near="high")), (1, 8)).values == 8).all()
    endless = distance_of(PerceptionMap("disparity", flat, Convention(high=None, near="high", metric=True)), (1, 8))
    assert not endless.known.any()
    assert not endless.values.any()


@pytest.mark.parametrize("span", [(0, 1), (2, 2), (5, 1), (-1, 3)])
def test_a_span_that_does_not_reach_from_near_to_far_is_refused(span):
    with pytest.raises(ValueError, match="make no range: take near above 0"):
        distance_of(PerceptionMap("depth", BETWEEN[..., None], Convention(near="low")), span)
    distance_of(PerceptionMap("depth", PLANE[..., None], Convention(high=None, near="low", metric=True)), span)


def test_a_map_without_a_near_end_is_refused():
    with pytest.raises(ValueError, match="which end of its values is near"):
        distance_of(PerceptionMap("depth", PLANE[..., None], Convention()), (1, 2))


@pytest.mark.parametrize("unit", ["of the picture", "of what the network saw"])
def test_the_camera_of_a_packet_is_in_pixels_of_the_picture_whatever_its_unit(unit):
    """MoGe's focal lengths are in widths and heights, Depth Anything 3's in pixels of 28 x 21, say."""
    wide, high = (1.0, 1.0) if unit == "of the picture" else (28.0, 21.0)
    own = torch.tensor([[FOCAL / WIDTH * wide, 0, wide / 2], [0, FOCAL / HEIGHT * high, high / 2], [0, 0, 1]])
    packet = {"depth": PLANE, "intrinsics": own[None] if wide == 1 else own[None, None]}
    camera = camera_of(packet, HEIGHT, WIDTH)
    assert camera is not None
    assert_close(camera, torch.tensor([[[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]]))
    normals, said = normals_of(from_packet(packet, ("depth",)), camera, (NEAR, FAR))
    assert (normals.values @ NORMAL).min() > 0.99999
    assert "unit of its own" in said


def test_a_packet_may_bring_no_camera():
    assert camera_of({"depth": PLANE}, HEIGHT, WIDTH) is None
    assert camera_of({"depth": PLANE, "intrinsics": torch.eye(3)[None, None]}, HEIGHT, WIDTH) is None


def test_a_panorama_is_refused():
    with pytest.raises(ValueError, match="panorama"):
        camera_of({"depth": PLANE, "points": rays()[None]}, HEIGHT, WIDTH)
