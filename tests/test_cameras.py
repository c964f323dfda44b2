"""Cameras: Hypersim and Virtual KITTI, in their formats on disk, through one preset: where points are seen, and planes.

What is expected is derived here from the published cameras alone: a pinhole of 886.81 px for 1024 columns, centred
(Hypersim); 725.0087 px at (620.5, 187) counted from the first pixel's centre (Virtual KITTI 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from diffusion_perception.core.measure.losses import LOSSES
from diffusion_perception.trainer.config import read
from diffusion_perception.trainer.data.batches import Batch, Batches
from diffusion_perception.trainer.data.feeds import open_feeds

PLANE = np.array([0.01, 0.06, 0.08])
"""n of the plane n . p = 1, p in metres: x right, y down, z forward. A floor that rises ahead."""
MARKED = {0: (0.12, 0.31), 1: (0.63, 0.55), 2: (0.86, 0.82)}
"""{colour's channel: where a square of it lies, as shares of width and height}, none outside any crop."""
EDGE = 15
"""Pixels of a marked square's side."""
TOP_M = 80.0
SPLITS = "scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name\n"


@dataclass(frozen=True)
class Camera:
    """A published one, for pictures of its own size."""

    height: int
    width: int
    focal: float
    x: float
    y: float
    """Where the axis meets the picture, counted from the corner of the first pixel."""

    def rays(self) -> np.ndarray:
        """(H, W, 3) of every pixel's centre, at z = 1."""
        rows, columns = np.mgrid[: self.height, : self.width] + 0.5
        return np.stack([(columns - self.x) / self.focal, (rows - self.y) / self.focal, np.ones_like(rows)], -1)

    def depth(self) -> np.ndarray:
        """(H, W) metres along the axis of PLANE; where it is not met, nan."""
        inverse = self.rays() @ PLANE
        return np.where(inverse > 1 / TOP_M, 1 / np.maximum(inverse, 1e-9), np.nan)

    def marks(self) -> dict[int, tuple[int, int]]:
        """{channel: column and row of its square's middle pixel}."""
        return {channel: (int(x * self.width), int(y * self.height)) for channel, (x, y) in MARKED.items()}

    def picture(self) -> np.ndarray:
        """(H, W, 3) bytes: grey with one square a channel."""
        image = np.full((self.height, self.width, 3), 60, np.uint8)
        for channel, (column, row) in self.marks().items():
            reach = EDGE // 2
            image[row - reach : row + reach + 1, column - reach : column + reach + 1, channel] = 255
        return image

    def points(self) -> dict[int, np.ndarray]:
        """{channel: where its square's middle lies in space, 10 m ahead}."""
        return {
            channel: 10 * np.array([(column + 0.5 - self.x) / self.focal, (row + 0.5 - self.y) / self.focal, 1.0])
            for channel, (column, row) in self.marks().items()
        }


HYPERSIM = Camera(768, 1024, 886.81, 512.0, 384.0)
VKITTI = Camera(375, 1242, 725.0087, 621.0, 187.5)


def write_hypersim(root: Path) -> None:
    """One frame as Apple publishes it: HDF5 in half precision, distances along the line of sight."""
    h5py = pytest.importorskip("h5py")
    camera, scene = HYPERSIM, root / "ai_001_001/images"
    distance = camera.depth() * np.linalg.norm(camera.rays(), axis=-1)
    arrays = {
        "geometry_hdf5/frame.0000.depth_meters": distance.astype(np.float16),
        "geometry_hdf5/frame.0000.render_entity_id": np.where(np.isnan(distance), -1, 1).astype(np.int32),
        "final_hdf5/frame.0000.color": (camera.picture() / 255).astype(np.float16),
    }
    for name, array in arrays.items():
        path = scene / f"scene_cam_00_{name}.hdf5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file.create_dataset("dataset", data=array)
    (root / "metadata_images_split_scene_v1.csv").write_text(SPLITS + "ai_001_001,cam_00,0,True,,train\n")


def write_vkitti(root: Path) -> None:
    """One frame as its archives hold it: JPEG, and 16-bit PNG of centimetres whose sky is 65535."""
    depth = VKITTI.depth()
    pixels = {
        "rgb/Camera_0/rgb_00000.jpg": VKITTI.picture()[..., ::-1],
        "depth/Camera_0/depth_00000.png": np.where(np.isnan(depth), 65535, np.round(depth * 100)).astype(np.uint16),
    }
    for name, values in pixels.items():
        path = root / "Scene01/clone/frames" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), values)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("published")
    write_hypersim(root / "hypersim")
    write_vkitti(root / "vkitti")
    return root


def batch_of(root: Path, reader: str, flip: float) -> Batch:
    """The first batch of a dataset in GenPercept's run for depth, whose targets are left in metres."""
    table = {
        "preset": "genpercept-depth",
        "batch_size": 1,
        "augment": {"flip": flip},
        "recipe": {"depth": {"codec": "unbounded", "target_scale": TOP_M, "metric": True}},
        "data": [
            {"root": str(root / "hypersim"), "reader": "hypersim", "weight": 0.9},
            {"root": str(root / "vkitti"), "reader": "vkitti", "weight": 0.1, "size": [352, 1216]},
        ],
    }
    feeds, _ = open_feeds(read(None, table), "sd21")
    (feed,) = (feed for feed in feeds if feed.origin.startswith(reader))
    return Batches([feed], 1, 1, 0)[0]


CASES = pytest.mark.parametrize(
    ("reader", "camera", "size"), [("hypersim", HYPERSIM, (480, 640)), ("vkitti", VKITTI, (352, 1216))]
)
FLIPS = pytest.mark.parametrize("flip", [0.0, 1.0], ids=["upright", "flipped"])


@CASES
@FLIPS
def test_points_are_seen_where_the_camera_of_the_batch_says(written, reader, camera, size, flip):
    batch = batch_of(written, reader, flip)
    assert batch.image.shape[-2:] == size
    assert batch.intrinsics is not None
    matrix = batch.intrinsics[0].numpy()
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    for channel, point in camera.points().items():
        mirrored = point * [1 - 2 * flip, 1, 1]
        x, y, _ = matrix @ mirrored / mirrored[2]
        plane = batch.image[0, channel].numpy()
        bright = plane > (plane.min() + plane.max()) / 2
        assert 0 < bright.mean() < 0.01
        assert abs(columns[bright].mean() - x) < 0.75
        assert abs(rows[bright].mean() - y) < 0.75


def metres(batch: Batch) -> torch.Tensor:
    """(1, 1, H, W)."""
    return (batch.target[:, :1] / 2 + 0.5) * TOP_M


def plane_of(depth: np.ndarray, valid: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """n of the plane n . p = 1 that fits the pixels' points best: 1 / z is linear in the ray."""
    rows, columns = np.nonzero(valid)
    x, y = (columns + 0.5 - matrix[0, 2]) / matrix[0, 0], (rows + 0.5 - matrix[1, 2]) / matrix[1, 1]
    rays = np.stack([x, y, np.ones_like(x)], -1)
    return np.linalg.lstsq(rays * depth[valid][:, None], np.ones(len(x)), rcond=None)[0]


def degrees(one: np.ndarray, other: np.ndarray) -> float:
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


@CASES
@FLIPS
def test_a_plane_is_no_angle_off_in_the_batch(written, reader, camera, size, flip):
    batch = batch_of(written, reader, flip)
    assert batch.intrinsics is not None
    expected = PLANE * [1 - 2 * flip, 1, 1]
    depth, valid = metres(batch)[0, 0].numpy().astype(np.float64), batch.valid[0, 0].numpy()
    matrix = batch.intrinsics[0].numpy()
    assert degrees(plane_of(depth, valid, matrix), expected) < 0.01
    # a camera that did not follow the crop, the size or the flip is found out
    whole = np.array([[camera.focal, 0, camera.x], [0, camera.focal, camera.y], [0, 0, 1.0]])
    assert degrees(plane_of(depth, valid, whole), expected) > 0.5


@CASES
@FLIPS
def test_virtual_normals_of_a_plane_are_those_of_the_true_one(written, reader, camera, size, flip):
    """VNL between the batch's depth and the plane seen by the batch's camera."""
    batch = batch_of(written, reader, flip)
    assert batch.intrinsics is not None
    matrix = batch.intrinsics[0].numpy()
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    rays = np.stack([(columns - matrix[0, 2]) / matrix[0, 0], (rows - matrix[1, 2]) / matrix[1, 1], 1 + 0 * rows], -1)
    inverse = rays @ (PLANE * [1 - 2 * flip, 1, 1])
    true = torch.from_numpy(1 / np.maximum(inverse, 1e-3)).float()[None, None]
    extras = {"intrinsics": batch.intrinsics, "seeds": batch.seeds, "offset": 0.0}
    assert LOSSES["vnl"].function(metres(batch), true, batch.valid, **extras).mean().item() < 0.01
