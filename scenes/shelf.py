"""Shelf: where the models of a scene come from, and which of them a split may show."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .assets import Item, cache_folder, environment_maps, read_catalogue
from .bodies import body_outlines
from .furniture import Piece, sort

HELD_OUT = {4: "test", 5: "val"}
"""Of every six models of a sort, by their rank, one is for test and one for val; the others are for train."""


@dataclass(frozen=True)
class Shelf:
    """Where models come from."""

    cache: Path
    items: dict[str, Item]
    pieces: list[Piece]
    environments: dict[str, str]


@functools.lru_cache(maxsize=1)
def open_shelf() -> Shelf:
    """Of what is in the cache; read once."""
    cache = cache_folder()
    items = read_catalogue(cache)
    return Shelf(cache, {item.id: item for item in items}, sort(items), environment_maps(cache))


@functools.lru_cache(maxsize=4)
def body_pieces(cache: Path, count: int) -> list[Piece]:
    """The first `count` bodies, which `make_bodies` made, as if they were in the catalogue."""
    found = []
    for number, (size, head) in enumerate(body_outlines(cache, count)):
        item = Item(f"body/{number:04d}", "Body", "Bodies", "anny", "Apache-2.0", "", *size, 0.0, -1.0, None)
        found.append(Piece(item, "person", "stand", head))
    return found


def splits_of(pieces: Sequence[Piece]) -> dict[str, str]:
    """The split of every model by its id: by its rank among those of its class and role; bodies are ranked apart."""
    ranks: Counter[tuple[str, str, bool]] = Counter()
    found = {}
    for piece in pieces:
        sort_of_it = (piece.label, piece.role, piece.item.id.startswith("body/"))
        found[piece.item.id] = HELD_OUT.get(ranks[sort_of_it] % 6, "train")
        ranks[sort_of_it] += 1
    return found
