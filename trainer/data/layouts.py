"""Layouts: where an unpacked archive has its pictures, and what the files of their truth are called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .pairs import Pair


@dataclass(frozen=True)
class Layout:
    """Of one archive; paths are inside its folder, with / between their parts."""

    images: tuple[str, ...]
    """Patterns of the pictures, as pathlib's glob takes them."""
    parts: str
    """A regular expression of a picture's whole path."""
    truth: str
    """What it becomes."""
    valid: str = ""
    """The same of the file that says where truth is valid, if there is one."""
    some: bool = False
    """Whether pictures without truth are part of it, and are passed over."""

    def pairs(self, root: Path) -> list[Pair]:
        """In the order of their paths."""
        found = {path.relative_to(root).as_posix() for pattern in self.images for path in root.glob(pattern)}
        made = [pair for path in sorted(found) if (pair := self.pair(path)) is not None]
        return [pair for pair in made if (root / pair.truth).is_file()] if self.some else made

    def pair(self, path: str) -> Pair | None:
        """None for what is no picture of the set after all."""
        match = re.fullmatch(self.parts, path)
        if match is None:
            return None
        return Pair(path, match.expand(self.truth), match.expand(self.valid) if self.valid else "")


NYU = Layout(("test/*/rgb_*.png",), r"(.*/)rgb_(\d+\.png)", r"\1depth_\2")
KITTI = Layout(
    ("*/*/image_02/data/*.png",),
    r"[^/]+/([^/]+)/image_02/data/(.+)",
    r"\1/proj_depth/groundtruth/image_02/\2",
    some=True,
)
ETH3D = Layout(
    ("rgb/*/images/dslr_images/*.JPG",),
    r"rgb/([^/]+)/images/dslr_images/(.+)",
    r"depth/\1_dslr_depth/\1/ground_truth_depth/dslr_images/\2",
)
SCANNET = Layout(("*/color/*.jpg",), r"(.*)/color/(\d+)\.jpg", r"\1/depth/\2.png")
DIODE = Layout(("*/*/*/*.png",), r"(.*)\.png", r"\1_depth.npy", r"\1_depth_mask.npy")
NORMALS_8_BIT = Layout(("**/*_img.png", "**/*_img.jpg"), r"(.*)_img\.(?:png|jpg)", r"\1_normal.png")
NORMALS_FLOAT = Layout(
    ("**/*_img.png", "indoors/*/*/*.png", "outdoor/*/*/*.png"), r"(.*?)(?:_img)?\.png", r"\1_normal.npy"
)
FRAMENET = Layout(
    ("**/frame-*-color.png", "**/frame-*-color.jpg"),
    r"(.*)-color\.(?:png|jpg)",
    r"\1-normal.png",
    r"\1-orient-mask.png",
)
INTERIORVERSE = {
    kind: Layout(("**/*_im.exr",), r"(.*)_im\.exr", rf"\1_{kind}.exr", masks)
    for kind, masks in {"albedo": r"\1_mask.exr", "material": r"\1_mask.exr", "normal": ""}.items()
}
