"""Sheet: several pictures side by side, each with its name above it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..image import resize
from .legend import BACKGROUND, LETTERS, MARGIN, ROW, SIZE, letters


class Cell(NamedTuple):
    """One of them."""

    pictures: Tensor
    """(B, H, W, 3) in [0, 1]; one serves all frames."""
    name: str


def sheet(cells: Sequence[Cell], columns: int = 0) -> Tensor:
    """(B, H, W, 3): row by row, in so many columns; 0: about as many as rows. All get the size of the first, its shape
    kept. UserError for no cell, and for numbers of frames that differ."""
    if not cells:
        raise UserError("There is nothing to compare: connect images or maps.")
    counts = sorted({len(cell.pictures) for cell in cells} - {1})
    if len(counts) > 1:
        raise UserError(
            f"There are {' and '.join(map(str, counts))} frames of one: give equal numbers, or one for all."
        )
    height, width = cells[0].pictures.shape[1:3]
    across = min(columns or math.ceil(math.sqrt(len(cells))), len(cells))
    down = math.ceil(len(cells) / across)
    blank = torch.tensor(BACKGROUND) / 255
    made = blank.expand(
        counts[0] if counts else 1, down * (ROW + height), across * (width + MARGIN) - MARGIN, 3
    ).clone()
    for number, cell in enumerate(cells):
        top, left = number // across * (ROW + height), number % across * (width + MARGIN)
        made[:, top : top + ROW, left : left + width] = title(cell.name, width)
        made[:, top + ROW : top + ROW + height, left : left + width] = _letterboxed(cell.pictures.cpu(), height, width)
    return made


def title(name: str, width: int) -> Tensor:
    """(ROW, width, 3), cut off at the right."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (width, ROW), BACKGROUND)
    ImageDraw.Draw(picture).text((MARGIN // 2, (ROW - SIZE) // 2 - 1), name, fill=LETTERS, font=letters())
    return torch.from_numpy(np.asarray(picture, np.float32) / 255)


def _letterboxed(pictures: Tensor, height: int, width: int) -> Tensor:
    """(B, height, width, 3), scaled to fit in, centred; as they are if they have that size."""
    rows, columns = pictures.shape[1:3]
    if (rows, columns) == (height, width):
        return pictures
    scale = min(height / rows, width / columns)
    size = max(round(rows * scale), 1), max(round(columns * scale), 1)
    small = resize(pictures.float().movedim(-1, 1), size, "bilinear", antialias=True).movedim(1, -1).clamp(0, 1)
    made = (torch.tensor(BACKGROUND) / 255).expand(len(pictures), height, width, 3).clone()
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    made[:, top : top + size[0], left : left + size[1]] = small
    return made
