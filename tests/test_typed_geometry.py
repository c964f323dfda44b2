"""Geometry of ComfyUI's own nodes, read as maps: a plane before a pinhole camera keeps its depth and its normal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from diffusion_perception.core.display.picture import DEPTH_MEANINGS, as_map, depth_picture, normal_picture
from diffusion_perception.core.display.selection import Selection, select
from diffusion_perception.core.display.typed_geometry import from_packet

HEIGHT, WIDTH, FOCAL = 24, 32, 30.0
NORMAL = F.normalize(torch.tensor([0.3, -0.4, -1.0]), dim=0)
"""Of a plane, in OpenCV's axes (right, down, away): towards the camera, upwards and to the right."""


def plane() -> torch.Tensor:
    """Points (H, W, 3) where the rays of a pinhole camera meet NORMAL . X = -3."""
    x = (torch.arange(WIDTH) + 0.5 - WIDTH / 2) / FOCAL
    y = (torch.arange(HEIGHT)[:, None] + 0.5 - HEIGHT / 2) / FOCAL
    rays = torch.stack([x.expand(HEIGHT, WIDTH), y.expand(HEIGHT, WIDTH), torch.ones(HEIGHT, WIDTH)], -1)
    return rays * (-3 / (rays @ NORMAL))[..., None]


def moge(**more) -> dict:
    points = plane()[None]
    mask = torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool)
    mask[:, :5] = False
    depth = points[..., 2].where(mask, torch.inf)
    normal = NORMAL.expand(1, HEIGHT, WIDTH, 3)
    return {"points": points, "depth": depth, "mask": mask, "normal": normal, "image": torch.rand(1, 24, 32, 3), **more}


def test_the_nearest_part_of_a_plane_is_the_whitest_by_one_over_its_distance():
    found = from_packet(moge(), ("depth", "disparity"))
    picture, said = depth_picture(found, "controlnet")
    inverse = 1 / plane()[5:, :, 2]
    expected = (inverse - inverse.min()) / (inverse.max() - inverse.min())
    assert_close(picture[0, 5:, :, 0], expected, atol=1e-5, rtol=0)
    assert not picture[0, :5].any()  # masked is far away
    assert "1/z" in said


def test_a_normal_keeps_its_direction_whatever_the_axes():
    found = from_packet(moge(), ("normal",))
    right, down, away = NORMAL.tolist()
    opengl = normal_picture(found, "opengl")[0, 10, 10]
    assert_close(opengl, (torch.tensor([right, -down, -away]) + 1) / 2)
    bae = normal_picture(found, "controlnet_bae")[0, 10, 10]
    assert_close(bae, (torch.tensor([-right, -down, -away]) + 1) / 2)


def test_sky_has_no_depth():
    sky = torch.zeros(1, HEIGHT, WIDTH)
    sky[..., :7] = 0.9
    packet = {"depth": plane()[None, ..., 2], "image": torch.rand(1, HEIGHT, WIDTH, 3), "mode": "mono", "sky": sky}
    found = from_packet(packet, ("depth",))
    assert not select(found, Selection(low=0, high=1e6))[..., :7].any()
    assert select(found, Selection(low=0, high=1e6))[..., 7:].all()


def test_metres_are_metres_only_where_a_person_says_so():
    assert not from_packet(moge(), ("depth",)).convention.metric
    said = from_packet(moge(), ("depth",), metres=True)
    assert said.convention == DEPTH_MEANINGS["metres"].convention
    assert as_map(said, DEPTH_MEANINGS["metres"], ("depth",)) is not None


@pytest.mark.parametrize(
    ("packet", "tasks", "words"),
    [
        ({"depth": torch.ones(1, 4, 4), "mode": "mono"}, ("normal",), "holds depth, mode, and no normal"),
        ({}, ("depth", "disparity"), "holds nothing, and no depth"),
        (moge(), ("segmentation",), "no segmentation"),
    ],
)
def test_a_packet_without_what_is_wanted_is_refused_in_a_sentence(packet, tasks, words):
    with pytest.raises(ValueError, match=words):
        from_packet(packet, tasks)
