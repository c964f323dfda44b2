"""`make pictures`: draws the README's two pictures, from the starter and the pack's own code."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import picture_sheet
import torch
from PIL import Image
from PIL.Image import Image as Picture
from shapes import Shape, sphere, stair
from torch import Tensor

from diffusion_perception.core.checkpoints.checkpoint import open_all
from diffusion_perception.core.display.matting import foreground_of
from diffusion_perception.core.display.picture import depth_picture, normal_picture, ready
from diffusion_perception.core.display.selection import Selection, select
from diffusion_perception.core.perception_map import Convention, PerceptionMap
from diffusion_perception.core.pipeline import Perceiver, predict
from diffusion_perception.trainer.host import load_perceiver
from diffusion_perception.trainer.perceiver import read_upright

PACK = Path(__file__).absolute().parents[1]
EXAMPLES = PACK / "workflows" / "pictures"
README = PACK / "docs" / "pictures"
LIVING, BEDROOM, PERSON = "living-room", "bedroom", "person-in-a-room"
TASKS = ("depth", "normal", "mask", "segmentation", "albedo")


def drawn(image: Tensor) -> Picture:
    """(H, W, 3 or 4) in [0, 1]."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().numpy())


@functools.cache
def starter() -> dict[str, Perceiver]:
    """By task."""
    rows = open_all(PACK / "weights" / "starter.safetensors")
    return {row.recipe.task: load_perceiver(row) for row in rows}


@functools.cache
def image(name: str) -> Tensor:
    """(1, 3, H, W) of an example."""
    return read_upright(EXAMPLES / f"{name}.jpg")


@functools.cache
def _perceived(name: str, task: str) -> PerceptionMap:
    """As Perceive does, at the resolution that is as trained."""
    with torch.inference_mode():
        return predict(starter()[task], image(name))


def photo(name: str) -> Picture:
    return drawn(image(name)[0].movedim(0, -1))


def shown(name: str, task: str) -> Picture:
    """As Perceive shows it."""
    return drawn(ready(_perceived(name, task))[0][0])


def cut_out(name: str) -> Picture:
    """As Matte Cut-out gives it."""
    pixels, alpha = image(name).movedim(1, -1), select(_perceived(name, "mask"), Selection("soft"))
    return drawn(torch.cat((foreground_of(pixels, alpha), alpha[..., None]), -1)[0])


def _contact_sheet() -> Picture:
    """What the starter sees in the example pictures; the people also cut out."""
    rows = [[photo(name), *(shown(name, task) for task in TASKS)] for name in (LIVING, BEDROOM, PERSON)]
    rows[-1][1 + TASKS.index("mask")] = cut_out(PERSON)
    return picture_sheet.contact_sheet(rows, ("image", *TASKS))


# Conventions, on shapes whose every pixel is known

SIDE = 224
AXES = {
    "controlnet_bae": "red left, green up",
    "opengl": "red right, green up",
    "directx": "red right, green down",
    "opencv": "right, down, blue is away",
}
METRES = Convention(high=None, near="low", metric=True)
INVERSE = Convention(high=None, near="high", metric=True)


def conventions() -> Picture:
    """Normals of a sphere, depth of a sphere and of a stair, and which side of a mask is selected."""
    ball, steps = sphere(SIDE), stair(SIDE)
    inside = drawn(torch.from_numpy(ball.mask)[..., None].float().expand(-1, -1, 3))
    left = normals("controlnet_bae")
    left.putalpha(inside.convert("L"))
    captioned = picture_sheet.captioned
    return picture_sheet.contact_sheet(
        [
            [captioned(normals(axes), axes, words) for axes, words in AXES.items()],
            [*depths(ball), captioned(inside, "mask", "white is the subject")],
            [*depths(steps), captioned(left, "cut-out", "the subject stays")],
        ],
        width=SIDE,
    )


def normals(axes: str) -> Picture:
    """The sphere's, rendered along these axes."""
    values = torch.from_numpy(sphere(SIDE).normal)[None].float()
    map = PerceptionMap("normal", values, Convention(low=-1, axes=("right", "up", "back"), unit=True))
    return drawn(normal_picture(map, axes)[0])


def depths(shape: Shape) -> list[Picture]:
    """Depth for a ControlNet, depth as it is, and disparity as it is."""
    metres = torch.from_numpy(shape.depth)[None, ..., None].float()
    depth, disparity = PerceptionMap("depth", metres, METRES), PerceptionMap("disparity", 1 / metres, INVERSE)
    rows = (
        (depth, "controlnet", "depth, mode controlnet", "near is white"),
        (depth, "min-max", "depth, mode min-max", "near is black"),
        (disparity, "min-max", "disparity, mode min-max", "near is white"),
    )
    return [picture_sheet.captioned(drawn(depth_picture(map, mode)[0][0]), *words) for map, mode, *words in rows]


def save(picture: Picture, path: Path, quality: int = 85) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True, quality=quality)
    print(path)


def main() -> int:
    """Draw both."""
    save(conventions(), README / "conventions.png")
    save(_contact_sheet(), README / "contact-sheet.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
