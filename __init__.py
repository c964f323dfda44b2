"""The doors: ComfyUI's, and `open_perceiver` for Python. Nothing is imported until one is called: pytest executes this
file without a parent package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from .nodes import PerceptionExtension
    from .trainer.perceiver import PicturePerceiver

WEB_DIRECTORY = "./web"
"""Where ComfyUI finds docs/<node id>.md, the nodes' help."""


async def comfy_entrypoint() -> PerceptionExtension:
    """Give ComfyUI the pack's nodes."""
    from .nodes import PerceptionExtension

    return PerceptionExtension()


def open_perceiver(model: str | Path = "", **choices: Any) -> PicturePerceiver:
    """A checkpoint that is called with pictures: `open_perceiver("starter.safetensors", task="depth")("photo.jpg")`.

    What may be chosen, trainer.host.open_perceiver says: task, base, adapter, family, overrides, context,
    negative_context, encoder, decoder, device. It needs the `train` extra.
    """
    from .trainer.host import open_perceiver as opened

    return opened(model, **choices)
