"""On a device without float64, as Apple's are, everything that is perceived and measured there is what the CPU gives.

The device is no_float64's: the first test shows that it refuses what the real one refuses.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import painted
import pytest
import runs
import test_losses
import test_metrics
import tiny
import torch
from no_float64 import WithoutFloat64
from tiny_light import random_light
from torch import nn
from torch.testing import assert_close

from diffusion_perception.core.backbone import Context
from diffusion_perception.core.codecs import CODECS
from diffusion_perception.core.crops import CROPS, Box
from diffusion_perception.core.diffusion import PARADIGMS, PARAMETERISATIONS
from diffusion_perception.core.ensemble import MERGES
from diffusion_perception.core.halves import with_light
from diffusion_perception.core.heads.table import HEADS, untrained_head
from diffusion_perception.core.heatmaps import DECODINGS
from diffusion_perception.core.image import RESIZE_RULES
from diffusion_perception.core.measure.align import ALIGNMENTS
from diffusion_perception.core.measure.losses import LOSSES
from diffusion_perception.core.measure.metrics import METRICS
from diffusion_perception.core.multitask import predict_tasks
from diffusion_perception.core.pipeline import Perceiver, predict, predict_latent
from diffusion_perception.core.pose import people_of, predict_people
from diffusion_perception.core.recipe import Recipe
from diffusion_perception.core.tasks import TASKS
from diffusion_perception.trainer import host, objective
from diffusion_perception.trainer.config import Objective as Settings
from diffusion_perception.trainer.data.batches import Batch
from diffusion_perception.trainer.host import DiffusersAutoencoder, DiffusersBackbone, DiffusersHead

ALIKE = 1e-5


@pytest.fixture(autouse=True)
def device(monkeypatch):
    # a CPU's shortcuts round otherwise than the device, and what these small networks make of it is ten times ALIKE
    monkeypatch.setattr(host, "serve", lambda network, given: False)
    # not inference mode, in which operations would come whole and what they are made of would not be seen
    with torch.no_grad(), WithoutFloat64() as there:
        yield there


@cache
def moved(make, *which) -> nn.Module:
    return deepcopy(make(*which)).to("mps")


def there(recipe: Recipe, head: nn.Module | None = None, **parts) -> Perceiver:
    """Tiny networks on the device."""
    net = DiffusersBackbone(moved(tiny.unet, PARADIGMS[recipe.paradigm].channels))
    heads = {} if head is None else {"head": DiffusersHead(deepcopy(head).to("mps"))}
    return Perceiver(recipe, net, Context(tiny.context()), DiffusersAutoencoder(moved(tiny.vae)), **heads, **parts)


def here(recipe: Recipe, head: nn.Module | None = None, **parts) -> Perceiver:
    heads = {} if head is None else {"head": DiffusersHead(head)}
    return tiny.perceiver(recipe, PARADIGMS[recipe.paradigm].channels, **heads, **parts)


def check_alike(recipe: Recipe, head: nn.Module | None = None, **parts) -> None:
    """What is perceived there is what is perceived here, for the eye and as numbers on the CPU."""
    image = tiny.picture(45, 61)
    seen = predict(there(recipe, head, **parts), image.to("mps"))
    expected = predict(here(recipe, head, **parts), image)
    assert type(seen.values) is torch.Tensor
    assert_close(seen.values, expected.values, atol=ALIKE, rtol=ALIKE)
    if expected.uncertainty is not None:
        assert_close(seen.uncertainty, expected.uncertainty, atol=ALIKE, rtol=ALIKE)


# The device


REFUSED = {
    "made": lambda x: torch.zeros(2, dtype=torch.float64, device=x.device),
    "double": lambda x: x.double(),
    "to": lambda x: x.to(torch.float64),
    "sum": lambda x: x.sum(dtype=torch.float64),
    "like": lambda x: torch.zeros_like(x, dtype=torch.float64),
    "brought": lambda x: torch.from_numpy(np.zeros(3)).to(x.device),
    "brought to": lambda x: torch.zeros(3, dtype=torch.float64).to(x.device),
    "promoted": lambda x: torch.bincount(x.long().flatten(), weights=x.flatten().cpu().double().to("mps")),
}


@pytest.mark.parametrize("how", REFUSED)
def test_the_device_refuses_float64_however_it_comes(how):
    x = torch.rand(2, 3).to("mps")
    assert x.device.type == "mps"
    with pytest.raises(TypeError, match="doesn't support float64"):
        REFUSED[how](x)


def test_the_device_minds_where_things_lie():
    x = torch.rand(2, 3).to("mps")
    with pytest.raises(RuntimeError, match="same device"):
        x.add(torch.rand(2, 3))
    with pytest.raises((RuntimeError, TypeError)):
        x.numpy()
    assert type(x.cpu().double()) is torch.Tensor
    assert (torch.arange(3, device=x.device) + 1).device == x.device


# What is perceived there


@pytest.mark.parametrize("task", tiny.PICTURED)
def test_every_task(task):
    check_alike(Recipe(task, base="custom", resolution=64))


@pytest.mark.parametrize("paradigm", [name for name, row in PARADIGMS.items() if not row.one_pass])
@pytest.mark.parametrize("prediction_type", PARAMETERISATIONS)
def test_every_paradigm(paradigm, prediction_type):
    walked = {"steps": 2, "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": prediction_type}
    check_alike(Recipe("depth", base="custom", paradigm=paradigm, resolution=64, **walked))


@pytest.mark.parametrize("rule", RESIZE_RULES)
def test_every_way_of_resizing_for_one_channel_and_three(rule):
    for task in ("mask", "albedo"):
        check_alike(Recipe(task, base="custom", resolution=48, resize=rule))


@pytest.mark.parametrize("codec", [name for name in CODECS if "heatmaps" not in name])
def test_every_codec(codec):
    task = next((row.name for row in TASKS.values() if codec in (row.codec, row.head_codec)), "depth")
    task = "normal" if "vector" in codec or "sphere" in codec else task
    head = untrained_head("plain", (32, 64, 64, 64), 16, 5) if codec == "class-scores" else None
    named = {"head": "plain"} if head is not None else {}
    check_alike(Recipe(task, base="custom", resolution=64, codec=codec, target_scale=10.0, **named), head)


@pytest.mark.parametrize("merge", MERGES)
def test_every_ensemble(merge):
    task = next(row.name for row in TASKS.values() if row.merge == merge and row.per == "image")
    walked = {"steps": 1, "beta_start": 0.00085, "beta_end": 0.012, "zero_snr": True, "spacing": "trailing"}
    recipe = Recipe(task, base="custom", paradigm="stochastic", resolution=64, ensemble_size=3, **walked)
    check_alike(replace(recipe, ensemble_edge=32))


@pytest.mark.parametrize("head", [name for name in HEADS if not name.startswith("vitpose")])
def test_every_head(head):
    if "dpt" in head:
        network = tiny.dpt_head(positive=head == "dpt_head")
    else:
        network = untrained_head(head, (32, 64, 64, 64), 16, 1)
    check_alike(Recipe("depth", base="custom", resolution=64, head=head, codec="min-max"), network)


def test_guidance_light_halves_latents_and_several_tasks():
    recipe, image = Recipe("depth", base="custom", resolution=64), tiny.picture(45, 61)
    check_alike(replace(recipe, guidance_scale=2.0), negative=Context(tiny.context(7)))
    halves = [random_light("encoder"), random_light()]
    light = [with_light(here(recipe), *halves), with_light(there(recipe), *(deepcopy(h).to("mps") for h in halves))]
    expected, seen = predict(light[0], image), predict(light[1], image.to("mps"))
    assert_close(seen.values, expected.values, atol=ALIKE, rtol=ALIKE)
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = predict_latent(there(recipe), latent.to("mps"))
    assert_close(seen.values, predict_latent(here(recipe), latent).values, atol=ALIKE, rtol=ALIKE)
    both = [recipe, Recipe("normal", base="custom", resolution=64)]
    one, other = predict_tasks([there(each) for each in both], image.to("mps"))
    assert_close(one.values, predict(here(recipe), image).values, atol=ALIKE, rtol=ALIKE)
    assert_close(other.values, predict(here(both[1]), image).values, atol=ALIKE, rtol=ALIKE)


@pytest.mark.parametrize("head", [name for name in HEADS if "pose" in name])
def test_people_are_seen_there_where_they_are_here(head):
    recipe = Recipe("keypoints", base="custom", resolution=64, head=head)
    network = untrained_head(head, (32, 64, 64, 64), 16, 17).eval()
    image, boxes = tiny.picture(96, 128), [[Box(10, 10, 60, 70), Box(50, 5, 40, 80)]]
    expected = predict_people(here(recipe, network), image, boxes, flip_test=True)
    seen = predict_people(there(recipe, network), image.to("mps"), boxes, flip_test=True)
    assert_close(seen.values, expected.values, atol=1e-4, rtol=0)  # a batch of two is summed up in another order
    people_of(seen)


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("decoding", DECODINGS)
def test_keypoints_of_a_map_that_lies_there(crop, decoding):
    recipe = replace(painted.RECIPE, crop=crop, decoding=decoding)
    picture, box = painted.picture((96, 96), [Box(10, 10, 60, 80)]), Box(8, 8, 66, 84)
    seen = predict_people(painted.perceiver(recipe), picture, [[box]])
    assert seen.crops is not None
    window = seen.crops.windows[0].numpy()
    there_cut, here_cut = (CROPS[crop].cut(each, window, (64, 48)) for each in (picture[0].to("mps"), picture[0]))
    assert torch.equal(there_cut.cpu(), here_cut)
    on_device = replace(seen, values=seen.values.to("mps"))
    ((one,),), ((other,),) = people_of(seen), people_of(on_device)
    np.testing.assert_allclose(one.points, other.points)


# What is measured there


@pytest.mark.parametrize("name", METRICS)
def test_every_metric(name):
    prediction, target, valid = test_metrics.sample(name)
    given = prediction.float(), target.float(), valid
    row = METRICS[name]
    assert row(*(tensor.to("mps") for tensor in given)) == pytest.approx(row(*given), rel=1e-6)


@pytest.mark.parametrize("name", ALIGNMENTS)
@pytest.mark.parametrize("together", [False, True])
def test_every_alignment(name, together):
    prediction, target, valid = test_metrics.sample("abs-rel")
    given = prediction.float(), target.float(), valid
    expected = ALIGNMENTS[name](*given, together=together, max_edge=16)
    seen = ALIGNMENTS[name](*(tensor.to("mps") for tensor in given), together=together, max_edge=16)
    assert_close(seen.cpu(), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name):
    row = LOSSES[name]
    target, valid = test_losses.target_of(row), test_losses.unequal_masks()
    given = test_losses.prediction_of(row, target), target, valid
    extras = test_losses.extras(2)
    seen = row(*(x.to("mps") for x in given), **{key: value.to("mps") for key, value in extras.items()}).mean()
    assert_close(seen.cpu(), row(*given, **extras).mean().float(), rtol=1e-4, atol=1e-5, check_dtype=False)


def test_what_a_loss_is_divided_by_and_multiplied_with():
    picture, valid = torch.rand(1, 3, 16, 24), torch.ones(1, 1, 16, 24, dtype=torch.bool)
    terms = objective.terms_of(runs.recipe("depth"), Settings(loss="both", pixel_losses={"depth": ["mse:2"]}))
    seen, expected = (
        objective.weights(Batch("depth", *(x.to(at) for x in (picture, picture, valid, torch.tensor([0])))), terms)
        for at in ("mps", "cpu")
    )
    assert seen.weight.cpu().tolist() == expected.weight.tolist()
    assert seen.factor.cpu().tolist() == expected.factor.tolist() == [1.0, 2.0]
