"""Optimiser: what moves the weights, how fast at each step, and the moving average of where they were."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .config import Config, ConfigError
from .config import Optimiser as Settings


def adam(groups: list[dict[str, Any]], settings: Settings) -> Optimizer:
    # as published the decay of plain Adam is 0; where one is asked for it goes into the gradient, as Adam has it
    return torch.optim.Adam(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps)


def adamw(groups: list[dict[str, Any]], settings: Settings) -> Optimizer:
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps)


def _adamw_8bit(groups: list[dict[str, Any]], settings: Settings) -> Optimizer:
    """Moments in 8 bits: a quarter of the memory."""
    try:
        import bitsandbytes  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            'optimiser.name = "adamw8bit" needs the package bitsandbytes: install it, or take "adamw".'
        ) from None
    return bitsandbytes.optim.AdamW8bit(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps)


OPTIMISERS: dict[str, Callable[[list[dict[str, Any]], Settings], Optimizer]] = {
    "adam": adam,
    "adamw": adamw,
    "adamw8bit": _adamw_8bit,
}
MOMENTS = {"adam": 8, "adamw": 8, "adamw8bit": 2}
"""Bytes that each keeps for a weight."""


# Learning rates: each a share of the peak, as a function of how far the decay has come (0..1)

Decay = Callable[[float, float], float]
"""(progress, last share) -> share."""

DECAYS: dict[str, Decay] = {
    "constant": lambda progress, last: 1.0,
    "linear": lambda progress, last: 1 + (last - 1) * progress,
    "cosine": lambda progress, last: last + (1 - last) * (1 + math.cos(math.pi * progress)) / 2,
    # GenPercept's and Marigold's: the last share is never below a ten-thousandth, whose logarithm exists
    "exponential": lambda progress, last: max(last, 1e-4) ** progress,
}


def share_of_peak(step: int, config: Config) -> float:
    """What the peak learning rates are multiplied by at an optimiser step, counted from 0, where warm-up gives 0.

    A function of the step alone: neither the number of processes nor accumulation has a part in it.
    """
    settings = config.optimiser
    if step < settings.warmup:
        return step / settings.warmup
    end = settings.decay_steps or config.steps
    progress = (step - settings.warmup) / max(end - settings.warmup, 1)
    return DECAYS[settings.schedule](min(progress, 1.0), settings.final_ratio)


def set_rates(optimiser: Optimizer, share: float) -> None:
    """Every group at that share of its peak."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * share


class Average:
    """Exponential moving average of the weights that learn."""

    def __init__(self, learning: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.weights = {name: weight.detach().clone() for name, weight in learning.items()} if decay else {}

    @torch.no_grad()
    def update(self, learning: Mapping[str, nn.Parameter], step: int) -> None:
        """After optimiser step `step`, counted from 0; early steps count for more, so that the start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, weight in self.weights.items():
            weight.lerp_(learning[name].detach().to(weight), 1 - decay)

    @contextmanager
    def in_place(self, learning: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """While this lasts the averages stand in the weights' place."""
        kept = {name: learning[name].detach().clone() for name in self.weights}
        fill(learning, self.weights)
        try:
            yield
        finally:
            fill(learning, kept)


@torch.no_grad()
def fill(weights: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Write values into weights of the same names."""
    for name, value in values.items():
        weights[name].copy_(value)
