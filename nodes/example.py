"""ExamplePicture: pictures that come with the pack, so that a graph runs before the user has one at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..core.display.picture import choose
from ..core.errors import UserError
from . import host
from .notes import telling
from .schema import found_by

FOLDER = Path(__file__).parent.parent / "workflows" / "pictures"
PICTURES = {
    "living room": "living-room.jpg",
    "bedroom": "bedroom.jpg",
    "person in a room": "person-in-a-room.jpg",
}
"""Their files."""


class ExamplePicture(io.ComfyNode):
    """A node: a picture of the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionExamplePicture",
            display_name="Example Picture",
            category="perception",
            **found_by("example image, sample image, test image, demo picture, sample picture"),
            description="A picture that comes with the pack: a room, of the kind that the demonstration weights know. "
            "Put Load Image in its place for a picture of your own.",
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=list(PICTURES),
                    default=next(iter(PICTURES)),
                    tooltip="Which one. They are rendered, 768 pixels wide and 576 high.",
                )
            ],
            outputs=[io.Image.Output("image", "image", tooltip="The picture, for Perceive.")],
        )

    @classmethod
    def validate_inputs(cls, picture: str = "") -> bool:
        """Leaves this choice to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(cls, picture: str) -> io.NodeOutput:
        return io.NodeOutput(_read_picture(FOLDER / choose(PICTURES, picture, "picture")).to(host.output_device()))


def _read_picture(file: Path) -> Tensor:
    """A file of 8 bits a channel -> IMAGE (1, H, W, 3) float32, sRGB in [0, 1]. UserError if it cannot be read."""
    try:
        with Image.open(file) as picture:
            levels = np.asarray(picture.convert("RGB"), np.float32)
    except OSError as error:
        raise UserError(f"{file.name} of this pack cannot be read: install the pack again.") from error
    return torch.from_numpy(levels / 255)[None]


NODES = [ExamplePicture]
