"""Alignment: bring affine-invariant predictions to the scale of the truth, before metrics that count metres.

Each row fits prediction -> truth by least squares over valid pixels in some space (depth, disparity, its root, log
depth), goes back to depth, and clips to the data set's range. Fits run in float64 on the CPU, from moments that add
up: one alignment per image, one for a batch (`together`), or one for a whole set (`measure`, add, `solve`,
`apply`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import at_least_float32, check_shapes

SMALLEST_DEPTH = 1e-6
"""Aligned depths are never below this, metres."""
SMALLEST_DISPARITY = 1e-3
"""Aligned disparities are never below this, 1 / metres, that is no depth from disparity is beyond a kilometre."""
MAX_EDGE = 1024
"""Where published evaluations thin out the larger images of ETH3D before the fit."""

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Moments:
    """Count, means and centred second moments of prediction p and truth y, each (B,); adding them cancels nothing."""

    count: Tensor
    p: Tensor
    y: Tensor
    pp: Tensor
    """sum (p - mean p)^2."""
    py: Tensor
    """sum (p - mean p) (y - mean y)."""

    def __add__(self, other: Moments) -> Moments:
        """Of both together (Chan et al. 1983)."""
        count = self.count + other.count
        share = other.count / count.clamp(min=1)
        p_gap, y_gap = other.p - self.p, other.y - self.y
        between = self.count * share
        return Moments(
            count,
            self.p + p_gap * share,
            self.y + y_gap * share,
            self.pp + other.pp + p_gap.square() * between,
            self.py + other.py + p_gap * y_gap * between,
        )

    def together(self) -> Moments:
        """Of all images as one: (1,)."""
        parts = [Moments(*row) for row in torch.stack(list(vars(self).values())).T[:, :, None]]
        return sum(parts[1:], parts[0])


@dataclass(frozen=True)
class Fit:
    """scale * p + shift, (B,) or (1,) each, in the row's space."""

    scale: Tensor
    shift: Tensor


def _fit_affine(moments: Moments) -> Fit:
    """argmin sum (s p + t - y)^2. A constant p gives s = 0 and t = mean y; no valid pixel gives s = 1 and t = 0."""
    # what rounding leaves of the variance of a constant
    noise = moments.count * (16 * torch.finfo(torch.float64).eps * moments.p).square()
    varies = moments.pp > noise
    scale = torch.where(varies, moments.py / torch.where(varies, moments.pp, 1), 0)
    empty = moments.count == 0
    return Fit(torch.where(empty, 1, scale), torch.where(empty, 0, moments.y - scale * moments.p))


def _scale_only(moments: Moments) -> Fit:
    """argmin sum (s p - y)^2. p = 0 gives s = 0; no valid pixel gives s = 1."""
    energy = moments.pp + moments.count * moments.p.square()
    product = moments.py + moments.count * moments.p * moments.y
    scale = product / torch.where(energy > 0, energy, 1)
    return Fit(torch.where(moments.count == 0, 1, scale), torch.zeros_like(scale))


def _identity(moments: Moments) -> Fit:
    """s = 1, t = 0."""
    return Fit(torch.ones_like(moments.p), torch.zeros_like(moments.p))


def _unaligned(values: Tensor) -> Tensor:
    return values


def _anywhere(values: Tensor) -> Tensor:
    return torch.ones_like(values, dtype=torch.bool)


def _positive(values: Tensor) -> Tensor:
    return values > 0


def _from_disparity(disparity: Tensor) -> Tensor:
    return 1 / disparity.clamp(min=SMALLEST_DISPARITY)


def _from_root_disparity(root: Tensor) -> Tensor:
    # as published: a negative root, of which a fit may give some, is squared too
    return _from_disparity(root.square())


def _from_log(log_depth: Tensor) -> Tensor:
    # exp stays finite in float32
    return log_depth.clamp(max=80).exp()


@dataclass(frozen=True)
class Alignment:
    """A row of ALIGNMENTS: call it, or measure, add up, solve and apply."""

    name: str
    solve: Callable[[Moments], Fit]
    into: Map = _unaligned
    """Depth of the truth -> the space of the fit, which is the one that the prediction is affine in."""
    back: Map = _unaligned
    """That space -> depth."""
    fits_truth: Map = _anywhere
    """Where a truth takes part in the fit, besides being valid."""
    fits_prediction: Map = _anywhere
    """Where a prediction does."""

    def measure(self, prediction: Tensor, target: Tensor, valid: Tensor, max_edge: int | None = None) -> Moments:
        """What the fit needs to know of depths (B, C, H, W), target in metres, valid (B, 1, H, W) bool.

        `max_edge`: of images with a longer edge only evenly spaced columns take part, as in Marigold's and
        GenPercept's evaluation of ETH3D (MAX_EDGE), which means to shrink both sides but resizes the rows' length
        alone.
        """
        check_shapes(prediction, target, valid)
        p, y, used = _thinned(prediction, target, valid.expand_as(target), max_edge)
        used = used & self.fits_truth(y) & self.fits_prediction(p)
        p, y = p.masked_fill(~used, 0), self.into(y.masked_fill(~used, 1)).masked_fill(~used, 0)
        count = used.sum(1).double()
        p_mean, y_mean = (values.sum(1) / count.clamp(min=1) for values in (p, y))
        p_off = (p - p_mean[:, None]).masked_fill(~used, 0)
        return Moments(count, p_mean, y_mean, p_off.square().sum(1), (p_off * (y - y_mean[:, None])).sum(1))

    def apply(
        self, prediction: Tensor, fit: Fit, depth_range: tuple[float, float] = (SMALLEST_DEPTH, math.inf)
    ) -> Tensor:
        """Depth (B, C, H, W) in metres by a fit of this row, clipped to `depth_range` and then to at least 1e-6."""
        scale, shift = (term.view(-1, 1, 1, 1) for term in (fit.scale, fit.shift))
        depth = self.back(prediction.detach().cpu().double() * scale + shift)
        return depth.clamp(*depth_range).clamp(min=SMALLEST_DEPTH).to(at_least_float32(prediction))

    def __call__(
        self,
        prediction: Tensor,
        target: Tensor,
        valid: Tensor,
        depth_range: tuple[float, float] = (SMALLEST_DEPTH, math.inf),
        together: bool = False,
        max_edge: int | None = None,
    ) -> Tensor:
        """The aligned depth: one fit per image, or one for the batch."""
        moments = self.measure(prediction, target, valid, max_edge)
        return self.apply(prediction, self.solve(moments.together() if together else moments), depth_range)


def _thinned(prediction: Tensor, target: Tensor, valid: Tensor, max_edge: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """All three (B, C, H, W) -> (B, N), float64 on the CPU, columns thinned out by `max_edge` / longer edge."""
    maps = [tensor.detach().cpu().double() for tensor in (prediction, target, valid)]
    factor = 1.0 if max_edge is None else max_edge / max(target.shape[-2:])
    if factor < 1:
        # the factor instead of the size, and along rows alone: the pixels that the published evaluation picks
        maps = [F.interpolate(values.flatten(1, 2), scale_factor=factor, mode="nearest") for values in maps]
    p, y, used = (values.flatten(1) for values in maps)
    return p, y, used > 0


ALIGNMENTS: dict[str, Alignment] = {
    alignment.name: alignment
    for alignment in (
        # Marigold's and GenPercept's evaluation of depth
        Alignment("least-square", _fit_affine),
        # their evaluation of disparity models
        Alignment("least-square-disparity", _fit_affine, torch.reciprocal, _from_disparity, _positive, _positive),
        # DepthMaster's
        Alignment(
            "least-square-sqrt-disparity",
            _fit_affine,
            lambda depth: depth.rsqrt(),
            _from_root_disparity,
            _positive,
            _positive,
        ),
        Alignment("least-square-log", _fit_affine, torch.log, _from_log, _positive),
        Alignment("scale", _scale_only),
        Alignment("none", _identity),
    )
}
