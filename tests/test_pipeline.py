"""predict(): the same image gives the same map, alone or in a batch, and what cannot be an image is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.pipeline import (
    Gathered,
    Perceiver,
    check_image,
    denoise,
    passes,
    predict,
    predict_latent,
)
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.tasks import TASKS
from diffusion_perception.trainer.host import DiffusersHead

ONE_STEP = Recipe("depth", resolution=64)
STOCHASTIC = Recipe(
    "depth", paradigm="stochastic", steps=2, beta_start=0.00085, beta_end=0.012, zero_snr=True, spacing="trailing",
    final="previous", resize="marigold", resolution=48, ensemble_size=3,
)  # fmt: skip


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def pictures(count: int = 5, height: int = 45, width: int = 61) -> torch.Tensor:
    return torch.cat([tiny.picture(height, width, seed) for seed in range(count)])


def perceiver(recipe: Recipe, **parts) -> Perceiver:
    return tiny.perceiver(recipe, 8 if recipe.paradigm == "stochastic" else 4, **parts)


class Counter:
    """Counts how often it is called."""

    count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.mark.parametrize("task", tiny.PICTURED)
def test_every_task_gives_a_map_of_its_channels_at_the_images_size(task):
    seen = predict(perceiver(Recipe(task, resolution=48)), pictures(1))
    assert seen.values.shape == (1, 45, 61, TASKS[task].channels)
    assert seen.values.dtype == torch.float32
    assert seen.values.device.type == "cpu"
    assert (seen.task, seen.recipe) == (task, task)
    assert 0 <= seen.values.min() <= seen.values.max() <= 1
    assert seen.values.std() > 1e-3
    assert seen.uncertainty is None


@pytest.mark.parametrize("recipe", [ONE_STEP, STOCHASTIC], ids=lambda recipe: recipe.paradigm)
def test_a_batch_of_five_equals_five_images_one_by_one(recipe):
    model, images = perceiver(recipe), pictures()
    batch = predict(model, images)
    singles = [predict(model, image[None]) for image in images]
    assert torch.equal(batch.values, torch.cat([single.values for single in singles]))
    if recipe.ensemble_size > 1:
        assert batch.uncertainty is not None
        uncertainty = [single.uncertainty for single in singles if single.uncertainty is not None]
        assert torch.equal(batch.uncertainty, torch.cat(uncertainty))


@pytest.mark.parametrize("batch_size", [2, 8])
@pytest.mark.parametrize("recipe", [ONE_STEP, replace(STOCHASTIC, ensemble_size=1)], ids=lambda recipe: recipe.paradigm)
def test_larger_chunks_give_the_same_but_for_the_last_digits(recipe, batch_size):
    model, images = perceiver(recipe), pictures()
    # not smaller: at 64 pixels a norm of the tiny networks sees two values, whose difference it blows up
    singles = predict(model, images, resolution=128).values
    assert_close(predict(model, images, resolution=128, batch_size=batch_size).values, singles, atol=1e-4, rtol=0)


@pytest.mark.parametrize("recipe", [ONE_STEP, STOCHASTIC], ids=lambda recipe: recipe.paradigm)
def test_two_runs_are_bit_identical(recipe):
    model, images = perceiver(recipe), pictures(2)
    first, second = predict(model, images), predict(model, images)
    assert torch.equal(first.values, second.values)


def test_nothing_that_was_given_is_changed():
    images, noise = pictures(2), torch.randn(3, 4, 5, 6)
    before = images.clone(), noise.clone()
    predict(perceiver(STOCHASTIC), images, noise=noise)
    assert torch.equal(images, before[0])
    assert torch.equal(noise, before[1])


def test_the_layout_of_memory_does_not_matter():
    """ComfyUI's images are channels-last, on which PyTorch's group norm would lose a digit."""
    images = pictures(1)
    model = perceiver(ONE_STEP)
    channels_last = images.movedim(1, -1).contiguous().movedim(-1, 1)
    assert torch.equal(predict(model, channels_last).values, predict(model, images).values)
    latent = torch.randn(1, 4, 8, 8)
    strided = latent.to(memory_format=torch.channels_last)
    assert torch.equal(predict_latent(model, strided).values, predict_latent(model, latent).values)


def test_the_random_state_of_others_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    predict(perceiver(STOCHASTIC), pictures(1))
    assert torch.equal(torch.rand(3), expected)


# Noise and ensembles


def test_the_seed_decides_the_noise():
    images = pictures(1)
    first, second = (predict(perceiver(replace(STOCHASTIC, seed=seed)), images) for seed in (1, 2))
    assert not torch.equal(first.values, second.values)


def test_noise_that_is_given_stands_in_place_of_the_seeds():
    images, noise = pictures(2), torch.randn((3, 4, 5, 6), generator=torch.Generator().manual_seed(11))
    model = perceiver(replace(STOCHASTIC, seed=11))
    assert torch.equal(predict(model, images, noise=noise).values, predict(model, images).values)


def test_noise_of_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"noise of shape \(1, 4, 8, 8\) was given; this image needs \(3, 4, 5, 6\)"):
        predict(perceiver(STOCHASTIC), pictures(1), noise=torch.randn(1, 4, 8, 8))


def test_only_the_stochastic_paradigm_has_members():
    seen = predict(perceiver(replace(ONE_STEP, ensemble_size=4)), pictures(1))
    assert seen.uncertainty is None
    assert torch.equal(seen.values, predict(perceiver(ONE_STEP), pictures(1)).values)


def test_an_ensemble_says_where_its_members_disagree():
    seen = predict(perceiver(STOCHASTIC), pictures(2))
    assert seen.uncertainty is not None
    assert seen.uncertainty.shape == (2, 45, 61)
    assert seen.uncertainty.max() > 0


# Ticks


@given(
    images=st.integers(1, 9), batch_size=st.integers(1, 9), ensemble=st.integers(1, 5), steps=st.integers(1, 4),
    stochastic=st.booleans(),
)  # fmt: skip
def test_the_number_of_passes_is_known_beforehand(images, batch_size, ensemble, steps, stochastic):
    """Counted by hand: an encode a chunk, and for each part of its members the steps and a decode."""
    paradigm = "stochastic" if stochastic else "deterministic"
    recipe = replace(STOCHASTIC, paradigm=paradigm, ensemble_size=ensemble, steps=steps)
    total, left = 0, images
    while left > 0:
        jobs = min(batch_size, left) * (ensemble if stochastic else 1)
        total += 1 + len(range(0, jobs, batch_size)) * (steps + 1)
        left -= batch_size
    assert passes(recipe, images, batch_size) == total
    assert passes(recipe, images, batch_size, encode=False) == total - len(range(0, images, batch_size))


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("recipe", [ONE_STEP, STOCHASTIC], ids=lambda recipe: recipe.paradigm)
def test_it_ticks_as_often_as_it_said(recipe, batch_size):
    tick = Counter()
    predict(perceiver(recipe), pictures(3), batch_size=batch_size, tick=tick)
    assert tick.count == passes(recipe, 3, batch_size)


def test_a_head_ticks_as_often_as_it_said():
    recipe = replace(ONE_STEP, head="dpt_head_identity", codec="min-max")
    model = perceiver(recipe, head=DiffusersHead(tiny.dpt_head()))
    tick = Counter()
    seen = predict(model, pictures(2), tick=tick)
    assert tick.count == passes(recipe, 2, 1)
    assert seen.values.flatten(1).amin(1).tolist() == pytest.approx([0, 0], abs=0.05)


def test_what_a_tick_raises_stops_the_prediction():
    class Cancelled(Exception):
        pass

    def cancel() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        predict(perceiver(ONE_STEP), pictures(1), tick=cancel)


# Latents


def test_a_latent_is_perceived_like_the_image_that_it_stands_for():
    model = perceiver(ONE_STEP)
    image = tiny.picture(48, 64)
    assert model.autoencoder is not None
    latent = model.autoencoder.encode(image * 2 - 1)
    assert_close(predict_latent(model, latent).values, predict(model, image, resolution=0).values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("recipe", [ONE_STEP, STOCHASTIC], ids=lambda recipe: recipe.paradigm)
def test_a_map_of_a_latent_is_eight_times_as_large(recipe):
    tick = Counter()
    seen = predict_latent(perceiver(recipe), torch.randn(2, 4, 5, 7), tick=tick)
    assert seen.values.shape == (2, 40, 56, 1)
    assert tick.count == passes(recipe, 2, 1, encode=False)


# Resolution and context


def test_the_resolution_is_the_recipes_unless_another_is_asked_for():
    images = pictures(1)
    model = perceiver(ONE_STEP)
    assert torch.equal(predict(model, images, resolution=64).values, predict(model, images).values)
    native = replace(model, recipe=replace(ONE_STEP, resolution=0))
    assert torch.equal(predict(model, images, resolution=0).values, predict(native, images).values)
    assert not torch.equal(predict(model, images, resolution=40).values, predict(model, images).values)


@pytest.mark.parametrize("resolution", [-2, 20000])
def test_an_impossible_resolution_is_refused(resolution):
    with pytest.raises(
        ValueError, match=f"resolution={resolution} is not -1 .as trained., 0 .the image's own. or 1..16384"
    ):
        predict(perceiver(ONE_STEP), pictures(1), resolution=resolution)


def test_only_the_recipes_tokens_are_used_also_after_an_override():
    """CLIP is causal: the first two tokens of a padded empty prompt are those of the unpadded one."""
    images = pictures(1)
    padded = tiny.context(5, tokens=77)
    two, all_of_them = replace(ONE_STEP, tokens=2), replace(ONE_STEP, tokens=0)
    short = predict(tiny.perceiver(two, tokens=padded[:, :2]), images).values
    assert torch.equal(predict(tiny.perceiver(two, tokens=padded), images).values, short)
    long = predict(tiny.perceiver(all_of_them, tokens=padded), images).values
    assert not torch.equal(long, short)
    set_to_two = all_of_them.override(["tokens=2"])
    assert torch.equal(predict(tiny.perceiver(set_to_two, tokens=padded), images).values, short)


def test_guidance_needs_a_negative_context_and_uses_its_first_tokens():
    images = pictures(1)
    recipe = replace(ONE_STEP, tokens=2, guidance_scale=2.0)
    with pytest.raises(
        ValueError, match="guidance_scale=2 needs a negative context: give one, or set guidance_scale=1"
    ):
        predict(perceiver(recipe), images)
    negative = Context(tiny.context(8, tokens=77))
    guided = predict(perceiver(recipe, negative=negative), images).values
    assert not torch.equal(guided, predict(perceiver(replace(recipe, guidance_scale=1.0)), images).values)
    short = predict(perceiver(recipe, negative=negative.first(2)), images).values
    assert torch.equal(guided, short)


def test_a_head_under_guidance_is_refused():
    recipe = replace(ONE_STEP, head="dpt_head_identity", codec="min-max", guidance_scale=2.0)
    model = perceiver(recipe, head=DiffusersHead(tiny.dpt_head()), negative=Context(tiny.context()))
    with pytest.raises(ValueError, match="A head reads one pass of the network"):
        predict(model, pictures(1))


def test_a_checkpoint_without_a_vae_asks_for_one():
    with pytest.raises(ValueError, match="brings no VAE of its own: connect a Stable Diffusion 1.x or 2.x VAE"):
        predict(replace(perceiver(ONE_STEP), autoencoder=None), pictures(1))


def test_a_paradigm_for_another_network_is_refused():
    with pytest.raises(ValueError, match="takes 4 input channels and its paradigm gives it 8"):
        predict(replace(perceiver(ONE_STEP), recipe=ONE_STEP.override(["paradigm=stochastic"])), pictures(1))


def test_the_inner_half_can_be_trained_through():
    latent = torch.randn(1, 4, 6, 6).requires_grad_()
    with torch.enable_grad():
        denoise(perceiver(ONE_STEP), latent).square().sum().backward()
    assert latent.grad is not None
    assert latent.grad.abs().sum() > 0


# Images


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 200), (200, 16), (17, 31)])
@pytest.mark.parametrize("resolution", [-1, 0])
def test_the_smallest_images_are_perceived(height, width, resolution):
    for recipe in (ONE_STEP, replace(STOCHASTIC, ensemble_size=1)):
        seen = predict(perceiver(recipe), tiny.picture(height, width), resolution=resolution)
        assert seen.values.shape == (1, height, width, 1)
        assert torch.isfinite(seen.values).all()


BAD = [
    (torch.zeros(1, 3, 1, 1), "The image is 1x1 pixels; the smallest that can be perceived is 16x16"),
    (torch.zeros(1, 3, 64, 15), "The image is 15x64 pixels; the smallest"),
    (torch.full((1, 3, 20, 20), torch.nan), "The image holds NaN or infinite pixels: repair the node that made it"),
    (torch.full((1, 3, 20, 20), torch.inf), "The image holds NaN or infinite pixels"),
    (torch.zeros(0, 3, 20, 20), "The batch of images is empty: give at least one image"),
    (torch.zeros(1, 4, 20, 20), r"Expected images of shape \(B, 3, H, W\), got \(1, 4, 20, 20\)"),
    (torch.zeros(3, 20, 20), r"Expected images of shape \(B, 3, H, W\), got \(3, 20, 20\)"),
]


@pytest.mark.parametrize(("image", "reason"), BAD, ids=[reason[:30] for _, reason in BAD])
def test_what_no_network_can_make_sense_of_is_refused(image, reason):
    with pytest.raises(ValueError, match=reason) as error:
        check_image(image)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=reason):
        predict(perceiver(ONE_STEP), image)


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_chunks_are_gathered_to_what_they_are_together(count):
    batch = torch.randn(count, 5, 6, 2)
    parts = [(chunk.clone(), chunk[..., 0].clone()) for chunk in batch.split(3)]
    gathered = Gathered(count)
    for part in parts:
        gathered.add(part)
    seen = gathered.map(Recipe("depth"))
    assert torch.equal(seen.values, batch)
    assert torch.equal(seen.uncertainty, batch[..., 0])


def test_one_chunk_is_not_copied():
    values = torch.randn(2, 5, 6, 1)
    gathered = Gathered(2)
    gathered.add((values, None))
    assert gathered.map(Recipe("depth")).values is values
