"""Measured: predictions and their truth in the units of a task's metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.display.colour import Palette, classify
from ...core.geometry import decode_normals
from ...core.measure.align import ALIGNMENTS
from ...core.srgb import to_linear
from .records import Sample
from .targets import Supervision, inverse


@dataclass(frozen=True)
class Measured:
    """A prediction and its truth in the units of the task's metrics."""

    prediction: Tensor
    """(1, C, H, W)."""
    target: Tensor
    valid: Tensor
    """(1, 1, H, W) bool."""


Prepare = Callable[[Tensor, Sample, Supervision], Measured | None]
"""(values (1, C, H, W) as predicted, the record, how it is taught) -> what metrics compare; None if they cannot."""


@dataclass(frozen=True)
class ErrorMap:
    """How far a prediction is off, pixel by pixel, for the eye."""

    title: str
    measure: Callable[[Tensor, Tensor], Tensor]
    """(prediction, target) (1, C, H, W) -> (1, H, W), not below 0."""
    top: float
    """What is shown as brightly as can be, and everything above."""


DIFFERENCE = ErrorMap("difference, 0 to 0.5", lambda p, y: (p - y).abs().mean(1), 0.5)
RELATIVE = ErrorMap("difference by depth, 0 to 0.5", lambda p, y: ((p - y).abs() / y.clamp(min=1e-6)).mean(1), 0.5)
ANGLE = ErrorMap("angle, 0 to 60°", lambda p, y: F.cosine_similarity(p, y, dim=1).clamp(-1, 1).acos().rad2deg(), 60.0)
UNEQUAL = ErrorMap("another class", lambda p, y: (p != y).any(1).float(), 1.0)


@dataclass(frozen=True)
class Comparison:
    """One way in which a task is compared with its truth in the literature: figures of two ways stand apart."""

    name: str
    title: str
    """Whose it is, and what it averages over, in words."""
    metrics: tuple[str, ...]
    """See trainer.scoring.metric_named."""
    prepare: Prepare | None = None
    """None is the task's own."""
    error: ErrorMap = DIFFERENCE


def distances(values: Tensor, sample: Sample, taught: Supervision) -> Measured | None:
    """Depth or disparity, brought to the truth's metres by the task's alignment as the dataset's protocol has it; None
    for truth of unknown shift."""
    target, valid = sample.target, sample.valid & (sample.target > 0)
    if taught.convention.near == "high":
        if not taught.convention.metric:
            return None
        target, valid = inverse(target, valid)
    row, protocol = ALIGNMENTS["none" if taught.recipe.metric else taught.recipe.row.align], taught.protocol
    aligned = row(values, target[None], valid[None], depth_range=protocol.depth_range, max_edge=protocol.max_edge)
    return Measured(aligned, target[None], valid[None])


def distances_as_predicted(values: Tensor, sample: Sample, taught: Supervision) -> Measured | None:
    """Depth in metres with nothing done to it; None unless prediction and truth are in metres."""
    if not taught.recipe.metric or not taught.convention.metric or taught.convention.near == "high":
        return None
    return Measured(values, sample.target[None], (sample.valid & (sample.target > 0))[None])


def colours(values: Tensor, sample: Sample, taught: Supervision) -> Measured:
    """The pictures in [0, 1] that prediction and truth are coded as, and which files of 8 bits hold."""
    codec = taught.recipe.target_codec()
    target, valid = taught.normalise(sample)
    seen, truth = ((codec.encode(each) / 2 + 0.5).clamp(0, 1) for each in (values, target[None]))
    return Measured(seen, truth, valid[None])


def reflectance(values: Tensor, sample: Sample, taught: Supervision) -> Measured:
    """Albedo in linear light, beside judgements about it."""
    return Measured(_in_linear_light(values, taught), sample.target[None], sample.valid[None])


def _in_linear_light(values: Tensor, taught: Supervision) -> Tensor:
    """Of colours as predicted; those of a recipe that does not say how they are coded are as its truth is taught."""
    shares = values / taught.options.scale
    coded = taught.options.transfer if taught.recipe.encoding == "" else taught.recipe.encoding
    return LINEAR[coded](shares) if coded in LINEAR else shares


LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "srgb": lambda values: torch.from_numpy(to_linear(values.numpy())),
    "gamma-2.2": lambda values: values.clamp(min=0) ** 2.2,
    "square-root": lambda values: values.square(),
}
"""Encodings of core.perception_map, undone."""


BRIGHT = 0.9
BRIGHTNESS = 0.8
"""What that quantile of a picture's brightness becomes."""
LUMINANCE = (0.3, 0.59, 0.11)


def lighting(values: Tensor, sample: Sample, taught: Supervision) -> Measured:
    """Shading or residual, known up to a factor: one factor a picture by least squares, then both made as bright as
    shows the truth, 0 to 1 (Marigold's evaluation)."""
    target, valid = sample.target[None].double(), sample.valid[None]
    seen = _in_linear_light(values, taught).double()
    p, y = (light[valid.expand_as(light)] for light in (seen, target))
    fit = (p * y).sum() / p.square().sum().clamp(min=1e-12)
    luminance = (sample.target.double() * torch.tensor(LUMINANCE)[:, None, None]).sum(0)[sample.valid[0]]
    bright = float(np.quantile(luminance.numpy(), BRIGHT))
    factor = BRIGHTNESS / bright if bright >= 1e-4 else 0.0
    return Measured((seen * fit * factor).clamp(0, 1), (target * factor).clamp(0, 1), valid)


def whole_set(values: Tensor, sample: Sample, taught: Supervision) -> None:
    """Nothing: what is of a set at once is not made of single pictures."""


def cut(values: Tensor, sample: Sample, taught: Supervision) -> Measured:
    """A mask that was decided on: 1 from half of its range on, else 0."""
    seen = levels(values, sample, taught)
    return replace(seen, prediction=(seen.prediction >= 0.5).to(seen.prediction))


def vectors(values: Tensor, sample: Sample, taught: Supervision) -> Measured:
    """Normals as vectors along the recipe's axes."""
    target, valid = taught.normalise(sample, unit=True)
    return Measured(decode_normals(values, taught.recipe.convention()), target[None], valid[None])


def levels(values: Tensor, sample: Sample, taught: Supervision) -> Measured:
    """Masks, mattes and colours in [0, 1]."""
    scale = taught.options.scale
    target, valid = taught.normalise(sample)
    return Measured(values / scale, target[None] / scale, valid[None])


def classes(values: Tensor, sample: Sample, taught: Supervision) -> Measured | None:
    """The class that was predicted, or whose colour is nearest; a dataset that holds colours only tells nothing."""
    colours = taught.options.colours
    if sample.target.shape[0] != 1 or not colours:
        return None
    target, valid = taught.normalise(sample, classes=True)
    if not taught.recipe.target_codec().classes:
        palette = Palette("", tuple(map(str, range(len(colours)))), colours)
        values = classify(values.movedim(1, -1), palette)[0][:, None].float()
    return Measured(values, target[None], valid[None])


def heatmaps(values: Tensor, sample: Sample, taught: Supervision) -> Measured:
    """Of one person."""
    return Measured(values, sample.target[None], sample.valid[None])
