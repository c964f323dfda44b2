"""Validate: each task's loss and metrics on held-out pictures, by the path that inference takes; sample pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ...core.display.picture import ready
from ...core.measure.losses import Reduction
from ...core.measure.metrics import METRICS
from ...core.perception_map import PerceptionMap
from ...core.pipeline import Perceiver, predict
from ...core.recipe import Recipe
from ..config import Config
from ..data.arrays import BrokenRecord
from ..data.batches import Feed, in_order
from ..data.records import Sample
from ..learner import Passes
from ..scoring import Predicted, score
from .perception import PerceptionModel
from .written import Written


class Validator:
    """Measures the model of a run, and writes its files."""

    def __init__(
        self,
        config: Config,
        model: PerceptionModel,
        written: Written,
        feeds: list[Feed],
        device: torch.device,
        passes: Passes = nullcontext,
    ) -> None:
        self.config, self.model, self.written, self.feeds, self.device = config, model, written, feeds, device
        self.passes = passes
        self.named: set[str] = set()
        """What of the held-out pictures is broken, as it was said."""

    def write(self, name: str, notes: Mapping[str, object]) -> Path:
        path = Path(self.config.out) / f"{name}.safetensors"
        self.written.checkpoint(self.model, path, notes)
        return path

    def measure(self, done: int, main: bool) -> dict[str, float]:
        """{task/loss, task/metric, score}: the score is the geometric mean over tasks of how far their first metric is
        from perfect, or of their loss where there is no metric."""
        found: dict[str, float] = {}
        if not self.feeds or not main:
            return found
        distances_to_perfect = []
        for task in self.model.tasks:
            feeds = [feed for feed in self.feeds if feed.recipe.id == task]
            if not feeds:
                continue
            found[f"{task}/loss"] = loss = self.loss(feeds)
            metrics = self.metrics(task, feeds, done)
            found |= {f"{task}/{name}": value for name, value in metrics.items()}
            distances_to_perfect.append(_first_error(self.model.recipes[task], metrics, loss))
        logs = [math.log(max(distance, 1e-12)) for distance in distances_to_perfect]
        return {**found, "score": math.exp(sum(logs) / len(logs))} if logs else found

    @torch.no_grad()
    def loss(self, feeds: list[Feed]) -> float:
        """What training minimises, on the same held-out pictures, timesteps and noise every time."""
        sums: list[Reduction] = []
        config = self.config
        for read in in_order(feeds, config.batch_size, config.validation_images, config.seed, self.named):
            batch = read.to(self.device, self.model.dtype)
            counted = self.model.weights(batch)
            with self.passes():
                total = self.model(batch) * counted.factor.to(self.model.dtype)
            sums.append(Reduction(total, counted.weight))
        return sum(sums[1:], sums[0]).mean().item()

    def metrics(self, task: str, feeds: list[Feed], done: int) -> dict[str, float]:
        """The task's metrics over the first pictures of each dataset; sample pictures of the very first ones."""
        return score(self.model.recipes[task].row.metrics, self.predictions(task, feeds, done))

    def predictions(self, task: str, feeds: list[Feed], done: int) -> Iterator[Predicted]:
        perceiver = self.model.perceiver(task)
        for number, (feed, sample) in enumerate(tqdm(self.records(feeds), desc=f"validate {task}", leave=False)):
            seen = self.predict(perceiver, sample, feed.records.protocol.resolution)
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

    def predict(self, perceiver: Perceiver, sample: Sample, resolution: int = -1) -> PerceptionMap:
        with self.passes():
            return predict(perceiver, sample.image[None].to(self.device), resolution=resolution)

    def picture(self, seen: PerceptionMap, sample: Sample, feed: Feed, done: int, number: int) -> None:
        """samples/<task>_<number>_<step>.png: the picture, its truth, and what was predicted."""
        values, valid = feed.supervision.normalise(sample)
        truth = replace(seen, values=values.movedim(0, -1)[None], valid=valid, uncertainty=None)
        pictures = [sample.image.movedim(0, -1), ready(truth)[0][0], ready(seen)[0][0]]
        folder = Path(self.config.out) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        row = torch.cat([picture.clamp(0, 1) for picture in pictures], 1)
        Image.fromarray((row * 255).round().byte().numpy().astype(np.uint8)).save(
            folder / f"{feed.recipe.row.name}_{number}_{done:07}.png"
        )


def _first_error(recipe: Recipe, metrics: Mapping[str, float], loss: float) -> float:
    """How far the task's first metric is from perfect; the loss where it was not measured."""
    row = METRICS[recipe.row.metrics[0]]
    value = metrics.get(row.name, math.nan)
    return loss if math.isnan(value) or math.isinf(row.perfect) else abs(value - row.perfect)
