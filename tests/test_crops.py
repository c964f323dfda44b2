"""Crops: what is cut out is what Pillow cuts out, boxes are read as they come or refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

from diffusion_perception.core.crops import Box, boxes_of_mask, cut, inside, read_boxes, weights, window_around

PICTURE = torch.rand(3, 90, 120, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("window", [(20.3, 10.7, 60.2, 50.5), (30.0, 20.0, 16.0, 12.0), (5.5, 5.5, 100.0, 80.0)])
def test_a_crop_is_what_pillow_makes_of_it(window):
    x, y, width, height = window
    levels = Image.fromarray((PICTURE.movedim(0, -1) * 255).round().byte().numpy())
    scaled = levels.resize((24, 32), Image.Resampling.BILINEAR, box=(x, y, x + width, y + height))
    expected = torch.from_numpy(np.asarray(scaled).copy()).movedim(-1, 0) / 255
    # Pillow leaves out what lies beyond the box, which only the outermost pixels would look at
    found = cut(PICTURE, np.array(window), (32, 24))
    assert torch.allclose(found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=2.5 / 255)


def test_a_crop_of_whole_pixels_is_the_picture_itself():
    found = cut(PICTURE, np.array([10, 20, 30, 40]), (40, 30))
    assert torch.allclose(found, PICTURE[:, 20:60, 10:40], atol=1e-6)


def test_beyond_the_picture_lies_black():
    white = torch.ones(3, 40, 40)
    found = cut(white, np.array([-20.0, -20.0, 80.0, 80.0]), (80, 80))
    assert torch.equal(found[:, 22:58, 22:58], torch.ones(3, 36, 36))
    assert found[:, :19].max() == found[:, 61:].max() == found[:, :, :19].max() == 0


@pytest.mark.parametrize("length", [3.0, 31.7, 300.0])
def test_weights_add_up_to_one_inside_a_line(length):
    rows, _ = weights(350.0, length, 32, 1000)
    assert torch.allclose(rows.sum(1), torch.ones(32), atol=1e-5)


def test_a_window_has_the_crops_aspect_and_a_quarter_more_around_the_box():
    assert window_around((10, 20, 30, 80), (256, 192)).tolist() == [25 - 37.5, 60 - 50, 75, 100]
    assert window_around((0, 0, 90, 10), (64, 64)).tolist() == [45 - 56.25, 5 - 56.25, 112.5, 112.5]


def test_a_box_across_the_border_is_cut_and_one_outside_refused():
    assert inside(Box(-10, 5, 30, 100), (50, 40)) == Box(0, 5, 20, 45)
    with pytest.raises(ValueError, match="x=100 y=5 width=30 height=10 lies outside the picture of 40x50 pixels"):
        inside(Box(100, 5, 30, 10), (50, 40))


ONE, TWO = {"x": 1, "y": 2, "width": 3, "height": 4}, [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("given", "count", "expected"),
    [
        (None, 2, [[], []]),
        ([], 1, [[]]),
        ([], 3, [[], [], []]),
        ([[], []], 2, [[], []]),
        (ONE, 2, [[Box(1, 2, 3, 4)], [Box(1, 2, 3, 4)]]),
        ([ONE, TWO], 1, [[Box(1, 2, 3, 4), Box(5, 6, 7, 8)]]),
        ([ONE, TWO], 2, [[Box(1, 2, 3, 4)], [Box(5, 6, 7, 8)]]),
        ([[ONE, TWO]], 1, [[Box(1, 2, 3, 4), Box(5, 6, 7, 8)]]),
        ([[ONE, TWO], []], 2, [[Box(1, 2, 3, 4), Box(5, 6, 7, 8)], []]),
        ([[ONE], [TWO]], 3, [[Box(1, 2, 3, 4)], [Box(5, 6, 7, 8)], [Box(5, 6, 7, 8)]]),
        ([[ONE], []], 3, [[Box(1, 2, 3, 4)], [], []]),
        ([None, [TWO]], 2, [[], [Box(5, 6, 7, 8)]]),
        ([None, [[1, 2, 3, 4]]], 2, [[], [Box(1, 2, 3, 4)]]),
        ([[[1, 2, 3, 4]], None], 3, [[Box(1, 2, 3, 4)], [], []]),
        ([None], 2, [[], []]),
        ((None, ([5, 6, 7, 8],)), 2, [[], [Box(5, 6, 7, 8)]]),
        ([[*TWO, 0.5]], 1, [[Box(5, 6, 7, 8, 0.5)]]),
        (np.array([TWO]), 1, [[Box(5, 6, 7, 8)]]),
        ([np.array([TWO], np.float32), torch.zeros(0, 4)], 2, [[Box(5, 6, 7, 8)], []]),
        ([tuple(np.float32(number) for number in TWO)], 1, [[Box(5, 6, 7, 8)]]),
    ],
)
def test_boxes_are_read_in_every_shape_that_detectors_give(given, count, expected):
    assert read_boxes(given, count) == expected


def test_corners_are_read_where_they_are_said_to_be():
    assert read_boxes([[1, 2, 4, 6]], 1, corners=True) == [[Box(1, 2, 3, 4)]]
    assert read_boxes([[1, 2, 4, 6]], 2, corners=True) == [[Box(1, 2, 3, 4)]] * 2
    assert read_boxes([ONE], 1, corners=True) == [[Box(1, 2, 3, 4)]]


@pytest.mark.parametrize(
    ("given", "count", "said"),
    [
        ([[1, 2, 0, 4]], 1, "has no extent"),
        ([[1, 2, math.nan, 4]], 1, "has no extent"),
        ([{"x": 1, "y": 2}], 1, "is no box"),
        ([["left", 2, 3, 4]], 1, "is no box"),
        ("left", 1, "'left' is no list of boxes"),
        (7, 2, "7 is no list of boxes"),
        ("", 2, "'' is no list of boxes"),
        (["a", "b"], 2, "'a' is no list of boxes"),
        ([["a"], ["b"]], 2, "'a' is no box"),
        ([[None]], 1, "None is no box"),
        ([[ONE], "left"], 2, "'left' is no list of boxes"),
        ([ONE, ONE], 3, "Boxes came for 2 images, but there are 3"),
        ([[ONE], [ONE], [ONE]], 2, "Boxes came for 3 images, but there are 2"),
    ],
)
def test_what_is_no_box_is_refused_in_one_sentence(given, count, said):
    with pytest.raises(ValueError, match=said):
        read_boxes(given, count)


NUMBERS = st.floats(-100, 1000, width=32)
BOXES = st.one_of(
    st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    st.lists(NUMBERS, min_size=4, max_size=5),
    st.fixed_dictionaries({"x": NUMBERS, "y": NUMBERS, "width": NUMBERS, "height": NUMBERS}),
    st.lists(NUMBERS, min_size=4, max_size=4).map(np.array),
    st.lists(NUMBERS, min_size=4, max_size=4).map(torch.tensor),
)
ODD = st.one_of(st.none(), st.text(max_size=3))
GIVEN = st.one_of(ODD, st.integers(), BOXES, st.lists(st.one_of(ODD, BOXES, st.lists(BOXES, max_size=3)), max_size=4))


@settings(max_examples=100)
@drawn(GIVEN, st.integers(1, 4), st.booleans())
def test_whatever_a_detector_gives_is_a_list_for_each_image_or_one_sentence(given, count, corners):
    refusal, found = "", [[]] * count
    try:
        found = read_boxes(given, count, corners)
    except ValueError as error:
        refusal = str(error)
    assert not refusal or (refusal.endswith(".") and "\n" not in refusal)
    assert len(found) == count
    assert all(box.width > 0 and box.height > 0 for boxes in found for box in boxes)


def test_every_connected_part_of_a_mask_is_a_person_and_specks_are_none():
    mask = torch.zeros(100, 100)
    mask[10:30, 5:15] = 1
    mask[50:90, 60:80] = 0.8
    mask[0, 0] = 1
    assert boxes_of_mask(mask, (100, 200)) == [Box(10, 10, 20, 20), Box(120, 50, 40, 40)]
    assert boxes_of_mask(torch.zeros(10, 10), (10, 10)) == []
