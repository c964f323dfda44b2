"""Data: one interface for every dataset, and the plain folder in which you keep your own.

A folder holds pictures and one further folder for each kind of truth that you have. Files of one picture share their
name but for the ending; subfolders are fine (images/a/1.jpg goes with depth/a/1.png).

    images/        the pictures: PNG, JPEG, WebP, BMP, TIFF (8 or 16 bits), EXR, NPY
    depth/         distance along the optical axis, large is far; 16-bit PNG, EXR, NPY
    disparity/     its inverse, large is near
    normal/        surface normals; 8- or 16-bit RGB PNG, n = value / white * 2 - 1, or EXR and NPY in [-1, 1]
    mask/          white (or opaque) is the object; any greyscale picture
    matte/         the same with soft edges; a cut-out with alpha will do
    segmentation/  class numbers (greyscale or paletted PNG, NPY), or a picture in the classes' colours
    albedo/        the colour of surfaces without light; a colour picture
    shading/       the light that falls on them: image = albedo * shading, all linear; a colour or grey picture
    irradiance/, residual/, material/  pictures like shading; material has roughness in red and metallicity in green
    roughness/, metallic/  levels, as a mask has them: 0 is smooth, or no metal
    keypoints/     COCO JSON, one file a picture, see below
    valid/         where the truth can be trusted: 0 is not. Applies to every kind of truth
    camera/        JSON, one file a picture, with "K": the camera matrix (3x3) in pixels, the first one's middle at 0.5
    dataset.toml   what the numbers mean

Arrays are (H, W) or (H, W, C); EXR needs the package OpenEXR. Masks, mattes, and depth in metres in EXR or NPY need no
dataset.toml. This is everything that it can say, with what holds where nothing is said:

    name = "my rooms"              # the folder's name
    licence = ""                   # for people; so is `credits`

    [images]
    colour = "srgb"                # or "linear"

    [depth]
    unit = "mm"                    # or "cm", "m", "relative", or how many metres one level is; float files: "m"
    kind = "planar"                # or "ray": along the line of sight; needs camera/ or camera.fov_deg
    invalid = 0                    # number or list, as stored: nothing was measured. NaN, inf and values <= 0 always
    near = 0.0                     # trusted from here
    far = inf                      # to here, in metres; 10,000 in float files of metres, whose background is a number
    rotated = 0                    # by how many bits the levels of a 16-bit PNG are turned round; 3 in SUN RGB-D

    [disparity]
    unit = "relative"              # known up to an affine transform; or "1/m", or how many 1/metres one level is
    invalid = []
    offset = 0                     # the stored level of what is infinitely far

    [normal]
    axes = ["right", "up", "back"] # where red, green and blue point; or "opengl", "directx", "opencv", "controlnet_bae"
    encoding = ""                  # "unsigned" (0..white) or "signed" (-1..1); integers are unsigned, floats signed

    [mask]                         # and [matte], [roughness], [metallic]
    white = 255                    # the level that counts as 1; the largest of its type
    invert = false                 # true: black is the object
    invalid = []                   # levels at which it is unknown
    channel = "auto"               # "alpha" or "grey"; auto takes alpha where it is not the same everywhere
    classes = []                   # what is selected, for people

    [segmentation]
    classes = ["wall", "floor"]    # names, from number 0; or those of the palette
    palette = ""                   # "ade20k", "coco", "nyu40", "rooms", or a list of colours "RRGGBB", one a class
    ignore = [255]                 # class numbers that are not truth
    offset = 0                     # the number of the first class in the files

    [albedo]                       # and [shading], [irradiance], [residual], [material]
    colour = ""                    # "srgb" or "linear"; integers are srgb, floats linear
    scale = 1.0                    # the value of white
    invalid = 0                    # all channels at this level: unknown

    [camera]
    fov_deg = 0.0                  # horizontal field of view, where camera/ is missing
    axes = []                      # of poses, for people

    [keypoints]
    format = "coco"

keypoints/1.json has `annotations`, each a person: `bbox` [x, y, width, height], `keypoints` [x, y, v, ...] in pixels
(v: 0 not labelled, 1 hidden, 2 seen), and `categories`, whose row names the keypoints; left_* and right_* are each
other's mirror image. Every person is a record of its own. What a person may leave out: `num_keypoints` (as many as are
labelled; 0 leaves the person out), `area` in pixels of the silhouette (the box's), `iscrowd` (0), `category_id`.

A record that lacks a file, is empty or damaged, of another size than its picture, or without a single valid pixel is
named, skipped and counted; if more than half of them are, that is an error.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.geometry import intrinsics_from_fov
from .arrays import READERS, BrokenRecord, check_packages, read_array
from .records import MadeOf, Records, Sample, list_files, read_image, read_intrinsics, read_names, refuse_task
from .tasks import TASK_DATA, data_of, truths
from .truth import (
    Camera,
    DatasetError,
    Depth,
    Images,
    Kind,
    NoTruth,
    Segmentation,
    Truth,
    one_channel,
    planar,
    protocol_of,
    read_description,
    read_truth,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """The files of one picture in a plain folder, as paths inside its root; empty where there is none."""

    stem: str
    image: str
    truth: str
    valid: str = ""
    camera: str = ""


class PlainFolder(Records[Entry]):
    """The plain folder that this file opens with, for every task whose truth is a picture."""

    def __init__(self, root: str | Path, task: str, names: str | Path = "") -> None:
        """names: a text file with one name a line (as in images/, without the ending), to use these only."""
        self.root = Path(root)
        self.description = read_description(self.root, truths())
        self.kind = self.kind_of(task)
        self.settings = self.description.settings(self.kind.folder)
        self.images: Images = self.description.settings("images")
        self.camera: Camera = self.description.settings("camera")
        entries, faults = _pair_up(self.root, self.kind.folder, read_names(names))
        palette = self.settings.table() if isinstance(self.settings, Segmentation) else None
        super().__init__(self.description.name, task, self.settings.convention(), entries, faults, palette)
        self.protocol = protocol_of(self.settings)
        check_packages(Path(path).suffix.lower() for entry in entries for path in (entry.image, entry.truth))
        self.probe()

    def kind_of(self, task: str) -> Kind:
        """The folder this task is learnt from. DatasetError says what is there instead."""
        kinds = data_of(task).folders
        if not kinds:
            raise refuse_task("A plain folder", task, [name for name, row in TASK_DATA.items() if row.folders])
        if not self.root.is_dir():
            raise DatasetError(f"There is no folder {self.root}.")
        for kind in kinds:
            if (self.root / kind.folder).is_dir():
                return kind
        wanted = " or ".join(kind.folder + "/" for kind in kinds)
        there = ", ".join(sorted(path.name + "/" for path in self.root.iterdir() if path.is_dir())) or "no folder"
        raise NoTruth(f"{self.root} has no {wanted} to learn {task} from; it holds {there}.")

    def probe(self) -> None:
        """What is wrong with the whole dataset shows at its first record already."""
        try:
            self[0]
        except BrokenRecord:
            log.debug("%s: the first record is broken", self.name)

    def read(self, record: Entry) -> Sample:
        image, seen = read_image(self.root / record.image, self.images.colour)
        truth = read_truth(self.root / record.truth, self.settings)
        intrinsics = self.intrinsics(record, image)
        if isinstance(self.settings, Depth) and self.settings.kind == "ray":
            truth = Truth(planar(truth.values, self.required(intrinsics)), truth.valid)
        if not self.kind.see_through and seen.shape == truth.valid.shape:
            truth = truth.within(seen)
        if record.valid:
            truth = truth.within(_read_mask(self.root / record.valid))
        known = {} if intrinsics is None else {"intrinsics": intrinsics}
        return self.sample(record.stem, image, truth, **known)

    def made_of(self, record: Entry) -> MadeOf:
        truth = tuple(self.root / path for path in (record.truth, record.valid, record.camera) if path)
        return MadeOf(record.image, (self.root / record.image,), truth, self.images, (self.settings, self.camera))

    def intrinsics(self, record: Entry, image: Tensor) -> np.ndarray | None:
        """The camera matrix, from its file or the field of view; None if neither is there."""
        if record.camera:
            return read_intrinsics(self.root / record.camera)
        if self.camera.fov_deg:
            return intrinsics_from_fov(self.camera.fov_deg, image.shape[1], image.shape[2])[0].double().numpy()
        return None

    def required(self, intrinsics: np.ndarray | None) -> np.ndarray:
        if intrinsics is None:
            raise DatasetError(f"{self.name}: depth of kind 'ray' needs the camera: add camera/ or camera.fov_deg.")
        return intrinsics


def _read_mask(path: Path) -> Tensor:
    """A file of valid/ -> (1, H, W) bool."""
    stored = read_array(path)
    return torch.from_numpy(np.ascontiguousarray(one_channel(stored) != 0))[None]


def _pair_up(root: Path, folder: str, names: list[str]) -> tuple[list[Entry], list[str]]:
    """Pictures with their truth in `folder`, and one sentence for each that is broken."""
    images, faults = list_files(root / "images", READERS)
    truths, truth_faults = list_files(root / folder, READERS)
    valids, _ = list_files(root / "valid", READERS)
    cameras, _ = list_files(root / "camera", (".json",))
    broken = {fault.stem: fault for fault in (*truth_faults, *faults)}
    entries, sentences = [], []
    for stem in dict.fromkeys(names) if names else sorted({*images, *truths, *broken}):
        if stem in broken:
            sentences.append(broken[stem].reason)
        elif stem in images and stem in truths:
            entries.append(Entry(stem, images[stem], truths[stem], valids.get(stem, ""), cameras.get(stem, "")))
        else:
            missing = root / (folder if stem in images else "images") / stem
            sentences.append(f"{missing} (of any kind of file) is missing.")
    return entries, sentences
