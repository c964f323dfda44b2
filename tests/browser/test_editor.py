"""A newcomer's first minutes in ComfyUI's editor: what is found, opened, run and read there.

All of it in one file, so that one server and one browser serve it however many processes share the tests.
Clicks, keys and wires are real events; only what comes from outside a page, a file that is dropped, is made.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).absolute().parents[2]
TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


def perceives(hit: str) -> bool:
    """A search result's node estimates something of a picture."""
    return hit.startswith("Perceive")


def ours(results: list[str]) -> list[str]:
    return [row for row in results if "diffusion-perception" in row]


WORDS = ("depth", "normal", "mask", "segmentation", "pose")


def test_the_search_finds_what_perceives_before_what_renders(editor):
    field = editor.search()
    missed = {}
    for word in WORDS:
        field.fill(word)
        if not editor.until(lambda: ours(editor.results()) and perceives(ours(editor.results())[0]), 2):
            missed[word] = ours(editor.results())
    assert missed == {}


def test_help_opens_with_its_page(editor):
    node = editor.add("Load Perception Model", 400, 300)
    editor.select(node)
    editor.page.get_by_test_id("info-button").click()
    heading = re.match("# (.+)", (ROOT / "web" / "docs" / "DiffusionPerceptionLoadModel.md").read_text("utf-8"))[1]
    assert editor.help().first.inner_text() == heading


def depth(editor) -> str:
    """From an empty canvas to a depth that shows itself: three nodes, two wires."""
    loader = editor.add("Load Perception Model", 400, 200)
    picture = editor.add("Example Picture", 400, 650)
    perceive = editor.add("Perceive (Depth, Normal, Mask ...)", 900, 300)
    editor.wire(loader, "perception", perceive, "perception")
    editor.wire(picture, "image", perceive, "image")
    return loader, picture, perceive

def test_depth_takes_three_nodes_and_two_wires(editor):
    loader, picture, perceive = depth(editor)
    assert (len(editor.nodes()), editor.wires()) == (3, 2)
    editor.run()
    editor.page.screenshot(path="/tmp/bx/t.png")
    assert editor.complaints() == []
    assert editor.pictures()[perceive]


def test_a_refusal_stands_on_the_node(editor):
    loader, picture, perceive = depth(editor)
    editor.choose(loader, task="keypoints")
    editor.run()
    editor.page.screenshot(path="/tmp/bx/t2.png")
    assert editor.until(lambda: "name one of these" in editor.said())
