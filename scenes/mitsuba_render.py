"""Mitsuba: a planned room as a picture with exact truth, on the CPU."""

from __future__ import annotations

import ctypes.util
import functools
import glob
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..core.srgb import to_srgb
from . import textures
from .assets import Item, MissingAssetError
from .bodies import Body, load_body
from .cameras import Camera, pixel_rays, project
from .furniture import CLASSES
from .meshes import Material, Part, load_model
from .renderers import RAYS_AT_ONCE
from .rooms import Panel, Placement, Room
from .shelf import Shelf
from .views import View

MAX_DEPTH = 6
DARKEST = 0.006
"""Linear albedo under which light divided by it would be noise."""
LEAVES = 12
"""How many see-through surfaces a label ray may pass."""
LLVM = ("/usr/lib/*/libLLVM.so.19*", "/usr/lib/*/libLLVM-19.so*", "/usr/lib/llvm-19/lib/libLLVM*.so*")


def load_mitsuba() -> Any:
    """The module, ready to compile for this CPU; says what is missing if it is not."""
    missing = [name for name in ("mitsuba", "mitsuba_oidn") if find_spec(name) is None]
    if missing:
        raise MissingAssetError(
            f"{' and '.join(missing)} {'are' if missing[1:] else 'is'} not installed: run `pip install "
            "diffusion-perception[scenes]`; on Linux it needs the LLVM 19 library too (Debian: apt-get install "
            "libllvm19)."
        )
    if "DRJIT_LIBLLVM_PATH" not in os.environ:
        found = [path for pattern in LLVM for path in sorted(glob.glob(pattern))]
        if found:
            # read by Dr.Jit when it is first loaded; it picks LLVM 14, which cannot compile its kernels, if left alone
            os.environ["DRJIT_LIBLLVM_PATH"] = found[0]
        elif ctypes.util.find_library("LLVM-19") is None and os.name == "posix" and os.uname().sysname == "Linux":
            raise MissingAssetError(
                "Mitsuba needs the LLVM 19 library: install it (Debian: apt-get install libllvm19) or set "
                "DRJIT_LIBLLVM_PATH to it."
            )
    try:
        import drjit as dr  # type: ignore
        import mitsuba as mi  # type: ignore
        import mitsuba_oidn  # type: ignore  # noqa: F401
    except ImportError as error:
        raise MissingAssetError(
            f"{error.name} cannot be loaded ({error}): run `pip install diffusion-perception[scenes]`."
        ) from error
    mi.set_variant("llvm_ad_rgb")
    # with one, as there is on one core, loading a scene waits for ever
    dr.set_thread_count(max(2, dr.thread_count()))
    mi.set_log_level(mi.LogLevel.Error)
    return mi


@dataclass
class Scene:
    """A loaded room: `tables` give, for a shape's number in the scene, its instance and its class."""

    scene: Any
    instances: np.ndarray
    labels: np.ndarray
    room: Room
    bodies: dict[int, np.ndarray]
    """Instance -> (17, 3) world joints."""


def load_room(room: Room, shelf: Shelf) -> Scene:
    """Meshes, materials and light of a room, in Mitsuba's terms."""
    mi = load_mitsuba()
    content: dict[str, Any] = {"type": "scene", "environment": _environment(mi, room, shelf)}
    instances, labels, joints = [], [], {}
    bsdfs: dict[Any, Any] = {}  # each is compiled into every kernel: share them
    for panel in room.panels:
        key = (panel.texture, panel.gloss)
        bsdfs[key] = bsdfs.get(key) or _panel_bsdf(mi, panel)
        content[f"shape{len(labels):05d}"] = _panel(mi, panel, bsdfs[key])
        instances.append(panel.instance)
        labels.append(CLASSES.index(panel.label))
    for placement in room.placements:
        parts, folder = parts_of(placement, shelf)
        for part in parts:
            if placement.label == "window" and is_glass(part.material):
                continue  # panes would hide the sky from the light sampler, and their depth is nobody's wish
            key = _look(part.material, folder)
            bsdfs[key] = bsdfs.get(key) or _bsdf(mi, part.material, folder)
            content[f"shape{len(labels):05d}"] = _mesh(mi, part, placement, bsdfs[key])
            instances.append(placement.instance)
            labels.append(CLASSES.index(placement.label))
        if placement.model.startswith("body/"):
            joints[placement.instance] = place(_body(placement, shelf).joints, placement)
    scene = mi.load_dict(content, parallel=False)
    return Scene(scene, *_tables(mi, scene, instances, labels), room, joints)


def place(points: np.ndarray, placement: Placement) -> np.ndarray:
    """Points (N, 3) of a model at their place in the room."""
    return points @ turn(placement.yaw).T + np.asarray(placement.position)


def turn(yaw: float) -> np.ndarray:
    """The rotation about the vertical that takes +z to (sin yaw, 0, cos yaw)."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def parts_of(placement: Placement, shelf: Shelf) -> tuple[list[Part], Path]:
    if placement.model.startswith("body/"):
        return _body(placement, shelf).parts, shelf.cache
    item = shelf.items[placement.model]
    return _model(shelf.cache / item.path, item), (shelf.cache / item.path).parent


def _body(placement: Placement, shelf: Shelf) -> Body:
    return load_body(shelf.cache, int(placement.model.split("/")[1]))


def _look(material: Material, folder: Path) -> tuple[Any, ...]:
    """What two materials share if they look the same."""
    if is_glass(material):
        return ("glass",)
    colour = tuple(round(value * 32) for value in material.colour)
    return (folder if material.texture else None, material.texture, material.cutout, colour, round(material.gloss * 8))


@functools.lru_cache(maxsize=256)
def _model(path: Path, item: Item) -> list[Part]:
    return load_model(path, item.rotation, (item.width, item.height, item.depth))


def _tables(mi: Any, scene: Any, instances: list[int], labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Tables over the numbers by which a hit names its shape."""
    import drjit as dr  # type: ignore

    named = {shape.id(): shape for shape in scene.shapes()}
    pairs = []
    for i in range(len(labels)):
        number: Any = dr.reinterpret_array(mi.UInt32, mi.ShapePtr(named[f"shape{i:05d}"]))
        pairs.append((int(number[0]), instances[i], labels[i]))
    size = max(number for number, _, _ in pairs) + 1
    instance_of, label_of = np.zeros(size, np.uint16), np.zeros(size, np.uint8)
    for number, instance, label in pairs:
        instance_of[number], label_of[number] = instance, label
    return instance_of, label_of


def is_glass(material: Material) -> bool:
    return material.opacity < 0.6 and material.texture is None


def _bsdf(mi: Any, material: Material, folder: Path) -> Any:
    """One family of plugins for nearly everything, so that the compiled kernel is shared between rooms."""
    if is_glass(material):
        return mi.load_dict({"type": "thindielectric"})
    if material.texture is None:
        colour = np.clip(material.colour, 0.09, 0.92)
        picture = np.round(np.reshape(colour, (1, 1, 3)) * 255).astype(np.uint8)
    else:
        picture = _picture(str(folder / material.texture))
    bsdf = _principled(mi, picture, material.gloss)
    alpha = _opacity(str(folder / material.cutout)) if material.cutout else None
    if alpha is not None:
        opacity = {"type": "bitmap", "bitmap": mi.Bitmap(alpha), "raw": True, "filter_type": "bilinear"}
        bsdf = {"type": "mask", "opacity": opacity, "nested": bsdf}
    return mi.load_dict(bsdf)


def _principled(mi: Any, picture: np.ndarray, gloss: float) -> dict[str, Any]:
    return {
        "type": "twosided",
        "nested": {
            "type": "principled",
            "base_color": {"type": "bitmap", "bitmap": mi.Bitmap(picture), "raw": False},
            "roughness": 0.75 - 0.55 * gloss,
            "specular": 0.1 + 0.5 * gloss,
        },
    }


@functools.lru_cache(maxsize=512)
def _picture(path: str) -> np.ndarray:
    """An sRGB texture (H, W, 3) uint8, at most 512 pixels wide."""
    import cv2

    picture = cv2.imread(path, cv2.IMREAD_COLOR)
    if picture is None:
        raise MissingAssetError(f"{path} cannot be read as a picture; empty the cache and fetch the models again.")
    height, width = picture.shape[:2]
    if max(height, width) > 512:
        scale = 512 / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    # a pure black or white would absorb or return all light
    return np.clip(picture[..., ::-1], 22, 245).copy()


@functools.lru_cache(maxsize=256)
def _opacity(path: str) -> np.ndarray | None:
    """The alpha of a texture (H, W, 1) float32, None where it is opaque everywhere."""
    import cv2

    picture = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim < 3 or picture.shape[2] < 4 or picture[..., 3].min() > 250:
        return None
    return (picture[..., 3:].astype(np.float32) / 255).copy()


def _mesh(mi: Any, part: Part, placement: Placement, bsdf: Any) -> Any:
    positions = place(part.positions, placement)
    normals = part.normals @ turn(placement.yaw).T
    return _shape(mi, positions, normals, part.uv, part.faces, bsdf)


def _panel(mi: Any, panel: Panel, bsdf: Any) -> Any:
    return _shape(mi, *panel_mesh(panel), bsdf, panel.emission)


def panel_mesh(panel: Panel) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positions, normals, uv and faces of a rectangle."""
    corner, u, v = (np.asarray(value) for value in (panel.corner, panel.edge_u, panel.edge_v))
    lengths = np.linalg.norm(u), np.linalg.norm(v)
    normal = np.cross(u, v) / (lengths[0] * lengths[1])
    positions = np.array([corner, corner + u, corner + u + v, corner + v])
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)
    if panel.tile:
        # from the world, so that the strips of one wall continue each other
        uv = np.stack([positions @ (u / lengths[0]), positions @ (v / lengths[1])], axis=1) / panel.tile
    return positions, np.tile(normal, (4, 1)), uv, np.array([[0, 1, 2], [0, 2, 3]])


def _panel_bsdf(mi: Any, panel: Panel) -> Any:
    return mi.load_dict(_principled(mi, textures.paint(*panel.texture), panel.gloss))


def _shape(
    mi: Any,
    positions: np.ndarray,
    normals: np.ndarray,
    uv: np.ndarray,
    faces: np.ndarray,
    bsdf: Any,
    emission: tuple[float, float, float] | None = None,
) -> Any:
    properties = mi.Properties()
    properties["bsdf"] = bsdf
    if emission is not None:
        properties["emitter"] = mi.load_dict({"type": "area", "radiance": {"type": "rgb", "value": list(emission)}})
    mesh = mi.Mesh(
        "part", len(positions), len(faces), has_vertex_normals=True, has_vertex_texcoords=True, props=properties
    )
    values = mi.traverse(mesh)
    values["vertex_positions"] = np.ascontiguousarray(positions, np.float32).ravel()
    values["vertex_normals"] = np.ascontiguousarray(normals, np.float32).ravel()
    # a picture's first row is v = 1 in a model file and v = 0 here
    values["vertex_texcoords"] = np.ascontiguousarray(uv * [1, -1] + [0, 1], np.float32).ravel()
    values["faces"] = np.ascontiguousarray(faces, np.uint32).ravel()
    values.update()
    return mesh


def _environment(mi: Any, room: Room, shelf: Shelf) -> dict[str, Any]:
    return {
        "type": "envmap",
        "filename": str(shelf.cache / shelf.environments[room.environment]),
        "scale": room.environment_gain,
        "to_world": mi.ScalarTransform4f().rotate([0, 1, 0], float(np.degrees(room.environment_yaw))),
    }


def render_views(loaded: Scene, cameras: list[Camera], size: tuple[int, int], samples: int, seed: int) -> list[View]:
    """Denoised pictures, `size` = (width, height), and the truth at their pixel centres.

    All in one go: what Mitsuba spends before the first ray is as long as a picture takes.
    """
    light = _radiance(loaded, cameras, size, samples, seed)
    truths = _truth(loaded, cameras, size)
    mattes = _coverage(loaded, cameras, size, truths)
    return [
        _view(loaded, camera, size, *arrays, truth, matte, samples)
        for camera, arrays, truth, matte in zip(cameras, light, truths, mattes)
    ]


def _view(
    loaded: Scene,
    camera: Camera,
    size: tuple[int, int],
    radiance: np.ndarray,
    soft_albedo: np.ndarray,
    soft_normal: np.ndarray,
    truth: dict[str, np.ndarray],
    matte: np.ndarray,
    samples: int,
) -> View:
    clean = _denoise(radiance, soft_albedo, soft_normal)
    shading = _denoise(radiance / np.maximum(soft_albedo, DARKEST), np.ones_like(soft_albedo), soft_normal)
    known = (truth["albedo"].max(-1) > 0) & (soft_albedo.min(-1) > DARKEST) & (truth["emission"] == 0)
    gain = exposure(clean, truth["depth"] > 0, loaded.room.exposure)
    return View(
        image=np.round(to_srgb(clean * gain) * 255).astype(np.uint8),
        depth=truth["depth"],
        normal=truth["normal"],
        albedo=np.where(known[..., None], np.clip(soft_albedo, 0, 1), 0),
        shading=np.where(known[..., None], shading * gain, 0),
        segmentation=truth["segmentation"],
        instance=truth["instance"],
        camera=camera,
        subjects=loaded.room.subjects,
        matte=matte,
        keypoints=joints_in(loaded.bodies, camera, size, truth),
        notes={"renderer": "mitsuba", "samples": samples, "exposure": gain, **loaded.room.notes()},
    )


def exposure(radiance: np.ndarray, solid: np.ndarray, brightness: float) -> float:
    """The gain that brings the upper quarter of the luminance of all but the sky to `brightness`, as a camera would."""
    luminance = radiance @ np.array([0.2126, 0.7152, 0.0722])
    metered = luminance[solid] if solid.mean() > 0.1 else luminance
    return float(brightness**2.2 / max(float(np.percentile(metered, 75)), 1e-4))


def _radiance(
    loaded: Scene, cameras: list[Camera], size: tuple[int, int], samples: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each camera noisy light, and the albedo and normal of the very same samples, pass by pass."""
    sensor = _sensor(cameras, size)
    at_once = max(1, RAYS_AT_ONCE // (size[0] * size[1] * len(cameras)))
    counts = [min(at_once, samples - done) for done in range(0, samples, at_once)]
    # a pass of a batch must not draw the numbers of the next batch
    seeds = [seed + 7919 * number for number in range(len(counts))]
    values = sum(_sampled(loaded, sensor, count, own) * (count / samples) for count, own in zip(counts, seeds))
    return [
        (np.maximum(part[..., :3], 0), np.clip(part[..., 3:6], 0, 1), part[..., 6:9])
        for part in np.split(np.asarray(values), len(cameras), axis=1)
    ]


def _sampled(loaded: Scene, sensor: Any, samples: int, seed: int) -> np.ndarray:
    """Light, albedo, normal (H, W, 9), the mean of so many samples a pixel."""
    values = load_mitsuba().render(loaded.scene, sensor=sensor, integrator=_integrator(), spp=samples, seed=seed)
    return np.nan_to_num(np.array(values), nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)


def _sensor(cameras: list[Camera], size: tuple[int, int]) -> Any:
    """All cameras side by side on one film."""
    mi = load_mitsuba()
    film = {
        "type": "hdrfilm",
        "width": size[0] * len(cameras),
        "height": size[1],
        "rfilter": {"type": "box"},
        "pixel_format": "rgb",
    }
    batch: dict[str, Any] = {"type": "batch", "film": film, "sampler": {"type": "independent"}}
    for number, camera in enumerate(cameras):
        # Mitsuba's camera looks along +z with +x to the left and +y up
        pose = camera.matrix() * [-1, -1, 1, 1]
        batch[f"camera{number:03d}"] = {
            "type": "perspective",
            "fov": camera.fov_deg,
            "fov_axis": "x",
            "near_clip": 0.01,
            "far_clip": 1000.0,
            "to_world": mi.ScalarTransform4f(pose),
            "film": {"type": "hdrfilm", "width": size[0], "height": size[1]},
        }
    return mi.load_dict(batch, parallel=False)


@functools.lru_cache(maxsize=1)
def _integrator() -> Any:
    mi = load_mitsuba()
    return mi.load_dict(
        {
            "type": "aov",
            "aovs": "albedo:albedo,normal:sh_normal",
            "light": {"type": "path", "max_depth": MAX_DEPTH, "rr_depth": 4},
        }
    )


def _denoise(colour: np.ndarray, albedo: np.ndarray, normal: np.ndarray) -> np.ndarray:
    import mitsuba_oidn  # type: ignore

    # bounded, so that one firefly does not glow over its neighbours
    bounded = np.minimum(colour, np.percentile(colour, 99.5) * 8 + 1e-3)
    colour, albedo, normal = (np.ascontiguousarray(values, np.float32) for values in (bounded, albedo, normal))
    done = mitsuba_oidn.denoise(colour, albedo=albedo, normal=normal, hdr=True)
    return np.maximum(np.nan_to_num(np.array(done)), 0)


def _truth(loaded: Scene, cameras: list[Camera], size: tuple[int, int]) -> list[dict[str, np.ndarray]]:
    """What the ray through each pixel's centre meets first, see-through texels passed."""
    import drjit as dr  # type: ignore

    mi = load_mitsuba()
    shape = (len(cameras), size[1], size[0])
    origins, directions = _rays(cameras, size, (0.0, 0.0))
    hit = _first_hit(loaded, origins, directions)
    valid = hit.is_valid()
    number = dr.select(valid, dr.reinterpret_array(mi.UInt32, hit.shape), 0)
    glow = dr.select(valid, dr.select(dr.reinterpret_array(mi.UInt32, hit.emitter(loaded.scene)) != 0, 1, 0), 0)
    albedo = hit.bsdf().eval_diffuse_reflectance(hit, valid)
    dr.eval(hit.p, hit.n, hit.sh_frame.n, albedo, number, glow, valid)
    points, flat, smooth, albedo = (
        np.array(value).T.reshape(*shape, 3).astype(np.float64) for value in (hit.p, hit.n, hit.sh_frame.n, albedo)
    )
    number, glow, seen = (np.array(value).reshape(shape) for value in (number, glow, valid))
    found = []
    for i, camera in enumerate(cameras):
        pose, hits = camera.matrix(), seen[i]
        found.append(
            {
                "depth": np.where(hits, (points[i] - pose[:3, 3]) @ pose[:3, 2], 0).astype(np.float32),
                "normal": camera_normals(smooth[i], flat[i], directions[i], pose) * hits[..., None],
                "albedo": np.where(hits[..., None], albedo[i], 0).astype(np.float32),
                "emission": glow[i],
                "segmentation": np.where(hits, loaded.labels[number[i]], CLASSES.index("sky")).astype(np.uint8),
                "instance": np.where(hits, loaded.instances[number[i]], 0).astype(np.uint16),
            }
        )
    return found


def _coverage(
    loaded: Scene, cameras: list[Camera], size: tuple[int, int], truths: list[dict[str, np.ndarray]]
) -> np.ndarray:
    """Which part of each pixel (B, H, W) the subjects fill: 16 rays a pixel wherever an outline is near."""
    import drjit as dr  # type: ignore

    mi = load_mitsuba()
    subjects = np.isin(loaded.instances, loaded.room.subjects)
    solid = np.stack([np.isin(truth["instance"], loaded.room.subjects) for truth in truths])
    edge = _widen(solid) & _widen(~solid)
    filled = solid.astype(np.float32)
    if not edge.any():
        return filled
    steps = (-0.375, -0.125, 0.125, 0.375)
    rays = [_rays(cameras, size, (dx, dy)) for dx in steps for dy in steps]
    hit = _first_hit(loaded, *(np.stack([ray[part][edge] for ray in rays]) for part in range(2)))
    number = np.array(dr.select(hit.is_valid(), dr.reinterpret_array(mi.UInt32, hit.shape), 0))
    seen = np.array(hit.is_valid()) & subjects[number]
    filled[edge] = seen.reshape(len(rays), -1).mean(axis=0)
    return filled


def _widen(mask: np.ndarray, by: int = 2) -> np.ndarray:
    """The mask (B, H, W) and its neighbours."""
    wide = np.pad(mask, ((0, 0), (by, by), (by, by)))
    shifts = range(2 * by + 1)
    height, width = mask.shape[1:]
    return np.any([wide[:, y : y + height, x : x + width] for y in shifts for x in shifts], axis=0)


def _rays(cameras: list[Camera], size: tuple[int, int], shift: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Origins and unit directions (B, H, W, 3) of one ray a pixel, `shift` pixels off its centre."""
    rays = [pixel_rays(camera, *size, shift) for camera in cameras]
    directions = np.stack([direction / np.linalg.norm(direction, axis=-1, keepdims=True) for _, direction in rays])
    return np.broadcast_to(np.stack([origin for origin, _ in rays])[:, None, None], directions.shape), directions


def _first_hit(loaded: Scene, origins: np.ndarray, directions: np.ndarray) -> Any:
    """What rays (..., 3) meet first, texels that are cut out passed."""
    import drjit as dr  # type: ignore

    mi = load_mitsuba()
    aim = mi.Vector3f(_columns(directions))
    hit = loaded.scene.ray_intersect(mi.Ray3f(mi.Point3f(_columns(origins)), aim))
    for _ in range(LEAVES):
        through = _passes(mi, hit)
        if not dr.any(through):
            break
        beyond = loaded.scene.ray_intersect(hit.spawn_ray(aim), through)
        hit = dr.select(through, beyond, hit)
    return hit


def _columns(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors.reshape(-1, 3).T, np.float32)


def _passes(mi: Any, hit: Any) -> Any:
    """Where a surface is cut out by its texture rather than made of glass."""
    valid = hit.is_valid()
    clear = mi.luminance(hit.bsdf().eval_null_transmission(hit, valid)) > 0.5
    solid = mi.luminance(hit.bsdf().eval_diffuse_reflectance(hit, valid)) > 0
    return valid & clear & solid


def camera_normals(smooth: np.ndarray, flat: np.ndarray, rays: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """World normals (H, W, 3) turned towards the viewer, in camera axes right, up, back."""
    flat = np.where((flat * rays).sum(-1, keepdims=True) > 0, -flat, flat)
    smooth = np.where((smooth * flat).sum(-1, keepdims=True) < 0, -smooth, smooth)
    # an interpolated normal may lean away from the viewer at an outline; the face's own never does
    away = (smooth * rays).sum(-1, keepdims=True) > -1e-3
    normal = np.where(away, flat, smooth) @ (pose[:3, :3] * [1, -1, -1])
    return (normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)).astype(np.float32)


def joints_in(
    bodies: dict[int, np.ndarray], camera: Camera, size: tuple[int, int], truth: dict[str, np.ndarray]
) -> dict[int, np.ndarray]:
    """COCO joints (17, 3) of each body in a picture: 2 seen, 1 hidden, 0 outside."""
    found = {}
    for instance, joints in bodies.items():
        pixels, z = project(joints, camera, *size)
        inside = (z > 0.05) & (pixels >= 0).all(axis=1) & (pixels < size).all(axis=1)
        column, row = np.clip(pixels, 0, np.array(size) - 1).astype(int).T
        own = truth["instance"][row, column] == instance
        # a joint lies inside the body: what is in front of it by more than a limb hides it
        shown = own | (truth["depth"][row, column] > z - 0.05)
        visibility = np.where(inside, np.where(shown, 2, 1), 0)
        found[instance] = np.concatenate([pixels * inside[:, None], visibility[:, None]], axis=1)
    return found
