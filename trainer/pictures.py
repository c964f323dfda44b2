"""Pictures for the eye, on disk."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch import Tensor

from ..core.whole_file import whole_file


def save_picture(picture: Tensor, stem: Path) -> None:
    """(H, W, 3) in [0, 1] as <stem>.png."""
    with whole_file(stem.with_name(stem.name + ".png")) as partial:
        Image.fromarray((picture * 255).round().byte().numpy()).save(partial, "PNG")
