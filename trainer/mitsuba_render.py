"""Mitsuba: a planned room as a picture with exact truth, on the CPU."""

from __future__ import annotations

import ctypes.util
import functools
import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import textures
from .assets import Item, MissingAssetError
from .bodies import Body
from .cameras import Camera, focal_px, pixel_rays, project
from .furniture import CLASSES
from .meshes import Material, Part, load_model
from .rooms import Panel, Placement, Room
from .views import View, to_srgb

BACKGROUND = 0
MAX_DEPTH = 6
DARKEST = 0.006
"""Linear albedo under which light divided by it would be noise."""
LEAVES = 12
"""How many see-through surfaces a label ray may pass."""
LLVM = ("/usr/lib/*/libLLVM.so.19*", "/usr/lib/llvm-19/lib/libLLVM*.so*", "/usr/lib/*/libLLVM-1[6-9].so*")


def load_mitsuba() -> Any:
    """The module, ready to compile for this CPU; says what is missing if it is not."""
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
        import mitsuba as mi
        import mitsuba_oidn  # noqa: F401
    except ImportError as error:
        raise MissingAssetError(
            f"{error.name} is not installed: run `pip install mitsuba==3.9.1 mitsuba-oidn==0.1.2`."
        ) from error
    mi.set_variant("llvm_ad_rgb")
    mi.set_log_level(mi.LogLevel.Error)
    return mi


@dataclass(frozen=True)
class Shelf:
    """Where models come from."""

    cache: Path
    items: dict[str, Item]
    environments: list[str]
    bodies: list[Body]


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
    for panel in room.panels:
        content[f"shape{len(labels):05d}"] = _panel(mi, panel)
        instances.append(panel.instance)
        labels.append(CLASSES.index(panel.label))
    for placement in room.placements:
        parts, folder = _parts(placement, shelf)
        for part in parts:
            if placement.label == "window" and _is_glass(part.material):
                continue  # panes would hide the sky from the light sampler, and their depth is nobody's wish
            content[f"shape{len(labels):05d}"] = _mesh(mi, part, placement, folder)
            instances.append(placement.instance)
            labels.append(CLASSES.index(placement.label))
        if placement.model.startswith("body/"):
            body = shelf.bodies[int(placement.model.split("/")[1]) % len(shelf.bodies)]
            joints[placement.instance] = place(body.joints, placement)
    scene = mi.load_dict(content, parallel=False)
    return Scene(scene, *_tables(mi, scene, instances, labels), room, joints)


def place(points: np.ndarray, placement: Placement) -> np.ndarray:
    """Points (N, 3) of a model at their place in the room."""
    return points @ turn(placement.yaw).T + np.asarray(placement.position)


def turn(yaw: float) -> np.ndarray:
    """The rotation about the vertical that takes +z to (sin yaw, 0, cos yaw)."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def _parts(placement: Placement, shelf: Shelf) -> tuple[list[Part], Path]:
    if placement.model.startswith("body/"):
        body = shelf.bodies[int(placement.model.split("/")[1]) % len(shelf.bodies)]
        return body.parts, Path()
    item = shelf.items[placement.model]
    return _model(shelf.cache / item.path, item), (shelf.cache / item.path).parent


@functools.lru_cache(maxsize=256)
def _model(path: Path, item: Item) -> list[Part]:
    return load_model(path, item.rotation, (item.width, item.height, item.depth))


def _tables(mi: Any, scene: Any, instances: list[int], labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Tables over the numbers by which a hit names its shape."""
    import drjit as dr

    named = {shape.id(): shape for shape in scene.shapes()}
    pairs = []
    for i in range(len(labels)):
        number = dr.reinterpret_array(mi.UInt32, mi.ShapePtr(named[f"shape{i:05d}"]))
        pairs.append((int(number[0]), instances[i], labels[i]))
    size = max(number for number, _, _ in pairs) + 1
    instance_of, label_of = np.zeros(size, np.uint16), np.zeros(size, np.uint8)
    for number, instance, label in pairs:
        instance_of[number], label_of[number] = instance, label
    return instance_of, label_of


# materials and shapes


def _is_glass(material: Material) -> bool:
    return material.opacity < 0.6 and material.texture is None


def _bsdf(mi: Any, material: Material, folder: Path) -> Any:
    """One family of plugins for nearly everything, so that the compiled kernel is shared between rooms."""
    if _is_glass(material):
        return mi.load_dict({"type": "thindielectric"})
    base = {
        "type": "principled",
        "base_color": _colour(mi, material, folder),
        "roughness": float(0.75 - 0.55 * material.gloss),
        "specular": 0.25 + 0.4 * material.gloss,
    }
    bsdf = {"type": "twosided", "nested": base}
    alpha = _opacity(str(folder / material.cutout)) if material.cutout else None
    if alpha is not None:
        opacity = {"type": "bitmap", "bitmap": mi.Bitmap(alpha), "raw": True, "filter_type": "bilinear"}
        bsdf = {"type": "mask", "opacity": opacity, "nested": bsdf}
    return mi.load_dict(bsdf)


def _colour(mi: Any, material: Material, folder: Path) -> dict[str, Any]:
    if material.texture is None:
        picture = np.full((1, 1, 3), np.clip(material.colour, 0.09, 0.92), np.float32)
        picture = np.round(picture * 255).astype(np.uint8)
    else:
        picture = _picture(str(folder / material.texture))
    return {"type": "bitmap", "bitmap": mi.Bitmap(picture), "raw": False}


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


def _mesh(mi: Any, part: Part, placement: Placement, folder: Path) -> Any:
    positions = place(part.positions, placement)
    normals = part.normals @ turn(placement.yaw).T
    return _shape(mi, positions, normals, part.uv, part.faces, _bsdf(mi, part.material, folder))


def _panel(mi: Any, panel: Panel) -> Any:
    corner, u, v = (np.asarray(value) for value in (panel.corner, panel.edge_u, panel.edge_v))
    lengths = np.linalg.norm(u), np.linalg.norm(v)
    normal = np.cross(u, v) / (lengths[0] * lengths[1])
    positions = np.array([corner, corner + u, corner + u + v, corner + v])
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)
    if panel.tile:
        # from the world, so that the strips of one wall continue each other
        uv = np.stack([positions @ (u / lengths[0]), positions @ (v / lengths[1])], axis=1) / panel.tile
    picture = textures.paint(*panel.texture)
    bsdf = mi.load_dict({
        "type": "twosided",
        "nested": {
            "type": "principled",
            "base_color": {"type": "bitmap", "bitmap": mi.Bitmap(picture), "raw": False},
            "roughness": float(0.75 - 0.55 * panel.gloss),
            "specular": 0.25 + 0.4 * panel.gloss,
        },
    })  # fmt: skip
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    return _shape(mi, positions, np.tile(normal, (4, 1)), uv, faces, bsdf, panel.emission)


def _shape(mi: Any, positions: np.ndarray, normals: np.ndarray, uv: np.ndarray, faces: np.ndarray, bsdf: Any,
           emission: tuple[float, float, float] | None = None) -> Any:  # fmt: skip
    properties = mi.Properties()
    properties["bsdf"] = bsdf
    if emission is not None:
        properties["emitter"] = mi.load_dict({"type": "area", "radiance": {"type": "rgb", "value": list(emission)}})
    mesh = mi.Mesh("part", len(positions), len(faces), has_vertex_normals=True, has_vertex_texcoords=True,
                   props=properties)  # fmt: skip
    values = mi.traverse(mesh)
    values["vertex_positions"] = np.ascontiguousarray(positions, np.float32).ravel()
    values["vertex_normals"] = np.ascontiguousarray(normals, np.float32).ravel()
    # a picture's first row is v = 1 in a model file and v = 0 here
    values["vertex_texcoords"] = np.ascontiguousarray(uv * [1, -1] + [0, 1], np.float32).ravel()
    values["faces"] = np.ascontiguousarray(faces, np.uint32).ravel()
    values.update()
    return mesh


def _environment(mi: Any, room: Room, shelf: Shelf) -> dict[str, Any]:
    path = shelf.environments[room.environment % len(shelf.environments)]
    return {
        "type": "envmap",
        "filename": str(shelf.cache / path),
        "scale": room.environment_gain,
        "to_world": mi.ScalarTransform4f().rotate([0, 1, 0], float(np.degrees(room.environment_yaw))),
    }


# pictures


def render_views(loaded: Scene, size: tuple[int, int], samples: int, cameras: Iterator[tuple[int, Camera]]) -> Iterator[tuple[int, View]]:
    """The views of the given cameras, one after the other; `size` is (width, height)."""
    for number, camera in cameras:
        yield number, render_view(loaded, camera, size, samples, number)


def render_view(loaded: Scene, camera: Camera, size: tuple[int, int], samples: int, seed: int) -> View:
    """A denoised picture and the truth at its pixel centres."""
    radiance, soft_albedo, soft_normal = _radiance(loaded, camera, size, samples, seed)
    truth = _truth(loaded, camera, size)
    clean = _denoise(radiance, soft_albedo, soft_normal)
    lit = np.maximum(soft_albedo, DARKEST)
    shading = _denoise(radiance / lit, np.ones_like(soft_albedo), soft_normal)
    known = (truth["albedo"].max(-1) > 0) & (soft_albedo.min(-1) > DARKEST) & (truth["emission"] == 0)
    gain = exposure(clean, loaded.room.exposure)
    return View(
        image=np.round(to_srgb(clean * gain) * 255).astype(np.uint8),
        depth=truth["depth"],
        normal=truth["normal"],
        albedo=np.where(known[..., None], np.clip(soft_albedo, 0, 1), 0),
        shading=np.where(known[..., None], shading * gain, 0),
        segmentation=truth["segmentation"],
        instance=truth["instance"],
        camera=camera,
        keypoints=_joints(loaded, camera, size, truth),
        notes={"renderer": "mitsuba", "samples": samples, "kind": loaded.room.kind, "exposure": gain},
    )


def exposure(radiance: np.ndarray, brightness: float) -> float:
    """The gain that brings the upper quarter of the luminance to `brightness`, as a camera would."""
    luminance = radiance @ np.array([0.2126, 0.7152, 0.0722])
    return float(brightness**2.2 / max(float(np.percentile(luminance, 75)), 1e-4))


def _radiance(loaded: Scene, camera: Camera, size: tuple[int, int], samples: int, seed: int) -> tuple[np.ndarray, ...]:
    """Noisy light, and the albedo and normal of the very same samples."""
    mi = load_mitsuba()
    pose = camera.matrix()
    pose[:3, 0] *= -1  # Mitsuba's camera looks along +z with +x to the left and +y up
    pose[:3, 1] *= -1
    sensor = mi.load_dict({
        "type": "perspective",
        "fov": camera.fov_deg,
        "fov_axis": "x",
        "near_clip": 0.01,
        "far_clip": 1000.0,
        "to_world": mi.ScalarTransform4f(pose),
        "film": {"type": "hdrfilm", "width": size[0], "height": size[1], "rfilter": {"type": "box"}, "pixel_format": "rgb"},
        "sampler": {"type": "independent"},
    })  # fmt: skip
    values = np.array(mi.render(loaded.scene, sensor=sensor, integrator=_integrator(), spp=samples, seed=seed))
    values = np.maximum(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=-1.0), -1.0).astype(np.float32)
    return np.maximum(values[..., :3], 0), np.clip(values[..., 3:6], 0, 1), values[..., 6:9]


@functools.lru_cache(maxsize=1)
def _integrator() -> Any:
    mi = load_mitsuba()
    return mi.load_dict({
        "type": "aov",
        "aovs": "albedo:albedo,normal:sh_normal",
        "light": {"type": "path", "max_depth": MAX_DEPTH, "rr_depth": 4},
    })  # fmt: skip


def _denoise(colour: np.ndarray, albedo: np.ndarray, normal: np.ndarray) -> np.ndarray:
    import mitsuba_oidn

    # bounded, so that one firefly does not glow over its neighbours
    bounded = np.minimum(colour, np.percentile(colour, 99.5) * 8 + 1e-3)
    colour, albedo, normal = (np.ascontiguousarray(values, np.float32) for values in (bounded, albedo, normal))
    done = mitsuba_oidn.denoise(colour, albedo=albedo, normal=normal, hdr=True)
    return np.maximum(np.nan_to_num(np.array(done)), 0)


def _truth(loaded: Scene, camera: Camera, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """What the ray through each pixel's centre meets first, see-through texels passed."""
    import drjit as dr

    mi = load_mitsuba()
    width, height = size
    origin, directions = pixel_rays(camera, width, height)
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    aim = mi.Vector3f(*(np.ascontiguousarray(unit[..., i].ravel(), np.float32) for i in range(3)))
    ray = mi.Ray3f(mi.Point3f(*(float(value) for value in origin)), aim)
    hit = loaded.scene.ray_intersect(ray)
    for _ in range(LEAVES):
        through = _passes(mi, hit)
        if not dr.any(through):
            break
        beyond = loaded.scene.ray_intersect(hit.spawn_ray(aim), through)
        hit = dr.select(through, beyond, hit)
    valid = hit.is_valid()
    shape = dr.select(valid, dr.reinterpret_array(mi.UInt32, hit.shape), 0)
    albedo = hit.bsdf().eval_diffuse_reflectance(hit, valid)
    glow = dr.select(valid & (hit.emitter(loaded.scene) != None), 1.0, 0.0)  # noqa: E711
    columns = {
        "points": hit.p, "flat": hit.n, "smooth": hit.sh_frame.n, "albedo": albedo
    }  # fmt: skip
    arrays = {name: np.array(value).T.reshape(height, width, 3).astype(np.float64) for name, value in columns.items()}
    seen = np.array(valid).reshape(height, width)
    number = np.where(seen, np.array(shape).reshape(height, width), BACKGROUND)
    pose = camera.matrix()
    z = ((arrays["points"] - pose[:3, 3]) @ pose[:3, 2]) * seen
    return {
        "depth": np.where(seen, z, 0).astype(np.float32),
        "normal": camera_normals(arrays["smooth"], arrays["flat"], unit, pose) * seen[..., None],
        "albedo": np.where(seen[..., None], arrays["albedo"], 0).astype(np.float32),
        "emission": np.array(glow).reshape(height, width),
        "segmentation": np.where(seen, loaded.labels[number], CLASSES.index("sky")).astype(np.uint8),
        "instance": np.where(seen, loaded.instances[number], 0).astype(np.uint16),
    }


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


def _joints(loaded: Scene, camera: Camera, size: tuple[int, int], truth: dict[str, np.ndarray]) -> dict[int, np.ndarray]:
    """COCO joints of the bodies: 2 seen, 1 hidden, 0 outside the picture."""
    found = {}
    for instance, joints in loaded.bodies.items():
        pixels, z = project(joints, camera, *size)
        inside = (z > 0.05) & (pixels >= 0).all(axis=1) & (pixels < size).all(axis=1)
        column, row = np.clip(pixels, 0, np.array(size) - 1).astype(int).T
        own = truth["instance"][row, column] == instance
        # a joint lies inside the body: what is in front of it by more than a limb hides it
        shown = own | (truth["depth"][row, column] > z - 0.05)
        visibility = np.where(inside, np.where(shown, 2, 1), 0)
        found[instance] = np.concatenate([pixels * inside[:, None], visibility[:, None]], axis=1)
    return found


def focal(camera: Camera, width: int) -> float:
    return focal_px(camera.fov_deg, width)
