"""Blender: a planned room as a picture with hair and depth of field, rendered by bpy in a process of its own.

bpy is GPL: it is never imported here. What it needs goes to its interpreter as files (one archive of meshes and a JSON
job), what it made comes back as one archive of arrays for each view.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..core.srgb import to_srgb
from . import textures
from .assets import MissingAssetError
from .bodies import load_body
from .cameras import Camera, pixel_rays
from .furniture import CLASSES
from .meshes import Material
from .mitsuba_render import DARKEST, camera_normals, exposure, is_glass, joints_in, panel_mesh, parts_of, place, turn
from .rooms import Panel, Placement, Room
from .shelf import Shelf
from .views import View

SCRIPT = Path(__file__).with_name("blender_script.py")
MATTE_SAMPLES = 48


def find_python(given: Path | None) -> str:
    """The interpreter that has bpy."""
    tried = (
        [str(given)]
        if given
        else [os.environ.get("DIFFUSION_PERCEPTION_BLENDER", ""), shutil.which("python3.11") or ""]
    )
    for python in tried:
        if python and shutil.which(python):
            probe = [python, "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('bpy') is None)"]
            if subprocess.run(probe, capture_output=True).returncode == 0:
                return python
    raise MissingAssetError(
        "The blender renderer needs bpy in an environment of its own: make one with Python 3.11, "
        "`pip install bpy==4.5.15` in it, and give its interpreter with --blender-python."
    )


def blender_views(
    room: Room, shelf: Shelf, size: tuple[int, int], samples: int, wanted: list[int], python: Path | None
) -> Iterator[tuple[int, View]]:
    """The wanted views of a room, as soon as each is there."""
    interpreter = find_python(python)
    with tempfile.TemporaryDirectory(prefix="scenes-") as name:
        folder = Path(name)
        labels, instances = _write_job(room, shelf, size, samples, wanted, folder)
        command = ["nice", interpreter] if shutil.which("nice") else [interpreter]
        log = folder / "log.txt"
        with open(log, "w") as output:
            process = subprocess.Popen([*command, str(SCRIPT), str(folder)], stdout=output, stderr=subprocess.STDOUT)
            try:
                for k in wanted:
                    arrays = _wait_for(folder / f"view{k:03d}.npz", process, log)
                    yield k, _read_view(room, shelf, k, size, samples, arrays, labels, instances)
                process.wait()
            finally:
                process.kill()
                process.wait()


def _wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> dict[str, np.ndarray]:
    """The arrays of a view when they are written, or what Blender died of."""
    while not path.is_file():
        try:
            process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
        if not path.is_file():
            reason = (log.read_text(errors="replace").strip().splitlines() or ["nothing was said"])[-1]
            raise UserError(f"Blender stopped with code {process.returncode}: {reason}")
    with np.load(path) as file:
        return dict(file)


def _write_job(
    room: Room, shelf: Shelf, size: tuple[int, int], samples: int, wanted: list[int], folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Write the job; say the class and the instance of every numbered object (0 is the sky)."""
    arrays: dict[str, np.ndarray] = {}
    objects: list[dict[str, Any]] = []
    labels, instances = [CLASSES.index("sky")], [0]

    def add(label: str, instance: int, look: dict[str, Any], mesh: tuple[np.ndarray, ...], **more: Any) -> None:
        for kind, values in zip(("positions", "normals", "uv", "faces"), mesh):
            arrays[f"{kind}{len(objects)}"] = values
        objects.append({"look": look, "subject": instance in room.subjects, **more})
        labels.append(CLASSES.index(label))
        instances.append(instance)

    for panel in room.panels:
        add(panel.label, panel.instance, _panel_look(panel, folder), panel_mesh(panel), emission=panel.emission)
    for placement in room.placements:
        parts, models = parts_of(placement, shelf)
        for part in parts:
            if not (placement.label == "window" and is_glass(part.material)):
                mesh = (place(part.positions, placement), part.normals @ turn(placement.yaw).T, part.uv, part.faces)
                hair = placement.model.startswith("body/") and part.material.name == "hair"
                add(
                    placement.label,
                    placement.instance,
                    _material_row(part.material, models),
                    mesh,
                    hair=_hair(room, placement) if hair else None,
                )
    np.savez(folder / "meshes.npz", **arrays)  # type: ignore
    job = {
        "size": size,
        "samples": samples,
        "matte_samples": MATTE_SAMPLES,
        "environment": str(shelf.cache / shelf.environments[room.environment]),
        "environment_yaw": room.environment_yaw,
        "environment_gain": room.environment_gain,
        "objects": objects,
        "views": [
            {"number": k, "pose": room.cameras[k].pose, "fov_deg": room.cameras[k].fov_deg, "lens": _lens(room, k)}
            for k in wanted
        ],
    }
    (folder / "job.json").write_text(json.dumps(job))
    return np.array(labels, np.uint8), np.array(instances, np.uint16)


def _lens(room: Room, k: int) -> dict[str, float] | None:
    """Depth of field for two views of three: the f-number of a wide lens."""
    rng = np.random.default_rng([int(room.name), k, 77])
    return {"f_number": float(np.exp(rng.uniform(-0.7, 0.9)))} if rng.random() < 0.67 else None


def _hair(room: Room, placement: Placement) -> dict[str, float]:
    """Length and wildness of the hair of a body."""
    rng = np.random.default_rng([int(room.name), placement.instance, 78])
    return {
        "length": float(rng.uniform(0.03, 0.22)),
        "wild": float(rng.uniform(0.002, 0.02)),
        "seed": int(rng.integers(1000)),
    }


def _material_row(material: Material, models: Path) -> dict[str, Any]:
    return {
        "colour": [float(value) for value in np.clip(material.colour, 0.09, 0.92)],
        "texture": str(models / material.texture) if material.texture else None,
        "cutout": str(models / material.cutout) if material.cutout else None,
        "glass": is_glass(material),
        "gloss": material.gloss,
    }


def _panel_look(panel: Panel, folder: Path) -> dict[str, Any]:
    import cv2

    path = folder / f"{panel.texture[0]}-{panel.texture[1]}.png"
    if not path.is_file():
        cv2.imwrite(str(path), textures.paint(*panel.texture)[..., ::-1])
    return {"colour": [1, 1, 1], "texture": str(path), "cutout": None, "glass": False, "gloss": panel.gloss}


def _read_view(
    room: Room,
    shelf: Shelf,
    k: int,
    size: tuple[int, int],
    samples: int,
    arrays: dict[str, np.ndarray],
    labels: np.ndarray,
    instances: np.ndarray,
) -> View:
    camera: Camera = room.cameras[k]
    pose = camera.matrix()
    number = np.round(arrays["index"]).astype(int)
    seen = number > 0
    _, directions = pixel_rays(camera, *size)
    flat = smooth = arrays["normal"].astype(np.float64)
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    depth = np.where(seen, arrays["depth"], 0).astype(np.float32)
    radiance, albedo = np.maximum(arrays["image"], 0), np.clip(arrays["albedo"], 0, 1)
    known = seen & (albedo.max(-1) > DARKEST)
    gain = exposure(radiance, depth > 0, room.exposure)
    # a channel that reflects next to nothing says nothing about its light: the others do
    even = radiance.sum(-1, keepdims=True) / np.maximum(albedo.sum(-1, keepdims=True), DARKEST)
    shading = np.where(albedo > DARKEST, radiance / np.maximum(albedo, DARKEST), even)
    truth = {"instance": instances[number] * seen, "depth": depth}
    return View(
        image=np.round(to_srgb(radiance * gain) * 255).astype(np.uint8),
        depth=depth,
        normal=camera_normals(smooth, flat, unit, pose) * seen[..., None],
        albedo=np.where(known[..., None], albedo, 0),
        shading=np.where(known[..., None], shading * gain, 0),
        segmentation=labels[number],
        instance=truth["instance"].astype(np.uint16),
        camera=camera,
        subjects=room.subjects,
        matte=np.clip(arrays["matte"], 0, 1).astype(np.float32),
        keypoints=joints_in(_joints(room, shelf), camera, size, truth),
        notes={
            "renderer": "blender",
            "samples": samples,
            "exposure": gain,
            "lens": _lens(room, k),
            "focus": float(arrays["focus"]),
            **room.notes(),
        },
    )


def _joints(room: Room, shelf: Shelf) -> dict[int, np.ndarray]:
    bodies = [placement for placement in room.placements if placement.model.startswith("body/")]
    return {p.instance: place(load_body(shelf.cache, int(p.model.split("/")[1])).joints, p) for p in bodies}
