"""Objective: what a network is asked of a batch, what its losses sum up to, and the weights to divide those sums by.

question = ask(image, sample, timesteps, seeds, recipe, settings)
sums = totals(answers, batch, terms)              # the model's answers; runs/perception.py
(sums * coefficients).sum().backward()            # coefficients from weights(batch, terms); loop.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..core.diffusion import PARADIGMS, Question, alpha_bars
from ..core.measure.losses import LOSSES, Loss, valid_cells, widest_on
from ..core.recipe import Recipe
from ..core.tasks import task_named
from .config import Config, ConfigError, check_known
from .config import Objective as Settings
from .data.batches import Batch
from .learner import Counted
from .noise import draw_noise


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
    return [_picture_term(text, task) for text in ([listed] if isinstance(listed, str) else listed)]


def _picture_term(text: str, task: str) -> Term:
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


# What is asked, and what is made of the answers


def weights(batch: Batch, terms: Sequence[Term]) -> Counted:
    """Known before anything is predicted."""
    counted = [_term_weight(batch, term) for term in terms]
    factors = [torch.full_like(part, term.factor, dtype=widest_on(part.device)) for part, term in zip(counted, terms)]
    return Counted(torch.cat(counted), torch.cat(factors))


def _term_weight(batch: Batch, term: Term) -> Tensor:
    if term.space == "latent":
        cells = valid_cells(batch.valid)
        return term.loss.weight(cells.new_zeros((len(batch), 4, *cells.shape[-2:]), dtype=torch.float32), cells)
    return term.loss.weight(_in_space(true_picture(batch), term), batch.valid, **extras(batch))


def totals(answers: Mapping[str, Answer], batch: Batch, terms: Sequence[Term]) -> Tensor:
    """What each entry of each loss sums up to, differentiable: (N,).

    answers: by where they lie, `latent` or `picture`; those that the terms compare.
    """
    parts = []
    for term in terms:
        found = answers["latent" if term.space == "latent" else "picture"]
        prediction, target = (_in_space(values, term) for values in found)
        valid = valid_cells(batch.valid) if term.space == "latent" else batch.valid
        parts.append(term.loss(prediction, target, valid, **extras(batch)).total)
    return torch.cat(parts)


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


def _in_space(values: Tensor, term: Term) -> Tensor:
    return (values + 1) / 2 if term.space == "value" else values


def extras(batch: Batch) -> dict[str, Any]:
    """What some losses need beside prediction, target and valid."""
    return {"intrinsics": batch.intrinsics, "seeds": batch.seeds}


def check_objective(config: Config, recipes: Mapping[str, Recipe]) -> None:
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
        _check_scores(recipe, terms_of(recipe, settings))
        traceless = settings.loss != "latent" or not PARADIGMS[recipe.paradigm].shows_target
        if recipe.prediction_type == "epsilon" and traceless:
            raise ConfigError(
                'recipe.prediction_type = "epsilon" says nothing of a target that left no trace: take it with '
                'objective.loss = "latent" and a paradigm of several steps, or predict "v_prediction" or "sample".'
            )


def _check_scores(recipe: Recipe, terms: Sequence[Term]) -> None:
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
