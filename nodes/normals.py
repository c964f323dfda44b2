"""DepthToNormal, CombineNormals and RotateNormals: surface normals made and changed."""

from __future__ import annotations

from comfy_api.latest import io

from ..core.display.distance import normals_of
from ..core.display.normals import combined, turned
from ..core.display.picture import DEPTH_MEANINGS, NORMAL_MEANINGS, choose, normal_picture
from ..core.geometry import NORMAL_AXES
from ..core.perception_map import PerceptionMap
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
    number,
    read,
    space_inputs,
)


def _axes_input() -> io.Combo.Input:
    """Of a picture of normals."""
    return io.Combo.Input(
        "axes",
        options=list(NORMAL_AXES),
        default="controlnet_bae",
        tooltip="Of the picture. controlnet_bae: red is left, green is up, blue is front. opengl: red is right. "
        "directx: red is right, green is down. opencv: right, down, away.",
    )


NORMALS = "Normals from Perceive or Depth to Normal, a normal picture, or geometry."
UNIT_NORMALS = "Unit normals: right, up, towards the camera."
COLOURS = "The same along axes."


def _normal_outputs() -> list[io.Output]:
    return [
        PerceptionMapSocket.Output(display_name="map", tooltip=UNIT_NORMALS),
        io.Image.Output(display_name="image", tooltip=COLOURS + " Unknown pixels face the camera."),
    ]


def normals_in(given: Given, convention: str) -> PerceptionMap:
    """What came into a map input, as normals; the node says so where a picture hardly holds any."""
    normals = read(given, NORMAL_MEANINGS, convention, *tasks_where(picture="directions"))
    note(doubt(given, NORMAL_MEANINGS, convention))
    return normals


def outcome(normals: PerceptionMap, axes: str) -> io.NodeOutput:
    """A map of normals and its picture."""
    return io.NodeOutput(normals, normal_picture(normals, axes).to(host.output_device()), ui=shown())


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
                _axes_input(),
            ],
            outputs=_normal_outputs(),
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
        return outcome(normals, axes)


class CombineNormals(io.ComfyNode):
    """A node: normals and finer normals -> both in one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionCombineNormals",
            display_name="Combine Normals",
            category="perception",
            **found_by("blend normals, combine normal maps, detail normal, reoriented normal mapping, rnm, bump"),
            description="Puts the detail of one normal map onto the shapes of another (reoriented normal mapping).",
            inputs=[
                map_input(NORMALS, *GEOMETRIES),
                map_input("The same for the detail: of a texture, or another model.", *GEOMETRIES, name="detail"),
                convention_input(NORMAL_MEANINGS, "opengl"),
                number("strength", 1.0, 0.0, 10.0, "How steep the detail is: 1 as it came, 0 flat."),
                _axes_input(),
            ],
            outputs=_normal_outputs(),
        )

    @classmethod
    def validate_inputs(cls, convention: str = "", axes: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(cls, map: Given, detail: Given, convention: str, strength: float, axes: str) -> io.NodeOutput:
        choose(NORMAL_AXES, axes, "axes")
        return outcome(combined(normals_in(map, convention), normals_in(detail, convention), strength), axes)


class RotateNormals(io.ComfyNode):
    """A node: normals -> the same, turned."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionRotateNormals",
            display_name="Rotate Normals",
            category="perception",
            **found_by("rotate normal map, turn normals, yaw, pitch, roll, world space normal, camera space normal"),
            description="Turns every normal, as from the axes of a tilted camera into those of the room.",
            inputs=[
                map_input(NORMALS, *GEOMETRIES),
                convention_input(NORMAL_MEANINGS, "opengl"),
                number("yaw", 0.0, -180.0, 180.0, "Degrees: what faces the camera turns to the right.", 0.1),
                number("pitch", 0.0, -180.0, 180.0, "Degrees: what faces the camera turns upwards.", 0.1),
                number("roll", 0.0, -180.0, 180.0, "Degrees anticlockwise, as seen. Rolled first, then pitched.", 0.1),
                _axes_input(),
            ],
            outputs=_normal_outputs(),
        )

    @classmethod
    def validate_inputs(cls, convention: str = "", axes: str = "") -> bool:
        """Leaves these choices to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(cls, map: Given, convention: str, yaw: float, pitch: float, roll: float, axes: str) -> io.NodeOutput:
        choose(NORMAL_AXES, axes, "axes")
        return outcome(turned(normals_in(map, convention), yaw, pitch, roll), axes)


NODES = [DepthToNormal, CombineNormals, RotateNormals]
