"""A paradigm is one row: checkpoints predict with it, are trained in it and say so in their files."""

from __future__ import annotations

import pytest
import runs
import tiny
import torch

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.diffusion import PARADIGMS, Paradigm, Question, call
from diffusion_perception.core.multitask import passes_of_tasks, predict_tasks
from diffusion_perception.core.pipeline import passes, predict
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.trainer import host
from diffusion_perception.trainer.config import ConfigError
from diffusion_perception.trainer.loop import fit
from diffusion_perception.trainer.train import prepare

IMAGE = tiny.picture(64, 64)


def again_and_again(net, image, noise, context, recipe, tick):
    """GenPercept's pass, made of its own answer `steps` times; betas of one: the sample is minus the velocity."""
    for _ in range(recipe.steps):
        image = -call(net, image, recipe.timestep, context)
        tick()
    return image


def ask_again_and_again(image, sample, noise, alpha_bar, recipe):
    return Question(image, image, torch.zeros_like(alpha_bar), None)


def from_noise(net, image, noise, context, recipe, tick):
    """One pass over the image latent and noise beside it."""
    sample = -call(net, torch.cat([image, noise], 1), 999, context)
    tick()
    return sample


def ask_from_noise(image, sample, noise, alpha_bar, recipe):
    return Question(torch.cat([image, noise], 1), noise, torch.zeros_like(alpha_bar), None)


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    repeated = Paradigm(again_and_again, ask_again_and_again, shows_target=False)
    begun = Paradigm(from_noise, ask_from_noise, channels=8, draws_noise=True, shows_target=False)
    monkeypatch.setitem(PARADIGMS, "repeated", repeated)
    monkeypatch.setitem(PARADIGMS, "from-noise", begun)


def repeated(task: str, **fields) -> Recipe:
    return Recipe(task, paradigm="repeated", steps=2, resolution=64, **fields)


@torch.no_grad()
def test_a_checkpoint_of_a_new_paradigm_predicts_what_its_passes_say(tmp_path):
    path = tiny.write_own(tmp_path / "a.safetensors", [repeated("depth", base="custom")])
    ticks = []
    seen = predict(host.load_perceiver(open_checkpoint(path)), IMAGE, tick=lambda: ticks.append(1))
    unet, vae, text = tiny.unet(), tiny.vae(), tiny.context(0)
    latent = vae.encode(IMAGE * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
    for _ in range(2):
        latent = -unet(latent, torch.tensor([1]), text).sample
    picture = vae.decode(latent / vae.config.scaling_factor).sample
    expected = ((picture.mean(1) + 1) / 2).clamp(0, 1)
    assert expected.std() > 1e-3
    assert torch.allclose(seen.values[..., 0], expected, atol=1e-5)
    assert len(ticks) == passes(repeated("depth"), 1, 1)


@torch.no_grad()
def test_tasks_of_several_passes_do_not_share_one():
    texts = {task: tiny.context(seed) for seed, task in enumerate(("depth", "normal"))}
    perceivers = [tiny.perceiver(repeated(task), tokens=tokens) for task, tokens in texts.items()]
    ticks = []
    together = predict_tasks(perceivers, IMAGE, tick=lambda: ticks.append(1))
    for perceiver, seen in zip(perceivers, together, strict=True):
        assert torch.allclose(seen.values, predict(perceiver, IMAGE).values, atol=1e-5)
    assert len(ticks) == passes_of_tasks(perceivers, 1, 1)


@torch.no_grad()
def test_members_differ_where_a_new_paradigm_draws_noise():
    recipe = Recipe("depth", paradigm="from-noise", ensemble_size=3, resolution=64)
    seen = predict(tiny.perceiver(recipe, 8), IMAGE)
    other = predict(tiny.perceiver(recipe.override(["seed=1"]), 8), IMAGE)
    assert seen.uncertainty is not None
    assert seen.uncertainty.max() > 0
    assert not torch.allclose(seen.values, other.values, atol=1e-3)


@pytest.mark.parametrize(("paradigm", "steps", "channels"), [("repeated", 2, 4), ("from-noise", 1, 8)])
@pytest.mark.parametrize("loss", ["latent", "pixel"])
def test_a_network_is_trained_in_a_new_paradigm_and_its_file_says_so(tmp_path, paradigm, steps, channels, loss):
    root = runs.write_root(tmp_path)
    made = prepare(runs.config(root, recipe={"paradigm": paradigm, "steps": steps}, objective={"loss": loss}))
    before = made.learner.unet.conv_in.weight.clone()
    assert before.shape[1] == channels
    fit(made)
    assert not torch.equal(made.learner.unet.conv_in.weight, before)
    written = open_checkpoint(made.out / "last.safetensors")
    assert written.recipe == made.learner.recipes["depth"]
    assert (written.recipe.paradigm, written.recipe.steps) == (paradigm, steps)
    with torch.no_grad():
        live = predict(made.learner.eval().perceiver("depth"), IMAGE).values
        assert torch.allclose(predict(host.load_perceiver(written), IMAGE).values, live, atol=1e-5)


def test_a_new_paradigm_learns_from_the_answer_to_its_question(tmp_path):
    """The loss between latents, found without the objective."""
    settings = {"recipe": {"paradigm": "repeated", "steps": 2, "timestep": 7}, "objective": {"timesteps": "fixed"}}
    made = prepare(runs.config(runs.write_root(tmp_path), **settings))
    model, batch = made.learner.eval(), made.data[0]
    with torch.no_grad():
        image, target = (model.vae.encode(picture).latent_dist.mode() for picture in (batch.image, batch.target))
        tokens = model.contexts.expand(len(batch), -1, -1)
        answer = -model.unet(image, torch.full((len(batch),), 7), tokens).sample
        assert model(batch).item() == pytest.approx((answer - target).square().sum().item(), rel=1e-4)


def test_what_a_new_paradigm_cannot_do_is_refused_by_its_name(tmp_path):
    with pytest.raises(ValueError, match="A head reads one pass of the network: paradigm=repeated"):
        repeated("depth", head="plain")
    with pytest.raises(ValueError, match="paradigm='thrice' is not one of 'one-step', .*'repeated', 'from-noise'"):
        Recipe("depth", paradigm="thrice")
    with pytest.raises(ValueError, match="one-step and deterministic and repeated .* stochastic and from-noise"):
        predict(tiny.perceiver(repeated("depth"), 8), IMAGE)
    settings = {"network": {"unet": "lora"}, "recipe": {"paradigm": "from-noise"}}
    with pytest.raises(ConfigError, match=r"The from-noise paradigm shows the network 8 channels.* \[\"conv_in\"\]"):
        prepare(runs.config(runs.write_root(tmp_path), **settings))
    settings = {"recipe": {"paradigm": "repeated", "prediction_type": "epsilon"}}
    with pytest.raises(ConfigError, match="says nothing of a target that left no trace"):
        prepare(runs.config(tmp_path, **settings))
