"""A newcomer's first minutes in ComfyUI's editor: what is found, opened, run and read there, in a folder as installed.

All of it in one file, so that one server and one browser serve it however many processes share the tests.
Clicks, keys and wires are real events; a dropped file, which comes from outside a page, is an event that is made, and
what a menu would set is set.
"""

from __future__ import annotations

import json
from pathlib import Path

import blueprints
import pytest
from comfyui_server import PACK_NAME
from model_links import LINKS

import locales
from workflows import WORKFLOWS

ROOT = Path(__file__).absolute().parents[2]
PERCEIVE = "Perceive (Depth/Normal/Mask/Segmentation)"
SHADES = 4
"""Fewer colours than this are no picture: even the difference of two likenesses has more."""
SAVES_A_PICTURE = "Depth of a Photograph"


def graph_of(title: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{title}.json").read_text("utf-8"))


def is_whole(editor, title: str) -> bool:
    """Whether all nodes of a template are on the canvas."""
    return sorted(node["type"] for node in editor.nodes()) == sorted(node["type"] for node in graph_of(title)["nodes"])


def flat(editor, outputs: dict) -> list[str]:
    """The nodes that gave pictures which are not to be seen on them."""
    films = [node for node, output in outputs.items() if any(output.get("animated", ()))]
    given = [node for node, output in outputs.items() if output.get("images") and node not in films]
    assert given
    editor.fit()
    assert editor.until(lambda: editor.films() >= len(films))
    editor.until(lambda: {*given} <= {*editor.pictures()})
    shown = editor.pictures()
    return [node for node in given if min((one["shades"] for one in shown.get(node, [])), default=0) < SHADES]


@pytest.mark.parametrize("title", [row.title for row in WORKFLOWS if not row.needs])
def test_a_template_is_opened_by_a_click_and_shows_its_pictures_after_another(editor, title):
    editor.open_template(title)
    assert editor.until(lambda: is_whole(editor, title))
    assert (editor.complaints(), editor.red()) == ([], [])
    outputs = editor.run()
    assert flat(editor, outputs) == []
    assert (editor.complaints(), editor.red()) == ([], [])


@pytest.mark.parametrize("row", [row for row in WORKFLOWS if row.needs], ids=lambda row: row.title)
def test_a_template_that_needs_files_names_them_when_it_is_opened(editor, row):
    editor.open_template(row.title)
    assert editor.until(lambda: is_whole(editor, row.title))
    files = [name for name in row.needs if name in LINKS]
    assert all(name in editor.missing() for name in files)


@pytest.mark.parametrize("title", [row.title for row in WORKFLOWS])
def test_a_template_comes_back_when_its_file_is_dropped(editor, title):
    editor.drop(ROOT / "workflows" / f"{title}.json")
    assert editor.until(lambda: is_whole(editor, title))
    assert editor.wires() == len(graph_of(title)["links"])
    saved = {str(node["id"]): node["widgets_values"] for node in graph_of(title)["nodes"] if node["widgets_values"]}
    values = {node["id"]: list(node["widgets"].values()) for node in editor.nodes()}
    assert {name: values[name][: len(held)] for name, held in saved.items()} == saved


def test_a_saved_picture_brings_its_graph_back(editor):
    editor.drop(ROOT / "workflows" / f"{SAVES_A_PICTURE}.json")
    editor.until(lambda: is_whole(editor, SAVES_A_PICTURE))
    editor.run()
    before = editor.nodes()
    files = sorted(editor.server.output.rglob("*.png"), key=lambda file: file.stat().st_mtime)
    editor.clear()
    editor.drop(files[-1])
    assert editor.until(lambda: editor.nodes() == before)


def depth(editor) -> tuple[str, str]:
    """From an empty canvas to a depth: three nodes, two wires. The loader and what perceives."""
    loader = editor.add("Load Perception Model", 250, 150)
    picture = editor.add("Example Picture", 250, 650)
    perceive = editor.add(PERCEIVE, 600, 250)
    editor.wire(loader, "perception", perceive, "perception")
    editor.wire(picture, "image", perceive, "image")
    return loader, perceive


def test_depth_is_three_nodes_and_two_wires(editor):
    _, perceive = depth(editor)
    assert (len(editor.nodes()), editor.wires()) == (3, 2)
    outputs = editor.run()
    assert perceive in outputs
    assert flat(editor, outputs) == []
    editor.keep("depth")


def test_two_tasks_are_at_most_five_nodes_and_four_wires(editor):
    first = editor.add("Load Perception Model", 250, 150)
    second = editor.add("Load Perception Model", 250, 450)
    picture = editor.add("Example Picture", 250, 750)
    perceive = editor.add("Perceive Tasks", 650, 250)
    editor.choose(second, task="normal")
    editor.wire(first, "perception", perceive, "perception")
    editor.wire(second, "perception", perceive, "perception_2")
    editor.wire(picture, "image", perceive, "image")
    assert (len(editor.nodes()), editor.wires()) == (4, 3)
    outputs = editor.run()
    assert len(outputs[perceive]["images"]) == 2
    assert flat(editor, outputs) == []


@pytest.mark.parametrize("row", [row for row in blueprints.BLUEPRINTS if not row.needs], ids=lambda row: row.title)
def test_a_blueprint_is_one_box_from_picture_to_picture(editor, row):
    picture = editor.add("Example Picture", 250, 300)
    box = editor.add(row.title, 650, 300)
    shown = editor.add("Preview Image", 1150, 300)
    editor.wire(picture, "image", box, "image")
    editor.wire(box, next(iter(row.graph().leaving)), shown, "images")
    assert (len(editor.nodes()), editor.wires()) == (3, 2)
    outputs = editor.run()
    assert flat(editor, {shown: outputs[shown]}) == []


def test_a_refusal_stands_on_the_node(editor):
    loader, _ = depth(editor)
    editor.choose(loader, task="keypoints")
    editor.run()
    assert editor.until(lambda: "name one of these" in editor.said())


def test_what_a_node_says_stands_on_it(editor):
    _, perceive = depth(editor)
    render = editor.add("Render Depth", 1050, 300)
    shown = editor.add("Preview Image", 1420, 300)
    editor.wire(perceive, "map", render, "map")
    editor.wire(render, "image", shown, "images")
    editor.run()
    assert editor.until(lambda: "near is white" in editor.said())


def test_the_template_browser_shows_every_template_with_its_picture(editor):
    editor.open_templates()
    cards = editor.page.locator("[data-testid^=template-workflow-] img")
    editor.until(lambda: cards.count() >= len(WORKFLOWS) and all(cards.evaluate_all(DECODED)))
    editor.keep("templates")
    assert all(editor.page.get_by_test_id(f"template-workflow-{row.title}").count() == 1 for row in WORKFLOWS)


DECODED = "pictures => pictures.map(picture => picture.complete && picture.naturalWidth > 0)"


def test_help_opens_with_its_page(editor):
    editor.open_help(editor.add("Load Perception Model", 500, 300))
    page = (ROOT / "web" / "docs" / "DiffusionPerceptionLoadModel.md").read_text("utf-8")
    assert editor.help().first.inner_text() == page.splitlines()[0].removeprefix("# ")


FIRST = ("depth", "normal", "segmentation", "pose")
"""Before all else of the pack comes what perceives."""
KNOWN = ("mask",)
"""Mask from Map comes before: editors rank by the start of a name."""
ALIASES = (
    "depth map", "normal map", "matting", "background removal", "openpose", "keypoints", "albedo", "shading",
    "marigold", "genpercept", "lotus", "preprocessor",
)  # fmt: skip
"""Only ComfyUI since 0.11 knows other words for a node than those of its name."""


SEES = ("Perceive", "Load Perception Model", *(row.title for row in blueprints.BLUEPRINTS))
"""How what estimates something of a picture begins, or what loads a model for it."""


def hits(editor) -> list[str]:
    """The pack's own among what a search lists, by their names."""
    boxes = tuple(row.title for row in blueprints.BLUEPRINTS)
    found = [row for row in editor.results() if PACK_NAME in row or row.startswith(boxes)]
    return [row.split("\n")[0].strip() for row in found]


def found(editor, field, word: str) -> list[str]:
    """The pack's hits for a word. The list is emptied first, for it keeps the last word's until it has the next's."""
    field.fill("no such node")
    editor.until(lambda: not editor.results())
    field.fill(word)
    editor.until(lambda: hits(editor), 3)
    return hits(editor)


def test_the_search_finds_what_perceives(editor):
    schema = editor.server.object_info("DiffusionPerceptionPerceive")["DiffusionPerceptionPerceive"]
    field = editor.search()
    missed = {}
    for word in (*FIRST, *KNOWN, *(ALIASES if "search_aliases" in schema else ())):
        seen = found(editor, field, word)
        if word == "depth":
            editor.keep("search")
        if not any(row.startswith("Perceive") for row in seen) or (word in FIRST and not seen[0].startswith(SEES)):
            missed[word] = seen
    assert missed == {}


@pytest.fixture
def in_english(editor):
    """The editor, which speaks English again afterwards."""
    yield editor
    editor.speak(locales.ENGLISH)


def test_nodes_are_named_in_the_language_that_is_chosen(in_english):
    """In one of them, since each opens the editor anew; test_locales.py compares what the server says in all."""
    language = locales.TRANSLATED[0]
    in_english.speak(language)
    words = locales.read(language)["nodeDefs/DiffusionPerceptionLoadModel/display_name"]
    in_english.add(words, 500, 300)
    assert [node["title"] for node in in_english.nodes()] == [words]
