"""Frames that were given a scale and shift each come back as they were, and what moves does not lead them astray."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion_perception.core.display.steady import Steadying, fit_line, steadied
from diffusion_perception.core.errors import UserError
from diffusion_perception.core.perception_map import Convention, PerceptionMap

AFFINE, WIDE = Convention(low=0.0, high=1.0, near="low"), Convention(low=-9.0, high=9.0, near="low")
METRES = Convention(high=None, near="low", metric=True)


def scene(seed: int = 0, frames: int = 1) -> torch.Tensor:
    """(B, H, W) smooth, in 0.2..0.8."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 1, 4, 5, generator=generator)
    large = torch.nn.functional.interpolate(small, (24, 30), mode="bicubic", align_corners=True)[0]
    return ((large - large.min()) / (large.max() - large.min()) * 0.6 + 0.2).expand(frames, -1, -1).clone()


def depth(values: torch.Tensor, convention: Convention = WIDE, **rest) -> PerceptionMap:
    return PerceptionMap("depth", values[..., None], convention, **rest)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0.5, 2), st.floats(-0.5, 0.5)), min_size=2, max_size=6))
def test_each_frame_comes_to_the_scale_and_shift_of_the_first(lines):
    still = scene(frames=len(lines))
    flickering = torch.stack([frame * scale + shift for frame, (scale, shift) in zip(still, lines)])
    steady, begun = steadied(depth(flickering), strength=1.0)
    assert begun == []
    assert torch.allclose(steady.values, flickering[:1].expand_as(flickering)[..., None], atol=1e-5)


def test_what_moves_by_itself_does_not_lead_astray():
    frames = scene(frames=4)
    for number, frame in enumerate(frames):
        frame[5:12, 4 + 3 * number : 11 + 3 * number] = 0.95
    still = scene()[0]
    flickering = (
        frames * torch.tensor([1.0, 1.4, 0.8, 1.1])[:, None, None] + torch.tensor([0.0, -0.2, 0.1, 0.3])[:, None, None]
    )
    steady, _ = steadied(depth(flickering), strength=1.0)
    assert (steady.values[..., 0][:, 15:] - still[15:]).abs().max() < 1e-5


def test_noise_does_not_shrink_a_long_video():
    """Least squares from frame to frame would leave exp(-240 * 0.01) of the contrast."""
    generator = torch.Generator().manual_seed(1)
    frames = scene(frames=240)
    frames += torch.randn(frames.shape, generator=generator) * 0.1 * frames[0].std()
    steady, _ = steadied(depth(frames), strength=1.0)
    assert steady.values[-1].std() > 0.9 * frames[0].std()


@pytest.mark.parametrize("strength", [0.0, 0.5, 0.9])
def test_less_strength_is_a_running_mean_of_the_frames_own_levels(strength):
    """Of shifts alone: o[t] = (1 - strength) f[t] + strength o[t - 1]."""
    shifts = np.random.default_rng(0).uniform(-0.2, 0.2, 12)
    frames = scene(frames=12) + torch.tensor(shifts, dtype=torch.float32)[:, None, None]
    expected = [shifts[0]]
    for shift in shifts[1:]:
        expected.append((1 - strength) * shift + strength * expected[-1])
    steady, _ = steadied(depth(frames), strength)
    found = (steady.values[..., 0] - scene()).mean((1, 2)).numpy()
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_cut_begins_anew():
    frames = torch.cat([scene(0, 3), scene(7, 3) * 0.5 + 0.4])
    steady, begun = steadied(depth(frames), strength=1.0)
    assert begun == [3]
    assert torch.allclose(steady.values[..., 0], frames, atol=1e-5)


def test_metres_are_scaled_and_never_shifted():
    metres = scene(frames=3) * 5 * torch.tensor([1.0, 1.2, 0.7])[:, None, None]
    steady, _ = steadied(depth(metres, METRES), strength=1.0)
    assert torch.allclose(steady.values[..., 0], metres[:1].expand_as(metres), atol=1e-4)
    shifted = torch.cat([metres[:1], metres[:1] + 1.0])
    assert (steadied(depth(shifted, METRES), strength=1.0)[0].values[1] - metres[0][..., None]).abs().max() > 0.1


def test_affine_values_stay_in_their_range_and_in_their_order():
    frames = scene(frames=3)
    frames[1] = frames[1] * 0.3 + 0.7
    first = frames.clone()
    first[0] = (frames[0] - 0.2) / 0.6  # from 0 to 1, so that those brought to it may lie beyond
    steady, _ = steadied(depth(first, AFFINE), strength=1.0)
    assert 0 <= steady.values.min() <= steady.values.max() <= 1
    for before, after in zip(first, steady.values[..., 0]):
        assert (before.flatten().argsort() == after.flatten().argsort()).float().mean() > 0.99


def test_unknown_pixels_are_left_and_not_asked():
    frames = scene(frames=2)
    valid = torch.ones(2, 24, 30, dtype=torch.bool)
    valid[1, :6] = False
    flickering = torch.stack([frames[0], frames[1] * 1.5])
    flickering[1, :6] = 99.0
    steady, _ = steadied(depth(flickering, valid=valid), strength=1.0)
    assert (steady.values[1, :6] == 99).all()
    assert torch.allclose(steady.values[1, 6:, :, 0], frames[0][6:], atol=1e-5)


def test_constant_and_empty_frames_are_left_as_they_are():
    flat = torch.full((3, 6, 5), 0.5)
    assert torch.equal(steadied(depth(flat))[0].values[..., 0], flat)
    nothing = depth(flat, valid=torch.zeros(3, 6, 5, dtype=torch.bool))
    assert torch.equal(steadied(nothing)[0].values[..., 0], flat)
    assert fit_line(torch.zeros(0), torch.zeros(0), True)[0] == (1.0, 0.0)


@pytest.mark.parametrize(("strength", "cut"), [(-0.1, 0.3), (1.1, 0.3), (0.5, 0.0)])
def test_other_numbers_are_refused(strength, cut):
    with pytest.raises(UserError, match="expected strength from 0 to 1"):
        steadied(depth(scene(frames=2)), strength, cut)


def test_one_frame_is_refused():
    with pytest.raises(UserError, match="One frame has nothing to flicker against"):
        steadied(depth(scene()))


def test_a_frame_of_another_size_begins_a_new_scene():
    steadying = Steadying()
    steadying.add(depth(scene()))
    other = depth(scene()[:, :10] * 0.5)
    assert torch.equal(steadying.add(other).values, other.values)
    assert steadying.begun == [1]
