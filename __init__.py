"""The door ComfyUI knocks at; it imports nothing until called, because pytest executes it without a parent package."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import PerceptionExtension


async def comfy_entrypoint() -> PerceptionExtension:
    """Give ComfyUI the pack's nodes."""
    from .nodes import PerceptionExtension

    return PerceptionExtension()
