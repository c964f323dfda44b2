"""Preset: a training recipe by name, as the part of a config that it decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A row."""

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[Mapping[str, Any], ...] = ()
    """[[data]] tables without a root: each is laid under those of the config that have its reader, or, where it names
    none, under all of them."""


def over(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables laid over each other, section by section."""
    laid: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            nested = isinstance(value, Mapping) and isinstance(laid.get(key), Mapping)
            laid[key] = over(laid[key], value) if nested else value
    return laid


def under(data: Any, rows: tuple[Mapping[str, Any], ...]) -> Any:
    """A config's [[data]] tables, over what a preset says of their readers; what is no list of tables, as it is."""
    if not isinstance(data, list | tuple):
        return data
    return [over(*_suiting(table, rows), table) if isinstance(table, Mapping) else table for table in data]


def _suiting(table: Mapping[str, Any], rows: tuple[Mapping[str, Any], ...]) -> list[Mapping[str, Any]]:
    """The rows that speak of a dataset."""
    return [row for row in rows if row.get("reader") in (None, table.get("reader", "folder"))]


SIGNAL = {"beta_start": 0.00085, "beta_end": 0.012}
"""Stable Diffusion's schedule."""
STREETS = {"reader": "vkitti", "weight": 0.1, "size": [352, 1216]}
"""Virtual KITTI as it is learnt beside Hypersim: a tenth of the batches, cropped as KITTI's benchmarks are, not resized
(the reader crops)."""
ROOMS = {"reader": "hypersim", "weight": 0.9}
MIXED = (ROOMS, STREETS)
"""Marigold's mixture, which GenPercept and E2E-FT have taken over."""
