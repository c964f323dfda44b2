"""Relight beside a renderer: a sphere lit by Mitsuba, and by core.display.relight from nothing but its depth.

It needs the `scenes` extra.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from diffusion_perception.core.display.relight import Lamp, falling
from diffusion_perception.core.geometry import depth_to_normal, intrinsics_from_fov, unproject

HEIGHT, WIDTH, FOV = 240, 320, 50.0
FOCAL = WIDTH / 2 / np.tan(np.radians(FOV / 2))
CENTRE, RADIUS, ALBEDO = np.array([0.2, -0.1, -4.0]), 1.2, 0.5
TOWARDS = np.array([0.75, 0.5, 0.4330127])
"""The way to the far light: azimuth 60, elevation 30 degrees."""
PLACE = np.array([1.2, 1.0, -2.2])
ACROSS, DOWN = 0.5 - PLACE[0] / PLACE[2] * FOCAL / WIDTH, 0.5 + PLACE[1] / PLACE[2] * FOCAL / HEIGHT
LIGHTS: dict[str, tuple[dict[str, Any], Lamp]] = {
    "directional": (
        {"type": "directional", "direction": (-TOWARDS).tolist(), "irradiance": {"type": "rgb", "value": [2.0] * 3}},
        Lamp(azimuth=60, elevation=30, intensity=2.0),
    ),
    "point": (
        {"type": "point", "position": PLACE.tolist(), "intensity": {"type": "rgb", "value": [3.0] * 3}},
        Lamp("point", place=(float(ACROSS), float(DOWN), float(-PLACE[2])), intensity=3.0),
    ),
}
"""{light: (as Mitsuba has it, as the node has it)}"""


def _rendered(emitter: dict[str, Any]) -> np.ndarray:
    """(H, W) radiance of the sphere under one light, without bounces."""
    import mitsuba as mi

    mi.set_variant("scalar_rgb")
    view = mi.ScalarTransform4f().look_at(origin=[0, 0, 0], target=[0, 0, -1], up=[0, 1, 0])
    film = {"type": "hdrfilm", "width": WIDTH, "height": HEIGHT, "rfilter": {"type": "box"}, "pixel_format": "rgb"}
    sampler = {"type": "independent", "sample_count": 256}
    sensor = {"type": "perspective", "fov": FOV, "fov_axis": "x", "to_world": view, "film": film, "sampler": sampler}
    surface = {"type": "diffuse", "reflectance": {"type": "rgb", "value": [ALBEDO] * 3}}
    sphere = {"type": "sphere", "center": CENTRE.tolist(), "radius": RADIUS, "bsdf": surface}
    integrator = {"type": "direct", "emitter_samples": 1, "bsdf_samples": 0}
    scene = {"type": "scene", "integrator": integrator, "sensor": sensor, "sphere": sphere, "emitter": emitter}
    return np.array(mi.render(mi.load_dict(scene)))[..., 0]


def _depth_of_sphere() -> torch.Tensor:
    """(1, H, W); 0 beside it."""
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    rays = np.stack([(u - WIDTH / 2) / FOCAL, -(v - HEIGHT / 2) / FOCAL, -np.ones_like(u)], -1)
    a, b = (rays**2).sum(-1), rays @ CENTRE
    root = b**2 - a * (CENTRE @ CENTRE - RADIUS**2)
    return torch.from_numpy(np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, 0)).float()[None]


def main() -> None:
    """Print how far the two differ inside the sphere, 3 pixels from its edge."""
    depth, camera = _depth_of_sphere(), intrinsics_from_fov(FOV, HEIGHT, WIDTH)
    known = depth > 0
    inside = (-F.max_pool2d(-known[:, None].float(), 7, 1, 3) > 0)[0, 0].numpy()
    normals, points = depth_to_normal(depth, camera, known), unproject(depth, camera)
    for light, (emitter, lamp) in LIGHTS.items():
        truth = _rendered(emitter)[inside]
        ours = falling(normals, known, points, camera, lamp)[0, ..., 0].numpy()[inside] * ALBEDO / np.pi
        error = np.abs(truth - ours)
        print(
            f"{light}: mean {error.mean() / truth.mean():.3%}, 99 % below {np.quantile(error, 0.99) / truth.mean():.2%}"
        )


if __name__ == "__main__":
    main()
