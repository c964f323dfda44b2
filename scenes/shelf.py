"""Shelf: where the models of a scene come from."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from .assets import Item, cache_folder, environment_maps, read_catalogue
from .furniture import Piece, sort


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
