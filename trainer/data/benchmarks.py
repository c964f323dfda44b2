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
from .truth import (
    DatasetError,
    Intrinsic,
    Level,
    Normal,
    Protocol,
    Segmentation,
    Settings,
    Truth,
    read_truth,
)


class NormalSet(Pairs):
    """DSINE's evaluation set, or Marigold's floats of it: *_img.png with *_normal.png or *_normal.npy."""

    def __init__(
        self, root: str, task: str, layout: Layout, settings: Normal, name: str, resolution: int, list: str = ""
    ) -> None:
        """list: a text file of pictures and their normals, a pair a line; empty for all that lies in the folder."""
        if task != "normal":
            raise refuse_task(name, task, ("normal",))
        pairs = _listed(list) if list else layout.pairs(root_of(root))
        pairs, faults = those_there(root_of(root), pairs)
        super().__init__(f"{name} {Path(root).name}", task, Path(root), pairs, settings, faults)
        self.protocol = Protocol(resolution=resolution)


def _listed(list: str) -> list[Pair]:
    """The lines of a list, `picture normals`, inside the root. DatasetError for a line that is none."""
    rows = [line.split() for line in read_names(list)]
    short = next((row for row in rows if len(row) < 2), None)
    if short is not None:
        raise DatasetError(f"{list} has the line {short[0]!r}: expected a picture and its normals.")
    return [Pair(row[0], row[1]) for row in rows]


def dsine(root: str, task: str = "normal", resolution: int = 0) -> NormalSet:
    """A folder of dsine_eval, such as nyuv2 or ibims: bytes along left, up, back, black where unknown."""
    settings = Normal(axes=("left", "up", "back"), encoding="unsigned")
    return NormalSet(root, task, NORMALS_8_BIT, settings, "DSINE's", resolution)


FINE = ("diode", "oasis")
"""Of Marigold's sets of normals, those that are processed at 768 pixels; the others at 640."""


MARIGOLDS = Normal(axes=("right", "up", "back"), encoding="signed")
"""Floats, of no length where unknown."""


def marigold_normals(root: str, task: str = "normal", resolution: int | None = None, list: str = "") -> NormalSet:
    """A folder of Marigold's evaluation_dataset.zip, or what its scripts make of a set to learn from.

    list: of its data_split, such as interiorverse_filtered_all.txt; empty for all that lies in the folder.
    """
    usual = 768 if set(FINE) & set(Path(root).absolute().parts) else 640
    processed = usual if resolution is None else resolution
    return NormalSet(root, task, NORMALS_FLOAT, MARIGOLDS, "Marigold's", processed, list)


class SintelNormals(NormalSet):
    """Sintel's normals as Marigold learns them: its sintel.zip, <scene>/frame_NNNN_img.png with frame_NNNN_normal.npy.

    As there the middle 582 columns are kept, of the shape of 640x480, and sky, which has no normal, faces the camera.
    """

    def __init__(self, root: str, task: str = "normal", list: str = "") -> None:
        """list: Marigold's sintel_filtered.txt, which leaves out frames of little worth; empty for all."""
        super().__init__(root, task, NORMALS_FLOAT, MARIGOLDS, "Marigold's", 640, list)
        self.crop = (436, 582)

    def truth(self, record: Pair) -> Truth:
        truth = super().truth(record)
        facing = torch.tensor([0.0, 0.0, 1.0])[:, None, None]
        return Truth(torch.where(truth.valid, truth.values, facing), torch.ones_like(truth.valid))


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
INTERIORVERSE_TRUTH: dict[str, Settings] = {
    "albedo": Intrinsic(colour="linear", invalid=()),
    "normal": MARIGOLDS,
    **{task: Level(white=1.0) for task in MATERIAL},
}


class InteriorVerse(Pairs):
    """InteriorVerse: <scene>/000_im.exr with 000_albedo.exr, 000_material.exr and 000_mask.exr, all linear, and
    000_normal.exr: floats along right, up, back, as Marigold learns them, of no length where unknown."""

    def __init__(self, root: str, task: str = "albedo", scenes: str = "") -> None:
        """scenes: a text file with the name of one scene a line, to use these only."""
        if task not in INTERIORVERSE_TRUTH:
            raise refuse_task("InteriorVerse", task, INTERIORVERSE_TRUTH)
        row = INTERIORVERSE["material" if task in MATERIAL else task]
        pairs, faults = those_there(root_of(root), only(row.pairs(Path(root)), scenes))
        super().__init__("InteriorVerse", task, Path(root), pairs, INTERIORVERSE_TRUTH[task], faults)

    def read(self, record: Pair) -> Sample:
        image, _ = read_image(self.root / record.image, "linear")
        return self.sample(record.image, image, self.truth(record))

    def truth(self, record: Pair) -> Truth:
        values = self.values(record)
        return values.within(known(self.root / record.valid)) if record.valid else values

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
