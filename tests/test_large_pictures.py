"""A large picture's map is what its whole says at large and what its tiles say in detail.

A perceiver without weights reads the map off the picture, by a VAE that loses nothing: of the whole it sees what its
resolution lets through, of a tile all, and so the right map is known.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.errors import UserError
from diffusion_perception.core.large_pictures import BROUGHT, LARGEST, predict_large
from diffusion_perception.core.large_pictures import passes_large as passes
from diffusion_perception.core.pipeline import Perceiver, predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.tasks import TASKS

TILE = 96


class Copied:
    """A network that says what it sees, and a VAE that keeps all of it: every 8 x 8 pixels in channels."""

    in_channels, scaling_factor = 192, 1.0

    def __init__(self, said=lambda picture: picture) -> None:
        self.said = said

    def __call__(self, latent: Tensor, timestep: Tensor, context: Context) -> Tensor:
        return self.encode(self.said(self.decode(latent)))

    def encode(self, image: Tensor) -> Tensor:
        return F.pixel_unshuffle(image, 8)

    def decode(self, latent: Tensor) -> Tensor:
        return F.pixel_shuffle(latent, 8)

    def modules(self):
        return {}


def reading(task: str, said=lambda picture: picture, **fields) -> Perceiver:
    """A perceiver whose map is what `said` makes of the picture in [-1, 1]."""
    recipe = Recipe(task, resolution=TILE, resize="marigold", prediction_type="sample", **fields)
    return Perceiver(recipe, Copied(said), Context(torch.zeros(1, 1, 1)), Copied())


def room(height: int, width: int, seed: int = 0) -> Tensor:
    """(1, 3, H, W) in [0, 1]: a smooth field in which thin bars stand, of one brightness in all channels."""
    draw = torch.Generator().manual_seed(seed)
    field = F.interpolate(torch.rand(1, 1, 4, 4, generator=draw), (height, width), mode="bicubic").clamp(0.1, 0.8)
    for start in torch.randint(8, width - 8, (6,), generator=draw).tolist():
        field[..., height // 4 :, start : start + 3] += 0.15
    return field.expand(1, 3, -1, -1)


def truth(picture: Tensor) -> Tensor:
    return picture[:, :1].movedim(1, -1)


def error(values: Tensor, wanted: Tensor) -> float:
    return (values - wanted).abs().mean().item()


@pytest.mark.parametrize("task", ["mask", "matte", "depth", "roughness"])
@pytest.mark.parametrize("size", [(200, 330), (60, 400), (400, 60)])
def test_tiles_show_what_the_whole_is_too_small_for(task, size):
    picture = room(*size)
    perceiver = reading(task)
    whole, tiled = predict(perceiver, picture), predict_large(perceiver, picture, TILE)
    assert tiled.values.shape == whole.values.shape
    assert error(whole.values, truth(picture)) > 0.003
    assert error(tiled.values, truth(picture)) < 0.4 * error(whole.values, truth(picture))


@settings(max_examples=25, deadline=None)
@given(st.integers(97, 260), st.integers(16, 260), st.integers(0, 99))
def test_pictures_of_any_size_come_out_finer_than_by_the_whole(height, width, seed):
    picture = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    whole, tiled = predict(reading("albedo"), picture), predict_large(reading("albedo"), picture, TILE)
    assert tiled.values.shape == (1, height, width, 3)
    assert error(tiled.values, picture.movedim(1, -1)) < error(whole.values, picture.movedim(1, -1))


def stretched(picture: Tensor) -> Tensor:
    """Each picture to its own range, as depth is known up to scale and shift: nothing of one tile fits the next."""
    low, high = picture.amin((1, 2, 3), keepdim=True), picture.amax((1, 2, 3), keepdim=True)
    return (picture - low) / (high - low) * 2 - 1


@pytest.mark.parametrize("task", ["depth", "disparity"])
def test_a_depth_of_each_tiles_own_scale_and_shift_is_brought_to_the_wholes(task):
    picture = room(240, 330)
    perceiver = reading(task, stretched)
    whole, tiled = predict(perceiver, picture), predict_large(perceiver, picture, TILE)
    # all values are of the whole's own range, whose ends lie where the whole's picture has them
    scale = (whole.values.max() - whole.values.min()) / (truth(picture).max() - truth(picture).min())
    wanted = (truth(picture) - truth(picture).mean()) * scale + whole.values.mean()
    assert error(tiled.values, wanted) < 0.75 * error(whole.values, wanted)


def test_metres_stay_metres():
    picture = room(240, 330)
    perceiver = reading("depth", lambda seen: seen, metric=True, codec="unbounded", target_scale=10.0)
    seen, whole = predict_large(perceiver, picture, TILE), predict(perceiver, picture)
    assert error(seen.values, truth(picture) * 10) < 0.4 * error(whole.values, truth(picture) * 10)
    assert seen.convention.metric


def lighter(picture: Tensor) -> Tensor:
    """The mean of every picture comes out grey: a tile of a person's back knows nothing of the person."""
    return picture - picture.mean((1, 2, 3), keepdim=True)


def test_a_tile_does_not_overrule_the_whole_about_what_is_large():
    picture = torch.zeros(1, 3, 288, 288)
    picture[..., 40:240, 60:230] = 1.0
    tiled = predict_large(reading("matte", lighter), picture, TILE).values[0, ..., 0]
    whole = predict(reading("matte", lighter), picture).values[0, ..., 0]
    inside, outside = tiled[90:190, 110:180], tiled[250:, 245:]
    assert_close(inside, whole[90:190, 110:180], atol=0.02, rtol=0)
    assert_close(outside, whole[250:, 245:], atol=0.02, rtol=0)


def test_normals_of_unit_length_stay_so():
    def direction(picture: Tensor) -> Tensor:
        return F.normalize(picture + torch.tensor([0.1, 0.2, 1.5])[:, None, None], dim=1)

    picture = torch.rand(1, 3, 200, 200, generator=torch.Generator().manual_seed(1))
    perceiver = reading("normal", direction, codec="unit-vector", axes=("right", "up", "back"))
    lengths = predict_large(perceiver, picture, TILE).values.norm(dim=-1)
    assert_close(lengths, torch.ones_like(lengths))


RED, GREEN, BLUE = torch.eye(3)


def test_a_class_that_the_whole_does_not_know_there_is_left_to_the_whole():
    """Right of the picture the ground is blue; a tile that sees no red takes all for green."""
    picture = BLUE[:, None, None].expand(1, 3, 288, 288).clone()
    picture[..., :150] = RED[:, None, None]
    picture[..., 100:104, 140:160] = BLUE[:, None, None]  # a notch too thin for the whole

    def said(seen: Tensor) -> Tensor:
        without_red = seen[:, :1].amax((2, 3), keepdim=True) < 0.5
        return torch.where(without_red, (GREEN * 2 - 1)[:, None, None].expand_as(seen), seen)

    tiled = predict_large(reading("segmentation", said, palette="ff0000 a, 00ff00 b, 0000ff c"), picture, TILE)
    assert_close(tiled.values, picture.movedim(1, -1))


@pytest.mark.parametrize("task", ["depth", "matte", "normal"])
def test_where_tiles_meet_there_is_no_seam(task):
    """Each tile adds an own shade: the steps between neighbouring pixels stay far below what tiles differ by."""
    shades = iter([0.0, *torch.rand(99, generator=torch.Generator().manual_seed(0)).sub(0.5).mul(0.4).tolist()])
    picture = torch.full((1, 3, 200, 290), 0.5)
    seen = predict_large(reading(task, lambda given: given + next(shades)), picture, TILE).values[0]
    step = max(seen.diff(dim=0).abs().max().item(), seen.diff(dim=1).abs().max().item())
    assert step < 0.002


def test_a_picture_no_larger_than_a_tile_is_perceived_as_ever():
    perceiver = tiny.perceiver(Recipe("depth", resolution=64))
    picture = tiny.picture(90, 96)
    with torch.no_grad():
        assert_close(predict_large(perceiver, picture, 96).values, predict(perceiver, picture).values, atol=0, rtol=0)


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if task.per == "image"])
def test_every_task_can_be_tiled_and_ticks_as_often_as_it_said(task):
    perceiver = tiny.perceiver(Recipe(task, resolution=32))
    picture, count = tiny.picture(70, 100), []
    with torch.no_grad():
        seen = predict_large(perceiver, picture, 64, batch_size=3, tick=lambda: count.append(1))
    assert len(count) == passes(perceiver, picture, 64, 3)
    assert seen.values.shape[:3] == (1, 70, 100)
    assert seen.values.isfinite().all()
    assert TASKS[task].tiles in BROUGHT


def test_two_pictures_give_what_each_gives_and_tiles_together_what_they_give_alone():
    perceiver = reading("normal")
    one, other = room(200, 240, 1), room(200, 240, 2)
    pictures, count = torch.cat([one, other]), []
    both = predict_large(perceiver, pictures, TILE, batch_size=3, tick=lambda: count.append(1))
    assert len(count) == passes(perceiver, pictures, TILE, 3)
    assert_close(both.values[:1], predict_large(perceiver, one, TILE).values)
    assert_close(both.values[1:], predict_large(perceiver, other, TILE).values)


def test_an_ensemble_says_where_it_is_sure():
    recipe = Recipe(
        "depth", paradigm="stochastic", steps=1, beta_start=0.00085, beta_end=0.012, zero_snr=True,
        spacing="trailing", final="previous", resize="marigold", resolution=48, ensemble_size=2,
    )  # fmt: skip
    with torch.no_grad():
        seen = predict_large(tiny.perceiver(recipe, 8), tiny.picture(64, 100), 64)
    assert seen.uncertainty is not None
    assert seen.uncertainty.shape == (1, 64, 100)
    assert (seen.uncertainty >= 0).all()


@pytest.mark.parametrize("tile", [0, 16, LARGEST + 1])
def test_tiles_of_no_use_are_refused(tile):
    with pytest.raises(UserError, match=f"tile={tile} is not between 32 and"):
        predict_large(reading("depth"), room(100, 200), tile)


def test_people_are_not_taken_in_tiles():
    recipe = Recipe("keypoints", keypoints="coco-17", head="sdpose")
    with pytest.raises(UserError, match="one by one"):
        predict_large(replace(reading("depth"), recipe=recipe), room(100, 200), TILE)
