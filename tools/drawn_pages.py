"""Drawn pages: help pictures of nodes that need weights which the starter does not have, or that show nothing flat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Image as Picture
from template_pictures import CANVAS, INK, MARKDOWN, SMOOTH, diagram

from diffusion_perception.core.display.openpose import draw
from diffusion_perception.core.pose import Person
from diffusion_perception.core.skeletons import COCO

PACK = Path(__file__).absolute().parents[1]
JOINTS = {
    "nose": (229, 131), "left_eye": (231, 125), "left_ear": (240, 131), "right_ear": (262, 131),
    "left_shoulder": (224, 182), "right_shoulder": (296, 174), "left_elbow": (228, 250), "left_wrist": (222, 308),
    "right_elbow": (324, 216), "right_wrist": (294, 248), "left_hip": (254, 318), "right_hip": (290, 312),
    "left_knee": (268, 395), "right_knee": (302, 352), "left_ankle": (276, 470), "right_ankle": (314, 410),
}  # fmt: skip
"""Of the man in workflows/pictures/person-in-a-room.jpg, in pixels, placed by hand; his right eye is not seen."""


def titled_graph(title: str, size: tuple[int, int]) -> Picture:
    """A template as the editor lays it out: boxes, wires, and the names of the nodes under them."""
    workflow = json.loads((PACK / "workflows" / f"{title}.json").read_text("utf-8"))
    names = json.loads((PACK / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))
    nodes = [node for node in workflow["nodes"] if node["type"] != MARKDOWN]
    width, height = size
    lines = 16 * len(nodes) + 24
    sheet = Image.new("RGB", size, CANVAS)
    sheet.paste(diagram(workflow, width - 40, height - lines - 30), (20, 20))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, node in enumerate(sorted(nodes, key=lambda node: node["pos"])):
        name = names.get(node["type"], {}).get("display_name", node["type"])
        pen.text((20, height - lines + 16 * number), f"{number + 1}  {name}", INK, font)
    return sheet


def skeleton(picture: Picture) -> Picture:
    """What Render Skeleton draws of JOINTS, over a faint picture."""
    points = np.array([JOINTS.get(name, (0, 0)) for name in COCO.names], np.float64)
    known = np.array([float(name in JOINTS) for name in COCO.names])
    drawn = draw([Person(points, known, 1.0, 1.0)], COCO, (picture.height, picture.width)).numpy()
    behind = np.asarray(picture.convert("RGB"), np.float32) / 255 * 0.35
    shown = np.where(drawn.max(-1, keepdims=True) > 0, drawn, behind)
    return Image.fromarray((shown * 255).round().astype(np.uint8))


def turned(file: Path, size: tuple[int, int], yaw: float = 28.0, pitch: float = 8.0, field: float = 80.0) -> Picture:
    """The mesh of a GLB file from beside the camera that it was made for, which stands at 0 and looks along -z.

    yaw, pitch: degrees that it is turned by round its middle; field: of view, in degrees.
    """
    import trimesh

    loaded: Any = trimesh.load(file)
    (mesh,) = loaded.geometry.values()
    texture = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"))
    places = (mesh.visual.uv * (1, -1) + (0, 1)).clip(0, 1) * np.subtract(texture.shape[1::-1], 1)
    colours = texture[places[:, 1].round().astype(int), places[:, 0].round().astype(int)]
    middle = np.median(mesh.vertices, 0)
    round_y = trimesh.transformations.rotation_matrix(np.radians(yaw), (0, 1, 0), middle)
    round_x = trimesh.transformations.rotation_matrix(np.radians(pitch), (1, 0, 0), middle)
    points = trimesh.transform_points(mesh.vertices, round_x @ round_y)
    width, height = (side * SMOOTH for side in size)
    scale = width / 2 / np.tan(np.radians(field / 2))
    flat = points[:, :2] * (1, -1) / -points[:, 2:].clip(max=-1e-3) * scale + (width / 2, height / 2)
    canvas = np.full((height, width, 3), CANVAS, np.uint8)
    depths = points[mesh.faces, 2].mean(1)
    for face in mesh.faces[np.argsort(depths)]:
        colour = colours[face].mean(0)
        cv2.fillConvexPoly(canvas, flat[face].round().astype(np.int32), colour.tolist(), cv2.LINE_AA)
    return Image.fromarray(canvas).resize(size, Image.Resampling.LANCZOS)


def rows_of(videos: list[list[Picture]], size: tuple[int, int]) -> Picture:
    """The middle rows of the frames of some videos, one below the other, and the videos so too."""
    width, height = size[0], (size[1] - 8 * (len(videos) - 1)) // len(videos)
    sheet = Image.new("RGB", size, CANVAS)
    for number, frames in enumerate(videos):
        rows = np.stack([np.asarray(frame.convert("RGB"))[frame.height // 2] for frame in frames])
        strip = Image.fromarray(rows).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(strip, (0, number * (height + 8)))
    return sheet
