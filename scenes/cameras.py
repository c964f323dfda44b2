"""Cameras: where they stand, what they would see of a room of boxes, and how pixels become points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; the world is y up, the camera x right, y down, z forward (as in OpenCV)."""

    pose: tuple[tuple[float, ...], ...]
    """(4, 4) camera to world, metres."""
    fov_deg: float
    """Horizontal angle of view."""

    def matrix(self) -> np.ndarray:
        return np.array(self.pose, np.float64)


def look_at(position: np.ndarray, target: np.ndarray, roll_deg: float, fov_deg: float) -> Camera:
    """A camera at `position` whose optical axis meets `target`, turned about that axis by `roll_deg`."""
    forward = np.asarray(target, np.float64) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cos, sin = np.cos(np.radians(roll_deg)), np.sin(np.radians(roll_deg))
    pose = np.eye(4)
    pose[:3, :3] = np.stack([cos * right + sin * down, cos * down - sin * right, forward], axis=1)
    pose[:3, 3] = position
    return Camera(tuple(tuple(float(value) for value in row) for row in pose), float(fov_deg))


def focal_px(fov_deg: float, width: int) -> float:
    """Focal length in pixels of a picture `width` pixels wide."""
    return width / 2 / float(np.tan(np.radians(fov_deg) / 2))


def pixel_rays(
    camera: Camera, width: int, height: int, shift: tuple[float, float] = (0.0, 0.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Rays `shift` pixels off the pixel centres: origin (3,) and directions (H, W, 3) whose camera-space z is 1."""
    f = focal_px(camera.fov_deg, width)
    x = (np.arange(width) + 0.5 + shift[0] - width / 2) / f
    y = (np.arange(height) + 0.5 + shift[1] - height / 2) / f
    local = np.stack([*np.meshgrid(x, y), np.ones((height, width))], axis=-1)
    pose = camera.matrix()
    return pose[:3, 3], local @ pose[:3, :3].T


def back_project(z: np.ndarray, camera: Camera) -> np.ndarray:
    """Points (H, W, 3) in metres in camera axes (right, down, forward) from planar depth (H, W)."""
    height, width = z.shape
    f = focal_px(camera.fov_deg, width)
    x = (np.arange(width) + 0.5 - width / 2) / f
    y = (np.arange(height) + 0.5 - height / 2) / f
    return np.stack([z * x[None], z * y[:, None], z], axis=-1)


def project(points: np.ndarray, camera: Camera, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """World points (N, 3) to pixels (N, 2), pixel centres at .5, and their planar depth (N,)."""
    pose = camera.matrix()
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    f = focal_px(camera.fov_deg, width)
    z = local[:, 2]
    return local[:, :2] / z[:, None] * f + [width / 2, height / 2], z


def normals_from_depth(z: np.ndarray, camera: Camera) -> np.ndarray:
    """Unit normals (H, W, 3) towards the camera, axes right, up, back, by central differences of the points."""
    points = back_project(z, camera)
    across, along = np.gradient(points, axis=1), np.gradient(points, axis=0)
    normal = np.cross(along, across)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    return normal * [1.0, -1.0, -1.0]


def hit_boxes(origin: np.ndarray, directions: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance along each direction (N, 3) to the first of the boxes (B, 2, 3), inf where none, and its number."""
    inverse = 1 / np.where(np.abs(directions) < 1e-9, 1e-9, directions)
    near = (boxes[None, :, 0] - origin) * inverse[:, None]
    far = (boxes[None, :, 1] - origin) * inverse[:, None]
    enter, leave = np.minimum(near, far).max(-1), np.maximum(near, far).min(-1)
    distance = np.where((enter <= leave) & (leave > 0), np.maximum(enter, 0.0), np.inf)
    nearest = distance.argmin(axis=1)
    return np.take_along_axis(distance, nearest[:, None], axis=1)[:, 0], nearest
