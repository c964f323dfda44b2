"""`check`: a dataset looked over before training: counts, sizes, what is broken or not valid, and how it looks."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..core.display.picture import ready
from ..core.errors import UserError
from ..core.perception_map import PerceptionMap
from ..core.recipe import Recipe
from ..core.tasks import TASKS, task_named
from ..core.whole_file import whole_file
from .data.archives import lacking
from .data.arrays import BrokenRecord
from .data.batches import Feed
from .data.records import Records, Sample, size_text
from .data.truth import DatasetError, NoTruth
from .evaluation.results import write_json
from .evaluation.sets import NamedSet, feed_of, set_named

SHEET = 24
"""Pictures on a contact sheet."""
COLUMNS = 4
TILE = (144, 192)
"""(H, W) of a picture on it; its truth lies beside it."""
MOST_NAMED = 20


@dataclass(frozen=True)
class Look:
    """What `check` is asked for."""

    data: str
    tasks: Sequence[str] = ()
    images: int = 0
    """So many, evenly spread; 0 is all."""
    out: Path | None = None


@dataclass
class Found:
    """What there is of one task."""

    task: str
    listed: int
    """Records, those too that are broken."""
    faults: list[str]
    lacks: str = ""
    read: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    invalid: list[float] = field(default_factory=list)
    """Of each picture, the share that is not valid."""
    spans: list[tuple[float, float, float]] = field(default_factory=list)
    """Of each picture, the lowest, the middle and the highest valid value."""
    tiles: list[Tensor] = field(default_factory=list)

    classes: tuple[str, ...] = ()
    pixels: Counter[int] = field(default_factory=Counter)
    """Of each class, where the truth is classes."""

    def add(self, sample: Sample) -> None:
        """One more record."""
        self.read += 1
        if self.classes and len(sample.target) == 1:
            self.pixels.update(sample.target[sample.valid].int().tolist())
        self.sizes[size_text(sample.image)] += 1
        self.invalid.append(1 - sample.valid.float().mean().item())
        known = sample.target[:, sample.valid[0]]
        self.spans.append((known.min().item(), known.median().item(), known.max().item()))

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "task": self.task,
            "listed": self.listed,
            "read": self.read,
            "broken": self.faults,
            **({"incomplete": self.lacks} if self.lacks else {}),
            "sizes": dict(self.sizes.most_common()),
            **({"classes": self.shares()} if self.classes else {}),
            "not valid": spread(self.invalid),
            "lowest, middle, highest value": [spread([span[i] for span in self.spans]) for i in range(3)],
        }

    def shares(self) -> dict[str, float]:
        """Of the valid pixels, by the names of the classes that occur, the most frequent first."""
        return {self.classes[number]: count / self.pixels.total() for number, count in self.pixels.most_common()}

    def lines(self) -> Iterator[str]:
        """For a console."""
        yield f"{self.task}: {self.read} pictures read, {len(self.faults)} of {self.listed} broken"
        if self.lacks:
            yield f"  {self.lacks}"
        if self.read:
            common = ", ".join(f"{size} ({count})" for size, count in self.sizes.most_common(5))
            yield f"  sizes: {common}{' and others' if len(self.sizes) > 5 else ''}"
            low, middle, high = (f"{100 * share:.1f} %" for share in spread(self.invalid))
            yield f"  not valid: {middle} of a middle picture, {low} of the best, {high} of the worst"
            lows, middles, highs = zip(*self.spans)
            yield f"  values: {min(lows):.4g} to {max(highs):.4g}, {np.median(middles):.4g} in the middle"
        if self.classes:
            rare = len(self.classes) - len(self.pixels)
            common = ", ".join(f"{name} {100 * share:.1f} %" for name, share in [*self.shares().items()][:5])
            yield f"  classes: {common} ...; {rare} of {len(self.classes)} never occur"
        yield from (f"  broken: {fault}" for fault in self.faults[:MOST_NAMED])
        if len(self.faults) > MOST_NAMED:
            yield f"  and {len(self.faults) - MOST_NAMED} more"


def spread(numbers: Sequence[float]) -> list[float]:
    """The lowest, the median and the highest; nothing of none."""
    return [min(numbers), float(np.median(numbers)), max(numbers)] if numbers else []


def look_over(look: Look) -> int:
    """Look, say, write. 1 if something is broken or missing, else 0. UserError for what a person can mend."""
    if look.images < 0:
        raise UserError("--images counts pictures: give 0 or more.")
    if look.out is not None and look.out.exists() and not look.out.is_dir():
        raise UserError(f"--out {look.out} is a file: give a folder.")
    named = set_named(look.data)
    readable, broken = _open_tasks(named, look.tasks)
    found = [_looked_over(named, records, look) for records in readable]
    for each in found:
        sys.stdout.write("\n".join(each.lines()) + "\n")
    for reason in broken:
        sys.stderr.write(f"diffusion-perception: {reason}\n")
    if look.out is not None:
        look.out.mkdir(parents=True, exist_ok=True)
        write_json(look.out / "check.json", {"data": look.data, "tasks": [each.as_json() for each in found]})
        for each in found:
            if each.tiles:
                _save_sheet(each.tiles, look.out / f"{each.task}.png")
    return int(bool(broken) or any(each.faults or each.lacks for each in found))


def _open_tasks(named: NamedSet, tasks: Sequence[str]) -> tuple[list[Records[Any]], list[str]]:
    """The set's truth of every task that is asked for, or that it has, and why others are broken as a whole.

    DatasetError if none can be opened.
    """
    found, absent, broken = [], [], []
    for task in [task_named(task).name for task in tasks] or TASKS:
        try:
            found.append(named.open(task))
        except DatasetError as error:
            if tasks:
                raise
            (absent if isinstance(error, NoTruth) else broken).append(str(error))
    if not found:
        raise DatasetError([*broken, *absent][0])
    return found, broken


def _looked_over(named: NamedSet, records: Records[Any], look: Look) -> Found:
    """Every record read, or as many as are asked for."""
    listed = len(records) + len(records.faults)
    found = Found(records.task, listed, list(records.faults), lacking(named.reader, named.settings, listed))
    found.classes = records.palette.classes if records.palette else ()
    feed = feed_of(named, records, Recipe(records.task))
    chosen = _evenly(len(feed.records), look.images)
    shown = set(_evenly(len(chosen), SHEET))
    for number, index in enumerate(tqdm(chosen, desc=records.task, leave=False)):
        try:
            sample = feed.records[index]
        except BrokenRecord as fault:
            found.faults.append(str(fault))
            continue
        found.add(sample)
        if look.out is not None and number in shown:
            found.tiles.append(tile(sample, feed))
    return found


def _evenly(count: int, most: int) -> list[int]:
    """At most that many of the numbers below `count`, evenly spread; 0 is all."""
    step = max(count / most, 1.0) if most else 1.0
    return [int(i * step) for i in range(min(count, most or count))]


def tile(sample: Sample, feed: Feed) -> Tensor:
    """A picture and its truth beside it, as the nodes show it: (H, W, 3)."""
    pictures = [sample.image.movedim(0, -1)]
    if not feed.records.comparisons:
        values, valid = feed.supervision.normalise(sample)
        recipe = feed.recipe
        seen = PerceptionMap(recipe.task, values.movedim(0, -1)[None], recipe.convention(), recipe.id, valid)
        pictures.append(ready(seen)[0][0])
    return torch.cat([_fitted(picture.clamp(0, 1)) for picture in pictures], 1)


def _fitted(picture: Tensor) -> Tensor:
    """(H, W, 3) made smaller, or larger, to TILE without being squeezed; grey around it."""
    height, width = picture.shape[:2]
    factor = min(TILE[0] / height, TILE[1] / width)
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    small = F.interpolate(picture.movedim(-1, 0)[None], size, mode="area")[0].movedim(0, -1)
    canvas = torch.full((*TILE, 3), 0.5)
    canvas[: size[0], : size[1]] = small
    return canvas


def _save_sheet(tiles: Sequence[Tensor], path: Path) -> None:
    """All in a grid."""
    blank = torch.full_like(tiles[0], 0.5)
    rows = [tiles[first : first + COLUMNS] for first in range(0, len(tiles), COLUMNS)]
    sheet = torch.cat([torch.cat([*row, *[blank] * (COLUMNS - len(row))], 1) for row in rows])
    with whole_file(path) as partial:
        Image.fromarray((sheet * 255).round().byte().numpy()).save(partial, "PNG")
