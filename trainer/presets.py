"""Presets: the papers' training recipes by name; docs/recipes.md lays them beside what was published."""

from __future__ import annotations

from .recipes import dmp, genpercept, marigold, own
from .recipes.preset import Preset

PRESETS: dict[str, Preset] = {**genpercept.ROWS, **marigold.ROWS, **dmp.ROWS, **own.ROWS}
"""What a config's `preset` may name."""
