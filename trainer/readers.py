"""Readers: the papers' datasets, lying on disk as their owners publish them."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.colour import PALETTES
from .arrays import READERS as FILE_READERS
from .arrays import BrokenRecord, check_packages, read_array
from .data import PlainFolder, Records, Sample, list_files, read_image, read_names, read_truth
from .people import People, people_of, plain_people, read_annotations, skeleton_of
from .truth import (
    DatasetError,
    Depth,
    Level,
    Light,
    Normal,
    Segmentation,
    Settings,
    Truth,
    planar,
    read_description,
)

KITTI_SIZE = (352, 1216)
"""(H, W) of the part of a KITTI picture that all benchmarks use: the bottom, in the middle."""


def open_dataset(kind: str, task: str, **settings: Any) -> Records[Any]:
    """A row of DATASETS, opened. DatasetError names the nearest right spelling."""
    if kind not in DATASETS:
        near = difflib.get_close_matches(kind, DATASETS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"take one of {', '.join(DATASETS)}."
        raise DatasetError(f"There is no reader {kind!r}: {hint}")
    try:
        return DATASETS[kind](task=task, **settings)
    except TypeError as error:
        raise DatasetError(f"The reader {kind!r} cannot be opened with {', '.join(settings) or 'nothing'} ({error}).") from None


def open_folder(root: str, task: str, names: str = "") -> Records[Any]:
    """The plain folder of data.py, for dense truth or for people."""
    if task == "keypoints":
        return plain_people(root, read_description(Path(root)).name, read_names(names))
    return PlainFolder(root, task, names)


def root_of(root: str | Path) -> Path:
    """DatasetError unless it is a folder."""
    if not Path(root).is_dir():
        raise DatasetError(f"There is no folder {root}.")
    return Path(root)


def refuse_task(name: str, task: str, known: Iterable[str]) -> DatasetError:
    return DatasetError(f"{name} has no truth for the task {task!r}: it knows {', '.join(known)}.")


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
        """KITTI's: the last rows and the middle columns."""
        height, width = image.shape[-2:]
        if height < size[0] or width < size[1]:
            raise BrokenRecord(f"{where}: the picture is {width}x{height}, too small for the crop {size[1]}x{size[0]}.")
        return cls(height - size[0], (width - size[1]) // 2, *size)

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


class Dis5k(Pairs):
    """DIS5K: <split>/im/*.jpg and <split>/gt/*.png. Splits DIS-TR, DIS-VD, DIS-TE1 to DIS-TE4."""

    def __init__(self, root: str, task: str = "mask", split: str = "DIS-TR") -> None:
        if task not in ("mask", "matte"):
            raise refuse_task("DIS5K", task, ("mask", "matte"))
        root_of(Path(root) / split)
        pairs, faults = pair_folders(Path(root), f"{split}/im", f"{split}/gt")
        super().__init__(split, task, Path(root), pairs, Level(), faults)


P3M_SPLITS = {
    "train": ("train/blurred_image", "train/mask"),
    "P3M-500-P": ("validation/P3M-500-P/blurred_image", "validation/P3M-500-P/mask"),
    "P3M-500-NP": ("validation/P3M-500-NP/original_image", "validation/P3M-500-NP/mask"),
}


class P3m10k(Pairs):
    """P3M-10k: portraits with blurred faces, and their alpha."""

    def __init__(self, root: str, task: str = "matte", split: str = "train") -> None:
        if task not in ("matte", "mask"):
            raise refuse_task("P3M-10k", task, ("matte", "mask"))
        if split not in P3M_SPLITS:
            raise DatasetError(f"P3M-10k has no split {split!r}: it has {', '.join(P3M_SPLITS)}.")
        images, masks = P3M_SPLITS[split]
        root_of(Path(root) / images)
        pairs, faults = pair_folders(Path(root), images, masks)
        super().__init__(f"P3M-10k {split}", task, Path(root), pairs, Level(), faults)


VKITTI_FOCAL_PX = 725.0087
VKITTI_CENTRE = (620.5, 187.0)
VKITTI_DEPTH = Depth(unit="cm", near=1e-5, far=80.0)
"""Sky is stored as 65535, which lies beyond."""


class VirtualKitti2(Pairs):
    """Virtual KITTI 2: Scene01/clone/frames/{rgb,depth}/Camera_0/..., the archives unpacked into one or several folders."""

    def __init__(
        self,
        root: str,
        task: str = "depth",
        scenes: tuple[str, ...] = (),
        cameras: tuple[str, ...] = ("Camera_0",),
        crop: bool = True,
    ) -> None:
        """scenes: such as Scene01; none are all. crop: to the 1216x352 that KITTI's benchmarks use."""
        if task not in ("depth", "disparity"):
            raise refuse_task("Virtual KITTI 2", task, ("depth", "disparity"))
        pairs, faults = find_vkitti(root_of(root), tuple(scenes), tuple(cameras))
        size = KITTI_SIZE if crop else (0, 0)
        super().__init__("Virtual KITTI 2", task, Path(root), pairs, VKITTI_DEPTH, faults, size)

    def intrinsics(self, record: Pair) -> np.ndarray:
        """Of every camera. The published principal point counts from the first pixel's centre, ours from its corner."""
        (x, y), f = VKITTI_CENTRE, VKITTI_FOCAL_PX
        return np.array([[f, 0.0, x + 0.5], [0.0, f, y + 0.5], [0.0, 0.0, 1.0]])


def find_vkitti(root: Path, scenes: tuple[str, ...], cameras: tuple[str, ...]) -> tuple[list[Pair], list[str]]:
    """rgb_00001.jpg with the depth_00001.png of the same scene, variation and camera, wherever the archives lie."""
    found: dict[str, dict[tuple[str, ...], str]] = {"rgb": {}, "depth": {}}
    faults = []
    for path in sorted(root.rglob("*_[0-9][0-9][0-9][0-9][0-9].*")):
        *above, scene, variation, frames, kind, camera, file = ("", *path.relative_to(root).parts)[-6:]
        fits = frames == "frames" and kind in found and camera in cameras and (not scenes or scene in scenes)
        if fits and path.stat().st_size == 0:
            faults.append(f"{path} is empty (0 bytes).")
        if fits:
            number = Path(file).stem.rpartition("_")[2]
            found[kind][scene, variation, camera, number] = path.relative_to(root).as_posix()
    empty = {fault.split(" is empty")[0] for fault in faults}
    pairs = []
    for key in sorted({*found["rgb"], *found["depth"]}):
        paths = [found[kind].get(key) for kind in ("rgb", "depth")]
        if None in paths:
            kind = "depth" if paths[1] is None else "rgb"
            faults.append(f"{root}: {'/'.join(key[:2])}: frame {key[3]} of {key[2]} has no {kind}.")
        elif not {str(root / path) for path in paths if path} & empty:
            pairs.append(Pair(*(path for path in paths if path)))
    return pairs, faults


@dataclass(frozen=True)
class Source:
    """How the maps of a published list are stored."""

    depth: Depth
    crop: tuple[int, int] = (0, 0)
    """(H, W) cut from the bottom, in the middle."""
    trusted: tuple[tuple[float, float, float, float], ...] = ()
    """Rows from, to and columns from, to, as shares of the size: what evaluation looks at."""
    mask_column: int = -1
    """Which column of a list names the file of valid pixels."""
    raw: tuple[int, int] = (0, 0)
    """(H, W) of depth that is stored as bare float32."""


SOURCES: dict[str, Source] = {
    "hypersim": Source(Depth(unit="mm", near=1e-5, far=65.0)),
    "vkitti": Source(Depth(unit="cm", near=1e-5, far=80.0), crop=KITTI_SIZE),
    "taskonomy": Source(Depth(unit=1 / 512, near=1e-5, far=65.0)),
    "cityscapes": Source(Depth(unit=1 / 300, near=1e-5, far=80.0)),
    "nyu_v2": Source(Depth(unit="mm", near=1e-3, far=10.0), trusted=((45 / 480, 471 / 480, 41 / 640, 601 / 640),)),
    "kitti": Source(
        Depth(unit=1 / 256, near=1e-5, far=80.0), crop=KITTI_SIZE, trusted=((0.3324324, 0.91351351, 0.0359477, 0.96405229),)
    ),
    "scannet": Source(Depth(unit="mm", near=1e-3, far=10.0)),
    "diode": Source(Depth(unit="m"), mask_column=2),
    "eth3d": Source(Depth(unit="m", near=1e-5), raw=(4032, 6048)),
}
"""Units, ranges and crops of the lists that Marigold's and GenPercept's code come with."""


class DepthList(Pairs):
    """A list of pictures and depth maps, `rgb.png depth.png ...` a line, as Marigold and GenPercept publish them."""

    def __init__(self, root: str, task: str, list: str, source: str) -> None:
        """list: the text file. source: a row of SOURCES. Lines whose depth is None are left out, as is published."""
        if task not in ("depth", "disparity"):
            raise refuse_task(f"The list {list}", task, ("depth", "disparity"))
        self.source = source_named(source)
        rows = [line.split() for line in read_names(list)]
        short = next((row for row in rows if len(row) <= max(1, self.source.mask_column)), None)
        if short is not None:
            raise DatasetError(f"{list} has the line {' '.join(short)!r}: expected a picture and its depth map.")
        pairs = [Pair(row[0], row[1], row[self.source.mask_column] if self.source.mask_column > 0 else "") for row in rows]
        pairs, faults = those_there(root_of(root), [pair for pair in pairs if pair.truth != "None"])
        super().__init__(source, task, Path(root), pairs, self.source.depth, faults, self.source.crop)

    def truth(self, record: Pair) -> Truth:
        path = self.root / record.truth
        truth = read_raw(path, self.source) if self.source.raw != (0, 0) else super().truth(record)
        if record.valid:
            mask = read_array(self.root / record.valid) > 0
            truth = truth.within(torch.from_numpy(mask)[None])
        return truth

    def read(self, record: Pair) -> Sample:
        sample = super().read(record)
        for rows in self.source.trusted:
            sample.valid.logical_and_(share_of(sample.valid, rows))
        return sample


def source_named(name: str) -> Source:
    if name not in SOURCES:
        raise DatasetError(f"There is no source {name!r}: take one of {', '.join(SOURCES)}.")
    return SOURCES[name]


def share_of(valid: Tensor, shares: tuple[float, float, float, float]) -> Tensor:
    """True in rows and columns between shares of the size, rounded down."""
    height, width = valid.shape[-2:]
    inside = torch.zeros_like(valid)
    top, bottom = (int(share * height + 1e-9) for share in shares[:2])
    left, right = (int(share * width + 1e-9) for share in shares[2:])
    inside[..., top:bottom, left:right] = True
    return inside


def read_raw(path: Path, source: Source) -> Truth:
    """Bare float32 numbers; inf is not measured."""
    try:
        numbers = np.fromfile(path, "<f4")
    except OSError as error:
        raise BrokenRecord(f"{path} cannot be read ({error}).") from error
    if numbers.size != source.raw[0] * source.raw[1]:
        raise BrokenRecord(f"{path} holds {numbers.size} numbers; expected {source.raw[0]} x {source.raw[1]}.")
    return Truth.of(*source.depth.decode(numbers.reshape(source.raw)))


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


def why_unusable(path: Path) -> str:
    try:
        return "" if path.stat().st_size else f"{path} is empty (0 bytes)."
    except OSError:
        return f"{path} is missing."


JSON_KEYS = {
    "depth": "depth_conditioning_image",
    "disparity": "depth_conditioning_image",
    "normal": "normal_conditioning_image",
    "matte": "matting_conditioning_image",
    "mask": "dis_conditioning_image",
    "segmentation": "seg_conditioning_image",
}
"""Where GenPercept's rows name the truth of each task."""


class JsonLists(Pairs):
    """GenPercept's training lists: *.jsonl with `image` and `<task>_conditioning_image`, relative to the root."""

    def __init__(
        self,
        root: str,
        task: str,
        list: str,
        source: str = "hypersim",
        axes: str | tuple[str, ...] = (),
        palette: str = "",
    ) -> None:
        """list: one file, or a folder of them. source: a row of SOURCES. axes: of normals, which the lists do not say.

        EXR depth is in metres whatever the source. A segmentation without a palette stays in the colours it comes in.
        """
        if task not in JSON_KEYS:
            raise refuse_task("A GenPercept list", task, JSON_KEYS)
        row = source_named(source)
        pairs, faults = those_there(root_of(root), read_pairs(json_files(Path(list)), JSON_KEYS[task]))
        self.files = {Path(pair.truth).suffix.lower() for pair in pairs}
        settings = self.settings_of(task, row, axes, palette)
        super().__init__(source, task, Path(root), pairs, settings, faults, row.crop)

    def settings_of(self, task: str, row: Source, axes: str | tuple[str, ...], palette: str) -> Settings:
        """How the truth of a task is stored in these lists."""
        is_float = self.files <= {".exr", ".npy"}
        depth = Depth(unit="m", near=row.depth.near, far=row.depth.far) if is_float else row.depth
        makers: dict[str, Callable[[], Settings]] = {
            "depth": lambda: depth,
            "disparity": lambda: depth,
            "normal": lambda: Normal(axes=axes if isinstance(axes, str) else tuple(axes)),
            "matte": Level,
            "mask": Level,
            "segmentation": lambda: Segmentation(palette=palette),
        }
        return makers[task]()


def json_files(path: Path) -> list[Path]:
    """The file, or the *.jsonl of a folder. DatasetError if there are none."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise DatasetError(f"There is no .jsonl list at {path}.")
    return files


def read_pairs(files: list[Path], key: str) -> list[Pair]:
    """`image` and `key` of every row. DatasetError names the first line that lacks one."""
    pairs = []
    for file in files:
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                pairs.append(Pair(row["image"], row[key]))
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise DatasetError(f"{file}, line {number}, names no `image` and `{key}` ({error}).") from None
    return pairs


HYPERSIM_SIZE = (768, 1024)
HYPERSIM_FOCAL_PX = 886.81
HYPERSIM_SPLITS = "metadata_images_split_scene_v1.csv"
NOTHING = -1
"""The render entity where no surface was hit."""
BACKFACING = 1e-3
"""Normals that look away from the camera by more than this are turned round."""


@dataclass(frozen=True)
class HypersimMap:
    """One kind of Hypersim's arrays."""

    file: str
    settings: Settings
    folder: str = "geometry"


HYPERSIM_MAPS: dict[str, HypersimMap] = {
    "depth": HypersimMap("depth_meters", Depth(unit="m", near=1e-5, far=65.0, kind="ray")),
    "disparity": HypersimMap("depth_meters", Depth(unit="m", near=1e-5, far=65.0, kind="ray")),
    "normal": HypersimMap("normal_cam", Normal(axes="opengl", encoding="signed")),
    "segmentation": HypersimMap("semantic", Segmentation(palette="nyu40", ignore=(NOTHING, 0), offset=1)),
    "albedo": HypersimMap("diffuse_reflectance", Light(colour="linear"), "final"),
    "shading": HypersimMap("diffuse_illumination", Light(colour="linear"), "final"),
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
        if task not in HYPERSIM_MAPS:
            raise refuse_task("Hypersim", task, HYPERSIM_MAPS)
        check_packages([".hdf5"])
        self.root, self.map = root_of(root), HYPERSIM_MAPS[task]
        frames, faults = [], []
        for frame in self.frames(split, Path(table) if table else self.root / HYPERSIM_SPLITS):
            reason = self.why_unusable(frame)
            if reason:
                faults.append(reason)
            else:
                frames.append(frame)
        palette = PALETTES["nyu40"] if task == "segmentation" else None
        super().__init__(f"Hypersim {split}", task, self.map.settings.convention(), frames, faults, palette)

    def frames(self, split: str, table: Path) -> Iterator[Frame]:
        """Those of the split whose scene is on disk; without a table and for `all`, whatever is there."""
        if split == "all":
            yield from self.frames_on_disk()
        elif table.is_file():
            yield from self.frames_in(table, split)
        else:
            raise DatasetError(f"{table} says which frames are {split}, but is missing: fetch it, or take split = \"all\".")

    def frames_on_disk(self) -> Iterator[Frame]:
        for path in sorted(self.root.glob(f"ai_*/images/scene_cam_*_{self.map.folder}_hdf5/frame.*.{self.map.file}.hdf5")):
            camera = path.parent.name.removeprefix("scene_").removesuffix(f"_{self.map.folder}_hdf5")
            yield Frame(path.parts[-4], camera, int(path.name.split(".")[1]))

    def frames_in(self, table: Path, split: str) -> Iterator[Frame]:
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
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
        needed = [frame.path(self.map.folder, self.map.file), frame.path("geometry", "render_entity_id")]
        pictures = (frame.path("final", "color"), frame.preview)
        no_picture = [why_unusable(self.root / path) for path in pictures]
        return next(filter(None, (why_unusable(self.root / path) for path in needed)), "") or ("" if not all(no_picture) else no_picture[0])

    def read(self, record: Frame) -> Sample:
        entity = read_array(self.root / record.path("geometry", "render_entity_id"))
        image = self.picture(record, entity != NOTHING)
        truth = read_truth(self.root / record.path(self.map.folder, self.map.file), self.map.settings)
        truth = truth.within(torch.from_numpy(entity != NOTHING)[None])
        height, width = truth.valid.shape[1:]
        intrinsics = hypersim_intrinsics(height, width)
        if isinstance(self.map.settings, Depth):
            truth = Truth(planar(truth.values, intrinsics), truth.valid)
        if isinstance(self.map.settings, Normal):
            truth = Truth(facing(truth.values, intrinsics), truth.valid)
        return self.sample(record.name, image, truth, intrinsics=intrinsics)

    def picture(self, record: Frame, hit: np.ndarray) -> Tensor:
        path = self.root / record.path("final", "color")
        if not path.is_file():
            return read_image(self.root / record.preview)[0]
        colours = read_array(path)
        if colours.shape[:2] != hit.shape or colours.ndim != 3:
            raise BrokenRecord(f"{path} has shape {colours.shape}, but its entities {hit.shape}.")
        return torch.from_numpy(np.moveaxis(tone_map(colours, hit), -1, 0).copy())


def hypersim_intrinsics(height: int, width: int) -> np.ndarray:
    """The camera that all frames are said to share, for pictures of any size."""
    f = HYPERSIM_FOCAL_PX * width / HYPERSIM_SIZE[1]
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


def coco_keypoints(root: str, task: str, annotations: str, images: str, size: tuple[int, int] = (256, 192)) -> People:
    """COCO's person keypoints: annotations/person_keypoints_train2017.json and train2017/, both inside the root.

    size: (H, W) of the crop around each person.
    """
    if task != "keypoints":
        raise refuse_task("COCO keypoints", task, ("keypoints",))
    folder = root_of(Path(root) / images)
    try:
        table = read_annotations(Path(root) / annotations)
    except BrokenRecord as fault:
        raise DatasetError(str(fault)) from None
    skeleton = skeleton_of(table, annotations)
    there = {path.name for path in folder.iterdir()}
    files = {row["id"]: f"{images}/{row['file_name']}" for row in table.get("images", ()) if row["file_name"] in there}
    people, faults = people_of(table, files, skeleton, annotations)
    return People(Path(annotations).stem, Path(root), people, faults, skeleton, tuple(size))


DATASETS: dict[str, Callable[..., Records[Any]]] = {
    "folder": open_folder,
    "hypersim": Hypersim,
    "vkitti": VirtualKitti2,
    "dis5k": Dis5k,
    "p3m10k": P3m10k,
    "coco-keypoints": coco_keypoints,
    "depth-list": DepthList,
    "genpercept-list": JsonLists,
}
"""Everything that a [[data]] section of a training config can name."""
