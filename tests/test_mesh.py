"""Tests of core.display.mesh and glb: trimesh opens what was written, in the right size, the right way round."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch

from diffusion_perception.core.display.distance import Distance
from diffusion_perception.core.display.glb import glb
from diffusion_perception.core.display.mesh import Grid, grid_of, shape_of
from diffusion_perception.core.geometry import intrinsics_from_fov

trimesh = pytest.importorskip("trimesh")
HEIGHT, WIDTH, FOV = 60, 80, 60.0
CAMERA = intrinsics_from_fov(FOV, HEIGHT, WIDTH)
PICTURE = torch.rand(1, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))


def opened(
    distance: torch.Tensor, kind: str = "surface", image=PICTURE, detail: int = 512, jump: float = 0.1, known=None
):
    """What trimesh makes of the file of a depth (H, W)."""
    known = distance > 0 if known is None else known
    grid: Grid = grid_of(Distance(distance[None], known[None], ""), CAMERA, image, 0, detail)
    data = glb(shape_of(grid, None if image is None else image[0], kind, jump), {"workflow": "{}"})
    assert len(data) % 4 == 0
    (geometry,) = trimesh.load(io.BytesIO(data), file_type="glb").geometry.values()
    return geometry, data


def test_a_wall_is_as_large_as_the_camera_sees_it_and_faces_it():
    mesh, _ = opened(torch.full((HEIGHT, WIDTH), 2.0))
    wide = 2 * 2 * np.tan(np.radians(FOV / 2)) * (WIDTH - 1) / WIDTH  # between the centres of the outer pixels
    high = wide * (HEIGHT - 1) / (WIDTH - 1)
    assert np.allclose(mesh.bounds, [[-wide / 2, -high / 2, -2], [wide / 2, high / 2, -2]], atol=1e-5)
    assert mesh.area == pytest.approx(wide * high, rel=1e-5)
    assert np.allclose(mesh.face_normals, [0, 0, 1], atol=1e-5)
    assert len(mesh.faces) == 2 * (HEIGHT - 1) * (WIDTH - 1)


def test_a_sphere_bulges_towards_the_camera_at_its_place_and_in_its_size():
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    focal = WIDTH / 2 / np.tan(np.radians(FOV / 2))
    rays = np.stack([(u - WIDTH / 2) / focal, -(v - HEIGHT / 2) / focal, -np.ones_like(u)], -1)
    centre, radius = np.array([0.2, 0.3, -3.0]), 0.8
    a, b = (rays**2).sum(-1), rays @ centre
    root = b**2 - a * (centre @ centre - radius**2)
    depth = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, 0)
    mesh, _ = opened(torch.from_numpy(depth).float())
    assert np.allclose(np.linalg.norm(mesh.vertices - centre, axis=1), radius, atol=1e-5)
    outward = ((mesh.triangles_center - centre) * mesh.face_normals).sum(1)
    assert (outward > 0.9 * radius).all()
    assert (mesh.triangles_center * mesh.face_normals).sum(1).max() < 0  # every face looks at the camera
    assert len(mesh.vertices) == len(np.unique(mesh.faces))


def test_jumps_and_unknown_places_are_cut():
    depth = torch.full((HEIGHT, WIDTH), 2.0)
    depth[:, 40:] = 3.0
    depth[10:20, 10:20] = 0
    mesh, _ = opened(depth)
    spans = np.ptp(mesh.vertices[mesh.faces][..., 2], axis=1)
    assert spans.max() == 0
    assert len(mesh.split(only_watertight=False)) == 2
    whole, hole = 2 * (HEIGHT - 1) * (WIDTH - 2), 2 * 11 * 11 - 2  # two corners have a half that does not touch it
    assert len(mesh.faces) == whole - hole
    bridged, _ = opened(depth, jump=0)
    assert len(bridged.faces) == whole + 2 * (HEIGHT - 1) - hole


def test_the_picture_lies_on_the_surface_pixel_by_pixel():
    mesh, data = opened(torch.full((HEIGHT, WIDTH), 2.0))
    texture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB")) / 255
    assert np.abs(texture - PICTURE[0].numpy()).max() < 0.6 / 255
    # trimesh counts upwards from the lower edge
    column, row = mesh.visual.uv[:, 0] * WIDTH - 0.5, (1 - mesh.visual.uv[:, 1]) * HEIGHT - 0.5
    focal = WIDTH / 2 / np.tan(np.radians(FOV / 2))
    assert np.allclose(mesh.vertices[:, 0], (column + 0.5 - WIDTH / 2) / focal * 2, atol=1e-4)
    assert np.allclose(mesh.vertices[:, 1], -(row + 0.5 - HEIGHT / 2) / focal * 2, atol=1e-4)
    length = int.from_bytes(data[12:16], "little")
    told = json.loads(data[20 : 20 + length])
    assert told["asset"]["extras"] == {"workflow": "{}"}
    assert told["materials"][0]["doubleSided"]
    assert opened(torch.full((HEIGHT, WIDTH), 2.0), image=None)[0].area > 0


def test_fewer_points_still_reach_from_edge_to_edge():
    full, _ = opened(torch.full((HEIGHT, WIDTH), 2.0))
    coarse, _ = opened(torch.full((HEIGHT, WIDTH), 2.0), detail=16)
    assert len(coarse.vertices) == 16 * 12
    assert np.allclose(coarse.bounds, full.bounds, atol=1e-5)


def test_points_have_their_pixels_colours_in_linear_light():
    depth = torch.full((HEIGHT, WIDTH), 2.0)
    depth[:5] = 0
    points, data = opened(depth, "points", torch.full_like(PICTURE, 0.5))
    assert points.vertices.shape == (WIDTH * (HEIGHT - 5), 3)
    length = int.from_bytes(data[12:16], "little")
    told, held = json.loads(data[20 : 20 + length]), data[28 + length :]
    (drawn,) = told["meshes"][0]["primitives"]
    assert drawn["mode"] == 0
    view = told["bufferViews"][told["accessors"][drawn["attributes"]["COLOR_0"]]["bufferView"]]
    colours = np.frombuffer(held[view["byteOffset"] :][: view["byteLength"]], "<f4")
    assert np.allclose(colours, 0.21404, atol=1e-5)


WRONG = {
    "nothing known": ("surface", torch.zeros(HEIGHT, WIDTH), "No surface is left"),
    "no point known": ("points", torch.zeros(HEIGHT, WIDTH), "No point is left"),
    "another kind": ("voxels", torch.ones(HEIGHT, WIDTH), "no kind 'voxels'"),
}


@pytest.mark.parametrize(("kind", "depth", "words"), WRONG.values(), ids=WRONG)
def test_what_makes_no_shape_is_refused_in_a_sentence(kind, depth, words):
    with pytest.raises(ValueError, match=words):
        opened(depth, kind)
