"""Nodes for compositing in a real ComfyUI: pictures whose truth is known by a formula go in by file."""

from __future__ import annotations

import numpy as np
import pytest
from graph import Graph, Node
from PIL import Image

HEIGHT, WIDTH, FOV = 64, 256, 60.0
NEAR, FAR = 2.0, 6.0
FOCAL = WIDTH / 2 / np.tan(np.radians(FOV / 2))


@pytest.fixture(scope="module")
def wall(comfyui) -> str:
    """A disparity in 256 levels, 255 and near at the right: a slanted wall, for 1/z is linear across it."""
    levels = np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))
    Image.fromarray(levels).save(comfyui.input / "wall.png")
    return "wall.png"


def wall_depth() -> np.ndarray:
    """(W,)"""
    return 1 / (1 / FAR + np.arange(WIDTH) / 255 * (1 / NEAR - 1 / FAR))


def wall_normal() -> np.ndarray:
    """Along right, up, back. 1/z = a + b u for the column u = (x/z) f + c, so that 1 = (a + b c) z + b f x."""
    b = (1 / NEAR - 1 / FAR) / 255
    a = 1 / FAR - b / 2  # pixels' centres lie at halves
    away = np.array([b * FOCAL, 0, a + b * WIDTH / 2])
    return np.array([-away[0], 0, away[2]]) / np.linalg.norm(away)


def read(comfyui, graph: Graph, map: Node | list) -> np.ndarray:
    """The raw values of the first picture of a map or image."""
    saved = graph.save_map(map, "compositing/values")
    return np.load(comfyui.submit(graph).files(saved.name)[0])


def depth_to_normal(graph: Graph, map: Node | list, **more) -> Node:
    usual = {"convention": "near is white", "field_of_view": FOV, "near": NEAR, "far": FAR, "smoothing": 0}
    return graph.add("DiffusionPerceptionDepthToNormal", map=map, axes="controlnet_bae", **usual | more)


def test_a_wall_s_normal_is_found_from_its_disparity(comfyui, wall):
    graph = Graph()
    made = depth_to_normal(graph, graph.load_image(wall))
    values = read(comfyui, graph, made)
    assert values.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(values - wall_normal()).max() < 2e-3
    assert "taken to reach from 2 to 6" in comfyui.said[made.name]
    assert "field of view 60" in comfyui.said[made.name]
    graph = Graph()
    picture = read(comfyui, graph, depth_to_normal(graph, graph.load_image(wall), smoothing=3)[1])
    assert np.abs(picture - (wall_normal() * [-1, 1, 1] + 1) / 2).max() < 2e-3  # red is left
