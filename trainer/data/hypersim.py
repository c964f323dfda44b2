"""Hypersim, lying on disk as Apple publishes it."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .arrays import BrokenRecord, check_packages, read_array
from .records import MadeOf, Records, Sample, read_image, read_lines, refuse_task, root_of, why_unusable
from .truth import (
    DatasetError,
    Depth,
    Intrinsic,
    Normal,
    Segmentation,
    Settings,
    Truth,
    planar,
    protocol_of,
    read_truth,
)

SIZE = (768, 1024)
FOCAL_PX = 886.81
SPLITS = "metadata_images_split_scene_v1.csv"
COLUMNS = ("scene_name", "camera_name", "frame_id", "included_in_public_release", "split_partition_name")
"""Of that table, those that are read."""
NOTHING = -1
"""The render entity where no surface was hit."""
BACKFACING = 1e-3
"""Normals that look away from the camera by more than this are turned round."""


@dataclass(frozen=True)
class Map:
    """One kind of Hypersim's arrays."""

    file: str
    settings: Settings
    folder: str = "geometry"


MAPS: dict[str, Map] = {
    "depth": Map("depth_meters", Depth(unit="m", near=1e-5, far=65.0, kind="ray")),
    "disparity": Map("depth_meters", Depth(unit="m", near=1e-5, far=65.0, kind="ray")),
    "normal": Map("normal_cam", Normal(axes="opengl", encoding="signed")),
    "segmentation": Map("semantic", Segmentation(palette="nyu40", ignore=(NOTHING, 0))),
    "albedo": Map("diffuse_reflectance", Intrinsic(colour="linear"), "final"),
    "shading": Map("diffuse_illumination", Intrinsic(colour="linear"), "final"),
}


@dataclass(frozen=True)
class Frame:
    """One frame of one camera of one scene."""

    scene: str
    camera: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.scene}/{self.camera}/frame.{self.number:04d}"

    def path(self, folder: str, file: str) -> str:
        """Inside the root; folder: final or geometry."""
        return f"{self.scene}/images/scene_{self.camera}_{folder}_hdf5/frame.{self.number:04d}.{file}.hdf5"

    @property
    def preview(self) -> str:
        return f"{self.scene}/images/scene_{self.camera}_final_preview/frame.{self.number:04d}.tonemap.jpg"


class Hypersim(Records[Frame]):
    """Hypersim as Apple publishes it: ai_001_001/images/scene_cam_00_{final,geometry}_hdf5/frame.0000.*.hdf5.

    Pictures are tone-mapped from the linear colours, or taken from the previews where those were not downloaded. Depth
    becomes planar. Scenes of the split that are not on disk are left out; of those that are, every frame is expected.
    Cameras with a shifted or tilted lens are read like the others, as the published conversions do.
    """

    def __init__(self, root: str, task: str, split: str = "train", table: str = "") -> None:
        """split: train, val, test, or all. table: the CSV of splits, which is looked for in the root."""
        if task not in MAPS:
            raise refuse_task("Hypersim", task, MAPS)
        check_packages([".hdf5"])
        self.root, self.map = root_of(root), MAPS[task]
        frames, faults = [], []
        for frame in self.frames(split, Path(table) if table else self.root / SPLITS):
            reason = self.why_unusable(frame)
            if reason:
                faults.append(reason)
            else:
                frames.append(frame)
        settings = self.map.settings
        self.protocol = protocol_of(settings)
        palette = settings.table() if isinstance(settings, Segmentation) else None
        super().__init__(f"Hypersim {split}", task, settings.convention(), frames, faults, palette)

    def frames(self, split: str, table: Path) -> Iterator[Frame]:
        """Those of the split whose scene is on disk; without a table and for `all`, whatever is there."""
        if split == "all":
            yield from self.frames_on_disk()
        elif table.is_file():
            yield from self.frames_in(table, split)
        else:
            raise DatasetError(f"{table}, which says what is in the split {split}, is missing: fetch it, or take all.")

    def frames_on_disk(self) -> Iterator[Frame]:
        folder = f"_{self.map.folder}_hdf5"
        for path in sorted(self.root.glob(f"ai_*/images/scene_cam_*{folder}/frame.*.{self.map.file}.hdf5")):
            camera = path.parent.name.removeprefix("scene_").removesuffix(folder)
            yield Frame(path.parts[-4], camera, int(path.name.split(".")[1]))

    def frames_in(self, table: Path, split: str) -> Iterator[Frame]:
        rows = read_splits(table)
        splits = {row.get("split_partition_name", "") for row in rows}
        if split not in splits:
            raise DatasetError(f"{table} has no split {split!r}: it has {', '.join(sorted(filter(None, splits)))}.")
        there = {path.name for path in self.root.iterdir() if (path / "images").is_dir()}
        for row in rows:
            public = row["included_in_public_release"].strip().lower() == "true"
            if public and row["split_partition_name"] == split and row["scene_name"] in there:
                yield Frame(row["scene_name"], row["camera_name"], int(row["frame_id"]))

    def why_unusable(self, frame: Frame) -> str:
        """Empty if a picture, the truth and, for geometry, what was hit are there."""
        needed = (frame.path(self.map.folder, self.map.file), frame.path("geometry", "render_entity_id"))
        pictures = [why_unusable(self.root / path) for path in (frame.path("final", "color"), frame.preview)]
        reasons = [why_unusable(self.root / path) for path in needed] + [pictures[0] if all(pictures) else ""]
        return next(filter(None, reasons), "")

    def read(self, record: Frame) -> Sample:
        entity = read_array(self.root / record.path("geometry", "render_entity_id"))
        image = self.picture(record, entity != NOTHING)
        truth = read_truth(self.root / record.path(self.map.folder, self.map.file), self.map.settings)
        truth = truth.within(torch.from_numpy(entity != NOTHING)[None])
        height, width = truth.valid.shape[1:]
        intrinsics = _intrinsics_of(height, width)
        if isinstance(self.map.settings, Depth):
            truth = Truth(planar(truth.values, intrinsics), truth.valid)
        if isinstance(self.map.settings, Normal):
            truth = Truth(facing(truth.values, intrinsics), truth.valid)
        return self.sample(record.name, image, truth, intrinsics=intrinsics)

    def made_of(self, record: Frame) -> MadeOf:
        entity, colours = record.path("geometry", "render_entity_id"), record.path("final", "color")
        truth = record.path(self.map.folder, self.map.file)
        picture = tuple(self.root / path for path in (colours, record.preview, entity))
        return MadeOf(record.name, picture, (self.root / truth,), said_of_truth=self.map)

    def picture(self, record: Frame, hit: np.ndarray) -> Tensor:
        path = self.root / record.path("final", "color")
        if not path.is_file():
            return read_image(self.root / record.preview)[0]
        colours = read_array(path)
        if colours.shape[:2] != hit.shape or colours.ndim != 3:
            raise BrokenRecord(f"{path} has shape {colours.shape}, but its entities {hit.shape}.")
        return torch.from_numpy(np.moveaxis(tone_map(colours, hit), -1, 0).copy())


def read_splits(table: Path) -> list[dict[str, str]]:
    """The rows of Hypersim's CSV. DatasetError if it is none."""
    try:
        rows = list(csv.DictReader(read_lines(table)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table} is no CSV ({error}).") from None
    if not all(None not in map(row.get, COLUMNS) and row["frame_id"].isdecimal() for row in rows):
        raise DatasetError(f"{table} is not Hypersim's: a row lacks one of {', '.join(COLUMNS)}.")
    return rows


def _intrinsics_of(height: int, width: int) -> np.ndarray:
    """The camera that all frames are said to share, for pictures of any size."""
    f = FOCAL_PX * width / SIZE[1]
    return np.array([[f, 0.0, width / 2], [0.0, f, height / 2], [0.0, 0.0, 1.0]])


def tone_map(colours: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Linear light (H, W, 3) -> [0, 1] as Hypersim's owners show it: the 90th percentile of brightness becomes 0.8."""
    colours = np.nan_to_num(colours.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    brightness = (colours @ np.array([0.3, 0.59, 0.11], np.float32))[hit]
    bright = np.percentile(brightness, 90) if brightness.size else 1.0
    scale = 0.8**2.2 / bright if bright >= 1e-4 else 0.0
    scale = scale if brightness.size else 1.0
    return ((colours * scale).clip(0) ** (1 / 2.2)).clip(0, 1).astype(np.float32)


def facing(normals: Tensor, intrinsics: np.ndarray) -> Tensor:
    """Normals (3, H, W) along right, up, back; those that look away from the camera are turned round."""
    height, width = normals.shape[-2:]
    x = (torch.arange(width) + 0.5 - intrinsics[0, 2]) / intrinsics[0, 0]
    y = -(torch.arange(height)[:, None] + 0.5 - intrinsics[1, 2]) / intrinsics[1, 1]
    length = (x**2 + y**2 + 1).sqrt()
    away = (normals[0] * x + normals[1] * y - normals[2]) / length > BACKFACING
    return torch.where(away, -normals, normals)
