"""MatteCutout: a subject with its soft edge, free of the old background's colours."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..core.display.matting import composite, cover, foreground_of, pair
from ..core.display.picture import LEVEL_MEANINGS, as_rgb, checked_image
from ..core.display.selection import LEVEL_MODES, Selection, select
from ..core.perception_map import PerceptionMap
from ..core.tasks import tasks_where
from . import host
from .notes import note, shown, telling
from .schema import found_by
from .sockets import doubt, map_input, read

LEVELS = "white is selected"
"""What the numbers of a plain image mean."""


class MatteCutout(io.ComfyNode):
    """A node: image and matte -> RGBA with straight alpha."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionMatteCutout",
            display_name="Matte Cut-out",
            category="perception",
            **found_by(
                "cut-out, cutout, background removal, remove background, matting, rgba, alpha, foreground, "
                "decontaminate, composite"
            ),
            description="Cuts a subject out of an image along its matte, and estimates the subject's own colours "
            "where the old background shines through.",
            inputs=[
                io.Image.Input("image", tooltip="The image that the matte belongs to."),
                map_input("A matte or mask from Perceive, a MASK, or a black and white IMAGE; white stays.", io.Mask),
                io.Combo.Input(
                    "mode",
                    options=list(LEVEL_MODES),
                    default="soft",
                    tooltip="soft: the matte as it is. threshold: min-max, then hard at 0.5. "
                    "matting clamp: min-max, then above 0.95 becomes opaque and below 0.1 clear.",
                ),
                io.Boolean.Input(
                    "estimate_foreground",
                    default=True,
                    tooltip="Off: keep the image's colours, with a fringe of the old background in hair and blur.",
                ),
                io.Image.Input("background", optional=True, tooltip="A new background, scaled and cropped to cover."),
            ],
            outputs=[
                io.Image.Output(
                    "cutout", "cutout", tooltip="RGBA with straight alpha: the colours are not multiplied by it."
                ),
                io.Mask.Output("mask", "mask", tooltip="1 = subject. Join Image with Alpha wants it inverted."),
                io.Image.Output("foreground", "foreground", tooltip="The subject's colours, going on beyond its edge."),
                io.Image.Output(
                    "composite", "composite", tooltip="The subject over the new background, or over black."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, mode: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(
        cls,
        image: Tensor,
        map: PerceptionMap | Tensor,
        mode: str,
        estimate_foreground: bool,
        background: Tensor | None = None,
    ) -> io.NodeOutput:
        matte = read(map, LEVEL_MEANINGS, LEVELS, *tasks_where(selector="level"))
        device = host.output_device()
        image, alpha = pair(as_rgb(checked_image(image)).to(device), select(matte, Selection(mode)).to(device))
        foreground = foreground_of(image, alpha, host.ticker(len(image))) if estimate_foreground else image
        behind = torch.zeros_like(image) if background is None else as_rgb(checked_image(background)).to(device)
        cutout = torch.cat((foreground, alpha[..., None]), -1)
        over = composite(foreground, alpha, cover(behind, *image.shape[1:3]))
        note(doubt(map, LEVEL_MEANINGS, LEVELS))
        return io.NodeOutput(cutout, alpha.contiguous(), foreground.contiguous(), over, ui=shown())


NODES = [MatteCutout]
