"""Tests of core.display.relight: a Lambertian sphere, drawn ray by ray in double precision, under its lights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusion_perception.core.display.distance import Distance
from diffusion_perception.core.display.relight import Lamp, Space, falling, relight
from diffusion_perception.core.geometry import CAMERA as CAMERA_AXES
from diffusion_perception.core.geometry import depth_to_normal, intrinsics_from_fov, unproject
from diffusion_perception.core.perception_map import Convention, PerceptionMap
from diffusion_perception.core.srgb import to_linear

HEIGHT, WIDTH, FOV = 90, 120, 50.0
CENTRE, RADIUS = np.array([0.2, -0.1, -4.0]), 1.2
FOCAL = WIDTH / 2 / np.tan(np.radians(FOV / 2))
CAMERA = intrinsics_from_fov(FOV, HEIGHT, WIDTH)


def sphere() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(seen (H, W), points, normals (H, W, 3)) along right, up, back."""
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    rays = np.stack([(u - WIDTH / 2) / FOCAL, -(v - HEIGHT / 2) / FOCAL, -np.ones_like(u)], -1)
    a, b = (rays**2).sum(-1), rays @ CENTRE
    root = b**2 - a * (CENTRE @ CENTRE - RADIUS**2)
    points = rays * ((b - np.sqrt(np.maximum(root, 0))) / a)[..., None]
    return root > 0, points, (points - CENTRE) / RADIUS


SEEN, POINTS, NORMALS = sphere()


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normals, what is known, points, as the network's side has them."""
    known = torch.from_numpy(SEEN)[None]
    depth = torch.from_numpy(-POINTS[..., 2]).float()[None]
    return torch.from_numpy(NORMALS).float()[None], known, unproject(depth, CAMERA)


DIRECTIONS = {
    (0, 0): (0, 0, 1),
    (90, 0): (1, 0, 0),
    (-90, 0): (-1, 0, 0),
    (0, 90): (0, 1, 0),
    (180, 0): (0, 0, -1),
    (30, -20): (0.46985, -0.34202, 0.81380),
}
"""{(azimuth, elevation): the way to the light, from a table of sines}"""


@pytest.mark.parametrize(("angles", "towards"), DIRECTIONS.items())
@pytest.mark.parametrize("wrap", [0.0, 0.5])
def test_a_sphere_under_a_far_light_is_lit_by_lambert_s_cosine(angles, towards, wrap):
    lamp = Lamp(azimuth=angles[0], elevation=angles[1], intensity=2.5, wrap=wrap)
    normals, known, _ = tensors()
    light = falling(normals, known, None, CAMERA, lamp)[0].numpy()
    expected = 2.5 * np.maximum((NORMALS @ np.array(towards) + wrap) / (1 + wrap), 0) * SEEN
    assert np.abs(light - expected[..., None]).max() < 2e-4


def test_a_sphere_under_a_near_light_is_lit_by_the_inverse_square():
    place = (0.8, 0.25, 2.5)  # across, down, away
    source = np.array([(0.8 - 0.5) * WIDTH / FOCAL * 2.5, (0.5 - 0.25) * HEIGHT / FOCAL * 2.5, -2.5])
    normals, known, points = tensors()
    light = falling(normals, known, points, CAMERA, Lamp("point", place=place, intensity=3.0))[0].numpy()
    way = source - POINTS
    distance = np.linalg.norm(way, axis=-1)
    expected = 3 * np.maximum((NORMALS * way).sum(-1) / distance, 0) / distance**2 * SEEN
    assert expected.max() > 0.4
    assert np.abs(light - expected[..., None]).max() < 1e-4


def test_normals_out_of_the_sphere_s_own_depth_light_it_as_its_true_ones_do():
    normals, known, points = tensors()
    found = depth_to_normal(-points[..., 2], CAMERA, known)
    light, truth = (falling(n, known, points, CAMERA, Lamp(azimuth=40, elevation=30)) for n in (found, normals))
    inside = -torch.nn.functional.max_pool2d(-known[:, None].float(), 5, 1, 2)[:, 0] > 0
    error = (light - truth).abs().amax(-1)[inside]
    assert error.mean() < 2e-3
    assert error.quantile(0.99) < 0.02


def test_a_light_s_colour_is_srgb_and_light_adds_up_in_linear_light():
    lamp = Lamp(azimuth=0, elevation=0, colour="#ff8000", intensity=0.5)
    facing = torch.tensor([0.0, 0.0, 1.0]).expand(1, 1, 1, 3)
    light = falling(facing, torch.ones(1, 1, 1, dtype=torch.bool), None, CAMERA, lamp)
    assert light.flatten().tolist() == pytest.approx([0.5, 0.5 * 0.21586, 0], abs=1e-5)  # 128/255 of sRGB
    image = PerceptionMap("image", torch.full((1, 1, 1, 3), 0.5), Convention())  # 0.21404 of the light
    normals = PerceptionMap("normal", facing, Convention(low=-1.0, axes=CAMERA_AXES, unit=True))
    for encoding, own in ((None, 0.21404), ("linear", 0.5), ("", 0.21404), ("gamma-2.2", 0.5**2.2)):
        told = encoding is not None and PerceptionMap("albedo", image.values, Convention(encoding=encoding))
        made, shading = relight(image, normals, lamp, 0.25, albedo=told or None)
        expected = [0.21404 * 0.25 + own * part for part in (0.5, 0.5 * 0.21586, 0)]
        assert to_linear(made.flatten().numpy()) == pytest.approx(expected, abs=1e-5)
        assert torch.equal(shading.values, light)
        assert shading.convention.encoding == "linear"


def test_what_is_unknown_keeps_only_the_dimmed_light_it_had():
    normals, known, points = tensors()
    told = PerceptionMap("normal", normals, Convention(low=-1.0, axes=CAMERA_AXES, unit=True), valid=known)
    image = PerceptionMap("image", torch.full((1, HEIGHT, WIDTH, 3), 0.5), Convention())
    space = Space(Distance(-points[..., 2], known, ""), CAMERA)
    for lamp in (Lamp(azimuth=0, elevation=0), Lamp("point")):
        made, _ = relight(image, told, lamp, 0.25, space)
        assert (made[~known] < 0.27).all()
        assert to_linear(made[~known].numpy()) == pytest.approx(0.21404 * 0.25, abs=1e-5)
        assert made[0, HEIGHT // 2, WIDTH // 2, 0] > 0.3


def test_a_picture_of_another_size_than_its_normals_is_refused():
    image = PerceptionMap("image", torch.zeros(1, 4, 5, 3), Convention())
    normals = PerceptionMap("normal", torch.zeros(1, 4, 6, 3), Convention(axes=CAMERA_AXES))
    with pytest.raises(ValueError, match="The image is 5 x 4, the normal 6 x 4: take maps of one picture"):
        relight(image, normals, Lamp(), 0.5)


def test_each_picture_of_a_batch_has_its_own_camera():
    normals, known, points = (torch.cat((t, t)) for t in tensors())
    cameras = torch.cat((CAMERA, intrinsics_from_fov(80, HEIGHT, WIDTH)))
    lamp = Lamp("point", place=(0.9, 0.1, 2.0))
    both = falling(normals, known, points, cameras, lamp)
    for index in (0, 1):
        one = falling(normals[:1], known[:1], points[:1], cameras[index : index + 1], lamp)
        assert torch.equal(both[index : index + 1], one)
    assert not torch.equal(both[0], both[1])


WRONG = {
    "no depth": ({"kind": "point"}, "needs to know how far away things are: connect a depth"),
    "another kind": ({"kind": "area"}, "no light 'area': choose one of directional, point"),
    "no colour": ({"colour": "warm"}, "no colour 'warm': write it as #RRGGBB"),
}


@pytest.mark.parametrize(("given", "words"), WRONG.values(), ids=WRONG)
def test_what_is_no_light_is_refused_in_a_sentence(given, words):
    normals, known, _ = tensors()
    with pytest.raises(ValueError, match=words):
        falling(normals, known, None, CAMERA, Lamp(**given))
