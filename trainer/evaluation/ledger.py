"""Ledger: what every picture has given, written down line by line, so that a stopped evaluation goes on where it was.

A line is a picture of one pair of a model and a set. Processes write files of their own; a line that was cut off by a
kill, or whose picture has changed since, is measured again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...core.measure.losses import Reduction
from ..scoring import Parts

FORMAT = 2
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
    pose: Mapping[str, Any] | None = None
    """Of a person, as in COCO's results: `keypoints` and `score`."""


class Place(NamedTuple):
    """Where a line lies."""

    file: Path
    start: int
    """In bytes."""
    mark: int


class Ledger:
    """The lines of one pair."""

    def __init__(self, folder: Path, about: object, process: int = 0) -> None:
        """about: everything that the figures depend on besides the pictures' files."""
        digest = hashlib.blake2b(repr((FORMAT, about)).encode(), digest_size=12).hexdigest()
        self.folder = folder / digest
        self.file = self.folder / f"{process}.jsonl"

    def places(self) -> dict[int, Place]:
        """{index: where its line lies} of all processes; the last one counts."""
        found: dict[int, Place] = {}
        for file in sorted(self.folder.glob("*.jsonl")):
            with file.open("rb") as text:
                start = 0
                for line in text:
                    try:
                        row = json.loads(line)
                        found[row["index"]] = Place(file, start, row["mark"])
                    except (ValueError, LookupError, TypeError):
                        pass  # cut off
                    start += len(line)
        return found

    def lines(self, count: int) -> Iterator[Line]:
        """Of the first records, in their order, one at a time: sums of many pictures would fill the memory."""
        places = self.places()
        for index in range(count):
            with places[index].file.open("rb") as text:
                text.seek(places[index].start)
                yield _from_json(text.readline())

    def write(self, line: Line) -> None:
        """At once, so that a kill loses one picture at most."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            if file.tell() and not _ends_whole(self.file):
                file.write("\n")
            file.write(_to_json(line) + "\n")


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _to_json(line: Line) -> str:
    parts = {comparison: _packed_once(found) for comparison, found in line.parts.items()}
    return json.dumps({**asdict(replace(line, parts={})), "parts": parts})


def _from_json(text: str | bytes) -> Line:
    row = json.loads(text)
    parts = {comparison: _unpacked_all(found) for comparison, found in row["parts"].items()}
    return Line(row["index"], row["record"], row["mark"], row["fault"], parts, row["pose"])


def _packed_once(parts: Parts) -> dict[str, Any]:
    """Each sum once: metrics that come of the same one name the first of them."""
    first: dict[int, str] = {}
    found: dict[str, Any] = {}
    for name, part in parts.items():
        known = first.setdefault(id(part), name)
        found[name] = packed(part) if known == name else known
    return found


def _unpacked_all(found: Mapping[str, Any]) -> dict[str, Reduction]:
    made = {name: unpacked(row) for name, row in found.items() if not isinstance(row, str)}
    return {name: made[row] if isinstance(row, str) else made[name] for name, row in found.items()}


def packed(part: Reduction) -> dict[str, list[Any]]:
    """Exact, and only what is not 0: most bins of a histogram are empty."""
    total, weight = part.total.double().flatten(), part.weight.long()
    places = total.nonzero()[:, 0]
    numbers = [int(value) if value.is_integer() else value for value in total[places].tolist()]
    return {"size": list(part.total.shape), "at": places.tolist(), "total": numbers, "weight": weight.tolist()}


def unpacked(row: Mapping[str, Any]) -> Reduction:
    total = torch.zeros(row["size"], dtype=torch.float64)
    total.view(-1)[torch.tensor(row["at"], dtype=torch.long)] = torch.tensor(row["total"], dtype=torch.float64)
    return Reduction(total, torch.tensor(row["weight"], dtype=torch.long))
