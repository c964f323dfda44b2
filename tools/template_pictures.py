"""Pictures of graphs: what a template is recognised by where the pack alone cannot show what comes out of it."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Image as Picture

SIDE, EDGE = 512, 28
TITLE_BAR, SOCKET = 30, 20
"""Of a box in the editor: the bar above its place, the distance of its sockets."""
CANVAS, OTHERS, OWN = (32, 34, 38), (84, 88, 96), (58, 122, 184)
WIRE, INK = (196, 200, 206), (245, 245, 245)
SMOOTH = 3
"""Drawn so many times larger, and brought down."""
MARKDOWN = "MarkdownNote"
LETTERS, HEIGHT = 20, 44
"""In a line of a title, and of a line."""


def opened(file: Path) -> Picture:
    """A picture of any depth, as 8 bits."""
    with Image.open(file) as held:
        if held.mode.startswith("I"):
            return Image.fromarray((np.asarray(held) >> 8).astype(np.uint8)).convert("RGB")
        return held.convert("RGBA" if held.mode == "RGBA" else "RGB")


def graph_picture(title: str, workflow: dict[str, Any]) -> Picture:
    """A workflow of the editor's format: its boxes and wires, the pack's own boxes in a colour, and its title."""
    lines = textwrap.wrap(title, LETTERS)
    words = HEIGHT * len(lines)
    sheet = Image.new("RGB", (SIDE, SIDE), CANVAS)
    sheet.paste(diagram(workflow, SIDE - 2 * EDGE, SIDE - 3 * EDGE - words), (EDGE, EDGE))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(36)
    for number, line in enumerate(lines):
        pen.text((EDGE, SIDE - EDGE - words + HEIGHT * number), line, INK, font)
    return sheet


def diagram(workflow: dict[str, Any], width: int, height: int) -> Picture:
    """The boxes and wires, stretched to this size."""
    nodes = {node["id"]: node for node in workflow["nodes"] if node["type"] != MARKDOWN}
    places = np.array([[*node["pos"], *np.add(node["pos"], node["size"])] for node in nodes.values()])
    first = places[:, :2].min(0) - (0, TITLE_BAR)
    scale = SMOOTH * np.array([width, height]) / (places[:, 2:].max(0) - first)

    def at(x: float, y: float) -> tuple[float, float]:
        return tuple(((np.array([x, y]) - first) * scale).tolist())

    sheet = Image.new("RGB", (width * SMOOTH, height * SMOOTH), CANVAS)
    pen = ImageDraw.Draw(sheet)
    for _, source, slot, target, socket, _ in workflow["links"]:
        (x, y), (u, v) = nodes[source]["pos"], nodes[target]["pos"]
        start = at(x + nodes[source]["size"][0], y + SOCKET * (slot + 0.7))
        pen.line(wire(start, at(u, v + SOCKET * (socket + 0.7))), WIRE, SMOOTH)
    for node in nodes.values():
        (x, y), size = node["pos"], node["size"]
        colour = OWN if node["type"].startswith("DiffusionPerception") else OTHERS
        pen.rounded_rectangle((*at(x, y - TITLE_BAR), *at(x + size[0], y + size[1])), 5 * SMOOTH, colour)
    return sheet.resize((width, height), Image.Resampling.LANCZOS)


def wire(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    """Points of a curve that leaves and arrives level."""
    t = np.linspace(0, 1, 40)
    x = start[0] + (end[0] - start[0]) * t
    y = start[1] + (end[1] - start[1]) * (3 * t**2 - 2 * t**3)
    return list(zip(x.tolist(), y.tolist()))
