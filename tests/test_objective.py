"""The objective's questions, draws and losses, by the papers' formulas; that training falls is shown elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import runs
import torch

from diffusion_perception.trainer import noise, objective
from diffusion_perception.trainer.config import Config, ConfigError, Network
from diffusion_perception.trainer.config import Objective as Settings
from diffusion_perception.trainer.data.batches import Batch

SIGNAL = {"beta_start": 0.00085, "beta_end": 0.012}
SHAPE = (2, 4, 3, 5)
IMAGE, SAMPLE = (torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
TIMESTEPS, SEEDS = torch.tensor([10, 900]), torch.tensor([7, 8])


def asked(paradigm, **fields):
    recipe = runs.recipe("depth", paradigm=paradigm, **fields)
    settings = Settings(noise="gaussian")
    return objective.ask(IMAGE, SAMPLE, TIMESTEPS, SEEDS, recipe, settings)


def powers():
    """Of the signal at TIMESTEPS: Stable Diffusion's scaled-linear schedule, written down once more."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return torch.tensor(np.cumprod(1 - betas)[TIMESTEPS.numpy()], dtype=torch.float32).view(2, 1, 1, 1)


def close(one, other):
    return torch.allclose(one, other, atol=1e-5)


# Questions


def test_beside_zeros_nothing_of_the_target_is_shown_whatever_timestep_is_told():
    """E2E-FT: the picture beside zeros; v is understood at the last timestep, where some signal is left."""
    found = asked("stochastic", noise="zeros", spacing="trailing", **SIGNAL)
    assert torch.equal(found.shown, torch.cat([IMAGE, torch.zeros_like(IMAGE)], 1))
    assert torch.equal(found.noisy, torch.zeros_like(SAMPLE))
    assert found.target is None
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    assert close(found.alpha_bar, torch.full((2, 1, 1, 1), float(np.cumprod(1 - betas)[999])))


def test_one_step_shows_the_picture_alone_and_compares_samples():
    question = asked("one-step")
    assert torch.equal(question.shown, IMAGE)
    assert torch.equal(question.noisy, IMAGE)
    assert question.target is None
    assert close(question.alpha_bar, torch.zeros(2, 1, 1, 1))  # betas of one leave no signal


def test_deterministic_blends_target_and_picture_and_learns_their_velocity():
    question, power = asked("deterministic", steps=5, **SIGNAL), powers()
    assert close(question.shown, power.sqrt() * SAMPLE + (1 - power).sqrt() * IMAGE)
    assert close(question.target, power.sqrt() * IMAGE - (1 - power).sqrt() * SAMPLE)


@pytest.mark.parametrize(("kind", "target"), [("epsilon", IMAGE), ("sample", SAMPLE)])
def test_deterministic_may_learn_the_picture_or_the_target_itself(kind, target):
    assert close(asked("deterministic", steps=5, prediction_type=kind, **SIGNAL).target, target)


def test_stochastic_shows_the_picture_before_the_target_blended_with_each_pictures_own_noise():
    question, power = asked("stochastic", steps=5, prediction_type="epsilon", **SIGNAL), powers()
    assert torch.equal(question.shown[:, :4], IMAGE)
    assert torch.equal(question.shown[:, 4:], question.noisy)
    assert close(question.noisy, power.sqrt() * SAMPLE + (1 - power).sqrt() * question.target)
    alone = noise.draw_noise(SEEDS[1:], TIMESTEPS[1:], SHAPE[1:], Settings(noise="gaussian"))
    assert torch.equal(question.target[1:], alone)


# Draws


@pytest.mark.parametrize(("how", "told"), [("fixed", 37), ("final", 999)])
def test_timesteps_that_are_not_random_are_the_recipes_or_the_last(how, told):
    drawn = noise.draw_timesteps(SEEDS, runs.recipe("depth", timestep=37), Settings(timesteps=how))
    assert drawn.tolist() == [told, told]


def test_random_timesteps_are_spread_over_the_schedule_and_each_is_its_seeds():
    seeds, recipe = torch.arange(2000), runs.recipe("depth")
    drawn = noise.draw_timesteps(seeds, recipe, Settings())
    assert drawn.dtype == torch.int64
    assert 0 <= drawn.min() < 10
    assert 990 < drawn.max() <= 999
    # the mean of 0..999 within four of its deviations, 999 / sqrt(12 * 2000)
    assert abs(drawn.double().mean() - 499.5) < 4 * 6.45
    assert torch.equal(noise.draw_timesteps(seeds[5:6], recipe, Settings()), drawn[5:6])


def test_pyramid_noise_has_a_deviation_of_one_and_neighbours_that_are_alike():
    pyramid = noise.pyramid_noise((4, 32, 32), 0.9, torch.Generator().manual_seed(0))
    plain = noise.pyramid_noise((4, 32, 32), 0.0, torch.Generator().manual_seed(0))
    alike = [(kind[..., 1:] * kind[..., :-1]).mean() for kind in (pyramid, plain)]
    assert abs(pyramid.std() - 1) < 1e-5
    assert alike[0] > 0.1 > abs(alike[1])


def test_annealed_noise_is_plain_at_timestep_zero():
    settings, zero = Settings(noise="pyramid", annealed=True), torch.zeros(2, dtype=torch.int64)
    drawn = noise.draw_noise(SEEDS, zero, SHAPE[1:], settings)
    assert torch.equal(drawn, noise.draw_noise(SEEDS, zero, SHAPE[1:], replace(settings, noise="gaussian")))


# Losses


def test_a_task_is_minimised_by_its_own_losses_unless_the_config_names_others():
    named = {"depth": ["mse", "ssi:0.25"]}
    terms = objective.terms_of(runs.recipe("depth"), Settings(loss="both", latent_loss="l1", pixel_losses=named))
    assert [(term.name, term.factor) for term in terms] == [("latent-l1", 1.0), ("mse", 1.0), ("ssi", 0.25)]
    (only,) = objective.terms_of(runs.recipe("albedo"), Settings(loss="pixel"))
    assert (only.name, only.space) == ("l1", "picture")


def test_a_factor_that_is_no_number_is_named():
    with pytest.raises(ConfigError, match=r"objective\.pixel_losses\.depth: 'ssi:much' is not NAME or NAME:FACTOR"):
        objective.terms_of(runs.recipe("depth"), Settings(loss="pixel", pixel_losses={"depth": ["ssi:much"]}))


def test_what_is_counted_are_valid_pixels_and_cells_without_a_hole():
    valid = torch.ones(1, 1, 16, 24, dtype=torch.bool)
    valid[..., 0, 0] = False
    picture = torch.zeros(1, 3, 16, 24)
    batch = Batch("depth", picture, picture, valid, torch.tensor([0]))
    terms = objective.terms_of(runs.recipe("depth"), Settings(loss="both", pixel_losses={"depth": ["mse:2"]}))
    counted = objective.weights(batch, terms)
    # 6 cells of 8 x 8, of which one has a hole, of 4 channels; 384 pixels but one, of one channel
    assert counted.weight.tolist() == [5 * 4, 16 * 24 - 1]
    assert counted.factor.tolist() == [1.0, 2.0]


# What cannot be had


@pytest.mark.parametrize(
    ("task", "network", "settings", "fields", "sentence"),
    [
        ("depth", {"head": "plain"}, {}, {}, 'set objective.loss = "pixel"'),
        ("depth", {"head": "plain", "decoder": True}, {"loss": "pixel"}, {}, "train one of the two"),
        ("depth", {"decoder": True}, {}, {}, 'to "pixel" or "both"'),
        ("depth", {}, {}, {"prediction_type": "epsilon"}, "says nothing of a target"),
        ("keypoints", {}, {"loss": "pixel"}, {}, "which only a head makes"),
        ("segmentation", {}, {"loss": "pixel", "pixel_losses": {"segmentation": "cross-entropy"}}, {}, "upernet"),
    ],
)
def test_an_objective_that_cannot_be_had_is_refused_in_one_sentence(task, network, settings, fields, sentence):
    config = Config(network=Network(**network), objective=Settings(**settings))
    with pytest.raises(ConfigError, match=sentence) as refusal:
        objective.check_objective(config, {task: runs.recipe(task, **fields)})
    assert "\n" not in str(refusal.value)
