"""Every node has a page of help where ComfyUI's editor looks for it, and the page tells what the node has."""

from __future__ import annotations

import re
import urllib.request

import pytest
from comfyui_server import PACK_NAME

GROWING = {"model", "adapter", "family", "task"}
"""Inputs whose choices are files, or tables that grow: their pages tell the kind."""
SECTIONS = ["Inputs", "Outputs", "For example", "What its messages mean"]


@pytest.fixture(scope="module")
def schemas(comfyui):
    return {name: row for name, row in comfyui.object_info().items() if name.startswith("DiffusionPerception")}


@pytest.fixture(scope="module")
def pages(comfyui, schemas):
    """{node id: (text, media type)} by the address that the editor makes of a node's id and module."""
    return {name: comfyui.words(f"/extensions/{PACK_NAME}/docs/{name}.md") for name in schemas}


def rows(page: str, heading: str) -> dict[str, str]:
    """{first cell, without backticks: the line} of the first table under a heading."""
    table = re.search(rf"\n## {heading}\n\n((?:\|.*\n)+)", page)
    lines = table[1].splitlines()[2:] if table else []
    return {line.split("|")[1].strip().strip("`"): line for line in lines}


def told(name: str, kind: object, settings: dict) -> list[str]:
    """What the line of an input must hold."""
    options = kind if isinstance(kind, list) else settings.get("options")
    if options is not None:
        return [] if name in GROWING else [f"`{option}`" for option in options]
    if kind == "BOOLEAN":
        return ["on at first" if settings["default"] else "off at first"]
    if kind in ("INT", "FLOAT"):
        return ["{min:.10g} to {max:.10g}, at first {default:.10g}".format(**settings)]
    return []


def test_every_node_has_a_page_and_every_page_a_node(pages, schemas):
    assert len(pages) >= 15
    # the editor takes an answer in HTML for its own start page, and the page for missing
    assert {kind for _, kind in pages.values()} & {"text/html"} == set()
    for text, _ in pages.values():
        assert text.startswith("# ")
        headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert headings[: len(SECTIONS)] in (SECTIONS, [SECTIONS[0], *SECTIONS[2:]])


def test_a_page_tells_every_input_and_no_other_with_its_choices_and_range(pages, schemas):
    for node, schema in schemas.items():
        inputs = {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}
        lines = rows(pages[node][0], "Inputs")
        assert sorted(lines) == sorted(inputs), node
        for name, (kind, *rest) in inputs.items():
            wanted = told(name, kind, rest[0] if rest else {})
            assert [word for word in wanted if word not in lines[name]] == [], (node, name)


def test_a_page_tells_the_outputs_in_their_order(pages, schemas):
    for node, schema in schemas.items():
        assert list(rows(pages[node][0], "Outputs")) == schema["output_name"], node


def test_the_pictures_of_a_page_are_served_where_the_editor_looks_for_them(comfyui, pages):
    """It puts the address of the pack's docs before a picture's path, on pages in other languages too."""
    shown = {path for text, _ in pages.values() for path in re.findall(r"!\[[^\]]+\]\((.+?)\)", text)}
    assert len(shown) >= 12
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for path in shown:
        with direct.open(f"{comfyui.url}/extensions/{PACK_NAME}/docs/{path}", timeout=60) as answer:
            assert answer.headers.get_content_type() == "image/jpeg", path
            assert answer.read(3) == b"\xff\xd8\xff", path
