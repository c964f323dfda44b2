"""Previews: what a perceiving node shows of its pictures on itself, beside its notes; nothing flows on from here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..core.image import resize
from .notes import note, shown

EDGE = 1024
"""Pixels of the longest edge at most."""
COUNT = 16
"""Pictures at most: the first ones of a batch; of several tasks as many each."""


def previewed(node: type[io.ComfyNode], *batches: Tensor) -> dict[str, Any]:
    """Pictures (B, H, W, 3), a batch of each task, for a NodeOutput's `ui`; and what was noted.

    They lie in the host's temporary folder, as those of Preview Image do. It has the same entries each time: where a
    list of images executes a node once for each, the host joins them by name.
    """
    each = max(COUNT // max(len(batches), 1), 1)
    small: Any = [picture for batch in batches for picture in for_the_eye(batch[:each])]
    try:
        images = ui.PreviewImage(small, cls=node).as_dict() if small else {"images": []}
    except OSError as error:
        note(f"No preview could be written to the temporary folder: {error.strerror or error}.")
        images = {"images": []}
    return {"animated": (False,), "text": (), **images, **(shown() or {})}


def for_the_eye(batch: Tensor) -> Iterator[Tensor]:
    """(B, H, W, 3) -> each picture (h, w, 3), scaled down so that it is no larger than a screen shows."""
    height, width = batch.shape[1:3]
    scale = min(1.0, EDGE / max(height, width))
    size = max(round(height * scale), 1), max(round(width * scale), 1)
    for picture in batch:
        # on the processor: not every device can resize so
        planes = picture.cpu().float().movedim(-1, 0)[None]
        yield resize(planes, size, "bilinear", antialias=True)[0].movedim(0, -1)
