"""Scale: a map in colours, with a bar beside it that says in numbers what they stand for."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..perception_map import PerceptionMap
from .colour import colourise
from .legend import BACKGROUND, LETTERS, MARGIN, SIZE, letters
from .picture import Span, known_values, span_of, stretch, trusted, unit_of

BAR = 20
"""Pixels that the bar is wide."""
DASH = 5
UNKNOWN = (0.25, 0.25, 0.3)
"""The colour of pixels that are not known."""


def ticks(span: Span, most: int) -> list[float]:
    """Round numbers from end to end of a span, about `most`: in steps of 1, 2 or 5 times a power of ten."""
    low, high = span
    if not high > low:
        return [low]
    least = (high - low) / max(most, 1)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(part * power for part in (1, 2, 5, 10) if part * power >= least * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [number * step for number in range(first, last + 1)]


def bar(height: int, span: Span, colormap: str, unit: str) -> Tensor:
    """(H, W, 3): the colours of a span, its largest value above, with numbers."""
    from PIL import Image, ImageDraw

    font = letters()
    top = MARGIN + (SIZE + MARGIN if unit else 0)
    inner = height - MARGIN - top
    if inner < 2:
        top, inner = 0, height
    marks = ticks(span, inner // (2 * SIZE))
    texts = [f"{value:.6g}" for value in marks]
    wide = max(map(font.getlength, [*texts, unit]))
    picture = Image.new("RGB", (math.ceil(MARGIN + BAR + DASH + wide + 2 * MARGIN), height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN), unit, fill=LETTERS, font=font)
    for value, text in zip(marks, texts):
        share = (value - span[0]) / (span[1] - span[0]) if span[1] > span[0] else 0.5
        y = top + (1 - share) * (inner - 1)
        draw.line((MARGIN + BAR, y, MARGIN + BAR + DASH, y), fill=LETTERS)
        draw.text((MARGIN + BAR + DASH + MARGIN // 2, y), text, fill=LETTERS, font=font, anchor=_anchor(font))
    made = torch.from_numpy(np.asarray(picture, np.float32) / 255)
    made[top : top + inner, MARGIN : MARGIN + BAR] = colourise(torch.linspace(1, 0, inner)[:, None], colormap)
    return made


def _anchor(font: object) -> str | None:
    """On the middle of a line; Pillow's old font has no such places."""
    return "lm" if hasattr(font, "getmask2") and hasattr(font, "path") else None


def with_scale(map: PerceptionMap, colormap: str, ends: Span | None = None) -> tuple[Tensor, str]:
    """A map of one channel (B, H, W + a bar, 3), and in words which range its colours have: `ends`, or its own.

    UserError for a map of several channels.
    """
    if map.values.shape[-1] > 1:
        raise UserError(f"A map of {map.task} has {map.values.shape[-1]} channels, and a scale is of one.")
    values, known = known_values(map)[..., 0], trusted(map)
    span = span_of(values[known]) if ends is None else ends
    colours = colourise(stretch(values, span), colormap)
    colours = torch.where(known[..., None], colours, colours.new_tensor(UNKNOWN))
    unit = unit_of(map.convention)
    beside = bar(values.shape[1], span, colormap, unit).to(colours)
    said = f"{map.task} from {span[0]:.4g} to {span[1]:.4g}{f' {unit}' if unit else ''}"
    unknown = 1 - known.float().mean().item()
    made = torch.cat((colours, beside.expand(len(colours), -1, -1, -1)), 2)
    return made, said + (f", {unknown:.1%} unknown" if unknown else "")
