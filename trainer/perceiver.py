"""A perceiver that takes pictures as Python programs have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..core.crops import Box
from ..core.errors import UserError
from ..core.perception_map import PerceptionMap
from ..core.pipeline import Perceiver, predict
from ..core.pose import predict_people
from .data.arrays import BrokenRecord, colours_of, pixels_of, read_colours, read_picture
from .data.records import as_srgb

EXPECTED = (
    "a path, a PIL image, an array (H, W, 3) or (B, H, W, 3) of uint8, uint16 or floats in [0, 1], or a tensor "
    "(3, H, W) or (B, 3, H, W) of floats in [0, 1]"
)
OVERSHOOT = 0.25


class PicturePerceiver(Perceiver):
    """A Perceiver to be called: `perceiver("photo.jpg").values` is the map."""

    @torch.inference_mode()
    def __call__(
        self, image: Any, *, resolution: int = -1, batch_size: int = 1, boxes: list[list[Box]] | None = None
    ) -> PerceptionMap:
        """Pictures -> their PerceptionMap: values (B, H, W, C) float32 on the CPU, raw, with what they mean.

        image: a path, a PIL image, an array (H, W, 3) or (B, H, W, 3) of uint8, uint16 or floats in [0, 1], or a tensor
        (3, H, W) or (B, 3, H, W) of floats in [0, 1]. resolution: -1 as trained, 0 the image's own, or pixels.
        boxes: for keypoints, where people are in each picture. UserError, in one sentence, for anything else.
        """
        batch = as_images(image)
        if self.recipe.row.per == "image":
            return predict(self, batch, resolution=resolution, batch_size=batch_size)
        return predict_people(self, batch, boxes, batch_size=batch_size)


def as_images(image: Any) -> Tensor:
    """(B, 3, H, W) float32 in [0, 1]. UserError for what is no picture."""
    if isinstance(image, (str, Path)):
        return read_upright(Path(image))
    if isinstance(image, Image.Image):
        return _from_colours(colours_of(pixels_of(image))[0])
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Tensor) and image.is_floating_point() and image.ndim in (3, 4):
        return _checked(image if image.ndim == 4 else image[None])
    raise UserError(f"{_described(image)} is no picture: give {EXPECTED}.")


def _from_array(array: np.ndarray) -> Tensor:
    whites = {"uint8": 255, "uint16": 65535, "float16": 1, "float32": 1, "float64": 1}
    white = whites.get(array.dtype.name)
    if white is None or array.ndim not in (3, 4) or array.shape[-1] != 3:
        raise UserError(f"{_described(array)} is no picture: give {EXPECTED}.")
    batch = array if array.ndim == 4 else array[None]
    return _checked(torch.from_numpy(np.ascontiguousarray(batch.astype(np.float32) / white)).movedim(-1, 1))


def _checked(batch: Tensor) -> Tensor:
    """float32. UserError for numbers of another range, such as 0 to 255; a resampling filter may overshoot a little."""
    if batch.numel() and (batch.amin() < -OVERSHOOT or batch.amax() > 1 + OVERSHOOT):
        low, high = batch.amin().item(), batch.amax().item()
        raise UserError(f"The picture's values lie between {low:g} and {high:g}, outside 0 to 1: scale them to that.")
    return batch.float()


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    kind = type(value).__name__
    return kind if shape is None else f"{kind} of shape {tuple(shape)} and type {value.dtype}"


def read_upright(path: Path) -> Tensor:
    """(1, 3, H, W) in [0, 1], upright as its camera says: what training sees of the same file."""
    try:
        colours, _ = read_colours(path, other=read_picture)
    except BrokenRecord as fault:
        if isinstance(fault.__cause__, UnidentifiedImageError):
            raise UserError(f"{path.name} is not an image that can be read: give a PNG, JPEG, WebP or TIFF.") from None
        raise UserError(
            f"{path.name} is not a readable image ({fault.__cause__ or fault}): give a whole one."
        ) from None
    return _from_colours(colours)


def _from_colours(colours: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(as_srgb(colours), np.float32)).movedim(-1, 0)[None]
