"""Losses of dense maps, each as a sum and the weight to divide it by.

A loss maps prediction, target (B, C, H, W) and valid (B, 1, H, W) bool to a Reduction: what it sums and how much it
counted, one entry per term (a loss over several scales has several). Reductions of images, micro-batches and
processes add up to that of the whole batch, and a weight follows from target, valid and seeds alone. So a trainer
adds up the weights of all its micro-batches on all processes before the first backward pass (`Loss.weight`), then
back-propagates `loss(...).mean(summed)` of each, times whatever its framework divides gradients by: the gradient of
the one large batch, however unequal the valid masks are.

Finite values never give NaN (float32 up to 1e30; a square may be inf), and what lies where not valid, NaN included,
is never read. No valid pixel: 0, with a gradient of 0. float16 and bfloat16 are computed in float32, per-image fits
in float64. Values are the codec's, [-1, 1], unless a loss says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError

DEPTH_OFFSET = 2.0
"""GenPercept adds this to depths in [-1, 1] before it compares them, so that medians and z are positive."""
ANGULAR_CLAMP = 1 - 1e-4
SMALLEST_DEVIATION = 1e-6


@dataclass(frozen=True)
class Reduction:
    """A sum and its weight, one entry per term. They add up over images, micro-batches and processes."""

    total: Tensor
    """(N,) float, differentiable."""
    weight: Tensor
    """(N,) int64, what was counted."""

    def __add__(self, other: Reduction) -> Reduction:
        return Reduction(self.total + other.total, self.weight + other.weight)

    def mean(self, weight: Tensor | None = None) -> Tensor:
        """The loss, a scalar: total over `weight` (its own unless given), added up over the terms."""
        counted = (self.weight if weight is None else weight).to(self.total)
        return (self.total / counted.clamp(min=1)).sum()


def mse(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """Squared difference, averaged over valid values. For pixels, and for latents with `valid_cells` as valid."""
    return _over_values(_masked_difference(prediction, target, valid).square(), valid)


def l1(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """Absolute difference, averaged over valid values."""
    return _over_values(_masked_difference(prediction, target, valid).abs(), valid)


def dice(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """1 - (2 sum p y + 1) / (sum p^2 + sum y^2 + 1) per image, of p and y brought from [-1, 1] to [0, 1].

    Milletari et al. 2016, with the usual 1 that lets a picture without anything cost 0. It weighs what is selected
    against itself, where a mean over pixels would rather have nobody than miss the edge of a small person. Weighted
    by valid values.
    """
    return _over_images(lambda p, y: p.numel() * _disagreement((p + 1) / 2, (y + 1) / 2), prediction, target, valid)


def _disagreement(p: Tensor, y: Tensor) -> Tensor:
    """1 less the overlap of two soft selections (N,) in [0, 1]."""
    return 1 - (2 * (p * y).sum() + 1) / (p.square().sum() + y.square().sum() + 1)


def heatmaps(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """Squared difference, averaged over the valid values of the heatmaps of labelled keypoints: those not all 0."""
    squares = _masked_difference(prediction, target, valid).square()
    labelled = target.masked_fill(~valid, 0).flatten(2).amax(2)[..., None, None] > 0
    return Reduction(squares.masked_fill(~labelled, 0).sum()[None], (valid & labelled).sum()[None])


def scale_shift_invariant(prediction: Tensor, target: Tensor, valid: Tensor, offset: float = DEPTH_OFFSET) -> Reduction:
    """|s p + t - y| with each image's own s, t = argmin sum (s p + t - y)^2, gradients flowing through both.

    The fit is MiDaS' (Ranftl et al. 2020), the rest GenPercept's trainer: p and y are the values plus `offset`;
    where s <= 0, or p is constant, p median(y) / median(p) over y > 0 stands in, or p itself if no y is positive.
    Fitted per image, weighted by valid values.
    """
    return _over_images(lambda p, y: _affine_residuals(p + offset, y + offset).abs().sum(), prediction, target, valid)


def _median_scale_shift_invariant(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """|p' - y'| with x' = (x - median(x)) / mean |x - median(x)| per image (MiDaS, Ranftl et al. 2020).

    The median is the lower one. GenPercept's trainer takes it over all pixels, valid or not; the paper's is used
    here. Normalised per image, weighted by valid values.
    """
    return _over_images(
        lambda p, y: (_standardised(p, p.median()) - _standardised(y, y.median())).abs().sum(),
        prediction,
        target,
        valid,
    )


def gradient(prediction: Tensor, target: Tensor, valid: Tensor, scales: int = 4) -> Reduction:
    """|d/dx (p - y)| + |d/dy (p - y)| between valid neighbours, at every 1st, 2nd, 4th ... pixel.

    Multi-scale gradient matching (MegaDepth, Li and Snavely 2018; MiDaS, Ranftl et al. 2020). One term per scale,
    over the valid values at that scale; the terms are added, not averaged.
    """
    gap = _masked_difference(prediction, target, valid)
    steps = [2**scale for scale in range(scales)]
    return _joined([_steepness(gap[..., ::step, ::step], valid[..., ::step, ::step], (2, 3)) for step in steps])


def vertical_gradient(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """|d/dy (p - y)| between valid neighbours in a column, over all valid values: what GenPercept v2 was trained with.

    Its code differs from `gradient` with one scale in leaving out d/dx (a horizontal ramp costs nothing); same
    divisor.
    """
    return _steepness(_masked_difference(prediction, target, valid), valid, (2,))


def angular(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """Angle in radians between vectors (B, 3, H, W) of any length, arccos of the cosine clamped to +-(1 - 1e-4).

    GenPercept's trainer, after Bae et al. 2021. The clamp bounds the gradient; it makes a perfect prediction cost
    `LOSSES["angular"].floor`. A target of length 0 has no direction and is not counted (there it costs pi / 2).
    """
    prediction, target = _masked(prediction, target, valid)
    counted = valid & (target != 0).any(1, keepdim=True)
    # an angle does not depend on length: what is above 1 is shortened, so that squares stay finite
    prediction, target = (
        vector / vector.detach().abs().amax(1, keepdim=True).clamp(min=1) for vector in (prediction, target)
    )
    cosine = F.cosine_similarity(prediction, target, dim=1, eps=1e-8).unsqueeze(1)
    angle = cosine.clamp(-ANGULAR_CLAMP, ANGULAR_CLAMP).acos()
    return _over_values(angle.masked_fill(~counted, 0), counted)


def virtual_normal(
    prediction: Tensor,
    target: Tensor,
    valid: Tensor,
    intrinsics: Tensor,
    seeds: Sequence[int] | Tensor,
    sample_ratio: float = 0.2,
    offset: float = DEPTH_OFFSET,
) -> Reduction:
    """|n_y - n_p|, summed over x, y, z, of planes through random point triplets (virtual normals, Yin et al. 2019).

    Depths (B, 1, H, W), `offset` added (give 0 for metres), are lifted to points by `intrinsics` (B, 3, 3) in
    pixels, which count from the first one's corner and may be wider than high. `seeds`, one per image, make the draw
    independent of which process holds it. min(sample_ratio H W, valid) triplets come from three
    permutations of an image's valid pixels. As in GenPercept's trainer a triplet is dropped if two of its sides
    have |cos| > 0.867, if in each of x, y and z some two points are closer than 0.005, or if a z <= 1e-5; then the
    quarter of lowest loss goes, here per image instead of per batch (else the loss would depend on how images are
    grouped). Weighted by kept triplets.
    """
    check_shapes(prediction, target, valid)
    triplets = [
        _triplet_errors(p[0], y[0], v[0], camera, int(seed), sample_ratio, offset)
        for p, y, v, camera, seed in zip(prediction, target, valid, intrinsics, seeds)
    ]
    return Reduction(torch.stack([e.sum() for e in triplets]).sum()[None], counts([e.numel() for e in triplets], valid))


def hdn_range(
    prediction: Tensor, target: Tensor, valid: Tensor, seeds: Sequence[int] | Tensor, ranges: int = 10
) -> Reduction:
    """|p' - y'| inside random depth ranges, x' normalised by the range's median and mean deviation (HDN-DR).

    Hierarchical depth normalisation, Zhang et al. 2022. As in GenPercept's trainer the ranges are random: of [min
    y, max y], from a fraction U(0, 0.75) to a fraction U(that + 0.1, 1). Its code draws the upper end in mixed
    units, so that ranges come out empty; here both ends are fractions. See `hdn_error` for the rest. `seeds`: one
    per image.
    """
    return _hdn(
        prediction, target, valid, seeds, lambda y, v, generator: depth_ranges(_widest(y[v]), generator, ranges)
    )


def hdn_space(
    prediction: Tensor, target: Tensor, valid: Tensor, seeds: Sequence[int] | Tensor, boxes: int = 20
) -> Reduction:
    """|p' - y'| inside random boxes and the whole image, x' normalised by the box's median and mean deviation (HDN-DS).

    Hierarchical depth normalisation, Zhang et al. 2022. As in GenPercept's trainer the boxes are random, 1/8 to 1/2
    of each side, cut at the border. Its mean deviation adds up all pixels but divides by the valid ones of the box;
    here it is the paper's, over the box. See `hdn_error` for the rest. `seeds`: one per image.
    """
    return _hdn(prediction, target, valid, seeds, lambda y, v, generator: _spatial_boxes(v, generator, boxes))


def laplacian_pyramid(prediction: Tensor, target: Tensor, valid: Tensor, levels: int = 5) -> Reduction:
    """sum_i 2^i mean |L_i(p) - L_i(y)| over the levels of a Laplacian pyramid, for mattes (Hou and Liu 2019).

    Pyramid of Burt and Adelson 1983 with the binomial (1, 4, 6, 4, 1) / 16; the last level is the low-pass rest, so
    that a constant offset costs too. Blurs are normalised by the valid mask: nothing leaks in from outside or from
    beyond the border. One term per level, over the cells of that level which have a valid pixel under them.
    """
    gap, mask = _masked_difference(prediction, target, valid), valid
    terms = []
    for level in range(levels):
        band = gap
        if level < levels - 1:
            coarse = _blurred(gap, mask)[..., ::2, ::2]
            coarse_mask = (blur(mask.to(gap)) > 0)[..., ::2, ::2]
            band = (gap - _enlarged(coarse, coarse_mask, gap.shape)).masked_fill(~mask, 0)
        terms.append(_over_values(2**level * band.abs(), mask))
        if level < levels - 1:
            gap, mask = coarse, coarse_mask
    return _joined(terms)


def scale_invariant(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """(a p - y)^2 with each image's own a = <p, y> / <p, p>, for albedo and shading (Grosse et al. 2009).

    One a for all channels, gradients flowing through it. Linear values, 0 = black: not the codec's [-1, 1].
    Fitted per image, weighted by valid values.
    """
    return _over_images(lambda p, y: (_best_scale(p, y) * p - y).square().sum(), prediction, target, valid)


def cross_entropy(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """-log softmax of logits (B, K, H, W) at the class index in target (B, 1, H, W), averaged over valid pixels."""
    check_shapes(prediction[:, :1], target, valid)
    classes = target.masked_fill(~valid, 0)[:, 0].long()
    if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < prediction.shape[1]:
        raise UserError(
            f"cross_entropy got class {int(classes.max())} for {prediction.shape[1]} logits: "
            "classes count from 0; mark other labels as not valid."
        )
    logits = at_least_float32(prediction).masked_fill(~valid, 0)
    error = F.cross_entropy(logits, classes, reduction="none").unsqueeze(1)
    return _over_values(error.masked_fill(~valid, 0), valid)


def valid_cells(valid: Tensor, factor: int = 8) -> Tensor:
    """(B, 1, H, W) -> (B, 1, H // factor, W // factor): the latent cells all of whose pixels are valid."""
    return F.max_pool2d((~valid).float(), factor) == 0


def check_shapes(prediction: Tensor, target: Tensor, valid: Tensor) -> None:
    """Refuse shapes that broadcasting would silently accept."""
    expected = (len(target), 1, *target.shape[2:])
    if prediction.shape != target.shape or valid.shape != expected or valid.dtype != torch.bool:
        raise UserError(
            f"Got prediction {tuple(prediction.shape)}, target {tuple(target.shape)}, valid {tuple(valid.shape)} "
            f"{valid.dtype}: give (B, C, H, W) twice and (B, 1, H, W) bool."
        )


def at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _widest(values: Tensor) -> Tensor:
    """float64, except on MPS, which has none."""
    return values.to(torch.promote_types(values.dtype, widest_on(values.device)))


def widest_on(device: torch.device) -> torch.dtype:
    """The most precise numbers that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def _masked(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Both in at least float32, 0 where not valid. The fill comes first: 0 * NaN would be NaN."""
    check_shapes(prediction, target, valid)
    return at_least_float32(prediction).masked_fill(~valid, 0), at_least_float32(target).masked_fill(~valid, 0)


def _masked_difference(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """prediction - target, 0 where not valid."""
    prediction, target = _masked(prediction, target, valid)
    return prediction - target


def _over_values(values: Tensor, valid: Tensor) -> Reduction:
    """Sum of values (B, C, H, W) that are 0 where not valid, weighted by the number of valid ones."""
    return Reduction(values.sum()[None], valid.sum()[None] * values.shape[1])


def _over_images(
    error: Callable[[Tensor, Tensor], Tensor], prediction: Tensor, target: Tensor, valid: Tensor
) -> Reduction:
    """Sum over images of `error` of an image's valid values (N,) and (N,) in float64, weighted by their number."""
    check_shapes(prediction, target, valid)
    pairs = [(_widest(p[v]), _widest(y[v])) for p, y, v in zip(prediction, target, valid.expand_as(target))]
    errors = [error(p, y) if p.numel() else p.sum() for p, y in pairs]
    return Reduction(torch.stack(errors).sum()[None], counts([p.numel() for p, _ in pairs], valid))


def counts(numbers: Sequence[int], like: Tensor) -> Tensor:
    """Their sum as a weight (1,)."""
    return torch.tensor([sum(numbers)], device=like.device)


def _joined(terms: Sequence[Reduction]) -> Reduction:
    """Several terms as the entries of one Reduction."""
    return Reduction(torch.cat([term.total for term in terms]), torch.cat([term.weight for term in terms]))


def _steepness(gap: Tensor, valid: Tensor, dims: Sequence[int]) -> Reduction:
    """|x[i + 1] - x[i]| along `dims` where both are valid, weighted by all valid values."""
    total = gap.new_zeros(1)
    for dim in dims:
        last = gap.shape[dim] - 1
        both = valid.narrow(dim, 1, last) & valid.narrow(dim, 0, last)
        total = total + (gap.narrow(dim, 1, last) - gap.narrow(dim, 0, last)).abs().masked_fill(~both, 0).sum()
    return Reduction(total, valid.sum()[None] * gap.shape[1])


def _affine_residuals(p: Tensor, y: Tensor) -> Tensor:
    """s p + t - y (N,) by the rule in `scale_shift_invariant`."""
    p_mean, y_mean = p.mean(), y.mean()
    variance = (p - p_mean).square().mean()
    # a constant p leaves a variance of rounding errors
    constant = variance <= (16 * torch.finfo(p.dtype).eps * p.detach().abs().amax()).square()
    scale = ((p - p_mean) * (y - y_mean)).mean() / torch.where(constant, 1, variance)
    if not constant and scale > 0:
        return scale * (p - p_mean) + y_mean - y
    positive = y > 0
    if not positive.any():
        return p - y
    p_median = p[positive].median() + 1e-8
    return p * (y[positive].median() / torch.where(p_median.abs() < 1e-8, 1e-8, p_median)) - y


def _standardised(x: Tensor, centre: Tensor) -> Tensor:
    """(x - centre) / mean |x - centre| (N,); a mean below 1e-6 counts as 1e-6."""
    deviation = x - centre
    return deviation / deviation.abs().mean().clamp(min=SMALLEST_DEVIATION)


def _best_scale(p: Tensor, y: Tensor) -> Tensor:
    """<p, y> / <p, p>, 0 where p is 0."""
    energy = p.square().sum()
    return (p * y).sum() / torch.where(energy > 0, energy, 1)


def _hdn(
    prediction: Tensor,
    target: Tensor,
    valid: Tensor,
    seeds: Sequence[int] | Tensor,
    contexts: Callable[[Tensor, Tensor, torch.Generator], list[Tensor]],
) -> Reduction:
    """Sum of `hdn_error` over the contexts of each image, weighted by their pixels, each as often as it took part."""
    check_shapes(prediction, target, valid)
    errors, numbers = [], []
    for image, truth, mask, seed in zip(prediction, target, valid, seeds):
        p, y = _widest(image[mask]), _widest(truth[mask])
        inside = contexts(truth, mask, torch.Generator().manual_seed(int(seed))) if p.numel() else []
        errors += [p[:0].sum()] + [hdn_error(p[context], y[context]) for context in inside]
        numbers += [int(context.sum()) for context in inside]
    return Reduction(torch.stack(errors).sum()[None], counts(numbers, valid))


def hdn_error(p: Tensor, y: Tensor) -> Tensor:
    """sum |p' - y'| of one context's values (N,), x' = (x - median) / mean |x - median|.

    As published for GenPercept no gradient flows through the median of p, and pixels are averaged over all contexts
    together (Zhang et al. average over the contexts of a pixel first, which weighs pixels in few contexts more).
    """
    if not p.numel():
        return p.sum()
    return (_standardised(p, p.detach().median()) - _standardised(y, y.median())).abs().sum()


def depth_ranges(y: Tensor, generator: torch.Generator, ranges: int) -> list[Tensor]:
    """Which of an image's valid depths (N,) lie in each random range: `ranges` masks (N,)."""
    first, second = torch.rand(2, ranges, generator=generator, dtype=torch.float64).tolist()
    low, span = y.min(), y.max() - y.min()
    if span == 0:
        return [torch.ones_like(y, dtype=torch.bool)] * ranges
    fraction = (y - low) / span
    starts = [0.75 * draw for draw in first]
    ends = [start + 0.1 + (0.9 - start) * draw for start, draw in zip(starts, second)]
    return [(fraction >= start) & (fraction <= end) for start, end in zip(starts, ends)]


def _spatial_boxes(valid: Tensor, generator: torch.Generator, boxes: int) -> list[Tensor]:
    """Which of an image's valid pixels (N,) lie in each random box, and all of them: `boxes` + 1 masks (N,)."""
    height, width = valid.shape[-2:]
    tops, bottoms = segments(height, generator, boxes)
    lefts, rights = segments(width, generator, boxes)
    row, column = (
        index[valid[0]]
        for index in torch.meshgrid(
            torch.arange(height, device=valid.device), torch.arange(width, device=valid.device), indexing="ij"
        )
    )
    masks = [
        (row >= top) & (row < bottom) & (column >= left) & (column < right)
        for top, bottom, left, right in zip(tops, bottoms, lefts, rights)
    ]
    return [*masks, torch.ones_like(row, dtype=torch.bool)]


def segments(length: int, generator: torch.Generator, number: int) -> tuple[list[int], list[int]]:
    """Random starts and ends along a side: 1/8 to 1/2 long, at least 1; one that runs over the border is cut there."""
    shortest = max(length // 8, 1)
    start = torch.randint(0, max(length - length // 8, 1), (number,), generator=generator)
    size = torch.randint(shortest, max(length // 2, shortest + 1), (number,), generator=generator)
    return start.tolist(), (start + size).clamp(max=length).tolist()


def _triplet_errors(
    p: Tensor, y: Tensor, valid: Tensor, camera: Tensor, seed: int, sample_ratio: float, offset: float
) -> Tensor:
    """The kept triplets' |n_y - n_p| (T,) of one image: depths (H, W), `camera` (3, 3)."""
    pixels = valid.flatten().nonzero()[:, 0]
    number = min(int(valid.numel() * sample_ratio), len(pixels))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.stack([torch.randperm(len(pixels), generator=generator)[:number] for _ in range(3)])
    chosen = pixels[chosen.to(pixels.device)]
    truth = lifted(y, chosen, camera, offset)
    kept = well_spread(truth)
    errors = (plane_normals(truth[:, kept]) - plane_normals(lifted(p, chosen[:, kept], camera, offset))).abs().sum(-1)
    return errors.sort().values[errors.numel() // 4 :]


def lifted(depth: Tensor, pixels: Tensor, camera: Tensor, offset: float) -> Tensor:
    """Flat pixel numbers (3, T) of a depth (H, W), plus `offset` -> points (3, T, 3): x right, y down, z forward."""
    z, camera = _widest(depth.flatten()[pixels]) + offset, _widest(camera.to(depth.device))
    x = (pixels % depth.shape[1] + 0.5 - camera[0, 2]) * z / camera[0, 0]
    y = (pixels // depth.shape[1] + 0.5 - camera[1, 2]) * z / camera[1, 1]
    return torch.stack((x, y, z), -1)


def well_spread(points: Tensor) -> Tensor:
    """Which triplets (3, T, 3) span a plane: (T,) bool."""
    first, second, third = points
    sides = torch.stack((second - first, third - first, third - second))
    length = sides.norm(dim=-1)
    narrow = torch.zeros_like(length[0], dtype=torch.bool)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        narrow |= ((sides[i] * sides[j]).sum(-1) / (length[i] * length[j] + 1e-6)).abs() > 0.867
    near = (sides.abs() < 0.005).any(0).all(-1)
    return ~narrow & ~near & (points[..., 2] > 1e-5).all(0)


def plane_normals(points: Tensor) -> Tensor:
    """Triplets (3, T, 3) -> unit normals (T, 3)."""
    first, second, third = points
    return F.normalize(torch.linalg.cross(second - first, third - first), dim=-1, eps=1e-12)


def blur(values: Tensor) -> Tensor:
    """(1, 4, 6, 4, 1) / 16 along both sides of (B, C, H, W), zeros beyond the border."""
    # sums, not a convolution: autocast would run that in half precision
    for dim in (2, 3):
        padded = F.pad(values, (0, 0, 2, 2) if dim == 2 else (2, 2))
        shifted = [padded.narrow(dim, start, values.shape[dim]) for start in range(5)]
        values = (shifted[0] + 4 * shifted[1] + 6 * shifted[2] + 4 * shifted[3] + shifted[4]) / 16
    return values


def _blurred(values: Tensor, mask: Tensor) -> Tensor:
    """The blur of what `mask` (B, 1, H, W) leaves in values that are 0 elsewhere."""
    support = blur(mask.to(values))
    return blur(values) / torch.where(support > 0, support, 1)


def _enlarged(coarse: Tensor, mask: Tensor, shape: Sequence[int]) -> Tensor:
    """Values (B, C, h, w) at every second pixel of `shape`, blurred to fill what lies between."""
    spread, support = coarse.new_zeros(shape), coarse.new_zeros((shape[0], 1, *shape[2:]))
    spread[..., ::2, ::2], support[..., ::2, ::2] = coarse, mask.to(coarse)
    support = blur(support)
    return blur(spread) / torch.where(support > 0, support, 1)


def _itself(target: Tensor) -> Tensor:
    return target


def _certain(target: Tensor) -> Tensor:
    """Logits (B, K, H, W) that leave no doubt about classes (B, 1, H, W)."""
    classes = target[:, 0].clamp(min=0).nan_to_num(0).long()
    return 1e4 * F.one_hot(classes).movedim(-1, 1).float()


@dataclass(frozen=True)
class Loss:
    """A row of LOSSES: call it like its function; what it needs beyond prediction, target and valid goes by keyword."""

    name: str
    function: Callable[..., Reduction]
    space: Literal["picture", "value", "score"] = "picture"
    """What it compares: codecs' pictures, [-1, 1]; their values, 0 = black; or scores of classes with their numbers."""
    factor: float = 1.0
    """What GenPercept's trainer multiplies it by in a sum of losses."""
    needs: tuple[str, ...] = ()
    """Of `intrinsics` (B, 3, 3) and `seeds` (one int per image). Others may be given and are ignored."""
    floor: float = 0.0
    """What a perfect prediction costs."""
    perfect: Callable[[Tensor], Tensor] = _itself
    """The perfect prediction of a target."""
    counts_pixels: bool = False
    """The weight is the number of valid pixels: said where a perfect prediction would take a lot of memory."""

    def __call__(
        self, prediction: Tensor, target: Tensor, valid: Tensor, **given: Tensor | Sequence[int] | None
    ) -> Reduction:
        missing = [name for name in self.needs if given.get(name) is None]
        if missing:
            raise UserError(
                f"The loss {self.name!r} got no {' and no '.join(missing)}: add it to the batch or choose another loss."
            )
        return self.function(prediction, target, valid, **{name: given[name] for name in self.needs})

    def weight(self, target: Tensor, valid: Tensor, **given: Tensor | Sequence[int] | None) -> Tensor:
        """The weight (N,) that any prediction will have, known before there is one."""
        if self.counts_pixels:
            return valid.sum()[None]
        with torch.no_grad():
            return self(self.perfect(target.masked_fill(~valid, 0)), target, valid, **given).weight


LOSSES: dict[str, Loss] = {
    loss.name: loss
    for loss in (
        Loss("mse", mse),
        Loss("l1", l1),
        Loss("dice", dice),
        Loss("heatmaps", heatmaps),
        Loss("ssi", scale_shift_invariant, factor=0.5),
        Loss("ssi-median", _median_scale_shift_invariant, factor=0.5),
        Loss("gradient", gradient, factor=2.0),
        Loss("vertical-gradient", vertical_gradient, factor=2.0),
        Loss("angular", angular, floor=math.acos(ANGULAR_CLAMP)),
        Loss("vnl", virtual_normal, needs=("intrinsics", "seeds")),
        Loss("hdn-range", hdn_range, factor=0.5, needs=("seeds",)),
        Loss("hdn-space", hdn_space, factor=0.5, needs=("seeds",)),
        Loss("laplacian", laplacian_pyramid),
        Loss("scale-invariant", scale_invariant, space="value"),
        Loss("cross-entropy", cross_entropy, space="score", perfect=_certain, counts_pixels=True),
    )
}
