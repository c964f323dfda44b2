"""Ledger: what every picture has given, written down line by line, so that a stopped evaluation goes on where it was.

A line is a picture of one pair of a model and a set. Processes write files of their own; a line that was cut off by a
kill, or whose picture has changed since, is measured again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.measure.losses import Reduction
from ..scoring import Parts

FORMAT = 1
"""Of the lines; another one is measured again."""


@dataclass(frozen=True)
class Line:
    """What became of one picture."""

    index: int
    """Of the record in its set."""
    record: str
    mark: int
    """What its files were, as trainer.data.batches.number_of tells it."""
    fault: str = ""
    """Why it was not measured."""
    parts: Mapping[str, Parts] = field(default_factory=dict)
    """{comparison: {metric: what it adds}}."""


class Ledger:
    """The lines of one pair."""

    def __init__(self, folder: Path, about: object, process: int = 0) -> None:
        """about: everything that the figures depend on besides the pictures' files."""
        digest = hashlib.blake2b(repr((FORMAT, about)).encode(), digest_size=12).hexdigest()
        self.folder = folder / digest
        self.file = self.folder / f"{process}.jsonl"

    def read(self) -> dict[int, Line]:
        """{index: line} of all processes."""
        found: dict[int, Line] = {}
        for file in sorted(self.folder.glob("*.jsonl")):
            for text in file.read_text("utf-8").splitlines():
                try:
                    line = from_json(text)
                except (ValueError, LookupError, TypeError, zlib.error):
                    continue  # cut off
                found[line.index] = line
        return found

    def write(self, line: Line) -> None:
        """At once, so that a kill loses one picture at most."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            if file.tell() and not ends_whole(self.file):
                file.write("\n")
            file.write(to_json(line) + "\n")


def ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def to_json(line: Line) -> str:
    parts = {comparison: packed_once(found) for comparison, found in line.parts.items()}
    return json.dumps({**asdict(Line(line.index, line.record, line.mark, line.fault)), "parts": parts})


def from_json(text: str) -> Line:
    row = json.loads(text)
    parts = {comparison: unpacked_all(found) for comparison, found in row["parts"].items()}
    return Line(row["index"], row["record"], row["mark"], row["fault"], parts)


def packed_once(parts: Parts) -> dict[str, Any]:
    """Each sum once: metrics that come of the same one name the first of them."""
    first: dict[int, str] = {}
    found: dict[str, Any] = {}
    for name, part in parts.items():
        known = first.setdefault(id(part), name)
        found[name] = packed(part) if known == name else known
    return found


def unpacked_all(found: Mapping[str, Any]) -> dict[str, Reduction]:
    made = {name: unpacked(row) for name, row in found.items() if not isinstance(row, str)}
    return {name: made[row] if isinstance(row, str) else made[name] for name, row in found.items()}


def packed(part: Reduction) -> list[str]:
    """Exact: the bytes of both, compressed, for most bins of a histogram are empty."""
    arrays = (part.total.double().numpy(), part.weight.long().numpy())
    return [base64.b64encode(zlib.compress(array.astype(array.dtype.newbyteorder("<")).tobytes())).decode()
            for array in arrays]  # fmt: skip


def unpacked(row: Iterable[str]) -> Reduction:
    total, weight = (zlib.decompress(base64.b64decode(text)) for text in row)
    return Reduction(
        torch.from_numpy(np.frombuffer(total, "<f8").copy().reshape(square(len(total) // 8))),
        torch.from_numpy(np.frombuffer(weight, "<i8").copy()),
    )


def square(count: int) -> tuple[int, ...]:
    """A confusion matrix is the one sum with two sides."""
    from ...core.measure.metrics import CLASSES

    return (CLASSES, CLASSES) if count == CLASSES**2 else (count,)
