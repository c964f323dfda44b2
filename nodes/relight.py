"""Relight: a picture under another light, from its normals."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..core.display.distance import distance_of
from ..core.display.picture import DEPTH_MEANINGS, FILE_MEANINGS, NORMAL_MEANINGS, Meaning, choose, from_image
from ..core.display.relight import KINDS, Lamp, Space, relight
from ..core.display.together import check_together
from ..core.perception_map import Convention, PerceptionMap
from ..core.tasks import tasks_where
from . import host
from .normals import normals_in
from .notes import note, shown, telling
from .schema import ADVANCED, found_by
from .sockets import (
    GEOMETRIES,
    Given,
    PerceptionMapSocket,
    camera,
    convention_input,
    doubt,
    map_input,
    number,
    read,
    space_inputs,
)

COLOUR_MEANINGS: dict[str, Meaning] = {"sRGB": Meaning("albedo", Convention(encoding="srgb"))}
"""What a plain IMAGE holds that is an albedo."""
NEAR_WHITE = "near is white"
"""What the numbers of a plain IMAGE mean that is a depth."""


def _lamp_inputs() -> list[io.Input]:
    """What makes a Lamp."""
    return [
        io.Combo.Input(
            "light",
            options=list(KINDS),
            default="directional",
            tooltip="directional: the sun or a far lamp, by azimuth and elevation. point: a near lamp in the room, by "
            "x, y and distance; needs a depth.",
        ),
        number("azimuth", 45.0, -180.0, 180.0, "Of a directional light: 0 from the camera, 90 from the right.", 1.0),
        number("elevation", 45.0, -90.0, 90.0, "Of a directional light: 90 from above, -90 from below.", 1.0),
        io.String.Input(
            "colour", default="#ffffff", tooltip="Of the light, in sRGB, #RRGGBB: #ffd2a0 is a warm white."
        ),
        number("intensity", 1.0, 0.0, 1000.0, "What falls on a surface that faces it; of a point light at distance 1."),
        number("ambient", 0.3, 0.0, 10.0, "How much of the picture's own light stays: 0 none, 1 all."),
        number("wrap", 0.0, 0.0, 1.0, "How far the light reaches round edges: 0 a hard shadow line, 1 all round."),
    ]


class Relight(io.ComfyNode):
    """A node: image and normals -> the image under another light."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionRelight",
            display_name="Relight",
            category="perception",
            **found_by("relight, relighting, light, lighting, sun, lamp, point light, shading, ic-light"),
            description="Puts a picture under another light, computed from its surface normals, and of a near light "
            "from its depth. No network, no seed: adjust it and see.",
            inputs=[
                io.Image.Input("image", tooltip="The picture."),
                map_input("Its normals: from Perceive, Depth to Normal, a normal picture, or geometry.", *GEOMETRIES),
                convention_input(NORMAL_MEANINGS, "opengl"),
                *_lamp_inputs(),
                number("x", 0.5, -1.0, 2.0, "Where a point light is: 0 the left edge of the picture, 1 the right."),
                number("y", 0.3, -1.0, 2.0, "Where a point light is: 0 the upper edge of the picture, 1 the lower."),
                number("distance", 1.5, 0.01, 1e6, "How far a point light is from the camera, in the unit of near."),
                *space_inputs(**ADVANCED),
                map_input(
                    "For a point light: how far away things are, from Perceive, a picture where near is white, or "
                    "geometry.",
                    *GEOMETRIES, name="depth", optional=True,
                ),
                map_input(
                    "What the light falls on: an albedo from Perceive or Perceive Intrinsics, or a picture. Without "
                    "it, on the picture as it is, old shadows included.",
                    name="albedo", optional=True,
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The picture under the light."),
                PerceptionMapSocket.Output(
                    display_name="shading", tooltip="What of the new light falls where, linear: for Save Layers."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, convention: str = "", light: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(
        cls,
        image: Tensor,
        map: Given,
        convention: str,
        light: str,
        azimuth: float,
        elevation: float,
        colour: str,
        intensity: float,
        ambient: float,
        wrap: float,
        x: float,
        y: float,
        distance: float,
        field_of_view: float,
        near: float,
        far: float,
        depth: Given | None = None,
        albedo: Given | None = None,
    ) -> io.NodeOutput:
        choose(KINDS, light, "light")
        picture = from_image(image, FILE_MEANINGS["values 0..1"])
        normals = normals_in(map, convention)
        lamp = Lamp(light, azimuth, elevation, (x, y, distance), colour, intensity, wrap)
        space = None if depth is None or light != "point" else _space_of(depth, picture, field_of_view, (near, far))
        under = None if albedo is None else read(albedo, COLOUR_MEANINGS, "sRGB", "albedo")
        made, shading = relight(picture, normals, lamp, ambient, space, under)
        return io.NodeOutput(made.to(host.output_device()), shading, ui=shown())


def _space_of(given: Given, picture: PerceptionMap, field_of_view: float, span: tuple[float, float]) -> Space:
    """Where what the picture shows lies, by a depth that came with it; the node says how it was read."""
    depth = read(given, DEPTH_MEANINGS, NEAR_WHITE, *tasks_where(picture="nearness"))
    check_together([picture, depth])
    intrinsics, seen = camera(given, field_of_view, depth)
    distance = distance_of(depth, span)
    note(f"{distance.said}; {seen}", doubt(given, DEPTH_MEANINGS, NEAR_WHITE), warning=False)
    return Space(distance, intrinsics)


NODES = [Relight]
