"""Bodies: parametric people (anny) in painted clothes, posed at random, their COCO joints known exactly."""

from __future__ import annotations

import colorsys
import functools
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .assets import MissingAssetError
from .meshes import Material, Part

SEED = 20240
VERSION = 2
"""Raise it when poses, shapes or joints change: the cache is by version."""


@dataclass(frozen=True)
class Body:
    """One posed person, feet on the floor above the origin, looking to +z."""

    parts: list[Part]
    joints: np.ndarray
    """(17, 3) metres, COCO order."""


Span = tuple[float, float, float]
"""Least, usual and greatest turn in degrees."""

# About the axes x (to the left), y (up), z (ahead) of a body at rest, whose arms hang at 45 degrees.
SINGLE: dict[str, tuple[Span, Span, Span]] = {
    "spine05": ((-4, 2, 14), (-12, 0, 12), (-6, 0, 6)),
    "spine03": ((-4, 2, 12), (-12, 0, 12), (-5, 0, 5)),
    "spine01": ((-3, 0, 8), (-8, 0, 8), (-4, 0, 4)),
    "neck01": ((-8, 0, 12), (-20, 0, 20), (-5, 0, 5)),
    "head": ((-12, 2, 14), (-30, 0, 30), (-8, 0, 8)),
}
# The same for a left limb; turns of the right one about y and z are mirrored.
PAIRED: dict[str, tuple[Span, Span, Span]] = {
    "upperarm01": ((-75, -8, 25), (-25, 0, 25), (-42, -34, 50)),
    "lowerarm01": ((-100, -15, 0), (-35, -5, 5), (0, 0, 0.01)),
    "wrist": ((-20, 0, 20), (-15, 0, 15), (-20, 0, 20)),
    "upperleg01": ((-50, -4, 20), (-12, 0, 12), (-5, -3, 14)),
    "lowerleg01": ((0, 5, 60), (-0.01, 0, 0.01), (-0.01, 0, 0.01)),
    "foot": ((-12, 0, 8), (-5, 0, 5), (-3, 0, 3)),
}

REGIONS = ("skin", "hair", "shirt", "trousers", "shoes", "eyes")
LOOSE = {"skin": 0.0, "hair": 0.014, "shirt": 0.012, "trousers": 0.014, "shoes": 0.008, "eyes": 0.0}
"""Metres by which clothes stand off the body."""
SLEEVES = (("upperarm01",), ("upperarm01", "upperarm02"), ("upperarm01", "upperarm02", "lowerarm01", "lowerarm02"))
LEGS = (
    ("upperleg01", "upperleg02"),
    ("upperleg01", "upperleg02", "lowerleg01"),
    ("upperleg01", "upperleg02", "lowerleg01", "lowerleg02"),
)


def make_bodies(cache: Path, count: int) -> None:
    """Pose the first `count` bodies, if the cache lacks them; the same number is always the same body."""
    folder = cache / f"bodies-{VERSION}"
    wanted = [folder / f"{number:04d}.npz" for number in range(count)]
    if not (folder / "shared.npz").is_file() or not all(path.is_file() for path in wanted):
        _pose_all(cache, folder, folder / "shared.npz", wanted)


@functools.lru_cache(maxsize=64)
def load_body(cache: Path, number: int) -> Body:
    """A body that `make_bodies` made, dressed."""
    folder = cache / f"bodies-{VERSION}"
    return _dress(folder / f"{number:04d}.npz", number, _shared(folder / "shared.npz"))


def body_outlines(cache: Path, count: int) -> list[tuple[tuple[float, float, float], tuple[float, float]]]:
    """Of the first `count` bodies that `make_bodies` made: width, height and depth, dressed, and how far right and
    ahead of the middle of the foot the head is; all in metres."""
    found = []
    for number in range(count):
        with np.load(cache / f"bodies-{VERSION}" / f"{number:04d}.npz") as file:
            points = file["positions"]
        width, height, depth = (float(value) for value in np.ptp(points, axis=0) + 2 * max(LOOSE.values()))
        head = points[points[:, 1] > 0.9 * height].mean(0)
        found.append(((width, height, depth), (float(head[0]), float(head[2]))))
    return found


@functools.lru_cache(maxsize=1)
def _shared(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def _pose_all(cache: Path, folder: Path, shared: Path, wanted: list[Path]) -> None:
    # anny reads this when it is first imported; without it, it would write into the home folder
    os.environ.setdefault("ANNY_CACHE_DIR", str(cache / "anny"))
    try:
        import anny  # type: ignore
    except ImportError as error:
        raise MissingAssetError(
            f"{error.name} is not installed: run `pip install roma trimesh && pip install --no-deps anny==0.6.2`, or "
            f"leave --bodies out."
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it advises a GPU library that is of no use here
        model = anny.Anny()
    regressor = anny.KeypointsRegressor.coco(model)
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(wanted):
        if not path.is_file():
            vertices, joints = _pose(model, regressor, np.random.default_rng([SEED, number]))
            _save_body(path, positions=vertices, joints=joints)
    bones = np.array(model.bone_labels)
    strongest = model.vertex_bone_weights.argmax(dim=1)
    owner = model.vertex_bone_indices.gather(1, strongest[:, None])[:, 0].numpy()
    rest = _upright(model()["rest_vertices"][0].numpy())
    _save_body(shared, faces=model.faces.numpy().astype(np.int64), bone=owner, bones=bones, rest=rest)


def _save_body(path: Path, **arrays: np.ndarray) -> None:
    partial = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez_compressed(partial, **arrays)  # type: ignore
    os.replace(partial, path)


def _upright(points: np.ndarray) -> np.ndarray:
    """From anny's axes (z up, looking to -y) to ours (y up, looking to +z)."""
    return np.stack([points[:, 0], points[:, 2], -points[:, 1]], axis=1)


def _pose(model: Any, regressor: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float32 and COCO joints (17, 3) of a random person in a random pose."""
    import torch

    shape = {
        "gender": rng.uniform(0, 1),
        "age": rng.uniform(0.35, 0.95),
        "muscle": rng.uniform(0.2, 0.8),
        "weight": rng.uniform(0.25, 0.75),
        "height": rng.uniform(0.25, 0.75),
        "proportions": rng.uniform(0.4, 1.0),
    }
    lively = rng.uniform(0.3, 1.0)  # how far from the usual pose
    pose = torch.eye(4, dtype=model.dtype).repeat(1, len(model.bone_labels), 1, 1)
    for bone, limits in SINGLE.items():
        pose[0, model.bone_labels.index(bone), :3, :3] = torch.as_tensor(_turn(limits, rng, lively, 1))
    for bone, limits in PAIRED.items():
        for side, sign in (("L", 1), ("R", -1)):
            pose[0, model.bone_labels.index(f"{bone}.{side}"), :3, :3] = torch.as_tensor(
                _turn(limits, rng, lively, sign)
            )
    with torch.no_grad():
        posed = model(pose_parameters=pose, phenotype_kwargs={key: float(value) for key, value in shape.items()})
        vertices = _upright(posed["vertices"][0].numpy())
        joints = _upright(regressor(posed)[0].numpy())[:17]
    low, high = vertices.min(0), vertices.max(0)
    foot = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    return (vertices - foot).astype(np.float32), (joints - foot).astype(np.float32)


def _turn(spans: tuple[Span, Span, Span], rng: np.random.Generator, lively: float, sign: int) -> np.ndarray:
    """A rotation in anny's axes; turns about y and z are mirrored on the right side."""
    drawn = [usual + lively * (rng.triangular(low, usual, high) - usual) for low, usual, high in spans]
    x, y, z = np.radians(drawn)
    y, z = sign * y, sign * z
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    ours = about_z @ about_y @ about_x
    change = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # of axes: rows of _upright
    return change.T @ ours @ change


def _dress(path: Path, number: int, common: dict[str, np.ndarray]) -> Body:
    """Split the skin into clothes by the bone that moves it, each of one colour, a little off the body."""
    rng = np.random.default_rng([SEED, number, 1])
    with np.load(path) as file:
        positions, joints = file["positions"], file["joints"]
    region = _regions(common, rng)
    faces, colours = common["faces"], _colours(rng)
    normals = vertex_normals(positions, faces)
    of_face = np.min(region[faces], axis=1)
    parts = []
    for index, name in enumerate(REGIONS):
        mine = faces[of_face == index]
        if len(mine):
            used, inverse = np.unique(mine, return_inverse=True)
            points = positions[used] + normals[used] * LOOSE[name]
            material = Material(name, colours[name], None, 1.0, None, 0.5 if name in ("eyes", "shoes") else 0.1, 0.0)
            parts.append(
                Part(
                    material,
                    points,
                    normals[used],
                    np.zeros((len(used), 2), np.float32),
                    inverse.reshape(-1, 3).astype(np.uint32),
                )
            )
    return Body(parts, joints)


def _regions(common: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Index into REGIONS of every vertex."""
    bones, rest = common["bones"], common["rest"]
    plain = np.array([str(bone).split(".")[0] for bone in bones])[common["bone"]]
    region = np.full(len(rest), REGIONS.index("skin"))
    torso = np.char.startswith(plain, "spine") | np.isin(plain, ("clavicle", "shoulder01"))
    sleeves = SLEEVES[int(rng.integers(len(SLEEVES)))]
    region[torso | np.isin(plain, sleeves)] = REGIONS.index("shirt")
    legs = LEGS[int(rng.integers(len(LEGS)))]
    region[np.isin(plain, ("root", "pelvis", *legs))] = REGIONS.index("trousers")
    region[np.char.startswith(plain, "toe") | (plain == "foot")] = REGIONS.index("shoes")
    region[plain == "eye"] = REGIONS.index("eyes")
    head = np.isin(plain, ("head", "neck03"))
    top, front = rest[head, 1].max(), rest[head, 2].max()
    # the scalp: above the brow, and everything behind the ears down to the nape
    back = (rest[:, 2] < front - 0.11) & (rest[:, 1] > top - rng.uniform(0.17, 0.24))
    region[head & (back | (rest[:, 1] > top - 0.065))] = REGIONS.index("hair")
    return region


def _colours(rng: np.random.Generator) -> dict[str, tuple[float, float, float]]:
    tone = rng.uniform(0, 1)
    light, dark = np.array([0.95, 0.78, 0.68]), np.array([0.36, 0.22, 0.16])
    skin = tuple(float(value) for value in light * (1 - tone) + dark * tone)

    def cloth() -> tuple[float, float, float]:
        return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.8), rng.uniform(0.15, 0.9))

    hair = colorsys.hsv_to_rgb(rng.uniform(0.03, 0.12), rng.uniform(0.1, 0.7), rng.choice([0.12, 0.2, 0.35, 0.6]))
    return {
        "skin": (skin[0], skin[1], skin[2]),
        "hair": hair,
        "shirt": cloth(),
        "trousers": cloth(),
        "shoes": colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.3), rng.uniform(0.12, 0.8)),
        "eyes": (0.25, 0.18, 0.14),
    }


def vertex_normals(positions: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3), faces weighed by their area."""
    a, b, c = (positions[faces[:, i]].astype(np.float64) for i in range(3))
    cross = np.cross(b - a, c - a)
    total = np.zeros(positions.shape)
    for axis in range(3):
        for corner in range(3):
            total[:, axis] += np.bincount(faces[:, corner], cross[:, axis], len(positions))
    return (total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)).astype(np.float32)
