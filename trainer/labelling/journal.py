"""Journal: what is done, a line of JSON each, so that a stopped stage goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class Journal:
    """Rows in the order in which they were written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> Iterator[dict[str, Any]]:
        """All whole ones."""
        for line in self.path.read_bytes().splitlines() if self.path.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # a kill cut it off
            if isinstance(row, dict):
                yield row

    def add(self, row: Mapping[str, Any]) -> None:
        """At once, so that a kill loses one row at most."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
