"""Light halves are learnt from the VAE, say what they cost, and find their way into the checkpoint and out of it."""

from __future__ import annotations

import numpy as np
import pytest
import runs
import tiny
import torch
import torch.nn.functional as F

from diffusion_perception.core.checkpoints.checkpoint import open_checkpoint
from diffusion_perception.core.checkpoints.own_file import read_own
from diffusion_perception.core.checkpoints.tensors import read_metadata
from diffusion_perception.core.checkpoints.tiny_vae_file import own_light
from diffusion_perception.core.recipe import from_header
from diffusion_perception.trainer import base, host
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.config import ConfigError, merged
from diffusion_perception.trainer.loop import fit
from diffusion_perception.trainer.runs.light_half import open_teacher
from diffusion_perception.trainer.train import prepare

STEPS = 90
SMALL = {"light_width": 32, "light_blocks": [1, 1, 1]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Balls, and a checkpoint of two tasks."""
    folder = runs.write_root(tmp_path_factory.mktemp("balls"))
    recipes = [runs.recipe("depth", resolution=runs.SIZE), runs.recipe("normal", resolution=runs.SIZE)]
    tiny.write_own(folder / "model.safetensors", recipes)
    return folder


@pytest.fixture
def patches(monkeypatch):
    """The autoencoder that needs no training in place of a checkpoint's."""
    for module in (base, host):
        monkeypatch.setattr(module, "load_vae", lambda *parts: runs.PatchVAE())


def light_config(root, tmp_path, learn="decoder", **settings):
    below = {
        "learn": learn,
        "out": str(tmp_path / "run"),
        "steps": STEPS,
        "save_every": 1000,
        "optimiser": {"lr": 3e-3},
        "light": SMALL,
        "base": {"architecture": "", "vae": "", "path": str(root / "model.safetensors")},
        "validation": [{"root": str(root / "val")}],
    }
    return runs.config(root, **merged(below, settings))


def trained(*arguments, **settings):
    """A run that was carried out: what was measured before and after."""
    run = prepare(light_config(*arguments, **settings))
    before = run.evaluator.measure(0, True)
    fit(run)
    return run, before, run.evaluator.measure(STEPS, True)


@pytest.mark.parametrize("task", ["depth", "normal"])
def test_a_light_decoder_learns_what_the_vae_makes_of_predicted_and_of_true_latents(root, tmp_path, patches, task):
    run, before, after = trained(root, tmp_path, tasks=[task])
    assert after[f"{task}/loss"] < 0.5 * before[f"{task}/loss"]
    whole = run.evaluator.whole[task]
    first = "abs-rel" if task == "depth" else "mean-angle"
    assert abs(after[f"{task}/{first}"] - whole[first]) < abs(before[f"{task}/{first}"] - whole[first])


@pytest.mark.parametrize("predicted", [0.0, 1.0])
def test_latents_may_be_all_true_or_all_predicted(root, tmp_path, patches, predicted):
    _, before, after = trained(root, tmp_path, light={"predicted": predicted})
    assert after["depth/loss"] < 0.5 * before["depth/loss"]


def test_a_light_encoder_learns_the_latents_of_photographs(root, tmp_path, patches):
    _, before, after = trained(root, tmp_path, "encoder")
    assert after["depth/loss"] < 0.5 * before["depth/loss"]


def test_an_encoder_may_be_told_what_the_predictor_makes_of_its_latents(root, tmp_path, patches):
    run = prepare(light_config(root, tmp_path, "encoder", light={"outcome": 2.0, "light_l1": 0, "light_gradient": 0}))
    model, batch = run.learner, run.data[0]
    counted = model.weights(batch)
    assert counted.factor.tolist() == [0, 0, 0, 0, 0, 2]
    assert counted.weight[-1] == len(batch) * 4 * 4 * 4
    totals = model(batch)
    full = model.teacher.autoencoder.encode(batch.image)
    light = model.light(batch.image).detach()
    gap = model.teacher.predict(light, "depth") - model.teacher.predict(full, "depth")
    torch.testing.assert_close(totals[-1], gap.abs().sum())
    totals[-1].backward()
    assert model.light.from_picture.weight.grad.abs().max() > 0
    assert all(weight.grad is None for weight in model.teacher.perceivers["depth"].backbone.unet.parameters())


def test_it_may_be_taught_in_half_precision_and_is_measured_in_single(root, tmp_path, patches, own_precision):
    exact, _, _ = trained(root, tmp_path / "a", steps=1)
    own_precision()
    half, before, after = trained(
        root, tmp_path / "b", precision="bf16", network={"frozen_precision": "bf16"}, optimiser={"ema": 0.5}
    )
    assert after["depth/loss"] < 0.5 * before["depth/loss"]
    assert half.evaluator.whole == exact.evaluator.whole


def test_a_vae_alone_teaches_too(root, tmp_path, patches):
    _, before, after = trained(root, tmp_path, base={"path": "", "vae": str(root / "vae")})
    assert after["depth/loss"] < 0.5 * before["depth/loss"]
    # a perfect prediction, by whichever decoder
    assert after["depth/abs-rel-full"] == before["depth/abs-rel-full"] < 0.2
    assert after["depth/abs-rel"] < before["depth/abs-rel"]


@pytest.mark.parametrize("task", ["depth", "normal"])
def test_a_vae_that_loses_nothing_costs_nothing(root, tmp_path, patches, task):
    """The measure itself: by the whole VAE a perfect prediction is as far from the truth as 8x8 means are."""
    config = light_config(root, tmp_path, tasks=[task], base={"path": "", "vae": str(root / "vae")})
    evaluator = prepare(config).evaluator
    evaluator.model.full = True
    feeds = evaluator.feeds
    for feed, sample in evaluator.records(feeds):
        seen = evaluator.predict(evaluator.model.perceiver(task), sample).values.movedim(-1, 1)
        values, _ = feed.supervision.normalise(sample)
        picture = feed.recipe.target_codec().encode(values[None])
        means = F.interpolate(F.avg_pool2d(picture, 8), scale_factor=8, mode="bilinear")
        torch.testing.assert_close(seen, feed.recipe.target_codec().decode(means), rtol=0, atol=1e-5)


def test_the_file_names_the_recipe_that_it_is_for_and_what_it_costs(root, tmp_path, patches):
    run, _, _ = trained(root, tmp_path, tasks=["normal"], steps=4)
    file = tmp_path / "run" / "last.safetensors"
    (recipe,) = from_header(read_metadata(file), file.name)
    (expected,) = (recipe for recipe in recipes_of(root) if recipe.task == "normal")
    whole, light = (run.evaluator.measure(4, True)[f"normal/mean-angle{end}"] for end in ("-full", ""))
    assert recipe.decoder == "normal"
    assert recipe.decoder_cost == f"mean-angle {whole:.4g} -> {light:.4g}"
    assert (recipe.id, recipe.resolution, recipe.base) == (expected.id, expected.resolution, expected.base)
    learnt = own_light(read_own(file), "decoder", recipe).load()
    assert all(torch.equal(learnt[name], tensor) for name, tensor in run.learner.light.state_dict().items())


def recipes_of(root):
    return from_header(read_metadata(root / "model.safetensors"), "model")


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(root, tmp_path, patches):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    settings = {"validate_every": 0, "validation": [], "augment": {"flip": 0.5}}
    unbroken = prepare(light_config(root, whole, steps=6, **settings))
    fit(unbroken)
    first = prepare(light_config(root, halves, steps=3, save_every=3, **settings))
    fit(first)
    second = prepare(light_config(root, halves, steps=6, **settings))
    assert second.first_step == 3
    fit(second)
    one, other = (run.learner.light.state_dict() for run in (unbroken, second))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_latents_that_are_kept_change_nothing(root, tmp_path, patches):
    found = []
    for number, cached in enumerate((False, True)):
        run = prepare(light_config(root, tmp_path / str(number), steps=6, cache_latents=cached, validation=[]))
        fit(run)
        found.append(run.learner.light.state_dict())
    torch.testing.assert_close(found[0], found[1])
    assert list((tmp_path / "1" / "run" / "latents").rglob("*.npy"))


def test_tasks_of_one_channel_and_of_three_are_not_learnt_together(root, tmp_path):
    with pytest.raises(ConfigError, match="One light decoder makes pictures of 1 channel or of 3"):
        prepare(light_config(root, tmp_path, tasks=["depth", "normal"]))


def test_one_encoder_serves_all_tasks(root, tmp_path, patches):
    run = prepare(light_config(root, tmp_path, "encoder", tasks=["depth", "normal"], steps=2))
    fit(run)
    held = from_header(read_metadata(tmp_path / "run" / "last.safetensors"), "last")
    assert {recipe.id: recipe.encoder for recipe in held} == {"depth": "depth", "normal": "depth"}


@pytest.mark.parametrize("tasks", [["mask"], ["depth", "mask"]])
def test_a_predictor_of_other_tasks_is_refused_and_does_not_become_its_vae_alone(tmp_path, tasks):
    data = runs.write_root(tmp_path / "balls")
    tiny.write_genpercept(data / "genpercept-depth", ["unet_depth_v2"])
    settings = {"base": {"path": str(data / "genpercept-depth")}, "tasks": tasks}
    with pytest.raises(ConfigError, match="genpercept-depth is for depth, not for mask: set tasks to what it predicts"):
        open_teacher(light_config(data, tmp_path, **settings), "cpu")


def test_a_model_that_generates_teaches_by_its_vae_alone(root, tmp_path):
    tiny.write(tmp_path / "generative" / "unet", tiny.unet())
    tiny.write(tmp_path / "generative" / "vae", tiny.vae())
    teacher = open_teacher(light_config(root, tmp_path, base={"path": str(tmp_path / "generative")}), "cpu")
    assert (teacher.perceivers, teacher.base) == ({}, "custom")


def test_train_export_and_predict_on_the_command_line(root, tmp_path, capsys):
    """Real networks from end to end: the light decoder in a run's file, in the checkpoint, and by name."""
    photo = tiny.save_picture(tmp_path / "photo.png", 40, 56)
    model = str(root / "model.safetensors")
    flags = ["--learn=decoder", "--tasks=depth", f"--base={model}", f"--data={root / 'train'}", "--steps=2"]
    flags += [f"--validation={root / 'val'}", "--size=32,32", "--workers=0", "--device=cpu", "--estimate=false"]
    flags += ["--light-width=32", "--light-blocks=1,1", f"--out={tmp_path / 'run'}", "--samples=0"]
    assert main(["train", *flags]) == 0
    light = tmp_path / "run" / "last.safetensors"

    exported = tmp_path / "with light.safetensors"
    export = ["export", "--model", model, "--out", str(exported), "--dtype", "fp32", "--decoder", str(light)]
    assert main(export) == 0
    depth, normal = (open_checkpoint(exported, task=task).recipe for task in ("depth", "normal"))
    assert (depth.decoder, normal.decoder) == ("depth", "")
    assert "abs-rel" in depth.decoder_cost

    def predicted(name, *flags):
        out = tmp_path / name
        assert main(["predict", *flags, "--task", "depth", "--out", str(out), str(photo)]) == 0
        return np.load(out / "photo.npy")

    full = predicted("full", "--model", model)
    by_file = predicted("file", "--model", model, "--decoder", str(light))
    by_name = predicted("name", "--model", str(exported), "--decoder", "light")
    assert np.array_equal(full, predicted("again", "--model", str(exported)))
    assert np.array_equal(by_file, by_name)
    assert np.abs(full - by_name).max() > 1e-3

    # another checkpoint with a VAE of its own: its latents are noise to this decoder
    other = tiny.vae(5)
    vae = tiny.vae_architecture(other), other.state_dict()
    model = str(tiny.write_own(tmp_path / "other.safetensors", list(recipes_of(root)), vae=vae))
    elsewhere = tmp_path / "elsewhere.safetensors"
    for file in (str(light), str(exported)):
        assert main(["export", "--model", model, "--out", str(elsewhere), "--decoder", file]) == 2
        assert "depth perceives those of its own VAE, which is another" in capsys.readouterr().err
        flags = ["--decoder", file, "--task", "depth", "--out", str(tmp_path / "noise"), str(photo)]
        assert main(["predict", "--model", model, *flags]) == 2
    assert not elsewhere.exists()


def test_what_cannot_be_had_is_refused_in_one_sentence(root, tmp_path, capsys):
    photo = str(tiny.save_picture(tmp_path / "photo.png", 40, 56))
    given = ["--model", str(root / "model.safetensors"), "--task", "depth", "--out", str(tmp_path / "out")]
    predict = ["predict", *given, photo]
    assert main([*predict, "--decoder", "light"]) == 2
    assert "brings no light decoder for depth: take full" in capsys.readouterr().err
    assert main([*predict, "--encoder", str(tmp_path / "none.safetensors")]) == 2
    assert "There is no file" in capsys.readouterr().err
    export = ["export", "--model", str(root / "model.safetensors"), "--out", str(tmp_path / "x.safetensors")]
    assert main([*export, "--decoder", str(root / "model.safetensors")]) == 2
    assert "holds nothing for depth, normal" in capsys.readouterr().err
