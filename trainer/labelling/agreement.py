"""Agreement: a second teacher is measured on what the first one said; where it sees something else is left out."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ...core.errors import UserError
from ...core.measure.losses import Reduction
from ...core.measure.metrics import METRICS, Metric
from ..data.arrays import BrokenRecord
from ..data.batches import Feed
from ..data.measured import Measured
from ..data.records import Sample
from ..data.targets import Supervision
from ..evaluation.contenders import Predictor
from ..evaluation.sets import feed_of, set_named
from ..scoring import Ruler
from .journal import Journal
from .labels import Shelf, contender_of
from .plan import Agreement


def correlation(prediction: Tensor, target: Tensor, valid: Tensor) -> Reduction:
    """Pearson's, of all valid pixels (B, C, H, W): of maps that are known up to scale and shift."""
    p, y = (values[valid.expand_as(values)].double() for values in (prediction, target))
    p, y = p - p.mean(), y - y.mean()
    value = (p * y).sum() / (p.norm() * y.norm()).clamp(min=1e-12)
    return Reduction(value[None], torch.ones(1, dtype=torch.long))


def _as_they_are(values: Tensor, sample: Sample, taught: Supervision) -> Measured:
    """Raw values of both."""
    return Measured(values, sample.target[None], sample.valid[None])


CORRELATION = Metric("correlation", "r", correlation, True, 1)
MEASURES = {CORRELATION.name: (CORRELATION, _as_they_are)}
"""Metrics that need nothing of the truth but its numbers, and how these are compared."""


def metric_of(agreement: Agreement) -> Metric:
    """UserError for a name that is none."""
    if agreement.metric in MEASURES:
        return MEASURES[agreement.metric][0]
    if agreement.metric not in METRICS:
        known = ", ".join((*MEASURES, *METRICS))
        raise UserError(f"There is no metric {agreement.metric!r} to agree by: take one of {known}.")
    return METRICS[agreement.metric]


def _measured_agreement(agreement: Agreement, values: Tensor, sample: Sample, feed: Feed) -> float:
    """How well a prediction agrees with a label. UserError if they cannot be compared."""
    metric = metric_of(agreement)
    if agreement.metric in MEASURES:
        seen = MEASURES[agreement.metric][1](values, sample, feed.supervision)
        return metric(seen.prediction, seen.target, seen.valid)
    parts = Ruler((metric.name,)).measure(values, sample, feed)
    if parts is None:
        raise UserError(f"{metric.name} cannot compare labels that are known up to scale and shift: take correlation.")
    return metric.value(parts[metric.name])


def agree_all(shelf: Shelf, pictures: dict[str, Path], agreement: Agreement, journal: Journal, device: str) -> None:
    """Ask the second teacher about every label that the journal does not name; move away what it sees otherwise."""
    _leave_out_all(shelf, pictures, journal)
    done = {row["picture"] for row in journal.rows()}
    if done >= {*pictures}:
        return
    metric, contender = metric_of(agreement), contender_of(agreement)
    named = set_named(str(shelf.root))
    feed = feed_of(named, named.open(contender.recipe.task), contender.recipe)
    stems = [record.stem for record in feed.records.records]
    look: Predictor | None = None
    for index, stem in enumerate(tqdm(stems, desc=f"agreement by {metric.name}", disable=None, leave=False)):
        if stem not in done and stem in pictures:
            look = look or contender.open(device)
            value = _agreed(agreement, look, feed, index)
            known = None if math.isnan(value) else value
            journal.add({"picture": stem, metric.name: known, "kept": not metric.better(agreement.limit, value)})
    _leave_out_all(shelf, pictures, journal)


def _agreed(agreement: Agreement, look: Predictor, feed: Feed, index: int) -> float:
    """NaN, which is no agreement, for a label that cannot be read."""
    try:
        sample = feed.records[index]
    except BrokenRecord:
        return math.nan
    return _measured_agreement(agreement, look(sample.image[None], agreement.resolution).float().cpu(), sample, feed)


def _leave_out_all(shelf: Shelf, pictures: dict[str, Path], journal: Journal) -> None:
    """What the journal says is not kept: a kill may have come between saying and doing."""
    for row in journal.rows():
        if not row["kept"] and row["picture"] in pictures:
            shelf.leave_out(row["picture"], pictures[row["picture"]])
