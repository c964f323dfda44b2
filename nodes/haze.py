"""Fog and FocusMask: what distance does to a picture."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..core.display.distance import Distance, distance_of
from ..core.display.haze import LAWS, fog, in_fog, out_of_focus
from ..core.display.light import colour_of
from ..core.display.picture import DEPTH_MEANINGS, FILE_MEANINGS, as_rgb, from_image
from ..core.display.together import check_together
from ..core.perception_map import PerceptionMap
from ..core.tasks import tasks_where
from . import host
from .notes import note, shown, telling
from .schema import found_by
from .sockets import GEOMETRIES, Given, convention_input, doubt, map_input, number, read, span_inputs

DEPTH = "A depth or disparity from Perceive, a depth picture, or geometry."


class Fog(io.ComfyNode):
    """A node: image and depth -> the image in fog."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionFog",
            display_name="Fog",
            category="perception",
            **found_by("fog, haze, mist, atmosphere, depth fog, aerial perspective, zdepth"),
            description="Puts fog into a picture that hides things the more the farther away they are.",
            inputs=[
                io.Image.Input("image", tooltip="The picture."),
                map_input(DEPTH, *GEOMETRIES),
                convention_input(DEPTH_MEANINGS, "near is white"),
                io.Combo.Input(
                    "law",
                    options=list(LAWS),
                    default="exponential",
                    tooltip="exponential: even fog, as it is. exponential squared: clear before, thick behind. linear: "
                    "all is hidden 1 / density behind the start.",
                ),
                number("density", 0.3, 0.0, 1000.0, "How thick the fog is, per metre, or per unit of near and far."),
                number("start", 0.0, 0.0, 1e6, "How far away the fog begins."),
                io.String.Input("colour", default="#c8d2dc", tooltip="Of the fog, in sRGB, #RRGGBB."),
                *span_inputs(),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The picture in fog, mixed in linear light."),
                io.Mask.Output(display_name="mask", tooltip="What the fog hides: 1 all. Unknown pixels are far away."),
            ],
        )

    @classmethod
    def validate_inputs(cls, convention: str = "", law: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(
        cls,
        image: Tensor,
        map: Given,
        convention: str,
        law: str,
        density: float,
        start: float,
        colour: str,
        near: float,
        far: float,
    ) -> io.NodeOutput:
        picture = from_image(image, FILE_MEANINGS["values 0..1"])
        mask = fog(away(map, convention, (near, far), picture), law, density, start)
        made = in_fog(as_rgb(picture.values).to(mask), mask, colour_of(colour))
        device = host.output_device()
        return io.NodeOutput(made.to(device), mask.to(device), ui=shown())


class FocusMask(io.ComfyNode):
    """A node: depth -> how far everything is out of focus."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionFocusMask",
            display_name="Focus Mask",
            category="perception",
            **found_by("depth of field, blur mask, bokeh, lens blur, focus, defocus, tilt shift, zdefocus"),
            description="Makes a mask of how far everything is out of focus, for nodes that blur by a mask.",
            inputs=[
                map_input(DEPTH, *GEOMETRIES),
                convention_input(DEPTH_MEANINGS, "near is white"),
                number("focus", 2.0, 0.01, 1e6, "How far away the lens is focused, in metres, or in the unit of near."),
                number("sharp", 0.0, 0.0, 1e6, "So far before and behind the focus all is sharp."),
                number(
                    "strength", 1.0, 0.0, 1000.0, "How open the lens is: of 1, what lies far away is blurred fully."
                ),
                *span_inputs(),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="0 is sharp, 1 is blurred. Unknown is far away.")],
        )

    @classmethod
    def validate_inputs(cls, convention: str = "") -> bool:
        """Leaves this choice to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(
        cls, map: Given, convention: str, focus: float, sharp: float, strength: float, near: float, far: float
    ) -> io.NodeOutput:
        mask = out_of_focus(away(map, convention, (near, far)), focus, sharp, strength)
        return io.NodeOutput(mask.to(host.output_device()), ui=shown())


def away(given: Given, convention: str, span: tuple[float, float], *others: PerceptionMap) -> Distance:
    """How far away things are by a depth, which is of one picture with the others; the node says how it was read."""
    depth = read(given, DEPTH_MEANINGS, convention, *tasks_where(picture="nearness"))
    check_together([*others, depth])
    distance = distance_of(depth, span)
    note(distance.said, doubt(given, DEPTH_MEANINGS, convention), warning=False)
    return distance


NODES = [Fog, FocusMask]
