"""Verify: how far the maps of rendered views agree with one another."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..core.errors import UserError
from ..core.srgb import to_linear
from .cameras import Camera, back_project, normals_from_depth
from .furniture import CLASSES
from .views import SPLITS


@dataclass(frozen=True)
class Report:
    """How far the maps of a folder agree with each other, medians over views."""

    views: int
    normal_deg: float
    """Median angle between the normals and those of the depth, on smooth pixels; the worst view is `worst_deg`."""
    worst_deg: float
    floor_mm: float
    """How far floor pixels are from the plane y = 0 beyond what rounding explains, 99th percentile, worst view."""
    intrinsic: float
    """Median relative error of image = albedo * shading."""
    unknown: float
    """Share of pixels without depth."""
    masked: float
    """Share of views with anything in the mask."""
    joints: int
    """People with known joints."""

    def text(self) -> str:
        return (
            f"{self.views} views; normals against depth: median {self.normal_deg:.2f} deg,"
            f" worst view {self.worst_deg:.2f}; floor off its plane: {self.floor_mm:.2f} mm;"
            f" image against albedo x shading: {self.intrinsic:.1%}; without depth: {self.unknown:.1%};"
            f" views with a mask: {self.masked:.0%}; people with joints: {self.joints}\n"
        )

    def faults(self) -> list[str]:
        found = []
        if not self.normal_deg < 2.0:
            found.append(f"normals differ from those of the depth by {self.normal_deg:.2f} degrees, more than 2")
        if not self.floor_mm < 2.0:
            found.append(f"the floor is {self.floor_mm:.2f} mm off its plane, more than 2")
        if not self.intrinsic < 0.15:
            found.append(f"image differs from albedo x shading by {self.intrinsic:.0%}, more than 15%")
        return found


def verify(out: Path) -> Report:
    """Read every view of a rendered folder back and measure how exact it is."""
    folders = [folder for folder in (out, *(out / split for split in SPLITS)) if (folder / "dataset.toml").is_file()]
    stems = [(folder, path.stem) for folder in folders for path in sorted((folder / "camera").glob("*.json"))]
    if not stems:
        raise UserError(f"{out} holds no rendered views; render some with `diffusion-perception scenes --out {out}`.")
    rows = [_measure(folder, name) for folder, name in stems]

    def middle(name: str) -> float:
        values = [row[name] for row in rows if np.isfinite(row[name])]
        return float(np.median(values)) if values else 0.0

    angles = [row["normal_deg"] for row in rows if np.isfinite(row["normal_deg"])]
    return Report(
        len(rows),
        middle("normal_deg"),
        max(angles, default=0.0),
        max((row["floor_mm"] for row in rows if np.isfinite(row["floor_mm"])), default=0.0),
        middle("intrinsic"),
        float(np.mean([row["unknown"] for row in rows])),
        float(np.mean([row["masked"] for row in rows])),
        int(sum(row["joints"] for row in rows)),
    )


def _measure(folder: Path, name: str) -> dict[str, float]:
    """The agreements of one view."""
    maps = read_maps(folder, name)
    camera, depth, normal = maps["camera"], maps["depth"], maps["normal"]
    smooth = _smooth_pixels(depth, normal, maps["instance"], maps["segmentation"])
    cosine = (normals_from_depth(depth, camera) * normal).sum(-1)
    angle = np.degrees(np.arccos(np.clip(cosine[smooth], -1, 1)))
    points = back_project(depth, camera)
    pose = camera.matrix()
    height = (points @ pose[:3, :3].T + pose[:3, 3])[..., 1]
    ground = np.isin(maps["segmentation"], (CLASSES.index("floor"), CLASSES.index("ground"))) & (depth > 0)
    # half a depth step along the ray moves the point up or down by this much
    slack = maps["step"] / 2 * np.abs(height - pose[1, 3]) / np.maximum(depth, 1e-6)
    off = np.maximum(np.abs(height) - slack, 0)[ground]
    product = to_linear(maps["albedo"] / 255.0) * maps["shading"]
    image = to_linear(maps["image"] / 255.0)
    usable = (maps["shading"].max(-1) > 0) & (image.max(-1) < 0.98) & (image.min(-1) > 0.01)
    error = np.abs(product - image)[usable] / image[usable]
    return {
        "normal_deg": float(np.median(angle)) if smooth.sum() > 50 else np.nan,
        "floor_mm": float(np.percentile(off, 99) * 1000) if ground.sum() > 20 else np.nan,
        "intrinsic": float(np.median(error)) if error.size else np.nan,
        "unknown": float((depth == 0).mean()),
        "masked": float(maps["mask"].any()),
        "joints": maps["joints"],
    }


def _smooth_pixels(depth: np.ndarray, normal: np.ndarray, instance: np.ndarray, segmentation: np.ndarray) -> np.ndarray:
    """Where a 3 x 3 neighbourhood is one surface without an edge, so that differences of depth mean its slope."""
    smooth = depth > 0
    for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
        smooth &= np.roll(instance, shift, axis) == instance
        smooth &= np.roll(segmentation, shift, axis) == segmentation
        smooth &= (np.roll(normal, shift, axis) * normal).sum(-1) > np.cos(np.radians(3))
        smooth &= np.abs(np.roll(depth, shift, axis) / np.maximum(depth, 1e-6) - 1) < 0.1
    smooth[[0, -1]] = False
    smooth[:, [0, -1]] = False
    return smooth


def read_maps(folder: Path, name: str) -> dict[str, Any]:
    """The maps of one view in the units that `dataset.toml` states. UserError for files that are not as written."""
    try:
        said = _read_notes(folder, name)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, EOFError) as error:
        raise UserError(
            f"{folder} has a damaged dataset.toml, or files of {name} in camera/, keypoints/ or depth/ ({error!r}): "
            f"remove {folder / 'camera' / name}.json and render again."
        ) from error
    maps = {kind: _read_map(folder, kind, name) for kind in PICTURES}
    levels = None if said.depth is not None else _read_map(folder, "depth", name)
    return {
        **maps,
        "camera": said.camera,
        "depth": said.depth if levels is None else levels * np.float32(said.unit),
        "step": 0.0 if levels is None else said.unit,
        "normal": maps["normal"] / 65535.0 * 2 - 1,
        "image": maps["images"],
        "shading": maps["shading"] / 65535.0 * said.shading_scale,
        "joints": said.joints,
    }


PICTURES = ("images", "normal", "albedo", "shading", "segmentation", "instance", "mask")
"""Folders of a view's PNGs."""


class Notes(NamedTuple):
    """What is written of a view beside its pictures."""

    camera: Camera
    unit: float
    """Metres a level of a depth that is a picture."""
    shading_scale: float
    joints: int
    """People of whom a keypoint is known."""
    depth: np.ndarray | None
    """(H, W) metres, where it was kept as numbers."""


def _read_notes(folder: Path, name: str) -> Notes:
    """Nothing is computed here: whatever is raised is of the files."""
    notes = json.loads((folder / "camera" / f"{name}.json").read_text())
    described = _read_toml(folder / "dataset.toml")
    people = json.loads((folder / "keypoints" / f"{name}.json").read_text())["annotations"]
    exact = folder / "depth" / f"{name}.npy"
    return Notes(
        Camera(tuple(tuple(map(float, row)) for row in notes["camera_to_world"]), float(notes["fov_deg"])),
        float(described["depth"]["unit"]),
        float(described["shading"]["scale"]),
        sum(person["num_keypoints"] > 0 for person in people),
        np.load(exact) if exact.is_file() else None,
    )


def _read_map(folder: Path, kind: str, name: str) -> np.ndarray:
    """Of one map, colours in RGB order. UserError where there is none."""
    import cv2

    path = folder / kind / f"{name}.png"
    found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if found is None:
        raise UserError(
            f"{path} is missing or is not a picture; remove {folder / 'camera' / name}.json and render again."
        )
    return found[..., ::-1] if found.ndim == 3 else found


def _read_toml(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # type: ignore
    return tomllib.loads(path.read_text(encoding="utf-8"))


def contact_sheet(folder: Path, stems: Iterable[str]) -> np.ndarray:
    """Picture, depth, normals, albedo, shading and classes of some views, one view a column: uint8 RGB for the eye."""
    palette = np.random.default_rng(3).integers(40, 255, (256, 3)).astype(np.uint8)
    columns = []
    for name in stems:
        maps = read_maps(folder, name)
        near = np.where(maps["depth"] > 0, 1 / np.maximum(maps["depth"], 0.3), 0) * 0.3
        columns.append(
            np.concatenate(
                [
                    maps["image"],
                    np.repeat((near[..., None] * 255).astype(np.uint8), 3, axis=2),
                    ((maps["normal"] + 1) * 127.5).astype(np.uint8),
                    maps["albedo"],
                    (np.clip(maps["shading"] / 2, 0, 1) ** 0.45 * 255).astype(np.uint8),
                    palette[maps["segmentation"]],
                ]
            )
        )
    return np.concatenate(columns, axis=1)
