"""Learning rates, moving averages, and what is said where memory is too little."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import runs
import torch
from torch import nn

from diffusion_perception.trainer.config import Config, Optimiser, read
from diffusion_perception.trainer.memory import OutOfMemory, advice, said_plainly
from diffusion_perception.trainer.optimiser import DECAYS, Average, share_of_peak
from diffusion_perception.trainer.presets import PRESETS
from diffusion_perception.trainer.runs.trainable import groups
from diffusion_perception.trainer.train import prepare


def config(**settings):
    return Config(steps=1000, optimiser=Optimiser(**settings))


def test_the_published_curve_rises_from_zero_falls_to_a_hundredth_and_stays():
    found = read(None, {"preset": "genpercept-depth"})
    shares = [share_of_peak(step, found) for step in (0, 50, 100, 12_550, 25_000, 29_999)]
    assert shares == pytest.approx([0, 0.5, 1, 0.1, 0.01, 0.01])


def test_the_curve_of_dmp_is_half_a_cosine():
    found = read(None, {"preset": "dmp-normal"})
    shares = [share_of_peak(step, found) for step in (0, 12_500, 25_000, 50_000)]
    assert shares == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, 0])


@pytest.mark.parametrize("schedule", DECAYS)
def test_every_schedule_warms_up_and_never_exceeds_its_peak(schedule):
    shares = [share_of_peak(step, config(schedule=schedule, warmup=10)) for step in range(1001)]
    assert shares[:11] == pytest.approx([step / 10 for step in range(11)])
    assert max(shares) == 1
    assert all(after <= before for before, after in pairwise(shares[10:]))


def test_decay_ends_where_it_is_told_to():
    found = config(schedule="linear", decay_steps=500, final_ratio=0.25)
    assert [share_of_peak(step, found) for step in (250, 500, 900)] == pytest.approx([0.625, 0.25, 0.25])


def test_a_moving_average_follows_and_gives_the_weights_back():
    weight = nn.Parameter(torch.zeros(3))
    average = Average({"a": weight}, 0.9)
    for step in range(200):
        weight.data += 1
        average.update({"a": weight}, step)
    assert average.weights["a"].mean().item() == pytest.approx(200 - 0.9 / 0.1, abs=1e-3)
    with average.in_place({"a": weight}):
        assert weight.mean().item() == pytest.approx(191, abs=1e-3)
    assert weight.mean().item() == 200


def test_no_moving_average_costs_nothing():
    weight = nn.Parameter(torch.ones(3))
    average = Average({"a": weight}, 0.0)
    average.update({"a": weight}, 0)
    with average.in_place({"a": weight}):
        assert torch.equal(weight, torch.ones(3))
    assert average.weights == {}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balls")
    runs.write_balls(folder / "train", 4)
    runs.write_vae(folder / "vae")
    return folder


def test_contexts_decoders_and_norms_have_their_own_rates_and_decay(root, tmp_path):
    settings = {
        "tasks": ["depth", "mask"],
        "network": {"decoder": True},
        "objective": {"loss": "both"},
        "optimiser": {"lr": 1e-3, "decoder_lr": 2e-3, "context_lr": 3e-3, "weight_decay": 0.1},
    }
    found = runs.config(root, out=str(tmp_path), **settings)
    learner = prepare(found).learner
    made = {(group["lr"], group["weight_decay"]): group["params"] for group in groups(learner, found)}
    assert set(made) == {(1e-3, 0.1), (1e-3, 0.0), (2e-3, 0.1), (2e-3, 0.0), (3e-3, 0.0)}
    assert [weight.shape for weight in made[3e-3, 0.0]] == [learner.contexts.shape]
    assert sum(len(weights) for weights in made.values()) == len(learner.learning())
    assert all(weight.ndim > 1 for weight in made[1e-3, 0.1])


# What a step takes


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "vae"])
def test_running_out_of_memory_says_what_to_lower(name):
    found = read(None, {"preset": name})
    with pytest.raises(OutOfMemory, match="^Out of memory: ") as said, said_plainly(found):
        torch.empty(1 << 60, dtype=torch.uint8)
    assert "\n" not in str(said.value)
    assert ("lower batch_size and raise accumulation by as much, or" in str(said.value)) == (found.batch_size > 1)
    assert ("network.checkpointing = true" in str(said.value)) != found.network.checkpointing


def test_what_was_lowered_already_is_not_advised_again():
    lean = read(None, {"batch_size": "1", "network.checkpointing": "true", "network.unet": "lora", "precision": "bf16"})
    assert advice(lean) == 'set network.frozen_precision = "bf16", or lower size below 512x512'


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="shapes"), said_plainly(Config()):
        raise RuntimeError("shapes do not fit")
