"""A target becomes a picture, and the picture the same target again."""

from __future__ import annotations

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from diffusion_perception.core.checkpoints.clues import Clues
from diffusion_perception.core.checkpoints.families import family_named, recipe_for
from diffusion_perception.core.codecs import (
    CODECS,
    ClassScores,
    HalfSphere,
    LateMinMax,
    MinMax,
    Unbounded,
    UnitRange,
    UnitVector,
    min_max,
)
from diffusion_perception.core.display.colour import PALETTES, classify, paint_classes
from diffusion_perception.core.image import RESIZE_RULES, Fit
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.tasks import TASKS

SEEDS = st.integers(0, 2**31)


def random(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("task", tiny.PICTURED)
@given(seed=SEEDS, scale=st.floats(0.1, 100))
def test_what_is_encoded_decodes_to_itself(task, seed, scale):
    codec = Recipe(task, target_scale=scale).target_codec()
    values = random(2, TASKS[task].channels, 5, 7, seed=seed) * scale
    picture = codec.encode(values)
    assert picture.shape == (2, 3, 5, 7)
    assert -1 - 1e-6 <= picture.min() <= picture.max() <= 1 + 1e-6
    assert_close(codec.decode(picture), values, atol=1e-5 * scale, rtol=1e-5)


@pytest.mark.parametrize("codec", [UnitVector(), HalfSphere()], ids=lambda codec: type(codec).__name__)
@given(seed=SEEDS)
def test_unit_vectors_decode_to_themselves(codec, seed):
    values = random(2, 3, 5, 7, seed=seed, low=-1)
    values[:, 2] = values[:, 2].abs() + 0.1
    values = values / values.norm(dim=1, keepdim=True)
    assert_close(codec.decode(codec.encode(values)), values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CODECS)
@given(seed=SEEDS)
def test_whatever_the_decoder_says_ends_within_what_the_codec_promises(name, seed):
    codec = CODECS[name](channels=3 if name in ("unit-vector", "heatmaps", "raw-heatmaps") else 1)
    picture = random(2, 3, 6, 5, seed=seed, low=-3, high=3)
    values = codec.finish(codec.decode(picture))
    assert codec.low is None or values.min() >= codec.low
    assert codec.high is None or values.max() <= codec.high + 1e-6


def test_decoding_changes_nothing_it_was_given():
    picture = random(1, 3, 4, 4, low=-2, high=2)
    before = picture.clone()
    for name in CODECS:
        codec = CODECS[name](channels=3)
        codec.finish(codec.decode(picture))
        codec.encode(before)
    assert torch.equal(picture, before)


def test_one_channel_is_the_mean_of_three():
    picture = torch.tensor([-0.5, 0.0, 0.8]).view(1, 3, 1, 1)
    assert_close(UnitRange(1).decode(picture).item(), (0.1 + 1) / 2)
    assert UnitRange(3).decode(picture).shape == (1, 3, 1, 1)


def test_the_mean_is_taken_before_the_clamp():
    """As the published code does: a channel beyond the range still counts in full."""
    picture = torch.tensor([-3.0, 0.5, 0.5]).view(1, 3, 1, 1)
    assert_close(UnitRange(1).decode(picture).item(), (-2 / 3 + 1) / 2)


def test_metric_values_beyond_the_scale_survive_only_where_nothing_clamps():
    picture = torch.full((1, 3, 2, 2), 3.0)
    assert UnitRange(1, scale=8).decode(picture).max() == 8
    assert Unbounded(1, scale=8).decode(picture).max() == 16
    assert Unbounded(1, scale=8).decode(-picture).min() == 0


@pytest.mark.parametrize("scale", [0.0, -1.0])
@pytest.mark.parametrize("codec", [UnitRange, Unbounded])
def test_a_scale_of_zero_or_less_stretches_every_image_by_itself(codec, scale):
    picture = torch.stack([random(3, 4, 4, low=-0.2, high=0.1), random(3, 4, 4, seed=1, low=0.3, high=0.9)])
    values = codec(1, scale=scale).decode(picture)
    assert_close(values.flatten(1).amin(1), torch.zeros(2))
    assert_close(values.flatten(1).amax(1), torch.ones(2))


def test_min_max_keeps_its_range_whatever_the_scale():
    for codec in (MinMax(1, scale=8), LateMinMax(1, scale=8)):
        values = codec.finish(codec.decode(random(2, 3, 4, 4, high=5)))
        assert codec.high == 1
        assert values.max() <= 1


def test_the_late_stretch_comes_after_the_resize():
    """Interpolation shrinks a range; only a stretch at the image's own size reaches both ends."""
    picture = random(1, 3, 8, 8, low=-1)
    codec = LateMinMax(1)
    small = torch.nn.functional.interpolate(codec.decode(picture), (5, 5), mode="bilinear")
    values = codec.finish(small)
    assert values.min() == 0
    assert values.max() == 1


def test_a_constant_image_stretches_to_zero():
    assert torch.equal(min_max(torch.full((1, 1, 3, 3), 7.0)), torch.zeros(1, 1, 3, 3))


def test_vectors_get_their_length_back_after_a_resize():
    values = UnitVector().finish(random(1, 3, 4, 4, low=-0.3, high=0.3))
    assert_close(values.norm(dim=1), torch.ones(1, 4, 4))


def test_the_half_sphere_looks_at_the_camera():
    assert HalfSphere().decode(random(2, 3, 6, 6, low=-4, high=4))[:, 2].min() >= 0


def test_decoding_can_be_trained_through():
    for name in CODECS:
        picture = random(1, 3, 4, 4, low=-0.9, high=0.9).requires_grad_()
        CODECS[name](channels=3).decode(picture).square().sum().backward()
        assert picture.grad is not None
        assert picture.grad.abs().sum() > 0


@given(seed=SEEDS, classes=st.integers(1, 40), size=st.sampled_from([(5, 7), (9, 4), (3, 3)]))
def test_class_scores_are_read_at_the_image_s_size_a_few_classes_at_a_time(seed, classes, size):
    scores = random(2, classes, 4, 5, seed=seed, low=-4, high=4)

    def restore(values: torch.Tensor, filter: str = "") -> torch.Tensor:
        return torch.nn.functional.interpolate(values, size, mode="bilinear")

    numbers, doubt = ClassScores().settle(scores, restore)
    whole = restore(scores).softmax(1)
    first, second = torch.nn.functional.pad(whole, (0, 0, 0, 0, 0, 1)).topk(2, 1).values.split(1, 1)
    assert torch.equal(numbers, restore(scores).argmax(1, keepdim=True).float())
    assert_close(doubt, 1 - (first - second), atol=1e-5, rtol=0)


def test_no_class_comes_up_between_two_that_are_not_its_neighbours():
    """A map of class numbers that is interpolated would show class 1 between 0 and 2."""
    scores = torch.full((1, 3, 1, 2), -9.0)
    scores[0, 0, 0, 0] = scores[0, 2, 0, 1] = 9.0
    numbers, _ = ClassScores().settle(
        scores, lambda values, filter="": torch.nn.functional.interpolate(values, (8, 64), mode="bilinear")
    )
    assert numbers.unique().tolist() == [0, 2]


@pytest.mark.parametrize("rule", RESIZE_RULES)
@settings(max_examples=20)
@given(seed=SEEDS, noise=st.sampled_from([0.0, 0.1]), size=st.sampled_from([(64, 64), (61, 45), (7, 11)]))
def test_classes_of_colours_are_found_at_processing_size_and_brought_back_by_nearest(rule, seed, noise, size):
    """A chair beside a table, whose colours have the wall's between them."""
    palette = PALETTES["furniture"]
    labels = torch.where(random(1, 16, 16, seed=seed) < 0.5, palette.index("chair"), palette.index("table"))
    codec = Recipe("segmentation", palette=palette.name).target_codec()
    colours = paint_classes(labels, palette).movedim(-1, 1)
    seen = codec.decode((colours + noise * random(1, 3, 16, 16, seed=seed, low=-1)) * 2 - 1)
    values, doubt = codec.settle(seen, Fit(RESIZE_RULES[rule], size, (16, 16)).restore)
    found = classify(values.movedim(1, -1), palette)
    assert doubt is None
    for at_size, small in zip(found, classify(seen.movedim(1, -1), palette)):
        brought = torch.nn.functional.interpolate(small[:, None].double(), size, mode="nearest-exact")[:, 0]
        assert torch.equal(at_size.double(), brought)


def test_published_colours_of_no_palette_are_interpolated_as_their_authors_do():
    architecture = tiny.unet_architecture(tiny.unet())
    for family, codec in (("genpercept", "unit-range"), ("genpercept-v1", "unit-range")):
        clues = Clues(architecture, folder="unet_seg_v2")
        assert recipe_for(family_named(family), clues, "segmentation").codec == codec


def test_values_that_tell_no_doubt_have_none():
    for name in ("unit-range", "class-colours", "unbounded", "min-max", "unit-vector"):
        values, doubt = CODECS[name](channels=3).settle(random(1, 3, 4, 4), lambda values, filter="": values)
        assert doubt is None
        assert values.shape == (1, 3, 4, 4)


@pytest.mark.parametrize("name", CODECS)
def test_only_values_between_0_and_1_are_called_colours(name):
    codec = CODECS[name](channels=3)
    picture = random(2, 3, 8, 8, low=-3, high=3)
    decoded = codec.decode(picture)
    if codec.colours:
        assert 0 <= decoded.min() <= decoded.max() <= 1
    assert codec.colours == (name in ("unit-range", "display", "class-colours", "min-max", "min-max-mean"))
