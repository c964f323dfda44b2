"""Ensembles: several predictions of one image into one, with their disagreement.

Alignment and median follow Marigold (Ke et al. 2024, sec. 3.3 and the diffusers pipeline of its authors).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MAX_EDGE = 1024
"""Alignment is computed on maps no larger than this, unless a recipe says otherwise."""

Merge = Callable[..., tuple[Tensor, Tensor]]
"""(members, max_edge): the edge of what an alignment is computed on, 0 for MAX_EDGE."""


def merge_affine(members: Tensor, max_edge: int = 0) -> tuple[Tensor, Tensor]:
    """Affine-invariant maps (E, 1, H, W): aligned by scale and shift, median, stretched to [0, 1].

    Returns (1, 1, H, W) twice: the map, and the median absolute deviation from it.
    """
    aligned = _apply_affine(members, _solve_affine(shrink(members.float(), max_edge)))
    merged, deviation = merge_median(aligned)
    low, span = merged.min(), (merged.max() - merged.min()).clamp(min=1e-6)
    return (merged - low) / span, deviation / span


def merge_median(members: Tensor, max_edge: int = 0) -> tuple[Tensor, Tensor]:
    """(E, C, H, W) in a common scale -> the lower median and the median absolute deviation from it, averaged over C."""
    merged = members.median(0, keepdim=True).values
    deviation = (members - merged).abs().median(0, keepdim=True).values
    return merged, deviation.mean(1, keepdim=True)


def direction(members: Tensor, max_edge: int = 0) -> tuple[Tensor, Tensor]:
    """Unit vectors (E, 3, H, W): the member closest to the mean direction, and the mean angle to it over pi."""
    mean = F.normalize(members.mean(0, keepdim=True), dim=1, eps=1e-6)
    cosine = (mean * members).sum(1, keepdim=True).clamp(-1, 1)
    closest = cosine.argmax(0, keepdim=True).expand(1, members.shape[1], -1, -1)
    return members.gather(0, closest), cosine.arccos().mean(0, keepdim=True) / math.pi


MERGES: dict[str, Merge] = {"affine": merge_affine, "median": merge_median, "direction": direction}


def shrink(members: Tensor, max_edge: int = 0) -> Tensor:
    """No edge above `max_edge` (0: MAX_EDGE), by nearest neighbour."""
    height, width = members.shape[-2:]
    longest, most = max(height, width), max_edge or MAX_EDGE
    if longest <= most:
        return members
    size = (max(height * most // longest, 1), max(width * most // longest, 1))
    return F.interpolate(members, size, mode="nearest-exact")


def _solve_affine(members: Tensor) -> np.ndarray:
    """Scales then shifts (2E,) that bring the members together, by BFGS on the sum of pairwise RMSE.

    A weak pull keeps the median in [0, 1]. Single precision and two iterations are the published settings.
    """
    from scipy.optimize import minimize

    low, high = members.flatten(1).amin(1), members.flatten(1).amax(1)
    scale = 1 / (high - low).clamp(min=1e-6)
    start = torch.cat((scale, -scale * low)).cpu().numpy().astype(np.float64)

    def cost(parameters: np.ndarray) -> float:
        aligned = _apply_affine(members, parameters)
        total = 0.0
        for i, j in combinations(range(len(aligned)), 2):
            total += ((aligned[i] - aligned[j]) ** 2).mean().sqrt().item()
        merged = aligned.median(0, keepdim=True).values
        return total + 0.02 * (merged.min().abs().item() + (1 - merged.max()).abs().item())

    return minimize(cost, start, method="BFGS", tol=1e-3, options={"maxiter": 2}).x


def _apply_affine(members: Tensor, parameters: np.ndarray) -> Tensor:
    """Each member times its scale plus its shift."""
    scale, shift = (torch.from_numpy(part).to(members).view(-1, 1, 1, 1) for part in np.split(parameters, 2))
    return members * scale + shift
