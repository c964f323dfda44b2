"""Written: how a teacher's values become the files of a plain folder, and what its dataset.toml says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from ...core.display.colour import classify, palette_named
from ...core.errors import UserError
from ...core.geometry import decode_normals
from ...core.perception_map import Convention
from ...core.recipe import Recipe
from ...core.whole_file import whole_file

Section = dict[str, Any]


class Written(NamedTuple):
    """A row of WRITTEN."""

    ending: str
    array: Callable[[Tensor, Convention], np.ndarray]
    """(raw values (H, W, C), what they mean) -> the array to store."""
    section: Callable[[Convention], Section]
    """What dataset.toml says of it."""


def plain(values: Tensor, convention: Convention) -> np.ndarray:
    array = values.float().numpy()
    return array[..., 0] if array.shape[-1] == 1 else array


def _bytes_of(values: Tensor, convention: Convention) -> np.ndarray:
    return (values[..., 0].clamp(0, 1) * 255).round().byte().numpy()


def _directions(values: Tensor, convention: Convention) -> np.ndarray:
    """16 bits, of unit length."""
    vectors = torch.nn.functional.normalize(decode_normals(values.float(), convention), dim=-1)
    return ((vectors + 1) / 2 * 65535).round().numpy().astype(np.uint16)


def numbers(values: Tensor, convention: Convention) -> np.ndarray:
    """Of classes."""
    palette = palette_named(convention.palette or "")
    index = values[..., 0] if convention.classes else classify(values[None], palette)[0][0]
    return index.numpy().astype(np.uint8 if len(palette.classes) <= 255 else np.uint16)


def _of_normals(convention: Convention) -> Section:
    if convention.axes is None:
        raise UserError(
            'The teacher does not say where its normals point: write set = ["axes=right,up,back"], or as it has them.'
        )
    return {"axes": list(convention.axes), "encoding": "unsigned"}


def _of_classes(convention: Convention) -> Section:
    palette = palette_named(convention.palette or "")
    return {"classes": list(palette.classes), "palette": list(palette.colours), "ignore": []}


def _of_light(convention: Convention) -> Section:
    if convention.encoding not in ("srgb", "linear"):
        raise UserError(
            "The teacher does not say that its light is srgb or linear, which a plain folder holds: "
            'write set = ["encoding=srgb"], if that is so.'
        )
    return {"colour": convention.encoding}


def _no_section(convention: Convention) -> Section:
    return {}


LIGHT = Written(".npy", plain, _of_light)
LEVEL = Written(".png", _bytes_of, _no_section)
WRITTEN: dict[str, Written] = {
    "depth": Written(".npy", plain, lambda convention: {"unit": "m" if convention.metric else "relative"}),
    "disparity": Written(".npy", plain, lambda convention: {"unit": "1/m" if convention.metric else "relative"}),
    "normal": Written(".png", _directions, _of_normals),
    "mask": LEVEL,
    "matte": LEVEL,
    "segmentation": Written(".png", numbers, _of_classes),
    "albedo": LIGHT,
    "shading": LIGHT,
}
"""By the task, which is also the folder's name."""


def written_as(recipe: Recipe) -> Written:
    """UserError for a task that a plain folder has no place for."""
    if recipe.task not in WRITTEN:
        raise UserError(
            f"Labels of {recipe.task} have no place in a plain folder: take a teacher of {', '.join(WRITTEN)}."
        )
    return WRITTEN[recipe.task]


def save_array(array: np.ndarray, path: Path) -> None:
    """As .npy, or as PNG of 8 or 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_bytes(ENCODE[path.suffix](array))


def _encoded_npy(array: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _encoded_png(array: np.ndarray) -> bytes:
    """OpenCV has blue first."""
    _, data = cv2.imencode(".png", array[..., ::-1] if array.ndim == 3 else array)
    return data.tobytes()


ENCODE = {".npy": _encoded_npy, ".png": _encoded_png}
