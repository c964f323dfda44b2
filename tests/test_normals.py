"""Tests of core.display.normals: against rotations of SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation

from diffusion_perception.core.display.normals import UNIT, combined, reoriented, scale_slopes, turned
from diffusion_perception.core.perception_map import Convention, PerceptionMap

RANDOM = torch.Generator().manual_seed(0)


def facing(count: int) -> torch.Tensor:
    """(1, 1, N, 3), towards the camera, more or less."""
    vectors = torch.randn(1, 1, count, 3, generator=RANDOM)
    return F.normalize(vectors * torch.tensor([1, 1, 0]) + vectors[..., 2:].abs() * torch.tensor([0, 0, 1.0]), dim=-1)


def shortest_turn(target: np.ndarray) -> Rotation:
    """From towards the camera to the target."""
    axis = np.cross([0, 0, 1], target)
    return Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.arccos(target[2]))


def test_detail_stands_on_the_base_as_it_does_on_what_faces_the_camera():
    base, detail = facing(50), facing(50)
    expected = [shortest_turn(b).apply(d) for b, d in zip(base[0, 0].double().numpy(), detail[0, 0].double().numpy())]
    assert np.abs(reoriented(base, detail)[0, 0].numpy() - np.stack(expected)).max() < 1e-5


def test_flat_detail_leaves_the_base_and_a_flat_base_the_detail():
    flat, other = torch.tensor([0.0, 0.0, 1.0]).expand(1, 1, 20, 3), facing(20)
    assert torch.allclose(reoriented(other, flat), other, atol=1e-6)
    assert torch.allclose(reoriented(flat, other), other, atol=1e-6)
    assert reoriented(-flat, other).isfinite().all()


def test_strength_is_how_steep_slopes_are():
    detail = facing(20)
    half = scale_slopes(detail, 0.5)
    assert torch.allclose(half[..., :2] / half[..., 2:], detail[..., :2] / detail[..., 2:] / 2, rtol=1e-4)
    assert torch.allclose(scale_slopes(detail, 0), torch.tensor([0.0, 0.0, 1.0]))


@pytest.mark.parametrize("angles", [(30, 0, 0), (0, 40, 0), (0, 0, 50), (-70, 20, 130), (180, 0, 0)])
def test_turning_is_yaw_after_pitch_after_roll(angles):
    """About up, about the left, about the axis towards the camera, each by the right hand; scipy's small letters."""
    yaw, pitch, roll = angles
    vectors = facing(20)
    expected = Rotation.from_euler("zxy", [roll, -pitch, yaw], degrees=True).apply(vectors[0, 0].double().numpy())
    found = turned(PerceptionMap("normal", vectors, UNIT), yaw, pitch, roll)
    assert np.abs(found.values[0, 0].numpy() - expected).max() < 1e-5
    assert found.convention == UNIT


WAYS = {"yaw": ((90, 0, 0), (0, 0, 1), (1, 0, 0)), "pitch": ((0, 90, 0), (0, 0, 1), (0, 1, 0)),
        "roll": ((0, 0, 90), (1, 0, 0), (0, 1, 0))}  # fmt: skip


@pytest.mark.parametrize(("angles", "before", "after"), WAYS.values(), ids=WAYS)
def test_yaw_turns_right_pitch_up_and_roll_anticlockwise(angles, before, after):
    map = PerceptionMap("normal", torch.tensor(before).float().expand(1, 1, 1, 3), UNIT)
    assert torch.allclose(turned(map, *angles).values.flatten(), torch.tensor(after).float(), atol=1e-6)


def test_maps_of_any_axes_are_combined_and_say_where_they_are_known():
    base = facing(6)
    coded = PerceptionMap("normal", (base * torch.tensor([-1, 1, 1]) + 1) / 2, Convention(axes=("left", "up", "back")))
    detail = PerceptionMap("normal", facing(6), UNIT, valid=torch.tensor([[[True, False] * 3]]))
    known = torch.tensor([[[True, True, False] * 2]])
    made = combined(PerceptionMap("normal", coded.values, coded.convention, valid=known), detail, 1.0)
    assert made.valid is not None
    assert made.valid.equal(known)
    assert torch.allclose(made.values[0, 0, 1], base[0, 0, 1], atol=1e-5)  # detail unknown there
    assert torch.allclose(made.values[0, 0, 0], reoriented(base, detail.values)[0, 0, 0], atol=1e-5)
    both = combined(coded, PerceptionMap("normal", torch.cat((detail.values,) * 2), UNIT), 1.0)
    assert both.values.shape == (2, 1, 6, 3)
    assert both.valid is not None
    assert both.valid.shape == (2, 1, 6)
