"""Any size goes in, the same size comes out, and in between each family's own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from diffusion_perception.core.image import CELL, RESIZE_RULES, SMALLEST, Fit, fit, pad, processing_size

LENGTHS = st.integers(16, 3000)
RESOLUTIONS = st.integers(0, 2048)


def genpercept_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """run.py of GenPercept: one float scale for both sides, truncated."""
    scale = min(resolution / width, resolution / height)
    return int(height * scale), int(width * scale)


def marigold_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """resize_to_max_edge of diffusers."""
    longest = max(height, width)
    return height * resolution // longest, width * resolution // longest


def dmp_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """torchvision's Resize(resolution): the shorter side becomes it, the other is truncated."""
    if height <= width:
        return resolution, int(resolution * width / height)
    return int(resolution * height / width), resolution


def rgb_x_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """load_image of its demo: the longer side becomes it, both are cut down to eighths; 0 keeps the image's own."""
    sizes = marigold_size(height, width, resolution) if resolution else (height, width)
    return sizes[0] // 8 * 8, sizes[1] // 8 * 8


FORMULAS = {
    "genpercept": genpercept_size,
    "genpercept-v1": genpercept_size,
    "genpercept-v1-nearest": genpercept_size,
    "marigold": marigold_size,
    "lotus": marigold_size,
    "rgb-x": rgb_x_size,
    "dmp": dmp_size,
    "intrinsic-lora": dmp_size,
}


def test_every_rule_has_its_formula_here():
    assert set(FORMULAS) == set(RESIZE_RULES)


@pytest.mark.parametrize("rule", RESIZE_RULES)
@given(height=LENGTHS, width=LENGTHS, resolution=RESOLUTIONS)
def test_every_family_gets_its_own_processing_size(rule, height, width, resolution):
    own = rule == "rgb-x" or resolution
    expected = FORMULAS[rule](height, width, resolution) if own else (height, width)
    seen = processing_size((height, width), resolution, RESIZE_RULES[rule])
    assert seen == tuple(max(length, SMALLEST) for length in expected)


@pytest.mark.parametrize("rule", RESIZE_RULES)
@settings(max_examples=25)
@given(height=st.integers(16, 300), width=st.integers(16, 300), resolution=st.integers(0, 128))
def test_values_come_back_at_the_size_of_the_image(rule, height, width, resolution):
    picture, fitted = fit(torch.zeros(1, 3, height, width), resolution, RESIZE_RULES[rule])
    assert min(picture.shape[-2:]) >= SMALLEST
    assert all(length % RESIZE_RULES[rule].multiple == 0 for length in picture.shape[-2:])
    decoded = torch.zeros(1, 1, *(length // CELL * CELL for length in picture.shape[-2:]))
    assert fitted.restore(decoded).shape == (1, 1, height, width)


@pytest.mark.parametrize("rule", RESIZE_RULES)
@pytest.mark.parametrize(("height", "width"), [(16, 3000), (3000, 16), (16, 16), (17, 1001)])
def test_extreme_sizes_come_back_too(rule, height, width):
    resolution = 32 if rule in ("dmp", "intrinsic-lora") else 256
    picture, fitted = fit(torch.zeros(1, 3, height, width), resolution, RESIZE_RULES[rule])
    decoded = torch.zeros(1, 1, *(length // CELL * CELL for length in picture.shape[-2:]))
    assert fitted.restore(decoded).shape == (1, 1, height, width)


@pytest.mark.parametrize(("height", "width", "resolution"), [(181, 137, 96), (50, 75, 128), (64, 65, 300)])
def test_genpercept_resizes_8_bit_levels_and_rounds_to_them(height, width, resolution):
    image = tiny.picture(height, width)
    picture, _ = fit(image * 2 - 1, resolution, RESIZE_RULES["genpercept"])
    levels = torch.from_numpy(tiny.expected_levels(image)).movedim(-1, 0)[None].float()
    size = genpercept_size(height, width, resolution)
    expected = F.interpolate(levels, size, mode="bilinear", antialias=True).round() / 255 * 2 - 1
    assert_close(picture, expected, atol=1e-6, rtol=0)


def test_pixels_between_two_levels_go_to_the_nearer_one():
    """A host's images are floats: quantised first, as the authors' 8-bit files are."""
    levels = torch.arange(256) / 255
    off = (levels + 0.4 / 255).clamp(max=1).view(1, 1, 16, 16).expand(1, 3, -1, -1)
    large = off.repeat(1, 1, 2, 2)
    picture, _ = fit(large * 2 - 1, 0, RESIZE_RULES["genpercept"])
    assert_close(
        (picture + 1) / 2, levels.view(1, 1, 16, 16).expand(1, 3, -1, -1).repeat(1, 1, 2, 2), atol=1e-6, rtol=0
    )


def test_pixels_out_of_range_are_brought_into_it():
    picture, _ = fit(torch.full((1, 3, 40, 40), 1.7), 0, RESIZE_RULES["genpercept"])
    assert picture.max() == 1


@pytest.mark.parametrize(
    ("height", "width", "resolution"), [(181, 137, 96), (50, 75, 128), (120, 200, 64), (60, 90, 90)]
)
def test_genpercept_v1_resizes_like_pillow(height, width, resolution):
    image = tiny.picture(height, width)
    picture, _ = fit(image * 2 - 1, resolution, RESIZE_RULES["genpercept-v1"])
    new_height, new_width = genpercept_size(height, width, resolution)
    pillow = pillow_resized(tiny.expected_levels(image), (new_height, new_width))
    ours = ((picture[0].movedim(0, -1) + 1) * 127.5).round().numpy()
    off = np.abs(ours - pillow)
    assert off.max() <= 1
    assert (off > 0).mean() < 2e-3


def test_marigold_pads_by_repeating_the_border():
    image = tiny.picture(50, 70) * 2 - 1
    picture, fitted = fit(image, 0, RESIZE_RULES["marigold"])
    assert picture.shape == (1, 3, 56, 72)
    assert torch.equal(picture[..., :50, :70], image)
    assert torch.equal(picture[..., 50:, :70], image[..., -1:, :].expand(-1, -1, 6, -1))
    assert torch.equal(picture[..., :, 70:], picture[..., :, 69:70].expand(-1, -1, -1, 2))
    assert torch.equal(fitted.restore(picture), image)


def test_padding_of_nothing_is_nothing():
    image = tiny.picture(16, 24)
    assert torch.equal(pad(image, 8), image)
    assert torch.equal(pad(image, 1), image)


def test_dmp_resizes_the_shorter_side_bicubically_without_antialiasing():
    image = tiny.picture(90, 140) * 2 - 1
    picture, fitted = fit(image, 64, RESIZE_RULES["dmp"])
    assert_close(picture, F.interpolate(image, (64, 99), mode="bicubic"))
    depth = torch.rand(1, 1, 64, 99) * 8
    assert_close(fitted.restore(depth), F.interpolate(depth, (90, 140), mode="bicubic"))


SIZES = [(300, 300), (1024, 700), (37, 201)]


def pillow_resized(pixels, size):
    """By two calls: newer versions take the passes in another order, which a tenth of the pixels of noise show."""
    across = Image.fromarray(pixels).resize((size[1], len(pixels)), Image.Resampling.BICUBIC)
    return np.asarray(across.resize(size[::-1], Image.Resampling.BICUBIC)).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("noise", [True, False])
def test_dmp_s_colours_come_back_as_pillow_resizes_their_bytes(size, noise):
    picture = torch.rand(1, 3, 128, 96) if noise else F.interpolate(tiny.picture(40, 30), (128, 96), mode="bilinear")
    pixels = (picture[0].movedim(0, -1).clamp(0, 1) * 255).round().byte().numpy()
    pillow = pillow_resized(pixels, size)
    ours = Fit(RESIZE_RULES["dmp"], size, (128, 96)).restore(picture)[0].movedim(0, -1).numpy() * 255
    assert np.abs(ours - np.round(ours)).max() < 1e-3
    off = np.abs(ours - pillow)
    assert off.max() <= 1.001
    assert (off > 0.5).mean() < 2e-3


def test_what_is_no_colour_is_not_resized_as_bytes():
    """Unit vectors, three heatmaps and a decoded picture of the right size keep their fractions."""
    vectors = torch.rand(1, 3, 64, 64) * 2 - 1
    fitted = Fit(RESIZE_RULES["dmp"], (90, 140), (64, 64), colours=False)
    assert_close(fitted.restore(vectors), F.interpolate(vectors, (90, 140), mode="bicubic"))
    colours = torch.rand(1, 3, 64, 64)
    assert torch.equal(Fit(RESIZE_RULES["dmp"], (64, 64), (64, 64)).restore(colours), colours)


BACK = [("genpercept", "bilinear", True), ("genpercept-v1", "bilinear", False), ("marigold", "bilinear", False)]


@pytest.mark.parametrize(("rule", "mode", "antialias"), BACK)
def test_values_go_back_through_the_familys_own_filter(rule, mode, antialias):
    values = torch.rand(2, 1, 64, 96)
    way = Fit(RESIZE_RULES[rule], (37, 61), (64, 96))
    assert_close(way.restore(values), F.interpolate(values, (37, 61), mode=mode, antialias=antialias))


def test_genpercept_v1_does_not_interpolate_its_masks():
    values = torch.rand(1, 1, 64, 96)
    back = Fit(RESIZE_RULES["genpercept-v1-nearest"], (100, 111), (64, 96)).restore(values)
    assert_close(back, F.interpolate(values, (100, 111), mode="nearest"))
    assert set(back.unique().tolist()) <= set(values.unique().tolist())


def test_an_image_of_the_right_size_is_not_touched():
    image = torch.rand(1, 3, 64, 96) * 2 - 1
    picture, fitted = fit(image, 96, RESIZE_RULES["marigold"])
    assert torch.equal(picture, image)
    assert torch.equal(fitted.restore(picture), image)
