"""Tests of core.display.colour: colormaps, palettes and the way back to a class."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_perception.core.display.colour import (
    COLORMAPS,
    PALETTES,
    Palette,
    classify,
    colourise,
    is_class,
    paint_classes,
    palette_named,
)

REVERSED = {"spectral": "Spectral_r"}


@pytest.fixture(params=PALETTES.values(), ids=PALETTES)
def palette(request):
    return request.param


@pytest.mark.parametrize("name", COLORMAPS)
def test_a_colormap_is_the_one_that_everybody_knows_by_its_name(name):
    known = pytest.importorskip("matplotlib").colormaps[REVERSED.get(name, name)]
    values = torch.arange(256) / 255
    expected = torch.from_numpy(known(values.numpy())[:, :3]).float()
    assert (colourise(values, name) - expected).abs().max() < 1.5 / 255


@pytest.mark.parametrize("name", COLORMAPS)
def test_a_colormap_stays_within_colours(name):
    values = torch.tensor([[-1e38, -0.1, 0.0], [1.0, 1.1, 1e38]])
    colours = colourise(values, name)
    assert colours.shape == (2, 3, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    assert colours[0, 0].equal(colours[0, 2])
    assert colours[1, 0].equal(colours[1, 2])


def test_an_unknown_colormap_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'jet'.*viridis"):
        colourise(torch.zeros(1), "jet")


def test_ade20k_has_the_classes_and_colours_of_its_benchmark():
    ade = PALETTES["ade20k"]
    colours = ade.table().int().tolist()
    assert len(ade.classes) == len(set(ade.classes)) == 150
    assert (ade.classes[0], colours[0]) == ("wall", [120, 120, 120])
    assert (ade.classes[2], colours[2]) == ("sky", [6, 230, 230])
    assert (ade.classes[12], colours[12]) == ("person", [150, 5, 61])
    assert (ade.classes[149], colours[149]) == ("flag", [92, 0, 255])
    twins = [(i, j) for i in range(150) for j in range(i) if colours[i] == colours[j]]
    assert twins == [(48, 6)]
    assert (ade.classes[6], ade.classes[48], colours[6]) == ("road", "skyscraper", [140, 140, 140])


def test_coco_has_its_133_panoptic_classes():
    coco = PALETTES["coco"]
    colours = coco.table().int().tolist()
    assert len(coco.classes) == len(set(coco.classes)) == len({tuple(colour) for colour in colours}) == 133
    assert (coco.classes[0], colours[0]) == ("person", [220, 20, 60])
    assert (coco.classes[79], colours[79]) == ("toothbrush", [191, 162, 208])
    assert (coco.classes[132], colours[132]) == ("rug-merged", [250, 141, 255])


def test_the_number_of_an_nyu40_class_is_the_data_sets_own():
    nyu = PALETTES["nyu40"]
    colours = nyu.table().int().tolist()
    assert len(nyu.classes) == 41
    assert (nyu.classes[1], colours[1]) == ("wall", [174, 199, 232])
    assert (nyu.classes[22], colours[22]) == ("ceiling", [78, 71, 183])
    assert (nyu.classes[40], colours[40]) == ("other prop", [100, 85, 144])


def test_every_palette_colour_is_its_own_class_and_clearly_so(palette):
    index = torch.arange(len(palette.classes))[None, None]
    found, clearness = classify(paint_classes(index, palette), palette)
    assert found.flatten().equal(palette.first())
    assert (clearness == 1).all()


def test_noise_below_half_the_distance_between_colours_changes_no_class(palette):
    colours = palette.table()[palette.first().unique()]
    closest = torch.pdist(colours).min().item() / 255
    index = palette.first().unique().repeat(8)[None, None]
    noise = torch.nn.functional.normalize(torch.randn(*index.shape, 3), dim=-1) * closest * 0.49
    found, clearness = classify(paint_classes(index, palette) + noise, palette)
    assert found.equal(index)
    assert (clearness > 0).all()


def test_the_class_is_that_of_the_nearest_colour(palette):
    picture = torch.rand(2, 31, 17, 3)
    index, clearness = classify(picture, palette)
    distances = torch.cdist(picture.flatten(0, 2).double(), (palette.table() / 255).double())
    chosen = distances.gather(1, index.flatten()[:, None])[:, 0]
    assert (chosen - distances.amin(1)).abs().max() < 1e-4
    distinct = torch.cdist(picture.flatten(0, 2).double(), (palette.table()[palette.first().unique()] / 255).double())
    first, second = distinct.topk(2, largest=False).values.T
    assert (clearness.flatten() - (1 - first / second)).abs().max() < 1e-3


def test_a_picture_larger_than_one_chunk_is_classified_whole(palette):
    index = torch.randint(len(palette.classes), (1, 300, 300))
    assert classify(paint_classes(index, palette), palette)[0].equal(palette.first()[index])


@given(st.integers(0, 149), st.booleans())
def test_a_class_is_picked_by_name_or_number(number, shout):
    ade = PALETTES["ade20k"]
    name = ade.classes[number]
    assert ade.indices(f" {name.upper() if shout else name}, {number},") == [number, number]


def test_a_misspelt_class_is_refused_with_the_right_spelling():
    with pytest.raises(ValueError, match=r"'persn'.*person"):
        PALETTES["ade20k"].indices("persn")
    with pytest.raises(ValueError, match="0 to 149"):
        PALETTES["ade20k"].indices("150")


def test_classes_of_one_colour_are_picked_together():
    ade = PALETTES["ade20k"]
    index, _ = classify(paint_classes(torch.tensor([[[6, 48, 2]]]), ade), ade)
    for name in ("road", "skyscraper"):
        assert is_class(index, ade.indices(name), ade).tolist() == [[[True, True, False]]]
    assert not is_class(index, [], ade).any()


def test_class_numbers_tell_apart_what_colours_do_not():
    index = torch.tensor([[[6, 48, 2]]])
    assert is_class(index, [48]).tolist() == [[[False, True, False]]]


def test_furniture_is_twelve_kinds_of_it_with_walls_floor_ceiling_and_people_of_the_same_colours():
    rooms, furniture = PALETTES["rooms"], PALETTES["furniture"]
    assert len(furniture.classes) == 16
    assert {"wall", "floor", "ceiling", "person"} < set(furniture.classes)
    for name in furniture.classes:
        assert rooms.colours[rooms.index(name)] == furniture.colours[furniture.index(name)]


def test_colours_of_rooms_are_far_apart():
    assert torch.pdist(PALETTES["rooms"].table()).min() >= 127


def test_a_palette_survives_as_text(palette):
    text = palette.text()
    read = palette_named(text)
    assert (read.classes, read.colours, read.name) == (palette.classes, palette.colours, "own")
    assert palette_named(palette.name) is palette


def test_a_name_with_a_comma_is_one_class_still():
    own = Palette("mine", ("cup, glass", "", "side\ntable"), ("ff0000", "00ff00", "0000ff"))
    assert palette_named(own.text()).classes == ("cup; glass", "1", "side table")


@pytest.mark.parametrize("text", ["", "cityscapes", "ff0000", "ff0000 a, b", "#ff0000 a"])
def test_what_is_no_palette_is_refused_with_the_known_ones(text):
    with pytest.raises(ValueError, match="set palette= to one of ade20k, coco, nyu40, rooms, furniture"):
        palette_named(text)
