"""Plain files that people hand in: JSON and .npy, read by libraries that each raise something else of a damaged one."""

from __future__ import annotations

import json
import tokenize
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UserError
from .texts import read_text


def parse_json(text: str) -> Any:
    """UserError, in words that fit into brackets, if it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # of numbers too long for Python, and of brackets too deep
        raise UserError(str(error)) from None


def read_json(path: Path) -> Any:
    """UserError likewise, OSError if there is no such file."""
    return parse_json(read_text(path))


def read_npy(path: Path) -> np.ndarray:
    """The numbers of a .npy file. UserError, in words that fit into brackets, if it holds none."""
    try:
        array = np.load(path, allow_pickle=False)
    except DAMAGED as error:
        raise UserError(" ".join(str(error).split())) from None
    if not isinstance(array, np.ndarray):
        raise UserError("it is a .npz archive")
    if array.dtype.kind not in "buif":
        raise UserError(f"it holds {array.dtype}, not numbers")
    return array


DAMAGED = (OSError, ValueError, EOFError, SyntaxError, MemoryError, tokenize.TokenError, zipfile.BadZipFile)
"""What NumPy raises."""
