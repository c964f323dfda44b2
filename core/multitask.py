"""Several tasks from one encode of the image; those on the same weights in one pass of the network."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .backbone import Backbone, Context, Features
from .diffusion import PARADIGMS, Tick
from .errors import UserError
from .halves import eye_of
from .image import CELL, Fit, fit
from .perception_map import PerceptionMap
from .pipeline import (
    Gathered,
    Noise,
    Perceiver,
    as_trained,
    by_shortcuts,
    check_image,
    check_latent,
    check_sees_latents,
    chunks,
    members,
    perceive,
    wanted_resolution,
)

Look = Callable[[Tensor, Perceiver], tuple[Tensor, Fit]]
"""(chunk of the input, a task) -> the latent that it perceives, and the way back."""


def predict_tasks(
    perceivers: list[Perceiver],
    image: Tensor,
    *,
    resolution: int = -1,
    batch_size: int = 1,
    tick: Tick = lambda: None,
) -> list[PerceptionMap]:
    """Image (B, 3, H, W) in [0, 1] -> one PerceptionMap for each perceiver, as predict() gives them one by one.

    Tasks that see the image alike share its encode. tick: called `passes_of_tasks()` times. UserError if the
    perceivers are not of one base.
    """
    check_image(image)

    def encode(chunk: Tensor, perceiver: Perceiver) -> tuple[Tensor, Fit]:
        wanted = wanted_resolution(perceiver.recipe, resolution)
        picture, fitted = fit(as_trained(chunk, perceiver.recipe), wanted, perceiver.recipe.rule)
        latent = perceiver.needs_autoencoder().encode(picture)
        tick()
        return latent, fitted

    return run(perceivers, image, encode, lambda perceiver: _sight(perceiver, resolution), batch_size, tick)


def predict_latent_tasks(
    perceivers: list[Perceiver], latent: Tensor, *, batch_size: int = 1, tick: Tick = lambda: None
) -> list[PerceptionMap]:
    """Scaled latent (B, 4, h, w) -> one PerceptionMap, values (B, 8h, 8w, C), for each perceiver."""
    check_latent(latent)
    for perceiver in perceivers:
        check_sees_latents(perceiver.recipe)
    size = (latent.shape[-2] * CELL, latent.shape[-1] * CELL)

    def as_it_is(chunk: Tensor, perceiver: Perceiver) -> tuple[Tensor, Fit]:
        return chunk.contiguous().float(), Fit(perceiver.recipe.rule, size, size)

    return run(perceivers, latent, as_it_is, lambda perceiver: perceiver.recipe.rule, batch_size, tick)


def targets_of(perceiver: Perceiver) -> list[Perceiver]:
    """A perceiver for each target that its network predicts at once, its own first; predict_tasks() takes them."""
    return [replace(perceiver, recipe=recipe) for recipe in (perceiver.recipe, *perceiver.siblings)]


def passes_of_tasks(perceivers: list[Perceiver], images: int, batch_size: int, resolution: int | None = -1) -> int:
    """How often predict_tasks() ticks; with resolution None, predict_latent_tasks()."""
    encodes = 0 if resolution is None else len({_sight(perceiver, resolution) for perceiver in perceivers})
    sizes = chunks(images, batch_size)
    jobs = [(-(-size * members(p.recipe) // batch_size), p.recipe.steps) for size in sizes for p in perceivers]
    return sum(count * (steps + 1) for count, steps in jobs) + encodes * len(sizes)


def _sight(perceiver: Perceiver, resolution: int) -> Hashable:
    """Equal for tasks that are shown the same picture through the same VAE."""
    recipe = perceiver.recipe
    return wanted_resolution(recipe, resolution), recipe.rule, recipe.input_gamma, id(eye_of(perceiver.autoencoder))


def run(
    perceivers: list[Perceiver],
    batch: Tensor,
    look: Look,
    sight_of: Callable[[Perceiver], Hashable],
    batch_size: int,
    tick: Tick,
) -> list[PerceptionMap]:
    """What each task makes of a batch, chunk by chunk; tasks that see alike one after the other."""
    _check_one_base(perceivers)
    found = {index: Gathered(len(batch)) for index in range(len(perceivers))}
    for chunk in batch.split(batch_size):
        for alike in _grouped(list(found), lambda index: sight_of(perceivers[index])):
            with by_shortcuts(*(perceivers[index].recipe for index in alike)):
                latent, fitted = look(chunk, perceivers[alike[0]])
                for same in _grouped(alike, lambda index: _pass_of(perceivers[index])):
                    for index, perceiver in zip(same, _answered([perceivers[index] for index in same], latent)):
                        found[index].add(perceive(perceiver, latent, fitted, batch_size, Noise(), tick))
    return [found[index].map(perceiver.recipe) for index, perceiver in enumerate(perceivers)]


def _grouped(indices: list[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    """Those of equal key together, in order of appearance."""
    groups: dict[Hashable, list[int]] = {}
    for index in indices:
        groups.setdefault(key(index), []).append(index)
    return list(groups.values())


def _pass_of(perceiver: Perceiver) -> Hashable:
    """Equal for tasks whose single pass can be made in one batch, and for targets that a network predicts at once."""
    recipe, context = perceiver.recipe, perceiver.context.first(perceiver.recipe.tokens)
    if recipe.targets > 1:
        return id(perceiver.backbone), recipe.run, tuple(context.tokens.flatten().tolist())
    if not PARADIGMS[recipe.paradigm].one_pass or perceiver.head is not None or recipe.guidance_scale != 1:
        return id(perceiver)
    return id(perceiver.backbone), context.tokens.shape[1:], context.vector is None


def _answered(perceivers: list[Perceiver], latent: Tensor) -> list[Perceiver]:
    """The perceivers with their pass over the latent made, all in one batch with their own contexts and timesteps.

    Where one network predicts all of them at once, the first makes its passes and the others get what these gave.
    """
    if len(perceivers) == 1:
        return perceivers
    if perceivers[0].recipe.targets > 1:
        first = Recorded(perceivers[0].backbone)
        return [replace(p, backbone=first if not i else Repeated(first, first.net)) for i, p in enumerate(perceivers)]
    batch = len(latent)
    context = perceivers[0].context.first(perceivers[0].recipe.tokens).expand(batch)
    for other in perceivers[1:]:
        context = context.cat(other.context.first(other.recipe.tokens).expand(batch))
    timesteps = [latent.new_full((batch,), perceiver.recipe.timestep) for perceiver in perceivers]
    net = perceivers[0].backbone
    outputs = net(latent.repeat(len(perceivers), 1, 1, 1), torch.cat(timesteps), context).split(batch)
    return [replace(p, backbone=Answered(output, net.in_channels, net)) for p, output in zip(perceivers, outputs)]


@dataclass(frozen=True)
class Answered:
    """A backbone whose one pass was made before, in a batch with those of other tasks."""

    output: Tensor
    in_channels: int
    net: Backbone | None = None
    """What made it."""

    def __call__(self, latent: Tensor, timestep: Tensor, context: Context) -> Tensor:
        return self.output

    def features(self, latent: Tensor, timestep: Tensor, context: Context) -> Features:
        raise NotImplementedError("only passes that predict a latent are made together")

    def modules(self) -> dict[str, nn.Module]:
        return {} if self.net is None else self.net.modules()


class Recorded:
    """A backbone that keeps what its passes give."""

    def __init__(self, net: Backbone) -> None:
        self.net, self.in_channels = net, net.in_channels
        self.given: list[Tensor] = []

    def __call__(self, latent: Tensor, timestep: Tensor, context: Context) -> Tensor:
        self.given.append(self.net(latent, timestep, context))
        return self.given[-1]

    def features(self, latent: Tensor, timestep: Tensor, context: Context) -> Features:
        return self.net.features(latent, timestep, context)

    def modules(self) -> dict[str, nn.Module]:
        return self.net.modules()


class Repeated(Recorded):
    """A backbone that gives what another one gave, pass by pass."""

    def __init__(self, first: Recorded, net: Backbone) -> None:
        super().__init__(net)
        self.first, self.count = first, 0

    def __call__(self, latent: Tensor, timestep: Tensor, context: Context) -> Tensor:
        self.count += 1
        return self.first.given[self.count - 1]


def _check_one_base(perceivers: list[Perceiver]) -> None:
    """UserError if the tasks are not of one kind of Stable Diffusion model, or there are none."""
    if not perceivers:
        raise UserError("No perception is connected: connect at least one.")
    bases = {perceiver.recipe.base: perceiver.recipe.id for perceiver in perceivers}
    if len(bases) > 1:
        held = ", ".join(f"{task} is {base}" for base, task in bases.items())
        raise UserError(f"These perceptions are of different bases ({held}): perceive them by separate nodes.")
