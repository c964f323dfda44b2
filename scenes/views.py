"""Views: one picture with all that is known about it, and the plain folder in which it is kept.

A split (train, val, test) is a folder with `dataset.toml` and one folder for each kind of map; files of one view share
a stem. Every folder but `images` may be absent: a dataset of your own needs only what its task needs.

    images/        8-bit sRGB PNG
    depth/         planar depth z in metres, not distance along the ray: 16-bit PNG in units of `depth.unit` metres, or
                   float32 NPY; 0 is unknown
    normal/        16-bit RGB PNG, n = value / 65535 * 2 - 1, unit vectors; x right, y up, z back (towards the camera);
                   the middle grey, whose length is next to 0, is unknown
    albedo/        8-bit sRGB PNG of the diffuse reflectance; 0 is unknown (glass, sky)
    shading/       16-bit RGB PNG, linear, value / 65535 * `shading.scale`; image = albedo * shading, both linear,
                   wherever the picture is not clipped, so highlights are part of it; 0 is unknown
    segmentation/  8-bit PNG of indices into `segmentation.classes`
    instance/      16-bit PNG, 0 is background
    mask/          8-bit PNG, 255 where a subject is: in a room people and animals, in a shot what it is of
    matte/         8-bit PNG of soft alpha: the part of the pixel that the subjects fill
    keypoints/     COCO JSON, one file a view; people whose joints are not known have `num_keypoints` 0
    camera/        JSON: width, height, K (3x3, pixels, pixel centres at .5), camera_to_world (4x4; camera axes right,
                   down, forward; world y up, metres), and what the renderer notes

`valid` is what the unknown values leave. A rendered view is whole when its camera file is there: it is written last.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..core.skeletons import SKELETONS
from ..core.srgb import to_srgb
from .cameras import Camera, focal_px
from .furniture import CLASSES
from .rooms import BEINGS

DEPTH_UNIT = 0.001
SHADING_SCALE = 8.0
SPLITS = ("train", "val", "test")
COCO = SKELETONS["coco-17"]
BONES = [(one + 1, other + 1) for one, other in COCO.limbs]
"""Counted from 1, as in COCO's files."""


@dataclass
class View:
    """One picture and its truth; arrays are (H, W) or (H, W, 3)."""

    image: np.ndarray
    """uint8 sRGB."""
    depth: np.ndarray
    """float32 planar z in metres, 0 where unknown."""
    normal: np.ndarray
    """float32 unit vectors, right, up, back; 0 where unknown."""
    albedo: np.ndarray
    """float32 linear, 0 where unknown."""
    shading: np.ndarray
    """float32 linear, image = albedo * shading; 0 where unknown."""
    segmentation: np.ndarray
    """uint8, index into CLASSES."""
    instance: np.ndarray
    """uint16."""
    camera: Camera
    subjects: tuple[int, ...] = ()
    """Instances that the mask is of."""
    matte: np.ndarray | None = None
    """float32 in [0, 1], of the subjects."""
    keypoints: dict[int, np.ndarray] = field(default_factory=dict)
    """Instance -> (17, 3): x, y in pixels and COCO visibility."""
    notes: dict[str, Any] = field(default_factory=dict)


def write_view(folder: Path, stem: str, view: View, depth_format: str = "png") -> None:
    """Every file of the view, each complete or absent, the camera file last."""
    pictures = {
        "images": view.image,
        "normal": np.round((view.normal + 1) / 2 * 65535).astype(np.uint16),
        "albedo": np.round(to_srgb(view.albedo) * 255).astype(np.uint8),
        "shading": np.round(np.clip(view.shading / SHADING_SCALE, 0, 1) * 65535).astype(np.uint16),
        "segmentation": view.segmentation,
        "instance": view.instance,
        "mask": np.isin(view.instance, view.subjects).astype(np.uint8) * 255,
    }
    if view.matte is not None:
        pictures["matte"] = np.round(view.matte * 255).astype(np.uint8)
    for kind, picture in pictures.items():
        _write(folder / kind / f"{stem}.png", _png(picture))
    if depth_format == "npy":
        _save(folder / "depth" / f"{stem}.npy", lambda file: np.save(file, view.depth.astype(np.float32)))
    else:
        units = np.round(view.depth / DEPTH_UNIT)
        # what 16 bits cannot hold is unknown rather than wrong
        _write(folder / "depth" / f"{stem}.png", _png(np.where(units > 65535, 0, units).astype(np.uint16)))
    _write(folder / "keypoints" / f"{stem}.json", _json(coco(view, stem)))
    _write(folder / "camera" / f"{stem}.json", _json(_describe(view)))


def is_complete(folder: Path, stem: str) -> bool:
    """Whether that view has been written whole."""
    return (folder / "camera" / f"{stem}.json").is_file()


def _describe(view: View) -> dict[str, Any]:
    """The camera file."""
    height, width = view.depth.shape
    f = focal_px(view.camera.fov_deg, width)
    return {
        "width": width,
        "height": height,
        "K": [[f, 0.0, width / 2], [0.0, f, height / 2], [0.0, 0.0, 1.0]],
        "camera_to_world": [list(row) for row in view.camera.pose],
        "fov_deg": view.camera.fov_deg,
        **view.notes,
    }


def coco(view: View, stem: str) -> dict[str, Any]:
    """The people of one view as COCO keypoint annotations."""
    height, width = view.depth.shape
    person = view.segmentation == CLASSES.index("person")
    annotations = []
    for instance in np.unique(view.instance[person]).tolist():
        rows, columns = np.nonzero(person & (view.instance == instance))
        joints = view.keypoints.get(instance, np.zeros((17, 3)))
        annotations.append(
            {
                "id": instance,
                "image_id": 0,
                "category_id": 1,
                "iscrowd": 0,
                "area": len(rows),
                "bbox": [float(columns.min()), float(rows.min()), float(np.ptp(columns) + 1), float(np.ptp(rows) + 1)],
                "num_keypoints": int((joints[:, 2] > 0).sum()),
                "keypoints": [round(float(value), 2) for value in joints.reshape(-1)],
            }
        )
    return {
        "images": [{"id": 0, "file_name": f"{stem}.png", "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": COCO.names, "skeleton": BONES}],
    }


def dataset_toml(name: str, depth_format: str, masked: tuple[str, ...] = BEINGS) -> str:
    """What the numbers in the folders mean, for readers and for people. masked: what the masks are of."""
    classes = ", ".join(json.dumps(label) for label in CLASSES)
    selected = ", ".join(json.dumps(label) for label in masked)
    unit = DEPTH_UNIT if depth_format == "png" else 1.0
    return f"""# {name}: rendered scenes with exact truth; the meaning of every folder
name = {json.dumps(name)}
format = 1

[depth]
unit = {unit}  # metres
kind = "planar"
invalid = 0

[normal]
axes = ["right", "up", "back"]

[albedo]
colour = "srgb"

[shading]
colour = "linear"
scale = {SHADING_SCALE}

[segmentation]
classes = [{classes}]
palette = "rooms"
ignore = 0

[mask]
classes = [{selected}]

[keypoints]
format = "coco"

[camera]
axes = ["right", "down", "forward"]
"""


def write_text(path: Path, text: str) -> None:
    """A text file, complete or absent."""
    _write(path, text.encode())


def _png(picture: np.ndarray) -> bytes:
    import cv2

    if picture.ndim == 3:
        picture = picture[..., ::-1]
    done, data = cv2.imencode(".png", np.ascontiguousarray(picture), [cv2.IMWRITE_PNG_COMPRESSION, 6])
    if not done:
        raise UserError(f"A {picture.dtype} array of shape {picture.shape} cannot be written as PNG.")
    return data.tobytes()


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    _save(path, lambda file: file.write(data))


def _save(path: Path, fill: Callable[[Any], Any]) -> None:
    """Fill a temporary neighbour, then give it the name: a killed run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
