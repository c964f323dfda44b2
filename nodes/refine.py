"""RefineMask: a mask grown or shrunk, fitted to its picture, and feathered."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..core.display.matting import pair
from ..core.display.picture import LEVEL_MEANINGS, as_rgb, checked_image, level
from ..core.display.refine import feathered, grown, guided_filter
from ..core.tasks import tasks_where
from . import host
from .notes import note, shown, telling
from .schema import found_by
from .sockets import Given, doubt, map_input, number, read

LEVELS = "white is selected"
"""What the numbers of a plain image mean."""


class RefineMask(io.ComfyNode):
    """A node: mask -> a better one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionRefineMask",
            display_name="Refine Mask",
            category="perception",
            **found_by("grow mask, shrink mask, feather, expand, erode, dilate, guided filter, edge, refine, matte"),
            description="Grows or shrinks a mask or matte, fits it to its picture's edges, feathers it: in this order.",
            inputs=[
                map_input("A mask or matte from Perceive, a MASK, or a black and white IMAGE: white is in.", io.Mask),
                io.Int.Input(
                    "grow", default=0, min=-512, max=512, tooltip="Pixels to every side, round; below 0 it shrinks."
                ),
                io.Int.Input(
                    "fit_radius",
                    default=8,
                    min=0,
                    max=256,
                    tooltip="Where an image is connected: follow its edges that lie within so many pixels. 0: do not.",
                ),
                number("fit_detail", 0.01, 0.0001, 1.0, "What contrast of the image counts as an edge.", 0.0001),
                number("feather", 0.0, 0.0, 512.0, "Make edges soft over so many pixels to either side.", 0.1),
                io.Image.Input("image", optional=True, tooltip="The picture whose edges the mask shall follow."),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="1 = selected.")],
        )  # fmt: skip

    @classmethod
    @telling
    def execute(
        cls, map: Given, grow: int, fit_radius: int, fit_detail: float, feather: float, image: Tensor | None = None
    ) -> io.NodeOutput:
        mask = grown(level(read(map, LEVEL_MEANINGS, LEVELS, *tasks_where(selector="level"))), grow)
        if image is not None:
            guide, mask = pair(as_rgb(checked_image(image)).to(mask), mask)
            mask = guided_filter(mask, guide, fit_radius, fit_detail**2)
        note(doubt(map, LEVEL_MEANINGS, LEVELS))
        return io.NodeOutput(feathered(mask, feather).to(host.output_device()), ui=shown())


NODES = [RefineMask]
