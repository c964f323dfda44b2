"""What a contract held and must go on to hold."""

from __future__ import annotations

from typing import Any


def lost(kept: Any, found: Any, where: str) -> list[str]:
    """What a contract has and is no longer there, or is another."""
    if isinstance(kept, dict):
        if not isinstance(found, dict):
            return [f"{where} is {found!r}"]
        gone = [f"{where}.{key} is gone" for key in kept if key not in found]
        return gone + [fault for key in kept if key in found for fault in lost(kept[key], found[key], f"{where}.{key}")]
    if isinstance(kept, list) and isinstance(found, list):
        return [f"{where} lacks {value!r}" for value in kept if value not in found]
    return [] if kept == found else [f"{where} is {found!r}, and was {kept!r}"]
