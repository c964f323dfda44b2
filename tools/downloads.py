"""The README's table of what to download, written from core.checkpoints.published: `python tools/downloads.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from diffusion_perception.core.checkpoints.published import PUBLISHED, Published

README = Path(__file__).absolute().parents[1] / "README.md"
HEAD = """| in `models/perception/` | what it is | get | size | licence | commercial use |
|---|---|---|---|---|---|
"""
TABLE = re.compile(re.escape(HEAD) + r"(\|.*\n)*")
LITERAL = re.compile(r"[^\s,(]*[*<_/][^\s,]*")
"""What Markdown would read as its own marks."""


def line(row: Published) -> str:
    """One row, its places linked to where they are got."""
    named: dict[str, list[str]] = {}
    for place, address in row.places.items():
        named.setdefault(address, []).append(place)
    places = ", ".join(f"[{', '.join(names)}]({address})" for address, names in named.items())
    get = LITERAL.sub(r"`\g<0>`", row.get)
    return f"| {places} | {row.what} | {get} | {row.size} | {row.licence} | {row.commercial} |\n"


def table() -> str:
    return HEAD + "".join(map(line, PUBLISHED))


def main() -> int:
    """Write it anew."""
    text = README.read_text("utf-8")
    README.write_text(TABLE.sub(lambda _: table(), text), "utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
