"""Blending: what stands still is averaged over time, what moves is not, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from torch import Tensor
from torch.testing import assert_close

from diffusion_perception.core.errors import UserError
from diffusion_perception.core.pipeline import predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.video import Blending, blending, check_share


class Plain:
    """A VAE whose latents are its pictures."""

    scaling_factor = 1.0

    def encode(self, image: Tensor) -> Tensor:
        return image

    def decode(self, latent: Tensor) -> Tensor:
        return latent


def test_where_nothing_moves_answers_are_averaged_and_noise_goes():
    draw = torch.Generator().manual_seed(0)
    vae, still = Blending(Plain(), 0.8), torch.randn(1, 4, 6, 6, generator=draw)
    answers = [1 + 0.1 * torch.randn(1, 4, 6, 6, generator=draw) for _ in range(60)]
    shown = []
    for answer in answers:
        vae.encode(still)
        shown.append(vae.decode(answer))
    # of an average with share a the deviation falls by sqrt((1 - a) / (1 + a))
    late = torch.stack(shown[20:]).std() / torch.stack(answers[20:]).std()
    assert late.item() == pytest.approx((0.2 / 1.8) ** 0.5, rel=0.15)
    assert_close(shown[0], answers[0])


def test_what_moves_leaves_no_ghost():
    vae, seen = Blending(Plain(), 0.9), torch.zeros(1, 4, 6, 6)
    vae.encode(seen)
    vae.decode(torch.zeros(1, 4, 6, 6))
    moved = seen.clone()
    moved[..., :3] = 3.0
    vae.encode(moved)
    shown = vae.decode(torch.ones(1, 4, 6, 6))
    assert_close(shown[..., :3], torch.ones(1, 4, 6, 3))
    assert_close(shown[..., 3:], torch.full((1, 4, 6, 3), 0.1))


def test_a_batch_is_blended_as_its_frames_are_and_a_new_size_begins_anew():
    frames = torch.cat([tiny.picture(48, 64, seed) for seed in (0, 0, 1)])
    perceiver = tiny.perceiver(Recipe("depth", resolution=64))
    with torch.no_grad():
        one_by_one = predict(blending(perceiver, 0.5), frames).values
        together = predict(blending(perceiver, 0.5), frames, batch_size=3).values
        assert_close(one_by_one, together, atol=1e-4, rtol=0)
        held = blending(perceiver, 0.5)
        predict(held, frames)
        other = tiny.picture(64, 48)
        assert_close(predict(held, other).values, predict(perceiver, other).values, atol=0, rtol=0)


def test_no_share_is_the_perceiver_itself():
    perceiver = tiny.perceiver(Recipe("depth"))
    assert blending(perceiver, 0.0) is perceiver


@pytest.mark.parametrize("share", [-0.1, 1.0, 3.0])
def test_shares_that_are_none_are_refused(share):
    with pytest.raises(UserError, match="is not from 0 to below 1"):
        blending(tiny.perceiver(Recipe("depth")), share)


def test_tiles_are_not_blended():
    with pytest.raises(UserError, match="cannot be blended over time"):
        check_share(0.5, 512)
    check_share(0.0, 512)
    check_share(0.5, 0)


def test_answers_that_are_no_latents_are_refused():
    perceiver = tiny.perceiver(Recipe("depth"))
    with pytest.raises(UserError, match="by a head"):
        blending(replace(perceiver, head=lambda features: features[0]), 0.5)
    with pytest.raises(UserError, match="ensemble_size=1"):
        blending(replace(perceiver, recipe=replace(perceiver.recipe, ensemble_size=4)), 0.5)
