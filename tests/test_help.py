"""Help: a message that the nodes' pages or the README explain is a sentence of the code."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import diffusion_perception
from diffusion_perception.core.display.colour import PALETTES

ROOT = Path(diffusion_perception.__file__).parent
PAGES = sorted((ROOT / "web" / "docs").glob("*.md"))
PLACE = {"self.place": "models/perception"}
"""What a placeholder always stands for in ComfyUI."""


def written(node: ast.AST) -> str:
    """The text of a string, with ... for what is put into it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(written, node.values))
    if isinstance(node, ast.FormattedValue):
        return PLACE.get(ast.unparse(node.value), "...")
    return str(node.value) if isinstance(node, ast.Constant) else ""


@cache
def sentences() -> str:
    """All strings of the rooms that ComfyUI runs, a line each."""
    files = [file for room in ("core", "nodes") for file in (ROOT / room).rglob("*.py")]
    strings = [
        written(node)
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.JoinedStr | ast.Constant)
    ]
    return "\n".join(text.replace("\n", " ") for text in strings)


def explained(text: str) -> list[str]:
    """The messages that stand in bold under a heading about messages."""
    _, _, part = re.sub(r"^## .*\bmessages?\b.*$", "\0", text, flags=re.MULTILINE).partition("\0")
    return re.findall(r"\*\*(.+?)\*\*", part.partition("\n## ")[0])


def said(message: str) -> re.Match[str] | None:
    """Whether the code says so: ... stands for anything, and the end of a sentence may be left out."""
    return re.search(".*".join(map(re.escape, message.rstrip(".").split("..."))), sentences())


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_what_is_explained_is_what_the_code_says(page):
    messages = explained(page.read_text("utf-8"))
    assert messages
    assert [message for message in messages if not said(message)] == []


def test_the_classes_that_one_may_type_are_listed_in_their_order():
    page = (ROOT / "web" / "docs" / "DiffusionPerceptionSegmentationToImage.md").read_text("utf-8")
    listed = dict(re.findall(r"^- `(\w+)`: (.+)$", page, re.MULTILINE))
    assert {name: words.split(", ") for name, words in listed.items()} == {
        name: [*palette.classes] for name, palette in PALETTES.items() if name != "dmp"
    }
    assert PALETTES["dmp"].classes == PALETTES["ade20k"].classes


def test_a_message_that_nobody_says_is_found():
    assert said("The image is ... pixels; the smallest that can be perceived is 16x16.")
    assert not said("The image is ... pixels; the smallest that can be perceived is 17x17.")
