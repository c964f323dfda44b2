"""Every paradigm, parameterisation, loss and preset trains a tiny network to a falling held-out error."""

from __future__ import annotations

from pathlib import Path

import pytest
import runs
import tiny
from safetensors import safe_open

from diffusion_perception.core.measure.losses import LOSSES
from diffusion_perception.core.recipe import from_header
from diffusion_perception.trainer import base
from diffusion_perception.trainer.config import Config, build, merged
from diffusion_perception.trainer.loop import fit
from diffusion_perception.trainer.presets import PRESETS
from diffusion_perception.trainer.runs.validate import Validator
from diffusion_perception.trainer.train import prepare

SIGNAL = {"beta_start": 0.00085, "beta_end": 0.012, "steps": 5}
STEPS = 10


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return runs.write_root(tmp_path_factory.mktemp("balls"), camera=True)


@pytest.fixture(autouse=True)
def patches(monkeypatch):
    """Every run has the autoencoder that needs no training."""
    monkeypatch.setattr(base, "load_vae", lambda *parts: runs.PatchVAE())


def errors(root, tmp_path, **settings):
    """The held-out loss before and after a short run."""
    below = {
        "out": str(tmp_path / "run"),
        "steps": STEPS,
        "save_every": 1000,
        "validation": [{"root": str(root / "val")}],
        "optimiser": {"lr": 3e-3},
    }
    run = prepare(runs.config(root, **merged(below, settings)))
    before = run.evaluator.loss(run.evaluator.feeds)
    fit(run)
    return before, run.evaluator.loss(run.evaluator.feeds)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_one_step_training_falls(root, tmp_path, prediction):
    before, after = errors(root, tmp_path, recipe={"prediction_type": prediction})
    assert after < 0.5 * before


@pytest.mark.parametrize("prediction", ["v_prediction", "sample", "epsilon"])
@pytest.mark.parametrize("paradigm", ["deterministic", "stochastic"])
def test_training_of_several_steps_falls(root, tmp_path, paradigm, prediction):
    before, after = errors(root, tmp_path, recipe={"paradigm": paradigm, "prediction_type": prediction, **SIGNAL})
    assert after < 0.9 * before


@pytest.mark.parametrize("timesteps", ["random", "fixed", "final"])
def test_training_falls_whatever_timestep_is_told(root, tmp_path, timesteps):
    before, after = errors(root, tmp_path, objective={"timesteps": timesteps}, recipe={"timestep": 500})
    assert after < 0.5 * before


@pytest.mark.parametrize("noise", ["gaussian", "pyramid"])
def test_training_falls_on_every_kind_of_noise(root, tmp_path, noise):
    before, after = errors(root, tmp_path, objective={"noise": noise}, recipe={"paradigm": "stochastic", **SIGNAL})
    assert after < 0.9 * before


TAUGHT_BY = {"angular": "normal", "scale-invariant": "albedo", "laplacian": "matte", "cross-entropy": "segmentation"}


@pytest.mark.parametrize("loss", [name for name in LOSSES if name not in ("vnl", "cross-entropy")])
def test_every_loss_between_pictures_falls(root, tmp_path, loss):
    task = TAUGHT_BY.get(loss, "depth")
    settings = {"loss": "pixel", "pixel_losses": {task: [loss]}}
    before, after = errors(root, tmp_path, tasks=[task], objective=settings)
    assert after < 0.95 * before


def test_the_loss_of_virtual_normals_falls_where_cameras_are_known(tmp_path):
    runs.write_balls(tmp_path / "train", 8, camera=True)
    runs.write_balls(tmp_path / "val", 4, seed=9, camera=True)
    runs.write_vae(tmp_path / "vae")
    before, after = errors(tmp_path, tmp_path, objective={"loss": "pixel", "pixel_losses": {"depth": ["vnl"]}})
    assert after < 0.95 * before


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_every_loss_between_latents_falls(root, tmp_path, loss):
    before, after = errors(root, tmp_path, objective={"latent_loss": loss})
    assert after < 0.5 * before


@pytest.mark.parametrize("task", tiny.PICTURED)
def test_every_task_trains_with_its_own_losses_beside_the_latent_one(root, tmp_path, task):
    before, after = errors(root, tmp_path, tasks=[task], objective={"loss": "both"}, validate_every=0)
    assert after < 0.9 * before
    (recipe,) = recipes_in(tmp_path / "run" / "last.safetensors")
    assert recipe.row.name == task


def recipes_in(path):
    with safe_open(path, "pt") as file:
        return from_header(file.metadata(), path.name)


PRESET_STEPS = 20
"""A low rank at random timesteps needs as many before its falling shows."""


def scaled_down(name, root, tmp_path):
    """A preset with everything kept but its size, its base, and how long it takes."""
    own = PRESETS[name].settings
    small = {
        "out": str(tmp_path / "run"),
        "tasks": list(own.get("tasks", ["depth"])),
        "size": [runs.SIZE, runs.SIZE],
        "steps": PRESET_STEPS,
        "batch_size": 2,
        "accumulation": 1,
        "precision": "no",
        "workers": 0,
        "device": "cpu",
        "save_every": 1000,
        "validate_every": 0,
        "samples": 1,
        "base": {"architecture": "tiny", "vae": str(root / "vae")},
        "optimiser": {"lr": 3e-3, "decoder_lr": 3e-3, "warmup": 2, "decay_steps": 0},
        "network": {"head_width": 32},
        "autoencoder": {"vae_widths": [32, 32, 32, 32]},
        "recipe": {"resolution": runs.SIZE, "steps": min(own.get("recipe", {}).get("steps", 1), 3)},
        "data": [{"root": str(root / "train")}],
        "validation": [{"root": str(root / "val")}],
    }
    return build(Config, merged(own, small), "")


WAYS = {
    "objective": ("loss", "timesteps", "sample_latents"),
    "network": ("unet", "head", "decoder"),
    "recipe": ("paradigm", "prediction_type", "noise", "codec"),
    "base": ("architecture",),
}
"""What of a preset makes another kind of run, whatever its size and task."""


def kind(own):
    """Of a run, by a preset's settings."""
    losses = [*own.get("objective", {}).get("pixel_losses", {}).values()]
    ways = [own.get(section, {}).get(key) for section, keys in WAYS.items() for key in keys]
    return repr([own.get("learn"), losses, ways])


def different(names):
    """The first preset of each kind; people are learnt in test_train_keypoints.py."""
    dense = [name for name in names if PRESETS[name].settings.get("tasks") != ["keypoints"]]
    return list({kind(PRESETS[name].settings): name for name in reversed(dense)}.values())


def held_out(evaluator):
    """The loss alone where it can be had without predictions, which take several passes."""
    if isinstance(evaluator, Validator):
        return evaluator.loss(evaluator.feeds)
    found = evaluator.measure(0, True)
    return found[next(key for key in found if key.endswith(("loss", "l1")))]


@pytest.mark.parametrize("name", different(PRESETS))
def test_every_preset_falls_and_writes_a_file_that_says_how_it_is_run(root, tmp_path, name):
    run = prepare(scaled_down(name, root, tmp_path))
    before = held_out(run.evaluator)
    fit(run)
    assert held_out(run.evaluator) < before
    if run.config.learn == "vae":
        assert (Path(run.config.out) / "vae" / "diffusion_pytorch_model.safetensors").is_file()
    else:
        (recipe,) = recipes_in(Path(run.config.out) / "last.safetensors")
        assert recipe.paradigm == run.config.recipe.get("paradigm", "one-step")
