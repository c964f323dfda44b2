"""Tests of core.display.scale and sheet: colours and places of what is shown, to the pixel."""

from __future__ import annotations

import pytest
import torch

from diffusion_perception.core.display.colour import COLORMAPS, colourise
from diffusion_perception.core.display.legend import BACKGROUND, MARGIN, ROW
from diffusion_perception.core.display.scale import BAR, UNKNOWN, bar, ticks, with_scale
from diffusion_perception.core.display.sheet import Cell, sheet
from diffusion_perception.core.perception_map import Convention, PerceptionMap

METRIC = Convention(high=None, near="low", metric=True)
TICKS = {
    (0.0, 1.0, 5): [0, 0.2, 0.4, 0.6, 0.8, 1],
    (1.3, 7.9, 4): [2, 4, 6],
    (-0.5, 0.5, 2): [-0.5, 0, 0.5],
    (1200.0, 1300.0, 10): [1200, 1210, 1220, 1230, 1240, 1250, 1260, 1270, 1280, 1290, 1300],
    (3.0, 3.0, 5): [3],
    (0.0, 3e-4, 3): [0, 1e-4, 2e-4, 3e-4],
}


@pytest.mark.parametrize(("given", "expected"), TICKS.items())
def test_ticks_are_round_numbers(given, expected):
    low, high, most = given
    assert ticks((low, high), most) == pytest.approx(expected)


def test_a_map_is_coloured_from_its_least_to_its_largest_value_and_what_is_unknown_stands_out():
    values = torch.linspace(2, 10, 96 * 80).reshape(1, 96, 80, 1).clone()
    values[0, 0, 0] = torch.nan
    made, said = with_scale(PerceptionMap("depth", values, METRIC), "turbo")
    assert made.shape[1] == 96
    low = values[0, 0, 1, 0].item()
    expected = colourise((values[..., 0].nan_to_num() - low) / (10 - low), "turbo")
    assert torch.allclose(made[0, :, :80].flatten(0, 1)[1:], expected[0].flatten(0, 1)[1:], atol=1e-5)
    assert made[0, 0, 0].tolist() == pytest.approx(UNKNOWN)
    assert said == "depth from 2.001 to 10 metres, 0.0% unknown"


def test_the_bar_has_the_colours_of_its_numbers_from_above_downwards():
    made = bar(200, (0.0, 4.0), "viridis", "")
    inner = made[MARGIN:-MARGIN, MARGIN : MARGIN + BAR]
    assert torch.allclose(inner, colourise(torch.linspace(1, 0, 200 - 2 * MARGIN), "viridis")[:, None], atol=1e-6)
    marks = (made[:, MARGIN + BAR + 1, 0] > 0.5).nonzero().flatten().tolist()
    rows = [MARGIN + (1 - value / 4) * (200 - 2 * MARGIN - 1) for value in ticks((0, 4), (200 - 2 * MARGIN) // 40)]
    assert marks == pytest.approx(sorted(rows), abs=1)
    beside = made[:, MARGIN + BAR + 8 :]
    assert (beside > 0.5).any()
    assert torch.allclose(made[0, 0], torch.tensor(BACKGROUND) / 255)


@pytest.mark.parametrize("size", [(1, 1), (16, 300), (300, 16), (700, 40)])
@pytest.mark.parametrize("unit", [METRIC, Convention()])
def test_pictures_of_any_size_and_constant_maps_have_a_scale(size, unit):
    for colormap in COLORMAPS:
        made, _ = with_scale(PerceptionMap("depth", torch.full((2, *size, 1), 0.5), unit), colormap)
        assert made.shape[:2] == (2, size[0])
        assert made.shape[2] > size[1] + BAR
        assert ((made >= 0) & (made <= 1)).all()


def test_the_ends_may_be_given_so_that_frames_of_runs_compare():
    values = torch.full((1, 64, 64, 1), 3.0)
    made, said = with_scale(PerceptionMap("depth", values, METRIC), "gray", (2.0, 6.0))
    assert made[0, 0, 0].tolist() == pytest.approx([0.25] * 3, abs=1e-6)
    assert said == "depth from 2 to 6 metres"


def test_a_map_of_several_channels_has_no_scale():
    with pytest.raises(ValueError, match="3 channels, and a scale is of one"):
        with_scale(PerceptionMap("normal", torch.zeros(1, 4, 4, 3), Convention()), "gray")


def test_pictures_stand_in_a_grid_under_their_names():
    plain = [torch.full((2 if shade == 1 else 1, 40, 60, 3), shade / 4) for shade in range(4)]
    made = sheet([Cell(picture, f"number {place}") for place, picture in enumerate(plain)])
    assert made.shape == (2, 2 * (ROW + 40), 2 * 60 + MARGIN, 3)
    for place, picture in enumerate(plain):
        top, left = place // 2 * (ROW + 40), place % 2 * (60 + MARGIN)
        assert torch.allclose(made[:, top + ROW : top + ROW + 40, left : left + 60], picture[0, 0, 0], atol=1e-6)
        assert (made[:, top : top + ROW, left : left + 60] > 0.6).any()
    row = sheet([Cell(picture, "") for picture in plain], columns=4)
    assert row.shape == (2, ROW + 40, 4 * 60 + 3 * MARGIN, 3)
    assert sheet([Cell(plain[0], "")], columns=9).shape == (1, ROW + 40, 60, 3)


def test_a_picture_of_another_size_is_scaled_to_fit_with_its_shape_kept():
    wide = torch.ones(1, 20, 80, 3)
    made = sheet([Cell(torch.zeros(1, 40, 60, 3), ""), Cell(wide, "")], columns=2)[0, ROW:, 60 + MARGIN :]
    assert torch.allclose(made[13:26], torch.ones(1), atol=1e-5)  # 60 x 15 of 60 x 40
    assert torch.allclose(made[:12], torch.tensor(BACKGROUND) / 255)
    assert torch.allclose(made[28:], torch.tensor(BACKGROUND) / 255)


@pytest.mark.parametrize(
    ("cells", "words"),
    [([], "nothing to compare"), ([torch.zeros(2, 4, 4, 3), torch.zeros(3, 4, 4, 3)], "2 and 3 frames of one")],
)
def test_what_is_no_sheet_is_refused(cells, words):
    with pytest.raises(ValueError, match=words):
        sheet([Cell(cell, "") for cell in cells])
