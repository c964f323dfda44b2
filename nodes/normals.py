"""DepthToNormal: surface normals out of what is not normals."""

from __future__ import annotations

from comfy_api.latest import io

from ..core.display.distance import normals_of
from ..core.display.picture import DEPTH_MEANINGS, choose, normal_picture
from ..core.geometry import NORMAL_AXES
from ..core.tasks import tasks_where
from . import host
from .notes import note, shown, telling
from .schema import found_by
from .sockets import (
    GEOMETRIES,
    Given,
    PerceptionMapSocket,
    camera,
    convention_input,
    doubt,
    map_input,
    read,
    space_inputs,
)


def axes_input() -> io.Combo.Input:
    """Of a picture of normals."""
    return io.Combo.Input(
        "axes",
        options=list(NORMAL_AXES),
        default="controlnet_bae",
        tooltip="Of the picture. controlnet_bae: red is left, green is up, blue is front. opengl: red is right. "
        "directx: red is right, green is down. opencv: right, down, away.",
    )


class DepthToNormal(io.ComfyNode):
    """A node: depth or disparity -> the normals of its surfaces."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionDepthToNormal",
            display_name="Depth to Normal",
            category="perception",
            **found_by("normal from depth, depth to normal map, surface normals, normal map, bump"),
            description="Computes surface normals from a depth or disparity as a camera of that field of view sees it.",
            inputs=[
                map_input("A depth or disparity from Perceive, a depth picture, or geometry.", *GEOMETRIES),
                convention_input(DEPTH_MEANINGS, "near is white"),
                *space_inputs(),
                io.Int.Input(
                    "smoothing",
                    default=1,
                    min=0,
                    max=64,
                    tooltip="Average directions over so many pixels to every side: against a noisy depth. 0: none.",
                ),
                axes_input(),
            ],
            outputs=[
                PerceptionMapSocket.Output(display_name="map", tooltip="Unit normals: right, up, towards the camera."),
                io.Image.Output(display_name="image", tooltip="The same along axes. Unknown pixels face the camera."),
            ],
        )

    @classmethod
    def validate_inputs(cls, convention: str = "", axes: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(
        cls,
        map: Given,
        convention: str,
        field_of_view: float,
        near: float,
        far: float,
        smoothing: int,
        axes: str,
    ) -> io.NodeOutput:
        choose(NORMAL_AXES, axes, "axes")
        depth = read(map, DEPTH_MEANINGS, convention, *tasks_where(picture="nearness"))
        intrinsics, seen = camera(map, field_of_view, depth)
        normals, said = normals_of(depth, intrinsics, (near, far), smoothing)
        note(f"{said}; {seen}", doubt(map, DEPTH_MEANINGS, convention), warning=False)
        return io.NodeOutput(normals, normal_picture(normals, axes).to(host.output_device()), ui=shown())


NODES = [DepthToNormal]
