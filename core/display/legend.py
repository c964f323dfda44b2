"""Legend: what each colour of a segmentation stands for, as a picture."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

SIZE = 20
"""Of the letters, in pixels; a node shows the picture about as large as it is."""
ROW = 28
MARGIN = 8
COLUMN, COLUMNS = 12, 2
"""Rows of a column, and columns, at most; the last row says what did not fit."""
BACKGROUND, LETTERS, FRAME = (32, 32, 32), (240, 240, 240), (128, 128, 128)


class Entry(NamedTuple):
    """A colour (red, green, blue in 0..255; None for a line without), and what it stands for."""

    colour: tuple[int, int, int] | None
    words: str


def legend(entries: list[Entry]) -> Tensor:
    """(1, H, W, 3) in [0, 1]: a swatch and its words in each row, in up to two columns."""
    from PIL import Image, ImageDraw

    rows = _fitting(entries)
    font = letters()
    columns = [rows[start : start + COLUMN] for start in range(0, len(rows), COLUMN)]
    widths = [ROW + 3 * MARGIN + max(int(font.getlength(row.words)) for row in column) for column in columns]
    picture = Image.new("RGB", (sum(widths), 2 * MARGIN + ROW * len(columns[0])), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for column, left in zip(columns, np.cumsum([0, *widths]).tolist()):
        for number, row in enumerate(column):
            top = MARGIN + number * ROW
            if row.colour is not None:
                box = (left + MARGIN, top + 3, left + MARGIN + ROW - 6, top + ROW - 3)
                draw.rectangle(box, fill=row.colour, outline=FRAME)
            draw.text((left + ROW + MARGIN, top + (ROW - SIZE) // 2 - 1), row.words, fill=LETTERS, font=font)
    return torch.from_numpy(np.asarray(picture, np.float32) / 255)[None]


def _fitting(entries: list[Entry]) -> list[Entry]:
    """At least one row, and no more than there is room for."""
    room = COLUMN * COLUMNS
    if len(entries) > room:
        return [*entries[: room - 1], Entry(None, f"and {len(entries) - room + 1} more")]
    return entries or [Entry(None, "nothing is known here")]


def letters() -> Any:
    """Pillow's own font; versions before 10.1, and those made without FreeType, have it in one small size."""
    from PIL import ImageFont

    try:
        return ImageFont.load_default(SIZE)
    except (TypeError, ImportError):
        return ImageFont.load_default()
