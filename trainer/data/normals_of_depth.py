"""Normals of depth, by D2NT (Feng, Xue, Liu and Fan, "D2NT: A High-Performing Depth-to-Normal Translator", ICRA 2023):
slopes that do not reach over the edges of things.

E2E-FT learns Virtual KITTI 2's normals as its version 3 makes them, with the filters that are taken here.
"""

from __future__ import annotations

import numpy as np

SMALL = 1e-8
NEIGHBOURS = np.array([(0, -1), (0, 1), (-1, 0), (1, 0), (0, 0)])
"""Rows and columns to go: to the left, right, above, below, and nowhere."""


def normals_of_depth(depth: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Depth (H, W) along the optical axis, in centimetres -> unit normals (H, W, 3) along left, up and back.

    intrinsics: (3, 3) in pixels, whose centres lie at .5. The published code counts pixels from 1 with a principal
    point that counts from 0, so that its rays are a pixel off: by 0.08 degrees in Virtual KITTI's camera. Centimetres
    count: where depth bends by more than one between neighbours, one side alone is followed.
    """
    z = depth.astype(np.float64)
    height, width = z.shape
    across, down = _slopes(z), _slopes(z.T).T
    x = np.arange(width) + 0.5 - intrinsics[0, 2]
    y = np.arange(height)[:, None] + 0.5 - intrinsics[1, 2]
    # the cross product of the derivatives of z (x / f, y / f, 1), but for a factor
    normals = np.stack([-across * intrinsics[0, 0], -down * intrinsics[1, 1], z + x * across + y * down], -1)
    lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
    return _of_the_flattest(normals / (lengths + SMALL), z)


def _slopes(z: np.ndarray) -> np.ndarray:
    """Derivatives along rows: towards the neighbour around which depth bends less, or between both of them."""
    padded = np.pad(z, ((0, 0), (1, 1)), mode="reflect")
    left, right = z - padded[:, :-2], padded[:, 2:] - z
    straight = np.pad(np.exp(-np.abs(left - right)), ((0, 0), (1, 1)))  # beyond the border nothing is
    share = (straight[:, :-2] + SMALL / 2) / (straight[:, :-2] + straight[:, 2:] + SMALL)
    only_left, only_right = share > np.e * (1 - share + SMALL), 1 - share > np.e * (share + SMALL)
    share = np.where(only_left, 1.0, np.where(only_right, 0.0, share))
    return share * left + (1 - share) * right


def _of_the_flattest(normals: np.ndarray, z: np.ndarray) -> np.ndarray:
    """For each pixel the normal of that of its four neighbours, or its own, around which depth bends least."""
    height, width = z.shape
    bend = np.abs(4 * z - sum(_shifted(np.pad(z, 1, mode="reflect"), step, z.shape) for step in NEIGHBOURS[:4]))
    around = np.pad(bend, 1, constant_values=np.inf)
    chosen = NEIGHBOURS[np.argmin([_shifted(around, step, z.shape) for step in NEIGHBOURS], axis=0)]
    return normals[np.arange(height)[:, None] + chosen[..., 0], np.arange(width) + chosen[..., 1]]


def _shifted(padded: np.ndarray, step: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What lies a step away from each pixel of an array that was padded by one."""
    row, column = step + 1
    return padded[row : row + shape[0], column : column + shape[1]]
