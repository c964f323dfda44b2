"""NYUv2's normals by Ladický et al. (ECCV 2014), beside the labelled pictures that they were made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from .arrays import BrokenRecord, check_packages
from .records import MadeOf, Records, Sample, refuse_task, root_of, why_unusable
from .truth import DatasetError, Normal, Protocol, read_truth

PICTURES = "nyu_depth_v2_labeled.mat"
"""Silberman et al.'s 1449 pictures with their depth: an HDF5 file, as all of MATLAB's since 7.3."""
NORMALS = "nyu_normals_gt"


class NyuNormals(Records[int]):
    """nyu_normals_gt/<split>/NNNNN.png beside nyu_depth_v2_labeled.mat, in which that is picture NNNNN from 1.

    Bytes along forward, down, right, of normals that look at the camera (forward is never positive, as files of
    TiltedSN and DSINE, which were made of them, tell). Valid where the camera measured a depth, by its raw depths.
    """

    def __init__(self, root: str, task: str = "normal", split: str = "test") -> None:
        if task != "normal":
            raise refuse_task("NYUv2's normals", task, ("normal",))
        check_packages({".hdf5"})
        self.root = root_of(root)
        self.folder = root_of(self.root / NORMALS / split)
        self.settings = Normal(axes=("forward", "down", "right"), encoding="unsigned")
        self.protocol = Protocol(resolution=0)
        if reason := why_unusable(self.root / PICTURES):
            raise DatasetError(reason)
        numbers = sorted(int(path.stem) for path in self.folder.glob("*.png") if path.stem.isdecimal())
        super().__init__(f"NYUv2's normals, {split}", task, self.settings.convention(), numbers)

    def read(self, record: int) -> Sample:
        import h5py

        path = self.path(record)
        with h5py.File(self.root / PICTURES) as file:
            pictures: Any = file["images"]
            depths: Any = file["rawDepths"]
            if not 1 <= record <= len(pictures):
                raise BrokenRecord(f"{path}: {PICTURES} has no picture {record}, it ends with {len(pictures)}.")
            # MATLAB counts columns first
            colours, measured = pictures[record - 1].transpose(2, 1, 0), depths[record - 1].T > 0
        image = torch.from_numpy(np.moveaxis(colours, -1, 0).astype(np.float32) / 255)
        truth = read_truth(path, self.settings)
        return self.sample(path.name, image, truth.within(torch.from_numpy(measured)[None]))

    def path(self, record: int) -> Path:
        return self.folder / f"{record:05d}.png"

    def made_of(self, record: int) -> MadeOf:
        return MadeOf(str(record), (self.root / PICTURES,), (self.path(record),), said_of_picture=record)
