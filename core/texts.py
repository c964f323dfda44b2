"""Texts: what people write by hand and programs export, in the encodings that editors and shells save it in."""

from __future__ import annotations

import codecs
from pathlib import Path

from .errors import UserError

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""What a text in an encoding begins with; the longer ones first."""


def read_text(path: Path) -> str:
    """UTF-8, or UTF-16 as Windows writes it, without the mark at its beginning; lines end as everywhere.

    UserError, in words that fit into brackets, if it is no text; OSError if there is no such file.
    """
    held = path.read_bytes()
    try:
        text = held.decode(_encoding_of(held))
    except UnicodeDecodeError as error:
        line = held.count(b"\n", 0, error.start) + 1
        raise UserError(f"it is no text in UTF-8 or UTF-16, see line {line}: save it as UTF-8") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _encoding_of(held: bytes) -> str:
    """By its mark; without one by the zeros that UTF-16 has beside every letter of English."""
    marked = next((name for mark, name in MARKS if held.startswith(mark)), "")
    if marked or len(held) % 2 or held[:2].count(0) != 1:
        return marked or "utf-8"
    return "utf-16-le" if held[1] == 0 else "utf-16-be"
