"""Light halves: a small decoder or encoder distilled from the VAE, for the pictures of one task."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.backbone import Context
from ...core.checkpoints.adapters import Adapter
from ...core.checkpoints.assemble import text_context
from ...core.checkpoints.checkpoint import Checkpoint, UnsuitedError, open_all
from ...core.checkpoints.networks import open_networks
from ...core.checkpoints.own_file import write_own
from ...core.checkpoints.tensors import DTYPES, shown
from ...core.checkpoints.tiny_vae_file import Held, latents_note
from ...core.codecs import reduce_channels
from ...core.generations import CUSTOM, LATENT
from ...core.halves import with_light
from ...core.image import CELL, Fit
from ...core.measure.losses import LOSSES, at_least_float32, widest_on
from ...core.multitask import Answered
from ...core.perception_map import PerceptionMap
from ...core.pipeline import Gathered, Noise, Perceiver, denoise, initial_noise, perceive
from ...core.recipe import Recipe
from ...core.tiny_vae import Role, untrained
from .. import base
from ..config import Config, ConfigError
from ..config import Distillation as Settings
from ..data.batches import Batch, Feed
from ..data.records import Sample
from ..host import Diffusers, DiffusersAutoencoder, load_perceiver, named_context
from ..latents import Latents
from ..learner import Counted
from ..model_choice import ModelChoice
from ..noise import source
from .validate import Validator
from .written import NOTES, narrowed

NO_CONTEXT = Context(torch.zeros(1, 1, 1))
ROLES: dict[str, Role] = {"decoder": "decoder", "encoder": "encoder"}
"""What config.learn calls them."""


@dataclass(frozen=True)
class Teacher:
    """The VAE that is imitated, and whoever uses it."""

    autoencoder: DiffusersAutoencoder
    perceivers: Mapping[str, Perceiver]
    """{recipe id: predictor whose VAE it is}; empty where there is only the VAE."""
    base: str = CUSTOM
    """Whose latents they are where there is only the VAE."""

    def predict(self, image: Tensor, task: str) -> Tensor:
        """Image latents -> the target's latents as the task's predictor gives them; gradients flow through."""
        perceiver = self.perceivers[task]
        alone = replace(perceiver.recipe, ensemble_size=1)
        return denoise(replace(perceiver, recipe=alone), image, initial_noise(image, alone, Noise()))


def open_teacher(config: Config, device: str) -> Teacher:
    """The checkpoint at base.path with its VAE, or the one that is named; else a VAE alone. CheckpointError."""
    opened = checkpoints(config)
    if not opened:
        start = open_networks(Path(config.base.path)) if config.base.path else None
        vae, shape = base.vae_of(config.base, start)
        return Teacher(DiffusersAutoencoder(base.load_vae(vae, shape).to(device)), {}, shape.base)
    perceivers: dict[str, Perceiver] = {}
    first: tuple[Checkpoint, Perceiver] | None = None
    for checkpoint, adapter in opened:
        named = config.base.context
        context = named_context(named, checkpoint.architecture) if named else None
        if adapter is None and first is not None and first[0].unet == checkpoint.unet:
            text = context or text_context(checkpoint, Diffusers(device))
            perceiver = replace(first[1], recipe=checkpoint.recipe, context=text)
        else:
            perceiver = load_perceiver(checkpoint, adapter, device, context=context)
            first = first or ((checkpoint, perceiver) if adapter is None else None)
        if perceiver.head is not None and config.learn == "decoder":
            raise ConfigError(
                f"{checkpoint.recipe.id} is decoded by a head, not by the VAE: there is nothing to learn."
            )
        perceivers[checkpoint.recipe.id] = perceiver
    autoencoder = next(iter(perceivers.values())).autoencoder
    assert isinstance(autoencoder, DiffusersAutoencoder)
    return Teacher(autoencoder, perceivers)


def checkpoints(config: Config) -> list[tuple[Checkpoint, Adapter | None]]:
    """What base.path and light.adapter make, for each task; nothing where that is Stable Diffusion as it generates.

    ConfigError if it is a predictor, but not of every task.
    """
    if not config.base.path:
        return []
    path, adapter = Path(config.base.path), config.light.adapter
    found: list[tuple[Checkpoint, Adapter | None]] = []
    for task in config.tasks:
        try:
            checkpoint, beside = _teacher_choice(path, adapter, task).open()
        except UnsuitedError:
            held = _recipes_in(path)
            if held:
                raise ConfigError(
                    f"{shown(path)} is for {', '.join(held)}, not for {task}: set tasks to what it predicts, or "
                    "base.path to a model of all of them."
                ) from None
            return []
        if config.base.vae:
            vae, shape = base.open_vae(Path(config.base.vae))
            checkpoint = replace(checkpoint, vae=vae, vae_architecture=shape)
        found.append((checkpoint, beside))
    return found


def _teacher_choice(path: Path, adapter: str, task: str) -> ModelChoice:
    """A predictor, or Stable Diffusion with an adapter that makes it one."""
    return ModelChoice(base=path, adapter=Path(adapter), task=task) if adapter else ModelChoice(path, task=task)


def _recipes_in(path: Path) -> list[str]:
    """The ids of a checkpoint's recipes; none of a model that generates."""
    try:
        return sorted({checkpoint.recipe.id for checkpoint in open_all(path)})
    except UnsuitedError:
        return []


def with_recipes(config: Config, teacher: Teacher) -> Config:
    """The config for datasets: targets are those that the checkpoint's recipes say."""
    recipes = [perceiver.recipe for perceiver in teacher.perceivers.values()]
    tables = {recipe.row.name: asdict(recipe) for recipe in recipes}
    single = replace(config.network, learn_context="no", head="")
    return replace(config, recipe={"base": teacher.base, **config.recipe, **tables}, network=single)


# What learns


class LightHalfModel(nn.Module):
    """A light half of a VAE that learns; called with a batch it gives what its losses sum up to."""

    def __init__(
        self,
        light: nn.Module,
        teacher: Teacher,
        role: Role,
        recipes: Mapping[str, Recipe],
        settings: Settings,
        precision: torch.dtype = torch.float32,
    ) -> None:
        """precision: in which it is taught."""
        super().__init__()
        # convolutions in half precision are several times faster so, also on a CPU
        self.light = light.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.role: Role = role
        self.recipes, self.settings = dict(recipes), settings
        self.tasks = tuple(recipes)
        self.teacher, self.precision = teacher, precision
        self.latents: Latents | None = None
        """Where latents are kept, if they are."""
        self.channels = max(recipe.channels for recipe in recipes.values())
        self.full = False
        """Whether perceiver() leaves the light half out."""

    @property
    def dtype(self) -> torch.dtype:
        return next(self.light.parameters()).dtype

    def learning(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def forward(self, batch: Batch) -> Tensor:
        with self.teaching(batch):
            given, wanted = LESSONS[self.role](self, batch)
        made = at_least_float32(self.light(given.to(self.dtype)))
        everywhere = torch.ones_like(wanted[:, :1], dtype=torch.bool)
        totals = [LOSSES[name](made, wanted.to(made), everywhere).total for name in ("l1", "gradient")]
        return torch.cat([*totals, *self.outcome(made, wanted, batch)])

    def outcome(self, made: Tensor, wanted: Tensor, batch: Batch) -> Iterator[Tensor]:
        """How far what the predictor makes of an encoder's latents is from what it makes of the full ones."""
        if not self.sees_outcome(batch):
            return
        with self.teaching(batch):
            expected = self.teacher.predict(wanted, batch.task)
        with torch.autocast(made.device.type, enabled=False):
            yield (self.teacher.predict(made.float(), batch.task) - expected).abs().sum()[None].to(made)

    def sees_outcome(self, batch: Batch) -> bool:
        return self.role == "encoder" and self.settings.outcome > 0 and batch.task in self.teacher.perceivers

    def weights(self, batch: Batch) -> Counted:
        """What those sums are to be divided by."""
        count, height, width = len(batch), *batch.image.shape[-2:]
        cells = (height // CELL, width // CELL)
        shape = {"encoder": (LATENT, *cells), "decoder": (self.channels, cells[0] * CELL, cells[1] * CELL)}[self.role]
        like = batch.image.new_zeros((count, *shape))
        everywhere = torch.ones_like(like[:, :1], dtype=torch.bool)
        counted = [LOSSES[name].weight(like, everywhere) for name in ("l1", "gradient")]
        factors = [self.settings.light_l1, self.settings.light_gradient]
        if self.sees_outcome(batch):
            counted.append(torch.tensor([like.numel()], device=like.device))
            factors.append(self.settings.outcome)
        parts = [torch.full_like(part, factor, dtype=widest_on(part.device)) for part, factor in zip(counted, factors)]
        return Counted(torch.cat(counted), torch.cat(parts))

    def perceiver(self, task: str) -> Perceiver:
        """The task's predictor with the light half in it; where there is none, one that waits for its answers."""
        nobody: Any = Answered(torch.empty(0), LATENT)
        silent = Perceiver(self.recipes[task], nobody, NO_CONTEXT, self.teacher.autoencoder)
        whole = self.teacher.perceivers.get(task, silent)
        if self.full:
            return whole
        halves = {"encoder": (self.light, None), "decoder": (None, self.light)}
        return with_light(whole, *halves[self.role])

    @contextmanager
    def teaching(self, batch: Batch) -> Iterator[None]:
        """Whoever teaches does so in a precision of its own and learns nothing."""
        half = self.precision != torch.float32
        with torch.no_grad(), torch.autocast(batch.image.device.type, self.precision if half else None, enabled=half):
            yield

    def encode(self, batch: Batch, purpose: str, chosen: list[int] | None = None) -> Tensor:
        """Latents of the images or targets of a batch, of those that are chosen."""
        rows = list(range(len(batch))) if chosen is None else chosen
        picture = getattr(batch, purpose)[rows].float()
        return self.remembered(picture, batch, purpose, rows, self.teacher.autoencoder.encode)

    def remembered(
        self, given: Tensor, batch: Batch, purpose: str, rows: list[int], make: Callable[[Tensor], Tensor]
    ) -> Tensor:
        if self.latents is None or not batch.marks:
            return make(given)
        names, stamps = zip(*(batch.marks[row].of(purpose, batch.task) for row in rows))
        return self.latents.encode(given, names, make, stamps)


Lesson = Callable[[LightHalfModel, Batch], tuple[Tensor, Tensor]]
"""(who learns, batch) -> what it is shown, and what the VAE's half makes of that."""


def decoding(model: LightHalfModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Latents, of which a share is what the predictor gives: it is these that a decoder will see."""
    share = model.settings.predicted if batch.task in model.teacher.perceivers else 0.0
    draws = [torch.rand((), generator=source(seed, "timestep")).item() for seed in batch.seeds.tolist()]
    guessed = [row for row, draw in enumerate(draws) if draw < share]
    known = [row for row in range(len(batch)) if row not in guessed]
    parts = [model.encode(batch, "target", known)] if known else []
    if guessed:
        parts.append(model.teacher.predict(model.encode(batch, "image", guessed), batch.task))
    latent = torch.cat(parts)
    return latent, reduce_channels(model.teacher.autoencoder.decode(latent), model.channels)


def encoding(model: LightHalfModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Photographs: no predictor is shown anything else."""
    return batch.image, model.encode(batch, "image")


LESSONS: dict[Role, Lesson] = {"decoder": decoding, "encoder": encoding}


def light_half_model(config: Config, teacher: Teacher, feeds: list[Feed]) -> LightHalfModel:
    """A light half that knows nothing yet. ConfigError where one cannot serve all tasks."""
    recipes = {feed.recipe.id: feed.recipe for feed in feeds}
    channels = {recipe.channels for recipe in recipes.values()}
    if config.learn == "decoder" and (len(channels) > 1 or not channels <= {1, 3}):
        raise ConfigError(
            f"One light decoder makes pictures of 1 channel or of 3, and {', '.join(recipes)} together need both or "
            "others: train one for each task."
        )
    settings, role = config.light, ROLES[config.learn]
    light = untrained(role, max(channels), settings.light_width, settings.light_blocks)
    model = LightHalfModel(light, teacher, role, recipes, settings, DTYPES[config.network.frozen_precision])
    model.latents = Latents.of_run(config, config.network.frozen_precision, recipes.values(), teacher.autoencoder.vae)
    return model


# How it is measured, and written


class LightHalfValidator(Validator):
    """Measures a predictor with the light half in it beside the same with the VAE's, and writes the light half.

    In single precision, as it will be run: half precision would cost more than the light half does.
    """

    model: LightHalfModel  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: Config, model: LightHalfModel, feeds: list[Feed], device: torch.device) -> None:
        # what Validator asks of the model of a perception this one answers too; files are written otherwise
        super().__init__(config, model, None, feeds, device)  # pyright: ignore[reportArgumentType]
        self.whole: dict[str, dict[str, float]] = {}
        self.costs: dict[str, str] = {}

    def metrics(self, task: str, feeds: list[Feed], done: int) -> dict[str, float]:
        if self.model.role == "encoder" and task not in self.model.teacher.perceivers:
            return {}
        if task not in self.whole:
            self.model.full = True
            try:
                self.whole[task] = super().metrics(task, feeds, done)
            finally:
                self.model.full = False
        light, whole = super().metrics(task, feeds, done), self.whole[task]
        first = self.model.recipes[task].row.metrics[0]
        if first in light:
            knows = "" if task in self.model.teacher.perceivers else ", of true latents"
            self.costs[task] = f"{first} {whole[first]:.4g} -> {light[first]:.4g}{knows}"
        return {**light, **{f"{name}-full": value for name, value in whole.items()}}

    def records(self, feeds: list[Feed]) -> Iterator[tuple[Feed, Sample]]:
        for feed, sample in super().records(feeds):
            self.feed = feed
            yield feed, sample

    def predict(self, perceiver: Perceiver, sample: Sample, resolution: int = -1) -> PerceptionMap:
        """What the predictor sees; where there is none, what its decoder would make of a perfect prediction."""
        recipe = perceiver.recipe
        if recipe.id in self.model.teacher.perceivers:
            return super().predict(perceiver, sample, resolution)
        values, _ = self.feed.supervision.normalise(sample)
        latent = self.model.teacher.autoencoder.encode(recipe.target_codec().encode(values[None].to(self.device)))
        answers = replace(recipe, paradigm="one-step", steps=1, prediction_type="sample")
        knowing = replace(perceiver, recipe=answers, backbone=Answered(latent, LATENT))
        size = (sample.image.shape[-2], sample.image.shape[-1])
        gathered = Gathered(1)
        gathered.add(perceive(knowing, latent, Fit(recipe.rule, size, size), 1, Noise(), lambda: None))
        return gathered.map(recipe)

    def write(self, name: str, notes: Mapping[str, object]) -> Path:
        """The light half in a file of its own, with the recipes that it was made for."""
        role = self.model.role
        called = self.config.light.light_name or self.model.tasks[0]
        recipes = [
            replace(recipe, **{role: called, f"{role}_cost": self.costs.get(task, "")})
            for task, recipe in self.model.recipes.items()
        ]
        weights = narrowed(self.model.light.state_dict(), DTYPES[self.config.save_precision])
        path = Path(self.config.out) / f"{name}.safetensors"
        latents = latents_note(Held.of(self.model.teacher.autoencoder.vae.state_dict()))
        write_own(path, recipes, light={role: {called: weights}}, metadata={NOTES: json.dumps(notes), **latents})
        return path
