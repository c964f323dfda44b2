"""Measured: predictions and their truth in the units of a task's metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...core.display.colour import Palette, classify
from ...core.geometry import decode_normals
from ...core.measure.align import ALIGNMENTS
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
