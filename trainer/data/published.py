"""Readers: the papers' datasets, lying on disk as their owners publish them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.errors import UserError, meant
from ...core.measure.align import MAX_EDGE
from ...core.plain_files import parse_json
from ...core.tasks import task_named
from .arrays import BrokenRecord, read_array
from .benchmarks import Ade20k, Aim500, FrameNet, InteriorVerse, SintelNormals, dsine, marigold_normals
from .dmp import Dmp
from .folder import PlainFolder
from .hypersim import Hypersim
from .iiw import IntrinsicImagesInTheWild
from .layouts import DIODE, ETH3D, KITTI, NYU, SCANNET, Layout
from .normals_of_depth import normals_of_depth
from .nyu_normals import NyuNormals
from .pairs import Pair, Pairs, pair_folders, those_there
from .people import People, people_of, plain_people, read_annotations, skeleton_of
from .records import (
    Records,
    Sample,
    read_lines,
    read_names,
    refuse_task,
    root_of,
)
from .tasks import data_of, truths
from .truth import (
    DatasetError,
    Depth,
    Level,
    Normal,
    Protocol,
    Segmentation,
    Settings,
    Truth,
    read_description,
    read_truth,
)

KITTI_SIZE = (352, 1216)
"""(H, W) of the part of a KITTI picture that all benchmarks use: the bottom, in the middle."""


def open_dataset(kind: str, task: str, **settings: Any) -> Records[Any]:
    """A row of DATASETS, opened. DatasetError names the nearest right spelling."""
    check_reader(kind)
    parameters = signature(DATASETS[kind]).parameters
    try:
        signature(DATASETS[kind]).bind(task=task, **settings)
    except TypeError as error:
        raise DatasetError(f"The settings of the reader {kind!r} do not fit ({error}).") from None
    wrong = [name for name in settings if parameters[name].annotation == "str" and not _is_text(settings[name])]
    if wrong:
        raise DatasetError(f"{wrong[0]} = {settings[wrong[0]]!r} of the reader {kind!r}: expected a text.")
    return DATASETS[kind](task=task, **settings)


def check_reader(kind: str) -> None:
    """DatasetError that names the nearest right one."""
    if kind not in DATASETS:
        raise DatasetError(f"There is no reader {kind!r}: {meant(kind, DATASETS, 'take one of {known}.')}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str | Path)


def open_folder(root: str, task: str, names: str = "") -> Records[Any]:
    """The plain folder of folder.py, for dense truth or for people."""
    if task_named(data_of(task).name).per == "person":
        return plain_people(root, read_description(Path(root), truths()).name, read_names(names))
    return PlainFolder(root, task, names)


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
VKITTI_TRUTH: dict[str, Settings] = {
    "depth": VKITTI_DEPTH,
    "disparity": VKITTI_DEPTH,
    "normal": Normal(axes=("left", "up", "back"), encoding="signed"),
}


class VirtualKitti2(Pairs):
    """Virtual KITTI 2: Scene01/clone/frames/{rgb,depth}/Camera_0/..., its archives unpacked into one folder or more.

    It is published without normals: they are made of its depth as E2E-FT makes them, see normals_of_depth.
    """

    def __init__(
        self,
        root: str,
        task: str = "depth",
        scenes: tuple[str, ...] = (),
        cameras: tuple[str, ...] = ("Camera_0",),
        crop: bool = True,
        variations: tuple[str, ...] = (),
    ) -> None:
        """scenes: such as Scene01; none are all. variations: such as fog; none are all. crop: to the 1216x352 that
        KITTI's benchmarks use."""
        if task not in VKITTI_TRUTH:
            raise refuse_task("Virtual KITTI 2", task, VKITTI_TRUTH)
        pairs, faults = _find_vkitti(root_of(root), _Some(tuple(scenes), tuple(variations), tuple(cameras)))
        size = KITTI_SIZE if crop else (0, 0)
        super().__init__("Virtual KITTI 2", task, Path(root), pairs, VKITTI_TRUTH[task], faults, size)

    def truth(self, record: Pair) -> Truth:
        if self.task != "normal":
            return super().truth(record)
        depth = read_truth(self.root / record.truth, VKITTI_DEPTH)
        centimetres = (depth.values[0].double() * 100).round().numpy()
        return Truth.of(normals_of_depth(centimetres, self.intrinsics(record)), depth.valid[0].numpy())

    def intrinsics(self, record: Pair) -> np.ndarray:
        """Of every camera. The published principal point counts from the first pixel's centre, ours from its corner."""
        (x, y), f = VKITTI_CENTRE, VKITTI_FOCAL_PX
        return np.array([[f, 0.0, x + 0.5], [0.0, f, y + 0.5], [0.0, 0.0, 1.0]])


class _Some(NamedTuple):
    """What of Virtual KITTI 2 is read; none are all."""

    scenes: tuple[str, ...]
    variations: tuple[str, ...]
    cameras: tuple[str, ...]

    def has(self, scene: str, variation: str, camera: str) -> bool:
        return all(not some or one in some for some, one in zip(self, (scene, variation, camera)))


def _find_vkitti(root: Path, some: _Some) -> tuple[list[Pair], list[str]]:
    """rgb_00001.jpg with the depth_00001.png of the same scene, variation and camera, wherever the archives lie."""
    found: dict[str, dict[tuple[str, ...], str]] = {"rgb": {}, "depth": {}}
    faults = []
    for path in sorted(root.rglob("*_[0-9][0-9][0-9][0-9][0-9].*")):
        scene, variation, frames, kind, camera, file = (("",) * 6 + path.relative_to(root).parts)[-6:]
        fits = frames == "frames" and kind in found and some.has(scene, variation, camera)
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


EIGEN_CROP = (0.3324324, 0.91351351, 0.0359477, 0.96405229)
"""Rows from, to and columns from, to: where Eigen et al. (2014) evaluate KITTI."""


@dataclass(frozen=True)
class Source:
    """How the maps of a published list are stored."""

    depth: Depth
    crop: tuple[int, int] = (0, 0)
    """(H, W) cut from the bottom, in the middle."""
    trusted: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 1.0)
    """Rows from, to and columns from, to, as shares of the size: what evaluation looks at."""
    mask_column: int = -1
    """Which column of a list names the file of valid pixels."""
    raw: tuple[int, int] = (0, 0)
    """(H, W) of depth that is stored as bare float32."""
    resolution: int = -1
    """At which pictures are processed where the set is evaluated; -1 is as trained, 0 their own."""
    max_edge: int | None = None
    """See Protocol."""
    layout: Layout | None = None
    """Where its archive has its files, for who has no list."""
    clip: tuple[float, float] | None = None
    """Metres that predictions are clipped to, where that is not what the depth is read to."""

    @property
    def protocol(self) -> Protocol:
        """Of Marigold's and GenPercept's evaluation."""
        return Protocol(self.clip or self.depth.protocol().depth_range, self.max_edge, self.resolution)


SOURCES: dict[str, Source] = {
    "hypersim": Source(Depth(unit="mm", near=1e-5, far=65.0)),
    "vkitti": Source(Depth(unit="cm", near=1e-5, far=80.0), crop=KITTI_SIZE),
    "taskonomy": Source(Depth(unit=1 / 512, near=1e-5, far=65.0)),
    "cityscapes": Source(Depth(unit=1 / 300, near=1e-5, far=80.0)),
    "nyu_v2": Source(
        Depth(unit="mm", near=1e-3, far=10.0),
        trusted=(45 / 480, 471 / 480, 41 / 640, 601 / 640),
        resolution=0,
        layout=NYU,
    ),
    "kitti": Source(
        Depth(unit=1 / 256, near=1e-5, far=80.0), crop=KITTI_SIZE, trusted=EIGEN_CROP, resolution=0, layout=KITTI
    ),
    "scannet": Source(Depth(unit="mm", near=1e-3, far=10.0), resolution=0, layout=SCANNET),
    # its masks say what is valid, whatever its depth
    "diode": Source(Depth(unit="m"), mask_column=2, resolution=640, layout=DIODE, clip=(0.6, 350.0)),
    "eth3d": Source(Depth(unit="m", near=1e-5), raw=(4032, 6048), resolution=756, max_edge=MAX_EDGE, layout=ETH3D),
}
"""Units, ranges, crops and evaluation of the lists that Marigold's and GenPercept's code come with."""


class DepthList(Pairs):
    """A list of pictures and depth maps, `rgb.png depth.png ...` a line, as Marigold and GenPercept publish them."""

    def __init__(self, root: str, task: str, list: str, source: str, resolution: int | None = None) -> None:
        """list: the text file; empty for all that lies in the unpacked archive. source: a row of SOURCES. Lines whose
        depth is None are left out, as is published.

        resolution: at which its pictures are measured, -1 as trained, 0 their own; None as is published.
        """
        if task not in ("depth", "disparity"):
            raise refuse_task(f"The list {list}" if list else source, task, ("depth", "disparity"))
        self.source = _source_named(source)
        pairs, faults = those_there(root_of(root), self.named(list) if list else self.laid_out(Path(root), source))
        super().__init__(source, task, Path(root), pairs, self.source.depth, faults, self.source.crop)
        published = self.source.protocol
        self.protocol = published if resolution is None else replace(published, resolution=resolution)

    def laid_out(self, root: Path, source: str) -> list[Pair]:
        """What the archive holds."""
        if self.source.layout is None:
            raise DatasetError(f"The archive of {source} has no known layout: say list = ..., the text file.")
        return self.source.layout.pairs(root)

    def named(self, list: str) -> list[Pair]:
        """The lines of a list."""
        rows = [line.split() for line in read_names(list)]
        short = next((row for row in rows if len(row) <= max(1, self.source.mask_column)), None)
        if short is not None:
            raise DatasetError(f"{list} has the line {' '.join(short)!r}: expected a picture and its depth map.")
        column = self.source.mask_column
        return [Pair(row[0], row[1], row[column] if column > 0 else "") for row in rows if row[1] != "None"]

    def truth(self, record: Pair) -> Truth:
        path = self.root / record.truth
        truth = _read_raw(path, self.source) if self.source.raw != (0, 0) else super().truth(record)
        if record.valid:
            mask = read_array(self.root / record.valid) > 0
            truth = truth.within(torch.from_numpy(mask)[None])
        return truth

    def read(self, record: Pair) -> Sample:
        sample = super().read(record)
        return replace(sample, valid=sample.valid & _share_of(sample.valid, self.source.trusted))


def archived(source: str) -> Callable[..., DepthList]:
    """The reader of a source's archive."""

    def opened(root: str, task: str = "depth", list: str = "", resolution: int | None = None) -> DepthList:
        return DepthList(root, task, list, source, resolution)

    return opened


def _source_named(name: str) -> Source:
    if name not in SOURCES:
        raise DatasetError(f"There is no source {name!r}: take one of {', '.join(SOURCES)}.")
    return SOURCES[name]


def _share_of(valid: Tensor, shares: tuple[float, float, float, float]) -> Tensor:
    """True in rows and columns between shares of the size, rounded down."""
    height, width = valid.shape[-2:]
    inside = torch.zeros_like(valid)
    top, bottom = (int(share * height + 1e-9) for share in shares[:2])
    left, right = (int(share * width + 1e-9) for share in shares[2:])
    inside[..., top:bottom, left:right] = True
    return inside


def _read_raw(path: Path, source: Source) -> Truth:
    """Bare float32 numbers; inf is not measured."""
    try:
        numbers = np.fromfile(path, "<f4")
    except OSError as error:
        raise BrokenRecord(f"{path} cannot be read ({error}).") from error
    if numbers.size != source.raw[0] * source.raw[1]:
        raise BrokenRecord(f"{path} holds {numbers.size} numbers; expected {source.raw[0]} x {source.raw[1]}.")
    return Truth.of(*source.depth.decode(numbers.reshape(source.raw)))


class Said(NamedTuple):
    """What is said of the lists' truth, whatever their task."""

    depth: Depth
    axes: str | tuple[str, ...]
    palette: str


class Listed(NamedTuple):
    """The truth of one task in GenPercept's lists."""

    key: str
    """Of its file in a row."""
    settings: Callable[[Said], Settings]


LISTED: dict[str, Listed] = {
    "depth": Listed("depth_conditioning_image", lambda said: said.depth),
    "disparity": Listed("depth_conditioning_image", lambda said: said.depth),
    "normal": Listed("normal_conditioning_image", lambda said: Normal(axes=said.axes)),
    "matte": Listed("matting_conditioning_image", lambda said: Level()),
    "mask": Listed("dis_conditioning_image", lambda said: Level()),
    "segmentation": Listed("seg_conditioning_image", lambda said: Segmentation(palette=said.palette)),
}


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
        if task not in LISTED:
            raise refuse_task("A GenPercept list", task, LISTED)
        row = _source_named(source)
        pairs, faults = those_there(root_of(root), read_pairs(_json_files(Path(list)), LISTED[task].key))
        in_metres = {Path(pair.truth).suffix.lower() for pair in pairs} <= {".exr", ".npy"}
        depth = Depth(unit="m", near=row.depth.near, far=row.depth.far) if in_metres else row.depth
        said = Said(depth, axes if isinstance(axes, str) else tuple(axes), palette)
        super().__init__(source, task, Path(root), pairs, LISTED[task].settings(said), faults, row.crop)
        self.protocol = row.protocol


def _json_files(path: Path) -> list[Path]:
    """The file, or the *.jsonl of a folder. DatasetError if there are none."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise DatasetError(f"There is no .jsonl list at {path}.")
    return files


def read_pairs(files: list[Path], key: str) -> list[Pair]:
    """`image` and `key` of every row. DatasetError names the first line that lacks one."""
    pairs = []
    for file in files:
        for number, line in enumerate(read_lines(file), 1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
                pairs.append(Pair(str(row["image"]), str(row[key])))
            except (UserError, LookupError, TypeError) as error:
                raise DatasetError(f"{file}, line {number}, names no `image` and `{key}` ({error}).") from None
    return pairs


def coco_keypoints(root: str, task: str, annotations: str, images: str, size: tuple[int, int] = (256, 192)) -> People:
    """COCO's person keypoints: annotations/person_keypoints_train2017.json and train2017/, both inside the root.

    size: (H, W) of the crop around each person; in a run that is the run's own.
    """
    if task != "keypoints":
        raise refuse_task("COCO keypoints", task, ("keypoints",))
    folder = root_of(Path(root) / images)
    try:
        table = read_annotations(Path(root) / annotations)
    except BrokenRecord as fault:
        raise DatasetError(str(fault)) from None
    skeleton = skeleton_of(table, annotations)
    files, faults = _pictures_of(table, folder, images, annotations)
    people, wrong = people_of(table, files, skeleton, annotations)
    return People(Path(annotations).stem, Path(root), people, [*faults, *wrong], skeleton, (size[0], size[1]))


def _pictures_of(table: Any, folder: Path, images: str, where: str) -> tuple[dict[int | str, str], list[str]]:
    """{id: path, with `images` before it} of a COCO file's pictures that are there, and what is wrong with others.

    A file_name may have folders before it, of which exporters write those of their own disk.
    """
    if not isinstance(table.get("images"), list):
        raise DatasetError(f"{where} lacks `images`.")
    there = {path.name for path in folder.iterdir()}
    files, faults = {}, []
    for number, row in enumerate(table["images"]):
        named, key = (row.get("file_name"), row.get("id")) if isinstance(row, dict) else (None, None)
        if not isinstance(named, str) or not isinstance(key, int | str):
            faults.append(f"{where}: row {number} of `images` has no id or file_name.")
            continue
        inside = named.replace("\\", "/")
        if "/" in inside and not (folder / inside).is_file():
            inside = inside.rpartition("/")[2]
        if "/" in inside or inside in there:
            files[key] = f"{images}/{inside}"
    return files, faults


DATASETS: dict[str, Callable[..., Records[Any]]] = {
    "folder": open_folder,
    "hypersim": Hypersim,
    "vkitti": VirtualKitti2,
    "dis5k": Dis5k,
    "p3m10k": P3m10k,
    "coco-keypoints": coco_keypoints,
    "depth-list": DepthList,
    "genpercept-list": JsonLists,
    "nyuv2": archived("nyu_v2"),
    "kitti": archived("kitti"),
    "eth3d": archived("eth3d"),
    "scannet": archived("scannet"),
    "diode": archived("diode"),
    "dsine": dsine,
    "marigold-normals": marigold_normals,
    "sintel-normals": SintelNormals,
    "framenet": FrameNet,
    "nyu-normals": NyuNormals,
    "aim500": Aim500,
    "ade20k": Ade20k,
    "interiorverse": InteriorVerse,
    "iiw": IntrinsicImagesInTheWild,
    "dmp": Dmp,
}
"""Everything that a [[data]] section of a training config can name."""
