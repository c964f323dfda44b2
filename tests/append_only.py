"""What a contract held and must go on to hold."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

Less = Callable[[Any, Any], bool]


def lost(kept: Any, found: Any, where: str, less: dict[str, Less] | None = None) -> list[str]:
    """What a contract has and is no longer there, or is another.

    less: {key: when (found, kept) says less than it did}, for keys whose values may grow.
    """
    if isinstance(kept, dict):
        if not isinstance(found, dict):
            return [f"{where} is {found!r}"]
        gone = [f"{where}.{key} is gone" for key in kept if key not in found]
        there = [key for key in kept if key in found]
        return gone + [fault for key in there for fault in lost(kept[key], found[key], f"{where}.{key}", less)]
    if isinstance(kept, list) and isinstance(found, list):
        return [f"{where} lacks {value!r}" for value in kept if value not in found]
    worse = (less or {}).get(where.rpartition(".")[2], operator.ne)
    return [f"{where} is {found!r}, and was {kept!r}"] if worse(found, kept) else []
