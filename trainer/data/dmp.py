"""DMP's training data: pictures with a metadata.jsonl, and their targets in an LMDB."""

from __future__ import annotations

import io
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from ...core.errors import UserError
from ...core.plain_files import parse_json
from .arrays import UNREADABLE, BrokenRecord, pixels_of
from .records import MadeOf, Records, Sample, read_image, read_lines, refuse_task, root_of, why_unusable
from .truth import DatasetError, Depth, Intrinsic, Normal, Segmentation, Settings, Truth, protocol_of

SUFFIXES = {"albedo": "-r", "shading": "-s"}
"""What stands behind a picture's name in the keys of two tasks."""
TASKS = ("depth", "disparity", "normal", "albedo", "shading", "segmentation")


class Dmp(Records[str]):
    """Pictures with a metadata.jsonl, each row a `file_name`, and an LMDB of PNG bytes or, of depth, of npz bytes.

    Keys are names up to their first dot, of albedo with -r and of shading with -s behind.
    """

    def __init__(
        self,
        root: str,
        task: str,
        targets: str = "targets",
        axes: str | tuple[str, ...] = (),
        palette: str = "dmp",
    ) -> None:
        """targets: the LMDB, inside the root. axes: of normals, which the files do not say."""
        if task not in TASKS:
            raise refuse_task("DMP's data", task, TASKS)
        if find_spec("lmdb") is None:
            raise DatasetError("DMP's targets need the package lmdb: pip install lmdb")
        self.root, self.targets = root_of(root), Path(root) / targets
        if not self.targets.exists():
            raise DatasetError(f"There is no LMDB {self.targets}: say targets=, its path inside {root}.")
        self.settings = _settings_of(task, axes, palette)
        names = _names_in(self.root / "metadata.jsonl")
        faults = [reason for name in names if (reason := why_unusable(self.root / name))]
        there = [name for name in names if not why_unusable(self.root / name)]
        shown = self.settings.table() if isinstance(self.settings, Segmentation) else None
        super().__init__(f"DMP {self.root.name}", task, self.settings.convention(), there, faults, shown)
        self.protocol = protocol_of(self.settings)

    def read(self, record: str) -> Sample:
        image, _ = read_image(self.root / record)
        stored = _decoded_bytes(self.value(record), f"{self.targets}: {self.key(record)}")
        try:
            truth = Truth.of(*self.settings.decode(stored))
        except BrokenRecord as fault:
            raise BrokenRecord(f"{self.targets}: {self.key(record)}: {fault}.") from None
        return self.sample(record, image, truth)

    def key(self, record: str) -> str:
        return record.split(".")[0] + SUFFIXES.get(self.task, "")

    def value(self, record: str) -> bytes:
        """Opened anew for every record: an LMDB that is open does not travel to other processes."""
        import lmdb

        try:
            store = lmdb.open(str(self.targets), readonly=True, lock=False, subdir=self.targets.is_dir())
            with store, store.begin() as reading:
                found = reading.get(self.key(record).encode())
        except lmdb.Error as error:
            raise BrokenRecord(f"{self.targets} cannot be read ({error}).") from error
        if found is None:
            raise BrokenRecord(f"{self.targets} has nothing under {self.key(record)}.")
        return found

    def made_of(self, record: str) -> MadeOf:
        store = self.targets / "data.mdb" if self.targets.is_dir() else self.targets
        return MadeOf(record, (self.root / record,), (store,), said_of_truth=self.settings)


def _settings_of(task: str, axes: str | tuple[str, ...], palette: str) -> Settings:
    """What the numbers of a task mean."""
    kinds: dict[str, Settings] = {
        "albedo": Intrinsic(colour="srgb", invalid=()), "shading": Intrinsic(colour="srgb", invalid=()),
        "segmentation": Segmentation(palette=palette, ignore=()),
        "depth": Depth(unit="m"), "disparity": Depth(unit="m"),
    }  # fmt: skip
    return kinds[task] if task in kinds else Normal(axes=axes if isinstance(axes, str) else tuple(axes))


def _names_in(path: Path) -> list[str]:
    """`file_name` of every row. DatasetError names the first line that has none."""
    names = []
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            try:
                names.append(str(parse_json(line)["file_name"]))
            except (UserError, LookupError, TypeError) as error:
                raise DatasetError(f"{path}, line {number}, names no `file_name` ({error}).") from None
    return names


def _decoded_bytes(value: bytes, where: str) -> np.ndarray:
    """The numbers of PNG or npz bytes. BrokenRecord for others."""
    try:
        if zipfile.is_zipfile(io.BytesIO(value)):
            with np.load(io.BytesIO(value), allow_pickle=False) as archive:
                return archive["x"].astype(np.float32)
        with Image.open(io.BytesIO(value)) as picture:
            return pixels_of(picture)
    except (*UNREADABLE, KeyError) as error:
        raise BrokenRecord(f"{where} cannot be read ({error}).") from error
