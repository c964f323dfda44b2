"""Pairs: datasets of pictures with one file of truth each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from .arrays import READERS as FILE_READERS
from .arrays import BrokenRecord, check_packages
from .records import MadeOf, Records, Sample, list_files, read_image, why_unusable
from .truth import Segmentation, Settings, Truth, protocol_of, read_truth


class Pair(NamedTuple):
    """A picture and its truth, as paths inside the dataset's root; `valid` is empty where there is no such file."""

    image: str
    truth: str
    valid: str = ""


class Pairs(Records[Pair]):
    """Pictures with one file of truth each."""

    def __init__(
        self,
        name: str,
        task: str,
        root: Path,
        pairs: list[Pair],
        settings: Settings,
        faults: Iterable[str] = (),
        crop: tuple[int, int] = (0, 0),
    ) -> None:
        """crop: (H, W) that is cut from the bottom, in the middle; 0, 0 leaves pictures whole."""
        self.root, self.settings, self.crop = root, settings, crop
        self.protocol = protocol_of(settings)
        check_packages({Path(path).suffix.lower() for pair in pairs for path in pair[:2]})
        palette = settings.table() if isinstance(settings, Segmentation) else None
        super().__init__(name, task, settings.convention(), pairs, faults, palette)

    def read(self, record: Pair) -> Sample:
        image, _ = read_image(self.root / record.image)
        truth = self.truth(record)
        intrinsics = self.intrinsics(record)
        if self.crop != (0, 0):
            cut = Cut.bottom(image, self.crop, f"{self.name}: {record.image}")
            same = image.shape[1:] == truth.values.shape[1:]  # else the sizes are compared as they are, and refused
            image, truth = cut.apply(image), cut.truth(truth) if same else truth
            intrinsics = None if intrinsics is None else intrinsics - cut.shift()
        known = {} if intrinsics is None else {"intrinsics": intrinsics}
        return self.sample(record.image, image, truth, **known)

    def made_of(self, record: Pair) -> MadeOf:
        truth = tuple(self.root / path for path in (record.truth, record.valid) if path)
        return MadeOf(record.image, (self.root / record.image,), truth, self.crop, self.settings)

    def truth(self, record: Pair) -> Truth:
        return read_truth(self.root / record.truth, self.settings)

    def intrinsics(self, record: Pair) -> np.ndarray | None:
        """The camera matrix of a picture, where it is known."""
        return None


class Cut(NamedTuple):
    """Rows and columns that are kept."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def bottom(cls, image: Tensor, size: tuple[int, int], where: str) -> Cut:
        """KITTI's: the last rows and the middle columns. BrokenRecord if the picture is smaller."""
        height, width = image.shape[-2:]
        if height < size[0] or width < size[1]:
            raise BrokenRecord(f"{where}: the picture is {width}x{height}, too small for the crop {size[1]}x{size[0]}.")
        return cls(height - size[0], (width - size[1]) // 2, *size)

    @classmethod
    def middle(cls, image: Tensor, size: tuple[int, int], where: str) -> Cut:
        """The middle rows and columns. BrokenRecord if the picture is smaller."""
        lowest = cls.bottom(image, size, where)
        return lowest._replace(top=lowest.top // 2)

    def apply(self, tensor: Tensor) -> Tensor:
        return tensor[..., self.top : self.top + self.height, self.left : self.left + self.width].clone()

    def truth(self, truth: Truth) -> Truth:
        return Truth(self.apply(truth.values), self.apply(truth.valid))

    def shift(self) -> np.ndarray:
        """What the camera matrix loses."""
        return np.array([[0.0, 0.0, self.left], [0.0, 0.0, self.top], [0.0, 0.0, 0.0]])


def pair_folders(root: Path, images: str, truths: str) -> tuple[list[Pair], list[str]]:
    """Files of one name in two folders, and one sentence for each that is broken or alone."""
    found, faults = list_files(root / images, FILE_READERS)
    paired, truth_faults = list_files(root / truths, FILE_READERS)
    broken = {fault.stem: fault.reason for fault in (*faults, *truth_faults)}
    pairs = []
    for stem in sorted({*found, *paired} - {*broken}):
        if stem in found and stem in paired:
            pairs.append(Pair(f"{Path(images).parent}/{found[stem]}", f"{Path(truths).parent}/{paired[stem]}"))
        else:
            broken[stem] = f"{root / (truths if stem in found else images) / stem} (of any kind of file) is missing."
    return pairs, list(broken.values())


def those_there(root: Path, pairs: list[Pair]) -> tuple[list[Pair], list[str]]:
    """Pairs whose files all exist and hold something, and one sentence for each of the others."""
    good, faults = [], []
    for pair in pairs:
        reason = next(filter(None, (why_unusable(root / path) for path in pair if path)), "")
        if reason:
            faults.append(reason)
        else:
            good.append(pair)
    return good, faults
