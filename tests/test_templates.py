"""What people see of the example workflows in the editor: nothing covers anything, every text and picture is there."""

from __future__ import annotations

import json
from itertools import combinations, pairwise
from typing import Any

import blueprints
import numpy as np
import pytest
import template_pictures
from editor_format import VERSION
from model_links import LINKS, STARTER
from PIL import Image

import workflows
from diffusion_perception.core.checkpoints.published import PLACES

TITLES = list(workflows.BY_TITLE)
TITLE_BAR = 30
"""Of a box, above its place."""
SOCKETS = 20
"""Between two sockets."""


def shown(title: str) -> dict[str, Any]:
    return json.loads((workflows.FOLDER / f"{title}.json").read_text("utf-8"))


def box(node: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_BAR, x + width, y + height


@pytest.mark.parametrize("title", TITLES)
def test_no_box_covers_another(title):
    for one, other in combinations(map(box, shown(title)["nodes"]), 2):
        apart = one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
        assert apart, (one, other)


def ways(workflow: dict[str, Any]) -> dict[int, list[tuple[float, float]]]:
    """{link: the points that it goes through}"""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    points = {point["id"]: point for point in workflow["extra"].get("reroutes", [])}
    last = {link["id"]: link["parentId"] for link in workflow["extra"].get("linkExtensions", [])}
    found = {}
    for link, source, slot, target, socket, _ in workflow["links"]:
        (left, top), (right, below) = nodes[source]["pos"], nodes[target]["pos"]
        way = [(right, below + SOCKETS * (socket + 0.7))]
        point = last.get(link)
        while point is not None:
            assert link in points[point]["linkIds"]
            way.insert(0, tuple(points[point]["pos"]))
            point = points[point].get("parentId")
        found[link] = [(left + nodes[source]["size"][0], top + SOCKETS * (slot + 0.7)), *way]
    return found


def curve(start: tuple[float, float], end: tuple[float, float], bends: tuple[float, float]) -> np.ndarray:
    """(100, 2) of the cubic that the editor draws, which leaves and arrives level; bends: how far it does so."""
    a, d = np.array(start), np.array(end)
    b, c = a + (bends[0], 0), d - (bends[1], 0)
    t = np.linspace(0, 1, 100)[:, None]
    return (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d


@pytest.mark.parametrize("title", TITLES)
def test_no_wire_runs_under_a_box(title):
    workflow = shown(title)
    boxes = {(node["id"], node["type"]): box(node) for node in workflow["nodes"]}
    for way in ways(workflow).values():
        for number, (start, end) in enumerate(pairwise(way)):
            free = float(np.hypot(end[0] - start[0], end[1] - start[1])) / 4
            led = min(free, 80)  # the editor's limit at a point that wires are led through
            bends = free if number == 0 else led, free if number == len(way) - 2 else led
            drawn = curve(start, end, bends)
            for name, (left, top, right, bottom) in boxes.items():
                x, y = drawn.T
                under = (x > left + 12) & (x < right - 12) & (y > top) & (y < bottom)
                assert not under.any(), (name, start, end)


@pytest.mark.parametrize("title", TITLES)
def test_nodes_say_which_pack_they_are_of(title):
    for node in shown(title)["nodes"]:
        own = node["type"].startswith("DiffusionPerception")
        known = {"cnr_id": "diffusion-perception", "ver": VERSION} if own else {"cnr_id": "comfy-core", "ver": "0.3.75"}
        assert node["type"] == "MarkdownNote" or known.items() <= node["properties"].items()


@pytest.mark.parametrize("title", TITLES)
def test_a_note_says_what_it_is_and_links_what_is_missing(title):
    row, workflow = workflows.BY_TITLE[title], shown(title)
    (note,) = (node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    assert workflow["extra"]["description"] == row.description
    assert row.description in note
    held = json.dumps([node for node in workflow["nodes"] if node["type"] != "MarkdownNote"])
    assert ("Load Image" in note) == (workflows.EXAMPLE_PICTURE in held)
    assert ("Demonstration weights" in note) == (STARTER in held)
    for name in row.needs:
        assert name in held
        assert f"[{name}](https://" in note
    chosen = {place for place in (*LINKS, *(place for place, _ in PLACES.values())) if f'"{place}"' in held}
    assert chosen == set(row.needs)


@pytest.mark.parametrize("title", TITLES)
def test_a_template_has_a_square_picture(title):
    with Image.open(workflows.FOLDER / f"{title}.jpg") as picture:
        assert picture.size == (512, 512)
        assert np.asarray(picture.convert("L")).std() > 10


def test_the_readme_lists_the_templates_and_blueprints():
    text = workflows.README.read_text("utf-8")
    assert workflows.listed(text) == text, "run tools/workflows.py"
    for row in (*workflows.WORKFLOWS, *blueprints.BLUEPRINTS):
        assert f"| {row.title} | {row.description} |" in text


def test_a_card_shows_the_boxes_of_a_graph_the_packs_own_in_a_colour():
    box = {"size": [100, 70], "type": "DiffusionPerceptionPerceive"}
    other = {"size": [100, 70], "type": "SaveImage"}
    nodes = [{"id": 1, "pos": [0, 30], **box}, {"id": 2, "pos": [300, 30], **other}]
    picture = np.asarray(template_pictures.diagram({"nodes": nodes, "links": [[1, 1, 0, 2, 0, "IMAGE"]]}, 400, 100))
    assert tuple(picture[50, 50]) == template_pictures.OWN
    assert tuple(picture[50, 350]) == template_pictures.OTHERS
    column = picture[:, 200].astype(int)
    assert (np.abs(column - template_pictures.CANVAS).sum(1) > 60).sum() in range(1, 6)


def test_each_template_and_blueprint_has_what_it_drew_and_nothing_else_has():
    kept = {file.stem for file in (workflows.ROOT / "tests" / "host" / "references").iterdir()}
    assert kept == {row.title for row in (*workflows.WORKFLOWS, *blueprints.BLUEPRINTS)}
