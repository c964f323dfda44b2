"""Records: the one interface for every dataset, and what their readers share."""

from __future__ import annotations

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...core import plain_files
from ...core.display.colour import Palette
from ...core.errors import UserError
from ...core.perception_map import Convention
from ...core.srgb import to_srgb
from ...core.texts import read_text
from .arrays import BrokenRecord, check_file, read_colours
from .truth import DatasetError, NoTruth, Protocol, Truth, size_text

Record = TypeVar("Record")


log = logging.getLogger(__name__)

MOST_NAMED = 50
"""Broken records that are named one by one before only their number is given."""


@dataclass(frozen=True)
class Sample:
    """One picture and its truth."""

    image: Tensor
    """(3, H, W) float32 in [0, 1], sRGB."""
    target: Tensor
    """(C, H, W) float32: raw values, as the dataset's convention says, finite everywhere."""
    valid: Tensor
    """(1, H, W) bool: where the target can be trusted."""
    meta: dict[str, Any]
    """`dataset` and `record`, names; `intrinsics` (3, 3) float64 in pixels where known; for people `keypoints` (K, 3)
    float64: x, y in pixels, visibility, and `mirror` (K,): which keypoint each becomes in a mirror."""


class MadeOf(NamedTuple):
    """What a record is read from."""

    name: str
    """Of its picture, in the dataset."""
    picture: tuple[Path, ...] = ()
    truth: tuple[Path, ...] = ()
    """Files, those too that only say where the truth can be trusted."""
    said_of_picture: object = ""
    said_of_truth: object = ""
    """What they depend on besides: settings of the dataset, and numbers that lie in no file of the record's own."""

    def marks(self) -> Marks:
        """As it lies on disk now."""
        files = " ".join(path.as_posix() for path in self.truth)
        picture = (self.said_of_picture, [stamp(path) for path in self.picture])
        truth = (self.said_of_truth, [stamp(path) for path in self.truth])
        return Marks(self.name, f"{self.name} {files}", repr(picture), repr((picture, truth)))


class Marks(NamedTuple):
    """What tells a record's picture and truth from all others, and from what they were before they were changed."""

    picture: str
    truth: str
    """Names."""
    picture_stamp: str
    truth_stamp: str
    """Sizes and times of their files; truth may depend on the picture's too."""


def stamp(path: Path) -> tuple[int, int]:
    """What changes with a file's content: its size and time; of none that is there, nothing."""
    try:
        about = path.stat()
    except OSError:
        return (-1, -1)
    return (about.st_size, about.st_mtime_ns)


class Records(Dataset[Sample], ABC, Generic[Record]):
    """A dataset: a list of records, each of which can be read as a Sample.

    Subclasses are classes of a module and hold paths and settings only, so that they travel to worker processes.
    """

    protocol: Protocol = Protocol()
    """How predictions of its depth are measured."""
    comparisons: tuple[Any, ...] = ()
    """What `evaluate` reports of it, rows of measured.Comparison, where that is not its task's."""
    window: Callable[[Sample], Sample] | None = None
    """What is kept of each record as it is read, windows.Window; None is all of it."""

    def __init__(
        self,
        name: str,
        task: str,
        convention: Convention,
        records: Sequence[Record],
        faults: Iterable[str] = (),
        palette: Palette | None = None,
    ) -> None:
        self.name, self.task, self.convention, self.palette = name, task, convention, palette
        self.records = list(records)
        self.faults = tuple(faults)
        """What was found broken while listing, one sentence a record."""
        self.check_faults()

    def check_faults(self) -> None:
        """Name what is broken; DatasetError if that is more than half, or nothing is left."""
        total = len(self.records) + len(self.faults)
        for fault in self.faults[:MOST_NAMED]:
            log.warning("Skipped: %s", fault)
        if self.faults:
            log.warning("%s: %d of %d records skipped while listing", self.name, len(self.faults), total)
        if self.faults and len(self.faults) * 2 > total:
            raise DatasetError(mostly_broken(self.name, len(self.faults), total, self.faults[0]))
        if not self.records:
            raise DatasetError(f"{self.name} holds nothing to learn {self.task} from: look at the folder's layout.")

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """BrokenRecord, naming it, if there is no truth to be had from it."""
        sample = self.read(self.records[index])
        return sample if self.window is None else self.window(sample)

    def only(self, indices: Iterable[int]) -> Records[Record]:
        """Some of the same records, in that order."""
        other = copy.copy(self)
        other.records = [self.records[index] for index in indices]
        return other

    def through(self, window: Callable[[Sample], Sample]) -> Records[Record]:
        """The same records, of which that is kept."""
        other = copy.copy(self)
        other.window = window
        return other

    @abstractmethod
    def read(self, record: Record) -> Sample:
        """From disk."""

    def made_of(self, record: Record) -> MadeOf:
        """Its files, by which a change of the dataset is noticed."""
        return MadeOf(str(record), said_of_picture=record)

    def sample(self, record: str, image: Tensor, truth: Truth, **meta: Any) -> Sample:
        """A sample with its names, once it has been looked at. BrokenRecord if sizes differ or nothing is valid."""
        where = f"{self.name}: {record}"
        _check_truth(where, image, truth)
        target = truth.values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        return Sample(image, target, truth.valid, {"dataset": self.name, "record": record, **meta})


def mostly_broken(name: str, broken: int, total: int, first: str) -> str:
    return f"{name}: {broken} of {total} records are broken; mend it or its description. The first: {first}"


def _check_truth(where: str, image: Tensor, truth: Truth) -> None:
    """BrokenRecord unless sizes agree and something is valid."""
    if image.shape[1:] != truth.values.shape[1:]:
        raise BrokenRecord(f"{where}: the picture is {size_text(image)}, but its truth {size_text(truth.values)}.")
    if not truth.valid.any():
        raise BrokenRecord(f"{where}: no pixel of its truth is valid (all zero, NaN, or out of range).")


def read_image(path: Path, colour: str = "srgb") -> tuple[Tensor, Tensor]:
    """A picture (3, H, W) float32 in [0, 1], sRGB, and where it is not transparent (1, H, W) bool."""
    colours, alpha = read_colours(path)
    image = torch.from_numpy(np.ascontiguousarray(np.moveaxis(as_srgb(colours, colour), -1, 0), np.float32))
    return image, torch.from_numpy(np.ascontiguousarray(alpha > 0))[None]


def as_srgb(colours: np.ndarray, colour: str = "srgb") -> np.ndarray:
    """Colours as they are stored -> sRGB in [0, 1]."""
    colours = np.nan_to_num(colours, nan=0.0, posinf=1.0, neginf=0.0)
    return to_srgb(colours) if colour == "linear" else colours.clip(0, 1)


def read_json(path: Path) -> Any:
    """BrokenRecord if it is missing or no JSON."""
    check_file(path)
    try:
        return plain_files.read_json(path)
    except UserError as error:
        raise BrokenRecord(f"{path} is not JSON ({error}).") from error


def read_intrinsics(path: Path) -> np.ndarray:
    """The camera matrix (3, 3) of a camera file."""
    try:
        matrix = np.asarray(read_json(path)["K"], np.float64)
    except BrokenRecord:
        raise
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise BrokenRecord(f"{path} holds no camera matrix K ({error}).") from error
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        raise BrokenRecord(f"{path}: K is no camera matrix of 3 rows and 3 columns.")
    return matrix


class Fault(NamedTuple):
    """A file that cannot be used."""

    stem: str
    reason: str


def list_files(folder: Path, suffixes: Iterable[str]) -> tuple[dict[str, str], list[Fault]]:
    """{name without its ending: path beside the folder}, in order, and what is wrong: empty files, names used twice."""
    wanted = set(suffixes)
    found: dict[str, str] = {}
    faults: dict[str, Fault] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or path.suffix.lower() not in wanted or not path.is_file():
            continue
        stem = inside.with_suffix("").as_posix()
        if stem in found:
            faults[stem] = Fault(stem, f"{path} and {found[stem]} have one name.")
        elif path.stat().st_size == 0:
            faults[stem] = Fault(stem, f"{path} is empty (0 bytes).")
        found.setdefault(stem, path.relative_to(folder.parent).as_posix())
    return {stem: path for stem, path in found.items() if stem not in faults}, list(faults.values())


def read_names(path: str | Path) -> list[str]:
    """The lines of a text file that are not empty; none if there is no path."""
    if not path:
        return []
    if not Path(path).is_file():
        raise DatasetError(f"There is no list of names {path}.")
    return [line.strip() for line in read_lines(Path(path)) if line.strip()]


def read_lines(path: Path) -> list[str]:
    """DatasetError if it is no text."""
    try:
        return read_text(path).splitlines()
    except UserError as error:
        raise DatasetError(f"{path} cannot be read ({error}).") from None


def root_of(root: str | Path) -> Path:
    """DatasetError unless it is a folder."""
    if not Path(root).is_dir():
        raise DatasetError(f"There is no folder {root}.")
    return Path(root)


def refuse_task(name: str, task: str, known: Iterable[str]) -> NoTruth:
    return NoTruth(f"{name} has no truth for the task {task!r}: it knows {', '.join(known)}.")


def why_unusable(path: Path) -> str:
    try:
        return "" if path.stat().st_size else f"{path} is empty (0 bytes)."
    except OSError:
        return f"{path} is missing."
