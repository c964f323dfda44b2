"""Whole runs on a tiny network: what they write, how they go on, and what is said of input that cannot be used."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import runs
import tiny
import torch
from safetensors.torch import load_file, save_file

from diffusion_perception.core.checkpoints.checkpoint import open_all, open_checkpoint
from diffusion_perception.core.checkpoints.tensors import read_metadata
from diffusion_perception.core.pipeline import predict
from diffusion_perception.trainer import host
from diffusion_perception.trainer.cli import main
from diffusion_perception.trainer.config import ConfigError, to_toml
from diffusion_perception.trainer.data.tasks import TASK_DATA
from diffusion_perception.trainer.journal import Diverged
from diffusion_perception.trainer.loop import fit
from diffusion_perception.trainer.train import prepare
from diffusion_perception.trainer.train import run as train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return runs.write_root(tmp_path_factory.mktemp("balls"), held_out=2)


def finished(root, out, **settings):
    run = prepare(runs.config(root, out=str(out), **settings))
    fit(run)
    return run


def weights(run):
    return {name: weight.detach().clone() for name, weight in run.learner.learning().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# What is written


def test_a_run_of_several_tasks_writes_one_file_that_predicts_each_as_it_was_learnt(root, tmp_path):
    run = finished(root, tmp_path, tasks=["depth", "normal", "mask"], licence="CC0-1.0", title="Balls")
    assert {checkpoint.recipe.id for checkpoint in open_all(tmp_path / "last.safetensors")} == {
        "depth",
        "normal",
        "mask",
    }
    image = tiny.picture(40, 32)
    tokens = []
    for task in ("depth", "normal", "mask"):
        loaded = host.load_perceiver(open_checkpoint(tmp_path / "last.safetensors", task=task))
        live = run.learner.eval().perceiver(task)
        with torch.no_grad():
            assert torch.equal(predict(live, image).values, predict(loaded, image).values)
        tokens.append(loaded.context.tokens)
    assert not torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[1], tokens[2])


def test_the_file_says_how_it_is_run_what_it_learnt_from_and_its_licence(root, tmp_path):
    finished(root, tmp_path, tasks=["normal"], licence="CC0-1.0", title="Balls", size=[32, 48])
    metadata = read_metadata(tmp_path / "last.safetensors")
    assert metadata["modelspec.license"] == "CC0-1.0"
    assert metadata["modelspec.title"] == "Balls"
    assert metadata["modelspec.resolution"] == "48x32"
    assert json.loads(metadata["diffusion_perception.training"]) == {"step": 2}
    recipe = open_checkpoint(tmp_path / "last.safetensors").recipe
    assert (recipe.axes, recipe.data, recipe.licence) == (("right", "up", "back"), "balls", "CC0-1.0")
    assert recipe.resolution == 48


def test_the_best_weights_and_the_last_are_kept(root, tmp_path):
    run = finished(
        root, tmp_path, steps=4, validate_every=1, validation=[{"root": str(root / "val")}], optimiser={"lr": 1e-2}
    )
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    scores = {row["step"]: row["validation"]["score"] for row in rows if "validation" in row}
    assert sorted(scores) == [1, 2, 3, 4]
    notes = json.loads(read_metadata(tmp_path / "best.safetensors")["diffusion_perception.training"])
    assert scores[notes["step"]] == min(scores.values()) == run.progress["best"]
    assert json.loads(read_metadata(tmp_path / "last.safetensors")["diffusion_perception.training"]) == {"step": 4}


def test_what_the_base_can_do_is_measured_before_the_first_step_once(root, tmp_path):
    held_out = [{"root": str(root / "val")}]
    asked = {"validate_first": True, "validation": held_out, "optimiser": {"lr": 1e-2}}
    untouched = prepare(runs.config(root, out=str(tmp_path / "other"), **asked)).evaluator.measure(0, True)
    for steps in (2, 3):
        finished(root, tmp_path / "run", steps=steps, **asked)
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    found = [(row["step"], row["validation"]["score"]) for row in rows if "validation" in row]
    assert [step for step, _ in found] == [0, 2, 3]
    assert found[0][1] == pytest.approx(untouched["score"], rel=1e-6)


def test_a_run_of_half_precision_measures_in_single_precision(root, tmp_path, monkeypatch, own_precision):
    halved = []

    def spy(*about):
        halved.append(torch.is_autocast_enabled("cpu"))
        return row.prepare(*about)

    row = TASK_DATA["depth"]
    monkeypatch.setitem(TASK_DATA, "depth", replace(row, prepare=spy))
    run = prepare(runs.config(root, out=str(tmp_path), precision="bf16", validation=[{"root": str(root / "val")}]))
    run.learner.register_forward_hook(lambda *_: halved.append(not torch.is_autocast_enabled("cpu")))
    run.evaluator.measure(0, True)
    assert len(halved) > 2
    assert not any(halved)


def test_validation_measures_every_task_and_paints_samples(root, tmp_path):
    tasks = ["depth", "disparity", "normal", "mask", "matte", "segmentation", "albedo", "shading"]
    finished(root, tmp_path, tasks=tasks, validation=[{"root": str(root / "val")}], samples=1)
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["validation"]
    expected = {"depth/abs-rel", "disparity/abs-rel", "normal/mean-angle", "mask/max-f", "matte/mad"}
    assert expected | {"segmentation/miou", "albedo/mse", "shading/mse"} <= set(row)
    assert {f"{task}_0_0000002.png" for task in tasks} == {path.name for path in (tmp_path / "samples").iterdir()}


def test_half_precision_files_are_half_the_size(root, tmp_path):
    finished(root, tmp_path, save_precision="fp16")
    tensors = load_file(tmp_path / "last.safetensors")
    assert {tensor.dtype for name, tensor in tensors.items() if name.startswith(("unet.", "vae."))} == {torch.float16}


def test_the_log_tells_each_tasks_loss(root, tmp_path):
    finished(root, tmp_path, tasks=["depth", "mask"], steps=4)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert {task for row in rows for task in row["loss"]} == {"depth", "mask"}


# What learns


def test_a_frozen_unet_under_a_head_does_not_move(root, tmp_path):
    network = {"unet": "frozen", "head": "dpt_head_identity", "head_width": 16}
    run = prepare(runs.config(root, out=str(tmp_path), network=network, objective={"loss": "pixel"}))
    before = {name: weight.clone() for name, weight in run.learner.unet.state_dict().items()}
    fit(run)
    assert same(before, run.learner.unet.state_dict())
    assert all(name.startswith("head.") for name in run.learner.learning())
    assert open_checkpoint(tmp_path / "last.safetensors").head is not None


def test_a_head_and_its_features_predict_from_the_file_what_they_did_in_training(root, tmp_path):
    network, recipe = {"head": "dpt_head_identity", "head_width": 16}, {"codec": "min-max"}
    run = finished(root, tmp_path, network=network, objective={"loss": "pixel"}, recipe=recipe)
    loaded = host.load_perceiver(open_checkpoint(tmp_path / "last.safetensors"))
    image = tiny.picture(64, 64)
    with torch.no_grad():
        live = predict(run.learner.eval().perceiver("depth"), image).values
        assert (live - predict(loaded, image).values).abs().max() < 1e-5


def test_only_contexts_learn_where_everything_else_is_frozen(root, tmp_path):
    run = prepare(runs.config(root, out=str(tmp_path), network={"unet": "frozen", "learn_context": "yes"}))
    assert list(run.learner.learning()) == ["contexts"]
    before = run.learner.contexts.detach().clone()
    fit(run)
    assert not torch.equal(before, run.learner.contexts)


def test_a_trained_decoder_travels_in_the_file_and_its_encoder_stays(root, tmp_path):
    settings = {"network": {"decoder": True}, "objective": {"loss": "both"}}
    finished(root, tmp_path, **settings)
    before = load_file(root / "vae" / "diffusion_pytorch_model.safetensors")
    after = {
        name[4:]: weight for name, weight in load_file(tmp_path / "last.safetensors").items() if name[:4] == "vae."
    }
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"decoder", "post_quant_conv"}


def test_the_moving_average_is_what_is_saved(root, tmp_path):
    run = finished(root, tmp_path, steps=3, optimiser={"ema": 0.5, "lr": 1e-2})
    tensors = load_file(tmp_path / "last.safetensors")
    name = "conv_in.weight"
    assert torch.equal(tensors[f"unet.{name}"], run.average.weights[f"unet.{name}"])
    assert not torch.equal(tensors[f"unet.{name}"], run.learner.unet.conv_in.weight)


def test_gradient_checkpointing_changes_nothing_but_memory(root, tmp_path):
    runs_of = [
        finished(root, tmp_path / str(flag), network={"checkpointing": flag}, objective={"loss": "both"}, size=[64, 64])
        for flag in (False, True)
    ]
    gaps = [(a - b).abs().max() for a, b in zip(*(weights(run).values() for run in runs_of), strict=True)]
    assert max(gaps) < 1e-5


def test_latents_from_disk_are_those_of_the_encoder(root, tmp_path):
    run = prepare(runs.config(root, out=str(tmp_path), tasks=["depth", "mask"], cache_latents=True, steps=8))
    for number in (0, 1, 2, 3):
        batch = run.data[number]
        for purpose, picture in (("image", batch.image), ("target", batch.target)):
            new, kept = (run.learner.encode(picture, batch, purpose) for _ in range(2))
            assert torch.equal(new, kept)
            assert (new - run.learner.encode_anew(picture, batch, purpose)).abs().max() < 1e-4
    assert len(list((tmp_path / "latents").rglob("*.npy"))) <= 2 * 8 * 3


def test_latents_of_pictures_that_change_cannot_be_kept(root, tmp_path):
    with pytest.raises(ConfigError, match="leave only flip"):
        prepare(runs.config(root, out=str(tmp_path), cache_latents=True, augment={"least_crop": 0.5}))


# How runs go on


def test_a_run_goes_on_from_its_last_state_in_every_part_of_it(root, tmp_path):
    settings = {"tasks": ["depth", "mask"], "optimiser": {"lr": 1e-3, "ema": 0.9}, "save_every": 1}
    whole = finished(root, tmp_path / "whole", steps=4, **settings)
    state = tmp_path / "part" / "state.pt"
    first = prepare(runs.config(root, out=str(tmp_path / "part"), steps=4, **settings))
    stop_after(first, 2)
    assert torch.load(state, weights_only=True)["step"] == 2
    second = finished(root, tmp_path / "part", steps=4, **settings)
    assert second.first_step == 2
    assert same(weights(whole), weights(second))
    assert same(whole.average.weights, second.average.weights)


class Stopped(Exception):
    """Stands in for a kill."""


def stop_after(run, steps):
    """Leave a run between two steps."""
    write = run.journal.write

    def stopping(accelerator, done, rate, broken):
        write(accelerator, done, rate, broken)
        if done == steps + 1:
            raise Stopped

    run.journal.write = stopping
    with pytest.raises(Stopped):
        fit(run)


def test_a_run_with_other_settings_is_not_gone_on_with(root, tmp_path):
    finished(root, tmp_path)
    with pytest.raises(ConfigError, match=r"other settings \(lr = 0\.002\).*resume = false"):
        prepare(runs.config(root, out=str(tmp_path), optimiser={"lr": 2e-3}))
    assert prepare(runs.config(root, out=str(tmp_path), optimiser={"lr": 2e-3}, resume=False)).first_step == 0


def test_a_finished_run_that_is_started_again_trains_nothing_more(root, tmp_path):
    once, twice = finished(root, tmp_path), finished(root, tmp_path)
    assert twice.first_step == 2
    assert same(weights(once), weights(twice))


def test_how_often_is_saved_may_change_between_the_parts_of_a_run(root, tmp_path):
    finished(root, tmp_path)
    assert prepare(runs.config(root, out=str(tmp_path), save_every=7, workers=1)).first_step == 2


def test_a_run_may_be_made_longer_where_its_rates_do_not_depend_on_that(root, tmp_path):
    finished(root, tmp_path / "constant")
    assert finished(root, tmp_path / "constant", steps=4).first_step == 2
    finished(root, tmp_path / "cosine", optimiser={"schedule": "cosine"})
    with pytest.raises(ConfigError, match=r"other settings \(steps = 4\)"):
        prepare(runs.config(root, out=str(tmp_path / "cosine"), steps=4, optimiser={"schedule": "cosine"}))


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(root, tmp_path):
    run = prepare(runs.config(root, out=str(tmp_path), steps=3, save_every=1, log_every=100))
    with torch.no_grad():
        run.learner.unet.conv_out.weight.fill_(torch.inf)
    with pytest.raises(Diverged, match=r"The loss of depth is nan at step 1: lower optimiser\.lr"):
        fit(run)
    assert not (tmp_path / "state.pt").exists()


# Input that cannot be used


def refused(root, tmp_path, capsys, **settings):
    """Train by the command line; what it says in one line, with exit code 2."""
    file = tmp_path / "config.toml"
    file.write_text(to_toml(runs.config(root, **{"out": str(tmp_path / "run"), **settings})))
    assert main(["train", str(file)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diffusion-perception:")]
    assert len(said) == 1
    return said[0]


def test_a_task_without_data_is_named(root, tmp_path, capsys):
    assert "There is no [[data]] to learn depth from" in refused(root, tmp_path, capsys, data=[])


def test_a_folder_without_the_tasks_truth_says_what_it_holds(root, tmp_path, capsys):
    runs.write_balls(tmp_path / "bare", 2)
    for file in (tmp_path / "bare" / "mask").iterdir():
        file.unlink()
    (tmp_path / "bare" / "mask").rmdir()
    said = refused(root, tmp_path, capsys, tasks=["mask"], data=[{"root": str(tmp_path / "bare")}])
    assert "has no mask/" in said


def test_a_folder_that_is_mostly_broken_is_refused(root, tmp_path, capsys):
    runs.write_balls(tmp_path / "bad", 4)
    for file in sorted((tmp_path / "bad" / "depth").iterdir())[:3]:
        file.unlink()
    assert "3 of 4 records are broken" in refused(root, tmp_path, capsys, data=[{"root": str(tmp_path / "bad")}])


def no_pair(root):
    for file in (root / "depth").iterdir():
        file.unlink()


def empty_pictures(root):
    for file in (root / "images").iterdir():
        file.write_bytes(b"")


def no_depth(root):
    for file in (root / "depth").iterdir():
        np.save(file, np.zeros((32, 32), np.float32))


def other_size(root):
    for file in (root / "depth").iterdir():
        np.save(file, np.ones((32, 48), np.float32))


SPOILT = {
    no_pair: "",
    empty_pictures: ".png is empty",
    no_depth: "no pixel of its truth is valid (all zero, NaN, or out of range)",
    other_size: "the picture is 32x32, but its truth 48x32",
}


@pytest.mark.parametrize(("spoil", "sentence"), SPOILT.items(), ids=[spoil.__name__ for spoil in SPOILT])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_spoilt_all_over_ends_the_command_in_one_line(root, tmp_path, capsys, spoil, sentence, workers):
    bad = runs.write_balls(tmp_path / "bad", 3)
    spoil(bad)
    assert sentence in refused(root, tmp_path, capsys, data=[{"root": str(bad)}], workers=workers)


def test_a_misspelt_key_ends_the_command_in_one_line(tmp_path, capsys):
    (tmp_path / "config.toml").write_text('tasks = ["depth"]\n[optimiser]\nweight_decy = 1\n')
    assert main(["train", str(tmp_path / "config.toml")]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("There is no key 'optimiser.weight_decy': did you mean 'optimiser.weight_decay'?")


def test_single_broken_records_are_named_skipped_and_counted(root, tmp_path, caplog):
    bad = runs.write_balls(tmp_path / "bad", 12)
    (bad / "depth" / "000.npy").unlink()
    (bad / "images" / "001.png").write_bytes(b"")
    np.save(bad / "depth" / "002.npy", np.zeros((32, 32), np.float32))
    np.save(bad / "depth" / "003.npy", np.ones((32, 48), np.float32))
    finished(root, tmp_path / "run", data=[{"root": str(bad)}], steps=8)
    named = [record.getMessage() for record in caplog.records]
    for part in ("000", "001.png is empty", "002: no pixel of its truth is valid", "003: the picture is 32x32"):
        assert any(part in sentence for sentence in named), part
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["broken"] == 2
    assert "balls: 10 records read, 2 skipped" in named


def test_a_base_that_is_no_unet_is_refused(root, tmp_path, capsys):
    save_file({"weight": torch.zeros(2)}, tmp_path / "style.safetensors")
    base = {"architecture": "", "path": str(tmp_path / "style.safetensors")}
    assert "expected the weights of a Stable Diffusion UNet" in refused(root, tmp_path, capsys, base=base)


def test_a_missing_base_is_refused(root, tmp_path, capsys):
    base = {"architecture": "", "path": str(tmp_path / "none.safetensors")}
    assert "There is no file" in refused(root, tmp_path, capsys, base=base)


IMPOSSIBLE = {
    "no task": ({"tasks": []}, "Nothing says what to learn"),
    "tasks that share one context": (
        {"tasks": ["depth", "mask"], "network": {"learn_context": "no"}},
        "told apart by learnt contexts",
    ),
    "a head for two tasks": (
        {"tasks": ["depth", "mask"], "network": {"head": "dpt_head"}, "objective": {"loss": "pixel"}},
        "A head is made for one task",
    ),
    "a head between latents": ({"network": {"head": "dpt_head"}}, "A head makes pictures, no latents"),
    "a decoder between latents": ({"network": {"decoder": True}}, "The decoder learns from pictures only"),
    "nothing that learns": ({"network": {"unet": "frozen"}}, "Nothing would learn"),
    "x-prediction without signal": ({"recipe": {"prediction_type": "epsilon"}}, "says nothing of a target"),
    "a misspelt recipe field": ({"recipe": {"paradigma": "one-step"}}, "did you mean 'recipe.paradigm'"),
    "a recipe field of another type": ({"recipe": {"steps": "four"}}, "recipe.steps = 'four': expected a whole number"),
    "axes that are no axes": ({"recipe": {"axes": ["left", "up"]}}, "recipe.axes = ['left', 'up']: expected 3 values"),
    "a recipe that cannot be": ({"recipe": {"timestep": 1000}}, "timestep=1000 is outside"),
    "a misspelt augmentation": ({"augment": {"flipp": 0.5}}, "did you mean 'augment.flip'"),
    "a misspelt target option": ({"target": {"spam": "unit"}}, "did you mean 'target.span'"),
    "a misspelt reader": ({"data": [{"root": "x", "reader": "hypersym"}]}, "did you mean 'hypersim'"),
    "a misspelt loss": (
        {"objective": {"loss": "pixel", "pixel_losses": {"depth": ["sssi"]}}},
        "did you mean 'ssi'",
    ),
    "a loss factor that is no number": (
        {"objective": {"loss": "pixel", "pixel_losses": {"depth": ["ssi:much"]}}},
        "is not NAME or NAME:FACTOR",
    ),
    "a loss that lacks its input": (
        {"objective": {"loss": "pixel", "pixel_losses": {"depth": ["vnl"]}}},
        "got no intrinsics",
    ),
    "class scores": ({"objective": {"loss": "pixel", "pixel_losses": {"depth": ["cross-entropy"]}}}, "class scores"),
    "half weights in a full pass": ({"network": {"frozen_precision": "fp16"}}, 'needs precision = "fp16"'),
    "fp16 without a GPU": ({"precision": "fp16"}, 'precision = "fp16" needs a GPU'),
    "more tokens than there are": ({"network": {"tokens": 78}}, "tokens = 78 is outside"),
}


@pytest.mark.parametrize(("settings", "sentence"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_cannot_be_trained_is_refused_in_one_sentence(root, tmp_path, settings, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as refusal:
        train(runs.config(root, out=str(tmp_path), **settings))
    assert "\n" not in str(refusal.value)


def test_a_launch_that_splits_weights_is_refused_in_one_line(root, tmp_path, capsys, monkeypatch):
    """accelerate takes up FSDP and DeepSpeed on GPUs only, so that one of the launches that work stands in for them."""
    monkeypatch.setattr("diffusion_perception.trainer.train.COPIES", ())
    assert "NO splits weights among processes, which this trainer does not" in refused(root, tmp_path, capsys)


def test_bitsandbytes_is_asked_for_where_it_is_missing(root, tmp_path):
    pytest.importorskip("torch")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="needs the package bitsandbytes"):
            prepare(runs.config(root, out=str(tmp_path), optimiser={"name": "adamw8bit"}))


def test_workers_read_what_the_training_process_would_have_read(root, tmp_path):
    settings = {"tasks": ["depth", "mask"], "steps": 3}
    none, two = (finished(root, tmp_path / str(n), workers=n, **settings) for n in (0, 2))
    assert same(weights(none), weights(two))


def test_the_folder_of_a_run_can_be_read_by_others(root, tmp_path):
    finished(root, tmp_path)
    assert Path(tmp_path / "last.safetensors").stat().st_mode & 0o044 == 0o044
