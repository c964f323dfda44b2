"""A photo that is called a depth, a matte, normals or a segmentation is doubted; what is one is not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion_perception.core.display.colour import PALETTES, paint_classes
from diffusion_perception.core.display.doubts import doubted
from diffusion_perception.core.display.picture import (
    CLASS_MEANINGS,
    DEPTH_MEANINGS,
    LEVEL_MEANINGS,
    NORMAL_MEANINGS,
    Meaning,
)
from diffusion_perception.core.perception_map import Convention

ROOT = Path(__file__).parents[1]
PHOTOS = sorted((ROOT / "tests" / "data" / "scenes").glob("*/images/*.png"))
MEANINGS = {
    "depth": DEPTH_MEANINGS["near is white"],
    "matte": LEVEL_MEANINGS["white is selected"],
    "normals": NORMAL_MEANINGS["opengl"],
    "segmentation": CLASS_MEANINGS["colours of ade20k"],
}


def read(file) -> torch.Tensor:
    with Image.open(file) as picture:
        return torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255)[None]


def compressed(picture: torch.Tensor, quality: int) -> torch.Tensor:
    """As it comes out of a JPEG file."""
    file = io.BytesIO()
    Image.fromarray((picture[0].numpy() * 255).round().astype(np.uint8)).save(file, "JPEG", quality=quality)
    return read(file)


def sphere(background: float | tuple[float, float, float]) -> torch.Tensor:
    """The colours of a sphere's normals, on any background."""
    y, x = np.mgrid[1:-1:120j, -1:1:120j]
    z = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
    colours = (np.stack([x, y, z], -1) + 1) / 2
    colours[x * x + y * y > 1] = background
    return torch.from_numpy(colours.astype(np.float32))[None]


def segments(palette: str) -> torch.Tensor:
    index = torch.arange(12).repeat_interleave(10)[None, None].expand(1, 90, 120)
    return paint_classes(index, PALETTES[palette])


@pytest.mark.parametrize("name", ["normals", "segmentation", "depth", "matte"])
def test_a_photo_is_doubted(name):
    told = [doubted(read(file), MEANINGS[name]) for file in PHOTOS]
    assert len(told) > 8
    # some rooms are nearly gray
    assert sum(map(bool, told)) >= (len(told) if name in ("normals", "segmentation") else len(told) // 2)
    assert all(words.endswith(": connect a photo to Perceive, and its map here.") for words in told if words)


@pytest.mark.parametrize("quality", [95, 50])
@pytest.mark.parametrize("background", [0.0, 0.5, 1.0, (0.5, 0.5, 1.0)], ids=["black", "gray", "white", "flat"])
def test_normals_are_not_doubted_on_any_background_and_compressed(background, quality):
    for picture in (sphere(background), (sphere(background) * 2 - 1) * 0.87 / 2 + 0.5):
        assert doubted(picture.clamp(0, 1), MEANINGS["normals"]) == ""
        assert doubted(compressed(picture.clamp(0, 1), quality), MEANINGS["normals"]) == ""


@pytest.mark.parametrize("name", ["ade20k", "coco", "rooms"])
def test_a_segmentation_is_doubted_only_in_another_palette(name):
    own, other = CLASS_MEANINGS[f"colours of {name}"], "rooms" if name != "rooms" else "ade20k"
    assert doubted(segments(name), own) == ""
    assert doubted(compressed(segments(name), 75), own) == ""
    assert f"none of the palette {name}" in doubted(segments(other), own)


def test_gray_pictures_and_masks_are_not_doubted():
    gray = torch.rand(2, 20, 30, 1).expand(2, 20, 30, 3)
    for name in ("depth", "matte"):
        assert doubted(gray, MEANINGS[name]) == ""
        assert doubted(gray[..., 0], MEANINGS[name]) == ""
    assert doubted(torch.zeros(1, 8, 8, 3), MEANINGS["normals"]) == ""


def test_what_is_in_colours_may_be():
    assert doubted(read(PHOTOS[0]), Meaning("albedo", Convention())) == ""
