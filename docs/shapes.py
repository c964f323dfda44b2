"""Shapes: a small dataset to try the trainer with: solids on a table, with exact depth, normals and masks.

    python docs/shapes.py shapes --pictures 120

writes a plain folder (trainer/data/folder.py) for learning, shapes/train, and one for measuring, shapes/test. A picture
is found by following each pixel's ray to the nearest of its solids. A solid is a unit ball, cube or cylinder under an
affine map, so that where a ray meets it, and its normal there, are formulas and not approximations.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

Array = np.ndarray
SIZE = 160
FOV_DEG = 45.0
DESCRIPTION = """name = "shapes"
licence = "CC0-1.0"

[depth]
unit = "mm"

[normal]
axes = ["right", "up", "back"]
"""


@dataclass(frozen=True)
class Solid:
    """A unit solid under p -> matrix @ p + middle."""

    meet: Callable[[Array, Array], tuple[Array, Array]]
    """Origins and directions (N, 3) in the unit solid's own space -> distances (N,), inf for a miss, and normals."""
    matrix: Array
    middle: Array
    colours: Array
    """(2, 3) in linear light: the two of its pattern."""
    cells: float
    """How fine the pattern is, in cells a unit; 0 is plain."""


def ball(origins: Array, directions: Array) -> tuple[Array, Array]:
    """The unit ball: |o + t d| = 1."""
    a, b = (directions**2).sum(1), (origins * directions).sum(1)
    root = b**2 - a * ((origins**2).sum(1) - 1)
    t = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    return in_front(t), origins + t_finite(t) * directions


def cube(origins: Array, directions: Array) -> tuple[Array, Array]:
    """The cube from -1 to 1: the last of three slabs that a ray enters, before it leaves the first."""
    with np.errstate(divide="ignore", invalid="ignore"):
        sides = np.sort(np.stack([(-1 - origins) / directions, (1 - origins) / directions]), axis=0)
    entry, exit_ = sides[0], sides[1]
    axis = entry.argmax(1)
    t = np.where(entry.max(1) < exit_.min(1), entry.max(1), np.inf)
    return in_front(t), -np.sign(directions) * np.eye(3)[axis]


def cylinder(origins: Array, directions: Array) -> tuple[Array, Array]:
    """The cylinder of radius 1 about y, from -1 to 1: its wall as a ball in x and z, its lids as a slab in y."""
    flat = np.array([1.0, 0.0, 1.0])
    o, d = origins * flat, directions * flat
    a, b = (d**2).sum(1), (o * d).sum(1)
    root = np.maximum(b**2 - a * ((o**2).sum(1) - 1), 0)
    wall = np.stack([-b - np.sqrt(root), -b + np.sqrt(root)]) / a
    lids = np.sort(np.stack([(-1 - origins[:, 1]), (1 - origins[:, 1])]) / directions[:, 1], axis=0)
    entry, exit_ = np.maximum(wall[0], lids[0]), np.minimum(wall[1], lids[1])
    t = np.where((root > 0) & (entry < exit_), entry, np.inf)
    on_lid = (lids[0] > wall[0])[:, None]
    normals = np.where(on_lid, -np.sign(directions) * [0.0, 1.0, 0.0], o + t_finite(t) * d)
    return in_front(t), normals


SOLIDS: tuple[tuple[Callable[..., tuple[Array, Array]], Callable[[Array], float]], ...] = (
    (ball, lambda row: float(np.linalg.norm(row))),
    (cube, lambda row: float(np.abs(row).sum())),
    (cylinder, lambda row: float(np.hypot(row[0], row[2]) + abs(row[1]))),
)
"""Unit solids, and how far up each reaches under a map whose row for y is given."""


def in_front(t: Array) -> Array:
    return np.where(t > 1e-6, t, np.inf)


def t_finite(t: Array) -> Array:
    return np.where(np.isfinite(t), t, 0.0)[:, None]


def nearest(solids: list[Solid], origins: Array, directions: Array) -> tuple[Array, Array, Array]:
    """Rays -> distance (N,) in lengths of their directions, unit normals (N, 3), which solid (N,)."""
    distances, normals = [], []
    for solid in solids:
        inverse = np.linalg.inv(solid.matrix)
        t, normal = solid.meet((origins - solid.middle) @ inverse.T, directions @ inverse.T)
        distances.append(t)
        normals.append(normal @ inverse)  # a normal goes by the inverse's transpose
    which = np.argmin(distances, axis=0)
    picked = np.stack(normals)[which, np.arange(len(which))]
    return np.min(distances, axis=0), picked / np.linalg.norm(picked, axis=1, keepdims=True), which


def rays(size: int, pitch: float, samples: int = 1) -> Array:
    """Directions (size^2, 3) of pixels' middles, one unit deep, in the world's axes."""
    steps = (np.arange(size * samples) + 0.5) / (size * samples) * 2 - 1
    x, y = np.meshgrid(steps, -steps)
    tangent = np.tan(np.radians(FOV_DEG / 2))
    seen = np.stack([x * tangent, y * tangent, -np.ones_like(x)], -1).reshape(-1, 3)
    return seen @ turned(0, pitch)


def turned(axis: int, angle: float) -> Array:
    """The rotation about x, y or z whose transpose turns by the angle."""
    c, s = np.cos(angle), np.sin(angle)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3)
    matrix[[i, i, j, j], [i, j, i, j]] = c, s, -s, c
    return matrix


def compose(random: np.random.Generator) -> list[Solid]:
    """The table, and two to six solids standing, lying and tumbled on it."""

    def colours() -> Array:
        return random.uniform(0.03, 0.9, (2, 3))

    table = Solid(cube, np.diag([40.0, 0.5, 40.0]), np.array([0.0, -0.5, 0.0]), colours(), random.choice([0, 8, 20]))
    solids = [table]
    for _ in range(random.integers(2, 7)):
        size = random.uniform(0.25, 0.8, 3)
        turn = turned(1, random.uniform(0, 2 * np.pi)) @ turned(
            2, random.choice([0, 0, np.pi / 2, random.uniform(0, 3)])
        )
        matrix = turn @ np.diag(size)
        meet, reach = SOLIDS[random.integers(3)]
        place = np.array([random.uniform(-1.6, 1.6), reach(matrix[1]), random.uniform(-1.8, 1.6)])
        solids.append(Solid(meet, matrix, place, colours(), random.choice([0, 2, 4])))
    return solids


def shade(solids: list[Solid], origins: Array, directions: Array, light: Array) -> Array:
    """Linear light (N, 3): a lamp that casts shadows, and a sky."""
    t, normals, which = nearest(solids, origins, directions)
    points = origins + t[:, None] * directions
    albedo = np.empty_like(points)
    for number, solid in enumerate(solids):
        inside = (points[which == number] - solid.middle) @ np.linalg.inv(solid.matrix).T
        odd = (
            np.floor(inside * solid.cells + 0.25).sum(1).astype(int) % 2 if solid.cells else np.zeros(len(inside), int)
        )
        albedo[which == number] = solid.colours[odd]
    to_light = light - points
    dark = nearest(solids, points + 1e-4 * normals, to_light)[0] < 1
    facing = (normals * to_light).sum(1) / np.linalg.norm(to_light, axis=1)
    lamp = np.where(dark, 0, np.maximum(facing, 0))
    return albedo * (0.9 * lamp + 0.25 + 0.15 * normals[:, 1])[:, None]


def picture(random: np.random.Generator) -> dict[str, Array]:
    """One record: what stands in each folder."""
    solids, pitch = compose(random), random.uniform(0.55, 1.0)
    directions = rays(SIZE, -pitch)
    eye = np.array([0.0, np.sin(pitch), np.cos(pitch)]) * random.uniform(4.5, 6.5)
    t, normals, which = nearest(solids, np.broadcast_to(eye, directions.shape), directions)
    light = np.array([random.uniform(-4, 4), random.uniform(4, 7), random.uniform(-2, 5)])
    fine = rays(SIZE, -pitch, samples=2)
    linear = shade(solids, np.broadcast_to(eye, fine.shape), fine, light).reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3))
    in_camera = normals @ turned(0, -pitch).T
    srgb = linear.clip(0, 1) ** (1 / 2.2)
    return {
        "images": (srgb * 255).round().astype(np.uint8),
        # directions reach depth 1: t is the distance along the optical axis
        "depth": (t * 1000).round().clip(0, 65535).reshape(SIZE, SIZE).astype(np.uint16),
        "normal": ((in_camera + 1) / 2 * 255).round().reshape(SIZE, SIZE, 3).astype(np.uint8),
        "mask": np.where(which > 0, 255, 0).reshape(SIZE, SIZE).astype(np.uint8),
    }


def write(root: Path, numbers: range) -> None:
    """A plain folder of the pictures with these numbers; a number is its picture's seed."""
    for number in numbers:
        for folder, values in picture(np.random.default_rng(number)).items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / folder / f"{number:04}.png")
    (root / "dataset.toml").write_text(DESCRIPTION, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--pictures", type=int, default=120, help="to learn from; a quarter as many to measure on")
    settings = parser.parse_args()
    write(settings.out / "train", range(settings.pictures))
    write(settings.out / "test", range(10_000, 10_000 + max(settings.pictures // 4, 1)))


if __name__ == "__main__":
    main()
