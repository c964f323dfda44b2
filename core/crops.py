"""Crops: boxes around people -> the pictures that a pose network sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .errors import UserError
from .pillow import resize_bytes

PADDING = 1.25
"""A crop is this much larger than the person's box."""
LEAST_SHARE = 1e-3
"""Parts of a mask below this share of the picture are no people."""


class Box(NamedTuple):
    """Where a person is, in pixels."""

    x: float
    """Of the left border."""
    y: float
    """Of the upper border."""
    width: float
    height: float
    score: float = 1.0
    """How sure whoever found it was."""


def window_around(box: Sequence[float], size: tuple[int, int], padding: float = PADDING) -> np.ndarray:
    """x, y, width, height of what is cropped: the box widened to the crop's aspect, enlarged, centred on it."""
    x, y, width, height = box[:4]
    aspect = size[1] / size[0]
    tall = max(height, width / aspect) * padding
    wide = tall * aspect
    return np.array([x + width / 2 - wide / 2, y + height / 2 - tall / 2, wide, tall])


def cut(picture: Tensor, window: np.ndarray, size: tuple[int, int]) -> Tensor:
    """The window (x, y, width, height) of a picture (C, H, W), scaled to `size`; black beyond the picture."""
    height, width = picture.shape[-2:]
    rows, first_row = weights(window[1], window[3], size[0], height)
    columns, first_column = weights(window[0], window[2], size[1], width)
    part = picture[:, first_row : first_row + rows.shape[1], first_column : first_column + columns.shape[1]].float()
    return rows.to(part) @ part @ columns.to(part).T


def _whole_pixels(box: Sequence[float], size: tuple[int, int], padding: float = 1.0) -> np.ndarray:
    """x, y, width, height of what is cropped: the box as it is, its corners moved to the whole pixels before them."""
    left, top = math.floor(box[0]), math.floor(box[1])
    right, bottom = math.floor(box[0] + box[2]), math.floor(box[1] + box[3])
    return np.array([left, top, max(right - left, 1), max(bottom - top, 1)], np.float64)


def _resized_window(picture: Tensor, window: np.ndarray, size: tuple[int, int]) -> Tensor:
    """The window (x, y, width, height) of a picture (C, H, W), stretched to `size` as Pillow stretches bytes."""
    x, y, width, height = (int(number) for number in window)
    levels = (picture[:, y : y + height, x : x + width].float() * 255).round().clamp(0, 255)
    return resize_bytes(levels, size, "bilinear") / 255


class CropRule(NamedTuple):
    """A row: how a family cuts people out."""

    window: Callable[[Sequence[float], tuple[int, int], float], np.ndarray]
    """(box inside the picture, (H, W) of the crop, padding) -> x, y, width, height of what becomes the crop."""
    cut: Callable[[Tensor, np.ndarray, tuple[int, int]], Tensor]
    """(picture (C, H, W) in [0, 1], window, (H, W) of the crop) -> the crop."""


CROPS: dict[str, CropRule] = {
    "padded": CropRule(window_around, cut),
    "stretched": CropRule(_whole_pixels, _resized_window),
}
"""padded: boxes are enlarged to the crop's aspect and by the padding. stretched: neither, the crop is distorted."""


def weights(start: float, length: float, wanted: int, there: int) -> tuple[Tensor, int]:
    """How much each pixel of a line counts in each of the `wanted` pixels that a stretch of it is scaled to.

    Antialiased linear interpolation. (wanted, N) float32 of the N pixels from the given one on; what lies beyond the
    line counts as black.
    """
    scale = length / wanted
    reach = max(scale, 1.0)
    first = min(max(math.floor(start - reach), 0), there - 1)
    last = max(min(math.ceil(start + length + reach), there), first + 1)
    centres = (start + (np.arange(wanted) + 0.5) * scale)[:, None]
    # divided by what an endless line would count, so that its end stays black and is not stretched
    around = np.floor(centres) + np.arange(-math.ceil(reach) - 1, math.ceil(reach) + 2)
    whole = _hat(around, centres, reach).sum(1, keepdims=True)
    return torch.from_numpy((_hat(np.arange(first, last), centres, reach) / whole).astype(np.float32)), first


def _hat(pixels: np.ndarray, centres: np.ndarray, reach: float) -> np.ndarray:
    """1 where a pixel's centre lies on the given one, falling to 0 at `reach` pixels from it; broadcast."""
    return np.maximum(1 - np.abs(pixels + 0.5 - centres) / reach, 0)


def inside(box: Box, size: tuple[int, int]) -> Box:
    """The part of a box that lies in a picture of `size` (H, W). UserError if there is none."""
    left, top = max(box.x, 0.0), max(box.y, 0.0)
    right, bottom = min(box.x + box.width, size[1]), min(box.y + box.height, size[0])
    if right <= left or bottom <= top:
        raise UserError(
            f"The box x={box.x:g} y={box.y:g} width={box.width:g} height={box.height:g} lies outside the picture of "
            f"{size[1]}x{size[0]} pixels: give boxes in pixels of this picture."
        )
    return Box(left, top, right - left, bottom - top, box.score)


def whole_image(size: tuple[int, int]) -> Box:
    """The box around everything."""
    return Box(0.0, 0.0, float(size[1]), float(size[0]))


CORNERS = {"x, y, width, height": False, "x1, y1, x2, y2": True}
"""What four bare numbers mean: whether the last two are a corner too."""


def read_boxes(given: Any, count: int, corners: bool = False) -> list[list[Box]]:
    """Boxes as detectors give them -> those of each of `count` images. UserError for what is none.

    A box is {"x", "y", "width", "height"} or four numbers. A list of lists holds those of each image, the last of them
    those of all further images too; a plain list those of a single image, or one box for each image; one box alone is
    that of every image. None, or an empty list, is nobody.
    """
    lists = _by_image(_as_lists(given), count)
    wrong = next((boxes for boxes in lists if not isinstance(boxes, list)), None)
    if wrong is not None:
        raise UserError(f"{wrong!r} is no list of boxes: give, for each image, a list of x, y, width and height.")
    if len(lists) != count:
        raise UserError(f"Boxes came for {len(lists)} images, but there are {count}: give a list of boxes for each.")
    return [[read_box(box, corners) for box in boxes] for boxes in lists]


def _by_image(given: Any, count: int) -> list[Any]:
    """What belongs to each image, as far as its shape tells."""
    if given is None or given == []:
        return [[]] * count
    if _is_box(given):
        return [[given]] * count
    if not isinstance(given, list):
        return [given]
    if all(map(_is_box, given)):
        if count == 1:
            return [given]
        return [[box] for box in (given * count if len(given) == 1 else given)]
    lists = [[] if boxes is None else boxes for boxes in given]
    return lists + lists[-1:] * (count - len(lists))  # as ComfyUI's own pose nodes do


def _as_lists(value: Any) -> Any:
    """Tensors, arrays and tuples as lists, however deep; boxes that are read stay."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    return [_as_lists(part) for part in value] if isinstance(value, list | tuple) and not _is_box(value) else value


def _is_box(value: Any) -> bool:
    """Four numbers, or five with a score, or a dictionary."""
    if isinstance(value, dict | Box):
        return True
    numbers = isinstance(value, list | tuple) and all(isinstance(number, Real) for number in value)
    return numbers and len(value) in (4, 5)


def read_box(value: Any, corners: bool = False) -> Box:
    """UserError unless it has an extent."""
    try:
        if isinstance(value, dict):
            x, y, width, height = (float(value[name]) for name in ("x", "y", "width", "height"))
            box = Box(x, y, width, height, float(value.get("score", 1.0)))
        else:
            box = Box(*(float(number) for number in value))
            if corners and not isinstance(value, Box):
                box = box._replace(width=box.width - box.x, height=box.height - box.y)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{value!r} is no box ({error}): expected x, y, width and height in pixels.") from None
    if not all(map(math.isfinite, box)) or box.width <= 0 or box.height <= 0:
        raise UserError(f"The box {tuple(box[:4])} has no extent: expected x, y, width > 0 and height > 0 in pixels.")
    return box


def boxes_of_mask(mask: Tensor, size: tuple[int, int]) -> list[Box]:
    """Each connected part of a mask (H, W), above 0.5, as a box in a picture of `size`; specks are left out."""
    from scipy import ndimage

    count: int
    parts, count = ndimage.label((mask > 0.5).cpu().numpy(), np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    areas = ndimage.sum_labels(np.ones_like(parts), parts, range(1, count + 1))
    across, down = size[1] / mask.shape[1], size[0] / mask.shape[0]
    return [
        Box(
            columns.start * across, rows.start * down,
            (columns.stop - columns.start) * across, (rows.stop - rows.start) * down,
        )
        for (rows, columns), area in zip(ndimage.find_objects(parts), areas)
        if area >= LEAST_SHARE * parts.size
    ]  # fmt: skip
