"""The nodes' pages in other languages tell what the English ones tell, row by row and message by message."""

from __future__ import annotations

import re

import pytest
from comfyui_server import PACK, PACK_NAME

import locales

DOCS = PACK / "web" / "docs"
PAGES = sorted(DOCS.glob("*/*.md"))
BRACKETS = {"zh": "{}（{}）", "ja": "{}（{}）", "ko": "{}({})"}
"""How a row gives the name that the editor shows beside the name that messages use."""


def sections(page: str) -> list[str]:
    """What stands before the first heading, and under each."""
    return re.split(r"^## .+$", page, flags=re.MULTILINE)


def sides(page: str) -> list[str]:
    """What the names in the tables of each section of an English page are."""
    return ["", *map(str.lower, re.findall(r"^## (.+)$", page, re.MULTILINE))]


def rows(section: str) -> list[list[str]]:
    """The cells of each line of its tables, without the lines under the heads."""
    lines = re.findall(r"^\|(.+)\|$", section, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines if not line.startswith("---")]


def facts(text: str) -> set[str]:
    """What is the same in all languages: code and numbers."""
    return {*re.findall(r"`[^`]+`", text), *re.findall(r"(?<![\w.])-?\d+(?:\.\d+)*", text)}


@pytest.fixture(params=PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def page(request):
    return request.param


@pytest.fixture
def text(page):
    return page.read_text("utf-8")


@pytest.fixture
def english(page):
    return (DOCS / f"{page.parent.name}.md").read_text("utf-8")


@pytest.fixture
def shown(page):
    """{side: {name: as the editor shows it}} of the page's node."""
    told, said = locales.read(page.stem), locales.read(locales.ENGLISH)
    node = f"nodeDefs/{page.parent.name}"
    names = {side: [place for place in told if place.startswith(f"{node}/{side}/")] for side in ("inputs", "outputs")}
    return {
        "inputs": {place.split("/")[3]: told[place] for place in names["inputs"] if place.endswith("/name")},
        "outputs": {said[place]: told[place] for place in names["outputs"] if place.endswith("/name")},
    }


def test_the_most_used_nodes_have_a_page_in_every_language():
    for node in ("LoadModel", "Perceive", "DepthToImage", "NormalToImage", "MatteCutout"):
        pages = {page.stem for page in (DOCS / f"{locales.OURS}{node}").glob("*.md")}
        assert pages == {*locales.TRANSLATED}, node


def test_the_host_serves_it_where_the_editor_looks(comfyui, page, text):
    served, kind = comfyui.words(f"/extensions/{PACK_NAME}/docs/{page.parent.name}/{page.name}")
    assert served == text
    assert kind != "text/html"


def test_its_tables_have_the_rows_of_the_english_page_under_the_names_that_the_editor_shows(page, text, english, shown):
    named = 0
    for side, ours, theirs in zip(sides(english), sections(text), sections(english), strict=True):
        names, labels = [cells[0] for cells in rows(theirs)], shown.get(side, {})
        wanted = [BRACKETS[page.stem].format(name, label) for name in names if (label := labels.get(name.strip("`")))]
        assert [cells[0] for cells in rows(ours)][1 : len(wanted) + 1] == wanted, side
        named += len(wanted)
    assert named == sum(map(len, shown.values()))


def test_its_tables_tell_the_same_facts_and_the_rest_no_others(text, english):
    for ours, theirs in zip(sections(text), sections(english), strict=True):
        for mine, original in zip(rows(ours), rows(theirs), strict=True):
            assert facts(" ".join(original)) <= facts(" ".join(mine)), original[0]
        assert {fact for fact in facts(ours) if fact.startswith("`")} <= facts(theirs)


def test_it_explains_no_message_that_the_english_page_does_not_explain(text, english):
    ours, theirs = (re.findall(r"\*\*(.+?)\*\*", told) for told in (text, english))
    assert ours == [message for message in theirs if message in ours]
    assert ours


def test_it_is_in_its_language(page, text, english):
    letters = {"zh": "[一-鿿]", "ja": "[぀-ヿ]", "ko": "[가-힯]"}[page.stem]
    prose = [line for line in text.splitlines() if len(line) > 40 and not line.startswith("|---")]
    left = [line for line in prose if not re.search(letters, line)]
    assert {*left} <= {*english.splitlines()}  # the classes of the palettes, as they are typed
    assert len(left) < 6
    assert page.stem != "zh" or not re.search("[぀-ヿ]", text)
