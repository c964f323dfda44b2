"""Objective: a batch -> what its losses sum up to, and the weights to divide those sums by.

coefficients = [terms.coefficients(...)]        # one all-reduce a step, see loop.py
totals = model(batch)                           # objective.totals(), inside the wrapped module
accelerator.backward((totals * coefficients).sum())
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.codecs import reduce_channels
from ..core.diffusion import PARADIGMS, TRAIN_STEPS, Question, alpha_bars, to_sample
from ..core.measure.losses import LOSSES, Loss, at_least_float32, valid_cells, widest_on
from ..core.recipe import Recipe
from ..core.tasks import task_named
from .config import Config, ConfigError, check_known
from .config import Objective as Settings
from .data.batches import Batch

if TYPE_CHECKING:
    from .runs.perception import PerceptionModel

LEVELS = 10
"""Resolutions of pyramid noise."""


@dataclass(frozen=True)
class Term:
    """One loss of a task."""

    loss: Loss
    factor: float
    space: Literal["latent", "picture", "value", "score"]
    """Latents, or what the loss compares beside them."""

    @property
    def name(self) -> str:
        return f"latent-{self.loss.name}" if self.space == "latent" else self.loss.name


def terms_of(recipe: Recipe, settings: Settings) -> list[Term]:
    """What is minimised for a task. ConfigError for a loss that does not exist."""
    row = recipe.row
    terms = []
    if settings.loss != "pixel":
        terms.append(Term(LOSSES[settings.latent_loss], 1.0, "latent"))
    if settings.loss != "latent":
        listed = settings.pixel_losses.get(row.name, recipe.target_codec().losses or row.losses)
        terms += picture_terms(listed, row.name)
    return terms


def picture_terms(listed: object, task: str) -> list[Term]:
    """Of one loss, or a list of them. ConfigError for what is neither."""
    if not isinstance(listed, str | list | tuple):
        raise ConfigError(f"objective.pixel_losses.{task} = {listed!r}: expected a list of losses.")
    return [picture_term(text, task) for text in ([listed] if isinstance(listed, str) else listed)]


def picture_term(text: str, task: str) -> Term:
    """'ssi' or 'ssi:0.25'."""
    name, colon, factor = str(text).partition(":")
    check_known(f"loss for {task}", name, LOSSES)
    loss = LOSSES[name]
    try:
        weight = float(factor) if colon else loss.factor
    except ValueError:
        raise ConfigError(f"objective.pixel_losses.{task}: {text!r} is not NAME or NAME:FACTOR.") from None
    return Term(loss, weight, loss.space)


class Answer(NamedTuple):
    """A prediction and its truth, as one kind of loss sees them."""

    prediction: Tensor
    target: Tensor


# What is drawn


def draw_timesteps(seeds: Tensor, recipe: Recipe, settings: Settings) -> Tensor:
    """(B,) int64: what the network is told of each picture."""
    fixed = {"fixed": recipe.timestep, "final": TRAIN_STEPS - 1}.get(settings.timesteps)
    if fixed is not None:
        return torch.full_like(seeds, fixed)
    return torch.cat([torch.randint(TRAIN_STEPS, (1,), generator=source(seed, "timestep")) for seed in seeds.tolist()])


def draw_noise(seeds: Tensor, timesteps: Tensor, shape: Sequence[int], settings: Settings) -> Tensor:
    """(B, 4, h, w) float32, each picture's from its own seed."""
    noises = []
    for seed, timestep in zip(seeds.tolist(), timesteps.tolist()):
        share = timestep / TRAIN_STEPS if settings.annealed else 1.0
        strength = settings.pyramid_strength * share if settings.noise == "pyramid" else 0.0
        noises.append(pyramid_noise(shape, strength, source(seed, "noise")))
    return torch.stack(noises)


PURPOSES = ("timestep", "noise", "image", "target")


def source(seed: int, purpose: str) -> torch.Generator:
    """A picture's own randomness for one purpose."""
    return torch.Generator().manual_seed((seed * len(PURPOSES) + PURPOSES.index(purpose)) % 2**63)


def pyramid_noise(shape: Sequence[int], strength: float, random: torch.Generator) -> Tensor:
    """Gaussian noise (C, h, w) with coarser noise on it, each coarser one weaker, brought back to a deviation of 1.

    Marigold's multi-resolution noise. There the deviation is that of the whole batch; here it is the picture's own, so
    that a picture's noise does not depend on what it is batched with.
    """
    noise = torch.randn(*shape, generator=random)
    if strength == 0:
        return noise
    height, width = shape[-2:]
    for level in range(LEVELS):
        ratio = 2 + 2 * torch.rand((), generator=random).item()
        height, width = max(1, int(height / ratio**level)), max(1, int(width / ratio**level))
        coarse = torch.randn(1, shape[0], height, width, generator=random)
        noise = noise + F.interpolate(coarse, tuple(shape[-2:]), mode="bilinear")[0] * strength**level
        if min(height, width) == 1:
            break
    return noise / noise.std()


# The two halves of the objective


class Counted(NamedTuple):
    """What the entries of `totals` are to be divided by and multiplied with, one entry each."""

    weight: Tensor
    """(N,) int64, what was counted."""
    factor: Tensor
    """(N,) float64, or what the device has."""


def weights(batch: Batch, terms: Sequence[Term]) -> Counted:
    """Known before anything is predicted."""
    counted = [term_weight(batch, term) for term in terms]
    factors = [torch.full_like(part, term.factor, dtype=widest_on(part.device)) for part, term in zip(counted, terms)]
    return Counted(torch.cat(counted), torch.cat(factors))


def term_weight(batch: Batch, term: Term) -> Tensor:
    if term.space == "latent":
        cells = valid_cells(batch.valid)
        return term.loss.weight(cells.new_zeros((len(batch), 4, *cells.shape[-2:]), dtype=torch.float32), cells)
    return term.loss.weight(in_space(true_picture(batch), term), batch.valid, **extras(batch))


def totals(model: PerceptionModel, batch: Batch, terms: Sequence[Term], settings: Settings) -> Tensor:
    """What each entry of each loss sums up to, differentiable: (N,)."""
    recipe = model.recipes[batch.task]
    answers = answer(model, batch, recipe, settings, {term.space for term in terms})
    parts = []
    for term in terms:
        found = answers["latent" if term.space == "latent" else "picture"]
        prediction, target = (in_space(values, term) for values in found)
        valid = valid_cells(batch.valid) if term.space == "latent" else batch.valid
        parts.append(term.loss(prediction, target, valid, **extras(batch)).total)
    return torch.cat(parts)


def answer(
    model: PerceptionModel, batch: Batch, recipe: Recipe, settings: Settings, spaces: set[str]
) -> Mapping[str, Answer]:
    """The network's answer to one question about each picture, in the spaces that are asked for."""
    timesteps = draw_timesteps(batch.seeds, recipe, settings)
    tokens = model.told(batch)
    image = model.encode(batch.image, batch, "image")
    if model.head is not None:
        prediction = model.read_head(image, timesteps, tokens, batch.target.shape[-2:])
        return {"picture": Answer(prediction, true_picture(batch))}
    needs_target = "latent" in spaces or PARADIGMS[recipe.paradigm].shows_target
    sample = model.encode(batch.target, batch, "target") if needs_target else image
    question = ask(image, sample, timesteps, batch.seeds, recipe, settings)
    output = at_least_float32(model.output(question.shown, timesteps, tokens))
    guess = to_sample(output, question.noisy, question.alpha_bar, recipe.prediction_type)
    found = {"latent": Answer(guess, sample) if question.target is None else Answer(output, question.target)}
    if spaces - {"latent"}:
        picture = reduce_channels(model.decode(guess), recipe.row.channels)
        found["picture"] = Answer(picture, true_picture(batch))
    return found


def ask(
    image: Tensor, sample: Tensor, timesteps: Tensor, seeds: Tensor, recipe: Recipe, settings: Settings
) -> Question:
    """The recipe's question about image latents whose target latents are `sample`."""
    bars = alpha_bars(recipe.beta_start, recipe.beta_end, recipe.zero_snr)[timesteps]
    noise = None
    paradigm = PARADIGMS[recipe.paradigm]
    if paradigm.draws_noise:
        noise = draw_noise(seeds, timesteps, image.shape[1:], settings).to(image)
    return paradigm.ask(image, sample, noise, bars.view(-1, 1, 1, 1).to(image), recipe)


def true_picture(batch: Batch) -> Tensor:
    """The target as losses between pictures see it: one channel for maps of one."""
    return batch.target[:, :1] if task_named(batch.task).channels == 1 else batch.target


def in_space(values: Tensor, term: Term) -> Tensor:
    return (values + 1) / 2 if term.space == "value" else values


def extras(batch: Batch) -> dict[str, Any]:
    """What some losses need beside prediction, target and valid."""
    return {"intrinsics": batch.intrinsics, "seeds": batch.seeds}


def check(config: Config, recipes: Mapping[str, Recipe]) -> None:
    """ConfigError for objectives that cannot be had."""
    settings, network = config.objective, config.network
    if network.head and settings.loss != "pixel":
        raise ConfigError('A head makes pictures, no latents: set objective.loss = "pixel".')
    if network.head and network.decoder:
        raise ConfigError("network.head stands in the decoder's place: train one of the two.")
    if network.decoder and settings.loss == "latent":
        raise ConfigError('The decoder learns from pictures only: set objective.loss to "pixel" or "both".')
    for recipe in recipes.values():
        if recipe.row.per == "person" and not network.head:
            raise ConfigError(
                f"{recipe.row.name} are as many heatmaps as the skeleton has names, which only a head makes: set "
                'network.head = "vitpose_classic".'
            )
        check_scores(recipe, terms_of(recipe, settings))
        traceless = settings.loss != "latent" or not PARADIGMS[recipe.paradigm].shows_target
        if recipe.prediction_type == "epsilon" and traceless:
            raise ConfigError(
                'recipe.prediction_type = "epsilon" says nothing of a target that left no trace: take it with '
                'objective.loss = "latent" and a paradigm of several steps, or predict "v_prediction" or "sample".'
            )


def check_scores(recipe: Recipe, terms: Sequence[Term]) -> None:
    """ConfigError where losses of class scores meet something else, or others meet class scores."""
    scored = recipe.target_codec().classes
    if scored and any(term.space != "score" for term in terms):
        names = " or ".join(loss.name for loss in LOSSES.values() if loss.space == "score")
        raise ConfigError(f"Class scores are learnt by {names} and by nothing else: leave objective.pixel_losses out.")
    for term in terms:
        if term.space == "score" and not scored:
            raise ConfigError(
                f'{term.name} compares class scores, and a UNet makes colours: set network.head = "upernet".'
            )
