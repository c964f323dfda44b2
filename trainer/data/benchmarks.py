"""Benchmarks: the sets that the field compares itself on, one function a set, each in its archive's own layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .arrays import BrokenRecord, read_array
from .layouts import FRAMENET, INTERIORVERSE, NORMALS_8_BIT, NORMALS_FLOAT, Layout
from .pairs import Pair, Pairs, pair_folders, those_there
from .records import Sample, read_image, read_names, refuse_task, root_of
from .truth import Intrinsic, Level, Normal, Protocol, Segmentation, Truth, read_truth


class NormalSet(Pairs):
    """DSINE's evaluation set, or Marigold's floats of it: *_img.png with *_normal.png or *_normal.npy."""

    def __init__(self, root: str, task: str, layout: Layout, settings: Normal, name: str, resolution: int) -> None:
        if task != "normal":
            raise refuse_task(name, task, ("normal",))
        pairs, faults = those_there(root_of(root), layout.pairs(Path(root)))
        super().__init__(f"{name} {Path(root).name}", task, Path(root), pairs, settings, faults)
        self.protocol = Protocol(resolution=resolution)


def dsine(root: str, task: str = "normal", resolution: int = 0) -> NormalSet:
    """A folder of dsine_eval, such as nyuv2 or ibims: bytes along left, up, back, black where unknown."""
    settings = Normal(axes=("left", "up", "back"), encoding="unsigned")
    return NormalSet(root, task, NORMALS_8_BIT, settings, "DSINE's", resolution)


FINE = ("diode", "oasis")
"""Of Marigold's sets of normals, those that are processed at 768 pixels; the others at 640."""


def marigold_normals(root: str, task: str = "normal", resolution: int | None = None) -> NormalSet:
    """A folder of Marigold's evaluation_dataset.zip: floats along right, up, back, of no length where unknown."""
    usual = 768 if set(FINE) & set(Path(root).absolute().parts) else 640
    settings = Normal(axes=("right", "up", "back"), encoding="signed")
    return NormalSet(root, task, NORMALS_FLOAT, settings, "Marigold's", usual if resolution is None else resolution)


class FrameNet(NormalSet):
    """ScanNet's normals by FrameNet (Huang et al., ICCV 2019): scene*/frame-NNNNNN-color.png, -normal.png beside it,
    and -orient-mask.png of where these count.

    Bytes along right, down, forward, as of its directions, which it projects by a camera that looks along +z.
    """

    def __init__(self, root: str, task: str = "normal", every: int = 1) -> None:
        """every: of the frames, in the order of their names, only each so manieth; 200 as it is tested on."""
        settings = Normal(axes=("right", "down", "forward"), encoding="unsigned")
        super().__init__(root, task, FRAMENET, settings, "FrameNet's", 0)
        self.records = self.records[::every]

    def truth(self, record: Pair) -> Truth:
        return super().truth(record).within(known(self.root / record.valid))


class Aim500(Pairs):
    """AIM-500: original/*.jpg and mask/*.png, the alpha of natural pictures."""

    def __init__(self, root: str, task: str = "matte") -> None:
        if task not in ("matte", "mask"):
            raise refuse_task("AIM-500", task, ("matte", "mask"))
        root_of(Path(root) / "original")
        pairs, faults = pair_folders(Path(root), "original", "mask")
        super().__init__("AIM-500", task, Path(root), pairs, Level(), faults)


class Ade20k(Pairs):
    """ADE20K's scene parsing: images/<split>/*.jpg and annotations/<split>/*.png, 0 for none of the 150 classes.

    A model of another palette is measured on the classes that both have, see targets.renumbering.
    """

    def __init__(self, root: str, task: str = "segmentation", split: str = "validation") -> None:
        if task != "segmentation":
            raise refuse_task("ADE20K", task, ("segmentation",))
        root_of(Path(root) / "images" / split)
        pairs, faults = pair_folders(Path(root), f"images/{split}", f"annotations/{split}")
        settings = Segmentation(palette="ade20k", ignore=(0,), offset=1)
        super().__init__(f"ADE20K {split}", task, Path(root), pairs, settings, faults)


MATERIAL = {"roughness": 0, "metallic": 1}
"""Which channel of InteriorVerse's material each task is."""


class InteriorVerse(Pairs):
    """InteriorVerse: <scene>/000_im.exr with 000_albedo.exr, 000_material.exr and 000_mask.exr, all linear."""

    def __init__(self, root: str, task: str = "albedo", scenes: str = "") -> None:
        """scenes: a text file with the name of one scene a line, to use these only."""
        if task not in (*INTERIORVERSE, *MATERIAL):
            raise refuse_task("InteriorVerse", task, (*INTERIORVERSE, *MATERIAL))
        row = INTERIORVERSE["material" if task in MATERIAL else task]
        pairs, faults = those_there(root_of(root), only(row.pairs(Path(root)), scenes))
        settings = Level(white=1.0) if task in MATERIAL else Intrinsic(colour="linear", invalid=())
        super().__init__("InteriorVerse", task, Path(root), pairs, settings, faults)

    def read(self, record: Pair) -> Sample:
        image, _ = read_image(self.root / record.image, "linear")
        return self.sample(record.image, image, self.truth(record))

    def truth(self, record: Pair) -> Truth:
        return self.values(record).within(known(self.root / record.valid))

    def values(self, record: Pair) -> Truth:
        if self.task not in MATERIAL:
            return read_truth(self.root / record.truth, self.settings)
        stored = read_array(self.root / record.truth)
        if stored.ndim != 3:
            raise BrokenRecord(f"{self.root / record.truth} has one channel, where roughness and metallicity are two.")
        return Truth.of(*self.settings.decode(stored[..., MATERIAL[self.task]]))


def known(path: Path) -> Tensor:
    """A mask's file -> (1, H, W) bool: where it is black in no channel."""
    return torch.from_numpy(np.atleast_3d(read_array(path) != 0).all(-1))[None]


def only(pairs: list[Pair], scenes: str) -> list[Pair]:
    """Those of the scenes that a file names; all where there is no file."""
    names = set(read_names(scenes))
    return [pair for pair in pairs if not names or names & set(Path(pair.image).parts)]
