"""The pictures of the README, of the help pages and of the example node are there, small, and show what is said."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import picture_sheet
import pytest
import torch
from PIL import Image

from diffusion_perception.core.checkpoints.checkpoint import open_all
from diffusion_perception.core.pipeline import predict
from diffusion_perception.trainer.host import load_perceiver
from diffusion_perception.trainer.perceiver import read_upright

ROOT = Path(__file__).absolute().parents[1]
HELP = ROOT / "web" / "docs"
EXAMPLES = ROOT / "workflows" / "pictures"
LINK = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")


def linked(page: Path) -> list[tuple[str, Path]]:
    """(words in its place, file) of each picture on a page."""
    return [(words, page.parent / target) for words, target in LINK.findall(page.read_text("utf-8"))]


@pytest.mark.parametrize("page", sorted(HELP.glob("*.md")), ids=lambda page: page.stem)
def test_a_help_page_shows_pictures_that_are_there_and_small(page):
    for words, file in linked(page):
        assert words, file
        assert file.parent == HELP / "pictures"
        assert file.stat().st_size < 30_000
        with Image.open(file) as picture:
            assert picture.width <= 384


def test_every_picture_of_the_help_is_on_a_page():
    shown = {file for page in HELP.rglob("*.md") for _, file in linked(page)}
    assert {*(HELP / "pictures").iterdir()} <= shown
    assert len(shown) >= 12


def test_the_readme_shows_a_contact_sheet_and_the_conventions():
    pictures = {file.name: (words, file) for words, file in linked(ROOT / "README.md")}
    assert {"contact-sheet.jpg", "conventions.png"} <= {*pictures}
    for words, file in pictures.values():
        assert words
        assert file.stat().st_size < 400_000


def test_all_pictures_together_are_small():
    folders = (ROOT / "docs", ROOT / "web", ROOT / "workflows")
    sizes = [file.stat().st_size for folder in folders for kind in ("*.jpg", "*.png") for file in folder.rglob(kind)]
    assert max(sizes) < 2**20
    assert sum(sizes) < 5 * 2**20


def test_the_starter_finds_the_people_of_the_example_picture():
    """Intersection over union with the true mask, which was rendered with the picture."""
    rows = {row.recipe.task: row for row in open_all(ROOT / "weights" / "starter.safetensors")}
    with Image.open(ROOT / "tests" / "data" / "person-in-a-room-mask.png") as picture:
        true = np.array(picture.convert("L")) > 127
    with torch.inference_mode():
        seen = (
            predict(load_perceiver(rows["mask"]), read_upright(EXAMPLES / "person-in-a-room.jpg"))
            .values[0, ..., 0]
            .numpy()
            > 0.5
        )
    assert true.mean() > 0.05
    assert (true & seen).sum() / (true | seen).sum() > 0.6


RED, GREEN, BLUE = (Image.new("RGB", (64, 48), colour) for colour in ("red", "green", "blue"))


def at(picture: Image.Image, x: float, y: float):
    return picture.getpixel((round(x * (picture.width - 1)), round(y * (picture.height - 1))))


def test_a_thumbnail_is_a_square_of_the_output_with_the_input_in_its_corner():
    picture = picture_sheet.thumbnail(RED, [BLUE])
    assert picture.size == (512, 512)
    assert at(picture, 0.9, 0.9) == (255, 0, 0)
    assert at(picture, 0.5, 0.2) == at(picture, 0.1, 0.9) == (0, 0, 255)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_thumbnail_of_several_outputs_begins_with_the_input(count):
    picture = picture_sheet.thumbnail(RED, [GREEN, BLUE, GREEN, BLUE, BLUE][:count])
    assert picture.size == (512, 512)
    assert at(picture, 0.2, 0.2) == (255, 0, 0)
    below, right = (at(picture, 0.2, 0.8), at(picture, 0.8, 0.8))
    assert (below, right) == (((0, 128, 0), (0, 0, 255)) if count == 2 else ((0, 0, 255), (0, 128, 0)))


def test_what_is_cut_out_lies_on_a_board():
    clear = Image.new("RGBA", (64, 48), (255, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (0, 0, 32, 48))
    picture = picture_sheet.thumbnail(None, [clear])
    assert at(picture, 0.2, 0.5) == (255, 0, 0)
    grays = {at(picture, 0.95, y / 50) for y in range(50)}
    assert {(236, 236, 236), (206, 206, 206)} <= grays


def test_a_thumbnail_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        picture_sheet.thumbnail(None, [])


def test_a_contact_sheet_keeps_the_places_of_its_rows():
    sheet = picture_sheet.contact_sheet([[RED, GREEN], [BLUE]], ("one", "two"), width=64)
    assert sheet.size == (64 * 2 + picture_sheet.GAP, picture_sheet.LINE + 48 * 2 + picture_sheet.GAP)
    middles = [(32, 24), (96 + picture_sheet.GAP, 24), (32, 72 + picture_sheet.GAP)]
    colours = [sheet.getpixel((x, y + picture_sheet.LINE)) for x, y in middles]
    assert colours == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
