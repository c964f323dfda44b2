"""The READMEs in other languages say nothing that the English one does not say, and lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import locales

ROOT = Path(locales.__file__).parents[1]
ENGLISH = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted((ROOT / "docs").glob("README.*.md"))


@pytest.fixture(params=PAGES, ids=lambda page: page.suffixes[0].strip("."))
def page(request):
    return request.param


def test_the_english_page_leads_to_all_of_them():
    assert len(PAGES) == 3
    top = ENGLISH.split("\n## ")[0]
    assert [page for page in PAGES if f"(docs/{page.name})" not in top] == []


def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        path, _, heading = link.partition("#")
        file = (page.parent / path).resolve()
        assert file.is_file(), link
        headings = [
            title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.M)
        ]
        assert not heading or heading in headings, link


def test_names_versions_and_commands_are_those_of_the_english_page(page):
    text = page.read_text("utf-8")
    commands = re.findall(r"^ *((?:cd|git|hf) .+)$", text, re.MULTILINE)
    assert len(commands) == 3
    told = [*commands, *re.findall(r"`([^`\n]+)`", text), *re.findall(r"(?<![\w.-])\d+\.[\d.]*\d", text)]
    assert [word for word in told if word not in ENGLISH] == []


def test_nodes_are_named_as_the_editor_shows_them(page):
    english, shown = (locales.read(language) for language in (locales.ENGLISH, page.suffixes[0].strip(".")))
    names = {text: shown[place] for place, text in english.items() if place.endswith("/display_name")}
    short = {name.split(" (")[0]: label.split(" · ")[0] for name, label in names.items()}
    named = re.findall('[“「"]([^”」"]+)[”」"][（(]([A-Z][A-Za-z ]+)[）)]', page.read_text("utf-8"))
    assert len(named) == 3
    assert [pair for pair in named if short[pair[1]] != pair[0]] == []
