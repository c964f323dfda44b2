"""Several tasks from one encode answer what each answers alone."""

from __future__ import annotations

import pytest
import tiny
import torch

from diffusion_perception.core.multitask import passes_of_tasks, predict_latent_tasks, predict_tasks
from diffusion_perception.core.pipeline import predict, predict_latent
from diffusion_perception.core.recipe import Recipe


@pytest.fixture
def perceivers():
    """Three tasks on one network, the last of them at another size."""
    first = tiny.perceiver(Recipe("depth", base="custom", resolution=96))
    recipes = [
        first.recipe,
        Recipe("normal", base="custom", resolution=96),
        Recipe("mask", base="custom", resolution=128),
    ]
    return [
        type(first)(recipe, first.backbone, type(first.context)(tiny.context(seed)), first.autoencoder)
        for seed, recipe in enumerate(recipes)
    ]


class Counting:
    """What it wraps, and how often it was called."""

    def __init__(self, inner) -> None:
        self.inner, self.calls, self.in_channels = inner, 0, getattr(inner, "in_channels", 0)
        self.scaling_factor = getattr(inner, "scaling_factor", 1.0)

    def __call__(self, *arguments):
        self.calls += 1
        return self.inner(*arguments)

    def encode(self, image):
        self.calls += 1
        return self.inner.encode(image)

    def decode(self, latent):
        return self.inner.decode(latent)


def counted(perceivers):
    net, autoencoder = Counting(perceivers[0].backbone), Counting(perceivers[0].autoencoder)
    return [type(p)(p.recipe, net, p.context, autoencoder) for p in perceivers], net, autoencoder


@torch.no_grad()
def test_each_task_answers_as_it_does_alone(perceivers):
    image = torch.rand(2, 3, 80, 104, generator=torch.Generator().manual_seed(0))
    together = predict_tasks(perceivers, image)
    for perceiver, one in zip(perceivers, together):
        alone = predict(perceiver, image)
        assert one.task == alone.task
        assert (one.values - alone.values).abs().max() <= 2e-4


@torch.no_grad()
def test_tasks_that_see_alike_share_an_encode_and_a_pass(perceivers):
    perceivers, net, autoencoder = counted(perceivers)
    predict_tasks(perceivers, torch.rand(1, 3, 80, 104))
    assert autoencoder.calls == 2  # two sizes
    assert net.calls == 2


@torch.no_grad()
def test_a_latent_is_perceived_by_all_in_one_pass(perceivers):
    perceivers, net, autoencoder = counted(perceivers)
    latent = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    together = predict_latent_tasks(perceivers, latent)
    assert (net.calls, autoencoder.calls) == (1, 0)
    for perceiver, one in zip(perceivers, together):
        assert (one.values - predict_latent(perceiver, latent).values).abs().max() <= 2e-4


@torch.no_grad()
@pytest.mark.parametrize(("images", "batch_size"), [(1, 1), (3, 2)])
def test_progress_ends_where_it_was_said_to(perceivers, images, batch_size):
    ticks = []
    predict_tasks(perceivers, torch.rand(images, 3, 64, 64), batch_size=batch_size, tick=lambda: ticks.append(1))
    assert len(ticks) == passes_of_tasks(perceivers, images, batch_size)


def test_tasks_of_different_bases_are_refused(perceivers):
    other = tiny.perceiver(Recipe("depth", base="sd15"))
    with pytest.raises(ValueError, match="different bases"):
        predict_tasks([perceivers[0], other], torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="connect at least one"):
        predict_tasks([], torch.rand(1, 3, 64, 64))


class Twelve:
    """A network of eight channels from twelve, which differ from one another."""

    in_channels = 12

    def __call__(self, latent, timestep, context):
        return torch.cat([latent[:, :4] - latent[:, 4:8], latent[:, 8:] * 0.7], 1)

    def modules(self):
        return {}


@torch.no_grad()
def test_targets_that_a_network_predicts_at_once_share_their_passes():
    first = tiny.perceiver(Recipe("depth", base="custom"))
    run = {"paradigm": "stochastic", "steps": 3, "beta_start": 1e-3, "beta_end": 1e-2, "base": "custom"}
    run |= {"resolution": 64, "targets": 2, "ensemble_size": 2}
    recipes = [
        Recipe("albedo", **run, encoding="srgb"),
        Recipe("roughness", **run, target=1, channel=0),
        Recipe("metallic", **run, target=1, channel=1),
    ]
    perceivers, net, autoencoder = counted(
        [type(first)(recipe, Twelve(), first.context, first.autoencoder) for recipe in recipes]
    )
    image = torch.rand(2, 3, 64, 72, generator=torch.Generator().manual_seed(0))
    together = predict_tasks(perceivers, image, batch_size=3)
    assert net.calls == 6  # of four members of two images three and one at once, in three steps
    assert autoencoder.calls == 1
    alone = [predict(perceiver, image, batch_size=3) for perceiver in perceivers]
    assert all(torch.equal(one.values, other.values) for one, other in zip(together, alone))
    assert [one.values.shape[-1] for one in together] == [3, 1, 1]
    assert not torch.equal(together[1].values, together[2].values)
