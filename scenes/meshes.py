"""Meshes: OBJ and MTL files as the triangles of each material."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Material:
    """What a surface looks like; colour is sRGB in [0, 1]."""

    name: str
    colour: tuple[float, float, float]
    texture: str | None
    """File of the colour, relative to the folder of the model."""
    opacity: float
    cutout: str | None
    """File whose alpha (or grey) is the opacity."""
    gloss: float
    """0 dull .. 1 polished."""
    emission: float


@dataclass(frozen=True)
class Part:
    """The triangles of one material: positions and normals (N, 3), uv (N, 2), faces (F, 3)."""

    material: Material
    positions: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray


def load_model(model: Path, rotation: tuple[float, ...] | None, size: tuple[float, float, float]) -> list[Part]:
    """An OBJ file as parts, scaled to `size` metres, its foot's middle at the origin; y is up and +z its front."""
    parts = [part for part in read_obj(model) if len(part.faces)]
    turn = np.eye(3) if rotation is None else np.array(rotation, np.float64).reshape(3, 3)
    positions = [part.positions @ turn.T for part in parts]
    low = np.min([points.min(0) for points in positions], axis=0)
    high = np.max([points.max(0) for points in positions], axis=0)
    scale = np.asarray(size) / np.maximum(high - low, 1e-9)
    foot = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    placed = []
    for part, points in zip(parts, positions):
        normals = part.normals @ turn.T / np.maximum(scale, 1e-9)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
        points = ((points - foot) * scale).astype(np.float32)
        placed.append(Part(part.material, points, normals.astype(np.float32), part.uv, part.faces))
    return placed


def read_obj(model: Path) -> list[Part]:
    """Split an OBJ file by material; polygons become fans, absent normals are those of the faces."""
    positions, normals, uv = [], [], []
    corners: dict[str, list[tuple[int, int, int]]] = {}
    current = corners.setdefault("", [])
    with open(model, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            kind, _, rest = line.partition(" ")
            if kind == "v":
                positions.append([float(x) for x in rest.split()[:3]])
            elif kind == "vn":
                normals.append([float(x) for x in rest.split()[:3]])
            elif kind == "vt":
                uv.append([float(x) for x in rest.split()[:2]])
            elif kind == "usemtl":
                current = corners.setdefault(rest.strip(), [])
            elif kind == "f":
                ring = [_corner(word, len(positions), len(uv), len(normals)) for word in rest.split()]
                for i in range(1, len(ring) - 1):
                    current += [ring[0], ring[i], ring[i + 1]]
    library = material_library(model)
    materials = _read_mtl(library) if library else {}
    plain = Material("", (0.7, 0.7, 0.7), None, 1.0, None, 0.0, 0.0)
    tables = (np.array(positions, np.float64), _rows(uv, 2), _rows(normals, 3))
    return [
        _part(materials.get(name, plain), np.array(found, np.int64), *tables)
        for name, found in corners.items()
        if found
    ]


def _corner(word: str, positions: int, uv: int, normals: int) -> tuple[int, int, int]:
    """`7/3/2`, `7//2`, `-1/-1/-1` as indices from 0, -1 where absent."""
    fields = [*word.split("/"), "", ""][:3]
    totals = (positions, uv, normals)
    index = [(int(f) - 1 if int(f) > 0 else total + int(f)) if f else -1 for f, total in zip(fields, totals)]
    return index[0], index[1], index[2]


def _rows(values: list[list[float]], width: int) -> np.ndarray:
    return np.array(values, np.float64).reshape(-1, width)


def _part(material: Material, corners: np.ndarray, positions: np.ndarray, uv: np.ndarray, normals: np.ndarray) -> Part:
    triangles = _without_doubles(corners.reshape(-1, 3, 3))
    a, b, c = (positions[triangles[:, i, 0]] for i in range(3))
    cross = np.cross(b - a, c - a)
    area = np.linalg.norm(cross, axis=1)
    triangles, flat = triangles[area > 1e-12], (cross / np.maximum(area, 1e-12)[:, None])[area > 1e-12]
    given = _given_normals(triangles, normals, flat)
    # a winding against its own normals would be lit from inside
    inside = np.einsum("fij,fj->f", given, flat) < 0
    triangles[inside], given[inside], flat[inside] = triangles[inside, ::-1], given[inside, ::-1], -flat[inside]
    # a corner normal that leans behind its own face shades black: the face's own is the better truth
    behind = np.einsum("fij,fj->fi", given, flat) < 0.05
    given = np.where(behind[..., None], flat[:, None], given).reshape(-1, 3)
    keys = np.concatenate([triangles.reshape(-1, 3)[:, :2], np.round(given * 4096).astype(np.int64)], axis=1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    chosen = triangles.reshape(-1, 3)[first]
    coordinates = np.where((chosen[:, 1] >= 0)[:, None], uv[chosen[:, 1]] if len(uv) else 0.0, 0.0)
    return Part(
        material,
        positions[chosen[:, 0]].astype(np.float32),
        given[first].astype(np.float32),
        np.broadcast_to(coordinates, (len(chosen), 2)).astype(np.float32),
        inverse.reshape(-1, 3).astype(np.uint32),
    )


def _without_doubles(triangles: np.ndarray) -> np.ndarray:
    """Many exporters write each face twice, once for either side: keep the first."""
    _, first = np.unique(np.sort(triangles[:, :, 0], axis=1), axis=0, return_index=True)
    return triangles[np.sort(first)]


def _given_normals(triangles: np.ndarray, normals: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Normals (F, 3, 3) as the file gives them, those of the faces (F, 3) where it gives none."""
    index = triangles[:, :, 2]
    given = np.where((index >= 0)[..., None], normals[index] if len(normals) else 0.0, flat[:, None])
    length = np.linalg.norm(given, axis=-1, keepdims=True)
    return np.where(length > 1e-6, given / np.maximum(length, 1e-6), flat[:, None])


def material_library(model: Path) -> Path | None:
    """The .mtl file that a .obj file names, None if it is absent."""
    with open(model, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("mtllib"):
                path = model.parent / line.split(None, 1)[1].strip()
                return path if path.is_file() else None
    return None


def _read_mtl(library: Path) -> dict[str, Material]:
    """The materials of an MTL file by name; fields that a plain renderer has no use for are passed over."""
    found: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in library.read_text(encoding="utf-8", errors="replace").splitlines():
        kind, _, rest = line.strip().partition(" ")
        if kind == "newmtl":
            current = found.setdefault(rest.strip(), {})
        elif kind:
            current[kind] = rest.strip()
    return {name: _material(name, fields, library.parent) for name, fields in found.items()}


def _material(name: str, fields: dict[str, str], folder: Path) -> Material:
    colour = _triple(fields.get("Kd", "0.7 0.7 0.7"))
    texture = fields.get("map_Kd")
    if texture is not None and not (folder / texture).is_file():
        texture = None
    cutout = fields.get("map_d", texture if texture and texture.lower().endswith(".png") else None)
    if cutout is not None and not (folder / cutout).is_file():
        cutout = None
    emission = float(np.mean(_triple(fields.get("Ke", "0 0 0"))))
    shine = float(np.mean(_triple(fields.get("Ks", "0 0 0")))) * min(float(fields.get("Ns", "0") or 0) / 200, 1.0)
    return Material(
        name=name,
        colour=(1.0, 1.0, 1.0) if texture else colour,
        texture=texture,
        opacity=float((fields.get("d", "1") or "1").split()[-1]),
        cutout=cutout,
        gloss=float(np.clip(shine, 0, 1)),
        emission=emission,
    )


def _triple(text: str) -> tuple[float, float, float]:
    values = [float(word) for word in text.split()[:3]]
    red, green, blue = values if len(values) == 3 else values[:1] * 3
    return red, green, blue
