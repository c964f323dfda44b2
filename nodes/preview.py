"""Previews: what a perceiving node shows of its pictures on itself, beside its notes; nothing flows on from here."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..core.image import resize
from .notes import note, shown

EDGE, FEW = 1024, 4
"""Pixels of the longest edge at most; half of it where more than a few pictures share the node."""
COUNT = 16
"""Pictures at most: the first ones of a batch; of several tasks as many each."""


def previewed(node: type[io.ComfyNode], *batches: Tensor) -> dict[str, Any]:
    """Pictures (B, H, W, 3), a batch of each task, for a NodeOutput's `ui`; and what was noted.

    They lie in the host's temporary folder, as those of Preview Image do. It has the same entries each time: where a
    list of images executes a node once for each, the host joins them by name.
    """
    each = max(COUNT // max(len(batches), 1), 1)
    seen = [picture for batch in batches for picture in batch[:each]]
    small: Any = [_for_the_eye(picture, EDGE if len(seen) <= FEW else EDGE // 2) for picture in seen]
    try:
        images = ui.PreviewImage(small, cls=node).as_dict() if small else {"images": []}
    except OSError as error:
        note(f"No preview could be written to the temporary folder: {error.strerror or error}.")
        images = {"images": []}
    return {"animated": (False,), "text": (), **images, **(shown() or {})}


def _for_the_eye(picture: Tensor, edge: int) -> Tensor:
    """(H, W, 3) -> (h, w, 3), scaled down so that its longest edge has no more pixels."""
    height, width = picture.shape[:2]
    scale = min(1.0, edge / max(height, width))
    size = max(round(height * scale), 1), max(round(width * scale), 1)
    # on the processor: not every device can resize so
    planes = picture.cpu().float().movedim(-1, 0)[None]
    return resize(planes, size, "bilinear", antialias=True)[0].movedim(0, -1)
