"""Validate: each task's loss and metrics on held-out pictures, by the path that inference takes; sample pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ...core.display.colour import Palette, classify
from ...core.display.picture import ready
from ...core.geometry import decode_normals
from ...core.measure.align import ALIGNMENTS
from ...core.measure.losses import Reduction
from ...core.measure.metrics import METRICS
from ...core.perception_map import PerceptionMap
from ...core.pipeline import Perceiver, predict
from ...core.recipe import Recipe
from ..config import Config
from ..data.arrays import BrokenRecord
from ..data.batches import Feed, in_order
from ..data.records import Sample
from ..data.targets import inverse, normalise
from ..loop import Passes
from .perception import Student, Written


@dataclass(frozen=True)
class Measured:
    """A prediction and its truth in the units of the task's metrics."""

    prediction: Tensor
    """(1, C, H, W)."""
    target: Tensor
    valid: Tensor
    """(1, 1, H, W) bool."""


Prepare = Callable[[Tensor, Sample, Feed], Measured | None]
"""(values (1, C, H, W) as predicted, the record, where it comes from) -> what metrics compare; None if they cannot."""


def distances(values: Tensor, sample: Sample, feed: Feed) -> Measured | None:
    """Depth or disparity, brought to the truth's metres by the task's alignment; None for truth of unknown shift."""
    target, valid = sample.target, sample.valid & (sample.target > 0)
    if feed.records.convention.near == "high":
        if not feed.records.convention.metric:
            return None
        target, valid = inverse(target, valid)
    row = ALIGNMENTS["none" if feed.recipe.metric else feed.recipe.row.align]
    return Measured(row(values, target[None], valid[None]), target[None], valid[None])


def vectors(values: Tensor, sample: Sample, feed: Feed) -> Measured:
    """Normals as vectors along the recipe's axes."""
    options = replace(feed.options, unit=True)
    target, valid = normalise("normal", sample.target, sample.valid, feed.records.convention, options)
    return Measured(decode_normals(values, feed.recipe.convention()), target[None], valid[None])


def levels(values: Tensor, sample: Sample, feed: Feed) -> Measured:
    """Masks, mattes and colours in [0, 1]."""
    task, scale = feed.recipe.row.name, feed.options.scale
    target, valid = normalise(task, sample.target, sample.valid, feed.records.convention, feed.options)
    return Measured(values / scale, target[None] / scale, valid[None])


def classes(values: Tensor, sample: Sample, feed: Feed) -> Measured | None:
    """The class that was predicted, or whose colour is nearest; a dataset that holds colours only tells nothing."""
    options = replace(feed.options, classes=True)
    if sample.target.shape[0] != 1 or not options.colours:
        return None
    target, valid = normalise("segmentation", sample.target, sample.valid, feed.records.convention, options)
    if not feed.recipe.target_codec().classes:
        palette = Palette("", tuple(map(str, range(len(options.colours)))), options.colours)
        values = classify(values.movedim(1, -1), palette)[0][:, None].float()
    return Measured(values, target[None], valid[None])


def heatmaps(values: Tensor, sample: Sample, feed: Feed) -> Measured:
    """Of one person."""
    return Measured(values, sample.target[None], sample.valid[None])


PREPARED: dict[str, Prepare] = {
    "depth": distances,
    "disparity": distances,
    "normal": vectors,
    "mask": levels,
    "matte": levels,
    "segmentation": classes,
    "albedo": levels,
    "shading": levels,
    "keypoints": heatmaps,
}


Predicted = tuple[Tensor, Sample, Feed]
"""Values (1, C, H, W) as predicted, the record, where it comes from."""


def score(names: Iterable[str], predictions: Iterable[Predicted]) -> dict[str, float]:
    """{metric: value} over all predictions that can be compared with their truth; names: rows of METRICS."""
    rows = [METRICS[name] for name in names]
    sums: dict[str, Reduction] = {}
    for values, sample, feed in predictions:
        measured = PREPARED[feed.recipe.row.name](values, sample, feed)
        if measured is None:
            continue
        for row in rows:
            part = row.measure(measured.prediction, measured.target, measured.valid)
            sums[row.name] = sums[row.name] + part if row.name in sums else part
    return {row.name: row.value(sums[row.name]) for row in rows if row.name in sums}


class Validator:
    """Measures the student of a run, and writes its files."""

    def __init__(
        self,
        config: Config,
        student: Student,
        written: Written,
        feeds: list[Feed],
        device: torch.device,
        passes: Passes = nullcontext,
    ) -> None:
        self.config, self.student, self.written, self.feeds, self.device = config, student, written, feeds, device
        self.passes = passes
        self.named: set[str] = set()
        """What of the held-out pictures is broken, as it was said."""

    def write(self, name: str, notes: Mapping[str, object]) -> None:
        self.written.checkpoint(self.student, Path(self.config.out) / f"{name}.safetensors", notes)

    def measure(self, done: int, main: bool) -> dict[str, float]:
        """{task/loss, task/metric, score}: the score is the geometric mean over tasks of how far their first metric is
        from perfect, or of their loss where there is no metric."""
        found: dict[str, float] = {}
        if not self.feeds or not main:
            return found
        distances_to_perfect = []
        for task in self.student.tasks:
            feeds = [feed for feed in self.feeds if feed.recipe.id == task]
            if not feeds:
                continue
            found[f"{task}/loss"] = loss = self.loss(feeds)
            metrics = self.metrics(task, feeds, done)
            found |= {f"{task}/{name}": value for name, value in metrics.items()}
            distances_to_perfect.append(first_error(self.student.recipes[task], metrics, loss))
        logs = [math.log(max(distance, 1e-12)) for distance in distances_to_perfect]
        return {**found, "score": math.exp(sum(logs) / len(logs))} if logs else found

    @torch.no_grad()
    def loss(self, feeds: list[Feed]) -> float:
        """What training minimises, on the same held-out pictures, timesteps and noise every time."""
        sums: list[Reduction] = []
        config = self.config
        for read in in_order(feeds, config.batch_size, config.validation_images, config.seed, self.named):
            batch = read.to(self.device, self.student.dtype)
            counted = self.student.weights(batch)
            with self.passes():
                total = self.student(batch) * counted.factor.to(self.student.dtype)
            sums.append(Reduction(total, counted.weight))
        return sum(sums[1:], sums[0]).mean().item()

    def metrics(self, task: str, feeds: list[Feed], done: int) -> dict[str, float]:
        """The task's metrics over the first pictures of each dataset; sample pictures of the very first ones."""
        return score(self.student.recipes[task].row.metrics, self.predictions(task, feeds, done))

    def predictions(self, task: str, feeds: list[Feed], done: int) -> Iterator[Predicted]:
        perceiver = self.student.perceiver(task)
        for number, (feed, sample) in enumerate(tqdm(self.records(feeds), desc=f"validate {task}", leave=False)):
            seen = self.predict(perceiver, sample)
            if number < self.config.samples:
                self.picture(seen, sample, feed, done, number)
            yield seen.values.movedim(-1, 1), sample, feed

    def records(self, feeds: list[Feed]) -> Iterator[tuple[Feed, Sample]]:
        """Records as they are on disk; broken ones were named already."""
        limit = self.config.validation_images or 10**9
        for feed in feeds:
            for index in range(min(len(feed.records), max(limit // len(feeds), 1))):
                try:
                    yield feed, feed.records[index]
                except BrokenRecord:
                    continue

    def predict(self, perceiver: Perceiver, sample: Sample) -> PerceptionMap:
        with self.passes():
            return predict(perceiver, sample.image[None].to(self.device))

    def picture(self, seen: PerceptionMap, sample: Sample, feed: Feed, done: int, number: int) -> None:
        """samples/<task>_<number>_<step>.png: the picture, its truth, and what was predicted."""
        task = feed.recipe.row.name
        values, valid = normalise(task, sample.target, sample.valid, feed.records.convention, feed.options)
        truth = replace(seen, values=values.movedim(0, -1)[None], valid=valid, uncertainty=None)
        pictures = [sample.image.movedim(0, -1), ready(truth)[0][0], ready(seen)[0][0]]
        folder = Path(self.config.out) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        row = torch.cat([picture.clamp(0, 1) for picture in pictures], 1)
        Image.fromarray((row * 255).round().byte().numpy().astype(np.uint8)).save(
            folder / f"{task}_{number}_{done:07}.png"
        )


def first_error(recipe: Recipe, metrics: Mapping[str, float], loss: float) -> float:
    """How far the task's first metric is from perfect; the loss where it was not measured."""
    row = METRICS[recipe.row.metrics[0]]
    value = metrics.get(row.name, math.nan)
    return loss if math.isnan(value) or math.isinf(row.perfect) else abs(value - row.perfect)
