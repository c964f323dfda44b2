"""Batches: which pictures, in which order, a run learns from. Every draw follows from the seed and a place in the run.

Micro-batch m of a run teaches one task: every round teaches each task as often as its turns say, in an order of its
own. Datasets of a task are drawn by weight, records of a dataset without replacement until it is used up. Nothing is
remembered between draws: a run that goes on from step s sees what the unbroken one would have seen, and several
processes share out what a single one would have seen: nothing else may share the batches out once more, which
accelerate would do to a loader that it prepares.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...core.errors import UserError
from ...core.recipe import Recipe
from ..stop import deaf
from .arrays import BrokenRecord
from .augment import Augmentation, finish_sample, flip, generator, paste, place_sample
from .records import MOST_NAMED, Marks, Records, Sample, mostly_broken
from .targets import Supervision, TargetOptions
from .tasks import TaskData, data_of
from .truth import DatasetError

log = logging.getLogger(__name__)

TASK_ORDER, SOURCE_ORDER, RECORD_ORDER, AUGMENTATION, DRAWS = range(5)
"""What a random number is for: the first of the numbers that seed it."""
ENOUGH = 50
"""So many records of a dataset must have been read before too many broken ones stop a run; at its end any number will
do."""


class Reading(NamedTuple):
    """A record that was tried."""

    feed: int
    index: int
    fault: str
    """Why it is broken; empty if it is not."""


class Mark(NamedTuple):
    """What tells a picture as it is learnt, and its target, from all others."""

    origin: str
    way: str
    """flipped or upright."""
    options: TargetOptions
    record: Marks

    @property
    def key(self) -> str:
        return f"{self.origin} {self.record.picture} {self.way}"

    def of(self, purpose: str, task: str) -> tuple[str, str]:
        """The name of an `image` or `target`, and the stamp of what that name stands for now."""
        if purpose == "image":
            return f"{self.key} image", self.record.picture_stamp
        name = f"{self.origin} {self.record.truth} {self.way} {purpose} {task}"
        return name, f"{self.options} {self.record.truth_stamp}"


@dataclass(frozen=True)
class Batch:
    """Pictures of one task with their targets."""

    task: str
    image: Tensor
    """(B, 3, H, W) in [-1, 1]."""
    target: Tensor
    """(B, 3, H, W): the picture that the recipe's codec makes of the truth."""
    valid: Tensor
    """(B, 1, H, W) bool."""
    seeds: Tensor
    """(B,) int64, of whatever is drawn for a picture: timestep, noise, points."""
    intrinsics: Tensor | None = None
    """(B, 3, 3) in pixels, where all pictures' are known."""
    keys: tuple[str, ...] = ()
    """Which record each picture is, and whether it is flipped."""
    marks: tuple[Mark, ...] = ()
    """What their latents are kept under."""
    prompts: tuple[str, ...] = ()
    """The caption of each, where the dataset has them."""
    readings: tuple[Reading, ...] = field(default=())
    """Every record that was tried on the way, those too that another stands in for."""

    def __len__(self) -> int:
        return len(self.image)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Batch:
        """On the device; pictures in `dtype`."""
        return replace(
            self,
            image=self.image.to(device, dtype, non_blocking=True),
            target=self.target.to(device, dtype, non_blocking=True),
            valid=self.valid.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Feed:
    """One dataset that teaches one task."""

    records: Records[Any]
    recipe: Recipe
    options: TargetOptions
    augmentation: Augmentation
    weight: float = 1.0
    origin: str = ""
    """Where the records lie: tells datasets apart."""
    captions: Mapping[str, str] = field(default_factory=dict)
    """{name of a record's picture: its text}; empty where the dataset has none."""

    @property
    def data(self) -> TaskData:
        """The row of the recipe's task."""
        return data_of(self.recipe.row.name)

    @property
    def supervision(self) -> Supervision:
        return Supervision(self.data.target, self.records.convention, self.recipe, self.options, self.records.protocol)

    def sample(self, index: int, random: np.random.Generator) -> tuple[Sample, Mark]:
        """A record as it is learnt, flipped, cropped, normalised, resized; and its mark. BrokenRecord if it is none."""
        marks = self.marks(index)  # before it is read: what is changed meanwhile is then read anew
        convention, sample = self.records.convention, self.records[index]
        flipped = random.random() < self.augmentation.flip
        placed = flip(sample, convention) if flipped else sample
        placed = place_sample(placed, convention, replace(self.augmentation, flip=0.0), random)
        if self.data.pasted and random.random() < self.augmentation.copy_paste:
            placed = self.pasted(placed, random)
        values, valid = self.supervision.normalise(placed)
        if not valid.any():
            raise BrokenRecord(f"{self.records.name}: nothing of {placed.meta['record']} is valid.")
        told = {"prompt": self.captions[marks.picture]} if self.captions else {}
        learnt = replace(placed, target=values, valid=valid, meta={**placed.meta, **told})
        mark = Mark(self.origin, WAYS[flipped], self.options, marks)
        return finish_sample(learnt, self.data.resampling, self.augmentation, random), mark

    def marks(self, index: int) -> Marks:
        """A record's, as it lies on disk now."""
        return self.records.made_of(self.records.records[index]).marks()

    def every_mark(self) -> Iterator[Mark]:
        """Of all its records, in each way in which they are shown."""
        ways = [way for way, share in zip(WAYS, (1 - self.augmentation.flip, self.augmentation.flip)) if share]
        for index in range(len(self.records)):
            marks = self.marks(index)
            yield from (Mark(self.origin, way, self.options, marks) for way in ways)

    def pasted(self, sample: Sample, random: np.random.Generator) -> Sample:
        """The sample with what another record marks put into it; as it is if that record is broken."""
        try:
            donor = self.records[int(random.integers(len(self.records)))]
        except BrokenRecord:
            return sample  # it is named when its own turn comes
        return paste(sample, place_sample(donor, self.records.convention, self.augmentation, random))


WAYS = ("upright", "flipped")


class Drawn(NamedTuple):
    """One picture of a batch."""

    sample: Sample
    target: Tensor
    """(3, H, W), encoded."""
    seed: int
    mark: Mark
    readings: list[Reading]
    """The record, after those that were broken in its place."""


class Batches(Dataset[Batch]):
    """The micro-batches of one process, by their number in the run."""

    def __init__(
        self,
        feeds: Sequence[Feed],
        batch_size: int,
        count: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
        turns: Mapping[str, int] | None = None,
    ) -> None:
        """count: micro-batches in the whole run; turns: how many of each round a task has, 1 if left out."""
        self.feeds, self.batch_size, self.count, self.seed = list(feeds), batch_size, count, seed
        self.process, self.processes = process, processes
        self.kinds = {feed.recipe.id: feed.recipe.task for feed in feeds}
        """What the config calls each task: a recipe may have a name of its own."""
        self.tasks = tuple(self.kinds)
        self.round = tuple(task for task, kind in self.kinds.items() for _ in range((turns or {}).get(kind, 1)))

    def __len__(self) -> int:
        return self.count

    def visit(self, number: int) -> tuple[str, int]:
        """The task of micro-batch `number`, the same on every process, and how many before it had that one."""
        turn, place_in_round = divmod(number, len(self.round))
        order = generator(TASK_ORDER, self.seed, turn).permutation(len(self.round))
        *before, task = (self.round[i] for i in order[: place_in_round + 1])
        return task, turn * self.round.count(task) + before.count(task)

    def __getitem__(self, number: int) -> Batch:
        feed, earlier = self.feed_of(number)
        first = (earlier * self.processes + self.process) * self.batch_size
        rows = [self.sample(feed, first + i) for i in range(self.batch_size)]
        return _collate(self.feeds[feed].recipe.id, rows)

    def feed_of(self, number: int) -> tuple[int, int]:
        """The feed of micro-batch `number`, and how many before it had that one."""
        task, visit = self.visit(number)
        feeds, earlier = self.drawn(task)
        return int(feeds[visit]), int(earlier[visit])

    def drawn(self, task: str) -> tuple[np.ndarray, np.ndarray]:
        """For every visit of a task, which feed it draws, and how often that was drawn before."""
        return _draw_feeds(
            tuple((i, feed.weight) for i, feed in enumerate(self.feeds) if feed.recipe.id == task),
            -(-self.count // len(self.round)) * self.round.count(task),
            (SOURCE_ORDER, self.seed, self.tasks.index(task)),
        )

    def sample(self, number: int, position: int) -> Drawn:
        """Picture `position` of a feed's endless stream; a broken record gives way to the next one."""
        size = len(self.feeds[number].records)
        epoch, turn = divmod(position, size)
        order = _shuffled(size, (RECORD_ORDER, self.seed, number, epoch))
        readings: list[Reading] = []
        for attempt in range(size // 2 + 1):
            found = drawn(self.feeds, number, int(order[(turn + attempt) % size]), (self.seed, number, epoch, turn))
            if isinstance(found, Drawn):
                return found._replace(readings=[*readings, *found.readings])
            readings.append(found)
        raise DatasetError(mostly_broken(self.feeds[number].records.name, len(readings), size, readings[0].fault))


def marked(feeds: Sequence[Feed]) -> Iterator[tuple[str, str]]:
    """Mark.of() for everything of them that may be kept."""
    for feed in feeds:
        for mark in feed.every_mark():
            yield from (mark.of(purpose, feed.recipe.id) for purpose in ("image", "target"))


def listed(feeds: Sequence[Feed]) -> dict[str, Tensor]:
    """{number, task and dataset of a feed: (N,) int64, a number for each record as it lies on disk now}."""
    return {
        f"{number} {feed.recipe.id} {feed.origin}": torch.tensor(
            [number_of(feed.marks(index)) for index in range(len(feed.records))], dtype=torch.int64
        )
        for number, feed in enumerate(feeds)
    }


def number_of(about: object) -> int:
    """64 bits that another `about` has not."""
    return int.from_bytes(hashlib.blake2b(repr(about).encode(), digest_size=8).digest(), "big", signed=True)


def changes(before: Mapping[str, Tensor], now: Mapping[str, Tensor], feeds: Sequence[Feed]) -> list[str]:
    """What is another in datasets that were there before, one clause each."""
    clauses = []
    for feed, (name, records) in zip(feeds, now.items(), strict=True):
        old = before.get(name, records)
        new, gone = (int((~torch.isin(*pair)).sum()) for pair in ((records, old), (old, records)))
        if new or gone:
            clauses.append(
                f"of {feed.records.name}, {new} of {len(records)} records are new or changed and {gone} of {len(old)} "
                f"are no longer as they were ({feed.recipe.id})"
            )
    return clauses


def drawn(feeds: Sequence[Feed], number: int, index: int, place_in_run: tuple[int, ...]) -> Drawn | Reading:
    """A record of a feed as it is learnt at a place in the run; why there is none if it is broken."""
    feed = feeds[number]
    try:
        sample, mark = feed.sample(index, generator(AUGMENTATION, *place_in_run))
    except BrokenRecord as fault:
        return Reading(number, index, str(fault))
    target = feed.recipe.target_codec().encode(sample.target[None])[0]
    seed = int(generator(DRAWS, *place_in_run).integers(2**62))
    return Drawn(sample, target, seed, mark, [Reading(number, index, "")])


def in_order(feeds: Sequence[Feed], batch_size: int, most: int, seed: int, named: set[str]) -> Iterator[Batch]:
    """The first records of each feed once each, the same every time: `most` of all feeds together, all if that is 0.

    Broken ones are left out, so that a measure counts none twice, and named unless they are among `named`, which grows.
    DatasetError if there is no other.
    """
    share = max(most // len(feeds), 1) if most else 0
    found = 0
    for number, feed in enumerate(feeds):
        count = min(len(feed.records), share or len(feed.records))
        for first in range(0, count, batch_size):
            places = range(first, min(first + batch_size, count))
            tried = [drawn(feeds, number, i, (seed, number, 0, i)) for i in places]
            _name_once([row.fault for row in tried if isinstance(row, Reading)], named)
            rows = [row for row in tried if isinstance(row, Drawn)]
            found += len(rows)
            if rows:
                yield _collate(feed.recipe.id, rows)
    if not found:
        names = " and ".join(dict.fromkeys(feed.records.name for feed in feeds))
        raise DatasetError(f"None of the pictures of {names} that are to be measured can be read: mend it.")


def _name_once(faults: Sequence[str], named: set[str]) -> None:
    """Say what is broken, up to a number."""
    for fault in dict.fromkeys(faults):
        if fault not in named:
            named.add(fault)
            if len(named) <= MOST_NAMED:
                log.warning("Skipped: %s", fault)


@lru_cache(maxsize=64)
def _shuffled(size: int, numbers: tuple[int, ...]) -> np.ndarray:
    """A permutation."""
    return generator(*numbers).permutation(size)


@lru_cache(maxsize=64)
def _draw_feeds(
    weighted: tuple[tuple[int, float], ...], visits: int, numbers: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """(visits,) numbers of feeds, drawn by weight, and how often each had been drawn before."""
    indices, weights = np.array([i for i, _ in weighted]), np.array([weight for _, weight in weighted])
    drawn = generator(*numbers).choice(len(indices), visits, p=weights / weights.sum())
    earlier = np.zeros(visits, np.int64)
    for row in range(len(indices)):
        mine = drawn == row
        earlier[mine] = np.arange(mine.sum())
    return indices[drawn], earlier


def _collate(task: str, rows: Sequence[Drawn]) -> Batch:
    samples, targets, seeds, marks, readings = zip(*rows)
    cameras = [sample.meta.get("intrinsics") for sample in samples]
    known = [torch.from_numpy(np.asarray(camera)) for camera in cameras if camera is not None]
    return Batch(
        task=task,
        image=torch.stack([sample.image for sample in samples]) * 2 - 1,
        target=torch.stack(targets),
        valid=torch.stack([sample.valid for sample in samples]),
        seeds=torch.tensor(seeds),
        intrinsics=torch.stack(known) if len(known) == len(samples) else None,
        keys=tuple(mark.key for mark in marks),
        marks=marks,
        prompts=tuple(sample.meta["prompt"] for sample in samples if "prompt" in sample.meta),
        readings=tuple(reading for listed in readings for reading in listed),
    )


class Failure(NamedTuple):
    """Why there is no batch; it travels in place of an exception, whose message a worker makes a traceback of."""

    reason: str


class Guarded(Dataset[Batch | Failure]):
    """Batches, or the sentence that says why there are none."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, number: int) -> Batch | Failure:
        try:
            return self.batches[number]
        except (UserError, OSError) as error:
            return Failure(str(error))


def load(batches: Batches, first: int, workers: int, pin: bool = False) -> Generator[Batch, None, None]:
    """Micro-batches from number `first` to the last. DatasetError in one sentence, whichever process met it."""
    # a worker reads whole batches, so that their order does not depend on how many there are
    loader = DataLoader(
        Guarded(batches),
        batch_size=None,
        sampler=range(first, len(batches)),
        num_workers=workers,
        persistent_workers=False,
        pin_memory=pin,
        worker_init_fn=deaf,
    )
    reading = iter(loader)
    try:
        for found in reading:
            if isinstance(found, Failure):
                raise DatasetError(found.reason)
            yield found
    finally:
        # at once: a traceback would hold on to the workers, which then outlive whatever waits for them
        getattr(reading, "_shutdown_workers", bool)()


class Tally:
    """Which records a run has read and which of them were broken; each is named once."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self.names = [feed.records.name for feed in feeds]
        self.read: list[set[int]] = [set() for _ in feeds]
        self.broken: list[dict[int, str]] = [{} for _ in feeds]
        self.named: set[str] = set()

    def add(self, readings: Sequence[Reading]) -> None:
        """DatasetError once more than half of the many records that were read of a dataset are broken."""
        for feed, index, fault in readings:
            self.read[feed].add(index)
            if fault:
                self.broken[feed].setdefault(index, fault)
        _name_once([fault for *_, fault in readings if fault], self.named)
        for feed in {feed for feed, *_ in readings}:
            if len(self.read[feed]) >= ENOUGH:
                self.check(feed)

    def check(self, feed: int) -> None:
        broken, total = self.broken[feed], len(self.read[feed])
        if len(broken) * 2 > total:
            raise DatasetError(mostly_broken(self.names[feed], len(broken), total, next(iter(broken.values()))))

    @property
    def skipped(self) -> int:
        return sum(map(len, self.broken))

    def summary(self) -> str:
        """One line: how many records of each dataset were read and skipped."""
        # a dataset that teaches several tasks is a feed for each, and its pictures may be broken for one of them only
        parts = zip(self.names, self.read, self.broken, strict=True)
        return "; ".join(f"{name}: {len(read)} records read, {len(broken)} skipped" for name, read, broken in parts)

    def close(self) -> None:
        """Log the summary, as a warning where something was skipped. DatasetError if most of a dataset is broken."""
        log.log(logging.WARNING if self.skipped else logging.INFO, "%s", self.summary())
        for feed in range(len(self.names)):
            self.check(feed)
