"""A saved state gives everything back, belongs to its own run, and is whole or absent."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from diffusion_perception.trainer import state
from diffusion_perception.trainer.config import Config, ConfigError, Optimiser
from diffusion_perception.trainer.optimiser import Average

PLAIN = Config()


class Part:
    """A network that learns, with all that a run holds of it."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.network = nn.Linear(3, 2)
        self.learning = dict(self.network.named_parameters())
        self.optimiser = torch.optim.AdamW(self.learning.values(), lr=0.1)
        self.average = Average(self.learning, 0.5)

    def step(self, number: int) -> torch.Tensor:
        """One of training on random numbers; gives what it drew."""
        drawn = torch.randn(4, 3)
        self.network(drawn).square().sum().backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.average.update(self.learning, number)
        return drawn

    def save(self, path, config=PLAIN, step=2):
        state.save(path, config, step, self.learning, self.optimiser, self.average, {"scale": 8.0}, {"best": 0.25})

    def load(self, path, config=PLAIN):
        return state.restore(path, config, self.learning, self.optimiser, self.average)


def equal(one: Part, other: Part) -> bool:
    pairs = [(one.learning, other.learning), (one.average.weights, other.average.weights)]
    return all(torch.equal(mine[name], theirs[name]) for mine, theirs in pairs for name in mine)


def test_weights_moments_average_and_random_numbers_go_on_as_if_nothing_had_been(tmp_path):
    first = Part(0)
    for number in range(2):
        first.step(number)
    first.save(tmp_path / state.FILE)
    drawn = first.step(2)
    other = Part(1)
    assert not equal(first, other)
    content = other.load(tmp_path / state.FILE)
    assert torch.equal(other.step(2), drawn)
    assert equal(first, other)
    assert (content["step"], content["scaler"], content["progress"]) == (2, {"scale": 8.0}, {"best": 0.25})


def test_a_state_of_other_settings_is_refused_and_the_setting_is_named(tmp_path):
    Part(0).save(tmp_path / state.FILE)
    for config, said in ((Config(batch_size=3), "batch_size = 3"), (Config(optimiser=Optimiser(lr=0.5)), "lr = 0.5")):
        with pytest.raises(ConfigError, match=rf"other settings \({said}\).*resume = false"):
            Part(0).load(tmp_path / state.FILE, config)


@pytest.mark.parametrize("name", state.FREE)
def test_what_decides_nothing_that_is_learnt_may_change(tmp_path, name):
    value = getattr(Config(), name)
    other = {
        bool: lambda: not value,
        int: lambda: value + 1,
        str: lambda: {"device": "cpu"}.get(name, "fp16"),
        tuple: lambda: (),
    }
    Part(0).save(tmp_path / state.FILE)
    Part(0).load(tmp_path / state.FILE, replace(Config(), **{name: other[type(value)]()}))


def test_a_run_may_be_made_longer_unless_its_rates_end_with_it(tmp_path):
    for schedule, decay_steps, longer in (("constant", 0, True), ("cosine", 100, True), ("cosine", 0, False)):
        settings = Optimiser(schedule=schedule, decay_steps=decay_steps)
        Part(0).save(tmp_path / state.FILE, Config(steps=10, optimiser=settings))
        more = Config(steps=20, optimiser=settings)
        if longer:
            Part(0).load(tmp_path / state.FILE, more)
        else:
            with pytest.raises(ConfigError, match=r"steps = 20"):
                Part(0).load(tmp_path / state.FILE, more)


def test_a_kill_while_saving_leaves_the_state_that_was_there(tmp_path, monkeypatch):
    Part(0).save(tmp_path / state.FILE, step=1)

    def killed(content, file):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        Part(0).save(tmp_path / state.FILE, step=2)
    assert Part(1).load(tmp_path / state.FILE)["step"] == 1


def test_a_state_holds_nothing_but_tensors_and_plain_data(tmp_path):
    Part(0).save(tmp_path / state.FILE)
    assert torch.load(tmp_path / state.FILE, weights_only=True)["step"] == 2
