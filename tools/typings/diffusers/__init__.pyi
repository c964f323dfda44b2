"""For pyright alone: diffusers annotates its classes so loosely or wrongly that checking against them says nothing."""

from typing import Any

def __getattr__(name: str) -> Any: ...
