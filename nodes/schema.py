"""Schema: words about nodes and inputs that newer hosts know; one that does not would drop the whole pack over them."""

from __future__ import annotations

import inspect
from typing import Any

from comfy_api.latest import io

ADVANCED: dict[str, Any] = (
    {"advanced": True} if "advanced" in inspect.signature(io.Combo.Input.__init__).parameters else {}
)
"""For an input that few people need: folded away."""


def found_by(words: str) -> dict[str, Any]:
    """For a Schema: what else a person may search the node by, with commas between."""
    return {"search_aliases": words.split(", ")} if "search_aliases" in inspect.signature(io.Schema).parameters else {}
