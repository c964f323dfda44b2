"""WHDR: how often people disagree with a reflectance about which of two points is darker (Bell et al. 2014)."""

from __future__ import annotations

import torch
from torch import Tensor

from .losses import Reduction
from .metrics import Metric, over

JUDGEMENT = 6
"""Rows of a table of judgements: see `whdr`."""


def whdr(prediction: Tensor, target: Tensor, valid: Tensor, tolerance: float = 0.1) -> Reduction:
    """Weighted human disagreement rate of reflectance (B, C, H, W), linear, per image (Bell et al. 2014), in [0, 1].

    target: (B, JUDGEMENT, N, 1), a column a judgement: row and column of two points as shares of the size, which one
    people call darker (1, 2, or 0 for neither), and how much that counts; valid: (B, 1, N, 1). One point is darker
    where the other's mean over channels is more than 1 + tolerance times its own.
    """
    numbers = []
    for reflectance, table, known in zip(prediction.detach().cpu().double(), target.cpu().double(), valid.cpu()):
        first, second, said, weight = _judged(reflectance.mean(0).clamp(min=1e-10), table[:, known[0]])
        found = torch.where(second > first * (1 + tolerance), 1, torch.where(first > second * (1 + tolerance), 2, 0))
        if weight.sum() > 0:
            numbers.append((weight * (found != said)).sum()[None] / weight.sum())
    return over(numbers)


def _judged(lightness: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lightness (H, W) at both points of judgements (JUDGEMENT, N), what people said, and its weight; each (N,)."""
    size = torch.tensor(lightness.shape)[:, None]
    places = [(table[i : i + 2] * size).long().clamp(min=0).minimum(size - 1) for i in (0, 2)]
    return lightness[tuple(places[0])], lightness[tuple(places[1])], table[4], table[5]


WHDR = Metric("whdr", "WHDR", whdr, False, 0)
"""Beside METRICS, for its truth is no map."""
