"""A segmentation of any palette goes over into ADE20K's colours by the names of its classes, and its legend says so."""

from __future__ import annotations

import pytest
import torch

from diffusion_perception.core.display import legend as legends
from diffusion_perception.core.display.colour import PALETTES, Palette
from diffusion_perception.core.display.counterparts import OTHER_NAMES, counterparts, in_ade20k
from diffusion_perception.core.display.legend import COLUMN, COLUMNS, Entry, legend
from diffusion_perception.core.display.picture import CLASS_MEANINGS, as_map, classes_of, palette_of
from diffusion_perception.core.display.segmentation import COLOURS, unread
from diffusion_perception.core.perception_map import Convention, PerceptionMap

ADE20K = PALETTES["ade20k"]
KNOWN = {
    "rooms": {"floor": "503232", "wall": "787878", "window": "e6e6e6", "storage": "e005ff", "screen": "00ffc2"},
    "furniture": {"sofa": "0b66ff", "picture": "ff0633"},
    "nyu40": {"bookshelf": "00fff5", "television": "00ffc2"},
    "coco": {"person": "96053d", "couch": "0b66ff", "wall-brick": "787878", "tree-merged": "04c803"},
    "dmp": {"bed": "cc05ff"},
}
"""Classes of each palette, and ADE20K's published colour of that class."""


@pytest.mark.parametrize("name", KNOWN)
def test_classes_take_the_colours_that_ade20k_has_for_them(name):
    palette = PALETTES[name]
    for word, colour in KNOWN[name].items():
        painted = in_ade20k(torch.tensor([[[palette.classes.index(word)]]]), palette)
        assert bytes((painted * 255).round().byte().flatten().tolist()).hex() == colour


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_every_other_name_is_one_of_ade20ks_and_stands_for_a_class(name):
    pairs = [pair.split("=") for pair in OTHER_NAMES[name].replace("\n", " ").split(",")]
    written = {ours.strip(): theirs.strip() for ours, theirs in pairs}
    assert {*written.values()} <= {*ADE20K.classes}
    assert {*written} <= {*PALETTES[name].classes} or name == "furniture"  # which has some of the rooms' classes
    assert all(ours not in ADE20K.classes or ours == "screen" for ours in written)


def test_ade20ks_own_classes_are_their_own_counterparts_and_a_strange_class_has_none():
    assert counterparts(ADE20K) == (*range(150),)
    assert counterparts(PALETTES["dmp"]) == (*range(150),)
    own = Palette("own", ("Sky", "blorb"), ("00ff00", "ff0000"))
    assert counterparts(own) == (2, -1)
    assert in_ade20k(torch.tensor([[[1]]]), own).tolist() == [[[[0, 0, 0]]]]


def rooms_map(*names: str) -> PerceptionMap:
    """One row of pixels, of these classes in the colours of rooms."""
    palette = PALETTES["rooms"]
    return as_map(palette.table()[[palette.classes.index(name) for name in names]][None, None] / 255,
                  CLASS_MEANINGS["colours of rooms"], ("segmentation",))  # fmt: skip


def test_what_is_said_names_the_palette_who_reads_it_and_what_stayed_black():
    found = classes_of(rooms_map("floor", "floor", "textile", "object"), PALETTES["rooms"])
    own, other = (colour(found) for colour in COLOURS.values())
    assert own.said.startswith("Colours of the palette rooms: no ControlNet reads these")
    assert other.said == (
        "Colours of the palette ade20k: segmentation ControlNets read these. Black, for it has no such class: textile, "
        "object."
    )
    assert [entry.words for entry in own.entries] == ["floor 50.0%", "textile 25.0%", "object 25.0%"]
    assert [entry.words for entry in other.entries] == ["floor 50.0%", "textile = none 25.0%", "object = none 25.0%"]
    assert [entry.colour for entry in own.entries] == [(128, 0, 0), (255, 0, 128), (128, 255, 128)]
    assert [entry.colour for entry in other.entries] == [(0x50, 0x32, 0x32), (0, 0, 0), (0, 0, 0)]
    assert torch.equal(own.picture, found.picture())


def test_only_a_segmentation_in_other_colours_than_ade20ks_is_said_to_be_unread():
    rooms = rooms_map("floor")
    assert "the palette rooms: no ControlNet" in unread(rooms)
    assert unread(as_map(rooms.values, CLASS_MEANINGS["colours of ade20k"], ("segmentation",))) == ""
    assert unread(PerceptionMap("segmentation", rooms.values, Convention())) == ""
    assert unread(PerceptionMap("depth", rooms.values[..., :1], Convention(near="low"))) == ""
    assert palette_of(rooms).name == "rooms"


def rows(picture: torch.Tensor) -> list[tuple[int, ...]]:
    """The colour of the swatch in each row of a legend of one column."""
    middles = picture[0, legends.MARGIN + legends.ROW // 2 :: legends.ROW, legends.MARGIN + 10]
    return [tuple(row) for row in (middles * 255).round().int().tolist()]


@pytest.mark.parametrize("old", [False, True], ids=["pillow", "old pillow"])
def test_a_legend_shows_a_swatch_and_words_in_each_row(old, monkeypatch):
    if old:
        monkeypatch.setattr("PIL.ImageFont.load_default", only_small())
    entries = [Entry((255, 0, 0), "red 60.0%"), Entry((0, 0, 0), "nothing 40.0%")]
    picture = legend(entries)
    assert rows(picture)[:2] == [(255, 0, 0), (0, 0, 0)]
    words = picture[0, :, legends.MARGIN + legends.ROW :].amax(-1).amax(-1)
    for number in range(2):
        top = legends.MARGIN + number * legends.ROW
        assert words[top : top + legends.ROW].max() > 0.8
    assert not torch.equal(picture, legend([entries[0], Entry((0, 0, 0), "another 40.0%")]))


def only_small():
    """Pillow's default font as it was before 10.1, without a size to ask for."""
    from PIL import ImageFont

    there = ImageFont.load_default

    def load_default():
        return there()

    return load_default


def test_a_legend_of_many_classes_stays_readable_and_one_of_none_says_so():
    many = legend([Entry((9, 9, 9), f"class {number}") for number in range(150)])
    room = legend([Entry((9, 9, 9), f"class {number}") for number in range(COLUMN * COLUMNS)])
    assert many.shape[1] == room.shape[1] == legends.ROW * COLUMN + 2 * legends.MARGIN
    assert many.shape[2] <= 800
    assert legend([]).shape[1] == legends.ROW + 2 * legends.MARGIN
