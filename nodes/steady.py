"""SteadyDepth: the depth of a video without the flicker of frames that were estimated one by one."""

from __future__ import annotations

from comfy_api.latest import io

from ..core.display.picture import DEPTH_MEANINGS, depth_picture
from ..core.display.steady import steadied
from ..core.tasks import tasks_where
from . import host
from .notes import note, shown, telling
from .schema import found_by
from .sockets import GEOMETRIES, Given, PerceptionMapSocket, convention_input, doubt, map_input, number, read


class SteadyDepth(io.ComfyNode):
    """A node: depths of frames -> steady ones."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DiffusionPerceptionSteadyDepth",
            display_name="Steady Depth (Video)",
            category="perception",
            **found_by("video depth, depth flicker, temporal, stabilize depth, deflicker, consistent depth, animation"),
            description="Brings the depths of a video's frames to one scale and shift, so that they do not flicker.",
            inputs=[
                map_input("The depth or disparity of a batch of frames, in their order.", *GEOMETRIES),
                convention_input(DEPTH_MEANINGS, "near is white"),
                number(
                    "strength",
                    0.95,
                    0.0,
                    1.0,
                    "How far each frame follows the one before. 1: for ever; of 0.95 its own level comes back within "
                    "some 20 frames. 0 changes nothing.",
                ),
                number(
                    "cut",
                    0.3,
                    0.01,
                    10.0,
                    "Frames that differ more than this from the one before, in deviations, begin a new scene.",
                ),
            ],
            outputs=[
                PerceptionMapSocket.Output(display_name="map", tooltip="The steady depths, of the same kind."),
                io.Image.Output(
                    display_name="image",
                    tooltip="Pictures for a depth ControlNet: near is white, all frames by one range.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, convention: str = "") -> bool:
        """Leaves this choice to `execute`, whose sentence says what to do where the host would only refuse."""
        return True

    @classmethod
    @telling
    def execute(cls, map: Given, convention: str, strength: float, cut: float) -> io.NodeOutput:
        depth = read(map, DEPTH_MEANINGS, convention, *tasks_where(picture="nearness"))
        note(doubt(map, DEPTH_MEANINGS, convention))
        steady, begun = steadied(depth, strength, cut)
        note(f"new scenes begin at {', '.join(f'frame {number + 1}' for number in begun)}" * bool(begun), warning=False)
        picture, _ = depth_picture(steady, per_batch=True)
        return io.NodeOutput(steady, picture.to(host.output_device()), ui=shown())


NODES = [SteadyDepth]
