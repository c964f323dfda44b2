"""Pictures drawn from results: a square thumbnail of a workflow, and a sheet of several results with captions."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.Image import Image as Picture

SIDE = 512
INSET = 0.34
"""Width of an input that lies in the corner of its output, as a part of the thumbnail's."""
GAP, LINE = 6, 26
"""Pixels between pictures, and of a line of text."""
PAPER, INK, EDGE = (255, 255, 255), (40, 40, 40), (150, 150, 150)
CHECKS = (236, 206)
"""Two grays of the board on which what is cut out lies."""


def flat(picture: Picture, square: int = 16) -> Picture:
    """RGB; what is transparent shows a chequerboard."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    board = Image.new("L", (-(-picture.width // square), -(-picture.height // square)))
    board.putdata([CHECKS[(x + y) % 2] for y in range(board.height) for x in range(board.width)])
    scaled = board.resize((board.width * square, board.height * square), Image.Resampling.NEAREST).convert("RGB")
    under = scaled.crop((0, 0, *picture.size))
    under.paste(picture.convert("RGB"), mask=picture.getchannel("A"))
    return under


def thumbnail(input: Picture | None, outputs: Sequence[Picture], side: int = SIDE) -> Picture:
    """A square picture of a workflow: its one output with the input in the corner, or both and all in a grid.

    Of more than three outputs (four without an input) the first are shown.
    """
    shown = [flat(picture) for picture in ([] if input is None else [input]) + [*outputs]][:4]
    if not shown:
        raise ValueError("There is nothing to draw: give an input or an output.")
    if input is not None and len(shown) == 2:
        return with_inset(shown[0], shown[1], (side, side))
    return _grid(shown, side)


def with_inset(input: Picture, output: Picture, size: tuple[int, int]) -> Picture:
    """The output, cut to width and height, and the whole input in its lower right corner."""
    sheet = ImageOps.fit(output, size, Image.Resampling.LANCZOS)
    width = round(size[0] * INSET)
    small = input.resize((width, max(1, round(width * input.height / input.width))), Image.Resampling.LANCZOS)
    framed = ImageOps.expand(small, GAP // 2, PAPER)
    sheet.paste(framed, (size[0] - framed.width - GAP * 2, size[1] - framed.height - GAP * 2))
    return sheet


def _grid(pictures: Sequence[Picture], side: int) -> Picture:
    """Up to four in two rows; where the upper row holds one, it is as wide as both of the lower."""
    sheet = Image.new("RGB", (side, side), PAPER)
    rows = {1: (1,), 2: (1, 1), 3: (1, 2), 4: (2, 2)}[len(pictures)]
    height, left_over = (side - GAP * (len(rows) - 1)) // len(rows), list(pictures)
    for row, count in enumerate(rows):
        width = (side - GAP * (count - 1)) // count
        for column in range(count):
            cell = ImageOps.fit(left_over.pop(0), (width, height), Image.Resampling.LANCZOS)
            sheet.paste(cell, (column * (width + GAP), row * (height + GAP)))
    return sheet


def contact_sheet(rows: Sequence[Sequence[Picture]], headings: Sequence[str] = (), width: int = 256) -> Picture:
    """Rows of pictures of one size, `width` pixels each, under their columns' headings."""
    height = round(width * rows[0][0].height / rows[0][0].width)
    top = LINE if headings else 0
    columns = max(map(len, rows))
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, top + len(rows) * (height + GAP) - GAP), PAPER)
    for column, words in enumerate(headings):
        write(sheet, words, column * (width + GAP) + width // 2, LINE // 2)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            cell = flat(picture).resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(cell, (column * (width + GAP), top + row * (height + GAP)))
    return sheet


def captioned(picture: Picture, *lines: str) -> Picture:
    """The picture, with an edge round it, and lines of text under it."""
    sheet = Image.new("RGB", (picture.width, picture.height + LINE * len(lines)), PAPER)
    sheet.paste(flat(picture), (0, 0))
    ImageDraw.Draw(sheet).rectangle((0, 0, picture.width - 1, picture.height - 1), outline=EDGE)
    for number, words in enumerate(lines):
        write(sheet, words, picture.width // 2, picture.height + LINE * number + LINE // 2)
    return sheet


def write(sheet: Picture, words: str, x: int, y: int, size: int = 16) -> None:
    """Text whose middle is there, in the font that Pillow brings along."""
    ImageDraw.Draw(sheet).text((x, y), words, fill=INK, font=ImageFont.load_default(size), anchor="mm")
