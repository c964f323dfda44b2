"""Mixing: batches of several datasets by weight, the same for any number of workers and processes, resumable.

    mixture = Mixture(datasets, preparation, seed)
    batches = MixedBatches(mixture.lengths, weights, batch_size, seed, rank, world_size)
    for batch in Loader(mixture, batches, workers):
        ...

Every batch comes from one dataset, drawn by weight; its records come without replacement, epoch after epoch of that
dataset. All of it follows from the seed and the number of the batch. A batch is shared out among processes, so that n
processes see what one process with n times the batch would have seen; nothing else may shard the loader again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from . import augment
from .arrays import BrokenRecord
from .augment import Augmentation, generator
from .data import MOST_NAMED, Records, Sample, mostly_broken
from .targets import TargetOptions, check_fit, normalise
from .truth import DatasetError

log = logging.getLogger(__name__)

ENOUGH = 50
"""So many records must have been read before too many broken ones stop a run; at its end any number will do."""
RECORD, CHOICE, ORDER = range(3)
"""What a generator is for."""


class Draw(NamedTuple):
    """One record to be read."""

    dataset: int
    epoch: int
    """How often its dataset has been gone through before."""
    index: int


class Batch(NamedTuple):
    """Samples of one size, and what went wrong on the way to them."""

    image: Tensor
    """(B, 3, H, W) float32 in [0, 1]."""
    target: Tensor
    """(B, C, H, W) float32."""
    valid: Tensor
    """(B, 1, H, W) bool."""
    meta: list[dict[str, Any]]
    read: list[tuple[int, int, str]]
    """Dataset and index of every record that was tried, and why it was skipped; empty if it was not."""


class Failure(NamedTuple):
    """Why there is no batch; it travels in place of an exception, whose message a worker makes a traceback of."""

    reason: str


@dataclass(frozen=True)
class Preparation:
    """From a record as read to what a network is trained on."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    targets: TargetOptions | None = None
    """None leaves the truth raw, as metrics want it."""

    def __call__(self, sample: Sample, dataset: Records[Any], random: np.random.Generator) -> Sample:
        """GenPercept's order: flip, (crop,) normalise, resize; then the picture's looks."""
        sample = augment.place(sample, dataset.convention, self.augmentation, random)
        if self.targets is not None:
            options = self.targets
            if dataset.palette and not options.colours:
                options = replace(options, colours=dataset.palette.colours)
            values, valid = normalise(dataset.task, sample.target, sample.valid, dataset.convention, options)
            sample = replace(sample, target=values, valid=valid)
        return augment.finish(sample, dataset.task, self.augmentation, random)


class Mixture(Dataset[Any]):
    """Several datasets behind one door. A record that is broken gives way to the next one of its dataset."""

    def __init__(
        self, datasets: Sequence[Records[Any]], preparation: Preparation, seed: int = 0, replace_broken: bool = True
    ) -> None:
        """replace_broken: False leaves broken records out, so that an evaluation counts none twice."""
        if not datasets:
            raise DatasetError("There is no dataset to learn from: name one in [[data]].")
        self.datasets, self.preparation = list(datasets), preparation
        self.seed, self.replace_broken = seed, replace_broken
        self.check()

    def check(self) -> None:
        """DatasetError unless all datasets can be trained on together."""
        tasks = sorted({dataset.task for dataset in self.datasets})
        if len(tasks) > 1:
            raise DatasetError(f"Datasets for {' and '.join(tasks)} came together: train one task at a time.")
        if len({dataset.palette for dataset in self.datasets}) > 1:
            raise DatasetError("Datasets with different classes or colours came together: bring them in line first.")
        if self.preparation.targets is not None:
            for each in self.datasets:
                check_fit(each.name, each.task, each.convention, each.palette, self.preparation.targets)

    @property
    def lengths(self) -> list[int]:
        return [len(dataset) for dataset in self.datasets]

    def __getitem__(self, draw: Draw) -> tuple[Sample | None, list[tuple[int, int, str]]] | Failure:
        dataset = self.datasets[draw.dataset]
        tried: list[tuple[int, int, str]] = []
        most = len(dataset) // 2 + 1 if self.replace_broken else 1
        for step in range(most):
            index = (draw.index + step) % len(dataset)
            try:
                sample = self.prepared(dataset, Draw(draw.dataset, draw.epoch, index))
            except BrokenRecord as fault:
                tried.append((draw.dataset, index, str(fault)))
                continue
            except ValueError as error:  # not this record alone: the dataset or the settings are at fault
                return Failure(str(error))
            return sample, [*tried, (draw.dataset, index, "")]
        if self.replace_broken:
            return Failure(mostly_broken(dataset.name, len(tried), len(dataset), tried[0][2]))
        return None, tried

    def prepared(self, dataset: Records[Any], draw: Draw) -> Sample:
        random = generator(RECORD, self.seed, draw.dataset, draw.epoch, draw.index)
        return self.preparation(dataset[draw.index], dataset, random)


class MixedBatches(Sampler[list[Draw]]):
    """Which records make batch number n: without end, from batch `start`."""

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """batch_size: of one process; all of them together take batch_size * world_size records of one dataset."""
        if len(lengths) != len(weights) or not lengths or min(lengths) < 1:
            raise DatasetError(f"{len(lengths)} datasets came with {len(weights)} weights: give each one of its own.")
        if min(weights) < 0 or not 0 < sum(weights) < np.inf:
            raise DatasetError(f"The weights {', '.join(map(str, weights))} are no proportions: take numbers above 0.")
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_size = {batch_size}, process {rank} of {world_size}: no batch can be made of that."
            )
        self.lengths, self.batch_size, self.seed = list(lengths), batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.bounds = np.cumsum(np.asarray(weights, np.float64) / sum(weights))[:-1]
        self.start = 0

    def __iter__(self) -> Iterator[list[Draw]]:
        random = generator(CHOICE, self.seed)
        taken = np.bincount(self.choose(random.random(self.start)), minlength=len(self.lengths)).tolist()
        orders = [Order(length, self.seed, number) for number, length in enumerate(self.lengths)]
        while True:
            dataset = int(self.choose(random.random(1))[0])
            first = (taken[dataset] * self.world_size + self.rank) * self.batch_size
            taken[dataset] += 1
            yield [Draw(dataset, *orders[dataset].at(first + place)) for place in range(self.batch_size)]

    def choose(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers in [0, 1) -> datasets, by weight."""
        return np.searchsorted(self.bounds, numbers, side="right")

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a run to go on exactly; how the batch is shared out need not be."""
        bounds = [round(float(bound), 12) for bound in self.bounds]
        size = self.batch_size * self.world_size
        return {"lengths": self.lengths, "bounds": bounds, "batch_size": size, "seed": self.seed}


class Order:
    """A dataset gone through again and again, in a new order each time."""

    def __init__(self, length: int, seed: int, number: int) -> None:
        self.length, self.seed, self.number = length, seed, number
        self.epoch, self.permutation = -1, np.empty(0, np.int64)

    def at(self, place: int) -> tuple[int, int]:
        """Epoch and index of the record at a place of the endless row."""
        epoch, inside = divmod(place, self.length)
        if epoch != self.epoch:
            self.epoch = epoch
            self.permutation = generator(ORDER, self.seed, self.number, epoch).permutation(self.length)
        return epoch, int(self.permutation[inside])


class InOrder(Sampler[list[Draw]]):
    """Every record of every dataset once, process r taking each world_size-th."""

    def __init__(self, lengths: Sequence[int], batch_size: int = 1, rank: int = 0, world_size: int = 1) -> None:
        self.lengths, self.batch_size, self.rank, self.world_size = lengths, batch_size, rank, world_size

    def __iter__(self) -> Iterator[list[Draw]]:
        for dataset, length in enumerate(self.lengths):
            mine = range(self.rank, length, self.world_size)
            for first in range(0, len(mine), self.batch_size):
                yield [Draw(dataset, 0, index) for index in mine[first : first + self.batch_size]]

    def __len__(self) -> int:
        sizes = (len(range(self.rank, length, self.world_size)) for length in self.lengths)
        return sum(-(-size // self.batch_size) for size in sizes)


def collate(items: list[Any]) -> Batch | Failure:
    """Samples -> a batch, without those that were left out."""
    for item in items:
        if isinstance(item, Failure):
            return item
    read = [record for _, records in items for record in records]
    samples = [sample for sample, _ in items if sample is not None]
    shapes = {tuple(sample.image.shape[1:]) for sample in samples}
    if len(shapes) > 1:
        sizes = " and ".join(f"{width}x{height}" for height, width in sorted(shapes)[:2])
        return Failure(f"Pictures of {sizes} came into one batch: set `size`, or batches of 1.")
    parts = ([getattr(sample, name) for sample in samples] for name in ("image", "target", "valid"))
    image, target, valid = (torch.stack(part) if part else torch.empty(0) for part in parts)
    return Batch(image, target, valid, [sample.meta for sample in samples], read)


class Tally:
    """Which records were read and which of them were broken; each is named once."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.read: list[set[int]] = [set() for _ in names]
        self.broken: list[dict[int, str]] = [{} for _ in names]

    def add(self, read: Sequence[tuple[int, int, str]]) -> None:
        """DatasetError once more than half of the many records of a dataset are broken."""
        for dataset, index, reason in read:
            self.read[dataset].add(index)
            if reason and index not in self.broken[dataset]:
                self.broken[dataset][index] = reason
                if len(self.broken[dataset]) <= MOST_NAMED:
                    log.warning("Skipped: %s", reason)
        for dataset in {dataset for dataset, *_ in read}:
            if len(self.read[dataset]) >= ENOUGH:
                self.check(dataset)

    def check(self, dataset: int) -> None:
        broken, total = self.broken[dataset], len(self.read[dataset])
        if len(broken) * 2 > total:
            raise DatasetError(mostly_broken(self.names[dataset], len(broken), total, next(iter(broken.values()))))

    def summary(self) -> str:
        """One line: how many records of each dataset were read and skipped."""
        parts = zip(self.names, self.read, self.broken, strict=True)
        return "; ".join(f"{name}: {len(read)} records read, {len(broken)} skipped" for name, read, broken in parts)

    def close(self) -> str:
        """The summary, logged. DatasetError if more than half of what was read of a dataset is broken."""
        log.info("%s", self.summary())
        for dataset in range(len(self.names)):
            self.check(dataset)
        return self.summary()


class Loader:
    """Batches of a mixture, read by worker processes; counts those handed out, from which a run can be resumed."""

    def __init__(
        self,
        mixture: Mixture,
        batches: MixedBatches | InOrder,
        workers: int = 0,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        """start_method: of the workers: fork, spawn or forkserver; None is the system's own."""
        self.mixture, self.batches = mixture, batches
        self.tally = Tally([dataset.name for dataset in mixture.datasets])
        self.consumed = 0
        self.make: Callable[[], DataLoader[Any]] = lambda: DataLoader(
            mixture,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            worker_init_fn=quieten,
            multiprocessing_context=start_method if workers else None,
        )

    def __iter__(self) -> Iterator[Batch]:
        """DatasetError in one sentence, whichever process met it."""
        if isinstance(self.batches, MixedBatches):
            self.batches.start = self.consumed
        for batch in self.make():
            if isinstance(batch, Failure):
                raise DatasetError(batch.reason)
            self.tally.add(batch.read)
            self.consumed += 1
            if len(batch.image):
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """Of what has been handed out, whatever the workers have read ahead."""
        fingerprint = self.batches.fingerprint() if isinstance(self.batches, MixedBatches) else {}
        return {"batches": self.consumed, **fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch of that run. DatasetError if the data is not the same any more."""
        if not isinstance(self.batches, MixedBatches):
            raise TypeError("Only mixed batches can be resumed.")
        now = self.batches.fingerprint()
        for key, value in now.items():
            if state.get(key) != value:
                raise DatasetError(f"The run to resume had {key} = {state.get(key)}, now it is {value}: put that back.")
        self.consumed = int(state["batches"])


def quieten(worker: int) -> None:
    """One thread a worker: they are many already."""
    import cv2

    cv2.setNumThreads(0)
